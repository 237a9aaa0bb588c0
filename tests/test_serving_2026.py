"""Suite ``serving-2026``: which figures it judges, runs as closed loops, steps with drafts."""

from collections import Counter

import numpy as np
import pytest
from test_serve import records_of

from perfmodel.errors import PerfModelError
from perfmodel.serving.serve import serve
from perfmodel.serving.window import counted
from perfmodel.validation import roles, runs, serving, serving_2026
from perfmodel.validation.serving_2026 import FIGURES, silicon_cells, stands_in_field

RECORDS = {record["id"]: record for record in roles.read_published(serving_2026.FILE)}
FIELD = {record["id"]: record for record in roles.read_published(serving_2026.FIELD)}


def row(name, **changes):
    return serving_2026._row_of(RECORDS[name] | changes, "check")


def test_a_figure_is_judged_by_one_suite():
    """Means of the closed loops (medians of the one run that states no mean) are the field suite's, all others ours."""
    there = Counter(roles.run_of(record) for record in RECORDS.values() if stands_in_field(record))
    cells = {name: bool(run["ttft_ms"]) + bool(run["tpot_ms"]) for name, run in FIELD.items()}
    assert there == {name: number for name, number in cells.items() if number}
    for record in RECORDS.values():
        if stands_in_field(record):
            assert record["metric"] in ("ttft_mean", "tpot_mean") or "sg5490" in record["id"]


def test_a_run_in_the_columns_of_the_silicon_files():
    """The converted cells are those of the field file for every run that stands there and prints the same names."""
    checked = 0
    for record in RECORDS.values():
        run = FIELD.get(roles.run_of(record))
        if run is None or run["mode"] == "disagg":
            continue
        cells = silicon_cells(record)
        same = ("isl", "osl", "concurrency", "gpus", "backend", "parallel_or_prefill", "precision", "mode")
        assert {name: cells[name] for name in same} == {name: run[name] for name in same}, record["id"]
        checked += 1
    assert checked > 200


def test_figures_of_a_run_by_hand():
    """Arrivals 0, 0, 0 s; first tokens at 1, 2, 4 s; ends at 5, 10, 4 s; outputs of 5, 5 and 1 tokens."""
    made = records_of([0, 0, 0], [1, 2, 4], [5, 10, 4], [9, 9, 9], [5, 5, 1])
    found = {metric: figure(made) for metric, (_, figure) in FIGURES.items() if "latency" not in metric}
    assert found == {
        "ttft_mean": pytest.approx(7 / 3), "ttft_median": 2.0, "tpot_mean": pytest.approx(1.5),
        "tpot_median": pytest.approx(1.5), "output_tok_s_total": pytest.approx(11 / 10),
    }  # fmt: skip


def test_the_median_gap_counts_every_gap():
    class Made:
        gap_s = np.array([0.3, 0.1, 0.2])
        gap_count = np.array([1, 2, 4])

    assert FIGURES["inter_token_latency_median"][1](Made()) == 0.2


def test_a_burst_sends_every_prompt_at_once():
    record = next(r for r in RECORDS.values() if roles.run_of(r) == "sg3602_v3_8h200_tp8")
    served = serving_2026._served(tuple(silicon_cells(record).items()), True, None)
    assert len(served.arrival_s) == 600
    assert set(served.arrival_s) == {0.0}
    found = row(record["id"])
    assert found.suite == "serving-2026-noted"
    assert found.measured == pytest.approx(1403.02 / 8)
    rate = served.output_tokens.sum() / served.end_s.max() / 8
    assert found.predicted == pytest.approx(rate)


def test_a_loops_median_stands_beside_the_mean_of_the_field_suite():
    name = "cb_gptoss_b200_332x213_c1"
    found = row(f"{name}__tpot_median")
    scenario = runs.scenario_of(FIELD[name])
    loop = counted(serve(scenario).records, scenario.workload)
    assert found.suite == "serving-2026"
    assert found.quantity == "tpot_median_s"
    assert found.measured == pytest.approx(2.31e-3)
    assert found.predicted == pytest.approx(
        np.median((loop.end_s - loop.first_token_s) / (loop.output_tokens - 1))
    )


@pytest.mark.parametrize(
    ("drafts", "length", "acceptance"), [(1, 1.92, 0.92), (2, 3.0, 1.0), (2, 1.75, 0.5), (1, 1.0, 0.0)]
)
def test_the_acceptance_that_gives_an_accepted_length(drafts, length, acceptance):
    assert serving.acceptance_of(drafts, length) == pytest.approx(acceptance, abs=1e-9)


@pytest.mark.parametrize("length", [0.9, 2.1])
def test_an_accepted_length_that_no_draft_gives_is_refused(length):
    with pytest.raises(PerfModelError, match="must be from 1 to 2"):
        serving.acceptance_of(1, length)


def test_speeds_per_user_count_accepted_drafts():
    base, drafted = (row(f"trt_b01_r1_b200_{name}__output_tok_s_per_user") for name in ("mtp1", "mtp3"))
    for found, step in ((base, 1.92), (drafted, 2.82)):
        assert found.quantity == "output_tokens_per_s_per_user"
        assert found.low < found.predicted < found.high
        scenario = serving.scenario_of(RECORDS[found.id])
        assert serving.tokens_per_step(scenario.deployment) == pytest.approx(step)
    assert base.measured == 198
    silent = row(base.id, mtp="no")
    assert 1.3 < base.predicted / silent.predicted < 1.92


def test_a_step_has_the_formats_of_its_checkpoint(monkeypatch):
    seen = []
    monkeypatch.setattr(serving_2026, "predict_step", lambda scenario: seen.append(scenario) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        row("trt_b01_r1_b200_mtp1__output_tok_s_per_user")
    precision = seen[0].deployment.precision
    assert (precision.linear, precision.experts, precision.kv_cache) == ("bf16", "fp4", "fp8")


def test_what_is_not_answered_says_why():
    """Rows whose run no deployment expresses; without simulating the others."""
    reasons = Counter()
    for record in RECORDS.values():
        if record["phase"] in ("not expressible", "phase") or record["system"].startswith("H20-"):
            found = row(record["id"])
            assert found.predicted is None
            assert found.reason
            reasons[found.reason.split(":")[0]] += 1
    assert reasons["no deployment of perfmodel"] == 25
    assert reasons["system H20-SXM RoCE"] == 1
    assert sum(reasons.values()) == 25 + 1 + 7

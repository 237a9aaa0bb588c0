"""What the record says of every published row, and that rows computed now say the same.

All suites but silicon's are computed anew (kernels, collectives, longcat-theory in test_recorded.py, deepseek in
test_serving_rows.py). Of silicon: of each kind of run two whole rows, intervals included, and two more rows' TPOT and
TTFT, others whenever the program changes. The rest, and the suites of 2026, are computed by ``make trust``.
"""

import hashlib
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import perfmodel
from perfmodel.economics.fleet import DailyTraffic, least_fleet
from perfmodel.load import load_scenario
from perfmodel.output.validation.markdown import validation_markdown
from perfmodel.validation import roles, silicon
from perfmodel.validation.ceilings import above, owner
from perfmodel.validation.deepseek_fleet import fleet
from perfmodel.validation.duplicates import repeated
from perfmodel.validation.full_batches import full_batches, lengths_with
from perfmodel.validation.recorded import SAME, differences, recorded_results
from perfmodel.validation.runs import MANY
from perfmodel.validation.serving import throughput
from perfmodel.validation.suites import SUITES, Validation, run_suites

RECORDS = roles.read_published(silicon.FILE)
BY_ID = {record["id"]: record for record in RECORDS}
PAGE = Path(__file__).parent.parent / "docs" / "trust.md"


@pytest.fixture(scope="module")
def everything() -> Validation:
    record = recorded_results()
    return Validation(record.rows, above(record.rows, SUITES), tuple(SUITES), None, record.calibrations)


@pytest.mark.parametrize("suite", ["longcat-measured", "deepseek-fleet"])
def test_the_record_is_what_a_suite_says_now(suite):
    """Remake it: make trust."""
    own = [row for row in recorded_results().rows if row.suite in (suite, f"{suite}-serving")]
    assert list(differences(run_suites(suite).rows, own)) == []


def digest(text):
    return hashlib.sha256(text.encode()).digest()


def program():
    """What predictions follow from, as a hash: of all code, engines' constants and scenarios, and of calibrations."""
    folder = Path(perfmodel.__file__).parent
    found = [path.read_text("utf-8") for end in ("py", "yaml") for path in sorted(folder.rglob(f"*.{end}"))]
    return digest("".join([*found, *recorded_results().calibrations])).hex()


def kinds_of_runs():
    """Of each kind of run (whole rows, rows in the mean). Two whole ones, chosen by a hash of their names, as thousands
    of requests in flight take seconds; and two of all others, chosen by that and the program's: those are others after
    every change of it, so that none of them stays unseen for long.
    """
    kinds, now = defaultdict(list), program()
    for own in RECORDS:
        names = ("mode", "system", "backend", "model", "precision")
        kinds[(*(own[name] for name in names), bool(own["note"]))].append(own)
    for rows in kinds.values():
        light = [own for own in rows if float(own["concurrency"] or 0) <= 2048]
        whole = sorted(light, key=lambda own: digest(own["id"]))[:2]
        others = [own for own in rows if own not in whole]
        yield whole, sorted(others, key=lambda own: digest(now + own["id"]))[:2]


def test_the_record_is_what_silicon_says_now():
    """Rows of every kind of run; make trust computes all. Remake it: make trust."""
    recorded = [row for row in recorded_results().rows if owner(row.suite) == "silicon"]
    by_id = defaultdict(list)
    for row in recorded:
        by_id[row.id].append(row)
    kinds = list(kinds_of_runs())
    chosen = [own for whole, _ in kinds for own in whole]
    assert len(chosen) > 60
    assert any(float(own["concurrency"] or 0) > MANY for own in chosen)
    assert {own[key] for own in chosen for key in ("system", "backend")} == {
        own[key] for own in RECORDS for key in ("system", "backend")
    }
    found = silicon.predict_rows(
        chosen,
        suite="silicon",
        role=lambda own: roles.committed()[silicon.FILE, own["id"]],
        file=silicon.FILE,
    )
    assert list(differences(found, [row for own in chosen for row in by_id[own["id"]]])) == []
    for own in (own for _, others in kinds for own in others):
        rows = [row for row in by_id[own["id"]] if row.suite != "silicon-repeated"]
        if not rows:
            continue
        mean, why = silicon.predict(own, interval=False)
        for row in rows:
            assert row.predicted == (mean and pytest.approx(getattr(mean, row.quantity), rel=SAME)), row.id
            if row.suite != "silicon-cold":  # whose reason is the start-up that is implied
                assert row.reason == why, row.id


def test_no_suite_is_worse_than_recorded(everything):
    assert everything.above_ceiling == ()
    assert {owner(row.suite) for row in everything.rows} == set(SUITES)


def test_the_page_shows_what_the_command_says(everything):
    """Remake it: perfmodel validate --markdown, between the two comments of docs/trust.md (make trust)."""
    found = re.search(
        r"<!-- perfmodel validate --markdown -->\n(.*)<!-- end -->", PAGE.read_text(), flags=re.DOTALL
    )
    assert found is not None
    assert found[1].strip() == validation_markdown(everything).strip()


def test_intervals_are_honest_where_rows_are_many(everything):
    """Coverage of the 80 % interval, pooled over a suite's rows of 30 and more: 70 to 90 %; clean rows of
    one instance are pooled over their files, since each file has few stacks."""
    clean = {"silicon", "silicon-field", "silicon-2026"}
    for suite, parts in (("kernels", {"kernels"}), ("collectives", {"collectives"}), ("silicon", clean)):
        rows = [r for r in everything.rows if r.suite in parts and r.low is not None and r.high is not None]
        inside = sum(r.low <= r.measured <= r.high for r in rows) / len(rows)
        assert len(rows) >= 30
        assert 0.70 <= inside <= 0.90, (suite, inside)


def test_targets_that_are_met_stay_met(everything):
    """DeepSeek-V3 on H800 within 10 % (the target, 8, is missed by its prefill), Table 6 in the
    median within 15 % and each row within 25 %.
    """
    by_id = {(row.id, row.quantity): row for row in everything.rows}
    for name in ("ds_profile_decode", "ds_profile_prefill"):
        row = next(row for key, row in by_id.items() if key[0] == name)
        assert abs(row.error_pct) <= 10.0, row
    table6 = [
        abs(row.error_pct)
        for row in everything.rows
        if row.suite == "longcat-measured" and row.quantity == "tpot_s"
    ]
    assert len(table6) == 5
    assert sorted(table6)[2] <= 15.0
    assert max(table6) <= 25.0


def test_full_batches_simulated_request_by_request(everything):
    """Ranks of unlike contexts in lockstep take up to 3 % longer than a mean step: no more, or batches weren't full."""
    by_key = {(row.suite, row.id, row.quantity): row for row in everything.rows}
    served = [r for r in everything.rows if r.suite == "longcat-measured-serving"]
    assert len(served) == 10
    for row in served:
        mean_step = by_key["longcat-measured", row.id, row.quantity].predicted
        slower = row.predicted / mean_step if row.quantity == "tpot_s" else mean_step / row.predicted
        assert 1.0 < slower < 1.03, row


@pytest.mark.parametrize("batch", [8, 32])
def test_full_batches_are_full(batch):
    """Throughput is the batch over TPOT, which holds only while no slot is empty."""
    settings = [f"deployment.batch_per_gpu={batch}", "deployment.context_tokens=5000"]
    found = full_batches(load_scenario("longcat-flash-h800", settings), lengths_with(3.62, 5000.0), batch)
    assert 0.99 * batch <= found.batch_per_rank <= batch
    assert found.output_tokens_per_s_per_gpu * found.tpot_s == pytest.approx(found.batch_per_rank, rel=1e-9)


def test_the_fleet_of_deepseek(everything):
    """Decode within 20 % of production at 84 and 128 requests per GPU. A mean step says the same within 2 %."""
    by_id = {row.id: row for row in everything.rows if row.suite == "deepseek-fleet"}
    assert abs(by_id["ds_prod_decode_128"].error_pct) <= 20.0
    assert abs(by_id["ds_prod_decode_84"].error_pct) <= 20.0
    record = next(r for r in roles.read_published("serving.csv") if r["id"] == "ds_prod_decode")
    for batch in (84, 128):
        _, mean_step = throughput({**record, "batch_per_gpu": str(batch)})
        assert by_id[f"ds_prod_decode_{batch}"].predicted == pytest.approx(mean_step, rel=0.02)
    least = fleet(list(by_id.values()), 128)
    rates = by_id["ds_prod_prefill"].predicted, by_id["ds_prod_decode_128"].predicted
    assert least.gpus == pytest.approx(608e9 / 86400 / rates[0] + 168e9 / 86400 / rates[1])
    assert least.usd_per_day == pytest.approx(least.gpus * 24 * 2.0)
    assert f"{least.gpus / 8:.1f} nodes" in by_id["ds_prod_decode_128"].reason
    assert {row.role for row in by_id.values()} == {"check", "comparison"}  # no row of it sets anything


def test_a_fleet_by_hand():
    """86.4 M tokens in a day are 1,000 a second: 10 GPUs at 100, and 20 at 50 for as many of output."""
    least = least_fleet(
        DailyTraffic(86.4e6, 86.4e6),
        input_tokens_per_s_per_gpu=100.0,
        output_tokens_per_s_per_gpu=50.0,
        usd_per_gpu_hour=2.0,
    )
    assert (least.prefill_gpus, least.decode_gpus, least.gpus) == pytest.approx((10.0, 20.0, 30.0))
    assert least.usd_per_day == pytest.approx(1440.0)
    assert least.usd_per_million_output_tokens == pytest.approx(1440.0 / 86.4)


def test_no_longcat_row_and_no_check_row_is_answered_by_its_own_figure(everything):
    """A prediction that equals the measurement to six digits would be a copy."""
    for row in everything.rows:
        if row.suite in ("longcat-measured", "deepseek") and row.predicted is not None:
            assert abs(row.predicted / row.measured - 1.0) > 1e-6


# --- suite silicon ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(everything):
    return [row for row in everything.rows if owner(row.suite) == "silicon"]


def test_every_row_is_there_once_per_figure(rows):
    expected = Counter()
    for own in RECORDS:
        expected.update(
            (own["id"], key) for key, cell in (("tpot_s", "tpot_ms"), ("ttft_s", "ttft_ms")) if own[cell]
        )
    assert Counter((row.id, row.quantity) for row in rows) == expected
    committed = roles.committed()
    for row in rows:
        assert row.role == committed[silicon.FILE, row.id]
        cell = BY_ID[row.id]["tpot_ms" if row.quantity == "tpot_s" else "ttft_ms"]
        assert row.measured == pytest.approx(float(cell) / 1000.0)


def test_rows_are_summed_up_by_kind(rows):
    for row in rows:
        own = BY_ID[row.id]
        kind = "-noted" if own["note"] else "-disaggregated" if own["mode"] == "disagg" else ""
        if (silicon.FILE, row.id) in repeated():
            kind = "-repeated"
        if not kind and row.quantity == "ttft_s" and (own["measured"] or "9") < "2026-01-21":
            kind = "-cold"
        assert row.suite == f"silicon{kind}"


def test_clean_rows_are_answered_or_say_why(rows):
    tpot = [row for row in rows if row.quantity == "tpot_s"]
    for row in tpot:
        assert row.predicted is not None or row.reason, row.id
    clean = [row for row in tpot if row.suite == "silicon"]
    answered = [row for row in clean if row.predicted is not None]
    assert len(clean) > 200
    assert len(answered) >= 0.95 * len(clean), Counter(row.reason for row in clean if row.predicted is None)
    for row in answered:
        assert 1e-3 < row.predicted < 10.0, row.id


def test_answers_have_intervals_that_hold_them(rows):
    answered = [row for row in rows if row.predicted is not None and row.quantity == "tpot_s"]
    bounded = [row for row in answered if row.low is not None]
    assert len(bounded) > 0.95 * len(answered)
    for row in bounded:
        assert 0.0 < row.low <= row.predicted <= row.high, row.id


def test_time_to_first_token_is_answered(rows):
    """Errors are far above the target of 20 %: docs/trust.md says why. They stay below their recorded ceilings."""
    clean = [row for row in rows if row.quantity == "ttft_s" and row.suite == "silicon"]
    answered = [row for row in clean if row.predicted is not None]
    assert len(answered) >= 0.95 * len(clean)
    for row in answered:
        assert 5e-3 < row.predicted < 100.0, row.id
    apart = [row for row in rows if row.quantity == "ttft_s" and row.suite == "silicon-disaggregated"]
    answered = [row for row in apart if row.predicted is not None]
    assert len(answered) >= 0.95 * len(apart)
    assert all(
        1e-2 < row.predicted < 1000.0 for row in answered
    )  # a prefill side that is overrun lets thousands wait


def test_peers_figures_stand_beside_their_rows(rows):
    peers = roles.read_published("silicon_peer_predictions.csv")
    assert len({peer["id"] for peer in peers}) == len(peers)
    found = {(row.id, row.quantity): row.peer_predicted for row in rows}
    for peer in peers:
        for cell, key in (("tpot_ms", "tpot_s"), ("ttft_ms", "ttft_s")):
            expected = pytest.approx(float(peer[cell]) / 1000.0) if peer[cell] else None
            assert found.get((peer["id"], key), expected) == expected
    assert sum(peer is not None for peer in found.values()) > 400

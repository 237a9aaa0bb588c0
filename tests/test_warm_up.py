"""Requests that are served but not judged: what is left, over which window, and cuts that leave nothing."""

import json

import numpy as np
import pandas
import pytest
from test_serve import node, records_of
from typer.testing import CliRunner

from perfmodel.answers.serve import answer_serve
from perfmodel.cli import app
from perfmodel.economics.requests import serving_metrics
from perfmodel.errors import SpecError
from perfmodel.output.export.vllm_result import result_values
from perfmodel.serving.serve import serve
from perfmodel.serving.window import counted, counted_rows
from perfmodel.spec.workload import Workload

CUT = ["workload.warm_up_requests=1", "workload.cool_down_requests=1"]
OPEN = ["workload.request_rate=4", "workload.num_requests=60", "workload.output_tokens=30"]


def four():
    """Two that count, between the first and the last to arrive; a run of decodes from 0 to 4 s, a prompt to 5 s."""
    return records_of([1, 0, 3, 2], [3, 1, 4, 5], [3, 5, 6, 10], [20, 10, 40, 30], [1, 5, 4, 11])


def test_what_is_left_by_hand():
    found = serving_metrics(four(), node(*CUT, "prices.usd_per_gpu_hour=3.6", "slo.ttft_ms=2500"))
    assert (found["requests"], found["left_out_requests"], found["completed"]) == (2, 2, 2)
    assert found["duration_s"] == pytest.approx(9.0)  # from the arrival at 1 s to the end at 10 s
    assert found["ttft_s"]["mean"] == pytest.approx((2 + 3) / 2)
    assert found["e2e_s"]["mean"] == pytest.approx((2 + 8) / 2)
    assert found["tpot_s"]["mean"] == pytest.approx(5 / 10)
    assert found["requests_per_s"] == pytest.approx(2 / 9)
    assert found["goodput_requests_per_s"] == pytest.approx(1 / 9)
    assert found["output_tokens_per_s_per_gpu"] == pytest.approx(12 / 9 / 8)
    assert found["usd_per_million_output_tokens"] == pytest.approx(8 * 9 / 3600 * 3.6 / 12 * 1e6)
    assert found["busy_pct"] == pytest.approx(100 * 4 / 9)  # 3 of the decodes' 4 s, and the prompt
    assert found["prompt_steps_pct"] == pytest.approx(25.0)
    assert found["steps"] == round(6 * 3 / 4 + 1)
    assert found["itl_s"] == serving_metrics(four(), node())["itl_s"]


def test_nothing_is_cut_by_default():
    records = four()
    assert counted(records, Workload()) is records
    assert serving_metrics(records, node())["left_out_requests"] == 0


def test_at_one_instant_the_row_decides():
    records = records_of([0, 0, 0], [1, 1, 1], [2, 2, 2], [9, 9, 9], [2, 2, 2])
    assert counted_rows(records, Workload(warm_up_requests=1)).tolist() == [False, True, True]
    assert counted_rows(records, Workload(cool_down_requests=2)).tolist() == [True, False, False]


def test_all_are_served_whatever_is_cut():
    whole, cut = (serve(node(*OPEN, *more)).records for more in ([], CUT))
    for name in ("arrival_s", "first_token_s", "end_s", "gap_s"):
        assert np.array_equal(getattr(whole, name), getattr(cut, name))


def test_a_closed_loops_first_wave_waits_longest():
    """Eight prompts at once, then one by one: without the first wave, requests wait less."""
    loop = [
        "workload.max_concurrency=8",
        "workload.num_requests=80",
        "workload.output_tokens={min: 50, max: 150}",
        "deployment.host={launch_us: 0, uncounted_us: 0}",  # else every prompt waits for launches alike
    ]
    whole, settled = (
        answer_serve(node(*loop, *more)).values for more in ([], ["workload.warm_up_requests=8"])
    )
    assert settled["ttft_s"]["mean"] < 0.9 * whole["ttft_s"]["mean"]
    assert (settled["requests"], settled["left_out_requests"]) == (72, 8)
    assert any("pooled" in text for text in settled["caveats"])
    assert not any("pooled" in text for text in whole["caveats"])


def test_files_hold_what_was_judged(tmp_path):
    asked = node(*OPEN, "workload.warm_up_requests=10", "workload.cool_down_requests=5")
    answer = answer_serve(asked)
    result = result_values(answer)
    assert result["num_prompts"] == len(result["ttfts"]) == 45
    assert np.mean(result["ttfts"]) == pytest.approx(answer.values["ttft_s"]["mean"])
    file = tmp_path / "requests.csv"
    sets = [
        part
        for one in ("workload.num_requests=60", "workload.warm_up_requests=10")
        for part in ("--set", one)
    ]
    CliRunner().invoke(app, ["serve", "longcat-flash-h800", *sets, "--requests", str(file)])
    frame = pandas.read_csv(file)
    assert len(frame) == 60
    assert frame["counted"].tolist() == [False] * 10 + [True] * 50


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workload.warm_up_requests=60"], "warm_up_requests = 60: leaves none of 60 requests"),
        (
            ["workload.warm_up_requests=50", "workload.cool_down_requests=10"],
            "= 50 and cool_down_requests = 10",
        ),
        (["workload.cool_down_requests=1000"], "cool_down_requests = 1000: leaves none of 60"),
        (["workload.warm_up_requests=-1"], "warm_up_requests"),
        (["workload.warm_up_requests=1.5"], "warm_up_requests"),
    ],
)
def test_a_cut_that_leaves_nothing_is_refused(overrides, message):
    with pytest.raises(SpecError, match=message):
        answer_serve(node(*OPEN, *overrides))


def test_a_trace_is_refused_likewise():
    asked = ["workload.trace=azure-conv-2023", "workload.num_requests=20", "workload.warm_up_requests=20"]
    done = CliRunner().invoke(app, ["serve", "longcat-flash-h800", *(f"--set={one}" for one in asked)])
    assert isinstance(done.exception, SpecError)
    assert "leaves none of 20 requests" in str(done.exception)


def test_the_table_says_how_many_are_left_out():
    args = ["serve", "longcat-flash-h800", "--set", "workload.num_requests=60"]
    cut = [*args, "--set", "workload.warm_up_requests=10"]
    assert "50 requests (10 more left out)" in CliRunner().invoke(app, cut).stdout
    assert json.loads(CliRunner().invoke(app, [*cut, "--json"]).stdout)["left_out_requests"] == 10
    assert "left out" not in CliRunner().invoke(app, args).stdout

"""Runs of more requests than are kept: the same figures, the same requests in a file, in memory that does not grow."""

import json
import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from command import run_here

import perfmodel.answers.serve_stream as long_answers
from perfmodel.answers.serve import answer_serve
from perfmodel.answers.serve_stream import Long, answer_stream, traffic_of
from perfmodel.economics.quantiles import RELATIVE_ERROR, Exact, Sketched
from perfmodel.errors import DataError, SpecError
from perfmodel.load import load_scenario
from perfmodel.output.serve.requests import requests_while_served, write_requests
from perfmodel.serving import in_order
from perfmodel.serving.compiled import window
from perfmodel.serving.drafts import decode_steps, decode_steps_of
from perfmodel.spec.traces.read import long_trace_of, read_trace, trace_of
from perfmodel.spec.traces.stream import TraceStream
from perfmodel.spec.workload import Workload

pytest.importorskip("numba")

NODE = (
    "cluster=h200-ib", "calibration=h200-sxm", "deployment.attention_dp=1", "deployment.attention_tp=8",
    "deployment.dense_tp=8", "deployment.ep=8", "deployment.overlap=sequential", "deployment.batch_per_gpu=8",
    "slo.ttft_ms=250",
)  # fmt: skip
SPREADS = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "tokens_per_s_per_user", "queue_s")
N = 3000


def trace_file(folder, *, n=N, rate=20.0, suffix=".parquet", seed=1):
    """Azure's lengths, at random times in order."""
    own, rng = read_trace("azure-conv-2023"), np.random.default_rng(seed)
    rows = rng.integers(0, own.num_requests, n)
    frame = pd.DataFrame(
        {
            "arrival_s": rng.exponential(1.0 / rate, n).cumsum().round(6),
            "input_tokens": own.input_tokens[rows],
            "output_tokens": own.output_tokens[rows] // 4 + 1,
        }
    )
    path = folder / f"trace{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path


def scenario_of(path, *overrides):
    return load_scenario("deepseek-v3-h800", [*NODE, f"workload.trace={path}", *overrides])


def long_answer(scenario, path=None, *, rows=500, block=700, hold=100):
    """With windows and blocks so small that there are many."""
    with mock.patch.object(window, "ROWS", rows), mock.patch.object(in_order, "BLOCK", block):
        traffic = traffic_of(scenario, hold=hold)
        assert isinstance(traffic, Long)
        with requests_while_served(path, scenario, traffic) as write:
            return answer_stream(scenario, traffic, write=write)


def near(found, told):
    """Equal, numbers to the last digits."""
    if isinstance(told, dict):
        assert found.keys() == told.keys()
        return all(near(found[key], value) for key, value in told.items())
    return found == (pytest.approx(told, rel=1e-12) if isinstance(told, float) else told)


def check_figures(whole, long, records):
    """All figures but percentiles (and what is said of batches) agree; those are as near as the sketch promises."""
    skip = {*SPREADS, "mean_intervals", "provenance", "without_faults"}
    for key, value in whole.values.items():
        assert key in skip or near(long.values[key], value), key
    for key in SPREADS:
        assert long.values[key]["mean"] == pytest.approx(whole.values[key]["mean"], rel=1e-12), key
    ttft = np.sort(records.first_token_s - records.arrival_s)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        at_rank = ttft[int(share * (len(ttft) - 1))]
        assert long.values["ttft_s"][name] == pytest.approx(at_rank, rel=1.0001 * RELATIVE_ERROR), name


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("deployment.mtp.draft_tokens=1", "deployment.mtp.acceptance=0.7", "workload.start_s=20"),
        ("serving.replicas=3", "workload.time_scale=0.5", "serving.prefix_cache=true"),
        ("workload.request_rate=25", "workload.burstiness=0.5"),
        ("workload.request_rate=inf", "workload.max_concurrency=40", "workload.think_time_s=0.1"),
        ("model=qwen3.5-35b-a3b",),
    ],
    ids=["plain", "drafts", "replicas", "rate", "closed loop", "states"],
)
def test_a_run_that_keeps_nothing_has_the_same_figures_and_requests(tmp_path, overrides):
    scenario = scenario_of(trace_file(tmp_path), *overrides)
    whole = answer_serve(scenario)
    write_requests(whole, tmp_path / "whole.parquet")
    long = long_answer(scenario, tmp_path / "long.parquet")
    check_figures(whole, long, whole.served.records)
    assert pd.read_parquet(tmp_path / "whole.parquet").equals(pd.read_parquet(tmp_path / "long.parquet"))
    origin = whole.values["provenance"] | {
        "percentiles": "sketch",
        "percentiles_relative_error": RELATIVE_ERROR,
    }
    assert whole.values["provenance"]["percentiles"] == "exact"
    assert long.values["provenance"] == origin | {"core": "compiled"}


def test_warm_up_and_cool_down_are_left_out_of_requests_and_of_steps(tmp_path):
    scenario = scenario_of(
        trace_file(tmp_path), "workload.warm_up_requests=900", "workload.cool_down_requests=200"
    )
    whole = answer_serve(scenario)
    long = long_answer(scenario)
    judged = whole.served.records.where(slice(900, N - 200))
    check_figures(whole, long, judged)
    assert long.values["left_out_requests"] == 1100


def test_faults_and_what_they_cost_are_told(tmp_path):
    fault = "faults=[{kind: lost-node, replica: 0, at_s: 40, for_s: 20}]"
    scenario = scenario_of(trace_file(tmp_path), fault, "serving.replicas=2")
    whole, long = answer_serve(scenario), long_answer(scenario)
    check_figures(whole, long, whole.served.records)
    assert long.values["retries"] > 0
    found, told = whole.values["without_faults"], long.values["without_faults"]
    assert told["requests_per_s"] == pytest.approx(found["requests_per_s"], rel=1e-12)


def test_generated_requests_that_share_prefixes_keep_no_records_either():
    scenario = load_scenario(
        "deepseek-v3-h800",
        [*NODE, "workload.trace=''", "workload.turns={mean: 4}", "workload.input_tokens=500",
         "workload.turn_tokens=100", "workload.output_tokens={min: 5, max: 60}", "workload.request_rate=20",
         "workload.num_requests=2000", "serving.prefix_cache=true"],
    )  # fmt: skip
    whole = answer_serve(scenario)
    assert whole.values["cache_hit_pct"] > 10.0
    check_figures(whole, long_answer(scenario), whole.served.records)


def test_the_answer_does_not_depend_on_how_much_is_looked_at_together(tmp_path):
    scenario = scenario_of(trace_file(tmp_path), "workload.warm_up_requests=100")
    first = long_answer(scenario, tmp_path / "first.csv", rows=50)
    second = long_answer(scenario, tmp_path / "second.csv", rows=100_000)
    assert json.dumps(first.values) == json.dumps(second.values)
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()


# --- traces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
@pytest.mark.parametrize("window_keys", [{}, {"start_s": 30.0, "duration_s": 60.0}, {"num_requests": 1234}])
def test_a_trace_that_is_put_aside_is_the_same_trace(tmp_path, suffix, window_keys):
    workload = Workload(trace=str(trace_file(tmp_path, suffix=suffix)), **window_keys)
    held, aside = trace_of(workload), long_trace_of(workload, hold=300)
    assert isinstance(aside, TraceStream)
    assert (aside.num_requests, aside.num_dropped, aside.notes) == (
        held.num_requests, held.num_dropped, held.notes,
    )  # fmt: skip
    assert aside.id == held.id
    for _ in range(2):
        pieces = list(aside.stretches(101))
        assert np.array_equal(np.concatenate([one.arrival_s for one in pieces]), held.arrival_s)
        assert np.array_equal(np.concatenate([one.output_tokens for one in pieces]), held.output_tokens)


def test_requests_out_of_order_and_in_sessions_are_held(tmp_path):
    path = trace_file(tmp_path, suffix=".csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[1], lines[-1]]) + "\n")
    workload = Workload(trace=str(path))
    assert np.array_equal(long_trace_of(workload, hold=300).arrival_s, trace_of(workload).arrival_s)
    frame = pd.read_csv(path).assign(session=np.arange(N + 1) // 3)
    frame.to_csv(path, index=False)
    columns = {"time": "arrival_s", "input": "input_tokens", "output": "output_tokens", "session": "session"}
    workload = Workload(trace=str(path), columns=columns, time_unit="s")
    assert not isinstance(long_trace_of(workload, hold=300), TraceStream)


def test_a_line_that_is_no_request_is_refused_before_anything_is_served_or_written(tmp_path, monkeypatch):
    path = trace_file(tmp_path, suffix=".csv")
    path.write_text(path.read_text() + "9e9,12,none\n")
    with pytest.raises(DataError, match=r"trace\.csv: line 3002: output_tokens = 'none'"):
        traffic_of(scenario_of(path), hold=100)


def test_a_request_that_no_cache_holds_is_named_by_its_row(tmp_path):
    path = trace_file(tmp_path)
    frame = pd.read_parquet(path)
    frame.loc[2100, "input_tokens"] = 70_000
    frame.to_parquet(path, index=False)
    scenario = scenario_of(path, "serving.kv_tokens=50000")
    with pytest.raises(Exception, match=r"request 2100: 70000 \+ "):
        long_answer(scenario)
    scenario = scenario_of(path, "model.max_position_embeddings=65536")
    with pytest.raises(SpecError, match="1 of 3,000 requests are longer"):
        long_answer(scenario)


# --- parts ----------------------------------------------------------------------------------------------------------


def test_steps_of_drafts_are_the_same_in_pieces():
    rng = np.random.default_rng(3)
    outputs = rng.integers(1, 900, 9000)
    whole = decode_steps(outputs, 2, 0.6, seed=5)
    for cuts in ([1], [10, 4000, 4001, 8999], list(range(100, 9000, 100))):
        pieces = decode_steps_of(np.split(outputs, cuts), 2, 0.6, seed=5)
        assert np.array_equal(np.concatenate(list(pieces)), whole)


def test_a_sketch_keeps_its_promise_whatever_the_values_and_weights_are():
    rng = np.random.default_rng(0)
    for values in (
        rng.lognormal(0, 3, 20_000),
        rng.uniform(0, 1e-9, 5000),
        np.repeat([0.0, 7.0], [900, 100]),
    ):
        counts = rng.integers(1, 50, len(values))
        for weights in (None, counts):
            sketch, again = Sketched(), Sketched()
            sketch.add(values, weights)
            order = rng.permutation(len(values))
            for rows in np.array_split(order, 7):
                again.add(values[rows], None if weights is None else weights[rows])
            found = sketch.spread()
            assert {k: v for k, v in again.spread().items() if k != "mean"} == {
                k: v for k, v in found.items() if k != "mean"
            }
            every = np.sort(np.repeat(values, 1 if weights is None else weights))
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
                at_rank = every[int(share * (len(every) - 1))]
                assert abs(found[name] - at_rank) <= 1.0001 * RELATIVE_ERROR * at_rank, name
            assert found["mean"] == pytest.approx(every.mean())


def test_batches_of_a_long_run_say_as_much_of_its_mean():
    rng = np.random.default_rng(1)
    values = 10.0 + np.convolve(rng.normal(size=200_000), np.ones(50) / 7.0, "same")
    exact, sketch = Exact(), Sketched()
    exact.add(values)
    for piece in np.array_split(values, 13):
        sketch.add(piece)
    assert sketch.mean_interval() == pytest.approx(exact.mean_interval(), rel=1e-3)
    assert Sketched().mean_interval() is None


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_serves_a_long_trace_and_writes_its_requests(tmp_path, monkeypatch):
    path, out = trace_file(tmp_path), tmp_path / "requests.csv"
    own = ["serve", "deepseek-v3-h800", *(f"--set={one}" for one in (*NODE, f"workload.trace={path}"))]
    whole = run_here("perfmodel", *own, "--json", "--requests", tmp_path / "whole.csv")
    monkeypatch.setattr(long_answers, "HELD_REQUESTS", 100)
    done = run_here("perfmodel", *own, "--json", "--requests", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["provenance"]["percentiles"] == "sketch"
    assert f"wrote {out}" in done.stderr
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert json.loads(whole.stdout)["requests"] == json.loads(done.stdout)["requests"] == N
    assert "3,000 requests" in run_here("perfmodel", *own).stdout
    for option in (["--trace", tmp_path / "t.json"], ["--result", tmp_path / "r.json"], ["--intervals"]):
        done = run_here("perfmodel", *own, *option)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{option[0]}: needs all records of a run, which are kept of up to 100 requests" in done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["requests.csv", "trace.parquet", "whole.csv"]


def test_a_run_that_fails_leaves_no_file(tmp_path, monkeypatch):
    path, out = trace_file(tmp_path), tmp_path / "requests.parquet"
    scenario, told = scenario_of(path), []

    def progress(done, total):
        told.append(done)
        if done > 2000:
            raise KeyboardInterrupt

    with mock.patch.object(window, "ROWS", 200), mock.patch.object(in_order, "BLOCK", 100):
        traffic = traffic_of(scenario, hold=100)
        with pytest.raises(KeyboardInterrupt), requests_while_served(out, scenario, traffic) as write:
            answer_stream(scenario, traffic, write=write, progress=progress)
    assert told
    assert [file.name for file in tmp_path.iterdir()] == ["trace.parquet"]


MEMORY = """
import resource, sys
import perfmodel.answers.serve_stream as long
from perfmodel.load import load_scenario
scenario = load_scenario("deepseek-v3-h800", sys.argv[2:])
traffic = long.traffic_of(scenario, hold=1000)
answer = long.answer_stream(scenario, traffic)
assert answer.values["requests"] == int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kb(path, n):
    found = subprocess.run(
        [sys.executable, "-c", MEMORY, str(n), *NODE, f"workload.trace={path}"],
        capture_output=True, text=True, check=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    return int(found.stdout.split()[-1])


def test_memory_does_not_grow_with_the_number_of_requests(tmp_path):
    few, many = 100_000, 300_000
    (tmp_path / "few").mkdir()
    (tmp_path / "many").mkdir()
    small = peak_kb(trace_file(tmp_path / "few", n=few, suffix=".csv"), few)
    large = peak_kb(trace_file(tmp_path / "many", n=many, suffix=".csv"), many)
    assert (large - small) * 1024 / (many - few) < 100.0  # bytes per request; 700 where records are kept

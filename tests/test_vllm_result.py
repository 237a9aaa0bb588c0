"""perfmodel serve --result: vLLM's keys hold what --json says, and our own reader gets the requests back."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from perfmodel.answers.serve import answer_serve
from perfmodel.cli import app
from perfmodel.errors import DataError
from perfmodel.load import load_scenario
from perfmodel.output.export import vllm_result
from perfmodel.output.export.result import check_result_files, write_result
from perfmodel.output.export.vllm_result import result_values
from perfmodel.spec.traces.read import read_trace

NODE = [
    "cluster=h200-ib", "calibration=h200-sxm", "deployment.attention_dp=1", "deployment.attention_tp=8",
    "deployment.dense_tp=8", "deployment.ep=8", "deployment.overlap=sequential", "workload.trace=''",
]  # fmt: skip
"""DeepSeek-V3 on one node of eight H200, tensor-parallel."""
OPEN = [
    "workload.request_rate=4", "workload.num_requests=80", "slo.ttft_ms=100",
    "workload.output_tokens={min: 1, max: 60}", "serving.front_end={latency_s: 0, request_s: 0}",
    "deployment.host={prepare_us: 0, launch_us: 0, uncounted_us: 0, node_us: 0}",  # so that some keep the objective
]  # fmt: skip
CLOSED = [
    "workload.max_concurrency=8",
    "workload.num_requests=40",
    "workload.output_tokens={min: 5, max: 60}",
]


def served(*overrides):
    return answer_serve(load_scenario("deepseek-v3-h800", [*NODE, *overrides]))


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def loops():
    return {"open": served(*OPEN), "closed": served(*CLOSED)}


@pytest.fixture(params=["open", "closed"])
def answer(request, loops):
    return loops[request.param]


def test_figures_are_those_of_the_answer(answer):
    found, values = result_values(answer), answer.values
    for ours, theirs in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("itl_s", "itl"), ("e2e_s", "e2el")):
        for key, name in (
            ("mean", "mean"),
            ("p50", "median"),
            ("p50", "p50"),
            ("p90", "p90"),
            ("p99", "p99"),
        ):
            assert found[f"{name}_{theirs}_ms"] == pytest.approx(values[ours][key] * 1000, rel=1e-12)
    for ours, theirs in (
        ("duration_s", "duration"), ("requests", "num_prompts"), ("completed", "completed"),
        ("requests_per_s", "request_throughput"), ("output_tokens_per_s", "output_throughput"),
    ):  # fmt: skip
        assert found[theirs] == values[ours]
    both = found["total_input_tokens"] + found["total_output_tokens"]
    assert found["total_token_throughput"] == pytest.approx(both / found["duration"])
    assert found["perfmodel"] == values["provenance"]


def test_figures_follow_from_the_lists(answer):
    """As a script computes them; steps that were advanced together share their mean."""
    found = result_values(answer)
    ttft, gaps = np.array(found["ttfts"]), found["itls"]
    e2e = ttft + np.array([sum(own) for own in gaps])
    tpot = np.array([np.mean(own) for own in gaps if own])
    for name, values in (("ttft", ttft), ("e2el", e2e), ("tpot", tpot)):
        assert found[f"std_{name}_ms"] == pytest.approx(values.std() * 1000, rel=1e-5)
        assert found[f"p99_{name}_ms"] == pytest.approx(np.percentile(values, 99) * 1000, rel=1e-5)
    pooled = np.array([one for own in gaps for one in own])
    assert found["mean_itl_ms"] == pytest.approx(pooled.mean() * 1000, rel=1e-5)
    below, above = 1000 * np.percentile(
        pooled, [98.7, 99.3]
    )  # with a prompt or without: the mean may cross p99
    assert 0.98 * below <= found["p99_itl_ms"] <= 1.02 * above
    records = answer.served.records
    assert found["std_itl_ms"] == pytest.approx(np.repeat(records.gap_s, records.gap_count).std() * 1000)
    assert found["std_itl_ms"] == pytest.approx(pooled.std() * 1000, rel=0.02)
    assert [len(own) for own in gaps] == [n - 1 for n in found["output_lens"]]
    assert found["latencies"] == pytest.approx(e2e.tolist(), abs=1e-6)
    assert "ends of the steps" in found["perfmodel_note"]


def test_gaps_of_one_request_show_the_prompts_of_others(loops):
    """A request that decodes while another's prompt is computed waits for it: its gaps are not flat."""
    answer = loops["open"]
    records, itls = answer.served.records, result_values(answer)["itls"]
    runs = records.load.runs
    stalled = [max(own) / min(own) for own in itls if len(own) > 10]
    assert max(stalled) > 3.0
    row = max(range(len(itls)), key=lambda i: max(itls[i], default=0.0))
    longest = int(np.argmax(itls[row]))
    until = records.first_token_s[row] + sum(itls[row][: longest + 1])
    during = (runs.start_s < until) & (runs.start_s + runs.seconds > until - itls[row][longest])
    assert runs.prompt[during].sum() > 0


def test_gaps_with_drafts_are_between_chunks():
    found = served("workload.num_requests=20", "deployment.mtp={draft_tokens: 1, acceptance: 0.8}")
    value = result_values(found)
    for own, n, ttft, e2e in zip(
        *(value[key] for key in ("itls", "output_lens", "ttfts", "latencies")), strict=True
    ):
        assert len(own) < n - 1
        assert sum(own) == pytest.approx(e2e - ttft, abs=1e-6)
    pooled = np.array([one for own in value["itls"] for one in own])
    assert len(pooled) == found.served.records.gap_count.sum()
    assert value["mean_itl_ms"] == pytest.approx(pooled.mean() * 1000, rel=1e-6)


def test_sizes_are_those_that_scripts_divide_by(loops):
    """vllm/benchmarks/sweep/plot_pareto.py divides by the product; without a cap it takes max_concurrent_requests."""
    value = result_values(loops["open"])
    sizes = [value[f"{name}_parallel_size"] for name in ("tensor", "pipeline", "data")]
    assert sizes == [8, 1, 1]
    assert value["num_gpus"] == 8
    assert value["max_concurrency"] is None
    starts, ends = (
        np.array(value["start_times"]),
        np.array(value["start_times"]) + np.array(value["latencies"]),
    )
    assert value["max_concurrent_requests"] == max(((starts <= t) & (ends > t)).sum() for t in starts)
    assert result_values(loops["closed"])["max_concurrent_requests"] == 8
    two = result_values(served("workload.num_requests=4", "serving.replicas=2"))
    assert (two["num_gpus"], two["data_parallel_size"]) == (16, 2)


def test_queue_times_are_the_clients_wait(loops):
    capped = served("workload.request_rate=20", "workload.num_requests=40", "workload.max_concurrency=4")
    value = result_values(capped)
    assert np.mean(value["queue_times"]) == pytest.approx(capped.values["client_wait_s"]["mean"], rel=1e-6)
    assert np.array(value["start_times"]) - value["queue_times"] == pytest.approx(
        capped.served.requests.arrival_s, abs=1e-8
    )
    assert not any(result_values(loops["open"])["queue_times"])


def test_the_file_is_a_trace_of_the_same_requests(answer, tmp_path):
    path = tmp_path / "result.json"
    write_result(answer, path)
    records = answer.served.records
    trace = read_trace(str(path))
    ready = answer.served.requests.arrival_s  # of a closed loop all at once: its cap says when they are sent
    order = np.argsort(ready, kind="stable")
    assert trace.format == "vllm"
    assert trace.max_concurrency == answer.served.requests.max_concurrency
    assert trace.input_tokens.tolist() == records.input_tokens[order].tolist()
    assert trace.output_tokens.tolist() == records.output_tokens[order].tolist()
    for mine, theirs in (
        (trace.arrival_s, ready - ready.min()),
        (trace.ttft_s, records.first_token_s - records.arrival_s),
        (trace.e2e_s, records.end_s - records.arrival_s),
    ):
        assert mine == pytest.approx(theirs[order], abs=1e-6)
    assert strict(path.read_text())["perfmodel"] == answer.values["provenance"]


def test_traffic_is_said_in_vllms_words(loops):
    opened, closed = (result_values(loops[name]) for name in ("open", "closed"))
    assert (opened["request_rate"], opened["max_concurrency"], opened["burstiness"]) == (4.0, None, 1.0)
    assert (closed["request_rate"], closed["max_concurrency"]) == ("inf", 8)
    assert opened["request_goodput"] == loops["open"].values["goodput_requests_per_s"]
    assert 0 < opened["request_goodput"] < opened["request_throughput"]
    assert closed["request_goodput"] is None  # vLLM's, where no --goodput was asked for
    ramp = "workload.ramp={strategy: linear, start_rate: 2, end_rate: 8}"
    ramped = result_values(served(ramp, "workload.num_requests=4", "workload.burstiness=inf"))
    assert (ramped["request_rate"], ramped["burstiness"], ramped["ramp_up_end_rps"]) == ("inf", "inf", 8.0)
    replayed = result_values(served("workload.trace=azure-conv-2023", "workload.num_requests=4"))
    assert replayed["request_rate"] is None


def test_one_output_token_has_no_gaps(tmp_path):
    answer = served("workload.num_requests=3", "workload.output_tokens=1")
    path = tmp_path / "result.json"
    write_result(answer, path)
    found = strict(path.read_text())
    assert found["itls"] == [[], [], []]
    for name in ("mean", "median", "std", "p90"):
        assert found[f"{name}_tpot_ms"] is None
        assert found[f"{name}_itl_ms"] is None
    assert found["mean_e2el_ms"] == found["mean_ttft_ms"] > 0
    trace = read_trace(str(path))
    assert trace.e2e_s == pytest.approx(trace.ttft_s)


def test_too_many_gaps_for_the_reader_are_left_out(loops, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_result, "MAX_RESULT_BYTES", 10_000)
    path = tmp_path / "result.json"
    write_result(loops["closed"], path)
    found = strict(path.read_text())
    assert "itls" not in found
    assert "left out" in found["perfmodel_note"]
    records = loops["closed"].served.records
    order = np.argsort(records.arrival_s, kind="stable")
    assert read_trace(str(path)).e2e_s == pytest.approx((records.end_s - records.arrival_s)[order], abs=1e-6)


def test_the_command_writes_what_show_traces_reads(tmp_path):
    path = tmp_path / "result.json"
    sets = [word for one in [*NODE, *CLOSED] for word in ("--set", one)]
    run = CliRunner().invoke(app, ["serve", "deepseek-v3-h800", *sets, "--json", "--result", str(path)])
    assert run.exit_code == 0
    assert f"wrote {path}" in run.stderr
    found = strict(path.read_text())
    assert found["mean_ttft_ms"] == pytest.approx(json.loads(run.stdout)["ttft_s"]["mean"] * 1000)
    shown = json.loads(CliRunner().invoke(app, ["show", "traces", str(path), "--json"]).stdout)
    assert shown["requests"] == 40
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]  # nothing half-written beside it


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("result.csv", "must end in .json"),
        ("result", "must end in .json"),
        ("no/result.json", "does not exist"),
    ],
)
def test_a_bad_place_is_refused_before_the_run(name, message, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("simulated")

    monkeypatch.setattr("perfmodel.answers.serve.answer_serve", never)
    with pytest.raises(DataError, match=message):
        check_result_files(tmp_path / name)
    run = CliRunner().invoke(app, ["serve", "longcat-flash-h800", "--result", str(tmp_path / name)])
    assert isinstance(run.exception, DataError)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        check_result_files(tmp_path / "folder.json")

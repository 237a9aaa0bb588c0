"""Simulated runs in the shapes of AIPerf and GuideLLM: keys as these really write them, figures as ours."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from command import run_here

from perfmodel.answers.serve import answer_serve
from perfmodel.errors import DataError, SpecError
from perfmodel.load import load_scenario
from perfmodel.output.export.result import check_result_files, write_result
from perfmodel.spec.benchmarks.read import read_benchmarks
from perfmodel.spec.traces.read import read_trace

REAL = Path(__file__).parent / "data" / "results"
CLOSED = (
    "workload.num_requests=80",
    "workload.max_concurrency=16",
    "workload.output_tokens={min: 1, max: 60}",
)
OPEN = (
    "workload.num_requests=80",
    "workload.max_concurrency=null",
    "workload.request_rate=4",
    "workload.warm_up_requests=10",
)
OURS = {"aiperf": "aiperf_0.13.0_summary.json.gz", "guidellm": "guidellm_0.8.1.json.gz"}


def strict(text):
    return json.loads(text, parse_constant=pytest.fail)


@pytest.fixture(scope="module", params=[CLOSED, OPEN], ids=["closed", "open"])
def answer(request):
    return answer_serve(load_scenario("deepseek-v3-h200-vllm", [*request.param, "workload.percentiles=[95]"]))


@pytest.mark.parametrize("shape", ["aiperf", "guidellm"])
def test_what_is_written_is_read_back_as_it_was(shape, answer, tmp_path):
    path = tmp_path / "out.json"
    write_result(answer, path, shape)
    (run,) = read_benchmarks(path)
    values = answer.values
    assert run.figures["requests_per_s"] == pytest.approx(values["requests_per_s"])
    assert run.figures["output_tokens_per_s"] == pytest.approx(values["output_tokens_per_s"])
    for quantity in ("ttft_s", "tpot_s", "e2e_s"):
        for part in ("mean", "p50", "p90", "p99"):
            if shape == "guidellm" and part == "p99":
                continue  # its percentiles are values that occurred, ours lie between two: far apart in a tail of 80
            error = 1e-6 if shape == "aiperf" or part == "mean" else 0.1
            assert run.figures[f"{quantity}.{part}"] == pytest.approx(values[quantity][part], rel=error)
    requests = tmp_path / "profile_export.jsonl" if shape == "aiperf" else path
    trace = read_trace(str(requests))
    assert trace.num_requests == values["requests"]
    assert int(trace.output_tokens.sum()) == round(values["output_tokens_per_s"] * values["duration_s"])
    cap = run.workload.get("max_concurrency") or trace.max_concurrency
    assert cap == answer.served.requests.max_concurrency


def test_aiperfs_keys_and_units_are_its_own(answer, tmp_path):
    write_result(answer, tmp_path / "out.json", "aiperf")
    ours = strict((tmp_path / "out.json").read_text())
    theirs = json.loads(gzip.decompress((REAL / OURS["aiperf"]).read_bytes()))
    metrics = {key: one for key, one in ours.items() if isinstance(one, dict) and "unit" in one}
    assert len(metrics) > 15
    for key, one in metrics.items():
        assert (one["unit"], set(one)) == (theirs[key]["unit"], set(theirs[key])), key
    line = strict((tmp_path / "profile_export.jsonl").read_text().splitlines()[0])
    real = json.loads(
        gzip.decompress((REAL / "aiperf_0.13.0_requests.jsonl.gz").read_bytes()).splitlines()[0]
    )
    assert set(line["metadata"]) - {"perfmodel_note"} <= set(real["metadata"])
    for key, one in line["metrics"].items():
        assert one["unit"] == real["metrics"][key]["unit"], key
    first = ours["inter_chunk_latency"]
    gaps = [
        gap
        for text in (tmp_path / "profile_export.jsonl").read_text().splitlines()
        for gap in json.loads(text)["metrics"]["inter_chunk_latency"]["value"]
    ]
    if (
        not answer.scenario.workload.warm_up_requests
    ):  # gaps of all requests are in the summary, as in serve's
        assert first["avg"] == pytest.approx(np.mean(gaps), rel=0.05)


def test_guidellms_keys_are_its_own(answer, tmp_path):
    write_result(answer, tmp_path / "out.json", "guidellm")
    ours = strict((tmp_path / "out.json").read_text())["benchmarks"][0]
    theirs = json.loads(gzip.decompress((REAL / OURS["guidellm"]).read_bytes()))["benchmarks"][0]
    assert set(ours) <= set(theirs)
    assert set(ours["metrics"]) <= set(theirs["metrics"])
    for key in ("request_latency", "requests_per_second", "inter_token_latency_ms"):
        for state in ("successful", "errored", "incomplete", "total"):
            mine, real = ours["metrics"][key][state], theirs["metrics"][key][state]
            assert set(mine) <= set(real)
            assert set(mine["percentiles"]) == set(real["percentiles"])
    assert set(ours["requests"]["successful"][0]) <= set(theirs["requests"]["successful"][0])
    # Little's law: GuideLLM's mean concurrency is its rate times its mean latency
    in_flight, busy = (
        ours["metrics"]["request_concurrency"]["total"],
        ours["metrics"]["request_latency"]["total"],
    )
    assert in_flight["mean"] == pytest.approx(busy["total_sum"] / ours["duration"])
    if answer.served.requests.max_concurrency:
        assert in_flight["max"] == answer.served.requests.max_concurrency


def test_percentiles_that_are_asked_for_are_everywhere(answer, tmp_path):
    values = answer.values
    for key in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "tokens_per_s_per_user", "queue_s"):
        assert list(values[key]) == ["mean", "p50", "p90", "p95", "p99"]
        assert values[key]["p90"] <= values[key]["p95"] <= values[key]["p99"]
    write_result(answer, tmp_path / "out.json")
    found = strict((tmp_path / "out.json").read_text())
    for ours, theirs in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("itl_s", "itl"), ("e2e_s", "e2el")):
        assert found[f"p95_{theirs}_ms"] == pytest.approx(1000 * values[ours]["p95"])
    plain = load_scenario("deepseek-v3-h200-vllm")
    asked = load_scenario("deepseek-v3-h200-vllm", ["workload.percentiles=[95, 99.9]"])
    assert asked.hash == plain.hash  # what is said of a run changes nothing of it


@pytest.mark.parametrize(
    "given", ["[0]", "[100]", "[nan]", "[true]", "95", "[1e400]", str(list(range(1, 23)))]
)
def test_no_percentile_is_refused(given):
    with pytest.raises(SpecError, match=r"workload\.percentiles"):
        load_scenario("deepseek-v3-h200-vllm", [f"workload.percentiles={given}"])


def test_a_shape_that_nobody_has_and_one_without_a_file_are_refused(tmp_path):
    with pytest.raises(SpecError, match="--result-format tsv: must be one of vllm, aiperf, guidellm"):
        check_result_files(tmp_path / "out.json", "tsv")
    (tmp_path / "profile_export.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        check_result_files(tmp_path / "out.json", "aiperf")
    done = run_here(
        "perfmodel", "serve", "deepseek-v3-h200-vllm", "--result-format", "aiperf", folder=tmp_path
    )
    assert done.returncode == 2
    assert "belongs to --result" in done.stderr


def test_the_requests_that_are_served_are_not_replaced_by_those_written_beside_a_result(tmp_path):
    write_result(
        answer_serve(load_scenario("deepseek-v3-h200-vllm", list(CLOSED))), tmp_path / "a.json", "aiperf"
    )
    before = (tmp_path / "profile_export.jsonl").read_bytes()
    asked = (
        "--set",
        "workload={trace: profile_export.jsonl}",
        "--result",
        "b.json",
        "--result-format",
        "aiperf",
    )
    done = run_here("perfmodel", "serve", "longcat-flash-h800", *asked, folder=tmp_path)
    assert done.returncode == 2
    assert "profile_export.jsonl" in done.stderr
    assert (tmp_path / "profile_export.jsonl").read_bytes() == before

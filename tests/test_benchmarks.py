"""``validate --data RESULT --scenario NAME``: files of other tools, compared with a simulation of the same run."""

import gzip
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from command import run_here
from typer.testing import CliRunner

from perfmodel.answers.serve import answer_serve
from perfmodel.cli import app
from perfmodel.errors import DataError, PerfModelError, SpecError
from perfmodel.load import load_scenario
from perfmodel.output.export.result import write_result
from perfmodel.output.export.vllm_result import result_values
from perfmodel.output.validation.page import validation_html
from perfmodel.spec.benchmarks.read import holds_benchmark, read_benchmarks
from perfmodel.validation.benchmarks import scenario_of
from perfmodel.validation.differences import differences
from perfmodel.validation.suites import run_suites

FILES = Path(__file__).resolve().parent / "data" / "traces"
WRITTEN = FILES.parent / "results"
YAML = """
model: qwen3-30b-a3b
cluster: h200-ib
engine: vllm
deployment: {attention_tp: 2, ep: 2}
workload: {request_rate: 4, num_requests: 60, input_tokens: 1000, output_tokens: {min: 20, max: 60}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    (place / "mine.yaml").write_text(YAML)
    return place


@pytest.fixture(scope="module")
def mine(folder):
    return str(folder / "mine.yaml")


@pytest.fixture(scope="module")
def served(mine):
    """Our own run as a result of vLLM's: with an open loop, and a client's cap on it."""
    overrides = ["workload.request_rate=30", "workload.max_concurrency=8"]
    return answer_serve(load_scenario(mine, overrides))


def written(folder, name, value):
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def figures(value, folder, name="run.json"):
    (found,) = read_benchmarks(written(folder, name, value))
    return found


# --- what each tool's file says ---------------------------------------------------------------------------------

TRTLLM = {
    "engine": {"model": "m", "backend": "Pytorch"},
    "world_info": {"tp_size": 2, "pp_size": 1, "ep_size": 2, "world_size": 2},
    "request_info": {
        "num_requests": 40, "avg_num_concurrent_requests": 7.6, "avg_input_length": 1000.0, "avg_output_length": 40.0,
    },
    "performance": {
        "total_latency_ms": 10000.0, "avg_request_latency_ms": 900.0, "request_throughput_req_s": 4.0,
        "system_output_throughput_tok_s": 160.0,
        "request_latency_percentiles_ms": {"p50": 880.0, "p90": 990.0, "p99": 1100.0, "average": 900.0},
    },
    "streaming_metrics": {
        "avg_ttft_ms": 70.0, "avg_tpot_ms": 12.0,
        "tpot_percentiles": {"p50": 11.0, "p90": 14.0, "p99": 15.0, "average": 12.0},
        "ttft_percentiles": {"p50": 65.0, "p90": 90.0, "p99": 120.0, "average": 70.0},
    },
}  # fmt: skip
"""As tensorrt_llm/bench/dataclasses/reporting.py writes it."""
LLMPERF = {
    "version": "2023-08-31", "name": "01-ai-Yi-1-5-34B-Chat_550_150_summary", "model": "01-ai/Yi-1.5-34B-Chat",
    "mean_input_tokens": 550, "num_concurrent_requests": 16,
    "results_inter_token_latency_s_quantiles_p50": 0.11326328822561353,
    "results_inter_token_latency_s_mean": 0.11350145435953386,
    "results_ttft_s_quantiles_p50": 6.561932362000334, "results_ttft_s_mean": 5.367653323758857,
    "results_end_to_end_latency_s_mean": 18.06960619555345,
    "results_number_input_tokens_mean": 550.0, "results_number_input_tokens_stddev": 0.0,
    "results_number_output_tokens_mean": 159.27678571428572,
    "results_number_output_tokens_stddev": 3.4957111983824953,
    "results_mean_output_throughput_token_per_s": 124.29275563556878,
    "results_num_completed_requests": 112, "results_num_completed_requests_per_min": 46.821420363866935,
}  # fmt: skip
"""Of a real one (ray-project/llmperf, benchmarks/results/yi/4xa10g/vllm)."""
INFERENCEX = {
    "hw": "h200", "tp": 2, "ep": 1, "dp_attention": "false", "conc": 4, "model": "m", "framework": "vllm",
    "precision": "fp8", "isl": 1000, "osl": 50, "tput_per_gpu": 900.0, "output_tput_per_gpu": 43.0,
    "mean_ttft": 0.093, "median_ttft": 0.08, "p99_ttft": 0.3, "median_tpot": 0.011, "median_intvty": 90.9,
    "median_itl": 0.0105, "median_e2el": 0.6,
}  # fmt: skip
"""As utils/process_result.py of InferenceX writes it."""
AIPERF = {
    "aiperf_version": "0.8.0", "request_count": {"unit": "requests", "avg": 30.0},
    "request_throughput": {"unit": "requests/sec", "avg": 9.9},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 396.0},
    "request_latency": {"unit": "ms", "avg": 1320.9, "p50": 1265.7, "p90": 2000.0, "p99": 2409.1},
    "time_to_first_token": {"unit": "ms", "avg": 336.9, "p50": 301.2, "p90": 700.0, "p99": 812.4},
    "inter_token_latency": {"unit": "ms", "avg": 30.1, "p50": 28.4, "p90": 40.0, "p99": 55.9},
    "input_sequence_length": {"unit": "tokens", "avg": 1000.0, "std": 100.0},
    "output_sequence_length": {"unit": "tokens", "avg": 40.0, "std": 0.0},
    "input_config": {"loadgen": {"concurrency": 5}},
}  # fmt: skip
SGLANG = {
    "backend": "sglang", "dataset_name": "random", "request_rate": 8.0, "max_concurrency": None, "duration": 10.0,
    "completed": 80, "total_input_tokens": 60000, "total_output_tokens": 3000, "random_input_len": 1000,
    "random_output_len": 50, "random_range_ratio": 0.5, "request_throughput": 8.0, "output_throughput": 300.0,
    "total_throughput": 6300.0, "mean_ttft_ms": 70.0, "median_ttft_ms": 66.0, "p99_ttft_ms": 120.0,
    "mean_tpot_ms": 8.0, "mean_itl_ms": 8.1, "mean_e2e_latency_ms": 400.0, "median_e2e_latency_ms": 390.0,
}  # fmt: skip
MLPERF = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Scheduled samples per second : 10.05
Completed samples per second : 9.98
Completed tokens per second: 3200.50
Mean latency (ns)               : 900000000
Result is : INVALID
  Performance constraints satisfied : NO

================================================
Additional Stats
================================================
Mean First Token latency (ns) : 300000000
50.00 percentile first token latency (ns) : 250000000
99.00 percentile first token latency (ns) : 850000000
99.00 percentile time to output token (ns) : 25000000

================================================
Test Parameters Used
================================================
target_qps : 10
"""


def test_trtllm_bench(folder):
    run = figures(TRTLLM, folder)
    assert run.figures["ttft_s.p90"] == pytest.approx(0.09)
    assert run.figures["tpot_s.mean"] == pytest.approx(0.012)
    assert run.figures["e2e_s.p99"] == pytest.approx(1.1)
    assert run.figures["output_tokens_per_s"] == 160.0
    assert run.workload == {
        "num_requests": 40, "input_tokens": 1000, "output_tokens": 40, "request_rate": "inf", "max_concurrency": 8,
    }  # fmt: skip
    assert run.num_gpus == 2


def test_llmperf_counts_the_first_token(folder):
    run = figures(LLMPERF, folder)
    assert "tpot_s.mean" not in run.figures
    tokens = LLMPERF["results_number_output_tokens_mean"]
    assert run.figures["tpot_incl_s.mean"] * tokens == pytest.approx(run.figures["e2e_s.mean"], rel=1e-3)
    assert run.figures["requests_per_s"] == pytest.approx(46.821420363866935 / 60)
    assert run.workload["output_tokens"] == {
        "mean": tokens,
        "std": LLMPERF["results_number_output_tokens_stddev"],
    }
    assert (run.workload["input_tokens"], run.workload["max_concurrency"]) == (550, 16)


def test_inferencex_is_in_seconds_and_counts_prompts(folder):
    aggregates = [
        INFERENCEX,
        {"conc": 4, "isl": 1000, "osl": 50, "metrics": {"tput_per_gpu": 9.0, "mean_ttft": 1.5}},
    ]
    runs = read_benchmarks(written(folder, "agg.json", aggregates))
    assert runs[0].figures["ttft_s.p50"] == 0.08
    assert runs[0].figures["total_tokens_per_s_per_gpu"] == 900.0
    assert runs[0].workload["num_requests"] == 40
    assert runs[0].workload["input_tokens"] == {"min": 800, "max": 1000}
    assert runs[0].num_gpus == 2
    assert runs[1].figures == {"ttft_s.mean": 1.5, "total_tokens_per_s_per_gpu": 9.0}


def test_aiperf_summary(folder):
    run = figures(AIPERF, folder)
    assert run.figures["tpot_s.p99"] == pytest.approx(0.0559)
    assert run.workload == {
        "num_requests": 30, "input_tokens": {"mean": 1000.0, "std": 100.0}, "output_tokens": 40,
        "request_rate": "inf", "max_concurrency": 5,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"time_to_first_token\.unit = parsecs"):
        figures(AIPERF | {"time_to_first_token": {"unit": "parsecs", "avg": 1.0}}, folder)


def test_aiperf_requests():
    (run,) = read_benchmarks(FILES / "aiperf_records.jsonl")
    assert run.figures["ttft_s.p99"] == pytest.approx(0.2558)
    assert run.figures["e2e_s.mean"] == pytest.approx(1.2001)
    assert run.figures["output_tokens_per_s"] == pytest.approx(300 / 3.0)
    assert run.workload == {"trace": str(FILES / "aiperf_records.jsonl")}


def test_sglang_summary_with_its_range(folder):
    run = figures(SGLANG, folder)
    assert run.writer == "SGLang's bench_serving"
    assert run.figures["e2e_s.p50"] == 0.39
    assert run.workload == {
        "num_requests": 80, "input_tokens": {"min": 500, "max": 1000}, "output_tokens": {"min": 25, "max": 50},
        "request_rate": 8.0,
    }  # fmt: skip


def test_several_in_one_file(folder):
    lines = "\n".join(json.dumps(SGLANG | {"request_rate": rate}) for rate in (1.0, 2.0, "inf"))
    runs = read_benchmarks(written(folder, "sweep.jsonl", lines))
    assert [run.workload["request_rate"] for run in runs] == [1.0, 2.0, "inf"]
    assert len({run.label for run in runs}) == 3


def test_guidellm_names_tpot_inter_token_latency():
    (run,) = read_benchmarks(FILES / "guidellm_skeleton.json")
    assert run.figures == pytest.approx(
        {"ttft_s.mean": 0.12, "tpot_s.mean": 0.02, "tpot_incl_s.mean": 0.021, "e2e_s.mean": 2.1}
    )
    assert run.workload == {
        "trace": str(FILES / "guidellm_skeleton.json"), "trace_format": "guidellm", "result_index": 0,
    }  # fmt: skip
    assert "1 of 100 requests" in run.assumed[0]


def test_mlperf_summary(folder, mine):
    path = written(folder, "mlperf_log_summary.txt", MLPERF)
    assert holds_benchmark(path)
    (run,) = read_benchmarks(path)
    assert run.figures == pytest.approx(
        {
            "e2e_s.mean": 0.9, "ttft_s.mean": 0.3, "ttft_s.p50": 0.25, "ttft_s.p99": 0.85, "tpot_s.p99": 0.025,
            "requests_per_s": 9.98, "output_tokens_per_s": 3200.5,
        }
    )  # fmt: skip
    built, assumed = scenario_of(run, mine)
    assert built.workload.request_rate == 10.05
    assert built.workload.input_tokens.value == 1000
    assert any("the scenario's" in text and "input_tokens: 1000" in text for text in assumed)


def test_a_run_that_did_not_stream_has_no_ttft():
    (run,) = read_benchmarks(FILES / "vllm_06_nostream.json")
    assert set(run.figures) == {"requests_per_s", "output_tokens_per_s"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"elapsed_time": 1, "num_requests": 1, "requests_per_second": 1, "tokens_per_second": 1}', "throughput"),
        ('{"some": "thing"}', "no result that is known"),
        ('{"completed": 1, "mean_ttft_ms": true}', "mean_ttft_ms = True"),
        ('{"completed": 1, "mean_ttft_ms": -3}', "mean_ttft_ms = -3"),
        ('{"completed": 1, "mean_ttft_ms": "soon"}', "mean_ttft_ms = soon"),
        ('{"completed": 1, "mean_ttft_ms": 0}', "no latency and no throughput"),
        ('{"completed": 1, "mean_ttft_ms"', "not valid JSON"),
        ("[]", "holds no run"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(folder, text, says):
    with pytest.raises(DataError, match=says) as told:
        read_benchmarks(written(folder, "bad.json", text))
    assert "\n" not in str(told.value)


# --- against the simulation -------------------------------------------------------------------------------------


def test_our_own_result_agrees_with_itself(served, folder, mine):
    """Arrivals, lengths, cap and figures go out and come back: every row is the simulation's own figure."""
    path = folder / "ours.json"
    write_result(served, path)
    result = run_suites(data=path, scenario=mine)
    rows = {row.quantity: row for row in result.rows}
    assert {
        "ttft_s",
        "ttft_p99_s",
        "tpot_median_s",
        "itl_p90_s",
        "e2e_s",
        "requests_per_s",
        "client_wait_s",
    } <= set(rows)
    for row in rows.values():
        assert row.predicted == pytest.approx(row.measured, rel=1e-6), row.quantity
        assert (row.role, row.suite, row.model) == ("user", "data", "qwen3-30b-a3b")
        assert row.quantity.startswith("client_wait") or row.low <= row.predicted <= row.high
    (run,) = result.runs
    assert [one.cause for one in run.differences] == ["none"]
    assert run.benchmark.workload["result_index"] == 0
    values = json.loads(json.dumps(result.values))
    assert values["runs"][0]["suggests"][0]["cause"] == "none"


def test_requests_give_the_percentiles_that_a_summary_leaves_out(served, folder):
    value = result_values(served)
    whole = figures(value, folder).figures
    bare = {key: one for key, one in value.items() if not key.endswith("_ms")}
    for key, one in figures(bare, folder).figures.items():
        assert one == pytest.approx(whole[key], rel=1e-3 if key.startswith("itl") else 1e-6), key


def test_slower_steps_are_told_as_decode(served, folder, mine):
    value = result_values(served)
    value = {key: one for key, one in value.items() if key not in ("itls", "latencies")}
    for key in value:
        if "tpot" in key or "itl" in key:
            value[key] *= 1.5
    path = written(folder, "slow.json", value)
    (run,) = run_suites(data=path, scenario=mine).runs
    assert [one.cause for one in run.differences] == ["decode"]
    assert "1.50 times" in run.differences[0].text


BASE = {
    "ttft_s.p5": 0.05, "ttft_s.p50": 0.1, "ttft_s.p99": 0.4, "tpot_s.p50": 0.01, "tpot_s.mean": 0.01,
    "itl_s.mean": 0.01, "e2e_s.mean": 1.0, "requests_per_s": 10.0, "queue_s.p50": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "causes"),
    [
        ({}, ["none"]),
        ({"tpot_s.p50": 0.02}, ["decode"]),
        ({"ttft_s.p5": 0.1, "ttft_s.p50": 0.2, "ttft_s.p99": 0.8}, ["prefill"]),
        ({"ttft_s.p99": 1.2}, ["queue"]),
        ({"ttft_s.p99": 0.2}, ["queue"]),
        ({"requests_per_s": 5.0}, ["client"]),
        ({"itl_s.mean": 0.03}, ["client"]),
        ({"requests_per_s": 15.0}, ["throughput"]),
    ],
)
def test_what_a_difference_suggests(changed, causes):
    assert [one.cause for one in differences(BASE | changed, BASE)] == causes


def test_a_cap_that_is_not_filled_is_the_clients():
    found = differences(BASE, BASE, max_concurrency=20)
    assert [one.cause for one in found] == ["client"]
    assert "10.0 requests were in flight" in found[0].text
    assert [one.cause for one in differences(BASE, BASE, max_concurrency=10)] == ["none"]


def test_csv_needs_only_what_is_there(folder, mine):
    path = written(folder, "m.csv", "concurrency,isl,ttft_ms,output_tok_s\n4,500,50,400\n8,,60,\n")
    result = run_suites(data=path, scenario=mine, overrides=["workload.output_tokens=40"])
    assert [(row.id, row.quantity) for row in result.rows] == [
        ("line 2", "ttft_s"), ("line 2", "output_tokens_per_s"), ("line 3", "ttft_s"),
    ]  # fmt: skip
    asked = ["workload.request_rate=inf", "workload.max_concurrency=4", "workload.input_tokens=500",
             "workload.output_tokens=40"]  # fmt: skip
    values = answer_serve(load_scenario(mine, asked)).values
    assert result.rows[0].predicted == values["ttft_s"]["mean"]
    assert result.rows[1].predicted == values["output_tokens_per_s"]
    assert result.runs[1].assumed == (
        "the scenario's, as the run does not state them: num_requests: 60, input_tokens: 1000",
    )


def test_csv_with_a_scenario_column(folder, mine):
    text = "id,scenario,request_rate,num_prompts,set,tpot_ms\na,mine.yaml,5,20,deployment.ep=1,8\n"
    result = run_suites(data=written(folder, "s.csv", text))
    asked = ["workload.request_rate=5", "workload.num_requests=20", "deployment.ep=1"]
    expected = answer_serve(load_scenario(mine, asked)).values["tpot_s"]["mean"]
    assert result.rows[0].predicted == expected
    with pytest.raises(SpecError, match="row b names no scenario"):
        run_suites(data=written(folder, "t.csv", text + "b,,5,20,,8\n"))
    with pytest.raises(
        DataError, match="unknown column 'system' beside those of a file of runs; the scenario says that"
    ):
        run_suites(data=written(folder, "u.csv", "system,ttft_ms\nh200-ib,5\n"), scenario=mine)


def test_a_result_needs_a_scenario_and_a_scenario_data(folder, mine):
    with pytest.raises(SpecError, match="is a result of trtllm-bench: give --scenario"):
        run_suites(data=written(folder, "trt.json", TRTLLM))
    with pytest.raises(SpecError, match="give --data FILE"):
        run_suites(scenario=mine)
    with pytest.raises(PerfModelError, match="no-such"):
        run_suites(data=folder / "trt.json", scenario="no-such")


def test_a_run_that_can_not_be_simulated_keeps_its_rows(folder, mine):
    far = {**TRTLLM, "request_info": {**TRTLLM["request_info"], "avg_input_length": 9e5}}
    path = written(folder, "far.json", [TRTLLM, far])
    result = run_suites(data=path, scenario=mine)
    assert {row.id for row in result.rows if row.predicted is None} == {"far.json[1]"}
    assert all("positions" in row.reason for row in result.rows if row.id == "far.json[1]")
    assert "the file says" not in " ".join(result.runs[0].assumed)


def test_command_line_and_page(served, folder, mine, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path = folder / "ours.json"
    write_result(served, path)
    page = folder / "page.html"
    run = CliRunner().invoke(
        app,
        ["validate", "--data", str(path), "--scenario", mine, "--html", str(page)],
        catch_exceptions=False,
    )
    assert run.exit_code == 0
    assert "vLLM's bench serve" in run.stdout
    for word in ("TTFT", "measured", "simulated", "difference", "agrees within 10%"):
        assert word in run.stdout
    text = page.read_text()
    assert 'id="figure-run-0"' in text
    assert "agrees within 10%" in text
    assert f"--scenario {mine}" in text
    over = CliRunner().invoke(app, ["validate", "--data", str(path), "--scenario", mine, "--html", mine])
    assert over.exit_code == 2 or isinstance(over.exception, PerfModelError)
    assert Path(mine).read_text() == YAML


def test_a_hostile_label_stays_text_on_the_page(folder, mine):
    label = "</script><img src=x onerror=alert(1)>"
    value = [SGLANG | {"request_rate": 8.0, "max_concurrency": 4}, INFERENCEX | {"hw": label}]
    result = run_suites(data=written(folder, "hostile.json", value), scenario=mine)
    assert "<img src=x" not in validation_html(result)
    assert len(result.runs) == 2


# --- the wait at the client -------------------------------------------------------------------------------------


def test_client_wait_is_what_a_cap_adds(mine, served):
    """A request's wait by hand: it is ready when it is drawn, and sent when the first slot is free."""
    requests, records = served.served.requests, served.served.records
    ends, sent = [], []
    for ready, end in zip(requests.arrival_s, records.end_s, strict=True):
        free = sorted(ends)[-8] if len(ends) >= 8 else 0.0
        sent.append(max(ready, free))
        ends.append(end)
    waits = np.array(sent) - requests.arrival_s
    assert served.values["client_wait_s"]["mean"] == pytest.approx(waits.mean(), rel=1e-9)
    assert served.values["client_wait_s"]["p99"] == pytest.approx(np.percentile(waits, 99), rel=1e-9)
    assert waits.mean() > 0.1
    assert any("holds the traffic back" in text for text in served.values["warnings"])


@pytest.mark.parametrize("cap", [[], ["workload.max_concurrency=8", "workload.request_rate=inf"]])
def test_no_cap_or_a_closed_loop_has_no_client_wait(mine, cap):
    values = answer_serve(load_scenario(mine, cap)).values
    assert values["client_wait_s"] is None
    assert not any("holds the traffic back" in text for text in values["warnings"])


# --- the page ---------------------------------------------------------------------------------------------------


def test_commands_of_the_page_run_in_turn(tmp_path):
    """Those of docs/bring_your_own.md build on each other's files."""
    page = (FILES.parents[2] / "docs" / "bring_your_own.md").read_text()
    commands = re.findall(r"^    (perfmodel .*)$", page, flags=re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        done = run_here(*shlex.split(command), folder=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (tmp_path / "compared.html").exists()
    (table,) = re.findall(r"```csv\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "table.csv").write_text(table)
    done = run_here(
        "perfmodel", "validate", "--data", "table.csv", "--scenario", "mine.yaml", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("perfmodel serve longcat-flash-h800-", "longcat-flash-h800-pd"),
        ("perfmodel validate --suite kern", "kernels"),
    ],
)
def test_a_shell_completes_names(words, found, monkeypatch):
    env = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_PERFMODEL_COMPLETE": "complete_bash",
    }
    done = CliRunner().invoke(app, [], prog_name="perfmodel", env=env)
    assert found in done.stdout.split()


def test_guidellms_table_says_what_its_report_says(tmp_path):
    """Both written by GuideLLM 0.8.1 of one run."""
    path = tmp_path / "benchmarks.csv"
    path.write_bytes(gzip.decompress((WRITTEN / "guidellm_0.8.1.csv.gz").read_bytes()))
    (table,), (report,) = read_benchmarks(path), read_benchmarks(WRITTEN / "guidellm_0.8.1.json.gz")
    assert holds_benchmark(path)
    assert table.figures == pytest.approx(report.figures)
    assert (table.writer, table.workload["max_concurrency"]) == ("GuideLLM", 2)
    assert (table.workload["input_tokens"], table.workload["output_tokens"]) == (57, 12)
    assert table.workload["num_requests"] == 10


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: "\n".join(text.splitlines()[:3]), "without a benchmark"),
        (lambda text: text[: len(text) // 3 * 2], "cut off"),
        (lambda text: text.replace("[0.16121244430541992, ", "[", 1), "must be a list of 11"),
        (
            lambda text: text.replace("0.1618536949157715", "soon"),
            "Request Latency, Successful Sec, Mean = soon",
        ),
        (lambda text: text.replace("concurrent@2", "concurrent@many"), "Strategy = many"),
        (lambda text: text.replace("51.36826038360596", "-1"), "time_to_first_token_ms"),
    ],
)
def test_a_table_of_guidellms_that_is_broken(spoil, message, tmp_path):
    path = tmp_path / "benchmarks.csv"
    path.write_text(spoil(gzip.decompress((WRITTEN / "guidellm_0.8.1.csv.gz").read_bytes()).decode()))
    with pytest.raises(DataError, match=re.escape(message)):
        read_benchmarks(path)

"""What other tools really write: GuideLLM and AIPerf measure a small server whose pace is known, and are read.

They run where they are installed: in ``.venv-writers`` (``pip install guidellm aiperf``; gigabytes, so no target makes
it) or in the folders that PERFMODEL_WRITERS lists. What they wrote once is in tests/data/results, and is read always.
"""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from perfmodel.spec.benchmarks.read import read_benchmarks
from perfmodel.spec.traces.read import read_trace
from perfmodel.validation.benchmarks import scenario_of

TESTS = Path(__file__).resolve().parent
FILES = TESTS / "data" / "results"
FIRST_S, NEXT_S, TOKENS, STREAMS = 0.05, 0.01, 12, 2
LATE_S = 0.2
"""By which a busy machine may be late, per request."""
REVISION = "0123456789" * 4


def checked(run, requests, *, late_s=LATE_S):
    """The server's pace is a floor of what any client measures, by each tool's own definition translated to ours."""
    assert FIRST_S <= run.figures["ttft_s.p50"] < FIRST_S + late_s
    assert 0.8 * NEXT_S <= run.figures["tpot_s.p50"] < NEXT_S + late_s / TOKENS
    expected = run.figures["ttft_s.mean"] + (TOKENS - 1) * run.figures["tpot_s.mean"]
    assert run.figures["e2e_s.mean"] == pytest.approx(expected, rel=0.03)
    assert run.figures["output_tokens_per_s"] == pytest.approx(
        TOKENS * run.figures["requests_per_s"], rel=0.02
    )
    trace = read_trace(run.workload["trace"], run.workload.get("trace_format", "auto"))
    assert trace.num_requests == requests
    assert set(trace.output_tokens) == {TOKENS}
    built, _ = scenario_of(run, "gpt-oss-120b-h100")
    assert built.workload.trace == run.workload["trace"]


def test_guidellms_report_as_it_was_written(tmp_path):
    (run,) = read_benchmarks(FILES / "guidellm_0.8.1.json.gz")
    checked(run, 10, late_s=0.01)
    assert run.figures["tpot_incl_s.mean"] * TOKENS == pytest.approx(run.figures["e2e_s.mean"], rel=0.01)
    trace = read_trace(run.workload["trace"])
    assert trace.format == "guidellm"
    assert trace.max_concurrency == STREAMS
    assert trace.e2e_s.mean() == pytest.approx(run.figures["e2e_s.mean"], rel=0.01)


def test_aiperfs_export_as_it_was_written(tmp_path):
    for name, as_name in (
        ("summary.json", "profile_export_aiperf.json"),
        ("requests.jsonl", "profile_export.jsonl"),
    ):
        shutil.copy(FILES / f"aiperf_0.13.0_{name}.gz", tmp_path / as_name)
    (run,) = read_benchmarks(tmp_path / "profile_export_aiperf.json")
    checked(run, 12)
    assert run.workload == {
        "trace": str(tmp_path / "profile_export.jsonl"), "request_rate": "inf", "max_concurrency": STREAMS,
    }  # fmt: skip
    (alone,) = read_benchmarks(tmp_path / "profile_export.jsonl")
    for key in ("ttft_s.mean", "tpot_s.p90", "itl_s.p99", "e2e_s.p50"):
        assert alone.figures[key] == pytest.approx(run.figures[key], rel=1e-6), key
    (tmp_path / "profile_export.jsonl").unlink()
    (summary,) = read_benchmarks(tmp_path / "profile_export_aiperf.json")
    assert summary.workload["max_concurrency"] == STREAMS
    assert summary.workload["output_tokens"] == TOKENS


def test_sglangs_result_as_it_was_written():
    """Its rate of infinity is a number that JSON has not."""
    (run,) = read_benchmarks(FILES / "sglang_0.5.9.jsonl.gz")
    checked(run, 12)
    assert run.workload["request_rate"] == "inf"
    assert run.workload["max_concurrency"] == STREAMS


# --- the tools themselves ---------------------------------------------------------------------------------------


def tool(name):
    """Its program, or a skip that says how to have it."""
    places = [
        TESTS.parent / ".venv-writers" / "bin",
        *map(Path, os.environ.get("PERFMODEL_WRITERS", "").split(":")),
    ]
    found = next((place / name for place in places if (place / name).is_file()), None)
    if found is None:
        pytest.skip(
            f"{name} is not installed: pip install it into .venv-writers, or name its bin in PERFMODEL_WRITERS"
        )
    return str(found)


@contextmanager
def server():
    """Its address."""
    command = [sys.executable, str(TESTS / "openai_server.py"), str(FIRST_S), str(NEXT_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()
            process.wait(10)


def run(command, folder, **env):
    # offline: their tokenizers and data sets are of this machine
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        **env,
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def write_words(tmp_path):
    """A tokenizer of two words where the hub's cache would have it."""
    snapshot = tmp_path / "hf" / "hub" / "models--local--words"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text(REVISION)
    folder = snapshot / "snapshots" / REVISION
    folder.mkdir(parents=True)
    words = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "word": 1, "a": 2}, "unk_token": "[UNK]"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(words))
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def test_guidellm_measures_the_server(tmp_path):
    program = tool("guidellm")
    row = json.dumps({"prompt": "word " * 50, "output_tokens_count": TOKENS})
    (tmp_path / "prompts.jsonl").write_text(f"{row}\n" * 20)
    with server() as address:
        run(
            [program, "run", "--backend", f"kind=openai_http,target={address}", "--profile",
             f"kind=concurrent,streams={STREAMS}", "--constraint", "kind=max_requests,count=10", "--data",
             "kind=json_file,path=prompts.jsonl", "--output", "kind=json,path=report.json", "--disable-console"],
            tmp_path,
        )  # fmt: skip
    (found,) = read_benchmarks(tmp_path / "report.json")
    checked(found, 10)
    assert read_trace(str(tmp_path / "report.json")).max_concurrency == STREAMS


def test_sglangs_client_measures_the_server(tmp_path):
    """The client alone: `pip install --no-deps sglang` and what its import asks for, beside aiperf."""
    python = Path(tool("aiperf")).with_name("python")
    if subprocess.run(
        [python, "-c", "import sglang.bench_serving"], capture_output=True, check=False
    ).returncode:
        pytest.skip("sglang.bench_serving can't be imported beside aiperf")
    write_words(tmp_path)
    with server() as address:
        run(
            [str(python), "-m", "sglang.bench_serving", "--backend", "sglang-oai", "--base-url", address, "--model",
             "small", "--tokenizer", "local/words", "--dataset-name", "random-ids", "--random-input-len", "40",
             "--random-output-len", str(TOKENS), "--random-range-ratio", "1.0", "--num-prompts", "12",
             "--max-concurrency", str(STREAMS), "--output-file", "out.jsonl", "--output-details"],
            tmp_path,
        )  # fmt: skip
    (found,) = read_benchmarks(tmp_path / "out.jsonl")
    checked(found, 12)


def test_aiperf_measures_the_server(tmp_path):
    program = tool("aiperf")
    write_words(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"text": "word word word word"}\n' * 12)
    with server() as address:
        run(
            [program, "profile", "--model", "small", "--url", address, "--endpoint-type", "chat", "--streaming",
             "--concurrency", str(STREAMS), "--request-count", "12", "--input-file", "prompts.jsonl",
             "--custom-dataset-type", "single_turn", "--tokenizer", "local/words", "--use-server-token-count",
             "--output-artifact-dir", "out", "--extra-inputs", f"max_tokens:{TOKENS}", "--ui", "none"],
            tmp_path,
        )  # fmt: skip
    (found,) = read_benchmarks(tmp_path / "out" / "profile_export_aiperf.json")
    checked(found, 12)
    assert found.workload["max_concurrency"] == STREAMS

"""A file of measured runs, whoever wrote it: told by its content, read into one list."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perfmodel.errors import DataError
from perfmodel.spec.benchmarks import aiperf, guidellm, guidellm_csv, summaries, vllm
from perfmodel.spec.benchmarks.measured import Benchmark
from perfmodel.spec.traces.files import guarded, opened
from perfmodel.spec.traces.foreign import writer_of
from perfmodel.spec.traces.results import MAX_RESULT_BYTES, documents, is_guidellm, runs_in

HEAD_BYTES = 4096
MAX_RUNS = 1000

READERS: tuple[tuple[Callable[[Any], bool], Callable[[Mapping[str, Any], Path, int], Benchmark]], ...] = (
    (summaries.is_inferencex, summaries.inferencex),
    (summaries.is_llmperf, summaries.llmperf),
    (summaries.is_trtllm, summaries.trtllm),
    (aiperf.recognises, aiperf.read),
    (vllm.recognises, vllm.read),
)
KNOWN = (
    "results of `vllm bench serve`, SGLang's bench_serving, GuideLLM, AIPerf, GenAI-Perf, LLMPerf, trtllm-bench, "
    "InferenceX or MLPerf"
)


def holds_benchmark(path: Path) -> bool:
    """Whether a file is one of those rather than a table of rows: JSON, MLPerf's summary or GuideLLM's own table. What
    can't be read is none.
    """
    try:
        head = _head(path)
    except DataError:
        return False
    told = summaries.MLPERF.encode() in head or head.startswith(guidellm_csv.HEAD)
    return told or head[:1] in (b"{", b"[")


def _head(path: Path) -> bytes:
    with opened(path) as file:
        return guarded(path, lambda: file.read(HEAD_BYTES)).removeprefix(b"\xef\xbb\xbf").lstrip()


def read_benchmarks(path: Path) -> list[Benchmark]:
    """The runs of a file, at least one.

    Raises:
        DataError: it can't be read, is of no known tool, or a value is not what it should be.
    """
    head = _head(path)
    if summaries.MLPERF.encode() in head:
        return [summaries.mlperf(_text(path), path)]
    if head.startswith(guidellm_csv.HEAD):
        rows = _few(guidellm_csv.runs_of(_text(path), path), path)
        return [_checked(guidellm.read(row, path, index), path) for index, row in enumerate(rows)]
    with opened(path) as file:
        values = documents(file, path)
    if not runs_in(values):
        raise DataError(f"--data {path}: holds no run; compared are {KNOWN}")
    if _is_aiperf_request(values[0]):
        with opened(path) as file:
            return [aiperf.read_requests(guarded(path, file.read).decode().splitlines(), path)]
    runs = _few(runs_in(values), path)
    found = [_read(value, path, index, report=is_guidellm(values[0])) for index, value in enumerate(runs)]
    return [_checked(one, path) for one in found]


def _text(path: Path) -> str:
    """All of a small file. Raises: DataError: it is none, or can't be read."""
    with opened(path) as file:
        raw: bytes = guarded(path, lambda: file.read(MAX_RESULT_BYTES + 1))
    if len(raw) > MAX_RESULT_BYTES:
        raise DataError(f"{path}: larger than {MAX_RESULT_BYTES:,} bytes: split it")
    return raw.decode("utf-8-sig", errors="replace")


def _few(runs: list[Any], path: Path) -> list[Any]:
    if len(runs) > MAX_RUNS:
        raise DataError(
            f"{path}: holds {len(runs):,} runs: at most {MAX_RUNS:,} are compared; split the file"
        )
    return runs


def _read(value: Any, path: Path, index: int, *, report: bool) -> Benchmark:
    if report and isinstance(value, Mapping):
        return guidellm.read(value, path, index)
    for recognises, read in READERS:
        if recognises(value):
            return read(value, path, index)
    told = writer_of(value)
    raise DataError(f"--data {path}: {told or 'is JSON, but no result that is known'}; compared are {KNOWN}")


def _checked(one: Benchmark, path: Path) -> Benchmark:
    if not one.figures:
        raise DataError(f"--data {path}: {one.writer}: has no latency and no throughput to compare")
    return one


def _is_aiperf_request(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("metadata"), Mapping) and "metrics" in value

"""Exports of AIPerf and of GenAI-Perf before it: a metric per key, each with its unit, mean and percentiles.

``inter_token_latency`` is (E2E - TTFT) / (n - 1) per request, our TPOT; ``inter_chunk_latency`` every gap between
chunks, our ITL [aiperf/metrics/types]. GenAI-Perf has the same keys, some versions under ``records``.
``profile_export.jsonl`` has one request per line (:mod:`perfmodel.spec.traces.dialects`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.errors import DataError
from perfmodel.spec.benchmarks.measured import (
    SECONDS,
    Benchmark,
    inside,
    keep,
    lengths,
    load_of,
    number,
    spread_figures,
)
from perfmodel.spec.paths import is_file
from perfmodel.spec.traces.files import guarded, opened
from perfmodel.spec.traces.trace import Floats

TIMES = {
    "time_to_first_token": "ttft_s",
    "inter_token_latency": "tpot_s",
    "inter_chunk_latency": "itl_s",
    "request_latency": "e2e_s",
}
REQUESTS = "profile_export.jsonl"
"""What AIPerf writes beside its summary."""
RATES = {"request_throughput": "requests_per_s", "output_token_throughput": "output_tokens_per_s"}
STATISTICS = {"avg": "mean", "p50": "p50", "p90": "p90", "p99": "p99"}
LENGTHS = {"input_sequence_length": "input_tokens", "output_sequence_length": "output_tokens"}


def recognises(value: Any) -> bool:
    """Whether a JSON value is a summary of either."""
    value = _metrics(value)
    return isinstance(inside(value, "request_latency"), Mapping) and "avg" in value["request_latency"]


def _metrics(value: Any) -> Any:
    """Where its metrics are."""
    records = inside(value, "records")
    return records if isinstance(records, Mapping) else value


def read(value: Mapping[str, Any], path: Path, index: int) -> Benchmark:
    """A summary.

    Raises:
        DataError: a value of another type, or a unit that is no time.
    """
    where, metrics = f"{path}: export {index}", _metrics(value)
    figures: dict[str, float | None] = {}
    for name, quantity in TIMES.items():
        own = inside(metrics, name) or {}
        for theirs, ours in STATISTICS.items():
            stated = number(inside(own, theirs), f"{name}.{theirs}", where)
            figures[f"{quantity}.{ours}"] = None if stated is None else stated * _unit(own, name, where)
    for name, ours in RATES.items():
        figures[ours] = number(inside(metrics, name, "avg"), name, where)
    loadgen = _loadgen(value)
    rate = number(loadgen.get("request_rate", loadgen.get("rate")), "request_rate", where)
    cap = number(loadgen.get("concurrency"), "concurrency", where)
    beside = path.parent / REQUESTS
    if is_file(beside):
        return _with_requests(beside, figures, loadgen, rate, cap)
    n = number(inside(metrics, "request_count", "avg"), "request_count", where)
    found: dict[str, Any] = {"num_requests": int(n)} if n else {}
    for name, ours in LENGTHS.items():
        mean, std = (number(inside(metrics, name, key), f"{name}.{key}", where) for key in ("avg", "std"))
        if mean:
            found[ours] = lengths(mean, std)
    assumed = [f"lengths by their mean and standard deviation (no {REQUESTS} beside it)"]
    if not rate and not cap:
        assumed.append("neither request_rate nor concurrency is in the file: all at once")
    return Benchmark(
        writer="AIPerf or GenAI-Perf",
        label=_in_words(loadgen),
        figures=keep(figures),
        workload={**found, **load_of(rate or np.inf, cap)},
        assumed=tuple(assumed),
    )


def _with_requests(
    beside: Path,
    figures: dict[str, float | None],
    loadgen: dict[str, Any],
    rate: float | None,
    cap: float | None,
) -> Benchmark:
    """A summary with the run's own requests: at their times where it had a rate, else as slots became free."""
    with opened(beside) as file:
        run = read_requests(guarded(beside, file.read).decode(errors="replace").splitlines(), beside)
    return replace(
        run,
        label=_in_words(loadgen),
        figures={**run.figures, **keep(figures)},
        workload={**run.workload, **({} if rate else load_of(np.inf, cap))},
        assumed=(f"requests: those of {REQUESTS} beside it",),
    )


def _in_words(loadgen: Mapping[str, Any]) -> str:
    keys = ("concurrency", "request_rate", "rate")
    return ", ".join(f"{key} {loadgen[key]}" for key in keys if loadgen.get(key))


def _loadgen(value: Mapping[str, Any]) -> dict[str, Any]:
    """The load as the run was asked for: AIPerf's profiling phase (older: ``loadgen``), GenAI-Perf's
    ``perf_analyzer.stimulus``.
    """
    config = inside(value, "input_config")
    phases = inside(config, "phases")
    for phase in phases if isinstance(phases, list) else []:
        if inside(phase, "kind") == "profiling":
            return dict(phase)
    found = inside(config, "loadgen")
    if isinstance(found, Mapping):
        return dict(found)
    stimulus = inside(config, "perf_analyzer", "stimulus")
    if isinstance(stimulus, Mapping):
        return dict(stimulus)
    return dict(config) if isinstance(config, Mapping) else {}


def _unit(own: Mapping[str, Any], name: str, where: str) -> float:
    unit = own.get("unit", "ms")
    if unit not in SECONDS:
        raise DataError(f"{where}: {name}.unit = {str(unit)[:20]}: must be one of {', '.join(SECONDS)}")
    return SECONDS[unit]


def read_requests(lines: Sequence[str], path: Path) -> Benchmark:
    """The requests of a ``profile_export.jsonl``, as a run at the times at which they were sent.

    Raises:
        DataError: a line that is none.
    """
    each: dict[str, list[float]] = {quantity: [] for quantity in TIMES.values()}
    starts, ends, tokens = [], [], 0.0
    for i, line in enumerate(filter(str.strip, lines)):
        where = f"{path}: line {i + 1}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not valid JSON: {error}") from error
        if inside(row, "error") or inside(row, "metadata", "benchmark_phase") not in (None, "profiling"):
            continue
        for name, quantity in TIMES.items():
            own = inside(row, "metrics", name) or {}
            stated = inside(own, "value")
            for one in stated if isinstance(stated, list) else [stated]:
                value = number(one, f"metrics.{name}", where)
                if value is not None:
                    each[quantity].append(value * _unit(own, name, where))
        starts.append(number(inside(row, "metadata", "request_start_ns"), "request_start_ns", where) or 0.0)
        ends.append(number(inside(row, "metadata", "request_end_ns"), "request_end_ns", where) or 0.0)
        tokens += number(inside(row, "metrics", "output_sequence_length", "value"), "output", where) or 0.0
    samples: dict[str, Floats] = {quantity: np.asarray(values) for quantity, values in each.items() if values}
    figures: dict[str, float] = {}
    for quantity, values in samples.items():
        figures |= spread_figures(quantity, values)
    span = (max(ends) - min(starts)) * SECONDS["ns"] if ends else 0.0
    if span > 0.0:
        figures |= {"requests_per_s": len(ends) / span, "output_tokens_per_s": tokens / span}
    return Benchmark(
        writer="AIPerf",
        label=f"{len(starts):,} requests",
        figures=keep(figures),
        samples={quantity: values for quantity, values in samples.items() if quantity != "itl_s"},
        workload={"trace": str(path.resolve())},
        assumed=(
            "requests are sent when they were: with a concurrency, state it: --set workload.max_concurrency=N --set "
            "workload.request_rate=inf",
        ),
    )

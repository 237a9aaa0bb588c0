"""Results of ``vllm bench serve`` and ``sglang.bench_serving``: one JSON object, in milliseconds and tokens.

Both define TTFT, TPOT and ITL alike [vllm/benchmarks/serve.py, python/sglang/bench_serving.py]; end-to-end times are
``e2el`` to one and ``e2e_latency`` to the other.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.spec.benchmarks.measured import (
    Benchmark,
    inside,
    keep,
    lengths,
    load_of,
    number,
    spread_figures,
)
from perfmodel.spec.traces.results import RESULT_KEYS, SGLANG_KEYS, in_words, read_results
from perfmodel.spec.traces.trace import Trace, Window
from perfmodel.units import MS

NAMES = {"ttft_s": ("ttft",), "tpot_s": ("tpot",), "itl_s": ("itl",), "e2e_s": ("e2el", "e2e_latency")}
STATISTICS = {"mean": "mean", "median": "p50", "p50": "p50", "p90": "p90", "p99": "p99"}
SUMMARY = ("output_throughput", "mean_ttft_ms")
"""Of which a result has one at least."""


def recognises(value: Any) -> bool:
    """Whether a JSON value is such a result."""
    return (
        isinstance(value, dict)
        and (any(key in value for key in SUMMARY) or ("input_lens" in value and "ttfts" in value))
        and any(key in value for key in RESULT_KEYS)
    )


def read(value: Mapping[str, Any], path: Path, index: int) -> Benchmark:
    """A result; ``index``: which one of the file.

    Raises:
        DataError: a value of another type, or requests that can't be read.
    """
    where = f"{path}: result {index}"
    sglang = any(key in value for key in SGLANG_KEYS)
    detailed = "input_lens" in value and "output_lens" in value
    trace = read_results([dict(value)], path, str(path), "auto", Window(), None) if detailed else None
    streamed = trace is None or trace.ttft_s is not None
    figures = {**_of_requests(value, trace, where), **_summary(value, where)}
    if not streamed:
        figures = {key: one for key, one in figures.items() if key.startswith("e2e_s") or "per_s" in key}
    return Benchmark(
        writer="SGLang's bench_serving" if sglang else "vLLM's bench serve",
        label=in_words(value),
        figures=keep(figures),
        samples={} if trace is None else _samples(trace),
        **_traffic(value, trace, path, index, where, sglang=sglang),
        num_gpus=_gpus(value, where),
    )


def _summary(value: Mapping[str, Any], where: str) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for quantity, names in NAMES.items():
        for theirs, ours in STATISTICS.items():
            for name in names:
                stated = number(value.get(key := f"{theirs}_{name}_ms"), key, where)
                if stated is not None:
                    found[f"{quantity}.{ours}"] = stated * MS
    for key, ours in (("output_throughput", "output_tokens_per_s"), ("request_throughput", "requests_per_s")):
        found[ours] = number(value.get(key), key, where)
    return found


def _samples(trace: Trace) -> dict[str, Any]:
    found = {"ttft_s": trace.ttft_s, "e2e_s": trace.e2e_s}
    if trace.ttft_s is not None and trace.e2e_s is not None:
        many = trace.output_tokens > 1
        found["tpot_s"] = (trace.e2e_s - trace.ttft_s)[many] / (trace.output_tokens[many] - 1)
    return {quantity: values for quantity, values in found.items() if values is not None and len(values)}


def _of_requests(value: Mapping[str, Any], trace: Trace | None, where: str) -> dict[str, float]:
    """What the file's requests give where its summary leaves a percentile out."""
    if trace is None:
        return {}
    found: dict[str, float] = {}
    for quantity, values in _samples(trace).items():
        found |= spread_figures(quantity, values)
    gaps = value.get("itls")
    if isinstance(gaps, list):  # trace.e2e_s has checked them
        pooled = [gap for own in gaps if isinstance(own, list) for gap in own]
        found |= spread_figures("itl_s", np.asarray(pooled, dtype=np.float64))
    waits = value.get("queue_times")
    if (
        isinstance(waits, list)
        and value.get("max_concurrency")
        and value.get("request_rate") not in (None, "inf")
    ):
        found |= spread_figures("client_wait_s", np.asarray(waits, dtype=np.float64))
    seconds = number(value.get("duration"), "duration", where)
    if seconds:
        found["requests_per_s"] = trace.num_requests / seconds
        found["output_tokens_per_s"] = float(trace.output_tokens.sum()) / seconds
    return found


def _traffic(
    value: Mapping[str, Any], trace: Trace | None, path: Path, index: int, where: str, *, sglang: bool
) -> dict[str, Any]:
    """``workload`` and ``assumed``."""
    rate = _rate(value.get("request_rate"), where)
    cap = number(value.get("max_concurrency"), "max_concurrency", where)
    burstiness = number(value.get("burstiness"), "burstiness", where)
    bursty = (
        {"burstiness": burstiness} if burstiness and burstiness != 1.0 and rate and np.isfinite(rate) else {}
    )
    if trace is not None:
        timed = trace.arrival_s is not None
        own = {} if timed else {**load_of(rate or np.inf, cap), **bursty}
        return {
            "workload": {"trace": str(path.resolve()), "result_index": index, **own},
            "assumed": () if timed or rate else ("request_rate is not in the file: all at once",),
        }
    n = number(value.get("completed", value.get("num_prompts")), "completed", where)
    assumed = []
    found: dict[str, Any] = {}
    drawn = sglang and str(value.get("dataset_name")).startswith("random")
    for ours, total, stated in (
        ("input_tokens", "total_input_tokens", "random_input_len"),
        ("output_tokens", "total_output_tokens", "random_output_len"),
    ):
        tokens = number(value.get(total), total, where)
        mean = tokens / n if tokens and n else None
        longest = number(value.get(stated), stated, where)
        ratio = number(value.get("random_range_ratio"), "random_range_ratio", where)
        if drawn and longest and ratio is not None and ratio < 1.0:
            found[ours] = {
                "min": max(1, round(longest * ratio)),
                "max": round(longest),
            }  # [r L, L], drawn evenly
        elif mean:
            found[ours] = lengths(mean)
            assumed.append(f"{ours}: all {found[ours]:,}, the run's mean (no requests in the file)")
    if rate is None:
        assumed.append("request_rate is not in the file: all at once")
    return {
        "workload": {
            **({"num_requests": int(n)} if n else {}),
            **found,
            **load_of(rate or np.inf, cap),
            **bursty,
        },
        "assumed": tuple(assumed),
    }


def _rate(value: Any, where: str) -> float | None:
    """Requests/s; infinite (a word to vLLM, a number to SGLang): all at once. None: not said."""
    return np.inf if value in ("inf", float("inf")) else number(value, "request_rate", where)


def _gpus(value: Mapping[str, Any], where: str) -> int | None:
    stated = number(inside(value, "num_gpus"), "num_gpus", where)
    return int(stated) if stated else None

"""GuideLLM's report (``benchmarks.json``): a list of benchmarks, each with distributions of its successful requests.

Its ``inter_token_latency_ms`` is (E2E - TTFT) / (n - 1) per request, our TPOT; its ``time_per_output_token_ms`` is E2E
over all n tokens; ``request_latency`` is in seconds [guidellm src/guidellm/schemas/request_stats.py].
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.spec.benchmarks.measured import Benchmark, inside, keep, lengths, load_of, number
from perfmodel.spec.traces.results import in_words
from perfmodel.units import MS

TIMES = {
    "time_to_first_token_ms": ("ttft_s", MS),
    "inter_token_latency_ms": ("tpot_s", MS),
    "time_per_output_token_ms": ("tpot_incl_s", MS),
    "request_latency": ("e2e_s", 1.0),
}
RATES = {"requests_per_second": "requests_per_s", "output_tokens_per_second": "output_tokens_per_s"}


def read(value: Mapping[str, Any], path: Path, index: int) -> Benchmark:
    """One benchmark of the report.

    Raises:
        DataError: a value of another type.
    """
    where = f"{path}: benchmark {index}"
    figures: dict[str, float | None] = {}
    for name, (quantity, unit) in TIMES.items():
        for statistic, keys in _STATISTICS.items():
            found = next((one for key in keys if (one := _of(value, name, *key)) is not None), None)
            stated = number(found, f"metrics.{name}.successful", where)
            figures[f"{quantity}.{statistic}"] = None if stated is None else stated * unit
    for name, ours in RATES.items():
        figures[ours] = number(_of(value, name, "mean"), f"metrics.{name}", where)
    return Benchmark(
        writer="GuideLLM", label=in_words(value), figures=keep(figures), **_traffic(value, path, index, where)
    )


_STATISTICS = {
    "mean": (("mean",),),
    "p50": (("percentiles", "p50"), ("median",)),
    "p90": (("percentiles", "p90"),),
    "p99": (("percentiles", "p99"),),
}


def _of(value: Mapping[str, Any], name: str, *keys: str) -> Any:
    return inside(value, "metrics", name, "successful", *keys)


def _traffic(value: Mapping[str, Any], path: Path, index: int, where: str) -> dict[str, Any]:
    """``workload`` and ``assumed``: its requests where the report holds them, else its counts and means."""
    found = inside(value, "requests", "successful")
    totals = number(inside(value, "metrics", "request_totals", "successful"), "metrics.request_totals", where)
    if isinstance(found, list) and found:
        assumed: tuple[str, ...] = ()
        if totals and len(found) < totals:
            assumed = (
                f"the report holds {len(found):,} of {int(totals):,} requests: those alone are simulated",
            )
        own = {"trace": str(path.resolve()), "trace_format": "guidellm", "result_index": index}
        return {"workload": own, "assumed": assumed}
    strategy = inside(value, "config", "strategy") or {}
    streams = number(inside(strategy, "streams"), "config.strategy.streams", where)
    rate = number(inside(strategy, "rate"), "config.strategy.rate", where)
    means = {
        ours: lengths(number(_of(value, name, "mean"), f"metrics.{name}", where))
        for ours, name in (("input_tokens", "prompt_token_count"), ("output_tokens", "output_token_count"))
    }
    known = {key: one for key, one in means.items() if one is not None}
    return {
        "workload": {
            **({"num_requests": int(totals)} if totals else {}),
            **known,
            **load_of(rate or np.inf, streams),
        },
        "assumed": tuple(
            f"{key}: all {one:,}, the run's mean (no requests in the file)" for key, one in known.items()
        ),
    }

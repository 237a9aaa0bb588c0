"""A serving simulation as GuideLLM's report (``benchmarks.json``): one benchmark, with all its requests.

Keys, units and definitions are GuideLLM's (version 0.8, whose own ``GenerativeBenchmarksReport`` takes it):
``inter_token_latency_ms`` is (E2E - TTFT) / (n - 1) per request, ``time_per_output_token_ms`` E2E over all n tokens,
``request_latency`` in seconds. What it measures of its own client (queues, workers) is zero, and of text, pictures and
sound there is nothing.
"""

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel import __version__
from perfmodel.answers.serve import ServeAnswer
from perfmodel.output.export.judged import Floats, Judged
from perfmodel.serving.records import Records
from perfmodel.units import MS, PERCENT

PERCENTILES = {
    "p001": 0.1, "p01": 1.0, "p05": 5.0, "p10": 10.0, "p25": 25.0, "p50": 50.0, "p75": 75.0, "p90": 90.0, "p95": 95.0,
    "p99": 99.0, "p999": 99.9,
}  # fmt: skip
CLIENT = (
    "queued_time_avg", "resolve_start_delay_avg", "resolve_targeted_start_delay_avg", "request_start_delay_avg",
    "request_targeted_start_delay_avg", "resolve_end_delay_avg", "resolve_time_avg", "finalized_delay_avg",
    "processed_delay_avg",
)  # fmt: skip
"""What GuideLLM measures of itself, s."""
STATES = ("successful", "errored", "incomplete", "total")


def result_texts(answer: ServeAnswer, path: Path) -> dict[Path, str]:
    """The report, by file."""
    report = report_values(Judged.of(answer))
    return {path: json.dumps(report, allow_nan=False, separators=(",", ":")) + "\n"}


def report_values(judged: Judged) -> dict[str, Any]:
    """The report of one benchmark; times are seconds after the first arrival of the run."""
    values = judged.values
    return {
        "metadata": {
            "version": 2,
            "guidellm_version": f"perfmodel {__version__}",
            "python_version": platform.python_version(),
            "platform": sys.platform,
            "perfmodel": values["provenance"],
            "perfmodel_note": "simulated, not measured",
        },
        "config": {"metadata": {"labels": {}}, "spec": _asked(judged), "benchmarks": [None]},
        "benchmarks": [_benchmark(judged)],
    }


def _benchmark(judged: Judged) -> dict[str, Any]:
    records, n = judged.records, len(judged)
    start, end = float(records.arrival_s.min()), float(records.end_s.max())
    counts = {"successful": n, "errored": 0, "incomplete": 0, "total": n}
    spec = _asked(judged)
    return {
        "type_": "generative_benchmark",
        "config": {
            "id_": judged.answer.scenario.hash,
            "run_id": judged.answer.scenario.hash,
            "run_index": 0,
            "strategy": _strategy(judged),
            "constraints": {"max_requests": {"args": spec["constraints"][0]}},
            "profile": spec["profile"],
            "requests": {},
            "backend": spec["backend"],
            "environment": {},
        },
        "scheduler_state": {},
        "scheduler_metrics": {
            **{f"{name}start_time": start for name in ("", "request_", "measure_")},
            **{f"{name}end_time": end for name in ("", "request_", "measure_")},
            "requests_made": counts,
            "request_time_avg": float(judged.latencies[2].mean()),
            **dict.fromkeys(CLIENT, 0.0),
        },
        "metrics": {"request_totals": counts, **_metrics(judged)},
        "requests": {"successful": request_values(judged), "errored": [], "incomplete": [], "total": None},
        "start_time": start,
        "end_time": end,
        "duration": end - start,
        "warmup_duration": 0.0,
        "cooldown_duration": 0.0,
    }


def _metrics(judged: Judged) -> dict[str, Any]:
    records, values, n = judged.records, judged.values, len(judged)
    ttft, tpot, e2e = judged.latencies
    inputs, outputs = records.input_tokens.astype(float), records.output_tokens.astype(float)
    gpus, nothing, one = values["num_gpus"], _states(np.zeros(0)), _states(np.ones(n))
    return {
        "requests_per_second": _rate(values["requests_per_s"], n),
        "request_concurrency": _all(_in_flight(records)),
        "request_latency": _states(e2e),
        "request_streaming_iterations_count": _states(outputs),
        "prompt_token_count": _states(inputs),
        "output_token_count": _states(outputs),
        "total_token_count": _states(inputs + outputs),
        "time_to_first_token_ms": _states(ttft / MS),
        "time_to_first_output_token_ms": _states(ttft / MS),
        "time_per_output_token_ms": _states(e2e / outputs / MS),
        "inter_token_latency_ms": _states(tpot[np.isfinite(tpot)] / MS),
        "time_to_last_round_trip_ms": nothing,
        "avg_round_trip_time_ms": nothing,
        "prompt_tokens_per_second": _rate(values["input_tokens_per_s_per_gpu"] * gpus, n),
        "output_tokens_per_second": _rate(values["output_tokens_per_s"], n),
        "tokens_per_second": _rate(values["total_tokens_per_s_per_gpu"] * gpus, n),
        "output_tokens_per_iteration": one,
        "iter_tokens_per_iteration": one,
        "text": dict.fromkeys(("tokens", "words", "characters")),
        "image": dict.fromkeys(("tokens", "images", "pixels", "bytes")),
        "video": dict.fromkeys(("tokens", "frames", "seconds", "bytes")),
        "audio": dict.fromkeys(("tokens", "samples", "seconds", "bytes")),
        "tool_call": dict.fromkeys(("tokens", "mixed_tokens", "count")),
    }


def request_values(judged: Judged) -> list[dict[str, Any]]:
    """``requests.successful``: one entry per request."""
    records = judged.records
    ttft, tpot, e2e = judged.latencies
    found = []
    for i in range(len(judged)):
        prompt, output = int(records.input_tokens[i]), int(records.output_tokens[i])
        start, end = float(records.arrival_s[i]), float(records.end_s[i])
        first = start + float(ttft[i])
        timings = {
            "request_start": start,
            "first_request_iteration": first,
            "first_token_iteration": first,
            "last_token_iteration": end,
            "last_request_iteration": end,
            "request_end": end,
            "token_iterations": output,
        }
        found.append(
            {
                "type_": "generative_request_stats",
                "request_id": str(i),
                "info": {"request_id": str(i), "status": "completed", "timings": timings},
                "input_metrics": {"text_tokens": prompt, "total_tokens": prompt},
                "output_metrics": {"text_tokens": output, "total_tokens": output},
                "request_start_time": start,
                "request_end_time": end,
                "request_latency": float(e2e[i]),
                "prompt_tokens": prompt,
                "output_tokens": output,
                "total_tokens": prompt + output,
                "time_to_first_token_ms": float(ttft[i]) / MS,
                "time_per_output_token_ms": float(e2e[i]) / output / MS,
                "inter_token_latency_ms": float(tpot[i]) / MS if np.isfinite(tpot[i]) else None,
                "tokens_per_second": (prompt + output) / float(e2e[i]),
                "output_tokens_per_second": output / float(e2e[i]),
            }
        )
    return found


def _strategy(judged: Judged) -> dict[str, Any]:
    """The load in GuideLLM's words: fixed streams are a closed loop, rates are Poisson's or constant."""
    workload, cap = judged.answer.scenario.workload, judged.answer.served.requests.max_concurrency
    rate = workload.rate
    if isinstance(rate, float | int) and np.isfinite(rate):
        kind = "constant" if workload.burstiness == "inf" else "poisson"
        return {"type_": kind, "rate": float(rate), "max_concurrency": cap}
    if cap is not None:
        return {"type_": "concurrent", "streams": cap, "max_concurrency": cap}
    return {"type_": "throughput", "max_concurrency": int(_in_flight(judged.records)["max"])}


def _asked(judged: Judged) -> dict[str, Any]:
    """What GuideLLM would have been told."""
    strategy = _strategy(judged)
    load: dict[str, Any] = {key: [strategy[key]] for key in ("streams", "rate") if key in strategy}
    profile: dict[str, Any] = {"kind": strategy["type_"], **load}
    if strategy["type_"] == "throughput":
        profile["max_concurrency"] = strategy["max_concurrency"]
    return {
        "backend": {"kind": "openai_http", "target": "perfmodel", "model": judged.values["model"]},
        "profile": profile,
        "constraints": [{"kind": "max_requests", "count": len(judged)}],
        "data": [{"kind": "synthetic_text", **_mean_lengths(judged)}],
    }


def _mean_lengths(judged: Judged) -> dict[str, int]:
    """Tokens of prompts and outputs, as its synthetic data are asked for."""
    records = judged.records
    return {
        "prompt_tokens": max(1, round(float(records.input_tokens.mean()))),
        "output_tokens": max(1, round(float(records.output_tokens.mean()))),
    }


def _states(values: Floats) -> dict[str, Any]:
    """A distribution by what became of the requests: all were successful."""
    return _all(_distribution(values))


def _rate(mean: float, count: int) -> dict[str, Any]:
    """A rate over the run as the distribution of one value; GuideLLM's own is over the gaps between ends."""
    return _states(np.full(count, mean))


def _all(whole: dict[str, Any]) -> dict[str, Any]:
    nothing = _distribution(np.zeros(0))
    return {state: whole if state in ("successful", "total") else nothing for state in STATES}


def _in_flight(records: Records) -> dict[str, Any]:
    """Requests in flight, each number as long as it was."""
    times = np.concatenate([records.end_s, records.arrival_s])
    change = np.repeat([-1, 1], len(records.arrival_s))
    order = np.lexsort((change, times))
    level, lasted = np.cumsum(change[order])[:-1].astype(float), np.diff(times[order])
    return _distribution(level, lasted)


def _distribution(values: Floats, weights: Floats | None = None) -> dict[str, Any]:
    """A distribution's summary, each value once or by its weight; of nothing it is zero, as GuideLLM has it."""
    weights = np.ones(len(values)) if weights is None else weights
    if not weights.sum():
        zeros = dict.fromkeys(("mean", "median", "mode", "variance", "std_dev", "min", "max"), 0.0)
        return {**zeros, "count": 0, "total_sum": 0.0, "percentiles": dict.fromkeys(PERCENTILES, 0.0)}
    order = np.argsort(values, kind="stable")
    ascending, upto = values[order], np.cumsum(weights[order])
    places = np.searchsorted(upto, np.array(list(PERCENTILES.values())) / PERCENT * upto[-1])
    found = ascending[np.minimum(places, len(ascending) - 1)]
    each, of = np.unique(values, return_inverse=True)
    mean = float(np.average(values, weights=weights))
    variance = float(np.average((values - mean) ** 2, weights=weights))
    return {
        "mean": mean,
        "median": float(ascending[min(int(np.searchsorted(upto, 0.5 * upto[-1])), len(ascending) - 1)]),
        "mode": float(each[np.bincount(of, weights).argmax()]),
        "variance": variance,
        "std_dev": variance**0.5,
        "min": float(ascending[0]),
        "max": float(ascending[-1]),
        "count": len(values),
        "total_sum": float((values * weights).sum()),
        "percentiles": dict(zip(PERCENTILES, found.tolist(), strict=True)),
    }

"""A serving simulation as AIPerf exports a run: a summary by metric, and ``profile_export.jsonl`` with the requests.

Keys, units and definitions are AIPerf's (schema 1.4 of version 0.13): ``inter_token_latency`` is (E2E - TTFT) / (n - 1)
per request, ``inter_chunk_latency`` every gap between outputs. What it measures of its own client (HTTP, credits) is
not there. GenAI-Perf's scripts read the same summary.
"""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.answers.serve import ServeAnswer
from perfmodel.economics.quantiles import spread, weighted_spread
from perfmodel.output.export.judged import Floats, Judged
from perfmodel.serving.records import Ints
from perfmodel.spec.benchmarks.aiperf import REQUESTS
from perfmodel.spec.traces.results import MAX_RESULT_BYTES
from perfmodel.units import MS, NS

SCHEMA = "1.4"
PERCENTILES = {f"p{q}": float(q) for q in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
REQUEST_BYTES = 700
"""About what a request takes without its gaps."""


def requests_file(path: Path) -> Path:
    """Where the requests of a summary are: under the name that AIPerf gives them, beside it."""
    return path.parent / REQUESTS


def result_texts(answer: ServeAnswer, path: Path) -> dict[Path, str]:
    """The summary and the requests, by file."""
    judged, now = Judged.of(answer), time.time()
    summary, lines = summary_values(judged, now), request_values(judged, now)
    written = (json.dumps(line, allow_nan=False, separators=(",", ":")) for line in lines)
    return {
        path: json.dumps(summary, allow_nan=False, indent=2) + "\n",
        requests_file(path): "\n".join(written) + "\n",
    }


def summary_values(judged: Judged, now: float) -> dict[str, Any]:
    """What ``profile_export_aiperf.json`` holds of a run that starts at ``now`` (s since 1970).

    A metric that no request has is left out.
    """
    records, values, scenario = judged.records, judged.values, judged.answer.scenario
    ttft, tpot, e2e = judged.latencies
    known = np.isfinite(tpot)
    inputs, outputs = records.input_tokens.astype(float), records.output_tokens.astype(float)
    metrics: dict[str, Any] = {
        "request_throughput": _one("requests/sec", values["requests_per_s"]),
        "request_latency": _spread("ms", e2e / MS),
        "request_count": _one("requests", float(len(judged))),
        "time_to_first_token": _spread("ms", ttft / MS),
        "inter_token_latency": _spread("ms", tpot[known] / MS),
        "output_token_throughput": _one("tokens/sec", values["output_tokens_per_s"]),
        "output_token_throughput_per_user": _spread("tokens/sec/user", 1.0 / tpot[known]),
        "output_sequence_length": _spread("tokens", outputs),
        "input_sequence_length": _spread("tokens", inputs),
        "output_token_count": _spread("tokens", outputs),
        "inter_chunk_latency": _spread("ms", records.gap_s / MS, records.gap_count),
        "benchmark_duration": _one("sec", values["duration_s"]),
        "total_isl": _one("tokens", float(inputs.sum())),
        "total_osl": _one("tokens", float(outputs.sum())),
        "total_output_tokens": _one("tokens", float(outputs.sum())),
        "total_token_throughput": _one(
            "tokens/sec", values["total_tokens_per_s_per_gpu"] * values["num_gpus"]
        ),
    }
    return {
        "schema_version": SCHEMA,
        "aiperf_version": None,
        "benchmark_id": scenario.hash,
        **{name: metric for name, metric in metrics.items() if metric is not None},
        "input_config": {
            "models": {"items": [{"name": values["model"]}]},
            "endpoint": {"type": "perfmodel", "streaming": True},
            "phases": [_phase(judged)],
        },
        "was_cancelled": False,
        "is_complete": True,
        "error_summary": [],
        "start_time": _stamp(now),
        "end_time": _stamp(now + values["duration_s"]),
        "perfmodel": values["provenance"],
        "perfmodel_note": "simulated, not measured",
    }


def request_values(judged: Judged, now: float) -> list[dict[str, Any]]:
    """The lines of ``profile_export.jsonl`` of a run that starts at ``now`` (s since 1970)."""
    records = judged.records
    ttft, tpot, e2e = judged.latencies
    gaps, note = judged.gaps("inter_chunk_latency", MAX_RESULT_BYTES - REQUEST_BYTES * len(judged))
    start_ns = round(now / NS)
    starts, ends = (
        (start_ns + np.round(one / NS).astype(np.int64)).tolist()
        for one in (records.arrival_s, records.end_s)
    )
    lines = []
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        metrics: dict[str, Any] = {
            "request_latency": {"value": float(e2e[i]) / MS, "unit": "ms"},
            "time_to_first_token": {"value": float(ttft[i]) / MS, "unit": "ms"},
            "input_sequence_length": {"value": int(records.input_tokens[i]), "unit": "tokens"},
            "output_sequence_length": {"value": int(records.output_tokens[i]), "unit": "tokens"},
            "output_token_count": {"value": int(records.output_tokens[i]), "unit": "tokens"},
        }
        if np.isfinite(tpot[i]):
            metrics["inter_token_latency"] = {"value": float(tpot[i]) / MS, "unit": "ms"}
        if gaps is not None:
            metrics["inter_chunk_latency"] = {"value": [gap / MS for gap in gaps[i]], "unit": "ms"}
        metadata = {
            "session_num": i,
            "x_request_id": str(i),
            "conversation_id": str(i),
            "turn_index": 0,
            "request_start_ns": start,
            "request_end_ns": end,
            "worker_id": "perfmodel",
            "record_processor_id": "perfmodel",
            "benchmark_phase": "profiling",
            "was_cancelled": False,
            "perfmodel_note": note,
        }
        lines.append({"metadata": metadata, "metrics": metrics, "error": None})
    return lines


def _phase(judged: Judged) -> dict[str, Any]:
    """The load as AIPerf's own configuration says it."""
    rate, cap = judged.answer.scenario.workload.rate, judged.answer.served.requests.max_concurrency
    open_loop = isinstance(rate, float | int) and np.isfinite(rate)
    return {
        "name": "profiling",
        "kind": "profiling",
        "type": "concurrency" if cap is not None and not open_loop else "request_rate",
        "requests": len(judged),
        **({"request_rate": float(rate)} if isinstance(rate, float | int) and open_loop else {}),
        **({"concurrency": cap} if cap is not None else {}),
    }


def _one(unit: str, value: float) -> dict[str, Any]:
    return {"unit": unit, "avg": value}


def _spread(unit: str, values: Floats, counts: Ints | None = None) -> dict[str, Any] | None:
    """A metric of many values, each once or ``counts`` times; None of none."""
    weights = np.ones(len(values), np.int64) if counts is None else counts
    given = values[weights > 0]
    found = spread(values, PERCENTILES) if counts is None else weighted_spread(values, counts, PERCENTILES)
    if found is None:
        return None
    mean = found.pop("mean")
    return {
        "unit": unit,
        "avg": mean,
        **found,
        "min": float(given.min()),
        "max": float(given.max()),
        "std": float(np.average((values - mean) ** 2, weights=weights) ** 0.5),
        "count": int(weights.sum()),
        "sum": mean * int(weights.sum()),
    }


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(timespec="microseconds")

"""A serving simulation as a result file of ``vllm bench serve --save-result --save-detailed``.

Scripts that plot measured results plot simulated ones too, and :mod:`perfmodel.spec.traces.results` reads them back as
a trace. Keys and definitions are vLLM's: summaries in milliseconds, lists of requests in seconds and tokens.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.answers.serve import ServeAnswer
from perfmodel.economics.quantiles import PERCENTILES
from perfmodel.economics.requests import Floats, client_waits, latencies
from perfmodel.errors import DataError
from perfmodel.files import atomic_write, check_writable
from perfmodel.serving.records import Ints, Records
from perfmodel.serving.token_gaps import request_gaps
from perfmodel.serving.window import counted, counted_rows
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.slo import Slo
from perfmodel.spec.traces.results import MAX_RESULT_BYTES
from perfmodel.spec.workload import Ramp, Workload
from perfmodel.units import MS

SUFFIX = ".json"
DECIMALS = 9
"""Of seconds in lists: a nanosecond, as a benchmark's clock has."""
GAP_BYTES = 13
"""Most that a gap below 100 s takes in the file, its comma included."""
REQUEST_BYTES = 110
"""About what a request takes in all other lists."""

STEP_GAPS = (
    "simulated, not measured. itls: between the ends of the steps that gave a request its tokens (with drafts several "
    "at once); steps that were advanced together share their mean"
)
SOME_EQUAL = "; of {} requests that lost their place, the mean gap, output_lens - 1 times"
NO_GAPS = (
    "simulated, not measured. itls: left out, too many; latencies has the end-to-end time of each request"
)


def check_result_file(path: Path) -> None:
    """Refuses a place that can't be written to, or another suffix than .json.

    Raises:
        DataError: either.
    """
    if path.suffix != SUFFIX:
        raise DataError(f"--result {path}: must end in {SUFFIX}")
    check_writable(path)


def write_result(answer: ServeAnswer, path: Path) -> None:
    """Writes the file, whole or not at all: strict JSON, ``inf`` as a word and unknown as null."""
    text = json.dumps(result_values(answer), allow_nan=False, separators=(",", ":"))
    atomic_write(path, text + "\n")


def result_values(answer: ServeAnswer) -> dict[str, Any]:
    """The keys of vLLM's result, with ``perfmodel`` (provenance) and ``perfmodel_note`` (what is not as vLLM has it).

    Requests stand in the order of ``--requests``. ``request_rate`` is null where a trace's own times are used, and
    ``request_goodput`` where no objective is stated; so are TPOT and ITL where every output is one token.
    """
    records = counted(
        answer.served.records, answer.scenario.workload
    )  # as a benchmark leaves its warm-ups out
    rows = counted_rows(answer.served.records, answer.scenario.workload)
    queued = client_waits(answer.served.requests, answer.served.records)[rows]
    values = answer.values
    inputs, outputs = int(records.input_tokens.sum()), int(records.output_tokens.sum())
    return {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": "perfmodel",
        "backend": "perfmodel",
        "label": values["scenario"],
        "model_id": values["model"],
        "tokenizer_id": None,
        "num_prompts": values["requests"],
        **_traffic(answer.scenario.workload),
        "max_concurrency": answer.served.requests.max_concurrency,
        "max_concurrent_requests": _most_in_flight(records),
        **_sizes(answer.scenario),
        "duration": values["duration_s"],
        "completed": values["completed"],
        "failed": values["requests"] - values["completed"],
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": values["requests_per_s"],
        "request_goodput": None if answer.scenario.slo == Slo() else values["goodput_requests_per_s"],
        "output_throughput": values["output_tokens_per_s"],
        "total_token_throughput": values["total_tokens_per_s_per_gpu"] * values["num_gpus"],
        **_summaries(records, values),
        "perfmodel": values["provenance"],
        **_lists(records, queued),
    }


def _sizes(scenario: Scenario) -> dict[str, int]:
    """GPUs and their parallel sizes in vLLM's words, whose product scripts divide by: attention groups of all replicas
    are data-parallel. Prefill replicas of another tensor-parallel size leave no such product; then each GPU is a rank.
    """
    gpus, deployment = scenario.fleet_gpus, scenario.deployment
    tp, pp = deployment.attention_tp, deployment.pp
    if gpus % (tp * pp):
        tp = pp = 1
    return {
        "num_gpus": gpus,
        "tensor_parallel_size": tp,
        "pipeline_parallel_size": pp,
        "data_parallel_size": gpus // (tp * pp),
    }


def _most_in_flight(records: Records) -> int:
    """Requests sent and not complete, at most; one that ends as another is sent makes room for it."""
    times = np.concatenate([records.end_s, records.arrival_s])
    change = np.repeat([-1, 1], len(records.arrival_s))
    return int(np.cumsum(change[np.lexsort((change, times))]).max())


def _traffic(workload: Workload) -> dict[str, Any]:
    """The options that say when requests are sent; vLLM's rate is inf beside a ramp."""
    rate = workload.rate
    if isinstance(rate, Ramp):
        return {
            "request_rate": "inf",
            "burstiness": workload.burstiness,
            "ramp_up_strategy": rate.strategy,
            "ramp_up_start_rps": rate.start_rate,
            "ramp_up_end_rps": rate.end_rate,
        }
    return {"request_rate": "inf" if rate == np.inf else rate, "burstiness": workload.burstiness}


def _summaries(records: Records, values: dict[str, Any]) -> dict[str, float | None]:
    """mean, median, std and percentiles of each latency, ms."""
    ttft, tpot, e2e = latencies(records)
    ones = np.ones(len(ttft), dtype=np.int64)
    found: dict[str, float | None] = {}
    for key, name, seconds, counts in (
        ("ttft_s", "ttft", ttft, ones),
        ("tpot_s", "tpot", tpot[np.isfinite(tpot)], ones[np.isfinite(tpot)]),
        ("itl_s", "itl", records.gap_s, records.gap_count),
        ("e2e_s", "e2el", e2e, ones),
    ):
        spread = values[key] or {}
        given = {"mean": spread.get("mean"), "median": spread.get("p50"), "std": _std(seconds, counts)}
        given |= {percentile: spread.get(percentile) for percentile in PERCENTILES}
        found |= {f"{of}_{name}_ms": None if one is None else one / MS for of, one in given.items()}
    return found


def _std(values: Floats, counts: Ints) -> float | None:
    """Standard deviation of values that occur ``counts`` times each (numpy's, as in vLLM); None of nothing."""
    if not counts.sum():
        return None
    mean = np.average(values, weights=counts)
    return float(np.average((values - mean) ** 2, weights=counts) ** 0.5)


def _lists(records: Records, queued: Floats) -> dict[str, Any]:
    """One value per request: seconds to a nanosecond, tokens."""
    ttft, _, e2e = latencies(records)
    n, more = len(ttft), records.output_tokens - 1
    found: dict[str, Any] = {
        "input_lens": records.input_tokens.tolist(),
        "output_lens": records.output_tokens.tolist(),
        "start_times": _rounded(records.arrival_s),
        "queue_times": _rounded(queued),
        "ttfts": _rounded(ttft),
        "latencies": _rounded(e2e),
        "generated_texts": [""] * n,
        "errors": [""] * n,
    }
    if GAP_BYTES * int(more.sum()) + REQUEST_BYTES * n > MAX_RESULT_BYTES:
        return {"perfmodel_note": NO_GAPS, **found}
    gaps, unknown = request_gaps(records)
    means = ((records.end_s - records.first_token_s) / np.maximum(more, 1)).tolist()
    itls = [
        _rounded(np.full(count, mean) if own is None else own)
        for own, mean, count in zip(gaps, means, more.tolist(), strict=True)
    ]
    note = STEP_GAPS + (SOME_EQUAL.format(unknown) if unknown else "")
    return {"perfmodel_note": note, **found, "itls": itls}


def _rounded(seconds: Floats) -> list[float]:
    rounded: list[float] = np.round(seconds, DECIMALS).tolist()
    return rounded

"""A serving simulation as a result file of ``vllm bench serve --save-result --save-detailed``.

Scripts that plot measured results plot simulated ones too, and :mod:`perfmodel.spec.traces.results` reads them back as
a trace. Keys and definitions are vLLM's: summaries in milliseconds, lists of requests in seconds and tokens.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.answers.serve import ServeAnswer
from perfmodel.economics.quantiles import percentiles_with
from perfmodel.output.export.judged import Floats, Judged, rounded
from perfmodel.serving.records import Ints, Records
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.slo import Slo
from perfmodel.spec.traces.results import MAX_RESULT_BYTES
from perfmodel.spec.workload import Ramp, Workload
from perfmodel.units import MS

REQUEST_BYTES = 110
"""About what a request takes in all other lists."""


def result_texts(answer: ServeAnswer, path: Path) -> dict[Path, str]:
    """The result, by file."""
    return {path: json.dumps(result_values(answer), allow_nan=False, separators=(",", ":")) + "\n"}


def result_values(answer: ServeAnswer) -> dict[str, Any]:
    """The keys of vLLM's result, with ``perfmodel`` (provenance) and ``perfmodel_note`` (what is not as vLLM has it).

    Requests stand in the order of ``--requests``. ``request_rate`` is null where a trace's own times are used, and
    ``request_goodput`` where no objective is stated; so are TPOT and ITL where every output is one token.
    """
    judged = Judged.of(answer)
    records, values = judged.records, answer.values
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
        **_summaries(judged, percentiles_with(answer.scenario.workload.percentiles)),
        "perfmodel": values["provenance"],
        **_lists(judged),
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


def _summaries(judged: Judged, percentiles: Iterable[str]) -> dict[str, float | None]:
    """mean, median, std and percentiles of each latency, ms."""
    records, values = judged.records, judged.values
    ttft, tpot, e2e = judged.latencies
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
        given |= {percentile: spread.get(percentile) for percentile in percentiles}
        found |= {f"{of}_{name}_ms": None if one is None else one / MS for of, one in given.items()}
    return found


def _std(values: Floats, counts: Ints) -> float | None:
    """Standard deviation of values that occur ``counts`` times each (numpy's, as in vLLM); None of nothing."""
    if not counts.sum():
        return None
    mean = np.average(values, weights=counts)
    return float(np.average((values - mean) ** 2, weights=counts) ** 0.5)


def _lists(judged: Judged) -> dict[str, Any]:
    """One value per request: seconds to a nanosecond, tokens."""
    records, n = judged.records, len(judged)
    ttft, _, e2e = judged.latencies
    gaps, note = judged.gaps("itls", MAX_RESULT_BYTES - REQUEST_BYTES * n)
    if gaps is None:
        note += "; latencies has the end-to-end time of each request"
    return {
        "perfmodel_note": note,
        "input_lens": records.input_tokens.tolist(),
        "output_lens": records.output_tokens.tolist(),
        "start_times": rounded(records.arrival_s),
        "queue_times": rounded(judged.queued_s),
        "ttfts": rounded(ttft),
        "latencies": rounded(e2e),
        "generated_texts": [""] * n,
        "errors": [""] * n,
        **({} if gaps is None else {"itls": gaps}),
    }

"""What a serving simulation's records mean: latency, goodput, throughput, utilisation and money. Pure functions.

Definitions are vLLM's (``vllm bench serve``): TTFT from arrival to first token, TPOT = (E2E - TTFT) / (n - 1) per
request, ITL every gap between outputs, pooled. A percentile of a speed is that of 1 / TPOT per request.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.serving.records import Records
from perfmodel.serving.window import counted
from perfmodel.spec.scenario import Scenario
from perfmodel.units import HOUR, MEGA, MS, PERCENT

Floats = NDArray[np.float64]

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0}
BATCHES = 20
"""Of consecutive requests, whose means say how sure a mean is."""
T_80 = 1.328
"""90th percentile of Student's t with BATCHES - 1 = 19 degrees of freedom."""


def serving_metrics(records: Records, scenario: Scenario) -> dict[str, Any]:
    """The keys of ``perfmodel serve --json`` that follow from records; SI units, None where nothing is known.

    All GPUs of all replicas divide rates and are paid for the whole span, from the first arrival to the last end.
    With a warm-up or cool-down only requests between them count (:mod:`perfmodel.serving.window`), from the first of
    their arrivals to the last of their ends; gaps between outputs (``itl_s``) stay those of all.
    """
    served = len(records.arrival_s)
    records = counted(records, scenario.workload)
    ttft, tpot, e2e = latencies(records)
    gpus = scenario.fleet_gpus
    start = float(records.arrival_s.min())
    span = float(records.end_s.max()) - start
    inputs, outputs = int(records.input_tokens.sum()), int(records.output_tokens.sum())
    gpu_hours = gpus * span / HOUR
    price = scenario.prices.usd_per_gpu_hour
    good = int(is_good(ttft, tpot, e2e, scenario).sum())
    with_tpot = tpot[np.isfinite(tpot)]
    runs, replicas = records.load.runs, scenario.serving.replicas
    own = runs.replica < replicas
    busy_s = float(runs.seconds[own].sum())
    return {
        "requests": len(ttft),
        "left_out_requests": served - len(ttft),
        "completed": int((records.end_s >= 0.0).sum()),
        "num_gpus": gpus,
        "duration_s": span,
        "ttft_s": spread(ttft),
        "tpot_s": spread(with_tpot),
        "itl_s": weighted_spread(records.gap_s, records.gap_count),
        "e2e_s": spread(e2e),
        "tokens_per_s_per_user": spread(1.0 / with_tpot),
        "queue_s": spread(records.scheduled_s - records.arrival_s),
        "transfer_s": spread((records.first_token_s - records.prefilled_s)[apart(records)]),
        "preemptions": int(records.preemptions.sum()),
        "retries": int(records.retries.sum()),
        "cache_hit_pct": PERCENT * float(records.cached_tokens.sum()) / inputs,
        "requests_per_s": len(ttft) / span,
        "goodput_requests_per_s": good / span,
        "input_tokens_per_s_per_gpu": inputs / span / gpus,
        "output_tokens_per_s": outputs / span,
        "output_tokens_per_s_per_gpu": outputs / span / gpus,
        "total_tokens_per_s_per_gpu": (inputs + outputs) / span / gpus,
        "busy_pct": PERCENT * busy_s / (span * replicas),
        "prompt_steps_pct": PERCENT
        * float(runs.seconds[own & (runs.prompt > 0.0)].sum())
        / max(busy_s, 1e-300),
        "steps": round(float(runs.steps.sum())),
        "prefill_busy_pct": (
            PERCENT * float(runs.seconds[~own].sum()) / (span * scenario.prefill.serving.replicas)
            if scenario.prefill is not None
            else None
        ),
        "gpu_hours": gpu_hours,
        "usd_per_million_input_tokens": price * gpu_hours / inputs * MEGA,
        "usd_per_million_output_tokens": price * gpu_hours / outputs * MEGA,
        "usd_per_million_total_tokens": price * gpu_hours / (inputs + outputs) * MEGA,
        "mean_intervals": {
            name: mean_interval(values)
            for name, values in (("ttft_s", ttft), ("tpot_s", with_tpot), ("e2e_s", e2e))
        },
    }


def apart(records: Records) -> NDArray[np.bool_]:
    """Requests whose cache was sent from the replica that computed their prompt to another one, once in their life."""
    sent: NDArray[np.bool_] = (records.prefill_replica != records.replica) & (records.retries == 0)
    return sent


def latencies(records: Records) -> tuple[Floats, Floats, Floats]:
    """(TTFT, TPOT, E2E) per request, s; TPOT is NaN where there is one output token."""
    ttft = records.first_token_s - records.arrival_s
    e2e = records.end_s - records.arrival_s
    more = records.output_tokens - 1
    tpot = np.divide(
        records.end_s - records.first_token_s, more, out=np.full(len(ttft), np.nan), where=more > 0
    )
    return ttft, tpot, e2e


def is_good(ttft: Floats, tpot: Floats, e2e: Floats, scenario: Scenario) -> NDArray[np.bool_]:
    """Which requests keep every stated objective; all, where none is stated."""
    slo, good = scenario.slo, np.ones(len(ttft), dtype=bool)
    for limit_ms, values in ((slo.ttft_ms, ttft), (slo.tpot_ms, tpot), (slo.e2e_ms, e2e)):
        if limit_ms is not None:
            good &= ~(values > limit_ms * MS)  # a request of one token has no TPOT to miss
    return good


def spread(values: Floats) -> dict[str, float] | None:
    """Mean and percentiles; None of nothing."""
    if not len(values):
        return None
    found = np.percentile(values, list(PERCENTILES.values()))
    return {"mean": float(values.mean()), **dict(zip(PERCENTILES, map(float, found), strict=True))}


def weighted_spread(values: Floats, counts: NDArray[np.int64]) -> dict[str, float] | None:
    """:func:`spread` of values that occur ``counts`` times each."""
    total = int(counts.sum())
    if not total:
        return None
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(counts[order])
    found: Mapping[str, float] = {
        name: float(values[order][min(int(np.searchsorted(upto, q / PERCENT * total)), len(order) - 1)])
        for name, q in PERCENTILES.items()
    }
    return {"mean": float((values * counts).sum() / total), **found}


def mean_interval(values: Floats) -> list[float] | None:
    """80 % interval of the mean by batch means: consecutive values depend on each other, batches of them hardly.

    None of fewer than two values per batch [Law and Kelton, Simulation Modeling and Analysis, 9.5.3].
    """
    size = len(values) // BATCHES
    if size < 2:
        return None
    means = values[: size * BATCHES].reshape(BATCHES, size).mean(axis=1)
    half = T_80 * float(means.std(ddof=1)) / BATCHES**0.5
    return [float(means.mean()) - half, float(means.mean()) + half]

"""The answer to ``perfmodel serve``: what was simulated, with money, warnings and provenance."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.answer import common_log_std, plain, provenance, warnings
from perfmodel.answer_intervals import check_repeats, run_intervals
from perfmodel.economics.requests import serving_metrics
from perfmodel.serving.cluster import Progress
from perfmodel.serving.requests import Requests
from perfmodel.serving.serve import Served, serve
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.traces import read_trace
from perfmodel.step import Step, simulate_step

SHORTAGE = 0.02
"""Share of requests preempted above which it is said."""
BEHIND = 0.5
"""Share of the time of arrivals that it may take to serve what is left after the last one; more is said."""

NO_INTERVALS = "no intervals: the spread of some op's time is not known"


@dataclass(frozen=True, slots=True)
class ServeAnswer:
    """One run's answer."""

    served: Served
    values: dict[str, Any]
    """The keys of ``perfmodel serve --json``, SI units; unknown is None."""

    @property
    def scenario(self) -> Scenario:
        """What was asked."""
        return self.served.scenario


def answer_serve(
    scenario: Scenario,
    *,
    requests: Requests | None = None,
    progress: Progress | None = None,
    repeats: int | None = None,
) -> ServeAnswer:
    """Serve a scenario's traffic and say what it means; with ``repeats``, model intervals from so many more runs.

    Raises:
        SpecError: too few repeats, or too many.
        InfeasibleError: no room for a cache, or for a request.
        DataError: a trace that can't be read.
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    if repeats is not None:
        check_repeats(repeats)
    served = serve(scenario, requests=requests, progress=progress)
    decode = scenario.deployment.model_copy(update={"phase": "decode"})
    step = simulate_step(scenario.model_copy(update={"deployment": decode}))
    intervals = _intervals(served, step, repeats, progress)
    values: dict[str, Any] = {
        "scenario": scenario.name,
        "model": scenario.model.name,
        "cluster": scenario.cluster.name,
        "gpu": scenario.cluster.gpu.name,
        "replicas": scenario.serving.replicas,
        "policy": served.batching.policy,
        "kv_tokens_per_rank": served.kv_tokens,
        **serving_metrics(served.records, scenario),
        "energy_j": None,
        **intervals,
        "warnings": [
            *_warnings(served),
            *([NO_INTERVALS] if repeats is not None and not intervals else []),
            *warnings(step),
        ],
        "provenance": {**provenance(step), "trace": _trace_id(scenario)},
    }
    return ServeAnswer(served, {key: plain(value) for key, value in values.items()})


def _intervals(served: Served, step: Step, repeats: int | None, progress: Progress | None) -> dict[str, Any]:
    """Model intervals, where they were asked for and every op's spread is known."""
    if repeats is None:
        return {}
    return run_intervals(served, common_log_std=common_log_std(step), repeats=repeats, progress=progress)


def _warnings(served: Served) -> list[str]:
    """What of the traffic makes the answer less certain."""
    texts = []
    workload = served.scenario.workload
    if workload.warm_up_requests or workload.cool_down_requests:
        texts.append("gaps between outputs (ITL) are pooled: they are those of all requests, left out or not")
    if not served.scenario.serving.prefix_cache and _shares_prefixes(served):
        texts.append("serving.prefix_cache = false: prompts that begin alike are computed again every time")
    asked = served.scenario.serving.max_running
    if served.layout.max_running < asked:
        texts.append(
            f"at most {served.layout.max_running} requests run on a rank (serving.max_running = {asked}): "
            "deployment.low_latency_max_tokens_per_gpu is what DeepEP low-latency's buffers are sized for"
        )
    records = served.records
    lost = float((records.preemptions > 0).mean())
    if lost > SHORTAGE:
        texts.append(
            f"{lost:.0%} of the requests lost their KV blocks and were computed again: the cache is short "
            f"({served.kv_tokens:,} tokens per rank)"
        )
    last, span = records.arrival_s.max(), float(np.ptp(records.arrival_s))
    behind = span > 0.0 and records.end_s.max() - last > BEHIND * span
    if served.requests.max_concurrency is None and behind:
        texts.append(
            "requests come faster than they are served: the queue grows until the last has come, and latencies with it"
        )
    return texts


def _shares_prefixes(served: Served) -> bool:
    requests = served.requests
    return bool((requests.prefix >= 0).any() or (requests.parent >= 0).any() or requests.hash_ids is not None)


def _trace_id(scenario: Scenario) -> str | None:
    w = scenario.workload
    if not w.trace:
        return None
    trace = read_trace(w.trace, w.trace_format)
    return f"{trace.name}-{trace.id}"

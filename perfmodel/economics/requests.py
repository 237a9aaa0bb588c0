"""What a serving simulation's records mean: latency, goodput, throughput, utilisation and money. Pure functions.

Definitions are vLLM's (``vllm bench serve``): TTFT from arrival to first token, TPOT = (E2E - TTFT) / (n - 1) per
request, ITL every gap between outputs, pooled. A percentile of a speed is that of 1 / TPOT per request.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.economics.quantiles import Exact, Values, percentiles_with, spread
from perfmodel.serving.records import Records, StepRuns
from perfmodel.serving.requests import Requests
from perfmodel.serving.window import counted, counted_rows
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.workload import Workload
from perfmodel.units import HOUR, MEGA, MS, PERCENT

Floats = NDArray[np.float64]

SPREADS = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "tokens_per_s_per_user", "queue_s", "transfer_s")
"""Keys of which there are a mean and percentiles."""


def serving_metrics(records: Records, scenario: Scenario) -> dict[str, Any]:
    """The keys of ``perfmodel serve --json`` that follow from records; SI units, None where nothing is known.

    All GPUs of all replicas divide rates and are paid for the whole span, from the first arrival to the last end.
    With a warm-up or cool-down only requests between them count (:mod:`perfmodel.serving.window`), from the first of
    their arrivals to the last of their ends; gaps between outputs (``itl_s``) stay those of all.
    """
    tally, judged = Tally(scenario, Exact), counted(records, scenario.workload)
    tally.served = len(records.arrival_s)
    tally.requests(judged)
    tally.gaps(records.gap_s, records.gap_count)
    tally.runs(judged.load.runs)
    return tally.metrics()


class Tally:
    """What a run comes to, requests, gaps and steps being told a block at a time, in their order."""

    def __init__(self, scenario: Scenario, values: Callable[[], Values]) -> None:
        """``values`` makes what percentiles are taken from."""
        self._scenario = scenario
        self._spreads = {name: values() for name in SPREADS}
        self.served = 0
        """Requests, those that are left out included."""
        self._requests = self._completed = self._good = 0
        self._first_s, self._last_s = np.inf, -np.inf
        self._inputs = self._outputs = self._cached = self._preemptions = self._retries = 0
        self._host = self._storage = 0
        self._busy_s = self._prompt_s = self._prefill_s = self._steps = 0.0

    def requests(self, records: Records) -> None:
        """Requests that are judged."""
        if not len(records.arrival_s):
            return
        ttft, tpot, e2e = latencies(records)
        with_tpot = tpot[np.isfinite(tpot)]
        for name, values in (
            ("ttft_s", ttft),
            ("tpot_s", with_tpot),
            ("e2e_s", e2e),
            ("tokens_per_s_per_user", 1.0 / with_tpot),
            ("queue_s", records.scheduled_s - records.arrival_s),
            ("transfer_s", (records.first_token_s - records.prefilled_s)[apart(records)]),
        ):
            self._spreads[name].add(values)
        self._requests += len(ttft)
        self._completed += int((records.end_s >= 0.0).sum())
        self._good += int(is_good(ttft, tpot, e2e, self._scenario).sum())
        self._first_s = min(self._first_s, float(records.arrival_s.min()))
        self._last_s = max(self._last_s, float(records.end_s.max()))
        self._inputs += int(records.input_tokens.sum())
        self._outputs += int(records.output_tokens.sum())
        self._cached += int(records.cached_tokens.sum())
        self._host += 0 if records.host_tokens is None else int(records.host_tokens.sum())
        self._storage += 0 if records.storage_tokens is None else int(records.storage_tokens.sum())
        self._preemptions += int(records.preemptions.sum())
        self._retries += int(records.retries.sum())

    def gaps(self, seconds: Floats, counts: NDArray[np.int64]) -> None:
        """Gaps between outputs, as in :class:`Records`."""
        self._spreads["itl_s"].add(seconds, counts)

    def runs(self, runs: StepRuns) -> None:
        """Steps in the window of those that are judged."""
        own = runs.replica < self._scenario.serving.replicas
        self._busy_s += float(runs.seconds[own].sum())
        self._prompt_s += float(runs.seconds[own & (runs.prompt > 0.0)].sum())
        self._prefill_s += float(runs.seconds[~own].sum())
        self._steps += float(runs.steps.sum())

    def _by_tier(self, inputs: int) -> dict[str, Any]:
        """Where prompt tokens were found, %; nothing where only the GPU keeps any."""
        side = self._scenario.prefill_side or self._scenario
        if not side.serving.has_tiers:
            return {}
        gpu = self._cached - self._host - self._storage
        found = {"gpu": gpu, "host": self._host, "storage": self._storage}
        return {
            "cache_hits_by_tier_pct": {name: PERCENT * float(one) / inputs for name, one in found.items()}
        }

    @property
    def output_tokens(self) -> int:
        """Of the requests that are judged."""
        return self._outputs

    def metrics(self) -> dict[str, Any]:
        """See :func:`serving_metrics`."""
        scenario = self._scenario
        percentiles = percentiles_with(scenario.workload.percentiles)
        found = {name: own.spread(percentiles) for name, own in self._spreads.items()}
        gpus, replicas = scenario.fleet_gpus, scenario.serving.replicas
        span, inputs, outputs = self._last_s - self._first_s, self._inputs, self._outputs
        gpu_hours = gpus * span / HOUR
        price = scenario.fleet_usd_per_gpu_hour
        return {
            "requests": self._requests,
            "left_out_requests": self.served - self._requests,
            "completed": self._completed,
            "num_gpus": gpus,
            "duration_s": span,
            **{name: found[name] for name in SPREADS},
            "preemptions": self._preemptions,
            "retries": self._retries,
            "cache_hit_pct": PERCENT * float(self._cached) / inputs,
            **self._by_tier(inputs),
            "requests_per_s": self._requests / span,
            "goodput_requests_per_s": self._good / span,
            "input_tokens_per_s_per_gpu": inputs / span / gpus,
            "output_tokens_per_s": outputs / span,
            "output_tokens_per_s_per_gpu": outputs / span / gpus,
            "total_tokens_per_s_per_gpu": (inputs + outputs) / span / gpus,
            "busy_pct": PERCENT * self._busy_s / (span * replicas),
            "prompt_steps_pct": PERCENT * self._prompt_s / max(self._busy_s, 1e-300),
            "steps": round(self._steps),
            "prefill_busy_pct": (
                PERCENT * self._prefill_s / (span * scenario.prefill.serving.replicas)
                if scenario.prefill is not None
                else None
            ),
            "gpu_hours": gpu_hours,
            "usd_per_million_input_tokens": price * gpu_hours / inputs * MEGA,
            "usd_per_million_output_tokens": price * gpu_hours / outputs * MEGA,
            "usd_per_million_total_tokens": price * gpu_hours / (inputs + outputs) * MEGA,
            "mean_intervals": {
                name: self._spreads[name].mean_interval() for name in ("ttft_s", "tpot_s", "e2e_s")
            },
        }


def client_wait(requests: Requests, records: Records, workload: Workload) -> dict[str, float] | None:
    """``client_wait_s``: how long requests that were ready waited at the client for a slot of ``max_concurrency``,
    which TTFT and E2E do not hold; vLLM's ``queue_times``. Of sessions, their first requests.

    None without a cap, and where all are ready from the start: a closed loop's wait says how long the run is.
    """
    roots = requests.parent < 0
    if requests.max_concurrency is None or not requests.arrival_s[roots].any():
        return None
    rows = roots & counted_rows(records, workload)
    return spread(client_waits(requests, records)[rows])


def client_waits(requests: Requests, records: Records) -> Floats:
    """Seconds (n,) from when a request was ready to when it was sent; 0 for a session's later ones."""
    waits: Floats = np.where(requests.parent < 0, records.arrival_s - requests.arrival_s, 0.0)
    return np.maximum(waits, 0.0)


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

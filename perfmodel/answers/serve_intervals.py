"""80 % model intervals of a serving run: how far off its figures are if step times are, queues included.

The run is repeated with the same arrivals, lengths and seed, and with step times stretched by draws of the model's
spread (:mod:`perfmodel.serving.spread`); what of it a queue swallows or multiplies then shows. ``mean_intervals`` are
another thing: how much a mean would differ over another stretch of the same traffic, were step times exact.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perfmodel.economics.requests import serving_metrics
from perfmodel.errors import SpecError
from perfmodel.serving.conditions import Fleet
from perfmodel.serving.cores import Core
from perfmodel.serving.requests import Requests
from perfmodel.serving.serve import Served, serve
from perfmodel.serving.spread import run_spread
from perfmodel.serving.stretch import stretched
from perfmodel.spec.scenario import Scenario
from perfmodel.uncertainty import QUANTILES
from perfmodel.workers import each

REPEATS = 16
LEAST_REPEATS, MOST_REPEATS = 8, 1024

WORTH_SHARING = 20_000
"""Requests of all repeats from which on it is shorter to start processes for them."""

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s", "tokens_per_s_per_user")
FIGURES = (
    "requests_per_s",
    "goodput_requests_per_s",
    "input_tokens_per_s_per_gpu",
    "output_tokens_per_s",
    "output_tokens_per_s_per_gpu",
    "total_tokens_per_s_per_gpu",
    "busy_pct",
    "gpu_hours",
    "usd_per_million_input_tokens",
    "usd_per_million_output_tokens",
    "usd_per_million_total_tokens",
)
"""What of a run's figures gets an interval."""


def check_repeats(repeats: int) -> None:
    """Refuses a number of repeats that gives no 80 % interval, no even draws, or takes days.

    Raises:
        SpecError: out of range, or no power of two.
    """
    if not LEAST_REPEATS <= repeats <= MOST_REPEATS or repeats & (repeats - 1):
        raise SpecError(
            f"--repeats {repeats}: must be a power of two from {LEAST_REPEATS} to {MOST_REPEATS}, e.g. {REPEATS}"
        )


def worth_sharing(requests: Requests, runs: int) -> bool:
    """Whether so many runs of these requests are done sooner by several processes, their start included."""
    return requests.num_requests * runs >= WORTH_SHARING


def run_intervals(
    served: Served,
    *,
    common_log_std: float,
    repeats: int = REPEATS,
    progress: Callable[[int, int], None] | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """``intervals`` (quantity such as "ttft_s.mean" -> [low, high]) and ``interval_draws`` (how they were found).

    Empty where some op that the run's steps use has no known spread. ``common_log_std`` is what all ops share; progress
    counts the requests of all repeats. An ``executor`` shares them out; the figures are the same.

    Raises:
        SpecError: too few repeats, or too many.
    """
    check_repeats(repeats)
    scenario = served.scenario
    spread = run_spread(scenario, served.records.load.runs, common_log_std=common_log_std)
    if spread is None:
        return {}
    repeat = _Repeat(scenario, served.requests, served.fleet, served.core)
    factors = spread.factors(repeats)
    size = served.requests.num_requests
    if executor is None or not worth_sharing(served.requests, repeats):
        found = [repeat(pair, _of_all(progress, number, repeats)) for number, pair in enumerate(factors)]
    else:
        tell = None if progress is None else (lambda done, total: progress(done * size, total * size))
        found = each(repeat, factors, executor=executor, progress=tell)
    drawn: dict[str, list[float]] = {}
    for name, value in (one for figures in found for one in figures.items()):
        drawn.setdefault(name, []).append(value)
    return {
        "intervals": {
            # each draw stands for one of equally likely parts, so that the k-th smallest is the (k - 1/2) / n quantile
            name: [float(bound) for bound in np.quantile(values, QUANTILES, method="hazen")]
            for name, values in drawn.items()
        },
        "interval_draws": {"repeats": repeats, **asdict(spread)},
    }


@dataclass(frozen=True, slots=True)
class _Repeat:
    """One more run, with stretched steps; what it needs and no more, since it may be sent to another process."""

    scenario: Scenario
    requests: Requests
    fleet: Fleet
    core: Core

    def __call__(
        self, factors: tuple[float, float], progress: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """The run's figures with (decode, prompt) steps so many times as long."""
        again = serve(
            self.scenario,
            requests=self.requests,
            fleet=stretched(self.fleet, *factors),
            progress=progress,
            core=self.core,
        )
        return _figures(serving_metrics(again.records, self.scenario))


def _figures(values: Mapping[str, Any]) -> dict[str, float]:
    """The figures that get an interval, by name; unknown ones are left out."""
    spreads = ((key, values[key]) for key in LATENCIES)
    found = {f"{key}.{part}": value for key, spread in spreads if spread for part, value in spread.items()}
    return found | {key: float(values[key]) for key in FIGURES}


def _of_all(
    progress: Callable[[int, int], None] | None, before: int, runs: int
) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    tell = progress
    return lambda done, total: tell(before * total + done, runs * total)

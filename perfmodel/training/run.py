"""A training run: steps, checkpoints, failures and what each costs, simulated many times.

Failures come at random, so many per GPU and day. Each throws the run back to its last checkpoint and stops it for
detection and restart, and for as long as no spare node is there. Repeats are advanced together, failure by failure.
"""

import math
from dataclasses import dataclass

import numpy as np

from perfmodel.errors import InfeasibleError
from perfmodel.spec.training import Checkpoints, Failures
from perfmodel.units import HOUR

DAY = 24.0 * HOUR
REPEATS = 1000
LEAST_SHARE = 0.02
MOST_FAILURES = 50_000
"""Share of the time that must be left to training: a run below it would hardly end."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The slower tier of checkpoints, which outlives a node."""

    interval_s: float
    """Time between checkpoints that go there."""
    write_s: float
    """How long one is on its way, in the background: until then the one before counts."""
    share: float
    """Of failures after which the run goes back to it."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What many repeats of a run gave; each array has one value per repeat."""

    elapsed_s: np.ndarray
    """From the first step to the last."""
    failures: np.ndarray
    lost_s: np.ndarray
    """Work done again after failures."""
    down_s: np.ndarray
    """Detection and restart."""
    waiting_s: np.ndarray
    """Waiting for a spare node."""
    stalled_s: np.ndarray
    """Standing still for checkpoints."""
    productive_s: float
    """What the steps take by themselves."""
    interval_s: float | None
    """Time between checkpoints that was simulated; None: none are taken."""

    @property
    def availability(self) -> float:
        """Mean share of the time in which steps run that count."""
        return float(self.productive_s / np.mean(self.elapsed_s))


def best_interval_s(stall_s: float, mean_time_between_failures_s: float) -> float | None:
    """sqrt(2 x stall x mean time between failures): Young's first-order optimum [CACM 17 (1974) 530]; None: no
    failures.
    """
    if not math.isfinite(mean_time_between_failures_s):
        return None
    return math.sqrt(2.0 * stall_s * mean_time_between_failures_s)


def expected_waste(interval_s: float, stall_s: float, restart_s: float, between_s: float) -> float:
    """Share of the time that is lost, to first order: stall / T + T / 2M + R / M."""
    return stall_s / interval_s + interval_s / (2.0 * between_s) + restart_s / between_s


def simulate_run(
    productive_s: float,
    *,
    num_gpus: int,
    step_time_s: float,
    checkpoints: Checkpoints,
    failures: Failures,
    seed: int,
    repeats: int = REPEATS,
    storage: Storage | None = None,
) -> TrainingRun:
    """Repeat a run.

    Args:
        productive_s: what all its steps take.
        num_gpus: GPUs that may fail.
        step_time_s: the shortest interval between checkpoints.
        checkpoints: how it saves itself.
        failures: what goes wrong.
        seed: of the failures.
        repeats: how often.
        storage: the slower tier, where the first is lost with its node.

    Raises:
        InfeasibleError: failures come so fast that the run would hardly end.
    """
    rate = failures.per_gpu_day * num_gpus / DAY
    between = 1.0 / rate if rate else math.inf
    chosen = checkpoints.interval_s or best_interval_s(checkpoints.stall_s, between)
    if chosen is None:  # nothing fails and nobody asks for checkpoints
        nothing = np.zeros(repeats)
        return TrainingRun(
            np.full(repeats, productive_s), nothing, nothing, nothing, nothing, nothing, productive_s, None
        )
    interval = max(chosen, step_time_s)
    stretch = 1.0 + checkpoints.stall_s / interval
    outage = failures.detection_s + failures.restart_s
    if rate:
        waste = expected_waste(interval, checkpoints.stall_s, outage, between)
        if storage is not None:
            waste += storage.share * (storage.interval_s / 2.0 + storage.write_s) / between
        if waste > 1.0 - LEAST_SHARE:
            raise InfeasibleError(
                f"training.failures: one failure every {between:,.0f} s, {outage:,.0f} s to go on and a checkpoint "
                f"every {interval:,.0f} s leave next to no time to train: shorten restart_s, detection_s or interval_s"
            )
        number = productive_s * stretch / (between * (1.0 - waste))
        if number > MOST_FAILURES:
            raise InfeasibleError(
                f"training.failures.per_gpu_day = {failures.per_gpu_day:g}: one failure every {between:,.0f} s, some "
                f"{number:,.0f} in the run; must be at most {MOST_FAILURES:,} (Llama 3: 419)"
            )
    return _Repeats(productive_s, rate, interval, stretch, failures, seed, repeats, storage).run()


class _Repeats:
    """All repeats, advanced from failure to failure. Progress is counted in seconds of steps."""

    def __init__(
        self,
        productive_s: float,
        rate: float,
        interval_s: float,
        stretch: float,
        failures: Failures,
        seed: int,
        repeats: int,
        storage: Storage | None,
    ) -> None:
        self.productive_s, self.rate, self.interval_s, self.stretch = productive_s, rate, interval_s, stretch
        self.what = failures
        self.rng = np.random.default_rng(seed)
        self.clock, self.done = np.zeros(repeats), np.zeros(repeats)
        self.count, self.lost, self.waited = np.zeros(repeats), np.zeros(repeats), np.zeros(repeats)
        self.stalled = np.zeros(repeats)
        self.storage, self.stored = storage, np.zeros(repeats)
        """What storage holds of each, in seconds of steps."""
        spares = failures.spare_nodes
        self.spares = None if spares is None else np.zeros((repeats, max(spares, 1)))
        """When each spare is there."""

    def run(self) -> TrainingRun:
        active = np.arange(len(self.clock))
        outage = self.what.detection_s + self.what.restart_s
        while active.size:
            needed = (self.productive_s - self.done[active]) * self.stretch
            gap = (
                self.rng.exponential(1.0 / self.rate, active.size)
                if self.rate
                else np.full(active.size, np.inf)
            )
            ends = gap >= needed
            last = active[ends]
            self.clock[last] += needed[ends]
            self.stalled[last] += needed[ends] * (1.0 - 1.0 / self.stretch)
            active, gap = active[~ends], gap[~ends]
            reached = self.done[active] + gap / self.stretch
            kept = np.maximum(self.done[active], np.floor(reached / self.interval_s) * self.interval_s)
            kept = self._from_storage(active, reached, kept)
            self.lost[active] += reached - kept
            self.stalled[active] += gap * (1.0 - 1.0 / self.stretch)
            self.done[active] = kept
            self.count[active] += 1.0
            self.clock[active] += gap + self.what.detection_s
            self._replace(active)
            self.clock[active] += self.what.restart_s
        return TrainingRun(
            self.clock,
            self.count,
            self.lost,
            self.count * outage,
            self.waited,
            self.stalled,
            self.productive_s,
            self.interval_s,
        )

    def _from_storage(self, active: np.ndarray, reached: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Where runs go on from whose first tier may be lost."""
        tier = self.storage
        if tier is None:
            return kept
        arrived = np.floor(np.maximum(0.0, reached - tier.write_s) / tier.interval_s) * tier.interval_s
        stored = self.stored[active] = np.maximum(self.stored[active], arrived)
        lost = self.rng.random(active.size) < tier.share
        return np.where(lost, np.minimum(stored, kept), kept)

    def _replace(self, active: np.ndarray) -> None:
        """A spare takes a failed node's place, or the run waits for one; the failed node is a spare once it is
        mended.
        """
        if self.spares is None or not active.size:
            return
        repair = self.what.repair_hours * HOUR
        if self.what.spare_nodes == 0:
            self.clock[active] += repair
            self.waited[active] += repair
            return
        own = self.spares[active]
        first = np.argmin(own, axis=1)
        wait = np.maximum(0.0, own[np.arange(active.size), first] - self.clock[active])
        self.waited[active] += wait
        self.spares[active, first] = self.clock[active] + repair
        self.clock[active] += wait

"""What a replica's steps depend on and what changes while it serves: faults, and experts that tokens turn to."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

from perfmodel.serving.changes import Change
from perfmodel.serving.handoff import KvPath
from perfmodel.serving.step_times import StepTimes
from perfmodel.spec.faults import Fault
from perfmodel.spec.scenario import Scenario
from perfmodel.units import HOUR

DRIFT_LEVELS = 8
"""Times between two placements at which the load is looked at anew (where experts stay, until all have moved, at least
so many an hour)."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What makes a replica's steps other than its scenario's."""

    kernels: float = 1.0
    """Its slowest GPU's kernels take so many times as long."""
    network: float = 1.0
    """Its slowest network adapter does."""
    drift: float = 0.0
    """Share of the popularity that has moved since the run began (or since experts were placed anew)."""

    def of(self, scenario: Scenario) -> Scenario:
        """The scenario under this condition."""
        deployment, routing = scenario.deployment, scenario.routing
        slow = deployment.slowdown
        changed = slow.model_copy(
            update={"kernels": slow.kernels * self.kernels, "network": slow.network * self.network}
        )
        drift = min(1.0, routing.drift + self.drift)
        return scenario.model_copy(
            update={
                "deployment": deployment.model_copy(update={"slowdown": changed}),
                "routing": routing.model_copy(update={"drift": drift}),
            }
        )


HEALTHY = Condition()


@dataclass(frozen=True, slots=True)
class Fleet:
    """Step times of the two kinds of replicas, by condition."""

    decode: Callable[[Condition], StepTimes]
    prefill: Callable[[Condition], StepTimes] | None

    def of(self, pool: Literal["decode", "prefill"]) -> Callable[[Condition], StepTimes]:
        """Of one kind."""
        if pool == "decode":
            return self.decode
        assert self.prefill is not None, "validated: faults name pools that are there"
        return self.prefill


Event = tuple[float, int, Fault | None, bool]
"""When, a number that orders what happens at once, which fault (None: drift), whether it begins."""


def changes_of(scenario: Scenario, fleet: Fleet, path: KvPath | None) -> Iterator[Change]:
    """Everything that happens to replicas, in order of time; endless where experts drift and are placed anew."""
    decode = scenario.serving.replicas
    prefill = scenario.prefill.serving.replicas if scenario.prefill else 0
    active: list[list[Fault]] = [[] for _ in range(decode + prefill)]
    drift = 0.0
    for at_s, _, fault, begins in heapq.merge(_faults(scenario), _drifts(scenario)):
        if fault is None:
            drift = drift_at(scenario, at_s)
            touched = range(decode + prefill)
        else:
            own = fault.replica + (decode if fault.pool == "prefill" else 0)
            if begins:
                active[own].append(fault)
            else:
                active[own].remove(fault)
            touched = range(own, own + 1)
            if fault.kind in ("lost-node", "drain"):
                state: Literal["lost", "draining"] = "lost" if fault.kind == "lost-node" else "draining"
                yield Change(at_s, own, state=state if begins else "up")
                continue
        for number in touched:
            kernels, network = (
                max((one.slowdown or 1.0 for one in active[number] if one.kind == kind), default=1.0)
                for kind in ("straggler", "slow-link")
            )
            times = fleet.of("decode" if number < decode else "prefill")
            link = None
            if fault is not None and fault.kind == "slow-link" and path is not None:
                full = path.receive_bytes_per_s if number < decode else path.send_bytes_per_s
                link = full / network
            yield Change(at_s, number, times=times(Condition(kernels, network, drift)), link_bytes_per_s=link)


def drift_at(scenario: Scenario, at_s: float) -> float:
    """Share of the popularity that has moved at ``at_s``, since the start or the last placement; at most what is left
    beside ``routing.drift``.
    """
    own = scenario.serving.expert_drift
    if own is None:
        return 0.0
    since = at_s if own.rebalance_s is None else at_s % own.rebalance_s
    return min(own.share_per_hour * since / HOUR, 1.0 - scenario.routing.drift)


def _faults(scenario: Scenario) -> list[Event]:
    events: list[Event] = []
    for number, fault in enumerate(scenario.faults):
        events.append((fault.at_s, 2 * number + 1, fault, True))
        events.append((fault.at_s + fault.for_s, 2 * number, fault, False))
    return sorted(events, key=lambda event: event[:2])


def _drifts(scenario: Scenario) -> Iterator[Event]:
    """Times at which the load has moved on."""
    own = scenario.serving.expert_drift
    if own is None:
        return
    all_moved_s = (1.0 - scenario.routing.drift) / own.share_per_hour * HOUR
    every = (own.rebalance_s or min(HOUR, all_moved_s)) / DRIFT_LEVELS
    for number in count(1):
        at_s = number * every
        yield (at_s, -1, None, True)
        if own.rebalance_s is None and at_s >= all_moved_s:
            return

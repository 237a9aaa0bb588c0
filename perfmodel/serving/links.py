"""Bytes on their way between ranks: flows that share the links at their two ends.

A flow moves at the least of its own cap and of an equal share of each of its links. An equal share of a link that
other flows can't use up stays unused, so contention is rather over- than underestimated.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import simpy

LEFT_BYTES = 1e-3
"""Fewer count as none: rounding."""


@dataclass(slots=True, eq=False)
class Link:
    """One end of flows: what a rank sends on, or receives on."""

    bytes_per_s: float
    active: dict["Flow", None] = field(default_factory=dict)
    """Flows that move something now, in the order in which they began (a dict, so that the order is always the
    same)."""

    @property
    def share(self) -> float:
        """Bytes/s of each active flow."""
        return self.bytes_per_s / len(self.active)


@dataclass(slots=True, eq=False)
class Flow:
    """Bytes of one request, from rank to rank."""

    source: Link
    target: Link
    done: Callable[[], None]
    """Called once, when the flow is closed and all has arrived."""
    cap: float = 0.0
    """Bytes/s at which they are made."""
    left: float = 0.0
    rate: float = 0.0
    since_s: float = 0.0
    closed: bool = False
    plan: int = 0
    """Number of the latest plan; what was planned before it is void."""


class Links:
    """All flows of a run."""

    def __init__(self, env: simpy.Environment, latency_s: float) -> None:
        """``latency_s`` passes after a flow's last byte before it has arrived."""
        self._env, self._latency_s = env, latency_s

    def more(self, flow: Flow, size: float, cap: float) -> None:
        """A flow has ``size`` more bytes to move, none faster than ``cap`` bytes/s."""
        self._advance(flow)
        flow.left += size
        flow.cap = cap
        self._changed(flow)

    def close(self, flow: Flow, size: float) -> None:
        """The last ``size`` bytes are there, and nothing caps the flow any more."""
        flow.closed = True
        self.more(flow, size, float("inf"))

    def cancel(self, flow: Flow) -> None:
        """The flow ends and has not arrived."""
        self._advance(flow)
        flow.plan += 1
        flow.left = 0.0
        self._leave(flow)

    def resize(self, link: Link, bytes_per_s: float) -> None:
        """A link moves so many bytes/s from now on."""
        for flow in link.active:
            self._advance(flow)
        link.bytes_per_s = bytes_per_s
        for flow in link.active:
            self._plan(flow)

    def _changed(self, flow: Flow) -> None:
        """The flow's bytes or cap have changed: plan it anew, and those beside it where it joins or leaves them."""
        if flow.left > LEFT_BYTES:
            joins = flow not in flow.source.active
            if joins:
                for other in self._beside(flow):
                    self._advance(other)
                flow.source.active[flow] = flow.target.active[flow] = None
            for other in self._beside(flow) if joins else (flow,):
                self._plan(other)
        else:
            self._leave(flow)
            flow.plan += 1
            if flow.closed:
                self._later(flow, self._latency_s, flow.done)

    def _leave(self, flow: Flow) -> None:
        if flow not in flow.source.active:
            return
        beside = self._beside(flow)
        for other in beside:
            self._advance(other)
        del flow.source.active[flow], flow.target.active[flow]
        for other in beside:
            if other is not flow:
                self._plan(other)

    @staticmethod
    def _beside(flow: Flow) -> list[Flow]:
        """Flows that share a link with this one, itself if it is active."""
        return list({**flow.source.active, **flow.target.active})

    def _advance(self, flow: Flow) -> None:
        now = self._env.now
        if flow in flow.source.active:
            flow.left = max(0.0, flow.left - flow.rate * (now - flow.since_s))
        flow.since_s = now

    def _plan(self, flow: Flow) -> None:
        flow.rate = min(flow.cap, flow.source.share, flow.target.share)
        flow.plan += 1
        self._later(flow, flow.left / flow.rate, lambda: self._emptied(flow))

    def _emptied(self, flow: Flow) -> None:
        flow.left = 0.0
        flow.since_s = self._env.now
        self._changed(flow)

    def _later(self, flow: Flow, seconds: float, then: Callable[[], None]) -> None:
        plan = flow.plan
        event = self._env.timeout(seconds)
        event.callbacks.append(lambda _: then() if plan == flow.plan else None)

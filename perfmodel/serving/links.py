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
        link.bytes_per_s = bytes_per_s
        self._share_again(link.active)

    def _changed(self, flow: Flow) -> None:
        """The flow's bytes or cap have changed, and what it was is accounted for: plan it anew."""
        if flow.left > LEFT_BYTES:
            joins = flow not in flow.source.active
            flow.source.active[flow] = flow.target.active[flow] = None
            self._plan(flow)
            if joins:
                self._share_again({**flow.source.active, **flow.target.active})
        else:
            self._leave(flow)
            flow.plan += 1
            if flow.closed:
                self._later(flow, self._latency_s, flow.done)

    def _leave(self, flow: Flow) -> None:
        if flow in flow.source.active:
            del flow.source.active[flow], flow.target.active[flow]
            self._share_again({**flow.source.active, **flow.target.active})

    def _share_again(self, flows: dict[Flow, None]) -> None:
        """Flows come or go: those that move faster or slower for it are planned anew, most are not where caps bind."""
        for flow in list(flows):
            if flow.rate != self._rate(flow):
                self._advance(flow)
                self._plan(flow)

    @staticmethod
    def _rate(flow: Flow) -> float:
        return min(flow.cap, flow.source.share, flow.target.share)

    def _advance(self, flow: Flow) -> None:
        now = self._env.now
        if flow in flow.source.active:
            flow.left = max(0.0, flow.left - flow.rate * (now - flow.since_s))
        flow.since_s = now

    def _plan(self, flow: Flow) -> None:
        flow.rate = self._rate(flow)
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

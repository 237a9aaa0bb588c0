"""Bytes on their way between ranks: flows that share the links at their two ends.

A flow moves at the least of its own cap and of an equal share of each of its links. An equal share of a link that
other flows can't use up stays unused, so contention is rather over- than underestimated.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import simpy

from perfmodel.serving.instant import at_the_end_of_this_instant

LEFT_BYTES = 1e-3
"""Fewer count as none: rounding."""


def _all_of_it() -> float:
    return 1.0


@dataclass(slots=True, eq=False)
class Link:
    """One end of flows: what a rank sends on, or receives on."""

    bytes_per_s: float
    active: dict["Flow", None] = field(default_factory=dict)
    """Flows that move something now, in the order in which they began (a dict, so that the order is always the
    same)."""
    room: Callable[[], float] = _all_of_it
    """Share of it that other traffic leaves to flows."""

    @property
    def share(self) -> float:
        """Bytes/s of each active flow."""
        return self.bytes_per_s * self.room() / len(self.active)

    @property
    def taken(self) -> float:
        """Share of it that flows use."""
        rate = 0.0
        for flow in self.active:
            rate += flow.rate
        return rate / self.bytes_per_s


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

    @property
    def share(self) -> float:
        """Bytes/s at which it can move now; it is active."""
        return min(self.cap, self.source.share, self.target.share)


class Links:
    """All flows of a run."""

    def __init__(
        self,
        env: simpy.Environment,
        latency_s: float,
        told: Callable[[dict[Link, None]], None] | None = None,
    ) -> None:
        """``latency_s`` passes after a flow's last byte before it has arrived. ``told`` of the links whose flows may
        move otherwise than before, once an instant is over.
        """
        self._env, self._latency_s, self._told = env, latency_s, told
        self._touched: dict[Flow, None] = {}
        self._crowds: dict[Link, None] = {}
        """Flows to plan anew, and links that are shared by others than before, once this instant is over: many flows
        begin and end together.
        """
        self._planning = False

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
        flow.left, flow.closed = 0.0, False
        self._changed(flow)

    def resize(self, link: Link, bytes_per_s: float) -> None:
        """A link moves so many bytes/s from now on."""
        link.bytes_per_s = bytes_per_s
        self._crowded(link)

    def moved(self, link: Link) -> None:
        """Other traffic leaves another share of a link from now on."""
        self._crowded(link)

    def _changed(self, flow: Flow) -> None:
        """The flow's bytes or cap have changed, and what it was is accounted for."""
        flow.plan += 1
        if flow.left > LEFT_BYTES:
            if flow not in flow.source.active:
                flow.source.active[flow] = flow.target.active[flow] = None
                self._crowded(flow.source, flow.target)
            self._touched[flow] = None
            self._crowded()
            return
        if flow in flow.source.active:
            del flow.source.active[flow], flow.target.active[flow]
            self._crowded(flow.source, flow.target)
        self._touched.pop(flow, None)
        if flow.closed:
            self._later(flow, self._latency_s, flow.done)

    def _crowded(self, *links: Link) -> None:
        """Plan anew when this instant is over."""
        if not self._planning:
            self._planning = True
            at_the_end_of_this_instant(self._env, self._plan_all)
        self._crowds.update(dict.fromkeys(links))

    def _plan_all(self) -> None:
        """Plan what has changed, and whatever moves faster or slower for it: little, where caps bind."""
        flows = dict(self._touched)
        for link in self._crowds:
            for flow in link.active:
                if flow.rate != flow.share:
                    flows[flow] = None
        links = self._crowds | dict.fromkeys(flow.target for flow in flows)
        self._planning = False
        self._touched.clear()
        self._crowds = {}
        for flow in flows:
            self._advance(flow)
            flow.rate = flow.share
            flow.plan += 1
            self._later(flow, flow.left / flow.rate, partial(self._emptied, flow))
        if self._told is not None:
            self._told(links)

    def _advance(self, flow: Flow) -> None:
        now = self._env.now
        if flow in flow.source.active:
            flow.left = max(0.0, flow.left - flow.rate * (now - flow.since_s))
        flow.since_s = now

    def _emptied(self, flow: Flow) -> None:
        flow.left = 0.0
        flow.since_s = self._env.now
        self._changed(flow)

    def _later(self, flow: Flow, seconds: float, then: Callable[[], None]) -> None:
        plan = flow.plan
        event = self._env.timeout(seconds)
        event.callbacks.append(lambda _: then() if plan == flow.plan else None)

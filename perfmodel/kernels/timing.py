"""The time of an op that runs alone, cut into what it uses."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfmodel.numeric import Num, maximum
from perfmodel.ops.op import Op

PARTS = ("latency_s", "compute_s", "memory_s", "link_s", "network_s", "gap_s")
"""Of a timing: seconds that may be arrays."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of an op that runs alone: latency + the longest of its parts (roofline).

    Parts may be arrays. The parts are kept because ops that run together share what they use.
    """

    latency_s: Num = 0.0
    """Fixed cost: launch, tail, or a message's first byte."""
    compute_s: Num = 0.0
    """FLOPs over what the kernel achieves of the peak."""
    memory_s: Num = 0.0
    """HBM bytes over what the kernel achieves of the bandwidth."""
    link_s: Num = 0.0
    """Link bytes over achieved link bandwidth."""
    network_s: Num = 0.0
    """Network bytes over achieved network bandwidth."""
    gap_s: Num = 0.0
    """What of the latency is no kernel: the gap before it in a captured graph, by an engine's constants."""
    held_sms: float = 0.0
    """Share of the streaming multiprocessors that a communication kernel holds while it runs."""
    log_std: float = 0.0
    """Spread: standard deviation of the log residual of the fit that the fractions come from."""
    uneven_log: Num = 0.0
    """Logarithm of how much longer it takes where the busiest rank is as busy as ``routing.prior_imbalance`` says, a
    standard deviation of what is not known of the router; 0: it does not depend on that, or it is known."""
    source: str = ""
    """measured:..., fitted:..., roofline, derived:... or given."""
    spread_key: str = ""
    """Ops with the same key err together: one curve on one shape. Empty: no spread that could be carried on."""
    calibrated: bool = False
    """Whether a calibration file answered, rather than the shipped fractions of the peaks."""
    flag: str = ""
    """Why the figure should be trusted less: outside the measured domain, derived, unmeasured. Empty: nothing."""

    @property
    def seconds(self) -> Num:
        """Time alone, s."""
        return self.latency_s + maximum(self.compute_s, self.memory_s, self.link_s, self.network_s)

    @property
    def bound(self) -> str:
        """What limits the op: compute, memory, network (either link) or latency. Arrays: of the first element."""
        parts = {
            "latency": self.latency_s,
            "compute": self.compute_s,
            "memory": self.memory_s,
            "network": maximum(self.link_s, self.network_s),
        }
        return max(parts, key=lambda name: float(np.ravel(parts[name])[0]))

    def scaled(self, factor: Num, *, source: str | None = None) -> "Timing":
        """The same op ``factor`` times as slow."""
        return replace(
            self,
            latency_s=self.latency_s * factor,
            compute_s=self.compute_s * factor,
            memory_s=self.memory_s * factor,
            link_s=self.link_s * factor,
            network_s=self.network_s * factor,
            gap_s=self.gap_s * factor,
            source=self.source if source is None else source,
        )

    def or_slower(self, other: "Timing") -> "Timing":
        """The slower of the two; of arrays in each place, in the words of that which is slower on the whole."""
        first = np.asarray(self.seconds >= other.seconds)
        if first.all():
            return self
        if not first.any():
            return other
        words = self if np.mean(self.seconds) >= np.mean(other.seconds) else other
        return replace(
            words,
            **{part: np.where(first, getattr(self, part), getattr(other, part)) for part in PARTS},
            log_std=max(self.log_std, other.log_std),
        )

    def selected(self, indices: Any) -> "Timing":
        """The same op for some of the scenarios that its arrays hold."""

        def own(part: Num) -> Num:
            return part[indices] if isinstance(part, np.ndarray) and part.ndim else part  # type: ignore[unreachable]

        return replace(
            self,
            latency_s=own(self.latency_s),
            compute_s=own(self.compute_s),
            memory_s=own(self.memory_s),
            link_s=own(self.link_s),
            network_s=own(self.network_s),
            gap_s=own(self.gap_s),
        )


def spread_key(op: Op, *curve: str) -> str:
    """Ops of one curve on one shape err together (a kernel in every layer); on different shapes, independently."""
    sizes = [f"{size:g}" for size in op.shape.values() if np.ndim(size) == 0]
    return " ".join((op.kernel, *curve, *sizes))

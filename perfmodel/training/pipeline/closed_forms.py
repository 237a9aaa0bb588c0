"""Bubbles and peaks that have a formula, for stages that are alike and transfers that take no time.

F, I and W are times of ONE CHUNK (a rank's layers over v), B = I + W. Two bubbles are told apart: beyond the busy
time over the makespan, and inside a rank's own span. "Zero bubble" means the second: the makespan of ZB-H2 and ZB-V
is still p - 1 chunks longer. Sources: arXiv 1811.06965 (GPipe), 2104.04473 (interleaved; peaks in flight), 2401.10241
(ZB-H1, ZB-H2), https://github.com/deepseek-ai/DualPipe.
"""

from dataclasses import dataclass

from perfmodel.training.pipeline.orders import rounds


@dataclass(frozen=True, slots=True)
class Bubble:
    """What a formula says; None where there is none."""

    makespan_s: float | None
    """Makespan less m v (F + B)."""
    own_span_s: float | None
    """The longest idle time inside a rank's own span."""


def bubble(name: str, p: int, m: int, v: int, forward: float, input_: float, weight: float) -> Bubble:
    """The bubble of a schedule, in the unit of its times; ``m`` must be large enough that the pipeline fills."""
    backward = input_ + weight
    if name in ("gpipe", "1f1b", "interleaved-1f1b"):
        return Bubble((p - 1) * (forward + backward), None)
    if name == "zb-h1":
        return Bubble((p - 1) * (forward + input_ - weight), None)
    if name == "zb-h2":
        return Bubble(None, (p - 1) * (forward + input_ - 2.0 * weight))
    if name in ("dualpipe", "dualpipe-v"):
        turns = (p // 2 if name == "dualpipe" else p) - 1
        return Bubble(turns * (forward + backward + backward - 3.0 * weight), None)
    return Bubble(None, None)  # ZB-V: simulate


def peak_in_flight(name: str, p: int, m: int, v: int, rank: int) -> int:
    """Most chunks whose activations a rank holds at once, each freed when its weight gradient is done.

    Interleaved schedules: m a multiple of p gives Megatron's p (1 + (p - 1) / (p v)) x v on rank 0; else a round has
    more than p micro-batches, and all of them are held once for each chunk but the last.
    """
    per_round = m // rounds(p, m)
    if name == "gpipe":
        return m
    if name == "1f1b":
        return min(m, p - rank)
    if name == "interleaved-1f1b":
        return min(m * v, (v - 1) * per_round + 2 * (p - 1 - rank) + 1)
    if name == "zb-h1":
        return min(m * v, (v - 1) * per_round + p)
    if name == "zb-h2":
        return min(m, 2 * p - 1)
    if name == "zb-v":
        return min(2 * m, 2 * p)
    return (p if name == "dualpipe" else 2 * p) + 1

"""What is in flight on a rank, out of its order alone: a rank does one thing after the other, so the times of its
actions do not matter. For search, where many layouts share an order.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.training.pipeline.actions import FORWARD, INPUT, PAIR, Ints, Schedule
from perfmodel.training.pipeline.coded import coded
from perfmodel.training.pipeline.occupancy import beside_backward


@dataclass(frozen=True, slots=True)
class Flight:
    """What one rank holds when a forward runs, which its fullest moments are among."""

    held: NDArray[np.float64]
    """Micro-batches of each of its stages whose activations it holds, (moments, stages of the rank); both halves of a
    pair are among them."""
    paired: Ints
    """Moments of pairs, (pairs,)."""
    forward: Ints
    """Which of the rank's stages runs forwards there, (pairs,)."""
    backward: Ints
    """And which backwards."""

    def most(self, stage_bytes: Any, leads: Any) -> Any:
        """What the rank holds at its fullest, (layouts,) or a number.

        Args:
            stage_bytes: what a micro-batch leaves behind in each of the rank's stages, (stages,) or (stages, layouts).
            leads: what of it a pair's backward frees late, as many (:func:`beside_backward`).
        """
        held = self.held @ stage_bytes
        forward, backward = stage_bytes[self.forward], stage_bytes[self.backward]
        held[self.paired] += beside_backward(forward, backward, leads[self.backward]) - forward
        return held.max(axis=0)


@lru_cache(maxsize=256)
def in_flight(schedule: Schedule) -> tuple[Flight, ...]:
    """What is in flight on every rank."""
    own = coded(schedule)
    takes = (own.kind == FORWARD) | (own.kind == PAIR)
    frees = (own.kind != FORWARD) & (own.kind != INPUT)
    found = []
    for rank in range(schedule.ranks):
        at = own.of(rank)
        stages = np.array(schedule.stages_of(rank))
        taken = takes[at, None] & (own.stage[at, None] == stages)
        freed = frees[at, None] & (own.back_stage[at, None] == stages)
        held = np.cumsum(taken, axis=0) - np.cumsum(freed, axis=0) + freed  # freed at its end
        moments = takes[at]
        paired = np.flatnonzero(own.kind[at][moments] == PAIR)
        met = (np.searchsorted(stages, side[at][moments][paired]) for side in (own.stage, own.back_stage))
        found.append(Flight(held[moments].astype(float), paired, *met))
    return tuple(found)

"""A schedule as arrays: one row per action, rank by rank, for what is asked of many layouts at once."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from perfmodel.training.pipeline.actions import Kind, Schedule

Ints = NDArray[np.intp]
FORWARD, INPUT, WEIGHT, BACKWARD, PAIR = range(5)
CODES = {
    Kind.FORWARD: FORWARD,
    Kind.INPUT: INPUT,
    Kind.WEIGHT: WEIGHT,
    Kind.BACKWARD: BACKWARD,
    Kind.PAIR: PAIR,
}


@dataclass(frozen=True, slots=True)
class Coded:
    """Columns (actions,), in order of rank and within it in the order that it runs them."""

    rank: Ints
    kind: Ints
    stage: Ints
    """Of a pair its forward's."""
    micro_batch: Ints
    back_stage: Ints
    """Of what an action runs backwards (either gradient): a pair's other stage; -1 for a forward alone."""
    back_micro_batch: Ints
    starts: Ints
    """(ranks + 1,): first action of each rank, and how many there are."""

    def of(self, rank: int) -> slice:
        """A rank's actions."""
        return slice(int(self.starts[rank]), int(self.starts[rank + 1]))


@lru_cache(maxsize=64)
def coded(schedule: Schedule) -> Coded:
    """The arrays of a schedule."""
    kinds = np.array([CODES[action[0]] for order in schedule.orders for action in order], dtype=np.intp)
    rest = np.array([action[1:] for order in schedule.orders for action in order], dtype=np.intp)
    lengths = [len(order) for order in schedule.orders]
    stage, micro, other, other_micro = rest.T
    alone = (kinds != PAIR) & (kinds != FORWARD)
    return Coded(
        np.repeat(np.arange(len(lengths)), lengths),
        kinds,
        stage,
        micro,
        np.where(alone, stage, other),
        np.where(alone, micro, other_micro),
        np.cumsum([0, *lengths]),
    )

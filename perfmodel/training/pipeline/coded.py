"""A schedule as arrays: one row per action, rank by rank, for what is asked of many layouts at once."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perfmodel.training.pipeline.actions import Ints, Schedule


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
    lengths = [len(rows) for rows in schedule.rows]
    kinds, stage, micro, back_stage, back_micro = np.concatenate(schedule.rows).T.copy()
    rank = np.repeat(np.arange(len(lengths)), lengths)
    return Coded(rank, kinds, stage, micro, back_stage, back_micro, np.cumsum([0, *lengths]))

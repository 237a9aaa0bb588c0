"""What is in flight on a rank, out of its order alone: a rank does one thing after the other, so the times of its
actions do not matter. For search, where many layouts share an order.
"""

from functools import lru_cache

import numpy as np

from perfmodel.training.pipeline.actions import FORWARD, INPUT, PAIR, Schedule
from perfmodel.training.pipeline.coded import coded


@lru_cache(maxsize=256)
def in_flight(schedule: Schedule) -> tuple[np.ndarray, ...]:
    """Micro-batches of each of a rank's stages whose activations it holds, of each rank: (moments, stages of the rank).

    Its fullest moments are among those at which a forward runs.
    """
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
        found.append(held[takes[at]].astype(float))
    return tuple(found)

"""What is in flight on a rank, out of its order alone: a rank does one thing after the other, so the times of its
actions do not matter. For search, where many layouts share an order.
"""

from functools import lru_cache

import numpy as np

from perfmodel.training.pipeline.actions import Kind, Schedule


@lru_cache(maxsize=256)
def in_flight(schedule: Schedule, rank: int) -> np.ndarray:
    """Micro-batches of each of a rank's stages whose activations it holds, at its fullest moments: (moments, stages
    of the rank); moments that another one exceeds in every stage are left out.
    """
    stages = schedule.stages_of(rank)
    held = np.zeros(len(stages), dtype=int)
    found: list[np.ndarray] = []
    for action in schedule.orders[rank]:
        for part in action.parts():
            if part.kind is Kind.FORWARD:
                held[stages.index(part.stage)] += 1
        found.append(held.copy())
        for part in action.parts():
            if part.kind in (Kind.WEIGHT, Kind.BACKWARD):
                held[stages.index(part.stage)] -= 1
    rows = np.unique(np.array(found), axis=0)
    exceeded = (rows[None, :, :] >= rows[:, None, :]).all(axis=2).sum(axis=1) > 1
    kept: np.ndarray = rows[~exceeded]
    return kept

"""What is in flight on a rank, out of its order alone: a rank does one thing after the other, so the times of its
actions do not matter. For search, where many layouts share an order.
"""

from functools import lru_cache

import numpy as np

from perfmodel.training.pipeline.actions import BACKWARD, FORWARD, PAIR, WEIGHT, Schedule
from perfmodel.training.pipeline.coded import coded


@lru_cache(maxsize=1024)
def in_flight(schedule: Schedule, rank: int) -> np.ndarray:
    """Micro-batches of each of a rank's stages whose activations it holds, at its fullest moments: (moments, stages
    of the rank); moments that another one exceeds in every stage are left out.
    """
    own, at = coded(schedule), coded(schedule).of(rank)
    kinds, stage, back = own.kind[at], own.stage[at], own.back_stage[at]
    stages = np.unique(np.concatenate([stage, back[back >= 0]]))
    taken = ((kinds == FORWARD) | (kinds == PAIR))[:, None] & (stage[:, None] == stages)
    frees = (kinds == WEIGHT) | (kinds == BACKWARD) | (kinds == PAIR)
    freed = frees[:, None] & (back[:, None] == stages)
    held = np.cumsum(taken, axis=0) - np.cumsum(freed, axis=0) + freed
    if len(stages) == 1:
        most: np.ndarray = held.max(axis=0, keepdims=True)
        return most
    rows = np.unique(held, axis=0)
    exceeded = (rows[None, :, :] >= rows[:, None, :]).all(axis=2).sum(axis=1) > 1
    kept: np.ndarray = rows[~exceeded]
    return kept

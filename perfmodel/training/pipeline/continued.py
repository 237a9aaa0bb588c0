"""Steps of many micro-batches, out of shorter ones: once a pipeline repeats itself, each further round of p
micro-batches takes as long as the one before.

From round to round the longest delay of a rank never grows and the shortest never falls: what waits for the latest of
several ends is monotone, and moved by what all of them are moved by. So every further round takes between the two. How
soon they meet depends on stages that are nearly as slow as the slowest.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from perfmodel.training.pipeline.actions import PAIR, WEIGHT, Ints, Schedule, actions
from perfmodel.training.pipeline.coded import coded
from perfmodel.training.pipeline.program import ends
from perfmodel.training.pipeline.times import StageTimes

ROUNDS = 4
"""Rounds of p micro-batches that are run at first: filling and emptying, and two between."""


def run_at_first(name: str, p: int, micro_batches: int) -> int:
    """Micro-batches that are run at first; the same for all numbers that may be continued together."""
    few = ROUNDS * p + micro_batches % p
    return micro_batches if name == "gpipe" else min(micro_batches, few)


def bounds(
    schedule: Schedule, micro_batches: Ints, times: StageTimes, *, own_spans: bool = False
) -> tuple[Any, Any]:
    """(least, most): between them lie makespans, s, (scenarios,).

    Args:
        schedule: of as many micro-batches as each scenario has, or of whole rounds fewer.
        micro_batches: of each scenario, (scenarios,).
        times: (stages, scenarios).
        own_spans: each rank's time counts from when it begins itself.
    """
    starts, turns = coded(schedule).starts, steady(schedule)
    at = ends(schedule, times, np.concatenate([starts[1:] - 1, starts[:-1], *turns]))
    last, first, steadily = np.split(at, [schedule.ranks, 2 * schedule.ranks])
    if own_spans:
        takes = [times.seconds(actions(rows[:1])[0], rank) for rank, rows in enumerate(schedule.rows)]
        last = last - (first - np.array(takes))
    span = last.max(axis=0)
    more = (micro_batches - schedule.micro_batches) / schedule.ranks
    if not turns:
        return np.where(more > 0.0, 0.0, span), np.where(more > 0.0, np.inf, span)
    delays = -np.diff(steadily.reshape(len(turns), schedule.ranks, -1), axis=0)
    return span + delays.min(axis=(0, 1)) * more, span + delays.max(axis=(0, 1)) * more


def run_next(ran: int, ranks: int, micro_batches: Ints) -> int:
    """Micro-batches to run where ``ran`` of them left (scenarios,) with ``micro_batches`` unsure: as many as some have,
    which makes those exact, or twice as many.
    """
    fewest = int(micro_batches.min())
    return fewest if fewest <= 3 * ran else 2 * ran - ran % ranks


@lru_cache(maxsize=64)
def steady(schedule: Schedule) -> tuple[Ints, ...]:
    """Of every rank the last action up to which it has done the same for three rounds, the one a round before, and two,
    counted as in :class:`perfmodel.training.pipeline.coded.Coded`; nothing where a rank never does.
    """
    own = coded(schedule)
    each = 1 if (own.kind == PAIR).any() else 3 if (own.kind == WEIGHT).any() else 2
    period = each * schedule.ranks * schedule.chunks
    total = len(own.rank)
    if total <= period:
        return ()
    alike = np.zeros(total, dtype=bool)
    alike[period:] = np.all(
        [column[period:] == column[:-period] for column in (own.rank, own.kind, own.stage, own.back_stage)],
        axis=0,
    )
    number = np.arange(total)
    since = number - np.maximum.accumulate(np.where(alike, -1, number))
    last = np.maximum.reduceat(np.where(since >= period, number, -1), own.starts[:-1])
    return () if (last < 0).any() else (last, last - period, last - 2 * period)

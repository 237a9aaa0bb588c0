"""Steps of many micro-batches, out of shorter ones: once a pipeline repeats itself, each further round of p
micro-batches takes as long as the one before.

From round to round the longest delay of an action never grows and the shortest never falls: what waits for the latest
of several ends is monotone, and moved by what all of them are moved by. So every further round takes between the two,
where they are those of all actions that what is still to come waits for. How soon they meet depends on stages that are
nearly as slow as the slowest.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.training.pipeline.actions import PAIR, WEIGHT, Ints, Schedule, actions
from perfmodel.training.pipeline.coded import coded
from perfmodel.training.pipeline.program import ends, waits
from perfmodel.training.pipeline.schedules import RULES
from perfmodel.training.pipeline.times import StageTimes

ROUNDS, ROUNDS_AHEAD = 4, 6
"""Rounds of p micro-batches that are run at first: filling and emptying, and two between; ZB-H2 is two rounds ahead
and its weight gradients lag as much.
"""


def run_at_first(name: str, p: int, micro_batches: int) -> int:
    """Micro-batches that are run at first; the same for all numbers that may be continued together. All of them where
    nothing repeats itself every p micro-batches: in GPipe, and where chunks are interleaved in rounds of more than p.
    """
    over = micro_batches % p
    if name == "gpipe" or (over and RULES[name].chunks is None):
        return micro_batches
    return min(micro_batches, (ROUNDS_AHEAD if name == "zb-h2" else ROUNDS) * p + over)


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
    starts, (latest, before) = coded(schedule).starts, steady(schedule)
    at = ends(schedule, times, np.concatenate([starts[1:] - 1, starts[:-1], latest, before]))
    last, first, steadily = np.split(at, [schedule.ranks, 2 * schedule.ranks])
    if own_spans:
        takes = [times.seconds(actions(rows[:1])[0], rank) for rank, rows in enumerate(schedule.rows)]
        last = last - (first - np.array(takes))
    span = last.max(axis=0)
    more = (micro_batches - schedule.micro_batches) / schedule.ranks
    if not latest.size:
        return np.where(more > 0.0, 0.0, span), np.where(more > 0.0, np.inf, span)
    delays = steadily[: latest.size] - steadily[latest.size :]
    return span + delays.min(axis=0) * more, span + delays.max(axis=0) * more


def run_next(ran: int, ranks: int, micro_batches: Ints) -> int:
    """Micro-batches to run where ``ran`` of them left (scenarios,) with ``micro_batches`` unsure: as many as some have,
    which makes those exact, or twice as many.
    """
    fewest = int(micro_batches.min())
    return fewest if fewest <= 3 * ran else 2 * ran - ran % ranks


@lru_cache(maxsize=64)
def steady(schedule: Schedule) -> tuple[Ints, Ints]:
    """What is to come waits for: (those actions of the latest rounds, each a round before), counted as in
    :class:`perfmodel.training.pipeline.coded.Coded`; none where a rank never does the same in two rounds.

    To come are a further round, which does as the latest one, and what follows it: one more round of micro-batches is
    put in behind these (tests).
    """
    own, needs = coded(schedule), waits(schedule)
    nothing = np.empty(0, dtype=np.intp)
    each = 1 if (own.kind == PAIR).any() else 3 if (own.kind == WEIGHT).any() else 2
    period = each * schedule.ranks * schedule.chunks
    total = len(own.rank)
    number = np.arange(total)
    since = number - np.maximum.accumulate(np.where(_as_before(schedule, period), -1, number))
    last = np.maximum.reduceat(np.where(since >= period, number, -1), own.starts[:-1])
    rank_of = np.append(own.rank, -1)[needs]
    while True:  # a round that waits for what runs at the end is none
        waits_for_the_end = (rank_of >= 0) & (needs > last[rank_of])
        early = np.flatnonzero(waits_for_the_end.any(axis=0) & (number <= last[own.rank]))
        if not early.size:
            break
        np.minimum.at(last, own.rank[early], early - 1)
    if (last < 0).any() or (since[last] < period).any():
        return nothing, nothing
    to_come = needs[:, number > last[own.rank] - period]
    to_come = to_come[to_come < total]
    oldest = last.copy()
    np.minimum.at(oldest, own.rank[to_come], to_come + period)
    found = np.flatnonzero((number >= oldest[own.rank]) & (number <= last[own.rank]))
    return found, found - period


def _as_before(schedule: Schedule, period: int) -> NDArray[np.bool_]:
    """(actions,): whether it is the same as so many of its rank before it, and waits for what is as many later."""
    own, needs = coded(schedule), waits(schedule)
    total = len(own.rank)
    found = np.zeros(total, dtype=bool)
    if total > period:
        what = np.array([own.rank, own.kind, own.stage, own.back_stage])
        later = np.where(needs[:, period:] == total, total, needs[:, period:] - period)
        found[period:] = (what[:, period:] == what[:, :-period]).all(axis=0)
        found[period:] &= (later == needs[:, :-period]).all(axis=0)
    return found

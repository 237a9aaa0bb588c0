"""Orders of schedules whose chunks lie round and round: GPipe, 1F1B, interleaved 1F1B, ZB-H1 and ZB-H2.

Rank r holds stages r, r + p, r + 2p, ... Sources: GPipe arXiv 1811.06965; 1F1B and interleaved 1F1B arXiv 2104.04473;
ZB-H1 and ZB-H2 arXiv 2401.10241. All but ZB-H2 equal torch.distributed.pipelining's, action by action (tests).

Each is a steady pattern: some forwards ahead, then in turn k a backward, a weight gradient that lags, and the next
forward. So every action has a place, (turn, what comes first in a turn), and an order is the actions sorted by it, of
all ranks at once.
"""

from collections.abc import Sequence

import numpy as np

from perfmodel.training.pipeline.actions import (
    BACK_MICRO_BATCH,
    BACK_STAGE,
    BACKWARD,
    FORWARD,
    INPUT,
    KIND,
    MICRO_BATCH,
    PAIR,
    STAGE,
    WEIGHT,
    Ints,
)

Rows = tuple[Ints, ...]
"""(actions, columns) of each rank."""
Block = tuple[int, Ints, Ints, Ints]
"""A kind of action; place, stage and micro-batch of each, (ranks, actions)."""
PLACES = 4
"""In a turn."""


def gpipe(p: int, m: int, v: int) -> Rows:
    """All forwards, then all backwards."""
    return _one_f_one_b(p, m, np.full(p, m))


def one_f_one_b(p: int, m: int, v: int) -> Rows:
    """Rank r runs p - r forwards ahead, then a backward and a forward in turn."""
    return _one_f_one_b(p, m, p - np.arange(p))


def one_f_one_b_paired(p: int, m: int, v: int) -> Rows:
    """1F1B with the forwards 2 (p - 1 - r) + 1 ahead, each next one beside a backward, as one action.

    A pair's results leave when all of it is done, so a micro-batch takes p pairs to the last rank and p back.
    """
    return _paired(_one_f_one_b(p, m, 2 * (p - 1 - np.arange(p)) + 1))


def _one_f_one_b(p: int, m: int, ahead: Ints) -> Rows:
    k = np.arange(m)
    ranks = np.arange(p)[:, None]
    return _sorted(
        [
            (FORWARD, _fed(k, np.minimum(m, ahead), 2), ranks, k),
            (BACKWARD, _turn(k, 1), ranks, k),
        ]
    )


def _turn(turn: Ints, place: int) -> Ints:
    """Where an action of a turn stands."""
    return PLACES * turn + place


def _fed(step: Ints, ahead: Ints, place: int) -> Ints:
    """Where the forward of a step stands, (ranks, steps): ``ahead`` (ranks,) of them before the first turn, then one in
    each.
    """
    turn = step - ahead[:, None]
    return np.where(turn < 0, PLACES * turn, _turn(turn, place))


def _sorted(blocks: Sequence[Block]) -> Rows:
    """Orders of all ranks, each action in its place."""
    shape = np.broadcast_shapes(*(one.shape for block in blocks for one in block[1:]))
    ranks, number = shape
    places = np.concatenate([np.broadcast_to(block[1], shape) for block in blocks], axis=1)
    rows = np.empty((ranks, number * len(blocks), 5), dtype=np.intp)
    for i, (kind, _, stage, micro) in enumerate(blocks):
        own = rows[:, i * number : (i + 1) * number]
        own[..., KIND], own[..., STAGE], own[..., MICRO_BATCH] = kind, stage, micro
        ahead = kind == FORWARD
        own[..., BACK_STAGE], own[..., BACK_MICRO_BATCH] = (-1, -1) if ahead else (stage, micro)
    order = np.argsort(places, axis=1, kind="stable")
    return tuple(np.take_along_axis(rows, order[..., None], axis=1))


def _paired(orders: Rows) -> Rows:
    """A backward and the forward after it become one, wherever the forward is of another micro-batch or stage."""
    found = []
    for rows in orders:
        kinds = rows[:, KIND]
        first = np.flatnonzero((kinds[:-1] == BACKWARD) & (kinds[1:] == FORWARD))
        joined = rows.copy()
        joined[first, KIND] = PAIR
        joined[first, STAGE], joined[first, MICRO_BATCH] = (
            rows[first + 1, STAGE],
            rows[first + 1, MICRO_BATCH],
        )
        found.append(np.delete(joined, first + 1, axis=0))
    return tuple(found)


def rounds(p: int, m: int) -> int:
    """Rounds in which interleaved schedules take their micro-batches: p at a time, or a few more where p does not
    divide m (torch.distributed.pipelining's rule; the rounds must divide m).
    """
    return max(1, m // p)


def interleaved(p: int, m: int, v: int) -> Rows:
    """Interleaved 1F1B: a round of micro-batches passes a rank's first chunk, then its second, ..."""
    return _interleaved(p, m, v, split=False)


def interleaved_paired(p: int, m: int, v: int) -> Rows:
    """Interleaved 1F1B with one more forward ahead, and pairs as in :func:`one_f_one_b_paired` (Megatron-Core's
    overlap of expert parallelism's exchanges).
    """
    return _paired(_interleaved(p, m, v, split=False, backward_first=True))


def zb_h1(p: int, m: int, v: int) -> Rows:
    """As (interleaved) 1F1B with half the warm-up; rank r's weight gradients lag r input gradients behind."""
    return _interleaved(p, m, v, split=True)


def _interleaved(p: int, m: int, v: int, *, split: bool, backward_first: bool = False) -> Rows:
    """All ranks' orders; ``split``: the input gradient alone, weight gradients ``rank`` of them later;
    ``backward_first``: one more forward ahead, and then backwards before forwards.
    """
    per_round = m // rounds(p, m)
    total = m * v
    ranks = np.arange(p)
    ahead = (v - 1) * per_round + (1 if split else 2) * (p - 1 - ranks) + (1 if backward_first else 0)
    step = np.arange(total)
    round_, within = np.divmod(step, per_round * v)
    chunk, k = np.divmod(within, per_round)
    there, back = chunk * p + ranks[:, None], (v - 1 - chunk) * p + ranks[:, None]
    micro = round_ * per_round + k
    blocks: list[Block] = [
        (FORWARD, _fed(step, np.minimum(total, ahead), 2 if backward_first else 0), there, micro),
        (INPUT if split else BACKWARD, _turn(step, 1), back, micro),
    ]
    if split:
        blocks.append((WEIGHT, _turn(step + ranks[:, None], 3), back, micro))
    return _sorted(blocks)


def zb_h2(p: int, m: int, v: int) -> Rows:
    """ZB-H2: rank r runs 2 (p - 1 - r) + 1 forwards ahead, and its weight gradients lag 2 r input gradients behind.

    So every rank is busy from its first action to its last where F = I = W, and holds 2p - 1 micro-batches.
    """
    k, ranks = np.arange(m), np.arange(p)[:, None]
    ahead = np.minimum(m, 2 * (p - 1 - np.arange(p)) + 1)
    return _sorted(
        [
            (FORWARD, _fed(k, ahead, 3), ranks, k),
            (INPUT, _turn(k, 1), ranks, k),
            (WEIGHT, _turn(k + 2 * ranks, 2), ranks, k),
        ]
    )

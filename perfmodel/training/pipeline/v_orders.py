"""Orders of schedules in which a micro-batch turns round at the last rank: ZB-V, DualPipe and DualPipeV.

In a V rank r holds stages r and 2p - 1 - r. In DualPipe micro-batches enter at both ends: rank r holds stage r for
those that enter at rank 0 and a copy of stage p - 1 - r for those that enter at rank p - 1. Sources: ZB-V arXiv
2405.15362, its order as torch.distributed.pipelining has it; DualPipe and DualPipeV
https://github.com/deepseek-ai/DualPipe.
"""

from collections import deque

import numpy as np

from perfmodel.training.pipeline.actions import BACKWARD, FORWARD, INPUT, MICRO_BATCH, PAIR, WEIGHT, Ints
from perfmodel.training.pipeline.orders import Rows

Row = tuple[int, int, int, int, int]
"""An action, as :mod:`perfmodel.training.pipeline.actions` has its columns."""


def zb_v(p: int, m: int, v: int) -> Rows:
    """ZB-V, for any m: the order for at least 2p - 1 micro-batches without those that do not exist."""
    most = max(2 * p - 1, m)
    orders = (np.array(_zb_v(r, p, most), dtype=np.intp) for r in range(p))
    return tuple(rows[rows[:, MICRO_BATCH] < m] for rows in orders)


def _zb_v(rank: int, p: int, m: int) -> list[Row]:
    stages = (rank, 2 * p - 1 - rank)
    order: list[Row] = []
    done = ([0, 0], [0, 0], [0, 0])
    forwards, inputs, weights = (done[kind] for kind in (FORWARD, INPUT, WEIGHT))

    def run(kind: int, chunk: int) -> None:
        stage, k = stages[chunk], done[kind][chunk]
        order.append((kind, stage, k, -1, -1) if kind == FORWARD else (kind, stage, k, stage, k))
        done[kind][chunk] += 1

    for _ in range(2 * (p - rank) - 1):
        run(FORWARD, 0)
    for _ in range(rank):
        run(FORWARD, 1)
        run(FORWARD, 0)
    for _ in range(p - rank):
        run(FORWARD, 1)
        run(INPUT, 1)
        run(WEIGHT, 1)
    while forwards[1] < forwards[0] or forwards[0] < m:
        if forwards[0] < m:
            run(FORWARD, 0)
        for kind in (INPUT, WEIGHT):
            run(kind, 0)
        for kind in (FORWARD, INPUT, WEIGHT):
            run(kind, 1)
    for _ in range(rank):
        run(INPUT, 0)
        run(INPUT, 1)
    for _ in range(p - rank):
        run(INPUT, 0)
        run(WEIGHT, 0)
    for chunk in (1, 0):
        while weights[chunk] < inputs[chunk]:
            run(WEIGHT, chunk)
    return order


def dual_pipe_v(p: int, m: int, v: int) -> Rows:
    """DualPipeV: DualPipe cut in half, with both halves of the layers on one rank."""
    return tuple(_dual(r, p, m, (r, 2 * p - 1 - r), (0, 0), middle_alone=r == p - 1) for r in range(p))


def dual_pipe(p: int, m: int, v: int) -> Rows:
    """DualPipe: micro-batches 0 to m/2 - 1 enter at rank 0, the others at rank p - 1."""
    orders = []
    for r in range(p):
        half_rank = min(r, p - 1 - r)
        second = r >= p // 2
        stages, first = (r, p - 1 - r), (0, m // 2)
        if second:  # what is near for the first half is far for the second
            stages, first = stages[::-1], first[::-1]
        middle = half_rank == p // 2 - 1
        orders.append(_dual(half_rank, p // 2, m // 2, stages, first, middle_alone=middle))
    return tuple(orders)


def _dual(
    rank: int, p: int, m: int, stages: tuple[int, int], first: tuple[int, int], *, middle_alone: bool
) -> Ints:
    """The eight phases of DualPipe on rank ``rank`` of ``p``, m micro-batches of each of two streams.

    ``stages``: of the stream that enters nearby and of the one that comes back; ``first``: their first micro-batches.
    """
    order: list[Row] = []
    forwards, backwards = list(first), list(first)
    waiting: deque[tuple[int, int]] = deque()

    def run_forward(stream: int) -> None:
        order.append((FORWARD, stages[stream], forwards[stream], -1, -1))
        forwards[stream] += 1

    def run_backward(stream: int, *, split: bool = False) -> None:
        where = (stages[stream], backwards[stream])
        order.append((INPUT if split else BACKWARD, *where, *where))
        backwards[stream] += 1
        if split:
            waiting.append(where)

    def run_pair(stream: int, other: int) -> None:
        order.append((PAIR, stages[stream], forwards[stream], stages[other], backwards[other]))
        forwards[stream] += 1
        backwards[other] += 1

    def run_weight() -> None:
        where = waiting.popleft()
        order.append((WEIGHT, *where, *where))

    for _ in range(2 * (p - rank - 1)):
        run_forward(0)
    for _ in range(rank + 1):
        run_forward(0)
        run_forward(1)
    for _ in range(p - rank - 1):
        run_backward(1, split=True)
        run_weight()
        run_forward(1)
    for number in range(m - 2 * p + rank + 1):
        if number == 0 and middle_alone:  # not overlapped, so that the bubble is smaller (DeepSeek's comment)
            run_forward(0)
            run_backward(1)
        else:
            run_pair(0, 1)
        run_pair(1, 0)
    for _ in range(p - rank - 1):
        run_backward(1)
        run_pair(1, 0)
    split = False
    for number in range(rank + 1):
        half = number == (rank + 1) // 2
        split = split or (half and rank % 2 == 1)
        run_backward(1, split=split)
        split = split or (half and rank % 2 == 0)
        run_backward(0, split=split)
    for _ in range(p - rank - 1):
        run_weight()
        run_backward(0, split=True)
    while waiting:
        run_weight()
    return np.array(order, dtype=np.intp)

"""Orders of schedules whose chunks lie round and round: GPipe, 1F1B, interleaved 1F1B, ZB-H1 and ZB-H2.

Rank r holds stages r, r + p, r + 2p, ... Sources: GPipe arXiv 1811.06965; 1F1B and interleaved 1F1B arXiv 2104.04473;
ZB-H1 and ZB-H2 arXiv 2401.10241. All but ZB-H2 equal torch.distributed.pipelining's, action by action (tests).
"""

from perfmodel.training.pipeline.actions import (
    Action,
    Kind,
    Order,
    backward,
    forward,
    input_gradient,
    pair,
    weight_gradient,
)


def gpipe(p: int, m: int, v: int) -> tuple[Order, ...]:
    """All forwards, then all backwards."""
    return tuple((*(forward(r, k) for k in range(m)), *(backward(r, k) for k in range(m))) for r in range(p))


def one_f_one_b(p: int, m: int, v: int) -> tuple[Order, ...]:
    """Rank r runs p - r forwards ahead, then a backward and a forward in turn."""
    return tuple(_one_f_one_b(r, min(m, p - r), m) for r in range(p))


def _one_f_one_b(stage: int, ahead: int, m: int) -> Order:
    order = [forward(stage, k) for k in range(ahead)]
    for k in range(m):
        order.append(backward(stage, k))
        if ahead + k < m:
            order.append(forward(stage, ahead + k))
    return tuple(order)


def one_f_one_b_paired(p: int, m: int, v: int) -> tuple[Order, ...]:
    """1F1B with the forwards 2 (p - 1 - r) + 1 ahead, each next one beside a backward, as one action.

    A pair's results leave when all of it is done, so a micro-batch takes p pairs to the last rank and p back.
    """
    return tuple(_paired(_one_f_one_b(r, min(m, 2 * (p - 1 - r) + 1), m)) for r in range(p))


def _paired(order: Order) -> Order:
    """A backward and the forward after it become one, wherever the forward is of another micro-batch or stage."""
    found: list[Action] = []
    for action in order:
        before = found[-1] if found else None
        if before is not None and before.kind is Kind.BACKWARD and action.kind is Kind.FORWARD:
            found[-1] = pair(action.stage, action.micro_batch, before.stage, before.micro_batch)
        else:
            found.append(action)
    return tuple(found)


def rounds(p: int, m: int) -> int:
    """Rounds in which interleaved schedules take their micro-batches: p at a time, or a few more where p does not
    divide m (torch.distributed.pipelining's rule; the rounds must divide m).
    """
    return max(1, m // p)


def interleaved(p: int, m: int, v: int) -> tuple[Order, ...]:
    """Interleaved 1F1B: a round of micro-batches passes a rank's first chunk, then its second, ..."""
    return tuple(_interleaved(r, p, m, v, split=False) for r in range(p))


def interleaved_paired(p: int, m: int, v: int) -> tuple[Order, ...]:
    """Interleaved 1F1B with one more forward ahead, and pairs as in :func:`one_f_one_b_paired` (Megatron-Core's
    overlap of expert parallelism's exchanges).
    """
    return tuple(_paired(_interleaved(r, p, m, v, split=False, backward_first=True)) for r in range(p))


def zb_h1(p: int, m: int, v: int) -> tuple[Order, ...]:
    """As (interleaved) 1F1B with half the warm-up; rank r's weight gradients lag r input gradients behind."""
    return tuple(_interleaved(r, p, m, v, split=True) for r in range(p))


def _interleaved(rank: int, p: int, m: int, v: int, *, split: bool, backward_first: bool = False) -> Order:
    """One rank's order; ``split``: the input gradient alone, weight gradients ``rank`` of them later;
    ``backward_first``: one more forward ahead, and then backwards before forwards.
    """
    per_round = m // rounds(p, m)
    total = m * v
    ahead = (v - 1) * per_round + (1 if split else 2) * (p - 1 - rank) + (1 if backward_first else 0)
    ahead = min(total, ahead)
    lag = rank if split else 0

    def at(step: int, *, last_first: bool) -> tuple[int, int]:
        """(stage, micro-batch) of the step-th forward or backward on this rank."""
        round_, within = divmod(step, per_round * v)
        chunk, k = divmod(within, per_round)
        return ((v - 1 - chunk) if last_first else chunk) * p + rank, round_ * per_round + k

    order: list[Action] = [forward(*at(step, last_first=False)) for step in range(ahead)]
    for step in range(total):
        fed = ahead + step < total
        if fed and not backward_first:
            order.append(forward(*at(ahead + step, last_first=False)))
        where = at(step, last_first=True)
        order.append(input_gradient(*where) if split else backward(*where))
        if fed and backward_first:
            order.append(forward(*at(ahead + step, last_first=False)))
        if split and step >= lag:
            order.append(weight_gradient(*at(step - lag, last_first=True)))
    if split:
        order += [weight_gradient(*at(step, last_first=True)) for step in range(max(0, total - lag), total)]
    return tuple(order)


def zb_h2(p: int, m: int, v: int) -> tuple[Order, ...]:
    """ZB-H2: rank r runs 2 (p - 1 - r) + 1 forwards ahead, and its weight gradients lag 2 r input gradients behind.

    So every rank is busy from its first action to its last where F = I = W, and holds 2p - 1 micro-batches.
    """
    return tuple(_zb_h2(r, p, m) for r in range(p))


def _zb_h2(rank: int, p: int, m: int) -> Order:
    ahead, lag = min(m, 2 * (p - 1 - rank) + 1), 2 * rank
    order = [forward(rank, k) for k in range(ahead)]
    for k in range(m):
        order.append(input_gradient(rank, k))
        if k >= lag:
            order.append(weight_gradient(rank, k - lag))
        if ahead + k < m:
            order.append(forward(rank, ahead + k))
    return (*order, *(weight_gradient(rank, k) for k in range(max(0, m - lag), m)))

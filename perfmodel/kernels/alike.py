"""Ops that ask the same of a GPU take the same time: each kind is costed once.

Micro-batches of a step are alike, and so are the two halves of a shortcut-connected block: under two-batch overlap a
layer of LongCat-Flash has 78 ops of 25 kinds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from perfmodel.kernels.timing import Timing
from perfmodel.ops.op import Op


def timings_of(ops: Sequence[Op], cost: Callable[[Op], Timing]) -> tuple[Timing, ...]:
    """``cost`` of each op, asked once for ops that differ in their names alone: those share one timing."""
    kinds: dict[tuple[object, ...], list[tuple[Op, Timing]]] = {}
    known: dict[int, Timing] = {}
    timings = []
    for op in ops:
        timing = known.get(id(op))
        if timing is None:
            own = kinds.setdefault(_kind(op), [])
            timing = next((found for other, found in own if _same_work(op, other)), None)
            if timing is None:
                timing = cost(op)
                own.append((op, timing))
            known[id(op)] = timing
        timings.append(timing)
    return tuple(timings)


def _kind(op: Op) -> tuple[object, ...]:
    """All that says how an op is costed, but for how much work it is."""
    return (
        op.op_class, op.kernel, op.stream, op.dtype, op.backend, op.cache_dtype, op.inside, op.barrier, *op.shape,
    )  # fmt: skip


def _same_work(op: Op, other: Op) -> bool:
    if op is other:
        return True
    pairs: list[tuple[Any, Any]] = [(op.shape[name], other.shape[name]) for name in op.shape]
    pairs += [
        (op.flops, other.flops),
        (op.hbm_bytes, other.hbm_bytes),
        (op.link_bytes, other.link_bytes),
        (op.network_bytes, other.network_bytes),
    ]
    arrays = []
    for one, two in pairs:  # numbers first: they cost nothing to compare
        if isinstance(one, np.ndarray) or isinstance(two, np.ndarray):
            arrays.append((one, two))
        elif one != two:
            return False
    return all(one is two or np.array_equal(one, two) for one, two in arrays)

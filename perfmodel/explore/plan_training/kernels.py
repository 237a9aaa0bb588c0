"""Kernels of several layouts, each distinct one costed once: their ops hold one number per layout, and so do the
timings that come out.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.kernels.timing import Timing
from perfmodel.ops.backward import Kernel
from perfmodel.ops.op import Op

Floats = NDArray[np.float64]
FIGURES = ("flops", "hbm_bytes", "link_bytes", "network_bytes")
"""Numbers of an op, beside those of its shape."""
PARTS = ("latency_s", "compute_s", "memory_s", "link_s", "network_s", "held_sms")
"""What of a timing a graph's run depends on."""
CostOf = Callable[[Kernel], Timing]


class Costs:
    """Timings by what kernels are. A kernel is costed as one of a single layout is, number by number, so that no table,
    curve or rule has to know of several.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[Any, ...], dict[tuple[float, ...], tuple[float, ...]]] = {}
        """What a kernel is beside its numbers -> its numbers -> parts of its timing."""
        self.columns: dict[tuple[Any, ...], Timing] = {}
        """The same for all numbers of several layouts at once."""

    def timing(self, kernel: Kernel, layouts: int, about: tuple[Any, ...], cost_of: CostOf) -> Timing:
        """The timing of a kernel, parts (layouts,).

        Args:
            kernel: its numbers are the same for all layouts, or one for each.
            layouts: how many.
            about: whatever else the time of a kernel depends on.
            cost_of: costs a kernel of one layout.
        """
        plain = kernel.base is kernel.op
        named, numbers = _apart(kernel.op)
        if not plain:
            other, more = _apart(kernel.base)
            named, numbers = (*named, *other), [*numbers, *more]
        mark = (about, kernel.way, kernel.of, plain, *named)
        columns = np.empty((len(numbers), layouts))
        for column, number in zip(columns, numbers, strict=True):
            column[:] = number
        key = (*mark, columns.tobytes())
        if key not in self.columns:
            known = self.rows.setdefault(mark, {})
            found = np.empty((layouts, len(PARTS)))
            for layout, row in enumerate(map(tuple, columns.T.tolist())):
                if row not in known:
                    timing = cost_of(_of_one(kernel, row))
                    known[row] = tuple(float(getattr(timing, part)) for part in PARTS)
                found[layout] = known[row]
            parts: dict[str, Any] = dict(zip(PARTS, found.T, strict=True))
            self.columns[key] = Timing(**parts)
        return self.columns[key]


def _apart(op: Op) -> tuple[tuple[Any, ...], list[Any]]:
    """What an op is beside its name, and its numbers."""
    named = (
        op.op_class, op.kernel, op.stream, op.dtype, op.backend, op.barrier, op.cache_dtype, op.inside, *op.shape,
    )  # fmt: skip
    return named, [op.flops, op.hbm_bytes, op.link_bytes, op.network_bytes, *op.shape.values()]


def _of_one(kernel: Kernel, numbers: tuple[float, ...]) -> Kernel:
    """The kernel of one layout."""
    op, rest = _with(kernel.op, numbers)
    return replace(kernel, op=op, base=_with(kernel.base, rest)[0] if rest else op)


def _with(op: Op, numbers: tuple[float, ...]) -> tuple[Op, tuple[float, ...]]:
    """An op with the first of the numbers, and the others."""
    end = len(FIGURES) + len(op.shape)
    shape: Mapping[str, float] = dict(zip(op.shape, numbers[len(FIGURES) : end], strict=True))
    figures: dict[str, Any] = dict(zip(FIGURES, numbers[: len(FIGURES)], strict=True))
    return replace(op, shape=shape, **figures), numbers[end:]

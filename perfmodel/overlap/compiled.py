"""The twin's rounds in compiled code, asked from Python; nothing of numba is imported before that."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perfmodel.jit import Program
from perfmodel.numeric import Num
from perfmodel.overlap.graph import Segment
from perfmodel.overlap.orders import IntArray, Orders
from perfmodel.overlap.state import FloatArray, distinct

_SOURCES = ("kernel.py", "orders.py", "state.py")  # the last two for their constants
KERNEL = Program([Path(__file__).parent / name for name in _SOURCES])
"""Where compiled code is kept."""


class Ends(NamedTuple):
    """As :class:`perfmodel.overlap.state.State` has them at its end: s, one per scenario."""

    now: FloatArray
    exposed: FloatArray
    host_end: FloatArray

    @property
    def lead(self) -> FloatArray:
        """How long before the end the host was done."""
        return self.now - self.host_end


def run(
    segment: Segment, size: int, iterations: int, contention: bool, lead: FloatArray | None = None
) -> Ends:
    """As ``State(...).run()``, in compiled code."""
    from perfmodel.overlap import kernel

    orders = Orders.of(segment, iterations)
    timings, kinds = distinct(segment.timings)
    parts = [(t.latency_s, t.compute_s, t.memory_s, t.link_s, t.network_s) for t in timings]
    rows, fixed, arrays = _rows(parts, size)
    held = np.array([timing.held_sms for timing in timings])
    roles = np.zeros(len(orders.streams), dtype=np.int64)
    roles[list(orders.computes)] |= kernel.COMPUTES
    roles[list(orders.communicates)] |= kernel.COMMUNICATES
    opens = np.zeros(0) if lead is None else -lead
    ends = np.zeros((3, size))
    kernel.run_all(
        arrays, rows, fixed, held, kinds[orders.tasks], orders.needs, orders.lengths, orders.first, roles, iterations,
        orders.host_row, orders.host_waits, orders.marking, contention, opens, ends,
    )  # fmt: skip
    return Ends(*ends)


def _rows(parts: Sequence[tuple[Num, ...]], size: int) -> tuple[IntArray, FloatArray, FloatArray]:
    """Where each part of each timing is [timings, 5]: a row of the arrays [rows, scenarios], or -1 where it is the same
    in all scenarios; and that.
    """
    rows, fixed = np.full((len(parts), 5), -1), np.zeros((len(parts), 5))
    place: dict[int, int] = {}
    arrays: list[FloatArray] = []
    for kind, own in enumerate(parts):
        for figure, part in enumerate(own):
            if np.size(part) == 1:
                fixed[kind, figure] = np.asarray(part).item()
                continue
            if id(part) not in place:
                place[id(part)] = len(arrays)
                arrays.append(np.asarray(part, dtype=float))
            rows[kind, figure] = place[id(part)]
    return rows, fixed, np.stack(arrays) if arrays else np.zeros((0, size))

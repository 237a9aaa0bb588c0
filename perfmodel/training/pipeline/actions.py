"""What a pipeline rank does, one thing after the other, and the schedule that says in which order.

Notation of this folder: p pipeline ranks, m micro-batches of one rank and step, v chunks of layers per rank. A
*stage* is one chunk; stages are numbered in the order that a micro-batch passes them forwards.

An order is an array, one row per action; :class:`Action` is a row in words, for what runs them one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.intp]
FORWARD, INPUT, WEIGHT, BACKWARD, PAIR = range(5)
KIND, STAGE, MICRO_BATCH, BACK_STAGE, BACK_MICRO_BATCH = range(5)
"""Columns of a row: a code of :data:`CODES`; the stage and micro-batch of a forward, of a pair its forward's, else of
what runs backwards; and what runs backwards, a pair's other half: -1 for a forward alone."""


class Kind(StrEnum):
    """What a rank computes."""

    FORWARD = "F"
    INPUT = "I"
    """The gradient of a chunk's input, which the chunk before waits for."""
    WEIGHT = "W"
    """The gradient of a chunk's weights, for which nobody waits but the optimizer."""
    BACKWARD = "B"
    """Both gradients, as one."""
    PAIR = "F&B"
    """One chunk's forward beside another's backward, as one: nothing leaves the rank before both are done."""


CODES = {
    Kind.FORWARD: FORWARD,
    Kind.INPUT: INPUT,
    Kind.WEIGHT: WEIGHT,
    Kind.BACKWARD: BACKWARD,
    Kind.PAIR: PAIR,
}
KINDS = tuple(CODES)


class Action(NamedTuple):
    """One entry of a rank's order."""

    kind: Kind
    stage: int
    micro_batch: int
    other_stage: int = -1
    """A pair's: the stage whose backward runs beside the forward of ``stage``."""
    other_micro_batch: int = -1
    """A pair's: the micro-batch of that backward."""

    def parts(self) -> tuple["Action", ...]:
        """The forward and the backward of a pair; itself otherwise."""
        if self.kind is not Kind.PAIR:
            return (self,)
        backward = Action(Kind.BACKWARD, self.other_stage, self.other_micro_batch)
        return (Action(Kind.FORWARD, self.stage, self.micro_batch), backward)

    def __str__(self) -> str:
        if self.kind is Kind.PAIR:
            return f"({self.stage}F{self.micro_batch};{self.other_stage}B{self.other_micro_batch})"
        return f"{self.stage}{self.kind}{self.micro_batch}"


Order = tuple[Action, ...]


def actions(rows: Ints) -> Order:
    """An order's rows in words."""
    return tuple(
        Action(KINDS[kind], stage, micro, *((back, back_micro) if kind == PAIR else ()))
        for kind, stage, micro, back, back_micro in rows.tolist()
    )


def row(action: Action) -> tuple[int, int, int, int, int]:
    """An action as a row."""
    kind, stage, micro, other, other_micro = action
    alone = kind not in (Kind.FORWARD, Kind.PAIR)
    return CODES[kind], stage, micro, *((stage, micro) if alone else (other, other_micro))


@dataclass(frozen=True, eq=False)
class Schedule:
    """Every rank's order for one step."""

    name: str
    rows: tuple[Ints, ...]
    """(actions, columns) of each pipeline rank."""
    micro_batches: int
    chunks: int
    """Chunks of layers per rank, v; DualPipe's two copies of one half each count as one chunk."""
    num_stages: int

    @staticmethod
    def of(
        name: str, orders: Sequence[Order], micro_batches: int, chunks: int, num_stages: int
    ) -> "Schedule":
        """A schedule whose orders are in words."""
        rows = tuple(np.array([row(action) for action in order], dtype=np.intp) for order in orders)
        return Schedule(name, rows, micro_batches, chunks, num_stages)

    @cached_property
    def orders(self) -> tuple[Order, ...]:
        """The orders in words, one per pipeline rank."""
        return tuple(actions(own) for own in self.rows)

    @property
    def ranks(self) -> int:
        """Pipeline ranks, p."""
        return len(self.rows)

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """Stages whose weights a rank holds."""
        return self._stages[rank]

    @cached_property
    def _stages(self) -> tuple[tuple[int, ...], ...]:
        found = (np.unique(own[:, [STAGE, BACK_STAGE]]).tolist() for own in self.rows)
        return tuple(tuple(stage for stage in own if stage >= 0) for own in found)

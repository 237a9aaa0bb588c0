"""What a pipeline rank does, one thing after the other, and the schedule that says in which order.

Notation of this folder: p pipeline ranks, m micro-batches of one rank and step, v chunks of layers per rank. A
*stage* is one chunk; stages are numbered in the order that a micro-batch passes them forwards.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


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


@dataclass(frozen=True, slots=True)
class Schedule:
    """Every rank's order for one step."""

    name: str
    orders: tuple[Order, ...]
    """One per pipeline rank."""
    micro_batches: int
    chunks: int
    """Chunks of layers per rank, v; DualPipe's two copies of one half each count as one chunk."""
    num_stages: int

    @property
    def ranks(self) -> int:
        """Pipeline ranks, p."""
        return len(self.orders)

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """Stages whose weights a rank holds."""
        return tuple(sorted({part.stage for action in self.orders[rank] for part in action.parts()}))


def forward(stage: int, micro_batch: int) -> Action:
    """The forward of one micro-batch through one stage."""
    return Action(Kind.FORWARD, stage, micro_batch)


def input_gradient(stage: int, micro_batch: int) -> Action:
    """Its input gradient alone."""
    return Action(Kind.INPUT, stage, micro_batch)


def weight_gradient(stage: int, micro_batch: int) -> Action:
    """Its weight gradient alone."""
    return Action(Kind.WEIGHT, stage, micro_batch)


def backward(stage: int, micro_batch: int) -> Action:
    """Both gradients as one."""
    return Action(Kind.BACKWARD, stage, micro_batch)


def pair(stage: int, micro_batch: int, other_stage: int, other_micro_batch: int) -> Action:
    """A forward beside a backward."""
    return Action(Kind.PAIR, stage, micro_batch, other_stage, other_micro_batch)

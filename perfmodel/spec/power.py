"""What a GPU draws while it waits for what: shares of its board's limit, from ``data/power.yaml``."""

from functools import cache

from perfmodel.spec.base import PositiveFraction, Spec
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document


class Draw(Spec):
    """One state."""

    share: PositiveFraction
    """Of the board's power limit."""
    source: str


class Power(Spec):
    """All states."""

    idle: Draw
    """Nothing runs."""
    communication: Draw
    """Kernels wait for wires, or for their launch."""
    memory: Draw
    """Kernels wait for device memory."""
    compute: Draw
    """Kernels multiply as fast as they can."""


@cache
def power() -> Power:
    """The shipped shares."""
    return Power.model_validate(read_document(DATA / "power.yaml"))

"""How many kernels an engine launches for one op when it runs eagerly: ``data/engines/launches.yaml``.

An op of ours is one or several kernels of an engine's: an FP8 product quantises its input first, a fused mixture of
experts sorts, quantises, multiplies, activates, multiplies again and sums. Each entry names the source that was read.
"""

from functools import cache

from perfmodel.spec.base import NonNegative, Spec
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document

FILE = DATA / "engines" / "launches.yaml"
ANY = "any"


class Launched(Spec):
    """Kernels of one op."""

    kernel: str
    """Class of the op, as ``Op.kernel``."""
    dtype: str = ANY
    """Number format of the op."""
    backend: str = ANY
    """As ``Op.backend``."""
    kernels: NonNegative
    """How many are launched; the mean where it varies."""
    what: str
    """Which ones, in order."""
    source: str
    """Where that can be read: a URL at a tag."""
    note: str = ""
    """What of it is our reading."""


def kernels_launched(engine: str, kernel: str, dtype: str = ANY, backend: str = ANY) -> float:
    """Kernels that ``engine`` launches for an op; the entry that says most about it answers. Without an engine, or
    where the engine's list has no such op: one.
    """
    entries = _entries(engine)
    for key in ((kernel, dtype, backend), (kernel, dtype, ANY), (kernel, ANY, backend), (kernel, ANY, ANY)):
        if key in entries:
            return float(entries[key].kernels)
    return 1.0


def listed(engine: str) -> tuple[Launched, ...]:
    """An engine's entries, as the data has them."""
    return tuple(_entries(engine).values())


@cache
def _entries(engine: str) -> dict[tuple[str, str, str], Launched]:
    rows = read_document(FILE).get(engine) or [] if engine else []
    found = [Launched.model_validate(row) for row in rows]
    return {(row.kernel, row.dtype, row.backend): row for row in found}

"""What a serving engine adds to the kernels: constants fitted on published steps, per engine.

``data/engine_constants.yaml`` is written by ``python -m calibrate.engines`` (``make engine-constants``), from rows
whose role is ``fit`` alone. A scenario that names no engine has none of them.
"""

from functools import cache

from perfmodel.spec.base import NonNegative, Positive, Spec
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document

FILE = DATA / "engine_constants.yaml"


class EngineConstants(Spec):
    """One engine's constants; all zero and one where no engine is named."""

    host_gap_us: NonNegative = 0.0
    """Host time per step that the GPU waits for, us."""
    layer_sync_us: NonNegative = 0.0
    """Time per layer in which neither kernel nor wire is busy: launches, tails, waiting of ranks for each other, us."""
    imbalance: Positive = 1.0
    """Load of the busiest expert-parallel rank over what a scenario's popularity and placement explain."""
    log_std: NonNegative = 0.0
    """Spread of the step time that the constants leave unexplained: robust standard deviation of the log residual."""
    rows: int = 0
    """Published rows behind them."""
    source: str = ""
    """Which rows, and when."""


@cache
def engine_constants(engine: str) -> EngineConstants:
    """Constants of an engine; the neutral ones for an empty name or an engine that has none."""
    if not engine or not FILE.is_file():
        return EngineConstants()
    return EngineConstants.model_validate(read_document(FILE).get(engine) or {})

"""Kernels of a GPU that nobody timed, from those of another of the same architecture.

A calibration file with a section ``derived`` has no curves: it names the calibration whose curves answer. What of a
time is bound by arithmetic is scaled by the two peaks, what is bound by device memory by the two bandwidths, a
transfer by the two wires; fixed parts (a launch, a message's first byte) stay. That is how a what-if on a timed
device is answered (:meth:`perfmodel.kernels.calibration.Calibration.cost`); here it is flagged, and the spread is
wider by what the same scaling was off where both GPUs were timed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from perfmodel.errors import DataError
from perfmodel.kernels.timing import Timing


@dataclass(frozen=True, slots=True)
class Derivation:
    """From which calibration, and how far off that may be."""

    base: str
    """Catalogue name of the calibration whose curves answer."""
    base_id: str
    """Its id when this was made: errors were measured against that."""
    log_std: float
    """Standard deviation of log(derived / measured) where both GPUs were timed."""
    how: str
    """In words."""

    def of(self, timing: Timing, name: str) -> Timing:
        """A scaled timing with its flag and its wider spread. ``name`` is the derived calibration's."""
        said = f"calibration {name}: derived: {self.how}"
        return replace(
            timing,
            log_std=math.hypot(timing.log_std, self.log_std),
            flag="; ".join(filter(None, (said, timing.flag))),
        )


def derivation_from(document: Mapping[str, Any], name: str) -> Derivation:
    """The section ``derived`` of a calibration file.

    Raises:
        DataError: a missing or malformed field.
    """
    stated = document["derived"]
    try:
        found = Derivation(
            base=str(stated["from"]),
            base_id=str(stated["id"]),
            log_std=float(stated["log_std"]),
            how=str(stated["how"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{name}: section derived lacks or garbles {error}; run calibrate import-tables again"
        ) from error
    if not 0.0 <= found.log_std < 10.0:
        raise DataError(f"{name}: derived.log_std = {found.log_std:g} must be at least 0 and below 10")
    return found

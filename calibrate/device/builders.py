"""A case as a call that runs its kernel once."""

from typing import TYPE_CHECKING

from calibrate.device.case import COMMUNICATION, TRAINING, Build, Case, Run
from calibrate.device.serving_kernels import BUILDERS
from perfmodel.errors import DataError

if TYPE_CHECKING:
    from calibrate.device.timing import Bench


def build(case: Case, bench: "Bench") -> Run:
    """A callable that runs the kernel once on ``bench.device``.

    Raises:
        DataError: a communication kernel, a shape that the kernel can't have, or one that needs too much memory.
    """
    if case.kernel in COMMUNICATION:
        raise DataError(f"{case.label}: needs several ranks; give calibrate profile --ranks 2")
    return bench.between_others(lambda: builder_of(case.kernel)(case, bench))


def builder_of(kernel: str) -> Build:
    """How a kernel class of one rank is set up."""
    if kernel not in TRAINING:
        return BUILDERS[kernel]
    from calibrate.device.training_kernels import BUILDERS as OF_TRAINING

    return OF_TRAINING[kernel]

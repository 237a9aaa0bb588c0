"""What a GPU draws while kernels run."""

from perfmodel.spec.base import PositiveFraction, Spec


class Power(Spec):
    """Power of a GPU as shares of its board limit (``cluster.gpu.tdp_w``), by what bounds the kernel that runs."""

    compute: PositiveFraction
    """A kernel bound by its arithmetic."""
    memory: PositiveFraction
    """A kernel bound by device memory."""
    communication: PositiveFraction
    """In a step, while neither runs: the GPU communicates, waits for other ranks or for the host, or launches."""
    name: str = ""
    """Catalogue name."""
    source: str = ""
    """Where the figures come from."""
    date: str = ""
    """When they were read there (ISO date)."""

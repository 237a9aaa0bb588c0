"""What a GPU draws while kernels run."""

from perfmodel.spec.base import NonNegative, Positive, PositiveFraction, Spec


class KernelPower(Spec):
    """What a GPU draws in kernels of one class: a fit on measured watts."""

    floor_w: Positive
    """However little the kernel does."""
    compute_w: NonNegative
    """More at the peak of its number format."""
    memory_w: NonNegative
    """More at the peak of the memory's bandwidth."""


class Power(Spec):
    """Power of a GPU as shares of its board limit (``cluster.gpu.tdp_w``), by what bounds the kernel that runs; or,
    where watts of kernels were measured, by kernel class and by how much of the peaks it uses.
    """

    compute: PositiveFraction
    """A kernel bound by its arithmetic."""
    memory: PositiveFraction
    """A kernel bound by device memory."""
    communication: PositiveFraction
    """In a step, while neither runs: the GPU communicates, waits for other ranks or for the host, or launches."""
    kernels: dict[str, KernelPower] = {}
    """Kernel class, with its number format where it has several (``gemm fp8``): what it draws beyond its launch.
    Classes without an entry draw the shares, and so do all where this is empty. At most the board's limit in any
    case."""
    name: str = ""
    """Catalogue name."""
    source: str = ""
    """Where the figures come from."""
    date: str = ""
    """When they were read there (ISO date)."""

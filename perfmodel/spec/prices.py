"""Prices of GPUs."""

from perfmodel.spec.base import NonNegative, Spec


class Prices(Spec):
    """What a GPU costs."""

    usd_per_gpu_hour: NonNegative
    """USD per GPU and hour."""
    name: str = ""
    """Catalogue name."""
    gpu: str = ""
    """Which GPU the price is for."""
    term: str = ""
    """On-demand, reserved, assumed lease, ..."""
    default_for: tuple[str, ...] = ()
    """GPUs of the catalogue whose price it is where a scenario states none."""
    source: str = ""
    """Where it was quoted."""
    date: str = ""
    """When it was quoted."""

"""GPUs of FFNs and experts that are others than attention's, where each has GPUs of its own (AFD)."""

from perfmodel.spec.base import Spec
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.power import Power
from perfmodel.spec.prices import Prices


class Ffns(Spec):
    """Hardware of ``deployment.ffn_gpus`` where it is not that of attention (MegaScale-Infer, arXiv 2504.02263: experts
    on L40S, attention on H20). What is left out is the scenario's.
    """

    cluster: Cluster | None = None
    """GPUs that compute FFNs and experts, and their network; left out: the scenario's ``cluster``. Two clusters are
    joined by their networks, of which the slower sets a transfer's time."""
    calibration: str | None = None
    """Curves of timed kernels of those GPUs, as ``calibration``; None: what ships for ``ffns.cluster``'s GPU, without
    one the scenario's."""
    prices: Prices | None = None
    """What a GPU of FFNs costs; None: the catalogue's price for ``ffns.cluster``'s GPU, without one the scenario's."""
    power: Power | None = None
    """What such a GPU draws; a file may leave it out: as its architecture's."""

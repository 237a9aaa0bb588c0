"""Replicas that compute prompts only, so that the scenario's deployment only decodes."""

from typing import ClassVar, Literal

from perfmodel.spec.base import Spec
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.power import Power
from perfmodel.spec.prices import Prices
from perfmodel.spec.routing import Routing
from perfmodel.spec.serving import Serving


class Prefill(Spec):
    """Prefill apart from decode (disaggregation): prompts are computed here, their caches are sent over the network."""

    later: ClassVar[frozenset[str]] = frozenset({"cluster", "prices", "power"})

    deployment: Deployment
    """Layout of one prefill replica; what it says of a step's work is left out of account."""
    serving: Serving = Serving()
    """How many of them there are (``replicas``), how they batch and find their prompts."""
    routing: Routing | None = None
    """Who is busy here, and where experts are; a file states what differs from the scenario's ``routing``. None: as
    there. Filled in where their layout makes it another one (an EP of their own, redundant experts)."""
    cluster: Cluster | None = None
    """Hardware that prompts are computed on, where it is another than the one that decodes: caches then go over both
    networks, as fast as the slower of them takes. Left out of a file: the scenario's."""
    calibration: str | None = None
    """Curves of timed kernels of that hardware, as ``calibration``; None: what ships for ``prefill.cluster``'s GPU,
    without one the scenario's."""
    prices: Prices | None = None
    """What a GPU that computes prompts costs; None: the catalogue's price for ``prefill.cluster``'s GPU, without one
    the scenario's."""
    power: Power | None = None
    """What such a GPU draws; a file may leave it out: as its architecture's."""
    transfer: Literal["layer-wise", "whole"] = "layer-wise"
    """layer-wise: a decode rank reserves blocks first, and each layer's cache is sent while the next one is computed
    (SGLang with Mooncake, LongCat). whole: the cache is sent when the prompt is done and a decode rank has room (vLLM,
    TensorRT-LLM)."""

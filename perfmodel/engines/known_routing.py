"""What is known of a model's router, filled into a scenario that says nothing about which experts tokens like.

``data/routing_skew.yaml`` holds, by catalogue model, the exponent of a power law that was fitted on one published
effect (``python -m calibrate.engines.skew``, ``make engine-constants``). Of other models nothing is known: experts
count as used evenly, intervals hold that they may not be, and the answer says so.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from perfmodel.errors import DataError
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document
from perfmodel.spec.model import Model

SKEW_FILE = DATA / "routing_skew.yaml"
PRIOR_IMBALANCE = 1.25
"""What published runs leave beside routing, at most: TensorRT-LLM measured 1.11 on its busiest rank with EPLB
(DeepSeek-R1, EP32, 288 slots; its blog 4, Scaling Expert Parallelism in TensorRT-LLM,
https://nvidia.github.io/TensorRT-LLM/), SGLang's prefill on 32 GPUs allows 1.25 (`fit` rows lmsys_h100_prefill_*). A
router that is skewed and not balanced is far beyond that (2.56 there, without EPLB): that has to be stated."""
LOADS = ("popularity", "rank_loads", "imbalance", "drift", "skew", "histogram", "source")
"""Keys of ``routing`` that say who is busy: a scenario that states one of them is left as it is."""


@cache
def _document() -> dict[str, Any]:
    return read_document(SKEW_FILE)


def fitted_skew(model: str) -> float:
    """Exponent of the power law by which tokens like a catalogue model's experts.

    Raises:
        DataError: none was fitted for this model.
    """
    if model not in _document():
        raise DataError(
            f"{SKEW_FILE.name}: no routing skew was fitted for {model}; allowed: {', '.join(_document())}"
        )
    return float(_document()[model]["skew"])


def with_known_routing(
    routing: Mapping[str, Any], model: Model, deployment: Mapping[str, Any]
) -> dict[str, Any]:
    """The routing section with what is known of the model's router; unchanged where loads are stated, or every rank
    holds all experts.

    Known: the fitted popularity, on ranks in order, or by EPLB where a deployment has redundant experts (they are there
    for that). Not known: uniform, so that chance alone counts, and a prior for intervals.
    """
    if model.moe is None or any(key in routing for key in LOADS) or deployment.get("ep", 1) == 1:
        return dict(routing)
    placed = "eplb" if deployment.get("redundant_experts") else "contiguous"
    if model.name in _document():
        return {"placement": placed, **routing, "popularity": "power-law", "skew": fitted_skew(model.name)}
    return {"placement": placed, "prior_imbalance": PRIOR_IMBALANCE, **routing, "popularity": "uniform"}

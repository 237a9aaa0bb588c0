"""What is known of a model's router, filled into a scenario that says nothing about which experts tokens like.

``data/routing_skew.yaml`` holds, by catalogue model, the exponent of a power law that was fitted on one published
effect (``python -m calibrate.skew``, ``make engine-constants``). Of other models nothing is known: experts count as
used evenly, and the answer says so.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from perfmodel.errors import DataError
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document

SKEW_FILE = DATA / "routing_skew.yaml"
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
    routing: Mapping[str, Any], model: str, deployment: Mapping[str, Any]
) -> dict[str, Any]:
    """The routing section with the model's fitted popularity, on ranks in order, or by EPLB where a deployment has
    redundant experts (they are there for that); unchanged where loads are stated, nothing is known or every rank holds
    all experts.
    """
    if any(key in routing for key in LOADS) or deployment.get("ep", 1) == 1 or model not in _document():
        return dict(routing)
    placed = "eplb" if deployment.get("redundant_experts") else "contiguous"
    return {"placement": placed, **routing, "popularity": "power-law", "skew": fitted_skew(model)}

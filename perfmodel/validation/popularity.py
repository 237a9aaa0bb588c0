"""Which experts the tokens of a published run liked, as far as it is known.

``data/published/routing_skew.yaml`` holds, by model, the exponent of a power law that was fitted on one published
effect (``python -m calibrate.skew``, ``make engine-constants``). Runs of other models state no popularity.
"""

from typing import Any

from perfmodel.errors import DataError
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document

SKEW_FILE = DATA / "published" / "routing_skew.yaml"


def fitted_skew(model: str) -> float:
    """Exponent of the power law by which tokens like a model's experts.

    Raises:
        DataError: none was fitted for this model.
    """
    document = read_document(SKEW_FILE)
    if model not in document:
        raise DataError(
            f"{SKEW_FILE}: no routing skew was fitted for {model}; allowed: {', '.join(document)}"
        )
    return float(document[model]["skew"])


def routing_of(model: str, ep: int, *, eplb: bool, skew: float | None = None) -> dict[str, Any]:
    """The routing of a run as a section of a scenario: the model's fitted power law, on ranks in order or by EPLB.

    Empty for a model of which nothing is known, and where every rank holds all experts; ``skew`` replaces the fitted
    exponent.
    """
    if ep == 1 or (skew is None and model not in read_document(SKEW_FILE)):
        return {}
    return {
        "popularity": "power-law",
        "skew": fitted_skew(model) if skew is None else skew,
        "placement": "eplb" if eplb else "contiguous",
    }

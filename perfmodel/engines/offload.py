"""How an engine fills and reads memories below the GPU's: ``data/engines/offload.yaml``, over which a scenario goes."""

from functools import cache
from typing import Literal

from perfmodel.spec.base import Spec
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document
from perfmodel.spec.scenario import Scenario

FILE = DATA / "engines" / "offload.yaml"


class Policy(Spec):
    """What an engine does."""

    write: Literal["write-through", "write-back"]
    load: Literal["layer-wise", "before"]
    prefetch: bool
    states: str = ""
    """Why checkpoints of a model's states are not kept there; empty: they are, with the blocks."""
    source: str
    """Where it was read."""


@cache
def policies() -> dict[str, Policy]:
    """By engine; empty: of none in particular."""
    return {name: Policy.model_validate(entry) for name, entry in read_document(FILE).items()}


def policy_of(scenario: Scenario) -> Policy:
    """What a scenario's engine does, with what is stated over it."""
    stated = scenario.serving.offload
    own = {
        "write": None if stated.write == "auto" else stated.write,
        "load": None if stated.load == "auto" else stated.load,
        "prefetch": stated.prefetch,
    }
    found = policies().get(scenario.deployment.engine, policies()[""])
    return found.model_copy(update={key: value for key, value in own.items() if value is not None})

"""What layouts are made of: seconds and bytes of one layer of each kind, of what stands before the first layer and
behind the last one, for one division of a micro-batch. Layouts that only arrange layers otherwise share them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfmodel.engines.memory import runtime_bytes
from perfmodel.explore.plan_training.question import training_with
from perfmodel.ops.memory import buffer_bytes
from perfmodel.spec.scenario import Scenario
from perfmodel.training.layout import micro_batch_work, training_of
from perfmodel.training.memory import backward_bytes, end_saved
from perfmodel.training.overlap import Chain, pair_phase, parts_of
from perfmodel.training.parts import Part
from perfmodel.training.saved import layer_saved, loss_bytes, replayed_bytes
from perfmodel.training.step import Memo, StepBuilder

LAYERS_OF_A_PAIR = 2
"""Layers that are run beside each other to learn what one more takes: the first differs by its ends."""
WAYS = ("forward", "input", "weight", "backward")


@dataclass(frozen=True, slots=True)
class Pieces:
    """One shape's pieces; kinds are the model's runs of equal layers."""

    layer_s: np.ndarray
    """(ways, kinds): seconds of one layer."""
    first_s: np.ndarray
    """(ways,): of what the first stage has in front."""
    last_s: np.ndarray
    """(ways,): of what the last stage has behind."""
    pair_s: np.ndarray
    """(kinds,): a forward beside a backward, of one layer among others; nan: not run."""
    transfer_s: float
    saved: np.ndarray
    """(kinds,): bytes that one layer keeps for its backward."""
    last_saved: float
    replayed: np.ndarray
    """(kinds,): what its recomputation holds for a moment."""
    backward: np.ndarray
    """(kinds,): what its backward holds."""
    loss: float
    buffers: float
    runtime: float


class Workshop:
    """Makes pieces, and keeps what shapes share: kernels' times, and what a layer takes by itself."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.memo: Memo = {}
        self.alone: dict[tuple[Any, ...], tuple[StepBuilder, Pieces]] = {}

    def pieces(self, keys: Mapping[str, Any]) -> Pieces:
        """The pieces of a shape, by its keys of ``training``.

        Raises:
            UnsupportedError: the model has a part whose run time is not modelled.
        """
        paired = keys["moe_overlap"] == "forward-backward"
        if paired:
            keys = {**keys, "moe_overlap": "none"}
        mark = tuple(keys.values())
        if mark not in self.alone:
            self.alone[mark] = self._alone(keys)
        builder, found = self.alone[mark]
        return replace(found, pair_s=_pairs_s(builder, found)) if paired else found

    def _alone(self, keys: Mapping[str, Any]) -> tuple[StepBuilder, Pieces]:
        scenario, own = self.scenario, training_of(self.scenario)
        dp = keys["ep"] * keys["etp"]  # any number will do: a layer's share does not depend on it
        stages = min(2, scenario.model.num_layers)
        arranged = {"pp": stages, "virtual_stages": 1, "schedule": "1f1b", "zero": 0, "dp": dp}
        alone = {**arranged, "dp_replicate": 1, "offload": {}, "batch_ramp": None}
        batch = dp * keys["micro_batch_sequences"]
        training = training_with(own, {**keys, **alone, "global_batch_sequences": batch})
        builder = StepBuilder(scenario, training, self.memo)
        inside = builder.inner
        layers = [layer.model_copy(update={"count": 1}) for layer in scenario.model.layers]
        chains = [builder.layer_chain(layer) for layer in layers]
        first, last = builder.first_chain(), builder.last_chain()
        return builder, Pieces(
            layer_s=np.array([[_seconds(builder, chain, way) for chain in chains] for way in WAYS]),
            first_s=np.array([_seconds(builder, first, way) for way in WAYS]),
            last_s=np.array([_seconds(builder, last, way) for way in WAYS]),
            pair_s=np.full(len(layers), np.nan),
            transfer_s=builder.transfer_s(),
            saved=np.array([sum(layer_saved(layer, inside, training).values()) for layer in layers]),
            last_saved=end_saved(inside, training),
            replayed=np.array([replayed_bytes(layer, inside, training) for layer in layers]),
            backward=np.array([backward_bytes(layer, inside, training) for layer in layers]),
            loss=loss_bytes(inside, training),
            buffers=float(buffer_bytes(inside, micro_batch_work(training))),
            runtime=runtime_bytes(inside).start,
        )


def _pairs_s(builder: StepBuilder, found: Pieces) -> np.ndarray:
    """A forward beside a backward by kind of layer; layers that exchange nothing have nothing to hide."""
    pairs: np.ndarray = found.layer_s[0] + found.layer_s[3]
    for kind, layer in enumerate(builder.scenario.model.layers):
        if layer.moe:
            several = builder.layer_chain(layer.model_copy(update={"count": 1}), LAYERS_OF_A_PAIR)
            pairs[kind] = pair_phase(several, several, builder.costing).seconds / LAYERS_OF_A_PAIR
    return pairs


def _seconds(builder: StepBuilder, chain: Chain, way: str) -> float:
    """One phase of a piece; where its ops only follow each other their sum, without a timeline."""
    parts = parts_of(chain)
    if builder.costing.overlap == "two-chunks" or any(part.ring for part in parts):
        return builder.phase(chain, way).seconds
    ways = {"backward": ("input", "weight")}.get(way, (way,))
    if builder.costing.replay and way in ("input", "backward"):
        again = [part for layer in chain.layers for part in layer.in_sequence()]
        return _sum(builder, again, ("forward",)) + _sum(builder, parts, ways)
    return _sum(builder, parts, ways)


def _sum(builder: StepBuilder, parts: Sequence[Part], ways: Sequence[str]) -> float:
    return sum(
        float(builder.costing.alone(kernel).seconds)
        for part in parts
        for way in ways
        for kernel in getattr(part, way)
    )

"""What layouts are made of: seconds and bytes of one layer of each kind, of what stands before the first layer and
behind the last one, for one division of a micro-batch. Layouts that only arrange layers otherwise share them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np

from perfmodel.engines.memory import runtime_bytes
from perfmodel.explore.plan_training.question import training_with
from perfmodel.kernels.timing import Timing
from perfmodel.ops.memory import buffer_bytes
from perfmodel.overlap.graph import Segment
from perfmodel.overlap.twin import step_times
from perfmodel.spec.scenario import Scenario
from perfmodel.training.layout import micro_batch_work, training_of
from perfmodel.training.memory import backward_bytes, end_saved
from perfmodel.training.overlap import Chain, Sketch, forward_sketch, input_sketch, pair_sketch, parts_of
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


COLUMNS = ("latency_s", "compute_s", "memory_s", "link_s", "network_s")
"""What of a timing a graph's run depends on."""


class Runs:
    """Graphs that wait to be run, and where their seconds go."""

    def __init__(self, *, contention: bool) -> None:
        self.contention = contention
        self.graphs: dict[tuple[Any, ...], list[Sketch]] = defaultdict(list)
        """By structure: streams, what waits for what, and which SMs are held, which the compiled core has one of."""
        self.places: dict[tuple[Any, ...], list[tuple[np.ndarray, Any, int]]] = defaultdict(list)

    def ask(self, graph: Sketch, into: np.ndarray, at: Any, over: int = 1) -> None:
        """Put a graph's seconds, divided by ``over``, at a place of an array."""
        if not graph.ops:
            into[at] = 0.0
            return
        held = (timing.held_sms for timing in graph.timings)
        structure = (*(op.stream for op in graph.ops), *graph.after, *held)
        self.graphs[structure].append(graph)
        self.places[structure].append((into, at, over))

    def finish(self) -> None:
        """Run them, all of a structure together."""
        for structure, graphs in self.graphs.items():
            seconds = self._seconds(graphs)
            for (into, at, over), value in zip(self.places[structure], seconds.tolist(), strict=True):
                into[at] = value / over
        self.graphs.clear()
        self.places.clear()

    def _seconds(self, graphs: Sequence[Sketch]) -> np.ndarray:
        """Seconds of graphs of one structure, (graphs,)."""
        own = attrgetter(*COLUMNS)
        figures = np.array([[own(timing) for timing in one.timings] for one in graphs], dtype=float)
        timings = tuple(
            Timing(**dict(zip(COLUMNS, figures[:, task].T, strict=True)), held_sms=one.held_sms)
            for task, one in enumerate(graphs[0].timings)
        )
        segment = Segment("stage", graphs[0].tasks(), timings)
        return step_times((segment,), contention=self.contention).step_time_s


class _Shape:
    """One division of a micro-batch: its parts, what they take, and the graphs of those that run beside others."""

    def __init__(self, builder: StepBuilder, scenario: Scenario, runs: Runs) -> None:
        layers = [layer.model_copy(update={"count": 1}) for layer in scenario.model.layers]
        self.builder, self.runs = builder, runs
        self.layers = [builder.layer_chain(layer) for layer in layers]
        self.first, self.last = builder.first_chain(), builder.last_chain()
        self.sums: dict[tuple[int, str], float] = {}

    def as_of(self, builder: StepBuilder) -> "_Shape":
        """The same parts for a layout that computes whole layers again, or does not."""
        builder.layers, builder.known = self.builder.layers, self.builder.known
        other = copy(self)
        other.builder = builder
        return other

    def seconds(self, chains: Sequence[Chain]) -> np.ndarray:
        """(ways, chains): seconds of each, those of graphs once they have run."""
        found = np.empty((len(WAYS), len(chains)))
        for at, chain in enumerate(chains):
            parts = parts_of(chain)
            beside = self.builder.costing.overlap == "two-chunks" or any(part.ring for part in parts)
            for row, way in enumerate(WAYS):
                if beside and way != "weight":
                    self.runs.ask(self._graph(chain, way), found, (row, at))
                else:
                    found[row, at] = self._in_turn(chain, parts, way)
        return found

    def _graph(self, chain: Chain, way: str) -> Sketch:
        costing = self.builder.costing
        if way == "forward":
            return forward_sketch(chain, costing)
        return input_sketch(chain, costing, weights=way == "backward")

    def _in_turn(self, chain: Chain, parts: Sequence[Part], way: str) -> float:
        """Of ops that only follow each other."""
        ways = {"backward": ("input", "weight")}.get(way, (way,))
        again = 0.0
        if self.builder.costing.replay and way in ("input", "backward"):
            again = sum(self._sum(part, "forward") for one in chain.layers for part in one.in_sequence())
        return again + sum(self._sum(part, one) for part in parts for one in ways)

    def _sum(self, part: Part, way: str) -> float:
        """One part's ops; parts are kept, so each is summed once."""
        key = (id(part), way)
        if key not in self.sums:
            alone = self.builder.costing.alone
            self.sums[key] = sum(float(alone(kernel).seconds) for kernel in getattr(part, way))
        return self.sums[key]


class Workshop:
    """Makes pieces, and keeps what shapes share: kernels' times, parts, and what a layer takes by itself.

    Where ops run beside others their graph is kept, and all graphs of one structure are run together at the end: of
    what is handed out before, seconds are there after :meth:`finish`.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.memo: Memo = {}
        self.alone: dict[tuple[Any, ...], tuple[_Shape, Pieces]] = {}
        self.shapes: dict[tuple[Any, ...], _Shape] = {}
        """By all but whether whole layers are computed again, which leaves their parts as they are (in BF16: what is
        cast hangs on what is kept)."""
        self.paired: list[Pieces] = []
        self.runs = Runs(contention=scenario.deployment.contention)

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
        shape, found = self.alone[mark]
        if not paired:
            return found
        together = replace(found, pair_s=self._pairs_s(shape))
        self.paired.append(together)
        return together

    def finish(self) -> None:
        """Run all graphs that were asked for; layers that exchange nothing have nothing to hide in a pair."""
        self.runs.finish()
        for one in self.paired:
            alone = np.isnan(one.pair_s)
            one.pair_s[alone] = (one.layer_s[0] + one.layer_s[3])[alone]
        self.paired.clear()

    def _alone(self, keys: Mapping[str, Any]) -> tuple[_Shape, Pieces]:
        scenario, own = self.scenario, training_of(self.scenario)
        dp = keys["ep"] * keys["etp"]  # any number will do: a layer's share does not depend on it
        stages = min(2, scenario.model.num_layers)
        arranged = {"pp": stages, "virtual_stages": 1, "schedule": "1f1b", "zero": 0, "dp": dp}
        alone = {**arranged, "dp_replicate": 1, "offload": {}, "batch_ramp": None}
        batch = dp * keys["micro_batch_sequences"]
        training = training_with(own, {**keys, **alone, "global_batch_sequences": batch})
        builder = StepBuilder(scenario, training, self.memo)
        again = keys["recompute"] == "full" and training.precision == "bf16"
        like = tuple({**keys, "recompute": "none" if again else keys["recompute"]}.values())
        shape = self.shapes.get(like)
        if shape is None:
            shape = self.shapes[like] = _Shape(builder, scenario, self.runs)
        else:
            shape = shape.as_of(builder)
        inside = builder.inner
        layers = [layer.model_copy(update={"count": 1}) for layer in scenario.model.layers]
        return shape, Pieces(
            layer_s=shape.seconds(shape.layers),
            first_s=shape.seconds([shape.first])[:, 0],
            last_s=shape.seconds([shape.last])[:, 0],
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

    def _pairs_s(self, shape: _Shape) -> np.ndarray:
        """A forward beside a backward by kind of layer that exchanges something, once the graphs have run."""
        pairs = np.full(len(shape.layers), np.nan)
        for kind, (layer, chain) in enumerate(zip(self.scenario.model.layers, shape.layers, strict=True)):
            if layer.moe:
                several = Chain((), chain.layers * LAYERS_OF_A_PAIR, ())
                graph = pair_sketch(several, several, shape.builder.costing)
                self.runs.ask(graph, pairs, kind, LAYERS_OF_A_PAIR)
        return pairs

"""What layouts are made of: seconds and bytes of one layer of each kind, of what stands before the first layer and
behind the last one, for one division of a micro-batch (a *shape*). Layouts that only arrange layers otherwise share
them.

All shapes whose layers have the same ops in the same order are built as one, their numbers arrays
(:mod:`perfmodel.several` finds out which those are), and each distinct kernel among them is costed once.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.engines.memory import runtime_bytes
from perfmodel.explore.plan_training.graphs import Runs
from perfmodel.explore.plan_training.kernels import Costs
from perfmodel.explore.plan_training.question import training_with
from perfmodel.kernels.timing import Timing
from perfmodel.ops.backward import Kernel
from perfmodel.ops.memory import buffer_bytes
from perfmodel.several import Ints, Several, alike
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training.layout import micro_batch_work, training_of
from perfmodel.training.memory import backward_bytes, end_saved
from perfmodel.training.overlap import (
    Chain,
    Costing,
    Sketch,
    forward_sketch,
    input_sketch,
    pair_sketch,
    parts_of,
)
from perfmodel.training.parts import Part
from perfmodel.training.saved import layer_saved, loss_bytes, replayed_bytes
from perfmodel.training.step import Memo, StepBuilder

Floats = NDArray[np.float64]
LAYERS_OF_A_PAIR = 2
"""Layers that are run beside each other to learn what one more takes: the first differs by its ends."""
WAYS = ("forward", "input", "weight", "backward")
SIZES = ("tp", "cp", "ep", "etp", "micro_batch_sequences")
"""Keys whose values are numbers that a build takes several of; of the others (the *manner*) it takes one."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Of several shapes, which come last in every array; kinds are the model's runs of equal layers."""

    layer_s: Floats
    """(ways, kinds, shapes): seconds of one layer."""
    first_s: Floats
    """(ways, shapes): of what the first stage has in front."""
    last_s: Floats
    """(ways, shapes): of what the last stage has behind."""
    pair_s: Floats
    """(kinds, shapes): a forward beside a backward, of one layer among others; nan: not run."""
    transfer_s: Floats
    """(shapes,)."""
    saved: Floats
    """(kinds, shapes): bytes that one layer keeps for its backward."""
    last_saved: Floats
    """(shapes,)."""
    replayed: Floats
    """(kinds, shapes): what its recomputation holds for a moment."""
    backward: Floats
    """(kinds, shapes): what its backward holds."""
    loss: Floats
    """(shapes,), as the next two."""
    buffers: Floats
    runtime: Floats

    @staticmethod
    def room(kinds: int, shapes: int) -> "Pieces":
        """Room for so many, nothing in it."""
        ways = len(WAYS)
        sizes = {"layer_s": (ways, kinds), "first_s": (ways,), "last_s": (ways,)}
        sizes |= dict.fromkeys(("pair_s", "saved", "replayed", "backward"), (kinds,))
        return Pieces(
            **{one.name: np.full((*sizes.get(one.name, ()), shapes), np.nan) for one in fields(Pieces)}
        )

    def of(self, shapes: Ints) -> "Pieces":
        """Those of some, in that order, one as often as it is asked for."""
        return Pieces(*(getattr(self, one.name)[..., shapes] for one in fields(self)))


class _Shape:
    """Divisions of a micro-batch whose layers are alike: their parts, and what those take."""

    def __init__(
        self, scenario: Scenario, training: Training, layouts: int, costs: Costs, memo: Memo
    ) -> None:
        self.scenario, self.training, self.layouts, self.costs = scenario, training, layouts, costs
        self.builder = StepBuilder(scenario, training, memo)
        self.kinds = [layer.model_copy(update={"count": 1}) for layer in scenario.model.layers]
        self.layers = [self.builder.layer_chain(layer) for layer in self.kinds]
        self.first, self.last = self.builder.first_chain(), self.builder.last_chain()
        self.sums: dict[tuple[int, str], Any] = {}
        self.known: dict[tuple[int, bool], Timing] = {}
        """By identity: parts are made once and kept."""
        self.costing = self._costing()

    def again(self, training: Training, memo: Memo) -> "_Shape":
        """The same parts where whole layers are computed again, or are not."""
        other = copy(self)
        other.training = training
        other.builder = StepBuilder(self.scenario, training, memo)
        other.costing = other._costing()
        return other

    def _costing(self) -> Costing:
        return replace(self.builder.costing, alone=self.alone, beside=self.beside)

    def alone(self, kernel: Kernel) -> Timing:
        """Parts (layouts,)."""
        return self._timed(kernel, beside=False)

    def beside(self, kernel: Kernel) -> Timing:
        """Parts (layouts,)."""
        return self._timed(kernel, beside=True)

    def _timed(self, kernel: Kernel, *, beside: bool) -> Timing:
        key = (id(kernel), beside)
        if key not in self.known:
            training = self.training
            about = (
                beside,
                training.own_fp8_kernels,
                training.attention_kernels,
                training.deterministic,
                training.power_cap_w,
            )
            self.known[key] = self.costs.timing(
                kernel, self.layouts, about, lambda one: self.builder.timed(one, beside=beside)
            )
        return self.known[key]

    def seconds(self, chains: Sequence[Chain], runs: Runs, into: Floats, shapes: Ints) -> None:
        """Put seconds of each chain into (ways, chains, shapes), those of graphs once they have run."""
        for at, chain in enumerate(chains):
            parts = parts_of(chain)
            beside = self.costing.overlap == "two-chunks" or any(part.ring for part in parts)
            for row, way in enumerate(WAYS):
                if beside and way != "weight":
                    runs.ask(self._graph(chain, way), into, (row, at, shapes))
                else:
                    into[row, at, shapes] = self._in_turn(chain, parts, way)

    def _graph(self, chain: Chain, way: str) -> Sketch:
        if way == "forward":
            return forward_sketch(chain, self.costing)
        return input_sketch(chain, self.costing, weights=way == "backward")

    def _in_turn(self, chain: Chain, parts: Sequence[Part], way: str) -> Any:
        """Of ops that only follow each other."""
        ways = {"backward": ("input", "weight")}.get(way, (way,))
        again: Any = 0.0
        if self.costing.replay and way in ("input", "backward"):
            again = sum(self._sum(part, "forward") for one in chain.layers for part in one.in_sequence())
        return again + sum(self._sum(part, one) for part in parts for one in ways)

    def _sum(self, part: Part, way: str) -> Any:
        """One part's ops; parts are kept, so each is summed once."""
        key = (id(part), way)
        if key not in self.sums:
            self.sums[key] = sum(self.alone(kernel).seconds for kernel in getattr(part, way))
        return self.sums[key]

    def pairs(self, runs: Runs, into: Floats, shapes: Ints) -> None:
        """Put a forward beside a backward into (kinds, shapes), of layers that exchange something."""
        for kind, (layer, chain) in enumerate(zip(self.kinds, self.layers, strict=True)):
            if layer.moe:
                several = Chain((), chain.layers * LAYERS_OF_A_PAIR, ())
                runs.ask(pair_sketch(several, several, self.costing), into, (kind, shapes), LAYERS_OF_A_PAIR)

    def bytes(self) -> dict[str, Any]:
        """Fields of :class:`Pieces` that are bytes, and the transfer's seconds."""
        inside, training = self.builder.inner, self.training
        every = [sum(layer_saved(layer, inside, training).values()) for layer in self.kinds]
        return {
            "transfer_s": self.alone(self.builder.transfer()).seconds,
            "saved": every,
            "last_saved": end_saved(inside, training),
            "replayed": [replayed_bytes(layer, inside, training) for layer in self.kinds],
            "backward": [backward_bytes(layer, inside, training) for layer in self.kinds],
            "loss": loss_bytes(inside, training),
            "buffers": buffer_bytes(inside, micro_batch_work(training)),
            "runtime": runtime_bytes(inside).start,
        }


@dataclass(slots=True)
class _Alike:
    """Shapes whose layers are made once."""

    manners: dict[tuple[Any, ...], Mapping[str, Any]]
    """What only the time of a pass through the same parts hangs on, by its values."""
    sizes: dict[tuple[int, ...], int]
    """Values of :data:`SIZES` -> their number."""
    paired: set[int]
    """Those of which a forward is asked for beside a backward."""

    @property
    def shapes(self) -> int:
        """How many."""
        return len(self.manners) * len(self.sizes)


class Workshop:
    """Makes pieces, and keeps kernels' times: shapes share most of them."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.own = scenario, training_of(scenario)
        self.costs, self.memo = Costs(), Memo()
        self.together: dict[tuple[int, ...], int] = {}
        """Sizes -> which were found to have the same ops last time: they will have them in another manner, too."""

    def pieces(self, asked: Sequence[Mapping[str, Any]]) -> tuple[Pieces, Ints]:
        """Pieces of shapes, by their keys of ``training``, and which of them is whose, (asked,).

        Raises:
            UnsupportedError: the model has a part whose run time is not modelled.
        """
        groups: dict[tuple[Any, ...], _Alike] = {}
        wanted = [self._noted(keys, groups) for keys in asked]
        starts, total = {}, 0
        for like, group in groups.items():
            starts[like] = total
            total += group.shapes
        made = Pieces.room(len(self.scenario.model.layers), total)
        runs = Runs(contention=self.scenario.deployment.contention)
        for like, group in groups.items():
            self._make(group, starts[like], made, runs)
        runs.finish()
        alone = np.isnan(made.pair_s)  # what exchanges nothing has nothing to hide in a pair
        made.pair_s[alone] = (made.layer_s[0] + made.layer_s[3])[alone]
        at = [
            starts[like] + list(groups[like].manners).index(manner) * len(groups[like].sizes) + size
            for like, manner, size in wanted
        ]
        return made, np.array(at, dtype=np.intp)

    def _noted(
        self, keys: Mapping[str, Any], groups: dict[tuple[Any, ...], _Alike]
    ) -> tuple[tuple[Any, ...], tuple[Any, ...], int]:
        """Where a shape's pieces will be: with which others it is made, its manner, the number of its sizes."""
        manner = {key: value for key, value in keys.items() if key not in SIZES}
        paired = manner["moe_overlap"] == "forward-backward"
        if paired:
            manner["moe_overlap"] = "none"
        again = manner["recompute"] == "full" and keys.get("precision", self.own.precision) == "bf16"
        # whole layers computed again have the same parts (in BF16: what is cast hangs on what is kept)
        like = tuple({**manner, "recompute": "none"}.values()) if again else tuple(manner.values())
        group = groups.setdefault(like, _Alike({}, {}, set()))
        values = tuple(manner.values())
        group.manners.setdefault(values, manner)
        size = group.sizes.setdefault(tuple(keys[name] for name in SIZES), len(group.sizes))
        if paired:
            group.paired.add(size)
        return like, values, size

    def _make(self, group: _Alike, start: int, made: Pieces, runs: Runs) -> None:
        sizes = np.array(list(group.sizes))
        parts: dict[int, list[int]] = {}
        for number, size in enumerate(group.sizes):
            parts.setdefault(self.together.get(size, -1), []).append(number)
        for part in parts.values():
            for own, found in alike(lambda own: self._built(group, sizes[own]), np.array(part)):
                number = len(self.together)
                self.together |= {tuple(size): number for size in sizes[own].tolist()}
                for place, (shape, figures) in enumerate(found):
                    rows = start + place * len(sizes) + own
                    shape.seconds(shape.layers, runs, made.layer_s, rows)
                    shape.seconds([shape.first], runs, made.first_s[:, None], rows)
                    shape.seconds([shape.last], runs, made.last_s[:, None], rows)
                    if group.paired.intersection(own.tolist()):
                        shape.pairs(runs, made.pair_s, rows)
                    for name, figure in figures.items():
                        field = getattr(made, name)
                        if field.ndim == 1:
                            field[rows] = figure
                        else:
                            for kind, value in enumerate(figure):
                                field[kind, rows] = value

    def _built(self, group: _Alike, sizes: Ints) -> list[tuple[_Shape, dict[str, Any]]]:
        """The shape of every manner with its bytes, for sizes (shapes, SIZES)."""
        found: list[tuple[_Shape, dict[str, Any]]] = []
        for manner in group.manners.values():
            training = self._training(manner, sizes)
            shape = (
                found[0][0].again(training, self.memo)
                if found
                else _Shape(self.scenario, training, len(sizes), self.costs, self.memo)
            )
            found.append((shape, shape.bytes()))
        return found

    def _training(self, manner: Mapping[str, Any], sizes: Ints) -> Training:
        """The run's training section with these sizes, nothing around the layers that would change their time."""
        own, stages = dict(zip(SIZES, sizes[0].tolist(), strict=True)), min(2, self.scenario.model.num_layers)
        dp = own["ep"] * own["etp"]  # any number will do: a layer's share does not depend on it
        arranged = {"pp": stages, "virtual_stages": 1, "schedule": "1f1b", "zero": 0, "dp": dp}
        alone = {**arranged, "dp_replicate": 1, "offload": {}, "batch_ramp": None}
        batch = dp * own["micro_batch_sequences"]
        first = training_with(self.own, {**manner, **own, **alone, "global_batch_sequences": batch})
        several = {name: Several.of(sizes[:, i]) for i, name in enumerate(SIZES)}
        return first.model_copy(update={**several, "dp": several["ep"] * several["etp"]})

"""Every layout's step time and memory at once, one array per pipeline.

Agrees with :mod:`perfmodel.training.step` but for two things (tests hold the first to rounding): where a forward runs
beside a backward, pairs of stages are sums of pairs of layers; and a step of many micro-batches is two shorter ones
and what a further round of them takes, once the pipeline repeats itself.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.explore.plan_training.pieces import WAYS, Pieces, Workshop
from perfmodel.explore.plan_training.question import SHAPE, Kind, Question, layouts, space_of, training_with
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.gradients import kernel_cost
from perfmodel.ops.backward import Kernel
from perfmodel.ops.op import Op
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training.layout import stage_layers, training_of
from perfmodel.training.memory import copied_bytes, device_state_bytes, divided_bytes, gathered_bytes
from perfmodel.training.offload import activations_copy_s
from perfmodel.training.optimizer import update_s
from perfmodel.training.parameters import Parameters, layer_parameters, stage_parameters
from perfmodel.training.pipeline.actions import Kind as Does
from perfmodel.training.pipeline.actions import Schedule
from perfmodel.training.pipeline.flight import in_flight
from perfmodel.training.pipeline.program import compiled, makespans_of
from perfmodel.training.pipeline.schedules import schedule
from perfmodel.training.pipeline.times import StageTimes
from perfmodel.training.supported import check_model
from perfmodel.training.traffic import gradient_ops, weight_ops
from perfmodel.units import HOUR

ROUNDS = 3
"""Rounds of pp micro-batches after which a pipeline repeats itself: warm-up and cool-down are over."""


@dataclass(frozen=True, slots=True)
class Screened:
    """All layouts of one kind of GPU."""

    kind: Kind
    scenario: Scenario
    layouts: Sequence[Mapping[str, Any]]
    step_s: np.ndarray
    """(layouts,): time of a step."""
    memory: np.ndarray
    """(layouts,): bytes of the fullest rank."""

    @property
    def fits(self) -> np.ndarray:
        """(layouts,): whether it fits."""
        return self.memory <= float(self.scenario.cluster.gpu.memory_bytes)

    @property
    def usd_per_token(self) -> np.ndarray:
        """(layouts,): USD of a token, failures left out."""
        training = training_of(self.scenario)
        price = self.scenario.prices.usd_per_gpu_hour / HOUR
        return self.step_s * self.kind.gpus * price / training.step_tokens


def screen(question: Question, kind: Kind) -> Screened:
    """All legal layouts of a kind, with their steps.

    Raises:
        PerfModelError: the scenario or the space is bad, or the model's training is not modelled.
    """
    scenario = question.scenario(kind)
    check_model(scenario.model)
    space = space_of(scenario, kind.gpus, question.space, of_several=len(question.kinds) > 1)
    found = list(layouts(scenario, kind.gpus, space, question.space))
    step_s, memory = figures(scenario, found)
    return Screened(kind, scenario, found, step_s, memory)


def figures(scenario: Scenario, found: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Step times and bytes of layouts, each (layouts,)."""
    own = training_of(scenario)
    held: dict[tuple[Any, ...], _Held] = {}
    known: dict[tuple[Any, ...], int] = {}
    asked: list[Mapping[str, Any]] = []
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    shapes = np.empty(len(found), dtype=int)
    for i, keys in enumerate(found):
        shared = {key: value for key, value in keys.items() if key in SHAPE or key not in ARRANGED}
        mark = tuple(shared.values())
        if mark not in known:
            known[mark] = len(asked)
            asked.append(shared)
        shapes[i] = known[mark]
        micro = own.global_batch_sequences // (keys["dp"] * keys["micro_batch_sequences"])
        paired = keys["moe_overlap"] == "forward-backward"
        p, name = keys["pp"], keys["schedule"]
        groups[name, p, keys["virtual_stages"], paired, _rounds(name, p, micro)].append(i)
    pieces, which = Workshop(scenario).pieces(asked)
    step_s, memory = np.empty(len(found)), np.empty(len(found))
    for (name, p, v, paired, lengths), members in groups.items():
        at = np.array(members)
        orders = [schedule(name, p, m, v, paired=paired) for m in lengths]
        group = _Group(scenario, [found[i] for i in members], pieces.of(which[shapes[at]]), orders, held)
        step_s[at], memory[at] = group.step_s(), group.memory()
    return step_s, memory


DIVIDING = ("tp", "cp", "dp", "ep", "etp", "zero", "dp_replicate", "power_cap_w")
"""Keys on which the weights of a GPU hang, and what is done with them once per step."""
ARRANGED = ("pp", "virtual_stages", "schedule", "zero", "dp", "dp_replicate")
"""Keys that arrange layers and do not change them."""


def _rounds(name: str, p: int, micro: int) -> tuple[int, ...]:
    """Micro-batches that are simulated: all, or two numbers a round apart, of which the rest follows."""
    short = ROUNDS * p + micro % p
    if name == "gpipe" or micro <= short + p:
        return (micro,)
    return (short, short + p)


@dataclass(frozen=True, slots=True)
class _Held:
    """What depends on weights alone, for layouts that hold the same ones: bytes by rank, and seconds alone."""

    standing: Any
    """(ranks,): weights, gradients, optimizer state and what is gathered for use, bytes."""
    optimizer_s: Any
    """(ranks,)."""
    gradients_s: np.ndarray
    weights_s: np.ndarray
    """(ranks,), or (stages,) where weights are divided and travel with every micro-batch."""


def _weights(dense: Any, experts: Any) -> Parameters:
    """Weights of several stages or ranks at once: arrays where one stage has numbers."""
    return Parameters(dense, experts)


class _Group:
    """Layouts of one pipeline: the same schedule, ranks, chunks and (to a round) micro-batches."""

    def __init__(
        self,
        scenario: Scenario,
        found: Sequence[Mapping[str, Any]],
        pieces: Pieces,
        orders: Sequence[Schedule],
        known: dict[tuple[Any, ...], _Held],
    ) -> None:
        self.scenario, self.pieces, self.orders = scenario, pieces, orders
        own = training_of(scenario)
        self.paired = found[0]["moe_overlap"] == "forward-backward"
        self.training = own.model_copy(update={"edp": None, **found[0]})
        """Of the first layout: what no layout changes may be asked of it."""
        self.micro_batches = np.array(
            [own.global_batch_sequences // (keys["dp"] * keys["micro_batch_sequences"]) for keys in found]
        )
        self.overlaps = {
            name: np.array([keys.get(name, getattr(own, name)) for keys in found])
            for name in ("overlap_gradients", "overlap_parameters")
        }
        self.calibration = load_calibration(scenario.calibration) if scenario.calibration else None
        stages = stage_layers(scenario.model, training_with(own, found[0]))
        kinds = [layer.model_copy(update={"count": 1}) for layer in scenario.model.layers]
        at = np.cumsum([0, *(layer.count for layer in scenario.model.layers)])
        self.counts = np.zeros((len(stages), len(kinds)))
        """(stages, kinds): layers of each kind in each stage."""
        ends = np.cumsum([0, *(len(stage) for stage in stages)])
        for stage in range(len(stages)):
            for kind in range(len(kinds)):
                both = min(ends[stage + 1], at[kind + 1]) - max(ends[stage], at[kind])
                self.counts[stage, kind] = max(0, both)
        self.ranks = [orders[-1].stages_of(rank) for rank in range(orders[-1].ranks)]
        self.held = []
        for keys in found:
            divided = tuple(keys.get(name, getattr(own, name)) for name in DIVIDING)
            mark = (*divided, len(stages), *self.ranks)
            if mark not in known:
                known[mark] = self._held(own.model_copy(update={"edp": None, **keys}))
            self.held.append(known[mark])
        self.copies = own.offload.activations_fraction > 0.0
        self.zero3 = np.array([keys["zero"] == 3 for keys in found])

    def _held(self, training: Training) -> _Held:
        cluster = self.scenario.cluster
        stages = self._parameters(training)
        holds = np.zeros((len(self.ranks), len(self.counts)))
        for rank, own in enumerate(self.ranks):
            holds[rank, list(own)] = 1.0
        ranks = _weights(holds @ np.asarray(stages.dense), holds @ np.asarray(stages.experts))
        layers = np.array([self.counts[list(own)].sum() for own in self.ranks])
        weights, gradients = divided_bytes(ranks, training)
        state = device_state_bytes(ranks, training)
        update = update_s(ranks, training, self.scenario, self._alone_s)
        travel = stages if training.zero == 3 else ranks
        return _Held(
            weights + gradients + state + gathered_bytes(ranks, training, np.maximum(layers, 1.0)),
            update.device_s + update.host_s,
            self._travels_s(gradient_ops(travel, training, cluster), travel),
            self._travels_s(weight_ops(travel, training, cluster), travel),
        )

    def _parameters(self, training: Training) -> Parameters:
        """Weights of every stage, (stages,)."""
        model = self.scenario.model
        layers = [layer_parameters(layer, model, training) for layer in model.layers]
        dense = self.counts @ np.array([one.dense for one in layers])
        experts = self.counts @ np.array([one.experts for one in layers])
        last = len(dense) - 1
        for stage in {0, last}:
            end = stage_parameters(model, training, (), first=stage == 0, last=stage == last)
            dense[stage] += end.dense
            experts[stage] += end.experts
        return _weights(dense, experts)

    def _travels_s(self, ops: Sequence[Op], of: Parameters) -> np.ndarray:
        """Collectives one after another; none where a rank has no weights of the kind."""
        found = np.zeros_like(np.asarray(of.dense))
        for op in ops:
            found += np.where(np.asarray(op.shape["bytes"]) > 0.0, self._alone_s(op), 0.0)
        return found

    def _alone_s(self, op: Op) -> Any:
        scenario = self.scenario
        return kernel_cost(Kernel.plain(op), scenario.cluster, scenario.costs, self.calibration).seconds

    def _stage_s(self) -> dict[str, np.ndarray]:
        """Seconds of every way through every stage, (stages, layouts)."""
        layer, first, last = self.pieces.layer_s, self.pieces.first_s, self.pieces.last_s
        found = {}
        for i, way in enumerate(WAYS):
            seconds = self.counts @ layer[i]
            seconds[0] += first[i]
            seconds[-1] += last[i]
            found[way] = seconds
        for one in np.flatnonzero(self.zero3).tolist():
            gather, reduce = self.held[one].weights_s, self.held[one].gradients_s
            beside = {"forward": gather, "input": gather, "weight": reduce, "backward": gather + reduce}
            for way, transfer in beside.items():
                found[way][:, one] = np.maximum(found[way][:, one], transfer)
        if self.copies:
            copied = self._copied_s()
            for way in ("forward", "input", "backward"):
                found[way] = np.maximum(found[way], copied)
        return found

    def _copied_s(self) -> np.ndarray:
        """Activations between every stage and its host, one way, (stages, layouts)."""
        saved = self.counts @ self.pieces.saved
        return np.asarray(activations_copy_s(saved, self.training, self.scenario))

    def _pairs_s(self, stage_s: Mapping[str, np.ndarray]) -> dict[tuple[int, int], np.ndarray]:
        """A stage's forward beside another's backward: as many pairs of layers as both have, the rest by itself."""
        pair, layer = self.pieces.pair_s, self.pieces.layer_s
        ends = {way: np.zeros_like(stage_s[way]) for way in ("forward", "backward")}
        for i, way in ((0, "forward"), (3, "backward")):
            ends[way][0] += self.pieces.first_s[i]
            ends[way][-1] += self.pieces.last_s[i]
        found = {}
        for _, action in compiled(tuple(self.orders)).distinct:
            key = (action.stage, action.other_stage)
            if action.kind is not Does.PAIR or not self.paired:
                continue
            ahead, back = self.counts[key[0]], self.counts[key[1]]
            both = np.minimum(ahead, back)
            seconds = both @ pair + (ahead - both) @ layer[0] + (back - both) @ layer[3]
            seconds += ends["forward"][key[0]] + ends["backward"][key[1]]
            for one in np.flatnonzero(self.zero3).tolist():
                moved = self.held[one]
                travels = moved.weights_s[key[0]] + moved.weights_s[key[1]] + moved.gradients_s[key[1]]
                seconds[one] = max(seconds[one], travels)
            if self.copies:
                copied = self._copied_s()
                seconds = np.maximum(seconds, np.maximum(copied[key[0]], copied[key[1]]))
            found[key] = np.minimum(seconds, stage_s["forward"][key[0]] + stage_s["backward"][key[1]])
        return found

    def step_s(self) -> np.ndarray:
        """Step times, (layouts,)."""
        stage_s = self._stage_s()
        slow = self.training.slowest_rank
        factor = None
        if slow != 1.0:
            factor = np.ones(len(self.ranks))
            factor[len(self.ranks) // 2] = slow
        times = StageTimes(
            stage_s["forward"],
            stage_s["input"],
            stage_s["weight"],
            stage_s["backward"],
            pair_s=self._pairs_s(stage_s),
            transfer_s=self.pieces.transfer_s if len(self.ranks) > 1 else 0.0,
            rank_factor=factor,
        )
        spans = makespans_of(self.orders, times)
        pipeline: np.ndarray = spans[0]
        if len(spans) > 1:
            short, long = (order.micro_batches for order in self.orders)
            pipeline = pipeline + (self.micro_batches - short) / (long - short) * (spans[1] - spans[0])
        found: np.ndarray = pipeline + self._tails_s(stage_s).max(axis=0)
        return found

    def _tails_s(self, stage_s: Mapping[str, np.ndarray]) -> np.ndarray:
        """What every rank does once per step, (ranks, layouts); as :meth:`StepBuilder._tail`."""
        found = np.array([one.optimizer_s for one in self.held]).T
        divided = ~self.zero3
        for rank, own in enumerate(self.ranks):
            layers = max(1.0, self.counts[list(own)].sum())
            inside = (layers - 1.0) / layers
            for way, name, key in (
                ("backward", "gradients_s", "overlap_gradients"),
                ("forward", "weights_s", "overlap_parameters"),
            ):
                alone = np.array(
                    [
                        0.0 if zero3 else getattr(one, name)[rank]
                        for one, zero3 in zip(self.held, self.zero3, strict=True)
                    ]
                )
                beside = sum(stage_s[way][stage] for stage in own) * inside
                hidden = np.maximum(alone / layers, alone - beside)
                found[rank] += np.where(divided, np.where(self.overlaps[key], hidden, alone), 0.0)
        return found

    def memory(self) -> np.ndarray:
        """Bytes of the fullest rank, (layouts,); as :func:`perfmodel.training.memory.training_memory`."""
        saved, replayed, backward = self.pieces.saved, self.pieces.replayed, self.pieces.backward
        training = self.training
        stage_saved = self.counts @ ((1.0 - training.offload.activations_fraction) * saved)
        stage_saved[-1] += self.pieces.last_saved
        standing = np.array([one.standing for one in self.held]).T
        rest = self.pieces.buffers + self.pieces.runtime
        most = np.zeros(len(self.held))
        for rank, (own, held) in enumerate(zip(self.ranks, in_flight(self.orders[-1]), strict=True)):
            active = (held @ stage_saved[list(own)]).max(axis=0)
            kinds = self.counts[list(own)].sum(axis=0) > 0
            again = replayed[kinds].max(axis=0) if kinds.any() else 0.0
            busy = again + backward[kinds if kinds.any() else [0]].max(axis=0)
            if len(self.counts) - 1 in own:
                busy = np.maximum(busy, self.pieces.loss)
            busy = busy + copied_bytes(saved[kinds if kinds.any() else [0]].max(axis=0), training)
            most = np.maximum(most, standing[rank] + active + busy + rest)
        return most

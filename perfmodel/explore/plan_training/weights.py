"""What hangs on the weights of a layout's GPUs alone: the bytes that stand, the update, and collectives once per step.
Layouts whose GPUs hold the same weights share them, and all are worked out together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.gradients import kernel_cost
from perfmodel.ops.backward import Kernel
from perfmodel.ops.op import Op
from perfmodel.several import Ints, Several, alike
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training.layout import training_of
from perfmodel.training.memory import device_state_bytes, divided_bytes, gathered_bytes
from perfmodel.training.optimizer import update_s
from perfmodel.training.parameters import Parameters, layer_parameters, stage_parameters
from perfmodel.training.pipeline.actions import Schedule
from perfmodel.training.traffic import gradient_ops, weight_ops

Floats = NDArray[np.float64]
SIZES = ("tp", "cp", "dp", "ep", "etp", "dp_replicate")
"""Keys that divide weights."""
MANNERS = ("zero", "power_cap_w")
"""Keys that say what is done with them."""


@dataclass(frozen=True, slots=True)
class Held:
    """Of several layouts on the same pipeline, which come last in every array."""

    standing: Floats
    """(ranks, layouts): weights, gradients, optimizer state and what is gathered for use, bytes."""
    optimizer_s: Floats
    """(ranks, layouts)."""
    gradients_s: Floats
    weights_s: Floats
    """Collectives alone, (ranks, layouts); nothing where weights are divided and travel with every micro-batch."""
    stage_gradients_s: Floats
    stage_weights_s: Floats
    """(stages, layouts): collectives of a stage's weights where they do."""

    def of(self, layouts: Ints) -> "Held":
        """Those of some."""
        return Held(*(getattr(self, one.name)[:, layouts] for one in fields(self)))


class Stages:
    """Where a pipeline's layers lie."""

    def __init__(self, counts: Floats, order: Schedule) -> None:
        self.counts = counts
        """(stages, kinds): layers of each kind in each stage."""
        self.ranks = [order.stages_of(rank) for rank in range(order.ranks)]
        stages = len(counts)
        ends = np.zeros((stages, len(ENDS)))
        if stages == 1:
            ends[0, ENDS.index((True, True))] = 1.0
        else:
            ends[0, ENDS.index((True, False))] = ends[-1, ENDS.index((False, True))] = 1.0
        holds = np.zeros((order.ranks, stages))
        for rank, own in enumerate(self.ranks):
            holds[rank, list(own)] = 1.0
        content = np.hstack([counts, ends])
        self.parts, self.which = np.unique(
            np.concatenate([holds @ content, content]), axis=0, return_inverse=True
        )
        """What ranks, then stages, consist of: (distinct, kinds + ENDS), and which of them each is."""
        self.which = self.which.ravel()


ENDS = ((True, False), (False, True), (True, True))
"""(first, last): stages that have something in front or behind."""


class Weights:
    """Asked of layouts, group by group, then worked out for all."""

    def __init__(self, scenario: Scenario, like: Mapping[str, Any]) -> None:
        self.scenario, self.own = scenario, training_of(scenario)
        self.calibration = load_calibration(scenario.calibration) if scenario.calibration else None
        self.stated = [name for name in (*SIZES, *MANNERS) if name in like]
        """Those that layouts state; the others are the scenario's own."""
        self.read = itemgetter(*self.stated)
        self.asked: list[tuple[Stages, str, dict[tuple[Any, ...], int]]] = []
        self.found: list[tuple[Floats, ...]] = []

    def ask(self, found: Sequence[Mapping[str, Any]], stages: Stages, name: str) -> tuple[int, Ints]:
        """What :meth:`held` wants to be told of layouts of one schedule, ``name``."""
        known: dict[tuple[Any, ...], int] = {}
        at = [known.setdefault(self.read(keys), len(known)) for keys in found]
        self.asked.append((stages, name, known))
        return len(self.asked) - 1, np.array(at)

    def held(self, number: int, at: Ints) -> Held:
        """Of layouts that were asked about."""
        if not self.found:
            self._work_out()
        stages, _, _ = self.asked[number]
        ranks = len(stages.ranks)
        standing, optimizer, gradients, weights, stage_gradients, stage_weights = self.found[number]
        of_rank, of_stage = stages.which[:ranks, None], stages.which[ranks:, None]
        return Held(
            standing[of_rank, at],
            optimizer[of_rank, at],
            gradients[of_rank, at],
            weights[of_rank, at],
            stage_gradients[of_stage, at],
            stage_weights[of_stage, at],
        )

    def _work_out(self) -> None:
        """Every distinct part of every division, those that are treated alike together."""
        manners: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        places: dict[tuple[Any, ...], list[tuple[int, int, int]]] = {}
        for number, (stages, name, known) in enumerate(self.asked):
            self.found.append(tuple(np.zeros((6, len(stages.parts), len(known)))))
            for mark, layout in known.items():
                keys = dict(zip(self.stated, mark, strict=True))
                manner = (name, *(keys.get(one, getattr(self.own, one)) for one in MANNERS))
                sizes = [keys.get(one, getattr(self.own, one)) for one in SIZES]
                used = stages.which if manner[1] == 3 else stages.which[: len(stages.ranks)]
                for part in np.unique(used).tolist():
                    manners.setdefault(manner, []).append((*sizes, *stages.parts[part]))
                    places.setdefault(manner, []).append((number, part, layout))
        for manner, rows in manners.items():
            table = np.array(rows)
            distinct, inverse = np.unique(table, axis=0, return_inverse=True)
            figures = np.zeros((6, len(distinct)))
            figures_of = partial(self._figures, manner, distinct)
            for members, found in alike(figures_of, np.arange(len(distinct))):
                for row, figure in enumerate(found):
                    figures[row, members] = figure
            for place, row in zip(places[manner], inverse.ravel().tolist(), strict=True):
                number, part, layout = place
                for target, figure in zip(self.found[number], figures, strict=True):
                    target[part, layout] = figure[row]

    def _figures(self, manner: tuple[Any, ...], parts: Floats, members: Ints) -> tuple[Any, ...]:
        """Figures of :class:`Held` of some of (parts, SIZES and what they consist of)."""
        (name, zero, cap), rows = manner, parts[members]
        sizes = {one: Several.of(rows[:, i].astype(int)) for i, one in enumerate(SIZES)}
        training = self.own.model_copy(
            update={**sizes, "zero": zero, "power_cap_w": cap, "schedule": name, "edp": None}
        )
        own, layers = self._parameters(training, rows[:, len(SIZES) :])
        cluster = self.scenario.cluster
        weights, gradients = divided_bytes(own, training)
        standing = weights + gradients + device_state_bytes(own, training)
        standing = standing + gathered_bytes(own, training, layers)
        update = update_s(own, training, self.scenario, self._alone_s)
        travels = (
            self._travels_s(gradient_ops(own, training, cluster)),
            self._travels_s(weight_ops(own, training, cluster)),
        )
        nothing = (0.0, 0.0)
        return (
            standing,
            update.device_s + update.host_s,
            *((*nothing, *travels) if zero == 3 else (*travels, *nothing)),
        )

    def _parameters(self, training: Training, content: Floats) -> tuple[Parameters, Any]:
        """Weights of parts that consist of (parts, kinds + ENDS), and how many layers they have."""
        model = self.scenario.model
        each = [layer_parameters(layer, model, training) for layer in model.layers]
        each += [stage_parameters(model, training, (), first=first, last=last) for first, last in ENDS]
        numbers = [Several.of(column) for column in content.T]
        dense = sum(number * one.dense for number, one in zip(numbers, each, strict=True))
        experts = sum(number * one.experts for number, one in zip(numbers, each, strict=True))
        return Parameters(dense, experts), sum(numbers[: len(model.layers)])

    def _travels_s(self, ops: Sequence[Op]) -> Any:
        """Collectives one after another; none where there is nothing of the kind."""
        return sum(np.where(op.shape["bytes"] > 0.0, self._alone_s(op), 0.0) for op in ops)

    def _alone_s(self, op: Op) -> Any:
        scenario = self.scenario
        return kernel_cost(Kernel.plain(op), scenario.cluster, scenario.costs, self.calibration).seconds

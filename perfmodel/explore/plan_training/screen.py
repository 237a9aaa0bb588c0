"""Every layout's step time and memory at once, one array per pipeline.

Layouts are grouped by what can be worked out together: shapes by the ops of their layers (:mod:`.pieces`), weights by
what divides them (:mod:`.weights`), pipelines by their schedule (:mod:`.group`). Nothing is done layout by layout but
to note which of each it has.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.explore.plan_training.group import Group
from perfmodel.explore.plan_training.pieces import Workshop
from perfmodel.explore.plan_training.question import Kind, Question, layouts, space_of, training_with
from perfmodel.explore.plan_training.weights import Stages, Weights
from perfmodel.several import Ints
from perfmodel.spec.scenario import Scenario
from perfmodel.training.layout import layers_by_stage, training_of
from perfmodel.training.pipeline.continued import run_at_first
from perfmodel.training.pipeline.schedules import schedule
from perfmodel.training.supported import check_model
from perfmodel.units import HOUR

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]
ARRANGED = ("pp", "virtual_stages", "schedule", "zero", "dp", "dp_replicate")
"""Keys that arrange layers and do not change them."""
TOLERANCE = 1e-3
"""Share of a step within which it is told."""


@dataclass(frozen=True, slots=True)
class Screened:
    """All layouts of one kind of GPU."""

    kind: Kind
    scenario: Scenario
    layouts: Sequence[Mapping[str, Any]]
    step_s: Floats
    """(layouts,): time of a step."""
    memory: Floats
    """(layouts,): bytes of the fullest rank."""

    @property
    def fits(self) -> NDArray[np.bool_]:
        """(layouts,): whether it fits."""
        return self.memory <= float(self.scenario.cluster.gpu.memory_bytes)

    @property
    def usd_per_token(self) -> Floats:
        """(layouts,): USD of a token, failures left out."""
        training = training_of(self.scenario)
        price = self.scenario.prices.usd_per_gpu_hour / HOUR
        return self.step_s * self.kind.gpus * price / training.step_tokens


def screen(
    question: Question, kind: Kind, best: int | None = None, progress: Progress | None = None
) -> Screened:
    """All legal layouts of a kind, with their steps.

    Args:
        question: what is asked.
        kind: whose layouts.
        best: as for :func:`figures`.
        progress: told what is done, and how many layouts of how many.

    Raises:
        PerfModelError: the scenario or the space is bad, or the model's training is not modelled.
    """
    scenario = question.scenario(kind)
    check_model(scenario.model)
    space = space_of(scenario, kind.gpus, question.space, of_several=len(question.kinds) > 1)
    found = list(layouts(scenario, kind.gpus, space, question.space))

    def tell(done: int) -> None:
        if progress is not None:
            progress(f"screened on {kind.words}", done, len(found))

    step_s, memory = figures(scenario, found, best, tell)
    return Screened(kind, scenario, found, step_s, memory)


def figures(
    scenario: Scenario,
    found: Sequence[Mapping[str, Any]],
    best: int | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> tuple[Floats, Floats]:
    """Step times and bytes of layouts, each (layouts,).

    Args:
        scenario: the run.
        found: layouts, as keys of ``training``; all have the same keys.
        best: how many of the quickest that fit are told to :data:`TOLERANCE`; others may be a few per cent quicker than
            told, none of them as quick as those. None: all are.
        tell: told how many layouts are done.
    """
    if not found:
        return np.zeros(0), np.zeros(0)
    tell(0)
    groups = _grouped(scenario, found)
    least, most, memory = np.zeros((3, len(found)))
    for done, (at, group) in zip(np.cumsum([len(at) for at, _ in groups]).tolist(), groups, strict=True):
        least[at], most[at] = group.bounds_s()
        memory[at] = group.memory()
        tell(done)
    fits = memory <= float(scenario.cluster.gpu.memory_bytes)
    while True:
        unsure = most - least > TOLERANCE * least
        if best is not None:
            told = np.sort(most[fits])
            unsure &= fits & (least <= (told[min(best, told.size) - 1] if told.size else 0.0))
        if not unsure.any():
            return most, memory
        groups = [
            (at[left], group.of(np.flatnonzero(left)).run_on())
            for at, group in groups
            if (left := unsure[at]).any()
        ]
        for at, group in groups:
            least[at], most[at] = group.bounds_s()


def _grouped(scenario: Scenario, found: Sequence[Mapping[str, Any]]) -> list[tuple[Ints, Group]]:
    """Layouts by pipeline: which they are, and what is known of them."""
    own = training_of(scenario)
    shape_of = itemgetter(*(key for key in found[0] if key not in ARRANGED))
    pipeline_of = itemgetter("schedule", "pp", "virtual_stages", "moe_overlap")
    shapes: dict[tuple[Any, ...], int] = {}
    pipelines: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    shape = np.array([shapes.setdefault(shape_of(keys), len(shapes)) for keys in found])
    passes = np.array([keys["dp"] * keys["micro_batch_sequences"] for keys in found])
    micro_batches = own.global_batch_sequences // passes
    for i, (keys, micro) in enumerate(zip(found, micro_batches.tolist(), strict=True)):
        name, p, v, overlap = pipeline_of(keys)
        pipelines[name, p, v, overlap == "forward-backward", run_at_first(name, p, micro)].append(i)
    names = [key for key in found[0] if key not in ARRANGED]
    pieces, which = Workshop(scenario).pieces([dict(zip(names, values, strict=True)) for values in shapes])
    weights = Weights(scenario, found[0])
    asked = []
    for (name, p, v, paired, first), members in pipelines.items():
        order = schedule(name, p, first, v, paired=paired)
        own_layouts = [found[i] for i in members]
        counts = layers_by_stage(scenario.model, training_with(own, own_layouts[0]))
        place = weights.ask(own_layouts, Stages(counts, order), name)
        asked.append((np.array(members), order, own_layouts, counts, place))
    groups = []
    for at, order, own_layouts, counts, place in asked:
        overlaps = {
            name: np.array([one.get(name, getattr(own, name)) for one in own_layouts])
            for name in ("overlap_gradients", "overlap_parameters")
        }
        group = Group(
            scenario,
            own.model_copy(update={"edp": None, **own_layouts[0]}),
            order,
            counts,
            pieces.of(which[shape[at]]),
            weights.held(*place),
            micro_batches[at],
            np.array([one["zero"] == 3 for one in own_layouts]),
            overlaps,
        )
        groups.append((at, group))
    return groups

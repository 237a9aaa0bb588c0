"""Layouts of one pipeline, their steps and memory as arrays: the same schedule, ranks, chunks and (to whole rounds)
micro-batches.

Agrees with :mod:`perfmodel.training.step` but for two things (tests hold the first to rounding): where a forward runs
beside a backward, pairs of stages are sums of pairs of layers; and a step of many micro-batches is continued from a
shorter one, once the pipeline repeats itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.explore.plan_training.pieces import WAYS, Pieces
from perfmodel.explore.plan_training.weights import Held
from perfmodel.several import Ints
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training.memory import copied_bytes, layers_in_hand
from perfmodel.training.offload import activations_copy_s
from perfmodel.training.pipeline.actions import BACK_STAGE, KIND, PAIR, STAGE, Schedule
from perfmodel.training.pipeline.continued import bounds, run_next
from perfmodel.training.pipeline.flight import in_flight
from perfmodel.training.pipeline.schedules import schedule
from perfmodel.training.pipeline.times import StageTimes

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """What is known of them, layouts last in every array."""

    scenario: Scenario
    training: Training
    """Of one of them: what they have in common may be asked of it."""
    order: Schedule
    """Of as many micro-batches as are run at first."""
    counts: Floats
    """(stages, kinds): layers of each kind in each stage."""
    pieces: Pieces
    held: Held
    micro_batches: Ints
    zero3: Bools
    """(layouts,): whether weights are divided."""
    overlaps: Mapping[str, Bools]
    """``overlap_gradients`` and ``overlap_parameters``, (layouts,)."""

    def of(self, layouts: Ints) -> "Group":
        """Some of them."""
        return replace(
            self,
            pieces=self.pieces.of(layouts),
            held=self.held.of(layouts),
            micro_batches=self.micro_batches[layouts],
            zero3=self.zero3[layouts],
            overlaps={key: values[layouts] for key, values in self.overlaps.items()},
        )

    def bounds_s(self) -> tuple[Floats, Floats]:
        """(least, most): step times, (layouts,), lie between; the same where the pipeline repeats itself at once."""
        own_spans = self.training.post_validation
        least, most = bounds(self.order, self.micro_batches, self._times, own_spans=own_spans)
        return least + self._tail_s, most + self._tail_s

    def run_on(self) -> "Group":
        """The same layouts, with more micro-batches run."""
        order = self.order
        number = run_next(order.micro_batches, order.ranks, self.micro_batches)
        longer = schedule(order.name, order.ranks, number, order.chunks, paired=self._paired)
        return replace(self, order=longer)

    @property
    def _paired(self) -> bool:
        return self.training.moe_overlap == "forward-backward"

    @cached_property
    def _ranks(self) -> list[list[int]]:
        """Stages of every rank."""
        return [list(self.order.stages_of(rank)) for rank in range(self.order.ranks)]

    @cached_property
    def _times(self) -> StageTimes:
        stage_s, factor = self._stage_s, None
        if self.training.slowest_rank != 1.0:
            factor = np.ones(self.order.ranks)
            factor[self.order.ranks // 2] = self.training.slowest_rank
        return StageTimes(
            stage_s["forward"],
            stage_s["input"],
            stage_s["weight"],
            stage_s["backward"],
            pair_s=self._pairs_s() if self._paired else {},
            transfer_s=self.pieces.transfer_s if self.order.ranks > 1 else 0.0,
            rank_factor=factor,
        )

    @cached_property
    def _stage_s(self) -> dict[str, Floats]:
        """Seconds of every way through every stage, (stages, layouts)."""
        layer, first, last = self.pieces.layer_s, self.pieces.first_s, self.pieces.last_s
        found = {}
        for i, way in enumerate(WAYS):
            seconds = self.counts @ layer[i]
            seconds[0] += first[i]
            seconds[-1] += last[i]
            found[way] = seconds
        if self.zero3.any():
            gather, reduce = self.held.stage_weights_s, self.held.stage_gradients_s
            beside = {"forward": gather, "input": gather, "weight": reduce, "backward": gather + reduce}
            for way, transfer in beside.items():
                found[way] = np.maximum(found[way], transfer)
        if self._copied_s is not None:
            for way in ("forward", "input", "backward"):
                found[way] = np.maximum(found[way], self._copied_s)
        return found

    @cached_property
    def _copied_s(self) -> Floats | None:
        """Activations between every stage and its host, one way, (stages, layouts); None: they stay."""
        if not self.training.offload.activations_fraction:
            return None
        saved: Any = self.counts @ self.pieces.saved
        return np.asarray(activations_copy_s(saved, self.training, self.scenario))

    def _pairs_s(self) -> dict[tuple[int, int], Floats]:
        """A stage's forward beside another's backward: as many pairs of layers as both have, the rest by itself."""
        pair, layer, stage_s = self.pieces.pair_s, self.pieces.layer_s, self._stage_s
        ahead_s, back_s = np.zeros_like(stage_s["forward"]), np.zeros_like(stage_s["backward"])
        for ends, way in ((ahead_s, WAYS.index("forward")), (back_s, WAYS.index("backward"))):
            ends[0] += self.pieces.first_s[way]
            ends[-1] += self.pieces.last_s[way]
        found = {}
        for ahead, back in self._met:
            both = np.minimum(self.counts[ahead], self.counts[back])
            seconds = (
                both @ pair + (self.counts[ahead] - both) @ layer[0] + (self.counts[back] - both) @ layer[3]
            )
            seconds += ahead_s[ahead] + back_s[back]
            if self.zero3.any():
                gather, reduce = self.held.stage_weights_s, self.held.stage_gradients_s
                seconds = np.maximum(seconds, gather[ahead] + gather[back] + reduce[back])
            if self._copied_s is not None:
                seconds = np.maximum(seconds, np.maximum(self._copied_s[ahead], self._copied_s[back]))
            found[ahead, back] = np.minimum(seconds, stage_s["forward"][ahead] + stage_s["backward"][back])
        return found

    @property
    def _met(self) -> list[tuple[int, int]]:
        """Stages of which one's forward runs beside the other's backward."""
        rows = np.concatenate(self.order.rows)
        met = rows[rows[:, KIND] == PAIR][:, [STAGE, BACK_STAGE]]
        return list(dict.fromkeys(map(tuple, met.tolist())))

    @cached_property
    def _tail_s(self) -> Floats:
        """What the rank that has most of it does once per step, (layouts,); as :meth:`StepBuilder._tail`."""
        found = self.held.optimizer_s.copy()
        for way, alone, overlapped in (
            ("backward", self.held.gradients_s, self.overlaps["overlap_gradients"]),
            ("forward", self.held.weights_s, self.overlaps["overlap_parameters"]),
        ):
            layers = np.array([[max(1.0, self.counts[own].sum())] for own in self._ranks])
            beside = np.array([self._stage_s[way][own].sum(axis=0) for own in self._ranks])
            hidden = np.maximum(alone / layers, alone - beside * (layers - 1.0) / layers)
            found += np.where(overlapped, hidden, alone)
        most: Floats = found.max(axis=0)
        return most

    def memory(self) -> Floats:
        """Bytes of the fullest rank, (layouts,); as :func:`perfmodel.training.memory.training_memory`."""
        pieces, offload = self.pieces, self.training.offload
        stage_saved = self.counts @ ((1.0 - offload.activations_fraction) * pieces.saved)
        stage_saved[-1] += pieces.last_saved
        most = np.zeros(len(self.micro_batches))
        largest = np.array(
            [np.where((own > 0)[:, None], pieces.saved, 0.0).max(axis=0) for own in self.counts]
        )
        leads = layers_in_hand(self.training) * (1.0 - offload.activations_fraction) * largest
        for own, standing, flight in zip(self._ranks, self.held.standing, in_flight(self.order), strict=True):
            active = flight.most(stage_saved[own], leads[own])
            kinds = self.counts[own].sum(axis=0) > 0
            if not kinds.any():  # a rank without layers is counted as if it had one
                kinds[0] = True
                busy = pieces.backward[0]
            else:
                busy = pieces.replayed[kinds].max(axis=0) + pieces.backward[kinds].max(axis=0)
            if len(self.counts) - 1 in own:
                busy = np.maximum(busy, pieces.loss)
            busy = busy + copied_bytes(pieces.saved[kinds].max(axis=0), self.training)
            most = np.maximum(most, standing + active + busy + pieces.buffers + pieces.runtime)
        return most

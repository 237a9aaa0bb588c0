"""How long the actions of a pipeline take: one figure per stage, or one per stage and scenario."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfmodel.training.pipeline.actions import Action, Kind


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Times of one micro-batch through each stage, seconds: arrays (stages,) or (stages, scenarios)."""

    forward_s: Any
    input_s: Any
    """Input gradient; a recomputed forward is part of it."""
    weight_s: Any
    backward_s: Any = None
    """Both gradients as one action; None: their sum."""
    pair_s: Mapping[tuple[int, int], Any] = field(default_factory=dict)
    """(stage of the forward, stage of the backward) -> time of both together; one that is not there: their sum."""
    transfer_s: Any = 0.0
    """Activations or their gradients from rank to rank; the sender goes on meanwhile."""
    rank_factor: Any = None
    """How many times as long each rank takes as a healthy one, (ranks,); None: all alike."""

    @staticmethod
    def even(stages: int, forward: float, input_: float, weight: float, **rest: Any) -> "StageTimes":
        """The same times for every stage."""
        one = np.ones(stages)
        return StageTimes(forward * one, input_ * one, weight * one, **rest)

    def of(self, scenarios: Any) -> "StageTimes":
        """Those of some scenarios, where times are (stages, scenarios)."""

        def own(times: Any) -> Any:
            return times[..., scenarios] if np.ndim(times) else times

        return StageTimes(
            own(self.forward_s),
            own(self.input_s),
            own(self.weight_s),
            None if self.backward_s is None else own(self.backward_s),
            {key: own(times) for key, times in self.pair_s.items()},
            own(self.transfer_s),
            self.rank_factor,
        )

    def seconds(self, action: Action, rank: int) -> Any:
        """Time of one action on one rank."""
        factor = 1.0 if self.rank_factor is None else self.rank_factor[rank]
        return factor * self._healthy(action)

    def _healthy(self, action: Action) -> Any:
        stage = action.stage
        if action.kind is Kind.FORWARD:
            return self.forward_s[stage]
        if action.kind is Kind.INPUT:
            return self.input_s[stage]
        if action.kind is Kind.WEIGHT:
            return self.weight_s[stage]
        if action.kind is Kind.BACKWARD:
            return self._backward(stage)
        together = self.pair_s.get((stage, action.other_stage))
        if together is not None:
            return together
        return self.forward_s[stage] + self._backward(action.other_stage)

    def _backward(self, stage: int) -> Any:
        if self.backward_s is not None:
            return self.backward_s[stage]
        return self.input_s[stage] + self.weight_s[stage]

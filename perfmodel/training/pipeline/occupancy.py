"""What a rank holds of activations, over time: a chunk's from its forward's start to its weight gradient's end. Where a
forward runs beside a backward, layer by layer, what one takes the other gives back, but for the layers in hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfmodel.numeric import Num, minimum, where
from perfmodel.training.pipeline.actions import Kind
from perfmodel.training.pipeline.simulate import Run


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Activations of one rank over a step."""

    times_s: tuple[float, ...]
    """When what is held changes, ascending."""
    held_bytes: tuple[float, ...]
    """What is held from then on."""

    @property
    def peak_bytes(self) -> float:
        """Most that is held at once."""
        return max(self.held_bytes, default=0.0)

    @property
    def peak_at_s(self) -> float:
        """When it is first held."""
        return self.times_s[self.held_bytes.index(self.peak_bytes)] if self.held_bytes else 0.0


def beside_backward(forward: Num, backward: Num, lead: Num) -> Num:
    """What a pair holds at its fullest, beyond what was held before it.

    Both go through their stages' layers at the same pace: after a share x the forward has left x of its bytes, and the
    backward has freed what it has been through but for ``lead``. So forward - backward + lead where the forward leaves
    more, at the end; else what it has left when the backward begins to free.

    Args:
        forward: what a micro-batch leaves behind in the stage that runs forwards, bytes.
        backward: the same of the stage that runs backwards.
        lead: what of the latter is freed late; all of it: at the pair's end.
    """
    kept = minimum(lead, backward)
    share = kept / where(np.asarray(backward) > 0.0, backward, 1.0)
    return where(np.asarray(forward) >= backward, forward - backward + kept, forward * share)


def occupancy(
    run: Run,
    rank: int,
    stage_bytes: Sequence[float],
    leads: Sequence[float] = (),
    freed_by_input: float = 0.0,
) -> Occupancy:
    """What one rank holds.

    Args:
        run: the simulated step.
        rank: pipeline rank.
        stage_bytes: what one micro-batch leaves behind in each stage, (stages,).
        leads: what of it a pair's backward frees late (:func:`beside_backward`), (stages,); left out: all.
        freed_by_input: share of it that the input gradient frees; the weight gradient frees the rest.
    """
    late = leads or stage_bytes
    changes: list[tuple[float, int, float]] = []
    for span in run.spans[rank]:
        action = span.action
        held = float(stage_bytes[action.stage])
        if action.kind is Kind.PAIR:
            freed = float(stage_bytes[action.other_stage])
            more = float(beside_backward(held, freed, float(late[action.other_stage])))
            changes += [(span.start_s, 1, more), (span.end_s, 0, held - freed - more)]
        elif action.kind is Kind.FORWARD:
            changes.append((span.start_s, 1, held))
        elif action.kind is Kind.INPUT:
            changes.append((span.end_s, 0, -held * freed_by_input))
        elif action.kind is Kind.WEIGHT:
            changes.append((span.end_s, 0, -held * (1.0 - freed_by_input)))
        else:
            changes.append((span.end_s, 0, -held))
    changes.sort(key=lambda change: change[:2])  # freed before taken where both happen at once
    times: list[float] = []
    totals: list[float] = []
    total = 0.0
    for at, _, change in changes:
        total += change
        if times and times[-1] == at:
            totals[-1] = total
        else:
            times.append(at)
            totals.append(total)
    return Occupancy(tuple(times), tuple(totals))

"""What a rank holds of activations, over time: a chunk's from its forward's start to its weight gradient's end."""

from collections.abc import Sequence
from dataclasses import dataclass

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


def occupancy(run: Run, rank: int, stage_bytes: Sequence[float], freed_by_input: float = 0.0) -> Occupancy:
    """What one rank holds.

    Args:
        run: the simulated step.
        rank: pipeline rank.
        stage_bytes: what one micro-batch leaves behind in each stage, (stages,).
        freed_by_input: share of it that the input gradient frees; the weight gradient frees the rest.
    """
    changes: list[tuple[float, int, float]] = []
    for span in run.spans[rank]:
        for part in span.action.parts():
            held = float(stage_bytes[part.stage])
            if part.kind is Kind.FORWARD:
                changes.append((span.start_s, 1, held))
            elif part.kind is Kind.INPUT:
                changes.append((span.end_s, 0, -held * freed_by_input))
            elif part.kind is Kind.WEIGHT:
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

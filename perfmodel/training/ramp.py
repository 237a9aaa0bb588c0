"""A run whose first steps have smaller batches: how many steps of each batch there are, and what each takes.

As Megatron-LM counts (megatron/core/num_microbatches_calculator.py): with L batches below the full one, over S
sequences, the batch grows by one increment whenever another S / L sequences have been trained, after whole steps.
Smaller batches are fewer micro-batches, so the pipeline's bubble and what a step does once weigh more.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from perfmodel.spec.training import BatchRamp, Training
from perfmodel.training.pipeline.actions import Schedule
from perfmodel.training.pipeline.program import makespans
from perfmodel.training.pipeline.schedules import schedule
from perfmodel.training.pipeline.simulate import simulate
from perfmodel.training.step import TrainingStep


@dataclass(frozen=True, slots=True)
class RampLevel:
    """Steps of one batch."""

    global_batch_sequences: int
    steps: float
    """A whole number, but for the last ones of a run that ends within its ramp."""
    step_time_s: float
    bubble_fraction: float
    """Mean share of the step in which a pipeline rank computes nothing."""


def ramp_steps(ramp: BatchRamp, global_batch: int, sequences: float) -> Iterator[tuple[int, float]]:
    """(batch, steps) of a run of so many sequences, below the full batch; batches that are skipped have 0."""
    levels = ramp.levels(global_batch)
    trained = 0
    for level in range(levels):
        batch = ramp.start_sequences + level * ramp.increment_sequences
        left = ramp.ramp_sequences * (level + 1) - trained * levels
        steps = max(0, -(-left // (batch * levels)))
        if trained + steps * batch >= sequences:
            yield batch, (sequences - trained) / batch
            return
        yield batch, float(steps)
        trained += steps * batch


def ramp_levels(step: TrainingStep, sequences: float) -> tuple[RampLevel, ...]:
    """The batches of a run of so many sequences that begins with a ramp, each simulated.

    Args:
        step: of the full batch.
        sequences: of the whole run.
    """
    training = step.training
    assert training.batch_ramp is not None, "asked of runs with one"
    return tuple(
        RampLevel(batch, steps, *_step_s(step, training, batch))
        for batch, steps in ramp_steps(training.batch_ramp, training.global_batch_sequences, sequences)
        if steps
    )


def _step_s(step: TrainingStep, training: Training, batch: int) -> tuple[float, float]:
    """(seconds, bubble) of a step of another batch: the same stages, fewer micro-batches."""
    order = schedule(
        training.schedule,
        training.pp,
        batch // (training.dp * training.micro_batch_sequences),
        training.virtual_stages,
        paired=training.moe_overlap == "forward-backward",
    )
    seconds = _pipeline_s(step, order) + max(tail.seconds for tail in step.tails)
    busy = sum(
        float(step.times.seconds(action, rank)) for rank, own in enumerate(order.orders) for action in own
    )
    once = sum(tail.seconds for tail in step.tails)
    return seconds, max(0.0, 1.0 - (busy + once) / (training.pp * seconds))


def _pipeline_s(step: TrainingStep, order: Schedule) -> float:
    if step.training.post_validation:
        return max(own[-1].end_s - own[0].start_s for own in simulate(order, step.times).spans)
    return float(makespans(order, step.times))

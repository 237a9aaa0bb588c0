"""What a training run's boards draw, by the coarse model of docs/power.md.

A GPU draws its idle power all the time. While a step runs, kernels draw what bounds them, or what was measured for
their class; the rest of the step (communication that nothing hides, bubbles, launches) draws the share of a GPU that
waits. Seconds are those of the mean pipeline rank by op class; inside a class every kernel counts as often as another,
so layers of several kinds are weighed alike.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from perfmodel.kernels.power import kernel_watts
from perfmodel.training.run import TrainingRun
from perfmodel.training.step import TrainingStep


@dataclass(frozen=True, slots=True)
class StepPower:
    """Mean power of one GPU, W."""

    step_w: float
    """While steps run."""
    idle_w: float


def step_power(step: TrainingStep, breakdown_s: dict[str, float]) -> StepPower | None:
    """Mean power of a GPU; None where the GPU's limits or its kernels' power are not known.

    Args:
        step: the step.
        breakdown_s: its seconds by part, as :func:`perfmodel.training.summary.breakdown_s`.
    """
    gpu, power, cap = step.scenario.cluster.gpu, step.scenario.power, step.training.power_cap_w
    if gpu.tdp_w is None or gpu.idle_w is None or power is None:
        return None
    alone: dict[str, float] = defaultdict(float)
    busy: dict[str, float] = defaultdict(float)
    joules: dict[str, float] = defaultdict(float)
    for kernel, timing in step.timings:
        seconds = max(float(timing.compute_s), float(timing.memory_s))
        watts = kernel_watts(kernel.op, timing, gpu, power)
        if watts:
            name = str(kernel.op.op_class)
            alone[name] += float(timing.seconds)
            busy[name] += seconds
            joules[name] += seconds * max(0.0, min(watts, cap or watts) - gpu.idle_w)
    above, working = 0.0, 0.0
    for name, seconds in breakdown_s.items():
        if alone.get(name):
            above += seconds * joules[name] / alone[name]
            working += seconds * busy[name] / alone[name]
    waits = max(0.0, min(power.communication * gpu.tdp_w, cap or gpu.tdp_w) - gpu.idle_w)
    above += waits * max(0.0, step.step_time_s - working)
    return StepPower(gpu.idle_w + above / step.step_time_s, gpu.idle_w)


def run_energy_j(power: StepPower, run: TrainingRun, *, gpus: int, spares: int) -> float:
    """Mean energy of a run, J: steps (those done again too), and idle power while it stands still and in spares."""
    elapsed = float(np.mean(run.elapsed_s))
    steps = run.productive_s + float(np.mean(run.lost_s))
    still = max(0.0, elapsed - steps)
    return gpus * (power.step_w * steps + power.idle_w * still) + spares * power.idle_w * elapsed

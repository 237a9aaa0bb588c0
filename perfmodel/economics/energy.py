"""How well a serving run used its GPUs, and what they drew: from its table of steps, after the simulation.

A GPU draws its idle power all the time, and above it, while an op runs alone, what its kind draws: ops that wait for
device memory, that multiply, that wait for wires (:mod:`perfmodel.spec.power`). Ops that overlap add up, to the board's
limit at most. What is counted is the mean rank's work: the fullest one sets the time, the others wait for it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.kernels.ideal import memory_seconds, peak_seconds
from perfmodel.kernels.timing import Timing
from perfmodel.numeric import maximum
from perfmodel.ops.op import OpClass
from perfmodel.serving.records import Records, StepRuns
from perfmodel.serving.step_times import work_values
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.power import Power, power
from perfmodel.spec.scenario import Scenario
from perfmodel.step import step_segments

Floats = NDArray[np.float64]

MOST_ROWS = 1000
"""Steps of a kind that are looked at, evenly over the run; they stand for the rest by their seconds."""
STATES = ("compute", "memory", "communication")


@dataclass(frozen=True, slots=True)
class Use:
    """What GPUs did; GPU seconds, summed over GPUs."""

    total_s: float
    """From the first arrival to the last end."""
    peak_s: float
    """That the FLOPs would take at the peaks of their types."""
    memory_s: float
    """That the bytes of device memory would take at its bandwidth."""
    above_idle_s: dict[str, float]
    """By state: (share of the board's limit - idle share) x seconds."""

    def __add__(self, other: "Use") -> "Use":
        """Of both pools."""
        return Use(
            self.total_s + other.total_s,
            self.peak_s + other.peak_s,
            self.memory_s + other.memory_s,
            {name: self.above_idle_s[name] + other.above_idle_s[name] for name in STATES},
        )


def energy_metrics(records: Records, scenario: Scenario) -> dict[str, Any]:
    """Keys of ``perfmodel serve --json``: mfu, mbu, power and energy; energy is None where ``tdp_w`` is not stated."""
    use = fleet_use(records, scenario)
    found: dict[str, Any] = {"mfu": use.peak_s / use.total_s, "mbu": use.memory_s / use.total_s}
    limit, draws = scenario.cluster.gpu.tdp_w, power()
    if limit is None:
        none = dict.fromkeys(("energy_j", "power_w_per_gpu", "energy_j_per_output_token", "energy_split_j"))
        return {**found, **none}
    split = {"idle": limit * draws.idle.share * use.total_s}
    split |= {name: limit * seconds for name, seconds in use.above_idle_s.items()}
    energy = sum(split.values())
    return {
        **found,
        "energy_j": energy,
        "power_w_per_gpu": energy / use.total_s,
        "energy_j_per_output_token": energy / float(records.output_tokens.sum()),
        "energy_split_j": split,
    }


def fleet_use(records: Records, scenario: Scenario) -> Use:
    """Of all replicas, those that compute prompts only among them."""
    span = float(records.end_s.max() - records.arrival_s.min())
    runs, replicas = records.load.runs, scenario.serving.replicas
    use = pool_use(scenario, runs.where(runs.replica < replicas), span * replicas)
    side = scenario.prefill_side
    if side is None:
        return use
    return use + pool_use(side, runs.where(runs.replica >= replicas), span * side.serving.replicas)


def pool_use(scenario: Scenario, runs: StepRuns, replica_seconds: float) -> Use:
    """Of replicas of one deployment that ran ``runs`` in ``replica_seconds`` altogether."""
    gpus, states = scenario.deployment.num_gpus, dict.fromkeys(STATES, 0.0)
    use = Use(gpus * replica_seconds, 0.0, 0.0, states)
    prompts, decodes = runs.prompt > 0.0, runs.requests > 0.0
    for phase, own in (
        ("decode", decodes & ~prompts),
        ("prefill", prompts & ~decodes),
        ("mixed", prompts & decodes),
    ):
        rows = np.flatnonzero(own)
        if len(rows):
            some = rows[
                np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).round().astype(int))
            ]
            scale = gpus * float(runs.seconds[rows].sum() / runs.seconds[some].sum())
            use += _steps_use(scenario, phase, runs.where(some), scale)
    return use


def _steps_use(scenario: Scenario, phase: str, runs: StepRuns, scale: float) -> Use:
    """``scale`` times the work of one GPU of the mean rank in some steps of one phase."""
    gpu, draws = scenario.cluster.gpu, power()
    asked = with_arrays(_balanced(scenario, phase, len(runs.seconds)), work_values(scenario, phase, runs))
    peak, memory = np.zeros(len(runs.seconds)), np.zeros(len(runs.seconds))
    above = {name: np.zeros(len(runs.seconds)) for name in STATES}
    for segment in step_segments(asked):
        for task, timing in zip(segment.tasks, segment.timings, strict=True):
            peak += segment.repeat * peak_seconds(task.op, gpu)
            memory += segment.repeat * memory_seconds(task.op, gpu)
            if task.op.op_class != OpClass.HOST:
                _add(above, timing, float(segment.repeat), draws)
    steps = runs.steps
    drawn = steps * sum(above.values())
    room = (1.0 - draws.idle.share) * runs.seconds
    kept = np.minimum(1.0, np.divide(room, drawn, out=np.ones_like(drawn), where=drawn > 0.0))
    return Use(
        0.0,
        scale * float((steps * peak).sum()),
        scale * float((steps * memory).sum()),
        {name: scale * float((kept * steps * values).sum()) for name, values in above.items()},
    )


def _add(above: dict[str, Floats], timing: Timing, repeat: float, draws: Power) -> None:
    """An op's seconds alone, under what bounds it, weighted with what that draws above idle."""
    wires = maximum(timing.link_s, timing.network_s)
    parts = {"compute": timing.compute_s, "memory": timing.memory_s, "communication": wires}
    longest = maximum(*parts.values())
    rest: Any = 1.0
    for name, part in parts.items():
        bound = rest * np.where((np.asarray(part) >= longest) & (np.asarray(longest) > 0.0), 1.0, 0.0)
        rest = rest - bound
        share = getattr(draws, name).share - draws.idle.share
        above[name] += repeat * share * bound * longest
    above["communication"] += repeat * (draws.communication.share - draws.idle.share) * timing.latency_s


def _balanced(scenario: Scenario, phase: str, size: int) -> Scenario:
    """The scenario in one phase, as the mean rank of the expert-parallel group sees it."""
    deployment = scenario.deployment.model_copy(update={"phase": phase, "ranks": "representative"})
    routing = scenario.routing
    if scenario.model.moe is not None and deployment.ep > 1:
        routing = routing.model_copy(update={"rank_loads": (np.ones(size),)})
    return scenario.model_copy(update={"deployment": deployment, "routing": routing})

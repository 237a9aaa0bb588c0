"""What a simulated training step means: where the time goes, what is exposed, utilisation, how sure it is."""

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

from perfmodel.ops.op import OpClass
from perfmodel.training.flops import model_flops_per_token
from perfmodel.training.pipeline.program import makespans
from perfmodel.training.pipeline.simulate import Span
from perfmodel.training.step import TrainingStep

EXPOSED_KEYS = {
    OpClass.DISPATCH: "dispatch",
    OpClass.COMBINE: "combine",
    OpClass.DATA_PARALLEL: "dp",
    OpClass.CONTEXT_PARALLEL: "cp",
    OpClass.TP_COMMUNICATION: "tp",
    OpClass.PIPELINE: "pp",
    OpClass.HOST: "host",
}
"""Op class -> key of ``exposed_s``; the host's is there where something is offloaded."""
HOST_UPDATE = "optimizer on the host"
"""Part of a step in which the GPU waits for its host's update."""
UNKNOWN_LOG_STD = 0.3
"""Spread of an op of which no spread is known: a factor of 1.35 either way."""
FRAMEWORK_LOG_STD = 0.175
"""What a framework's releases, recomputation and overlap add to kernels' spread: root mean square of log(predicted /
measured) over the ``fit`` rows of Megatron-Bridge (suite ``training``; a test works it out again). 28 equal
configurations differ by up to 1.77 times between its containers."""
NORMAL_80 = 1.2816
"""Standard deviations on either side that hold 80 % of a normal distribution."""


def breakdown_s(step: TrainingStep) -> dict[str, float]:
    """Seconds of the step by op class, exposed communication, bubble and waiting: mean over pipeline ranks; sums to
    the step.
    """
    totals: dict[str, float] = defaultdict(float)
    ranks = step.run.schedule.ranks
    for rank in range(ranks):
        alike: dict[tuple[Any, ...], list[Span]] = defaultdict(list)
        for span in step.run.spans[rank]:
            alike[span.action.kind, span.action.stage, span.action.other_stage].append(span)
        for spans in alike.values():
            phase, took = step.phase(spans[0].action), sum(span.end_s - span.start_s for span in spans)
            stretch = took / phase.seconds if phase.seconds else float(len(spans))
            exposed = sum(phase.exposed_s.values())
            for op_class, seconds in phase.exposed_s.items():
                totals[f"exposed {EXPOSED_KEYS[OpClass(op_class)]}"] += seconds * stretch / ranks
            computing = sum(phase.compute_s.values())
            for op_class, seconds in phase.compute_s.items():
                share = seconds / computing if computing else 0.0
                totals[str(op_class)] += share * (took - exposed * stretch) / ranks
        tail = step.tails[rank]
        totals["exposed dp"] += (tail.gradients_exposed_s + tail.weights_exposed_s) / ranks
        totals[str(OpClass.OPTIMIZER)] += tail.optimizer_s / ranks
        if tail.host_s:
            totals[HOST_UPDATE] += tail.host_s / ranks
    exposed_pp = transfers_exposed_s(step)
    if exposed_pp > 0.0:
        totals["exposed pp"] = exposed_pp
    totals["bubble"] = step.step_time_s - sum(totals.values())
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def transfers_exposed_s(step: TrainingStep) -> float:
    """What transfers between pipeline ranks add to the makespan."""
    if step.transfer_s == 0.0:
        return 0.0
    without = float(makespans(step.run.schedule, replace(step.times, transfer_s=0.0)))
    return max(0.0, step.run.makespan_s - without)


def exposed_s(breakdown: dict[str, float]) -> dict[str, float]:
    """Exposed communication by kind, out of a breakdown."""
    every = (key for key in EXPOSED_KEYS.values() if key != "host" or f"exposed {key}" in breakdown)
    return {key: breakdown.get(f"exposed {key}", 0.0) for key in every}


def model_flops_per_s_per_gpu(step: TrainingStep, *, causal: bool = True) -> float:
    """Model FLOPs of the step's tokens over its time and GPUs."""
    training = step.training
    per_token = model_flops_per_token(step.scenario, training, causal=causal)
    return per_token * training.step_tokens / step.step_time_s / training.num_gpus


def step_interval_s(step: TrainingStep, parts: dict[str, float] | None = None) -> tuple[float, float]:
    """80 % interval of the step time, to first order: each kernel of one curve and shape errs by itself, with as much
    of the step as its time is of all kernels' time; transfers count by what of them is exposed.
    ``parts``: its :func:`breakdown_s`, where it is at hand.
    """
    parts = breakdown_s(step) if parts is None else parts
    exposed = sum(value for name, value in parts.items() if name.startswith("exposed"))
    compute = {True: 0.0, False: 0.0}
    by_key: dict[str, tuple[float, float, bool]] = {}
    for number, (kernel, timing) in enumerate(step.timings):
        transfers = kernel.op.is_communication
        seconds = float(timing.seconds)
        compute[transfers] += seconds
        key = timing.spread_key or f"unknown {number}"
        before = by_key.get(key, (0.0, 0.0, transfers))
        spread = timing.log_std if timing.spread_key else UNKNOWN_LOG_STD
        by_key[key] = (before[0] + seconds, max(before[1], spread), transfers)
    variance = 0.0
    for seconds, spread, transfers in by_key.values():
        weight = exposed if transfers else step.step_time_s - exposed
        if compute[transfers]:
            variance += (seconds / compute[transfers] * weight / step.step_time_s * spread) ** 2
    width = NORMAL_80 * math.hypot(math.sqrt(variance), FRAMEWORK_LOG_STD)
    return step.step_time_s * math.exp(-width), step.step_time_s * math.exp(width)

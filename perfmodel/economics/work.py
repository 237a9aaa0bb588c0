"""What a serving run's steps ask of the mean GPU: work over peaks, and how long kernels of each kind keep it busy.

The simulator keeps a row per run of steps, with the work of the rank that has most (:class:`StepRuns`). Here every
row's ops are counted and costed once more, all rows as one array, with the work of the mean rank and the mean load of
experts: FLOPs are proportional to tokens, so those of the mean rank are the mean over ranks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.economics.peaks import hbm_seconds, peak_seconds
from perfmodel.kernels.power import kernel_power
from perfmodel.kernels.timing import Timing
from perfmodel.numeric import Num, maximum, minimum, where
from perfmodel.ops.apart import on_ffns
from perfmodel.ops.op import Op, OpClass
from perfmodel.serving.records import StepRuns
from perfmodel.serving.step_times import decode_leaves, prompt_leaves
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.hardware import Gpu
from perfmodel.spec.power import Power
from perfmodel.spec.scenario import Scenario
from perfmodel.step import step_segments

Floats = NDArray[np.float64]

COLUMNS = 6
"""Of :class:`Work`."""
CHUNK = 32_768
"""Rows counted together: enough that Python's share is small, few enough that a step's ops fit in the memory."""


@dataclass(frozen=True, slots=True)
class Work:
    """Columns (runs,): seconds of the mean GPU in one step of each run."""

    peak_s: Floats
    """FLOPs over the peak of each op's dtype."""
    hbm_s: Floats
    """HBM bytes over the peak bandwidth."""
    compute_s: Floats
    """In which kernels run that are bound by their arithmetic, each one's fixed part (launch, tail) left out."""
    memory_s: Floats
    """The same of kernels bound by device memory."""
    compute_j: Floats
    """What kernels bound by their arithmetic draw above idle power, J, where watts of kernels are known; else 0."""
    memory_j: Floats
    """The same of kernels bound by device memory."""


def work_of_runs(scenario: Scenario, runs: StepRuns, *, ffn: bool | None = None) -> Work:
    """What one step of each run asks of the mean GPU; ``ffn``: of those that compute FFNs alone, or of the others.

    ``scenario`` has the deployment of the replicas whose runs these are: where pools differ, ask for each.

    Raises:
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    found = np.zeros((COLUMNS, len(runs.steps)))
    decodes, prompt = _mean_rank(scenario, runs)
    per_gpu = 1.0 / scenario.deployment.attention_tp
    for phase, rows in _phases(runs):
        mean: dict[str, Floats] = {}
        alone: dict[str, Floats] = {}
        shares: dict[str, Floats] = {}
        if phase != "prefill":
            requests, context = decodes[rows], runs.tokens[rows] / runs.requests[rows]
            mean |= decode_leaves(requests * per_gpu, context)
            alone |= decode_leaves(np.maximum(requests, 1.0) * per_gpu, context)
            shares["_decode"] = np.minimum(requests, 1.0)
        if phase != "decode":
            most, attended = runs.prompt[rows], runs.attended[rows] / runs.prompt[rows]
            shares["_prefill"] = prompt[rows] / most
            mean |= prompt_leaves(most, attended, shares["_prefill"] * per_gpu)
            alone |= prompt_leaves(most, attended, per_gpu)
        found[:, rows] = _count(_balanced(scenario, phase), mean, alone, shares, ffn)
    return Work(*found)


def _mean_rank(scenario: Scenario, runs: StepRuns) -> tuple[Floats, Floats]:
    """(decoding requests, prompt tokens) of the mean rank, whose tokens are ``even`` times those of the fullest; of a
    pipeline of the mean micro-batch, since a stage has a part of the layers and all micro-batches.
    """
    ranks = scenario.deployment.attention_dp
    per_decode = 1 + scenario.deployment.mtp.draft_tokens
    decodes = np.minimum(runs.requests, runs.held / ranks)
    tokens = runs.even * (runs.prompt + runs.requests * per_decode)
    prompt = np.clip(tokens - decodes * per_decode, runs.prompt / ranks, runs.prompt)
    stages = scenario.deployment.pp
    return (decodes, prompt) if stages == 1 else (decodes / stages, prompt / stages)


def _phases(runs: StepRuns) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """Rows of each kind of step, at most CHUNK at a time."""
    reads, decodes = runs.prompt > 0.0, runs.requests > 0.0
    for phase, chosen in (
        ("decode", ~reads & decodes),
        ("prefill", reads & ~decodes),
        ("mixed", reads & decodes),
    ):
        rows = np.flatnonzero(chosen)
        for first in range(0, len(rows), CHUNK):
            yield phase, rows[first : first + CHUNK]


def _balanced(scenario: Scenario, phase: str) -> Scenario:
    """Steps of one phase in which every rank's experts have the mean load."""
    deployment = scenario.deployment.model_copy(update={"phase": phase, "ranks": "representative"})
    routing = scenario.routing.model_copy(update={"rank_loads": (1.0,)})
    return scenario.model_copy(update={"deployment": deployment, "routing": routing})


def _count(
    scenario: Scenario,
    mean: Mapping[str, Floats],
    alone: Mapping[str, Floats],
    shares: Mapping[str, Floats],
    ffn: bool | None,
) -> Floats:
    """The columns of :class:`Work` (COLUMNS, rows) of steps whose leaves are arrays.

    ``mean`` describes the mean rank. Attention cores run only on the share of ranks that have a request of theirs, by
    the end of the kernel's name, and there as ``alone`` says: a hundredth of a prompt on every rank would take each of
    them as long as the smallest kernel does.
    """
    gpu_share = scenario.deployment.gpu_share
    side = scenario if ffn is not True else scenario.ffn_side
    gpu = side.cluster.gpu
    total = np.zeros((COLUMNS, len(next(iter(mean.values())))))
    steps = (step_segments(with_arrays(scenario, leaves)) for leaves in (mean, alone))
    for segment, other in zip(*steps, strict=True):
        pairs = zip(segment.tasks, segment.timings, other.tasks, other.timings, strict=True)
        for task, timing, task_alone, timing_alone in pairs:
            op = task.op
            if ffn is not None and on_ffns(op) != ffn:
                continue
            share = gpu_share(ffn=on_ffns(op)) if ffn is None else 1.0
            factor = np.asarray(segment.repeat * share)
            for end, part in shares.items():
                if op.kernel.endswith(end):
                    op, timing, factor = task_alone.op, timing_alone, factor * part
            parts = (
                peak_seconds(op, gpu),
                hbm_seconds(op, gpu),
                *_busy(op, timing),
                *_drawn(op, timing, gpu, side.power),
            )
            for column, each in zip(total, parts, strict=True):
                column += factor * each
    return total


def _busy(op: Op, timing: Timing) -> tuple[Num, Num]:
    """(compute, memory): seconds of a kernel beyond its latency, on the side of what bounds it."""
    if op.op_class == OpClass.HOST or op.is_communication:
        return 0.0, 0.0
    seconds = maximum(timing.compute_s, timing.memory_s)
    arithmetic = timing.compute_s > timing.memory_s
    return where(arithmetic, seconds, 0.0), where(arithmetic, 0.0, seconds)


def _drawn(op: Op, timing: Timing, gpu: Gpu, power: Power | None) -> tuple[Num, Num]:
    """(compute, memory): joules of a kernel above idle power, on the side of what bounds it, beyond its latency.

    Its watts follow from how much of the peaks it uses: over its time, FLOPs at the peak take ``peak_seconds``, so
    watts x seconds = floor x seconds + compute x peak_seconds + memory x hbm_seconds, at most the limit's. A class
    whose watts are not known draws the shares.
    """
    if power is None or not power.kernels or gpu.tdp_w is None or gpu.idle_w is None:
        return 0.0, 0.0
    compute_s, memory_s = _busy(op, timing)
    seconds = compute_s + memory_s
    own = kernel_power(op, power)
    if own is None:
        joules = gpu.tdp_w * (power.compute * compute_s + power.memory * memory_s)
    else:
        joules = (
            own.compute_w * peak_seconds(op, gpu)
            + own.memory_w * hbm_seconds(op, gpu)
            + own.floor_w * seconds
        )
    above = maximum(minimum(joules, gpu.tdp_w * seconds) - gpu.idle_w * seconds, 0.0)
    return where(compute_s > 0.0, above, 0.0), where(compute_s > 0.0, 0.0, above)

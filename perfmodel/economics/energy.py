"""Utilisation and energy of a serving run: a coarse model of what boards draw (docs/power.md). Pure functions.

A GPU always draws its idle power. While a step runs it draws more: one share of the board's limit in kernels bound by
their arithmetic, another in those bound by memory, a third in the rest of the step. Hosts, switches, fans and cooling
are not counted.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfmodel.economics.work import Work, work_of_runs
from perfmodel.serving.records import StepRuns
from perfmodel.spec.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of all GPUs over a run, parts that sum up to the whole."""

    idle: float
    """Idle power over the whole span, steps included."""
    compute: float
    """What kernels bound by their arithmetic draw above it."""
    memory: float
    """What kernels bound by device memory do."""
    communication: float
    """What the rest of the steps does: communication, waiting for other ranks and the host, launches."""

    @property
    def total(self) -> float:
        """All of it, J."""
        return self.idle + self.compute + self.memory + self.communication


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run made of its GPUs, idle time included."""

    mfu: float
    """FLOPs over the peak of each op's dtype, over time and GPUs."""
    mbu: float
    """HBM bytes over the peak bandwidth, over time and GPUs."""
    energy: Energy | None
    """None: :func:`unknown_power` says why."""


@dataclass(frozen=True, slots=True)
class WorkSums:
    """What all steps of some replicas ask of their mean GPU, see :class:`perfmodel.economics.work.Work`."""

    seconds: float = 0.0
    """Of the steps."""
    peak_s: float = 0.0
    hbm_s: float = 0.0
    compute_s: float = 0.0
    memory_s: float = 0.0
    compute_j: float = 0.0
    memory_j: float = 0.0
    ffns: "WorkSums | None" = None
    """Of the mean GPU of FFNs, where these are other GPUs than attention's: all else is of the latter then."""

    def __add__(self, other: "WorkSums") -> "WorkSums":
        """Of both."""
        own = {name: getattr(self, name) + getattr(other, name) for name in SUMS}
        both = [one for one in (self.ffns, other.ffns) if one is not None]
        return WorkSums(**own, ffns=sum(both, WorkSums()) if both else None)


SUMS = ("seconds", "peak_s", "hbm_s", "compute_s", "memory_s", "compute_j", "memory_j")
"""What of a :class:`WorkSums` is a number."""


def work_sums(scenario: Scenario, runs: StepRuns) -> WorkSums:
    """Of ``runs``, which are those of replicas of the scenario's deployment alone: with pools of other deployments, ask
    for each.

    Raises:
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    if scenario.ffns is None:
        return _sums(work_of_runs(scenario, runs), runs)
    attention, ffns = (_sums(work_of_runs(scenario, runs, ffn=ffn), runs) for ffn in (False, True))
    return replace(attention, ffns=ffns)


def _sums(work: Work, runs: StepRuns) -> WorkSums:
    each = runs.seconds / np.maximum(runs.steps, 1.0)
    # kernels of two streams that run together share the GPU: no more than the step has
    busy = work.compute_s + work.memory_s
    fits = np.minimum(1.0, np.divide(each, busy, out=np.ones_like(busy), where=busy > 0.0))
    share = runs.steps * fits
    return WorkSums(
        seconds=float(runs.seconds.sum()),
        peak_s=float((runs.steps * work.peak_s).sum()),
        hbm_s=float((runs.steps * work.hbm_s).sum()),
        compute_s=float((runs.steps * work.compute_s * fits).sum()),
        memory_s=float((runs.steps * work.memory_s * fits).sum()),
        compute_j=float((share * work.compute_j).sum()),
        memory_j=float((share * work.memory_j).sum()),
    )


def usage_of(scenario: Scenario, work: WorkSums, *, replicas: int, span_s: float) -> Usage:
    """Utilisation and energy of ``replicas`` copies of the scenario's deployment over ``span_s`` seconds."""
    deployment = scenario.deployment
    if scenario.ffns is None:
        return _usage(scenario, deployment.num_gpus, work, replicas * span_s)
    attention, ffns = deployment.attention_gpus, deployment.ffn_gpus
    return add_usages(
        _usage(scenario, attention, work, replicas * span_s),
        attention,
        _usage(scenario.ffn_side, ffns, work.ffns or WorkSums(), replicas * span_s),
        ffns,
    )


def _usage(scenario: Scenario, gpus: int, work: WorkSums, whole: float) -> Usage:
    """Of ``gpus`` of the scenario's kind in each replica, over ``whole`` seconds summed over replicas."""
    measured = None
    if scenario.power is not None and scenario.power.kernels:
        measured = (work.compute_j, work.memory_j)
    return Usage(
        mfu=work.peak_s / whole,
        mbu=work.hbm_s / whole,
        energy=_energy(scenario, gpus, whole, work.compute_s, work.memory_s, work.seconds, measured),
    )


def usage_of_runs(scenario: Scenario, runs: StepRuns, *, replicas: int, span_s: float) -> Usage:
    """:func:`usage_of` of steps that are there.

    Raises:
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    return usage_of(scenario, work_sums(scenario, runs), replicas=replicas, span_s=span_s)


def add_usages(one: Usage, gpus: int, other: Usage, other_gpus: int) -> Usage:
    """Of two pools of ``gpus`` and ``other_gpus`` over the same span."""
    whole = gpus + other_gpus
    energy = None
    if one.energy is not None and other.energy is not None:
        a, b = one.energy, other.energy
        energy = Energy(
            a.idle + b.idle, a.compute + b.compute, a.memory + b.memory, a.communication + b.communication
        )
    return Usage(
        mfu=(one.mfu * gpus + other.mfu * other_gpus) / whole,
        mbu=(one.mbu * gpus + other.mbu * other_gpus) / whole,
        energy=energy,
    )


def _energy(
    scenario: Scenario,
    gpus: int,
    whole_s: float,
    compute_s: float,
    memory_s: float,
    steps_s: float,
    measured: tuple[float, float] | None,
) -> Energy | None:
    """Energy of replicas whose seconds, summed over replicas, are given: the whole span, kernels, steps.

    ``measured``, where watts of kernels are known: joules of one GPU above idle power in kernels bound by arithmetic
    and by memory.
    """
    gpu, power = scenario.cluster.gpu, scenario.power
    if gpu.tdp_w is None or gpu.idle_w is None or power is None:
        return None
    idle_w, limit_w = gpu.idle_w, gpu.tdp_w

    def above(share: float, seconds: float) -> float:
        return gpus * seconds * max(share * limit_w - idle_w, 0.0)

    return Energy(
        idle=gpus * whole_s * idle_w,
        compute=gpus * measured[0] if measured else above(power.compute, compute_s),
        memory=gpus * measured[1] if measured else above(power.memory, memory_s),
        communication=above(power.communication, max(steps_s - compute_s - memory_s, 0.0)),
    )


def unknown_power(scenario: Scenario, *, section: str = "") -> str | None:
    """Why energy can't be answered, in words; None: it can. ``section``: ``ffns.`` or ``prefill.``, where what the
    scenario has as its own is stated there.
    """
    gpu = scenario.cluster.gpu
    missing = [
        name
        for name, value in (
            ("cluster.gpu.tdp_w", gpu.tdp_w),
            ("cluster.gpu.idle_w", gpu.idle_w),
            ("power", scenario.power),
        )
        if value is None
    ]
    if not missing:
        return None
    keys = ", ".join(f"{section}{key}" for key in missing)
    return f"energy is not answered: {keys} not stated for {gpu.name} ({gpu.architecture})"


def usage_values(usage: Usage, *, gpus: int, span_s: float, output_tokens: int) -> dict[str, Any]:
    """The keys of ``perfmodel serve --json`` about utilisation and energy; None where power is unknown."""
    energy = usage.energy
    parts = ("idle", "compute", "memory", "communication")
    return {
        "mfu": usage.mfu,
        "mbu": usage.mbu,
        "energy_j": energy.total if energy else None,
        "energy_parts_j": {part: getattr(energy, part) for part in parts} if energy else None,
        "power_w_per_gpu": energy.total / (gpus * span_s) if energy else None,
        "energy_j_per_output_token": energy.total / output_tokens if energy else None,
    }

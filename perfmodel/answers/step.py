"""Answers: what was simulated, with money, memory, warnings and provenance. The CLI and reports call only this."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

import perfmodel
from perfmodel.answers.basis import Rest, basis, rest_of
from perfmodel.answers.caveats import caveat_values, step_caveats
from perfmodel.answers.tails import step_tails
from perfmodel.economics.peaks import gpus_of_ops, hbm_seconds, peak_seconds
from perfmodel.economics.rates import rate_range, step_rates
from perfmodel.errors import SpecError
from perfmodel.kernels.calibration import INSIDE, Calibration
from perfmodel.kernels.timing import Timing
from perfmodel.ops.apart import on_ffns
from perfmodel.ops.limits import check_runs, limits
from perfmodel.ops.memory import ffn_side_bytes, step_memory
from perfmodel.ops.parameters import active_parameters
from perfmodel.overlap.analysis import (
    breakdown_s,
    exposed_communication_s,
    in_situ_s,
    overlap_pct,
    slowest_rank,
    stage_seconds,
)
from perfmodel.overlap.launch import launches_of, merged_launches
from perfmodel.routing.activation import activation, layer_activations, moments
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.scenario import Scenario
from perfmodel.step import Step, common_log_std, drawable, has_contention, simulate_step
from perfmodel.uncertainty import step_interval


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """One step's answer: the simulated step and what it means."""

    step: Step
    values: dict[str, Any]
    """The keys of ``perfmodel step --json``, SI units; unknown is None."""
    rest: Rest
    """What the step's time rests on."""

    @property
    def scenario(self) -> Scenario:
        """What was asked."""
        return self.step.scenario


def answer_step(scenario: Scenario, *, over_steps: bool = True, ops: bool = True) -> StepAnswer:
    """Simulate one step and say what it means.

    Without ``over_steps`` many steps are not drawn for how much their times vary, which takes as long as all the rest;
    without ``ops`` there are no rows of ops.

    Raises:
        InfeasibleError: the engine would not load this layout, or the batch exceeds what fits.
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    check_runs(scenario)
    step = simulate_step(scenario)
    timeline, deployment = step.timeline, scenario.deployment
    rank = slowest_rank(timeline)
    memory, most = step_memory(scenario), limits(scenario)
    rest = rest_of([(step, 1.0)])
    values: dict[str, Any] = {
        "scenario": scenario.name,
        "model": scenario.model.name,
        "cluster": scenario.cluster.name,
        "gpu": scenario.cluster.gpu.name,
        **ffns_of(scenario),
        "phase": deployment.phase,
        "overlap": deployment.overlap,
        "num_gpus": deployment.num_gpus,
        "batch_per_gpu": deployment.batch_per_gpu,
        "context_tokens": deployment.context_tokens,
        "step_time_s": step.step_time_s,
        **asdict(step_rates(scenario, step.step_time_s)),
        "memory_bytes": {name: int(value) for name, value in memory.as_dict().items()},
        **_ffn_memory(scenario),
        "max_batch_per_gpu": most.fits,
        "max_batch_bound_by": most.bound_by,
        "mfu": utilisation(step, peak_seconds),
        "mbu": utilisation(step, hbm_seconds),
        "breakdown_s": breakdown_s(timeline, rank),
        "stages_s": _stages(step, rank),
        **_real_experts(scenario),
        "over_steps": step_tails(scenario) if over_steps else None,
        "exposed_communication_s": exposed_communication_s(timeline, rank),
        "overlap_pct": overlap_pct(timeline, rank),
        "in_situ_s": in_situ_s(timeline),
        **_intervals(step),
        **({"ops": op_rows(step)} if ops else {}),
        "basis": basis(rest),
        **caveat_values(step_caveats(rest)),
        "provenance": provenance(step),
    }
    refuse_beyond_peak(step, values["mfu"])
    return StepAnswer(step, {key: plain(value) for key, value in values.items()}, rest)


def at_price(values: Mapping[str, Any], scenario: Scenario) -> dict[str, Any]:
    """What :func:`answer_step` says of ``scenario``, from the values of one that differs in its prices alone, or in a
    seed from which its routing draws nothing: a step's time depends on neither.
    """
    rates = asdict(step_rates(scenario, values["step_time_s"]))
    found = {**values, **{key: plain(value) for key, value in rates.items()}}
    if "intervals" in values:
        low, high = values["intervals"]["step_time_s"]
        found["intervals"] = plain(_rate_intervals(scenario, low, high))
    found["provenance"] = {**values["provenance"], **_asked(scenario)}
    if scenario.ffns is not None:
        found["ffns"] = plain({**values["ffns"], **ffns_of(scenario)["ffns"]})
        found["provenance"]["ffns"] = {**values["provenance"]["ffns"], **_price(scenario.ffn_side)}
    return found


def ffns_of(scenario: Scenario) -> dict[str, Any]:
    """``ffns``: what computes FFNs, at which price, where those are other GPUs than attention's."""
    if scenario.ffns is None:
        return {}
    side = scenario.ffn_side
    place = {"cluster": side.cluster.name, "gpu": side.cluster.gpu.name}
    price = side.prices.usd_per_gpu_hour
    return {"ffns": {**place, "num_gpus": scenario.deployment.ffn_gpus, "usd_per_gpu_hour": price}}


def _ffn_memory(scenario: Scenario) -> dict[str, Any]:
    """``ffn_memory_bytes``: on one of the GPUs that compute FFNs alone, where there are such."""
    if not scenario.deployment.ffn_gpus:
        return {}
    kept, step = (int(part) for part in ffn_side_bytes(scenario))
    return {"ffn_memory_bytes": {"weights_and_runtime": kept, "activations": step}}


def refuse_beyond_peak(step: Step, mfu: float) -> None:
    """Refuse times that no GPU of the stated peaks can reach; what a report counts is not asked to.

    Measured modules of attention hold projections whose part in their time is not known: with a peak far below the
    device's that was timed, that part is not scaled with it.

    Raises:
        SpecError: as said.
    """
    if mfu > 1.0 + 1e-9 and step.scenario.costs != "report":
        gpu = step.scenario.cluster.gpu
        used = f"calibration {step.calibration.name}" if step.calibration else "what is given"
        raise SpecError(
            f"cluster.gpu: {used} makes a step {mfu:.2f} times as fast as the peaks of {gpu.name} allow (bf16_tflops = "
            f"{gpu.bf16_tflops}, fp8_tflops = {gpu.fp8_tflops}): state the device's own peaks, or --set calibration='' "
            "to count without it"
        )


def _real_experts(scenario: Scenario) -> dict[str, Any]:
    """How many experts compute for a token, and what it uses of the model; null for a model without experts."""
    moe, routing = scenario.model.moe, scenario.routing
    if moe is None:
        return {"real_experts": None, "active_parameters": None}
    pmf = activation(moe, routing, scenario.mean_real_experts)
    by_layer = layer_activations(moe, routing, scenario.mean_real_experts)
    mean, std = moments(pmf)
    return {
        "real_experts": {"mean": mean, "std": std, "probabilities": list(pmf)},
        "active_parameters": asdict(active_parameters(scenario.model, by_layer, routing.layer_correlation)),
    }


def op_rows(step: Step) -> list[dict[str, Any]]:
    """One row per op of a layer (or of what surrounds the layers): counts, time alone, what bounds it, source.

    ``count`` is how often the op runs in a step, ``launches`` how many kernels an engine launches for it. The host's
    launches of a segment are one row.
    """
    rows, gpu_of = [], gpus_of_ops(step.scenario)
    for segment in (merged_launches(one) for one in step.segments):
        counts = launches_of(segment, step.scenario.deployment.engine)
        for task, timing, launches in zip(segment.tasks, segment.timings, counts, strict=True):
            op = task.op
            rows.append(
                {
                    "name": op.name,
                    "op_class": str(op.op_class),
                    "stream": str(op.stream),
                    "segment": segment.name,
                    "stage": task.stage,
                    "micro_batch": task.micro_batch,
                    "count": segment.repeat,
                    "launches": launches,
                    "flops": _mean(op.flops),
                    "bytes": _mean(op.hbm_bytes),
                    "link_bytes": _mean(op.link_bytes),
                    "network_bytes": _mean(op.network_bytes),
                    "dtype": op.dtype,
                    "time_s": _mean(timing.seconds),
                    "bound": timing.bound,
                    "mfu": _share(peak_seconds(op, gpu_of(op)), timing),
                    "mbu": _share(hbm_seconds(op, gpu_of(op)), timing),
                    "log_std": timing.log_std,
                    "source": timing.source,
                    "flag": timing.flag,
                }
            )
    return [{key: plain(value) for key, value in row.items()} for row in rows]


def utilisation(step: Step, ideal: Any) -> float:
    """Ideal seconds of all ops (``ideal`` gives one op's) over the step time, averaged over ranks; where FFNs have GPUs
    of their own, over both kinds.
    """
    share, gpu_of = step.scenario.deployment.gpu_share, gpus_of_ops(step.scenario)
    total = sum(
        segment.repeat * share(ffn=on_ffns(task.op)) * _mean(ideal(task.op, gpu_of(task.op)))
        for segment in step.segments
        for task in segment.tasks
    )
    return total / step.step_time_s


def provenance(step: Step) -> dict[str, Any]:
    """What reproduces an answer: version, scenario hash, calibration, seed.

    ``calibration`` is NAME-ID of a calibration file with ``calibrated_ops`` of ``ops`` costed by it, or the shipped
    tables' hash; ``ffns`` has that of FFNs on other GPUs, whose ops are among those.
    """
    scenario, used = step.scenario, step.calibration
    covered, total = _coverage(step)
    asked = _asked(scenario)
    ffns = {}
    if scenario.ffns is not None:
        own = {"calibration": _calibration_name(scenario, step.ffn_calibration)}
        ffns = {"ffns": own | _price(scenario.ffn_side)}
    return {
        "perfmodel": perfmodel.__version__,
        "scenario_hash": asked["scenario_hash"],
        "calibration": _calibration_name(scenario, used),
        "calibrated_ops": covered,
        "ops": total,
        **asked,
        **ffns,
    }


def _calibration_name(scenario: Scenario, used: Calibration | None) -> str:
    if used is not None:
        return f"{used.name}-{used.id}"
    return f"roofline-{calibration_id()}" if scenario.costs == "roofline" else "report"


def _asked(scenario: Scenario) -> dict[str, Any]:
    """What of an answer's provenance is the scenario's own."""
    return {
        "scenario_hash": scenario.hash,
        "seed": scenario.seed,
        **_price(scenario),
    }


def _price(scenario: Scenario) -> dict[str, Any]:
    return {"price": scenario.prices.name or None, "price_source": scenario.prices.source or None}


def _coverage(step: Step) -> tuple[int, int]:
    """Ops that a calibration file costed, and all that a device runs, each counted once per segment."""
    timings = [t for segment in step.segments for t in segment.timings if t.source != "given"]
    return sum(timing.calibrated for timing in timings), len(timings)


def _intervals(step: Step) -> dict[str, Any]:
    """80 % intervals of the step time and of what follows from it, where every op's spread is known."""
    if step.scenario.costs == "report":
        return {}  # a published way of counting has no spread
    found = step_interval(
        drawable(step.scenario, step.segments),
        common_log_std=common_log_std(step.scenario),
        contention=has_contention(step.scenario),
    )
    if found is None:
        return {}
    return {"intervals": _rate_intervals(step.scenario, *found)}


def _rate_intervals(scenario: Scenario, low_s: float, high_s: float) -> dict[str, list[float]]:
    """A step time's interval, and those of what follows from it."""
    fast, slow = map(asdict, rate_range(scenario, low_s, high_s))
    intervals = {"step_time_s": [low_s, high_s]}
    for name, value in fast.items():
        if value is not None and value != slow[name]:
            intervals[name] = sorted((float(value), float(slow[name])))
    return intervals


@cache
def calibration_id() -> str:
    """Identifies the shipped tables of achievable fractions and communication."""
    digest = hashlib.sha256()
    for name in ("achievable.csv", "communication.csv"):
        digest.update((DATA / "kernels" / name).read_bytes())
    return digest.hexdigest()[:12]


def _stages(step: Step, rank: int) -> list[dict[str, Any]]:
    """Critical-path seconds by part of the schedule."""
    return [
        {"segment": step.segments[number].name, "stage": stage, "seconds": seconds}
        for (number, stage), seconds in stage_seconds(step.timeline, rank).items()
    ]


def _share(ideal_s: Any, timing: Timing) -> float | None:
    """Of a peak, while an op runs; None of one whose work is in the time of a measured module around it."""
    seconds = _mean(timing.seconds)
    inside = timing.source.startswith(INSIDE)
    return _mean(ideal_s) / seconds if seconds > 0 and not inside else None


def _mean(value: Any) -> float:
    if isinstance(value, (float, int)):
        return float(value)
    return float(np.mean(value))


def plain(value: Any) -> Any:
    """A value that JSON can hold: numpy scalars become Python's, an infinite or undefined number None."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (np.floating, float)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value

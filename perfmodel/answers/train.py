"""A training run's answer: the step, its memory, the run's days and dollars, with what makes it less certain."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import perfmodel
from perfmodel.answers.caveats import Caveat, caveat_values, danger, note, standing
from perfmodel.answers.flags import beyond_of, other_texts, words_of
from perfmodel.economics.energy import unknown_power
from perfmodel.economics.training_energy import run_energy_j, step_power
from perfmodel.errors import InfeasibleError
from perfmodel.kernels.calibration import Calibration
from perfmodel.kernels.power import clock_under
from perfmodel.ops.op import Op
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Checkpoints
from perfmodel.training.capacity import kept_of, rows_per_token
from perfmodel.training.layout import inner
from perfmodel.training.memory import RankMemory, training_memory
from perfmodel.training.pipeline.closed_forms import bubble
from perfmodel.training.ramp import RampLevel, ramp_levels
from perfmodel.training.run import DAY, Storage, TrainingRun, simulate_run
from perfmodel.training.step import TrainingStep, simulate_training
from perfmodel.training.summary import breakdown_s, exposed_s, model_flops_per_s_per_gpu, step_interval_s
from perfmodel.units import GB, HOUR, MS, TERA

SPARES = (0, 1, 2, 4, 8)
"""Numbers of spare nodes that are compared where a run states some."""
SPARE_REPEATS = 200
CLOCKS = "GPU clocks are those of the timed kernels: power limits in a long run are not modelled"
CAPPED = (
    "training.power_cap_w: each kernel's clock falls until its own draw fits, by the cube; a controller averages over "
    "milliseconds, and was not measured"
)
LEAST_NAMED = 0.02
"""Share of the kernels' time from which a flag is worth a note."""
MOST_NOTES = 6


@dataclass(frozen=True, slots=True)
class TrainAnswer:
    """One training run's answer."""

    step: TrainingStep
    run: TrainingRun | None
    """None where the scenario states no tokens."""
    values: dict[str, Any]
    """The keys of ``perfmodel train --json``, SI units; unknown is None."""


def answer_train(scenario: Scenario) -> TrainAnswer:
    """Simulate one training step and the run it is part of, and say what they mean.

    Raises:
        SpecError: no training section, or a layout that does not fit.
        InfeasibleError: it does not fit in memory, or failures leave no time to train.
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    step = simulate_training(scenario)
    check_fits(step)
    training = step.training
    ramp = _ramp(step)
    run = _run(step, ramp)
    parts = breakdown_s(step)
    exposed = exposed_s(parts)
    memory = step.memory
    fullest = memory.ranks[memory.fullest]
    tokens_per_s = training.step_tokens / step.step_time_s
    peak = scenario.cluster.gpu.peak_flops("bf16")
    causal = model_flops_per_s_per_gpu(step)
    low, high = step_interval_s(step, parts)
    values: dict[str, Any] = {
        "scenario": scenario.name,
        "model": scenario.model.name,
        "cluster": scenario.cluster.name,
        "gpu": scenario.cluster.gpu.name,
        "num_gpus": training.num_gpus,
        "schedule": training.schedule,
        "micro_batches": training.micro_batches,
        "step_time_s": step.step_time_s,
        "tokens_per_step": training.step_tokens,
        "tokens_per_s": tokens_per_s,
        "tokens_per_s_per_gpu": tokens_per_s / training.num_gpus,
        "model_flops_per_s_per_gpu": causal,
        "mfu": causal / peak,
        "mfu_full_mask": model_flops_per_s_per_gpu(step, causal=False) / peak,
        "mfu_convention": "causal mask, against the BF16 peak; mfu_full_mask counts every query-key pair",
        "bubble_fraction": parts["bubble"] / step.step_time_s,
        "bubble_s": _bubbles(step),
        "exposed_communication_fraction": sum(exposed.values()) / step.step_time_s,
        "exposed_s": exposed,
        "breakdown_s": parts,
        "memory_bytes": _classes(fullest),
        "memory_by_stage": [
            {
                "rank": rank,
                "stages": list(step.run.schedule.stages_of(rank)),
                "layers": [len(step.stages[stage]) for stage in step.run.schedule.stages_of(rank)],
                **_classes(own),
                "total": int(own.total),
                "peak_at_s": memory.held[rank].peak_at_s,
            }
            for rank, own in enumerate(memory.ranks)
        ],
        "stage_times_s": [
            {
                "stage": stage,
                "layers": len(step.stages[stage]),
                "forward": own.forward.seconds,
                "input_gradient": own.input.seconds,
                "weight_gradient": own.weight.seconds,
            }
            for stage, own in enumerate(step.phases)
        ],
        **_run_values(step, run, (low, high)),
        **_energy_values(step, run, parts),
        **_ramp_values(step, ramp),
        **_offload_values(step),
        **_capacity_values(step),
        **_power_values(step),
        **caveat_values(_caveats(step, run)),
        "provenance": _provenance(step),
    }
    return TrainAnswer(step, run, values)


def check_fits(step: TrainingStep) -> None:
    """Refuse a layout that does not fit, and say what would.

    Raises:
        InfeasibleError: as said, with the pipeline rank and what is missing.
    """
    memory, device = step.memory, float(step.scenario.cluster.gpu.memory_bytes)
    worst = memory.ranks[memory.fullest]
    if worst.total <= device:
        return
    need, missing = worst.total / GB, (worst.total - device) / GB
    raise InfeasibleError(
        f"training: pipeline rank {memory.fullest} needs {need:.1f} GB ({worst.activations / GB:.1f} activations), "
        f"{step.scenario.cluster.gpu.name} has {device / GB:.1f}: {missing:.1f} GB missing; {_remedy(step, device)}"
    )


def _remedy(step: TrainingStep, device: float) -> str:
    """What would make it fit: the first that does of some usual changes."""
    training = step.training
    changes: list[tuple[str, dict[str, Any]]] = []
    if training.recompute != "full":
        changes.append(("training.recompute=full", {"recompute": "full"}))
    if training.zero < 2:
        changes.append(("training.zero=2", {"zero": 2}))
    if training.zero < 3:
        changes.append(("training.zero=3", {"zero": 3}))
        changes.append(("training.zero=3 and training.recompute=full", {"zero": 3, "recompute": "full"}))
    for words, update in changes:
        other = training.model_copy(update=update)
        found = training_memory(step.inner, other, step.run, step.stages, step.parameters)
        most = max(own.total for own in found.ranks)
        if most <= device:
            return f"with {words} it would need {most / GB:.1f}"
    return "more pp, tp, ep or cp would divide it further"


def _classes(memory: RankMemory) -> dict[str, int]:
    return {name: int(value) for name, value in asdict(memory).items()}


def _bubbles(step: TrainingStep) -> dict[str, float | None]:
    """The two bubbles, simulated, and what the closed form says for even stages of the mean's times and free
    transfers.
    """
    run, training = step.run, step.training
    stages = len(step.phases)
    forward, input_, weight = (
        sum(getattr(own, name).seconds for own in step.phases) / stages
        for name in ("forward", "input", "weight")
    )
    chunks = training.virtual_stages
    formula = bubble(training.schedule, training.pp, training.micro_batches, chunks, forward, input_, weight)
    return {
        "makespan": sum(run.idle_s(rank) for rank in range(training.pp)) / training.pp,
        "own_span": max(run.own_idle_s(rank) for rank in range(training.pp)),
        "closed_form_makespan": formula.makespan_s,
        "closed_form_own_span": formula.own_span_s,
    }


def _ramp(step: TrainingStep) -> tuple[RampLevel, ...]:
    """The batches of a run's ramp; none where there is no run or no ramp."""
    training = step.training
    if training.tokens is None or training.batch_ramp is None:
        return ()
    return ramp_levels(step, training.tokens / training.sequence_tokens)


def _productive_s(step: TrainingStep, ramp: Sequence[RampLevel]) -> float:
    """What all steps of a run take: those of the ramp, then full ones."""
    training = step.training
    assert training.tokens is not None, "asked of runs"
    full = training.tokens / training.step_tokens
    trained = sum(level.steps * level.global_batch_sequences for level in ramp)
    below = sum(level.steps * level.step_time_s for level in ramp)
    return max(0.0, full - trained / training.global_batch_sequences) * step.step_time_s + below


def _energy_values(step: TrainingStep, run: TrainingRun | None, parts: dict[str, float]) -> dict[str, Any]:
    """Power of the mean GPU and energy; unknown is None."""
    power = step_power(step, parts)
    if power is None:
        return {"power_w_per_gpu": None, "energy_j_per_token": None, "energy_j": None}
    training = step.training
    rate = training.step_tokens / step.step_time_s / training.num_gpus
    spares = (training.failures.spare_nodes or 0) * step.scenario.cluster.node.num_gpus
    energy = None if run is None else run_energy_j(power, run, gpus=training.num_gpus, spares=spares)
    return {
        "power_w_per_gpu": power.step_w,
        "energy_j_per_token": power.step_w / rate,
        "energy_j": energy,
    }


def _ramp_values(step: TrainingStep, ramp: Sequence[RampLevel]) -> dict[str, Any]:
    """The ramp's batches and what it adds to the steps' time; nothing without one."""
    if not ramp:
        return {}
    return {
        "batch_ramp": {
            "levels": [asdict(level) for level in ramp],
            "more_s": _productive_s(step, ramp) - _productive_s(step, ()),
        }
    }


def _offload_values(step: TrainingStep) -> dict[str, Any]:
    """What the host holds and moves for its GPUs; nothing where nothing is offloaded."""
    offload = step.training.offload
    if not (offload.optimizer_fraction or offload.activations_fraction):
        return {}
    fullest = max(step.host_memory, key=lambda one: one.optimizer + one.activations)
    return {
        "offload": {
            "host_bytes_per_gpu": {name: int(value) for name, value in asdict(fullest).items()},
            "host_update_s": max(tail.host_s for tail in step.tails),
        }
    }


def _capacity_values(step: TrainingStep) -> dict[str, Any]:
    """What the experts' capacity leaves; nothing without one."""
    training, moe = step.training, step.scenario.model.moe
    if training.capacity is None or moe is None:
        return {}
    without = inner(step.scenario, training.model_copy(update={"capacity": None}))
    kept = kept_of(moe, without, training)
    rows = rows_per_token(moe, kept, without, training)
    return {
        "capacity": {
            "room_tokens": kept.room,
            "dropped_fraction": kept.dropped,
            "rows_over_pairs": rows / step.scenario.mean_real_experts,
        }
    }


def _power_values(step: TrainingStep) -> dict[str, Any]:
    """What a power cap costs; nothing without one."""
    training, gpu, power = step.training, step.scenario.cluster.gpu, step.scenario.power
    if training.power_cap_w is None or power is None or gpu.tdp_w is None or gpu.idle_w is None:
        return {}
    free = training.model_copy(update={"power_cap_w": None})
    uncapped = simulate_training(step.scenario.model_copy(update={"training": free}))
    return {
        "power_cap": {
            "clock_fraction": clock_under(training.power_cap_w, power.compute * gpu.tdp_w, gpu.idle_w),
            "step_time_over_uncapped": step.step_time_s / uncapped.step_time_s,
        }
    }


def _run(step: TrainingStep, ramp: Sequence[RampLevel]) -> TrainingRun | None:
    training = step.training
    if training.tokens is None:
        return None
    return simulate_run(
        _productive_s(step, ramp),
        num_gpus=training.num_gpus,
        step_time_s=step.step_time_s,
        checkpoints=_checkpoints(step),
        failures=training.failures,
        seed=step.scenario.seed,
        storage=_storage(step),
    )


def _checkpoints(step: TrainingStep) -> Checkpoints:
    """The run's, with the stall that follows from what a GPU holds where that is asked for."""
    own = step.training.checkpoints
    if own.memory_gb_per_s is None or own.stall_s:
        return own
    return own.model_copy(update={"stall_s": step.checkpoint_bytes / (own.memory_gb_per_s * GB)})


def _storage(step: TrainingStep) -> Storage | None:
    own = step.training.checkpoints
    if own.storage_gb_per_s is None or own.storage_interval_s is None:
        return None
    write_s = step.checkpoint_bytes / (own.storage_gb_per_s * GB)
    interval_s = max(own.storage_interval_s, step.step_time_s, write_s)  # one after the other
    return Storage(interval_s, write_s, step.training.failures.node_lost)


def _storage_late(step: TrainingStep) -> bool:
    """Whether checkpoints would go to storage faster than they get there."""
    storage, asked = _storage(step), step.training.checkpoints.storage_interval_s
    return storage is not None and asked is not None and storage.write_s > asked


def _run_values(step: TrainingStep, run: TrainingRun | None, interval: tuple[float, float]) -> dict[str, Any]:
    """Days, GPU hours and dollars: with spares paid for, too."""
    training, price = step.training, step.scenario.prices.usd_per_gpu_hour
    low, high = interval
    rate = training.step_tokens / training.num_gpus
    intervals: dict[str, list[float]] = {
        "step_time_s": [low, high],
        "tokens_per_s_per_gpu": [rate / high, rate / low],
    }
    if run is None:
        empty = dict.fromkeys(("days", "gpu_hours", "usd", "availability", "failures", "checkpoints"))
        return {**empty, "intervals": intervals}
    days = run.elapsed_s / DAY
    mean = float(np.mean(days))
    spares = (training.failures.spare_nodes or 0) * step.scenario.cluster.node.num_gpus
    hours = mean * DAY / HOUR * (training.num_gpus + spares)
    early, late = (float(value) for value in np.quantile(days, (0.1, 0.9)))
    spread = [early / mean * low / step.step_time_s, late / mean * high / step.step_time_s]
    for name, value in (("days", mean), ("gpu_hours", hours), ("usd", hours * price)):
        intervals[name] = [value * factor for factor in spread]
    return {
        "days": mean,
        "gpu_hours": hours,
        "usd": hours * price,
        "availability": run.availability,
        "failures": {
            "mean": float(np.mean(run.failures)),
            "days_p10": early,
            "days_p50": float(np.median(days)),
            "days_p90": late,
            "lost_s": float(np.mean(run.lost_s)),
            "down_s": float(np.mean(run.down_s)),
            "waiting_s": float(np.mean(run.waiting_s)),
            "over_spares": _over_spares(step, run),
        },
        "checkpoints": {
            "interval_s": run.interval_s,
            "stalled_s": float(np.mean(run.stalled_s)),
            **_tier_values(step),
        },
        "intervals": intervals,
    }


def _tier_values(step: TrainingStep) -> dict[str, float]:
    """Size and times of checkpoints by tier, where tiers are stated."""
    own, storage = step.training.checkpoints, _storage(step)
    if own.memory_gb_per_s is None and storage is None:
        return {}
    found = {"bytes_per_gpu": step.checkpoint_bytes, "stall_s": _checkpoints(step).stall_s}
    if storage is not None:
        found |= {"storage_interval_s": storage.interval_s, "storage_write_s": storage.write_s}
    return found


def _over_spares(step: TrainingStep, run: TrainingRun) -> list[dict[str, float]] | None:
    """What spare nodes buy, where the scenario counts them."""
    training = step.training
    if training.failures.spare_nodes is None or not training.failures.per_gpu_day:
        return None
    found = []
    for spares in sorted({*SPARES, training.failures.spare_nodes}):
        one = simulate_run(
            run.productive_s,
            num_gpus=training.num_gpus,
            step_time_s=step.step_time_s,
            checkpoints=_checkpoints(step),
            storage=_storage(step),
            failures=training.failures.model_copy(update={"spare_nodes": spares}),
            seed=step.scenario.seed,
            repeats=SPARE_REPEATS,
        )
        found.append(
            {
                "spare_nodes": spares,
                "days": float(np.mean(one.elapsed_s)) / DAY,
                "availability": one.availability,
            }
        )
    return found


def _caveats(step: TrainingStep, run: TrainingRun | None) -> list[Caveat]:
    """What makes the answer less certain."""
    training = step.training
    found = [
        standing("kernels that are not counted (casts, copies, gradient accumulation of norms) take no time"),
        standing(CLOCKS if training.power_cap_w is None else CAPPED),
        standing("activations are those of fused kernels; the allocator's fragmentation is not counted"),
        standing(
            "80 % intervals hold the kernels' spread and that between frameworks' releases; errors: perfmodel "
            "validate --suite training"
        ),
    ]
    unknown = unknown_power(step.scenario)
    found.append(
        standing(
            unknown or "energy is the boards' by a coarse model, 2 to 31 % low in serving (docs/power.md)"
        )
    )
    if step.calibration is None:
        found.append(note(f"no calibration for {step.scenario.cluster.gpu.name}: kernels by roofline"))
    total = sum(float(timing.seconds) for kernel, timing in step.timings if not kernel.op.is_communication)
    shares: dict[str, float] = {}
    for kernel, timing in step.timings:
        if timing.flag and not kernel.op.is_communication:
            for text in _flag_texts(timing.flag, kernel.op, step.calibration):
                shares[text] = shares.get(text, 0.0) + float(timing.seconds) / total
    worst = sorted((share, text) for text, share in shares.items() if share > LEAST_NAMED)[::-1]
    found += [note(f"{text} ({share:.0%} of the kernels' time)") for share, text in worst[:MOST_NOTES]]
    if training.balanced and step.scenario.model.moe:
        found.append(
            standing("experts are taken as balanced: every rank gets the mean load (training.balanced)")
        )
    if training.offload.optimizer_fraction:
        found.append(
            note(
                "offload: the host's update is its bytes over 0.46 of its memory's peak bandwidth, as DeepSpeed's "
                "CPU-Adam reached; PyTorch's own takes several times as long"
            )
        )
    if _storage_late(step):
        found.append(
            note(
                "checkpoints.storage_interval_s is shorter than one takes there: one goes as the other is there"
            )
        )
    if step.scenario.training and step.scenario.training.fp8_kernels != training.fp8_kernels:
        found.append(
            note(
                f"fp8_kernels: DeepSeek-V3's run on Hopper; on {step.scenario.cluster.gpu.name} calibrated ones do"
            )
        )
    if step.scenario.training and step.scenario.training.attention_kernels != training.attention_kernels:
        found.append(
            note(
                f"attention_kernels: known on Hopper alone; on {step.scenario.cluster.gpu.name} calibrated ones do"
            )
        )
    if training.capacity is not None:
        found.append(note("capacity: MFU counts dropped pairs as computed, as Megatron-Core's FLOPs do"))
    if training.etp > 1:
        found.append(note("expert tensor parallelism is costed as an all-gather of all tokens"))
    found += _host_notes(step)
    if run is not None and run.availability < 0.9:
        found.append(danger(f"failures leave {run.availability:.0%} of the time to training"))
    if run is not None and not training.failures.per_gpu_day:
        found.append(note("training.failures.per_gpu_day = 0: nothing goes wrong in this run"))
    return found


EAGER_LAYER_S = 9e-3
"""What a host needed to launch a layer of experts forwards and backwards without CUDA graphs (docs/train.md, the host:
9.1 ms of Qwen3-235B's on 256 H100; others lie between 7 and 13)."""


def _host_notes(step: TrainingStep) -> list[Caveat]:
    """Where a layer of experts takes less than its launches may."""
    if step.scenario.model.moe is None:
        return []
    stage = max(range(len(step.stages)), key=lambda number: len(step.stages[number]))
    own = step.phases[stage]
    pairs = [pair.seconds for (forward, _), pair in step.pairs.items() if forward == stage]
    layer_s = min(own.forward.seconds + own.backward.seconds, *pairs, math.inf) / len(step.stages[stage])
    if layer_s >= EAGER_LAYER_S:
        return []
    return [
        note(
            f"a layer takes {layer_s / MS:.1f} ms forwards and backwards: without CUDA graphs Megatron-Core's hosts "
            f"needed some {EAGER_LAYER_S / MS:.0f} ms to launch one, which would set the pace (docs/train.md)"
        )
    ]


def _flag_texts(flag: str, op: Op, calibration: Calibration | None) -> Iterator[str]:
    """What a flag says, in words, part by part."""
    for beyond in beyond_of(flag, op):
        yield f"{words_of(op)} outside what was timed: {beyond.words}"
    for text in other_texts(flag, calibration.name if calibration else ""):
        yield from text.split("; ")


def _provenance(step: TrainingStep) -> dict[str, Any]:
    scenario, used = step.scenario, step.calibration
    return {
        "perfmodel": perfmodel.__version__,
        "scenario_hash": scenario.hash,
        "calibration": f"{used.name}-{used.id}" if used else "roofline",
        "seed": scenario.seed,
        "price": scenario.prices.name or None,
        "price_source": scenario.prices.source or None,
        "bf16_peak_tflops": scenario.cluster.gpu.peak_flops("bf16") / TERA,
    }

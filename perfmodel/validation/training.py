"""Suite ``training``: published training runs against predictions.

DeepSeek-V3's own run (step, GPU hours, the pair of its trace), Megatron-Bridge's benchmarks without and with one
constant per release and system (set by ``fit`` rows alone), Megatron-Core's own tables of its model zoo, Megatron-LM's
tables of A100, SimuMax's measured rows of B200 with their peak memory and the peer's own predictions, two A/Bs of
overlapped exchanges, and what LongCat-Flash's report says of its run.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from perfmodel.errors import PerfModelError
from perfmodel.load import build_scenario, load_scenario
from perfmodel.training.pipeline.actions import Kind
from perfmodel.training.run import simulate_run
from perfmodel.training.step import StepBuilder, TrainingStep, simulate_training
from perfmodel.training.summary import breakdown_s, exposed_s, model_flops_per_s_per_gpu, step_interval_s
from perfmodel.units import GIB, HOUR, MS, PERCENT, TERA, US
from perfmodel.validation import training_setups as setups
from perfmodel.validation.measured import identities
from perfmodel.validation.rows import Row
from perfmodel.validation.suites import Progress
from perfmodel.validation.training_profile import predicted_s, published_s
from perfmodel.validation.training_roles import BRIDGE, MEASURED, SIMUMAX, ZOO, committed, read

NAME = "training"
DEEPSEEK, LONGCAT = "deepseek-v3-train-h800", "longcat-flash-train-h800"
PAIR_US, PAIR_SOURCE = 129_012.0, "https://github.com/deepseek-ai/profile-data/blob/main/train.json"
PAIR_LAYERS = 4
GPU_HOURS, GPU_HOURS_SOURCE = 2.664e6, "https://arxiv.org/abs/2412.19437 table 1, pre-training"
LONGCAT_SOURCE = "https://arxiv.org/abs/2509.01322"
LONGCAT_EXPOSED = {"none": 0.253, "two-chunks": 0.084}
"""Time that dispatch and combine leave exposed, before and after chunks (secondary notes on the report, four of
them)."""
LONGCAT_AVAILABILITY = 0.9848
ZOO_PAIR = ("2", "8", "32")
"""TP, PP and EP of the model zoo's pair without and with overlap."""


def calibrations() -> tuple[str, ...]:
    """Ids of the calibrations that predictions rest on."""
    return identities(("h100-sxm", "h800-sxm", "b200-sxm", "gb200-nvl72"))


def rows(progress: Progress | None = None) -> list[Row]:
    """The suite's rows."""
    found: list[Row] = []
    parts: tuple[Callable[[], Iterator[Row]], ...] = (
        _deepseek,
        _bridge,
        _zoo,
        _a100,
        simumax_rows,
        _overlap,
        _longcat,
    )
    for number, part in enumerate(parts):
        if progress is not None:
            progress(NAME, number, len(parts))
        found += part()
    return found


def _simulated(document: Mapping[str, object]) -> TrainingStep | str:
    """The step of a row's scenario, or why there is none."""
    try:
        return simulate_training(build_scenario(document))
    except PerfModelError as error:
        return str(error)


def _row(
    identity: str,
    model: str,
    quantity: str,
    unit: str,
    measured: float,
    predicted: float | None,
    role: str,
    source: str,
    bounds: tuple[float, float] | None = None,
    **rest: Any,
) -> Row:
    low, high = bounds or (None, None)
    return Row(
        NAME,
        identity,
        model,
        quantity,
        unit,
        measured,
        predicted,
        role,
        source,
        low,
        high,
        **rest,
    )


def _deepseek() -> Iterator[Row]:
    """DeepSeek-V3's run, nothing fitted: layers per stage are the even cut that its report does not state."""
    step = simulate_training(load_scenario(DEEPSEEK))
    training, bounds = step.training, step_interval_s(step)
    rows_ = [row for row in read(MEASURED) if row["model"] == "DeepSeek-V3"]
    for row in rows_[:1]:
        yield _row(
            "deepseek-v3 step", DEEPSEEK, "step_time_s", "s", float(row["step_s"]), step.step_time_s, "check",
            row["source"], bounds, system="h800-sxm",
        )  # fmt: skip
    assert training.tokens is not None, "the scenario states them"
    hours = training.tokens / training.step_tokens * training.num_gpus / HOUR
    yield _row(
        "deepseek-v3 GPU hours", DEEPSEEK, "gpu_hours", "h", GPU_HOURS, hours * step.step_time_s, "check",
        GPU_HOURS_SOURCE, (hours * bounds[0], hours * bounds[1]), system="h800-sxm",
    )  # fmt: skip
    pair = next(span for span in step.run.spans[training.pp // 2] if span.action.kind is Kind.PAIR)
    yield _row(
        "deepseek-v3 pair of four layers", DEEPSEEK, "forward_backward_pair_s", "s", PAIR_US * US,
        pair.end_s - pair.start_s, "check", PAIR_SOURCE, system="h800-sxm",
    )  # fmt: skip
    measured, source = published_s()
    ours = predicted_s(StepBuilder(step.scenario, training), layers=PAIR_LAYERS)
    for part, seconds in measured.items():
        yield _row(
            f"deepseek-v3 profile: {part}", DEEPSEEK, "profile_part_s", "s", seconds, ours.get(part, 0.0), "comparison",
            source, system="h800-sxm",
        )  # fmt: skip


def _bridge() -> Iterator[Row]:
    """Megatron-Bridge's rows, as they are and, where a ``fit`` row of the same release and system sets one, with a
    constant.
    """
    found: list[tuple[Mapping[str, str], float, tuple[float, float]]] = []
    for row in read(BRIDGE):
        if row["model"] == "DeepSeek-V3" or not row["tp"]:
            continue
        step = _simulated(setups.bridge(row))
        measured, name = float(row["tok_s_gpu"]), f"bridge {row['id']}"
        role, system = committed()[BRIDGE, row["id"]], setups.GPUS[row["system"]]
        if isinstance(step, str):
            yield _row(
                name,
                row["model"],
                "tokens_per_s_per_gpu",
                "tokens/s",
                measured,
                None,
                role,
                row["source"],
                reason=step,
            )
            continue
        rate = step.training.step_tokens / step.training.num_gpus
        low, high = step_interval_s(step)
        bounds = (rate / high, rate / low)
        found.append((row, rate / step.step_time_s, bounds))
        yield _row(
            name, row["model"], "tokens_per_s_per_gpu", "tokens/s", measured, rate / step.step_time_s, role,
            row["source"], bounds, system=system,
        )  # fmt: skip
    constants = bridge_constants([(row, predicted) for row, predicted, _ in found])
    for one, predicted, _ in found:
        row = dict(one)
        constant = constants.get((row["release"], row["system"]))
        role = committed()[BRIDGE, row["id"]]
        if constant is not None and role == "check":
            yield _row(
                f"bridge {row['id']} with a constant", row["model"], "tokens_per_s_per_gpu_with_constant", "tokens/s",
                float(row["tok_s_gpu"]), predicted * constant, role, row["source"],
                settings=f"{row['release']} on {row['system']}: {constant:.3f}", system=setups.GPUS[row["system"]],
            )  # fmt: skip


def bridge_constants(
    predictions: list[tuple[Mapping[str, str], float]],
) -> dict[tuple[str, str], float]:
    """(release, system) -> geometric mean of measured over predicted rates on ``fit`` rows."""
    logs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row, predicted in predictions:
        if committed()[BRIDGE, row["id"]] == "fit":
            logs[row["release"], row["system"]].append(math.log(float(row["tok_s_gpu"]) / predicted))
    return {key: math.exp(sum(own) / len(own)) for key, own in logs.items()}


def zoo_rows() -> Iterator[tuple[dict[str, str], Row]]:
    """(record, row) of Megatron-Core's developers' own tables: model FLOP/s under a causal mask, as they count them."""
    for row in read(ZOO):
        step = _simulated(setups.zoo(row))
        layout = " ".join(f"{key.upper()}{row[key]}" for key in ("tp", "pp", "cp", "ep"))
        overlap = ", overlapped" if row["overlap"] != "none" else ""
        rate: float | None = None
        bounds: tuple[float, float] | None = None
        if isinstance(step, TrainingStep):
            rate = model_flops_per_s_per_gpu(step)
            low, high = (step.step_time_s / seconds for seconds in step_interval_s(step))
            bounds = (rate * high, rate * low)
        yield row, _row(
            f"zoo {row['id']}", row["model"], "model_flops_per_s_per_gpu", "FLOP/s", TERA * float(row["tflops_gpu"]),
            rate, committed()[ZOO, row["id"]], row["source"], bounds,
            settings=f"{layout}, {row['seq']} tokens{overlap}, graphs: {row['graphs'] or 'none'}; {row['note']}",
            reason=step if isinstance(step, str) else None, system=setups.GPUS[row["system"]],
        )  # fmt: skip


def _zoo() -> Iterator[Row]:
    for _, row in zoo_rows():
        yield row
    yield from _zoo_gain()


def _zoo_gain() -> Iterator[Row]:
    """By how much Megatron-Core's overlap shortens Qwen3-235B's step on 256 H100, without CUDA graphs."""
    off, on = (row for row in read(ZOO) if row["step_s"] and (row["tp"], row["pp"], row["ep"]) == ZOO_PAIR)
    steps = [_simulated(setups.zoo(row)) for row in (off, on)]
    if all(isinstance(step, TrainingStep) for step in steps):
        ours = [step.step_time_s for step in steps if isinstance(step, TrainingStep)]
        yield _row(
            "overlap gain, Qwen3-235B", off["model"], "step_time_saved_pct", "%",
            PERCENT * (1.0 - float(on["step_s"]) / float(off["step_s"])), PERCENT * (1.0 - ours[1] / ours[0]), "check",
            off["source"], system="h100-sxm",
        )  # fmt: skip


def _a100() -> Iterator[Row]:
    for row in read(MEASURED):
        if row["model"] not in setups.GPT:
            continue
        step = _simulated(setups.megatron_a100(row))
        yield _step_row(f"a100 {row['model']} {row['recompute']}", row, MEASURED, step, float(row["step_s"]))


def _step_row(
    identity: str,
    row: Mapping[str, str],
    file: str,
    step: TrainingStep | str,
    measured: float,
    **rest: Any,
) -> Row:
    role, model = committed()[file, row["id"]], row.get("model") or row["case"]
    if isinstance(step, str):
        return _row(
            identity, model, "step_time_s", "s", measured, None, role, row["source"], reason=step, **rest
        )
    return _row(
        identity, model, "step_time_s", "s", measured, step.step_time_s, role, row["source"], step_interval_s(step),
        system=step.scenario.cluster.gpu.name, **rest,
    )  # fmt: skip


def simumax_rows() -> Iterator[Row]:
    """Time and peak memory as torch's allocator counts it: runtime and communication libraries left out."""
    for row in read(SIMUMAX):
        document, measured = setups.simumax(row), float(row["step_ms"]) * MS
        step = "the case's dense layers are not stated" if document is None else _simulated(document)
        peer = float(row["simumax_ms"]) * MS
        yield _step_row(f"simumax {row['case']}", row, SIMUMAX, step, measured, peer_predicted=peer)
        predicted = None
        if not isinstance(step, str):
            most = step.memory.ranks[step.memory.fullest]
            predicted = most.total - most.runtime - most.communication_buffers
        yield _row(
            f"simumax {row['case']}", row["case"], "memory_peak_bytes", "B", float(row["peak_alloc_gib"]) * GIB,
            predicted, committed()[SIMUMAX, row["id"]], row["source"],
            peer_predicted=float(row["simumax_alloc_gib"]) * GIB,
            reason=step if isinstance(step, str) else None, system="b200-sxm",
        )  # fmt: skip


def _overlap() -> Iterator[Row]:
    """Megatron-Core's overlap of exchanges on and off, and by how much the step is shorter."""
    pair = [row for row in read(MEASURED) if row["model"] == "Qwen3-30B-A3B" and row["seq"]]
    steps = [_simulated(setups.qwen_pair(row)) for row in pair]
    for row, step in zip(pair, steps, strict=True):
        yield _step_row(f"overlap {row['note'].split(',')[0]}", row, MEASURED, step, float(row["step_s"]))
    if all(isinstance(step, TrainingStep) for step in steps):
        off, on = (step.step_time_s for step in steps if isinstance(step, TrainingStep))
        measured_off, measured_on = (float(row["step_s"]) for row in pair)
        yield _row(
            "overlap gain", "Qwen3-30B-A3B", "step_time_saved_pct", "%", PERCENT * (1.0 - measured_on / measured_off),
            PERCENT * (1.0 - on / off), "check", pair[0]["source"], system="h100-sxm",
        )  # fmt: skip


def exchange_share(step: TrainingStep) -> float:
    """Exposed dispatch and combine over the time in which a pipeline rank is busy: bubble, gradients and weights are
    left out, as a profile of layers would.
    """
    parts = breakdown_s(step)
    exposed = exposed_s(parts)
    busy = step.step_time_s - parts["bubble"] - exposed["dp"]
    return (exposed["dispatch"] + exposed["combine"]) / busy


def _longcat() -> Iterator[Row]:
    """What the report says, beside one set-up that its facts allow: a comparison, for device, number and layout are
    not known.
    """
    why = "device, GPUs, PP, batch and what the share is of are not published: one set-up (docs/train_longcat.md)"
    for overlap, measured in LONGCAT_EXPOSED.items():
        step = simulate_training(load_scenario(LONGCAT, [f"training.moe_overlap={overlap}"]))
        yield _row(
            f"longcat-flash exposed, {overlap}", LONGCAT, "exposed_exchange_share", "1", measured, exchange_share(step),
            "comparison", LONGCAT_SOURCE, settings=why, system="h800-sxm",
        )  # fmt: skip
    training = step.training
    run = simulate_run(
        30.0 * 24.0 * HOUR, num_gpus=training.num_gpus, step_time_s=step.step_time_s,
        checkpoints=training.checkpoints, failures=training.failures, seed=0,
    )  # fmt: skip
    yield _row(
        "longcat-flash availability", LONGCAT, "availability", "1", LONGCAT_AVAILABILITY, run.availability,
        "comparison", LONGCAT_SOURCE, settings="20 failures in 30 days, 10 minutes each, checkpoints stalling 3 s",
        system="h800-sxm",
    )  # fmt: skip

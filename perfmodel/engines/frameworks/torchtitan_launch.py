"""A training layout as settings of torchtitan, and what they can't say.

Settings and their meanings are those of the release that ``data/engines/frameworks/torchtitan.yaml`` names. Data and
learning rate are left to the configuration.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from perfmodel.engines.frameworks.documents import framework
from perfmodel.engines.frameworks.flags import TrainLaunch
from perfmodel.engines.frameworks.megatron_launch import OWN
from perfmodel.engines.frameworks.torchtitan import CONVERTERS, stages_of
from perfmodel.errors import SpecError
from perfmodel.spec import catalogue
from perfmodel.spec.model import Model
from perfmodel.spec.training import Training

BY_OPERATION = {"norms", "activations", "every_second_product"}
"""What torchtitan's selective recomputation makes again."""
SCHEDULES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved-1f1b": "Interleaved1F1B",
    "zb-h1": "InterleavedZeroBubble",
    "zb-v": "ZBVZeroBubble",
    "dualpipe-v": "DualPipeV",
}
"""Ours -> torch's; of one stage per rank the first two alone."""


def torchtitan_launch(training: Training, model: Model, stages: Sequence[int] = ()) -> TrainLaunch:
    """The settings of a layout and its model, each as ``--section.key=value``.

    Args:
        training: the layout.
        model: what is trained.
        stages: layers of each pipeline stage, in the order of the model; empty: torchtitan's own cut.
    """
    named = _named(model)
    flags = (
        *([f"--model.name={named[0]} --model.flavor={named[1]}"] if named else []),
        *_parallel(training),
        *_batches(training),
        *_pipeline(training, stages or training.stage_layers or (), model.num_layers),
        *_rest(training, model),
    )
    cannot = list(_cannot(training, model))
    if named is None:
        cannot.insert(0, f"the model, {model.name}, of which torchtitan's release has no flavor")
    elif training.pp > 1 and named[0] in framework("torchtitan")["no_pipeline"]:
        cannot.insert(0, f"a pipeline of {named[0]}: torchtitan's release has none for it and does not start")
    return TrainLaunch(flags, tuple(cannot))


def _named(model: Model) -> tuple[str, str] | None:
    """Name and flavor of a model of the catalogue."""
    models: dict[str, Any] = framework("torchtitan")["models"]
    found = next((name for name, one in models.items() if one == model.name), None)
    if found is None or catalogue.model(model.name).layers != model.layers:  # of other sizes under its name
        return None
    name, _, flavor = found.partition("/")
    return name, flavor


def _setting(section: str, **values: Any) -> str:
    return " ".join(f"--{section}.{key}={value}" for key, value in values.items())


def _parallel(t: Training) -> Iterator[str]:
    yield _setting(
        "parallelism",
        data_parallel_replicate_degree=_groups(t),
        data_parallel_shard_degree=t.dp // _groups(t),
    )
    for key, degree in (("tensor", t.tp), ("context", t.cp), ("pipeline", t.pp)):
        if degree > 1:
            yield _setting("parallelism", **{f"{key}_parallel_degree": degree})


def _groups(t: Training) -> int:
    """Replicas: all ranks where nothing is divided."""
    return t.dp if t.zero == 0 else t.dp_replicate


def _batches(t: Training) -> Iterator[str]:
    local = t.micro_batch_sequences * (t.micro_batches if t.pp > 1 else 1)
    yield _setting("training", seq_len=t.sequence_tokens, local_batch_size=local)
    if t.global_batch_sequences != local * t.dp:
        yield _setting("training", global_batch_size=t.global_batch_sequences)
    if t.tokens is not None:
        yield _setting("training", steps=max(1, round(t.tokens / t.step_tokens)))


def _pipeline(t: Training, stages: Sequence[int], layers: int) -> Iterator[str]:
    if t.pp == 1:
        return
    if t.schedule in SCHEDULES and not _unscheduled(t):
        yield _setting(
            "parallelism",
            pipeline_parallel_schedule=SCHEDULES[t.schedule],
            pipeline_parallel_microbatch_size=t.micro_batch_sequences,
        )
    if stages and list(stages) != _own_cut(layers, t.pp * t.virtual_stages):
        yield _setting("parallelism", module_fqns_per_model_part=f"'{_parts(stages)}'")
    elif t.virtual_stages > 2:
        per = -(-(layers + 2) // (t.pp * t.virtual_stages))
        yield _setting("parallelism", pipeline_parallel_layers_per_stage=per)


def _own_cut(layers: int, stages: int) -> list[int]:
    try:
        found = stages_of(layers, stages, 1, 1)
    except SpecError:
        return []
    several = -(-(layers + 2) // -(-(layers + 2) // stages))
    return found if several == stages else []  # else no number of layers per stage gives so many


def _parts(stages: Sequence[int]) -> str:
    """Modules of each stage by name, embedding first, norm and head last."""
    parts, at = [], 0
    for i, number in enumerate(stages):
        names = [f"layers.{layer}" for layer in range(at, at + number)]
        at += number
        ends = (["tok_embeddings"] if i == 0 else [], ["norm", "output"] if i == len(stages) - 1 else [])
        parts.append(str([*ends[0], *names, *ends[1]]).replace("'", '"'))
    return f"[{', '.join(parts)}]"


def _rest(t: Training, model: Model) -> Iterator[str]:
    if t.zero == 3 and t.pp > 1:
        yield _setting("parallelism", fsdp_reshard_after_forward="always")
    elif t.zero in (1, 2) and t.pp == 1:
        yield _setting("parallelism", fsdp_reshard_after_forward="never")
    if model.moe:
        if t.ep > 1:
            yield _setting("parallelism", expert_parallel_degree=t.ep, expert_tensor_parallel_degree=t.etp)
            backend = "deepep" if t.all_to_all == "deepep-normal" else "standard"
            yield _setting("parallelism", expert_parallel_comm_backend=backend)
        paired = t.moe_overlap == "forward-backward" and t.recompute == "none"
        if t.schedule == "dualpipe-v" and not paired and t.ep > 1:  # else it is on
            yield "--parallelism.no_pipeline_parallel_expert_parallel_overlap"
    if t.recompute in ("none", "full"):
        yield _setting("activation_checkpoint", mode=t.recompute)
    else:
        yield _setting("activation_checkpoint", mode="selective", selective_ac_option="op")
    if t.precision in ("fp8", "mxfp8"):
        linear = next(one for one, known in CONVERTERS.items() if known == ("linear", t.precision))
        experts = next(one for one, known in CONVERTERS.items() if known == ("experts", t.precision))
        both = model.moe is not None and "experts" not in t.bf16_parts
        yield f"--model.converters {linear}{f' {experts}' if both else ''}"
        if both:
            yield f"--{experts}.fqns=experts"
    compiled = [
        part
        for part, kernels in (("model", t.kernels), ("loss", t.loss_kernels))
        if kernels != "pytorch-eager"
    ]
    if compiled:
        yield "--compile.enable"
    if len(compiled) == 1:
        yield _setting("compile", components=compiled[0])
    if t.offload.optimizer_fraction == 1.0:
        yield "--training.enable_cpu_offload"
    if t.optimizer.master == "none":
        yield _setting("training", dtype="bfloat16")
    if not t.optimizer.clip:
        yield _setting("training", max_norm=0)
    if t.deterministic:
        yield "--debug.deterministic"


def _unscheduled(t: Training) -> str:
    """Why torchtitan does not run a schedule; empty: it does."""
    if t.schedule not in SCHEDULES:
        return f"schedule {t.schedule}"
    if t.virtual_stages == 1 and t.schedule not in ("gpipe", "1f1b"):
        return f"schedule {t.schedule} of one stage per rank"
    return ""


def _cannot(t: Training, model: Model) -> Iterator[str]:
    why = _unscheduled(t) if t.pp > 1 else ""
    if why:
        yield f"{why}: torchtitan runs {', '.join(SCHEDULES.values())}"
    if t.pp == 1 and t.micro_batches > 1:
        yield f"gradients reduced once per step: torchtitan reduces them after each of {t.micro_batches} passes"
    if t.moe_overlap == "two-chunks" or (t.moe_overlap == "forward-backward" and t.schedule != "dualpipe-v"):
        yield f"moe_overlap {t.moe_overlap}: torchtitan has DualPipeV's alone"
    if t.moe_overlap == "forward-backward" and t.schedule == "dualpipe-v" and t.recompute != "none":
        yield "a forward beside a backward with recomputation, which torchtitan refuses"
    if t.cp > 1 and t.cp_exchange != "all-gather":
        yield f"cp_exchange {t.cp_exchange}: torch gathers keys and values"
    if model.moe and t.ep == 1 and t.etp != t.tp:
        yield f"etp = {t.etp} without expert parallelism: torchtitan's is the tensor's, {t.tp}"
    if model.moe and t.ep > 1 and t.etp not in (1, t.tp):
        yield f"etp = {t.etp}: torchtitan takes 1 or the tensor's, {t.tp}"
    if model.moe and t.ep > 1 and t.all_to_all == "hybrid-ep":
        yield "HybridEP"
    if t.zero in (1, 2) and t.pp == 1:
        yield f"zero = {t.zero}: FSDP divides weights between steps, too"
    if t.zero == 2 and t.pp > 1:
        yield "zero = 2: gradients are whole until the end of the step"
    if t.precision == "nvfp4":
        yield "NVFP4"
    if t.recompute not in ("none", "full") and set(t.recompute) != BY_OPERATION:
        yield f"recompute {list(t.recompute)}: torchtitan's recomputes by ops, every second product too"
    if t.mtp:
        yield "multi-token prediction"
    if t.batch_ramp:
        yield "batches that grow"
    if t.capacity:
        yield "experts with a capacity"
    if t.offload.activations_fraction or 0 < t.offload.optimizer_fraction < 1:
        yield "a part of the state, or activations, on the host"
    if t.optimizer.kind != "adamw":
        yield f"optimizer.kind {t.optimizer.kind}"
    if t.optimizer.moments != "fp32" and t.optimizer.master != "none":
        yield f"optimizer.moments {t.optimizer.moments} beside an FP32 master copy"
    if t.optimizer.gradients != "fp32":
        yield f"optimizer.gradients {t.optimizer.gradients}: FSDP reduces in FP32"
    if t.own_fp8_kernels:
        yield "DeepSeek's own FP8 kernels of 2024"
    if t.dispatch == "fp8":
        yield "dispatch in FP8"
    if set(t.bf16_parts) - {"experts"}:
        yield f"products that stay BF16: {', '.join(t.bf16_parts)}: quantize.linear.float8.filter_fqns by module"
    if t.power_cap_w is not None:
        yield f"{t.power_cap_w:g} W per GPU: nvidia-smi --power-limit {t.power_cap_w:g} on every node"
    if "fused" in (t.kernels, t.loss_kernels) or t.kernels == "eager":
        yield "a framework's kernels: torchtitan's are PyTorch's (kernels, loss_kernels pytorch-compiled), slower"
    if t.attention_kernels == "flash-attention-2":
        yield "attention_kernels flash-attention-2: this release asks for cuDNN's first"
    for key, usual in OWN.items():
        if "kernels" not in key and getattr(t, key) != usual:
            yield f"{key}: {str(getattr(t, key)).lower()}"

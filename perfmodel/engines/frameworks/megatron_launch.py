"""A training layout as flags of Megatron-LM, and what they can't say.

Flags and their meanings are those of the release that ``data/engines/frameworks/megatron.yaml`` names. Data and
learning rate are the recipe's.
"""

from collections.abc import Iterator, Sequence

from perfmodel.engines.frameworks.flags import TrainLaunch
from perfmodel.engines.frameworks.megatron_model import sizes_of
from perfmodel.engines.frameworks.megatron_stages import layout_of
from perfmodel.spec.model import Model
from perfmodel.spec.training import BatchRamp, Training

MODULES = {
    "attention_core": "core_attn",
    "mla_up_projection": "mla_up_proj",
    "norms": "layernorm",
    "activations": "moe_act",
    "experts": "moe",
}
"""What is recomputed -> Megatron-Core's name of it."""
FLEXIBLE = {"deepep-normal": "deepep", "hybrid-ep": "hybridep"}
"""Library of dispatch and combine -> backend of the flexible dispatcher."""
EXCHANGES = {"ring": "p2p", "all-gather": "all_gather", "ulysses": "a2a"}
"""How keys and values meet -> what Transformer Engine calls it, to which Megatron-LM hands the word on; its own help
says ``allgather``, which Transformer Engine does not know.
"""
FORMATS = {
    "fp8": "--fp8-format e4m3 --fp8-recipe blockwise",
    "mxfp8": "--fp8-format e4m3 --fp8-recipe mxfp8",
    "nvfp4": "--fp4-format e2m1",
}
SHARDING = {2: "optim_grads", 3: "optim_grads_params"}


OWN = {
    "keep_inputs": None,
    "keep_gate_up": "bf16",
    "cp_mla": "heads",
    "post_validation": False,
    "kernels": "fused",
    "loss_kernels": "fused",
}
"""Keys of which no framework here has a flag -> what needs none."""


def megatron_launch(training: Training, model: Model, stages: Sequence[int] = ()) -> TrainLaunch:
    """The flags of a layout and its model.

    Args:
        training: the layout.
        model: what is trained.
        stages: layers of each pipeline stage, in the order of the model; empty: even, or as ``training`` states.
    """
    sizes = sizes_of(model, positions=training.sequence_tokens)
    flags = (
        *(sizes or ()),
        *_parallel(training),
        *_pipeline(training, stages or training.stage_layers or ()),
        *_state(training),
        *_formats(training),
        *(_experts(training) if model.moe else ()),
    )
    cannot = list(_cannot(training))
    if sizes is None:
        cannot.insert(0, f"the model, {model.name}, which sizes do not say: its flags are the recipe's")
    return TrainLaunch(flags, tuple(cannot))


def _parallel(t: Training) -> Iterator[str]:
    yield f"--seq-length {t.sequence_tokens}"
    yield f"--micro-batch-size {t.micro_batch_sequences}"
    if t.batch_ramp:
        yield f"--step-batch-size-schedule '{_steps(t, t.batch_ramp)}'"
    else:
        yield f"--global-batch-size {t.global_batch_sequences}"
    if t.tokens is not None:
        yield f"--train-samples {round(t.tokens / t.sequence_tokens)}"
    yield f"--tensor-model-parallel-size {t.tp}" + (" --sequence-parallel" if t.tp > 1 else "")
    yield f"--pipeline-model-parallel-size {t.pp}"
    if t.cp > 1:
        yield f"--context-parallel-size {t.cp} --cp-comm-type {EXCHANGES[t.cp_exchange]}"


def _steps(t: Training, ramp: BatchRamp) -> str:
    """Batches by the tokens from which on they are taken: each as many of the ramp's."""
    batches = [*ramp.batches(t.global_batch_sequences), t.global_batch_sequences]
    each = ramp.ramp_sequences * t.sequence_tokens / (len(batches) - 1)
    return " ".join(f"{round(i * each)}:{batch}" for i, batch in enumerate(batches))


def _pipeline(t: Training, stages: Sequence[int]) -> Iterator[str]:
    if t.pp > 1 and len(set(stages)) > 1:
        yield f"--pipeline-model-parallel-layout '{layout_of(stages, mtp=t.mtp)}'"
    elif t.schedule == "interleaved-1f1b" and t.virtual_stages > 1:
        yield f"--num-virtual-stages-per-pipeline-rank {t.virtual_stages}"
    if t.recompute == "full":
        yield "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
    elif t.recompute != "none":
        modules = " ".join(MODULES[one] for one in t.recompute if one in MODULES)
        yield f"--recompute-granularity selective --recompute-modules {modules}"


def _state(t: Training) -> Iterator[str]:
    if t.zero in SHARDING:
        yield f"--use-megatron-fsdp --data-parallel-sharding-strategy {SHARDING[t.zero]} --ckpt-format fsdp_dtensor"
    if t.zero:
        yield "--use-distributed-optimizer"
    if t.dp_replicate > 1:
        yield f"--num-distributed-optimizer-instances {t.dp_replicate}"
    if t.overlap_gradients:
        yield "--overlap-grad-reduce"
    if t.zero and t.overlap_parameters and t.overlap_gradients:
        yield "--overlap-param-gather"
    if t.optimizer.kind == "muon":
        yield "--optimizer muon"
    if not t.optimizer.clip:
        yield "--clip-grad 0"
    if t.zero in SHARDING:
        yield f"--megatron-fsdp-main-grads-dtype {t.optimizer.gradients}"
    narrow = t.optimizer.moments != "fp32" or t.optimizer.gradients != "fp32"
    if narrow or t.offload.optimizer_fraction:
        moments, gradients = t.optimizer.moments, t.optimizer.gradients
        yield (
            f"--use-precision-aware-optimizer --main-grads-dtype {gradients} --exp-avg-dtype {moments} "
            f"--exp-avg-sq-dtype {moments}"
        )
    if t.offload.optimizer_fraction:
        overlap = " --overlap-cpu-optimizer-d2h-h2d" if t.offload.overlap else ""
        yield (
            f"--optimizer-cpu-offload --optimizer-offload-fraction {t.offload.optimizer_fraction:g}{overlap}"
        )


def _formats(t: Training) -> Iterator[str]:
    yield "--bf16"
    if t.precision in FORMATS:
        yield FORMATS[t.precision]
    if t.mtp:
        yield "--mtp-num-layers 1"
    if t.deterministic:
        yield "--deterministic-mode"


def _experts(t: Training) -> Iterator[str]:
    yield f"--expert-model-parallel-size {t.ep} --expert-tensor-parallel-size {t.etp}"
    yield "--moe-grouped-gemm --moe-permute-fusion"
    if t.all_to_all in FLEXIBLE:
        yield f"--moe-token-dispatcher-type flex --moe-flex-dispatcher-backend {FLEXIBLE[t.all_to_all]}"
    else:
        yield "--moe-token-dispatcher-type alltoall"
    if t.moe_overlap == "forward-backward" and not _unpaired(t):
        yield "--overlap-moe-expert-parallel-comm" + (" --delay-wgrad-compute" if t.delay_weights else "")
    if t.capacity:
        pad = " --moe-pad-expert-input-to-capacity" if t.capacity.pad else ""
        yield (
            f"--moe-expert-capacity-factor {t.capacity.factor:g} --moe-token-drop-policy {t.capacity.drop}{pad}"
        )


def _unpaired(t: Training) -> str:
    """Why Megatron-LM does not run a forward beside a backward here; empty: it does."""
    if t.schedule not in ("1f1b", "interleaved-1f1b"):
        return f"not with schedule {t.schedule}"
    if t.pp > 1 and t.virtual_stages == 1:
        return "in a pipeline Megatron-LM wants virtual stages for it"
    if t.ep == 1:
        return "Megatron-LM wants expert parallelism for it"
    if t.recompute == "full" or "experts" in t.recompute:
        return "Megatron-LM refuses it with whole layers or experts recomputed"
    return ""


def _cannot(t: Training) -> Iterator[str]:
    if t.pp > 1 and t.schedule not in ("1f1b", "interleaved-1f1b"):
        yield f"schedule {t.schedule}: Megatron-LM runs 1F1B and interleaved 1F1B"
    if t.moe_overlap == "two-chunks":
        yield "tokens in two chunks (LongCat-Flash's own framework)"
    why = _unpaired(t)
    if t.moe_overlap == "forward-backward" and why:
        yield f"a forward beside a backward: {why}"
    if t.optimizer.master == "none":
        yield "weights without a master copy"
    if "every_second_product" in t.recompute:
        yield "every second product recomputed"
    if t.own_fp8_kernels:
        yield "DeepSeek's own FP8 kernels of 2024"
    if t.dispatch == "fp8":
        yield "dispatch in FP8"
    if t.offload.activations_fraction:
        yield (
            f"{t.offload.activations_fraction:.0%} of the activations on the host: "
            "--fine-grained-activation-offloading by modules, or without a pipeline --cpu-offloading-num-layers"
        )
    if t.power_cap_w is not None:
        yield f"{t.power_cap_w:g} W per GPU: nvidia-smi --power-limit {t.power_cap_w:g} on every node"
    if t.bf16_parts:
        yield f"products that stay BF16: {', '.join(t.bf16_parts)}"
    for key, usual in OWN.items():
        if getattr(t, key) != usual:
            yield f"{key}: {str(getattr(t, key)).lower()}"

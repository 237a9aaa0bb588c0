"""A training layout as flags of Megatron-LM, and what they can't say.

Flags and their meanings: megatron/training/arguments.py and megatron/core/transformer/moe/README.md of
https://github.com/NVIDIA/Megatron-LM (November 2025). The model's own flags are the recipe's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from perfmodel.spec.model import Model
from perfmodel.spec.training import Training

SOURCES = (
    "https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/training/arguments.py",
    "https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/core/transformer/moe/README.md",
)
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
EXCHANGES = {"ring": "p2p", "all-gather": "allgather", "ulysses": "a2a"}
FORMATS = {
    "fp8": "--fp8-format e4m3 --fp8-recipe blockwise",
    "mxfp8": "--fp8-format e4m3 --fp8-recipe mxfp8",
    "nvfp4": "--fp4-format e2m1",
}
SHARDING = {2: "optim_grads", 3: "optim_grads_params"}


@dataclass(frozen=True, slots=True)
class TrainLaunch:
    """How a layout is started."""

    flags: tuple[str, ...]
    """One or a few that belong together in each."""
    cannot: tuple[str, ...]
    """What of the layout has no flag."""


def megatron_launch(training: Training, model: Model) -> TrainLaunch:
    """The flags of a layout; its model, data and learning rate are left to the recipe."""
    flags = (
        *_parallel(training),
        *_pipeline(training),
        *_state(training),
        *_formats(training),
        *(_experts(training) if model.moe else ()),
    )
    return TrainLaunch(flags, tuple(_cannot(training)))


def _parallel(t: Training) -> Iterator[str]:
    yield f"--seq-length {t.sequence_tokens}"
    yield f"--micro-batch-size {t.micro_batch_sequences} --global-batch-size {t.global_batch_sequences}"
    if t.batch_ramp:
        ramp = t.batch_ramp
        yield (f"--rampup-batch-size {ramp.start_sequences} {ramp.increment_sequences} {ramp.ramp_sequences}")
    if t.tokens is not None:
        yield f"--train-samples {round(t.tokens / t.sequence_tokens)}"
    yield f"--tensor-model-parallel-size {t.tp}" + (" --sequence-parallel" if t.tp > 1 else "")
    yield f"--pipeline-model-parallel-size {t.pp}"
    if t.cp > 1:
        yield f"--context-parallel-size {t.cp} --cp-comm-type {EXCHANGES[t.cp_exchange]}"


def _pipeline(t: Training) -> Iterator[str]:
    if t.schedule == "interleaved-1f1b" and t.virtual_stages > 1:
        yield f"--num-virtual-stages-per-pipeline-rank {t.virtual_stages}"
    if t.recompute == "full":
        yield "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
    elif t.recompute != "none":
        modules = " ".join(MODULES[one] for one in t.recompute)
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
    if t.moe_overlap == "forward-backward" and t.schedule in ("1f1b", "interleaved-1f1b"):
        yield "--overlap-moe-expert-parallel-comm" + (" --delay-wgrad-compute" if t.delay_weights else "")
    if t.capacity:
        pad = " --moe-pad-expert-input-to-capacity" if t.capacity.pad else ""
        yield (
            f"--moe-expert-capacity-factor {t.capacity.factor:g} --moe-token-drop-policy {t.capacity.drop}{pad}"
        )


def _cannot(t: Training) -> Iterator[str]:
    if t.pp > 1 and t.schedule not in ("1f1b", "interleaved-1f1b"):
        yield f"schedule {t.schedule}: Megatron-LM runs 1F1B and interleaved 1F1B"
    if t.moe_overlap == "two-chunks":
        yield "tokens in two chunks (LongCat-Flash's own framework)"
    if t.stage_layers is not None:
        yield f"layers per stage {list(t.stage_layers)}: write --pipeline-model-parallel-layout by hand"
    if t.optimizer.kind == "muon":
        yield "Muon: --optimizer muon of the development branch"
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

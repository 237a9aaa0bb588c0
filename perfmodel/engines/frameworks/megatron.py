"""A line that starts Megatron-LM's pre-training as keys of ``training``.

Flags and defaults are those of the release that ``data/engines/frameworks/megatron.yaml`` names. What is not on the
line is what Megatron-LM does without it: gradients not reduced beside the backward, no divided optimizer, nothing
recomputed.
"""

import re
from collections.abc import Mapping
from typing import Any

from perfmodel.engines.frameworks.documents import framework
from perfmodel.engines.frameworks.line import WHERE, Line, Trainer, tell_rest
from perfmodel.engines.frameworks.megatron_batches import set_batches
from perfmodel.engines.frameworks.megatron_checks import check_flags
from perfmodel.engines.frameworks.megatron_experts import set_experts
from perfmodel.engines.frameworks.megatron_launch import EXCHANGES, MODULES, SHARDING
from perfmodel.engines.frameworks.megatron_model import COMPARED, OTHERS, SIZES, model_of_sizes
from perfmodel.engines.frameworks.megatron_stages import set_stages
from perfmodel.errors import SpecError
from perfmodel.spec.model import Model

PROGRAM = re.compile(r"(^|/)pretrain_\w+\.py$")
"""Megatron-LM's own entry points."""
GIVEN = {name: key for key, name in MODULES.items()} | {"mlp": "activations"}
"""Megatron-Core's name of what is recomputed -> ours; mlp is the nearest to dense layers' FFN."""
RECIPES = {"blockwise": "fp8", "mxfp8": "mxfp8", "delayed": "fp8", "tensorwise": "fp8", "custom": "fp8"}
USED = (
    "tensor-model-parallel-size", "pipeline-model-parallel-size", "context-parallel-size",
    "expert-model-parallel-size", "expert-tensor-parallel-size", "micro-batch-size", "global-batch-size",
    "rampup-batch-size", "step-batch-size-schedule", "decrease-batch-size-if-needed", "seq-length", "train-iters",
    "train-samples", "sequence-parallel", "cp-comm-type", "recompute-granularity", "recompute-modules",
    "recompute-method", "recompute-num-layers", "recompute-activations", "moe-layer-recompute", "bf16", "fp16",
    "fp8-format", "fp8-recipe", "fp4-format", "use-distributed-optimizer", "use-megatron-fsdp", "use-torch-fsdp2",
    "data-parallel-sharding-strategy", "torch-fsdp2-no-reshard-after-forward", "num-distributed-optimizer-instances",
    "overlap-grad-reduce", "overlap-param-gather", "optimizer", "use-precision-aware-optimizer", "main-grads-dtype",
    "exp-avg-dtype", "exp-avg-sq-dtype", "megatron-fsdp-main-grads-dtype", "grad-reduce-in-bf16", "clip-grad",
    "no-gradient-accumulation-fusion", "optimizer-cpu-offload", "optimizer-offload-fraction",
    "overlap-cpu-optimizer-d2h-h2d", "cpu-offloading-num-layers", "moe-token-dispatcher-type", "moe-enable-deepep",
    "moe-flex-dispatcher-backend", "overlap-moe-expert-parallel-comm", "delay-wgrad-compute",
    "moe-expert-capacity-factor", "moe-pad-expert-input-to-capacity", "moe-token-drop-policy",
    "moe-router-force-load-balancing", "mtp-num-layers", "deterministic-mode", "pipeline-model-parallel-layout",
    "num-layers-per-virtual-pipeline-stage", "num-virtual-stages-per-pipeline-rank",
    "decoder-first-pipeline-num-layers", "decoder-last-pipeline-num-layers",
    "account-for-embedding-in-pipeline-split", "account-for-loss-in-pipeline-split", "transformer-impl",
    "attention-backend", *SIZES, *OTHERS,
)  # fmt: skip
"""Flags that set something."""


def stated_model(left: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, Any], list[str]]:
    """The model that a line's sizes say, and notes on it.

    Raises:
        SpecError: sizes that are missing, or of another kind of model.
    """
    line, trainer = Line(dict(left)), Trainer("")
    tp = line.whole("tensor-model-parallel-size") or 1
    return model_of_sizes(line, trainer, tp), trainer.notes


def read_megatron(left: Mapping[str, tuple[str, ...]], gpus: int, model: Model, *, named: bool) -> Trainer:
    """What a line says of ``training``.

    Args:
        left: its flags.
        gpus: of the run.
        model: what is trained.
        named: whether the model was given beside the line instead of by sizes on it.

    Raises:
        SpecError: flags that contradict each other, products that do not divide, values that mean nothing.
    """
    document = framework("megatron")
    line, trainer = Line(dict(left)), Trainer(document["framework"])
    if named:
        _agree(line, model)
    sizes = [line.written(name) for name in (*SIZES, *OTHERS) if line.left.pop(name, None) is not None]
    for name in (*SIZES, *OTHERS):
        line.all.pop(name, None)  # said with the model
    if named and sizes:
        trainer.notes.append(f"without effect here (sizes: the model is {model.name}): {', '.join(sizes)}")
    _parallel(line, trainer, gpus)
    set_stages(line, trainer, model.num_layers, trainer.keys.get("pp", 1))
    set_batches(line, trainer)
    _formats(line, trainer)
    _sharding(line, trainer)
    _optimizer(line, trainer)
    _recomputation(line, trainer)
    _offload(line, trainer, model)
    if model.moe:
        set_experts(line, trainer)
    else:
        for name in [
            one for one in line.left if one.startswith(("moe-", "expert-", "overlap-moe-", "delay-w"))
        ]:
            trainer.notes.append(
                f"without effect here (no experts): {line.written(name, line.left.pop(name))}"
            )
    _rest(line, trainer, model)
    check_flags(left, trainer.keys)
    tell_rest(line, trainer, document, USED)
    return trainer


def _agree(line: Line, model: Model) -> None:
    """Refuses sizes on the line that are not those of the model given beside it."""
    stated = {name: line.left[name][0] for name in COMPARED if line.left.get(name)}
    for name, text in stated.items():
        number = getattr(model, COMPARED[name])
        if text.isdigit() and int(text) != number:
            raise SpecError(
                f"{WHERE}: --{name} {text}: {model.name}, given beside it, has {number}: leave MODEL out and the "
                "sizes on "
                "the line are taken, or give the model that they are of"
            )


def _parallel(line: Line, trainer: Trainer, gpus: int) -> None:
    for flag, key in (
        ("tensor-model-parallel-size", "tp"),
        ("context-parallel-size", "cp"),
        ("pipeline-model-parallel-size", "pp"),
    ):
        number = line.whole(flag)
        if number is not None:
            trainer.set(key, number, f"--{flag} {number}")
    tp, cp, pp = (trainer.keys.get(key, 1) for key in ("tp", "cp", "pp"))
    if gpus % (tp * cp * pp):
        raise SpecError(
            f"{WHERE}: tensor x context x pipeline = {tp} x {cp} x {pp} = {tp * cp * pp} must divide the {gpus:,} "
            "GPUs of "
            "--gpus"
        )
    trainer.set("dp", gpus // (tp * cp * pp), f"{gpus:,} GPUs / (tensor x context x pipeline)")
    together = line.switch("sequence-parallel")
    if tp > 1 and not together:
        trainer.notes.append(
            "not modelled: tensor parallelism without --sequence-parallel: taken as if it were given, so memory is too "
            "small"
        )
    exchange = line.texts("cp-comm-type")
    if exchange is not None and cp > 1:
        words = {name: key for key, name in EXCHANGES.items()} | {"allgather": "all-gather"}
        if len(set(exchange)) > 1 or exchange[0] not in words:
            trainer.notes.append(
                f"not modelled: --cp-comm-type {' '.join(exchange)[:60]}: taken as p2p, in a ring"
            )
        else:
            trainer.set("cp_exchange", words[exchange[0]], f"--cp-comm-type {exchange[0]}")


def _formats(line: Line, trainer: Trainer) -> None:
    bf16, fp16 = line.switch("bf16"), line.switch("fp16")
    if fp16:
        trainer.notes.append(
            "--fp16: costed as BF16, whose kernels take as long; loss scaling is not counted"
        )
    elif not bf16:
        trainer.notes.append(
            "not modelled: without --bf16 Megatron-LM trains in FP32: taken as if --bf16 were given"
        )
    narrow = line.text("fp8-format", ("e4m3", "hybrid"))
    recipe = line.text("fp8-recipe", tuple(RECIPES))
    four = line.text("fp4-format")
    if narrow and four:
        raise SpecError(f"{WHERE}: --fp8-format and --fp4-format exclude each other: give one")
    if four:
        trainer.set("precision", "nvfp4", f"--fp4-format {four}")
    elif narrow:
        said = recipe or "delayed"
        trainer.set("precision", RECIPES[said], f"--fp8-format {narrow} --fp8-recipe {said}")
        if said not in ("blockwise", "mxfp8"):
            trainer.notes.append(
                f"not modelled: scales of --fp8-recipe {said}{'' if recipe else ', its default'}: costed as FP8 in "
                "blocks"
            )
    else:
        trainer.default("precision", "bf16", "without --fp8-format products are BF16")


def _sharding(line: Line, trainer: Trainer) -> None:
    distributed = line.switch("use-distributed-optimizer")
    ours, torchs = line.switch("use-megatron-fsdp"), line.switch("use-torch-fsdp2")
    strategies = {name: stage for stage, name in SHARDING.items()} | {"optim": 1, "no_shard": 0}
    strategy = line.text("data-parallel-sharding-strategy", tuple(strategies))
    keeps = line.switch("torch-fsdp2-no-reshard-after-forward")
    if ours:
        said = strategy or "optim_grads_params"
        trainer.set("zero", strategies[said], f"--use-megatron-fsdp --data-parallel-sharding-strategy {said}")
    elif torchs:
        trainer.set("zero", 2 if keeps else 3, "--use-torch-fsdp2")
    elif distributed:
        trainer.set("zero", 1, "--use-distributed-optimizer")
    else:
        trainer.default("zero", 0, "without --use-distributed-optimizer every rank holds the whole state")
    groups = line.whole("num-distributed-optimizer-instances")
    if groups and groups > 1:
        trainer.set("dp_replicate", groups, f"--num-distributed-optimizer-instances {groups}")
    reduce, gather = line.switch("overlap-grad-reduce"), line.switch("overlap-param-gather")
    whole = trainer.keys["zero"] == 3
    if reduce or (ours and trainer.keys["zero"] >= 2) or torchs:
        trainer.set(
            "overlap_gradients", True, "--overlap-grad-reduce" if reduce else "what FSDP does of itself"
        )
    else:
        trainer.default(
            "overlap_gradients",
            False,
            "without --overlap-grad-reduce gradients are reduced behind the backward",
        )
    if gather or (ours and whole) or torchs:
        trainer.set(
            "overlap_parameters", True, "--overlap-param-gather" if gather else "what FSDP does of itself"
        )
    else:
        trainer.default(
            "overlap_parameters",
            False,
            "without --overlap-param-gather weights are gathered before the forward",
        )
    if gather and not reduce and not (ours or torchs):
        raise SpecError(f"{WHERE}: --overlap-param-gather: Megatron-LM wants --overlap-grad-reduce beside it")


def _optimizer(line: Line, trainer: Trainer) -> None:
    kind = line.text("optimizer") or "adam"
    if "muon" in kind:
        trainer.set("optimizer.kind", "muon", f"--optimizer {kind}")
    elif kind != "adam":
        trainer.notes.append(f"not modelled: --optimizer {kind[:40]}: taken as AdamW, which has two moments")
    aware = line.switch("use-precision-aware-optimizer")
    formats = ("fp32", "fp16", "bf16", "fp8")
    first, second = (line.text(name, formats) for name in ("exp-avg-dtype", "exp-avg-sq-dtype"))
    main = line.text("main-grads-dtype", ("fp32", "bf16"))
    own = line.text("megatron-fsdp-main-grads-dtype", ("fp32", "bf16", "fp16", "auto"))
    reduced = line.switch("grad-reduce-in-bf16")
    if aware:
        widths = {"fp32": "fp32", "fp16": "bf16", "bf16": "bf16", "fp8": "fp8"}
        held = {widths[one or "fp32"] for one in (first, second)}
        moments = next(one for one in ("fp32", "bf16", "fp8") if one in held)
        if moments != "fp32":
            trainer.set("optimizer.moments", moments, f"--exp-avg-dtype {first} --exp-avg-sq-dtype {second}")
        if len(held) > 1:
            trainer.notes.append(
                f"not modelled: moments of two formats: both are taken as {moments}, the wider"
            )
    elif first or second:
        trainer.notes.append(
            "without effect (no --use-precision-aware-optimizer): --exp-avg-dtype, --exp-avg-sq-dtype"
        )
    if "use-megatron-fsdp" in line.all:  # its own buffers: auto is the weights' format
        if own in (None, "auto"):
            why = "not on the line: --megatron-fsdp-main-grads-dtype is auto, the weights' format"
            trainer.set("optimizer.gradients", "bf16", why)
        elif own != "fp32":
            trainer.set("optimizer.gradients", "bf16", f"--megatron-fsdp-main-grads-dtype {own}")
    elif reduced or (aware and main == "bf16"):
        why = "--grad-reduce-in-bf16" if reduced else "--main-grads-dtype bf16"
        trainer.set("optimizer.gradients", "bf16", why)
    clip = line.number("clip-grad")
    if clip == 0:
        trainer.set("optimizer.clip", False, "--clip-grad 0")
    if line.switch("no-gradient-accumulation-fusion"):
        trainer.set("placeholder_gradients", False, "--no-gradient-accumulation-fusion")
    else:
        trainer.default(
            "placeholder_gradients",
            True,
            "without --no-gradient-accumulation-fusion Transformer Engine keeps a gradient of every shape",
        )


def _recomputation(line: Line, trainer: Trainer) -> None:
    granularity = line.text("recompute-granularity", ("full", "selective"))
    modules = line.texts("recompute-modules")
    method, number = line.text("recompute-method", ("uniform", "block")), line.whole("recompute-num-layers")
    if line.switch("recompute-activations"):
        granularity = "selective"
    experts = line.switch("moe-layer-recompute")
    if experts:
        granularity, modules = "selective", (*(modules or ("core_attn",)), "moe")
    if granularity is None:
        trainer.default("recompute", "none", "without --recompute-granularity nothing is recomputed")
        if modules:
            trainer.notes.append("without effect (no --recompute-granularity selective): --recompute-modules")
    elif granularity == "full":
        trainer.set("recompute", "full", f"--recompute-granularity full --recompute-method {method}")
        if method is None:
            raise SpecError(
                f"{WHERE}: --recompute-granularity full: Megatron-LM wants --recompute-method uniform or block "
                "beside it"
            )
        if number is None:
            raise SpecError(
                f"{WHERE}: --recompute-method {method}: Megatron-LM wants --recompute-num-layers beside it"
            )
        if method == "block":
            trainer.notes.append(
                f"not modelled: --recompute-method block: {number} layers of a stage; here all are recomputed"
            )
        elif number > 1:
            trainer.notes.append(
                f"not modelled: --recompute-num-layers {number}: the input of every {number}th layer is kept; here "
                "of each"
            )
    else:
        said = modules or ("core_attn",)
        unknown = [one for one in said if one not in (*GIVEN, "shared_experts", "gdn_norm_out")]
        if unknown:
            raise SpecError(
                f"{WHERE}: --recompute-modules {unknown[0]}: must be of "
                f"{', '.join((*GIVEN, 'shared_experts', 'gdn_norm_out'))}"
            )
        parts = list(dict.fromkeys(GIVEN[one] for one in said if one in GIVEN))
        trainer.set(
            "recompute",
            parts or "none",
            f"--recompute-granularity selective --recompute-modules {' '.join(said)}",
        )
        if "mlp" in said:
            trainer.notes.append(
                "not modelled: all of a dense FFN recomputed (mlp): here its activation alone"
            )
        trainer.notes += [
            f"not modelled: --recompute-modules {one}: here it is kept"
            for one in ("shared_experts", "gdn_norm_out")
            if one in said
        ]


def _offload(line: Line, trainer: Trainer, model: Model) -> None:
    state = line.switch("optimizer-cpu-offload")
    fraction = line.number("optimizer-offload-fraction", 0.0, 1.0)
    overlap = line.switch("overlap-cpu-optimizer-d2h-h2d")
    if state:
        said = 1.0 if fraction is None else fraction
        trainer.set(
            "offload.optimizer_fraction",
            said,
            f"--optimizer-cpu-offload --optimizer-offload-fraction {said:g}",
        )
        if overlap:
            trainer.set("offload.overlap", True, "--overlap-cpu-optimizer-d2h-h2d")
    elif fraction is not None or overlap:
        trainer.notes.append(
            "without effect (no --optimizer-cpu-offload): --optimizer-offload-fraction, --overlap-cpu-optimizer-d2h-h2d"
        )
    layers = line.whole("cpu-offloading-num-layers", 0)
    if layers:
        if layers >= model.num_layers:
            raise SpecError(
                f"{WHERE}: --cpu-offloading-num-layers {layers}: must be below the model's {model.num_layers} layers"
            )
        trainer.set(
            "offload.activations_fraction",
            round(layers / model.num_layers, 6),
            f"--cpu-offloading-num-layers {layers} of {model.num_layers}",
        )


def _rest(line: Line, trainer: Trainer, model: Model) -> None:
    depth = line.whole("mtp-num-layers", 0)
    if depth:
        if model.mtp is None:
            trainer.notes.append(
                f"not modelled: --mtp-num-layers {depth}: {model.name} has no multi-token prediction layer here"
            )
        else:
            trainer.set("mtp", True, f"--mtp-num-layers {depth}")
            if depth > 1:
                trainer.notes.append(f"not modelled: --mtp-num-layers {depth}: one layer is trained here")
    if line.switch("deterministic-mode"):
        trainer.set("deterministic", True, "--deterministic-mode")
    for name, usual in (
        ("transformer-impl", ("transformer_engine",)),
        ("attention-backend", ("auto", "flash", "fused")),
    ):
        if (line.left.get(name) or ("",))[-1] in usual:
            trainer.notes.append(
                f"without effect here (kernels are the calibration's): {line.written(name, line.left.pop(name))}"
            )

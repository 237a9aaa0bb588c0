"""torchtitan's settings, of a TOML file and of a line, as keys of ``training``.

Settings and defaults are those of the release that ``data/engines/frameworks/torchtitan.yaml`` names. Later ones keep
their configurations in Python functions (``--module``, ``--config``), which are not read.
"""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel.engines.frameworks.documents import framework
from perfmodel.engines.frameworks.line import WHERE, Line, Trainer, one_line, tell_rest
from perfmodel.errors import DataError, SpecError
from perfmodel.spec.documents import MAX_BYTES
from perfmodel.spec.mixers import Mla
from perfmodel.spec.model import Model
from perfmodel.spec.paths import opened, quoted

PROGRAM = re.compile(r"(^|/)run_train\.sh$|^torchtitan\.train$|(^|/)torchtitan/train\.py$")
FILE = "job.config_file"
OWN_FILE = (
    "run_train.sh without CONFIG_FILE takes its debug_model.toml: 10 steps, schedule Interleaved1F1B in a pipeline, "
    "where the line does not say otherwise"
)
SINGLE = {"1f1b": "1f1b", "gpipe": "gpipe"}
SEVERAL = {
    "interleaved1f1b": "interleaved-1f1b",
    "interleavedzerobubble": "zb-h1",
    "zbvzerobubble": "zb-v",
    "dualpipev": "dualpipe-v",
}
"""torch's schedules, in lower case as torch compares them -> ours; those of several stages per rank."""
CONVERTERS = {
    "quantize.linear.float8": ("linear", "fp8"),
    "float8": ("linear", "fp8"),
    "quantize.linear.mx": ("linear", "mxfp8"),
    "mx": ("linear", "mxfp8"),
    "quantize.grouped_mm.float8": ("experts", "fp8"),
    "quantize.grouped_mm.mx": ("experts", "mxfp8"),
}
"""Converter -> what it quantises, and to what."""
FLEX = ("flex", "irope", "deepseek_v3", "gpt_oss")
"""Words of models and flavors whose attention is FlexAttention."""
PARALLELISM = "parallelism."
NEAR = (
    "FP8 scaled by rows, AsyncTP and kernels of the releases before v0.2.2 are not in it: "
    "steps of torchtitan's own tables come out too fast as docs/train_flags.md says by group"
)
"""python -m bench.training_lines."""
USED = (
    "model.name", "model.flavor", "model.converters", "optimizer.name", "training.local_batch_size",
    "training.global_batch_size", "training.seq_len", "training.max_norm", "training.steps",
    "training.enable_cpu_offload", "training.dtype", "parallelism.data_parallel_replicate_degree",
    "parallelism.data_parallel_shard_degree", "parallelism.fsdp_reshard_after_forward",
    "parallelism.tensor_parallel_degree", "parallelism.context_parallel_degree",
    "parallelism.pipeline_parallel_degree", "parallelism.pipeline_parallel_schedule",
    "parallelism.pipeline_parallel_layers_per_stage", "parallelism.pipeline_parallel_first_stage_less_layers",
    "parallelism.pipeline_parallel_last_stage_less_layers", "parallelism.module_fqns_per_model_part",
    "parallelism.pipeline_parallel_microbatch_size", "parallelism.pipeline_parallel_expert_parallel_overlap",
    "parallelism.expert_parallel_degree", "parallelism.expert_tensor_parallel_degree",
    "parallelism.expert_parallel_comm_backend", "activation_checkpoint.mode",
    "activation_checkpoint.selective_ac_option", "debug.deterministic", "debug.moe_force_load_balance",
    "compile.enable", "compile.components",
)  # fmt: skip
"""Settings that set something."""


def all_flags(
    flags: Mapping[str, tuple[str, ...]], variables: Mapping[str, str], *, script: bool = False
) -> dict[str, tuple[str, ...]]:
    """Settings of the file that a line names (``script``: run_train.sh, which has one of its own), and over them those
    of the line.

    Raises:
        SpecError: a configuration in Python.
        DataError: the file can't be read.
    """
    flags = {name.replace("-", "_"): values for name, values in flags.items()}
    if "module" in flags or "MODULE" in variables:
        raise SpecError(
            f"{WHERE}: --module, --config: torchtitan's configurations in Python are not read: give the settings of "
            f"{framework('torchtitan')['framework']}, a TOML file (CONFIG_FILE=FILE.toml) or --section.key=value each"
        )
    named = names_file(flags, variables)
    flags.pop(FILE, None)
    if named:
        settings = _of_file(Path(named[0]))
    else:
        own = framework("torchtitan")["script"] if script else {}
        settings = {name: (value,) for name, value in own.items()}
    for name, values in flags.items():  # tyro's way to turn a switch off: --section.no_key
        section, _, key = name.rpartition(".")
        off = key.startswith("no_") and not values
        settings[f"{section}.{key[3:]}" if off else name] = ("false",) if off else values or ("true",)
    return settings


def names_file(flags: Mapping[str, tuple[str, ...]], variables: Mapping[str, str]) -> tuple[str, ...]:
    """The file of settings that a line names, or nothing."""
    return flags.get(FILE, ()) or ((variables["CONFIG_FILE"],) if variables.get("CONFIG_FILE") else ())


def _of_file(path: Path) -> dict[str, tuple[str, ...]]:
    """Settings of a TOML file, flat."""
    try:
        with opened(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES} bytes, which no configuration is")
        document = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise DataError(f"{quoted(path)}: can't be read: {error.strerror or error}") from error
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # not UTF-8, no TOML, or nested without end
        raise DataError(f"{quoted(path)}: no TOML file: {str(error)[:80]}") from error
    return dict(_flat(document, ""))


def _flat(table: Mapping[str, Any], prefix: str) -> list[tuple[str, tuple[str, ...]]]:
    found: list[tuple[str, tuple[str, ...]]] = []
    for key, value in table.items():
        if isinstance(value, Mapping) and prefix.count(".") < 5:
            found += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and not any(isinstance(one, (list, Mapping)) for one in value):
            found.append((f"{prefix}{key}", tuple(map(_text, value)) or ("",)))
        else:
            found.append((f"{prefix}{key}", (_text(value),)))
    return found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else one_line(str(value))


def stated_model(flags: Mapping[str, tuple[str, ...]]) -> str | dict[str, Any]:
    """The model of ``model.name`` and ``model.flavor``.

    Raises:
        SpecError: one that is not known here.
    """
    line = Line(dict(flags), dashes="")
    name, flavor = line.text("model.name") or "llama3", line.text("model.flavor") or "debugmodel"
    models: dict[str, Any] = framework("torchtitan")["models"]
    plain = re.sub(r"_(flex|varlen|irope|flex_attn|varlen_attn)$", "", flavor)
    if f"{name}/{plain}" not in models:
        raise SpecError(
            f"{WHERE}: model.name {name}, model.flavor {flavor}: not known here (known: {', '.join(models)}): give "
            "MODEL "
            "beside it, a name of the catalogue or a config.json"
        )
    found: str | dict[str, Any] = models[f"{name}/{plain}"]
    return found


def read_torchtitan(flags: Mapping[str, tuple[str, ...]], gpus: int, model: Model, *, named: bool) -> Trainer:
    """What settings say of ``training``.

    Args:
        flags: settings by their whole names.
        gpus: of the run.
        model: what is trained.
        named: whether the model was given beside the line.

    Raises:
        SpecError: settings that contradict each other, products that do not divide, values that mean nothing.
    """
    document = framework("torchtitan")
    line, trainer = Line(dict(flags), dashes=""), Trainer(document["framework"])
    said = [
        line.written(name, line.left.pop(name)) for name in ("model.name", "model.flavor") if line.given(name)
    ]
    for name in ("model.name", "model.flavor"):
        line.all.pop(name, None)  # said with the model
    if named and said:
        trainer.notes.append(f"without effect here (the model is {model.name}): {', '.join(said)}")
    _meshes(line, trainer, gpus)
    known = (flags.get("model.name") or ("llama3",))[0]
    if trainer.keys.get("pp", 1) > 1 and known in document["no_pipeline"]:
        trainer.notes.append(
            f"{PARALLELISM}pipeline_parallel_degree: {trainer.framework} has no pipeline for {known} and does not start"
        )
    _batches(line, trainer)
    _pipeline(line, trainer, model.num_layers)
    _state(line, trainer)
    _formats(line, trainer, model)
    _kernels(line, trainer, model, said)
    _recomputation(line, trainer, model)
    if model.moe:
        _experts(line, trainer)
    else:
        for name in [one for one in line.left if "expert" in one or one == "debug.moe_force_load_balance"]:
            trainer.notes.append(
                f"without effect here (no experts): {line.written(name, line.left.pop(name))}"
            )
    if _on(line, "debug.deterministic"):
        trainer.set("deterministic", True, "debug.deterministic")
    trainer.notes.append(NEAR)
    silent = {name for name in line.left if line.left[name] in (("",), ("None",))}
    for name in silent:
        del line.left[name]  # as good as left out
    _drop_defaults(line)
    tell_rest(line, trainer, document, USED)
    return trainer


def _drop_defaults(line: Line) -> None:
    """Forget settings of parts that are off, and switches that are."""
    known = framework("torchtitan")["unmodelled"]
    for name in [one for one, values in line.left.items() if values == ("false",) and one in known]:
        del line.left[name]
    usual = {
        "training.mixed_precision_param": "bfloat16",
        "quantize.linear.float8.filter_fqns": None,
        "quantize.linear.mx.filter_fqns": None,
    }
    for name, value in usual.items():
        values = line.left.get(name)
        heads = values is not None and value is None and set(values) <= {"output", "router.gate"}
        if heads or (values is not None and values == (value,)):
            del line.left[name]


def _on(line: Line, name: str, *, default: bool = False) -> bool:
    text = line.text(name, ("true", "false", "True", "False")) if line.given(name) else None
    return default if text is None else text.lower() == "true"


def _degree(line: Line, trainer: Trainer, setting: str, key: str) -> int:
    number = line.whole(f"{PARALLELISM}{setting}") or 1
    if number > 1:
        trainer.set(key, number, f"{PARALLELISM}{setting}")
    return number


def _meshes(line: Line, trainer: Trainer, gpus: int) -> None:
    tp = _degree(line, trainer, "tensor_parallel_degree", "tp")
    cp = _degree(line, trainer, "context_parallel_degree", "cp")
    pp = _degree(line, trainer, "pipeline_parallel_degree", "pp")
    if cp > 1:
        trainer.set("cp_exchange", "all-gather", "torch's context parallelism gathers keys and values")
    replicate = line.whole(f"{PARALLELISM}data_parallel_replicate_degree") or 1
    shard = line.whole(f"{PARALLELISM}data_parallel_shard_degree", -1)
    product = replicate * tp * cp * pp
    if shard in (None, -1) and gpus % product == 0:
        shard = gpus // product
    if not shard or shard < 1 or shard * product != gpus:
        said = "replicate x shard x context x tensor x pipeline"
        raise SpecError(
            f"{WHERE}: {said} = {replicate} x {-1 if shard is None else shard} x {cp} x {tp} x {pp} must be the "
            f"{gpus:,} GPUs "
            "of --gpus (shard -1: what is left)"
        )
    trainer.set(
        "dp", replicate * shard, f"{PARALLELISM}data_parallel_replicate_degree x data_parallel_shard_degree"
    )
    policy = (
        line.text(f"{PARALLELISM}fsdp_reshard_after_forward", ("default", "always", "never")) or "default"
    )
    if shard * cp == 1:
        trainer.set(
            "zero",
            0,
            "data_parallel_shard_degree 1: weights are replicated (DDP)" if replicate > 1 else "one rank",
        )
        if replicate > 1:
            trainer.notes.append(
                "not modelled: DDP with FP32 weights and autocast: taken as BF16 weights with an FP32 master copy"
            )
        return
    if policy == "always" or (policy == "default" and pp == 1):
        trainer.set("zero", 3, f"fsdp_reshard_after_forward {policy}: weights are gathered layer by layer")
    else:
        trainer.set(
            "zero",
            1,
            f"fsdp_reshard_after_forward {policy}: weights stay gathered over the step, gradients whole until its end",
        )
    if replicate > 1:
        trainer.set("dp_replicate", replicate, f"{PARALLELISM}data_parallel_replicate_degree")


def _batches(line: Line, trainer: Trainer) -> None:
    sequence = line.whole("training.seq_len") or 2048
    local = line.whole("training.local_batch_size") or 8
    whole = line.whole("training.global_batch_size", -1)
    dp, pp = trainer.keys["dp"], trainer.keys.get("pp", 1)
    piece = line.whole(f"{PARALLELISM}pipeline_parallel_microbatch_size") or 1
    micro = piece if pp > 1 else local
    if local % micro:
        raise SpecError(
            f"{WHERE}: {PARALLELISM}pipeline_parallel_microbatch_size {micro}: must divide "
            f"training.local_batch_size {local}"
        )
    batch = local * dp if whole in (None, -1, 0) else whole
    assert batch is not None
    if batch % (local * dp):
        raise SpecError(
            f"{WHERE}: training.global_batch_size {batch}: must be a multiple of training.local_batch_size x "
            "data-parallel = "
            f"{local} x {dp} = {local * dp}"
        )
    trainer.set("sequence_tokens", sequence, "training.seq_len")
    trainer.set(
        "micro_batch_sequences",
        micro,
        f"{PARALLELISM}pipeline_parallel_microbatch_size" if pp > 1 else "training.local_batch_size",
    )
    trainer.set(
        "global_batch_sequences",
        batch,
        "training.local_batch_size x data-parallel"
        if whole in (None, -1, 0)
        else "training.global_batch_size",
    )
    given = line.whole("training.steps")
    steps = given or 10_000
    trainer.set(
        "tokens", steps * batch * sequence, f"training.steps {steps}{'' if given else ', its default'}"
    )
    if batch > local * dp:
        what = "the pipeline runs dry between them" if pp > 1 else "gradients are reduced after each"
        trainer.notes.append(
            f"not modelled: {batch // (local * dp)} gradient accumulation steps, where {what}: here once per step"
        )


def _pipeline(line: Line, trainer: Trainer, layers: int) -> None:
    """Schedule and stages, as torchtitan cuts them: embedding and head count as so many layers, the rest is even."""
    pp = trainer.keys.get("pp", 1)
    name = line.text(f"{PARALLELISM}pipeline_parallel_schedule") or "1F1B"
    per_stage = line.whole(f"{PARALLELISM}pipeline_parallel_layers_per_stage")
    first = line.whole(f"{PARALLELISM}pipeline_parallel_first_stage_less_layers", 0)
    last = line.whole(f"{PARALLELISM}pipeline_parallel_last_stage_less_layers", 0)
    first, last = (1 if one is None else one for one in (first, last))
    parts = (
        line.text(f"{PARALLELISM}module_fqns_per_model_part")
        if line.given(f"{PARALLELISM}module_fqns_per_model_part")
        else None
    )
    if pp == 1:
        line.left.pop(f"{PARALLELISM}pipeline_parallel_expert_parallel_overlap", None)
        return
    known = SINGLE | SEVERAL
    schedule = known.get(name.lower())
    if schedule is None:
        raise SpecError(
            f"{WHERE}: {PARALLELISM}pipeline_parallel_schedule {name[:40]}: not modelled; known are 1F1B, GPipe, "
            "Interleaved1F1B, "
            "InterleavedZeroBubble, ZBVZeroBubble, DualPipeV"
        )
    chunks = 1 if name.lower() in SINGLE else 2
    why = f"{PARALLELISM}pipeline_parallel_schedule {name}"
    trainer.set("schedule", schedule, why)
    if per_stage is not None:
        stages = math.ceil((layers + first + last) / per_stage)
        if stages % pp or (chunks == 1) != (stages == pp):
            raise SpecError(
                f"{WHERE}: {PARALLELISM}pipeline_parallel_layers_per_stage {per_stage}: {stages} stages of "
                f"{layers} layers over {pp} "
                f"ranks with {name}: must be {'one' if chunks == 1 else 'two or more, as many'} on each rank"
            )
        chunks = stages // pp
    if parts is not None:
        numbers = _of_parts(parts)
        if len(numbers) % pp or sum(numbers) != layers:
            raise SpecError(
                f"{WHERE}: {PARALLELISM}module_fqns_per_model_part: {len(numbers)} parts of {sum(numbers)} layers: "
                "the model has "
                f"{layers}, the pipeline {pp} ranks"
            )
        chunks = len(numbers) // pp
    else:
        numbers = stages_of(layers, pp * chunks, first, last)
    if chunks > 1:
        trainer.set("virtual_stages", chunks, f"{name}: {chunks} stages per rank")
    trainer.set("stage_layers", numbers, "torchtitan's cut")
    overlap = _on(line, f"{PARALLELISM}pipeline_parallel_expert_parallel_overlap", default=True)
    if (
        overlap
        and schedule == "dualpipe-v"
        and (line.left.get(f"{PARALLELISM}expert_parallel_degree", ("1",)) != ("1",))
    ):
        trainer.set("moe_overlap", "forward-backward", f"{name} with expert parallelism")
        if line.left.get("activation_checkpoint.mode", ("selective",)) != ("none",):
            raise SpecError(
                f"{WHERE}: {PARALLELISM}pipeline_parallel_schedule {name}: torchtitan refuses it with expert "
                "parallelism and recomputation: give activation_checkpoint.mode none, or "
                "parallelism.no_pipeline_parallel_expert_parallel_overlap"
            )


def stages_of(layers: int, stages: int, first: int, last: int) -> list[int]:
    """Layers of each stage: as even as can be with embedding and head as ``first`` and ``last`` layers, the earlier
    stages with one more.

    Raises:
        SpecError: stages without layers.
    """
    each, more = divmod(layers + first + last, stages)
    numbers = [each + (i < more) for i in range(stages)]
    numbers[0] -= first
    numbers[-1] -= last
    if min(first, last) < 0 or max(first, last) > each or not each:
        raise SpecError(
            f"{WHERE}: {stages} stages of {layers} layers, embedding and head as {first} and {last}: too few "
            "layers for them, "
            "and torchtitan refuses that"
        )
    return numbers


def _of_parts(text: str) -> list[int]:
    """Layers of each part of ``[["tok_embeddings", "layers.0"], ...]``."""
    return [len(re.findall(r"layers\.[0-9]+", part)) for part in re.findall(r"\[([^\[\]]*)\]", text)]


def _state(line: Line, trainer: Trainer) -> None:
    kind = line.text("optimizer.name") or "AdamW"
    if kind not in ("AdamW", "Adam"):
        trainer.notes.append(f"not modelled: optimizer.name {kind[:40]}: taken as AdamW")
    if line.text("training.dtype", ("float32", "bfloat16")) == "bfloat16":
        for key, value in (("master", "none"), ("moments", "bf16")):
            trainer.set(f"optimizer.{key}", value, "training.dtype bfloat16")
        trainer.notes.append("not modelled: gradients held in BF16 (training.dtype bfloat16): here in FP32")
    if line.number("training.max_norm") == 0:
        trainer.set("optimizer.clip", False, "training.max_norm 0")
    if _on(line, "training.enable_cpu_offload"):
        trainer.set("offload.optimizer_fraction", 1.0, "training.enable_cpu_offload")
        trainer.notes.append(
            "not modelled: training.enable_cpu_offload puts weights and gradients on the host, too: here the "
            "optimizer's state alone"
        )
    trainer.set("overlap_gradients", True, "FSDP reduces beside the backward")
    trainer.set("overlap_parameters", True, "FSDP gathers ahead of the forward")


def _formats(line: Line, trainer: Trainer, model: Model) -> None:
    given = line.texts("model.converters") if line.left.get("model.converters") not in (None, ("",)) else ()
    words = [word for one in given or () for word in re.split(r"[,\s]+", one.strip("[]")) if word]
    found: dict[str, str] = {}
    for word in words:
        if word.strip("'\"") not in CONVERTERS:
            trainer.notes.append(f"not known: model.converters {word[:40]}: it may change time or memory")
            continue
        part, precision = CONVERTERS[word.strip("'\"")]
        found[part] = precision
    if not found:
        trainer.default("precision", "bf16", "without model.converters products are BF16")
        return
    why = f"model.converters {' '.join(words)}"
    trainer.set("precision", next(iter(found.values())), why)
    if model.moe and "experts" not in found:
        trainer.set("bf16_parts", ["experts"], f"{why}: linear layers alone")
    elif "linear" not in found:
        trainer.set("bf16_parts", ["attention", "dense_ffn", "shared"], f"{why}: grouped products alone")
    if len(set(found.values())) > 1:
        trainer.notes.append(
            f"not modelled: two formats ({', '.join(found.values())}): all are taken as {trainer.keys['precision']}"
        )


def _kernels(line: Line, trainer: Trainer, model: Model, said: Sequence[str]) -> None:
    """Kernels between the products, of the loss and of attention: PyTorch's own.

    Args:
        line: the settings.
        trainer: told.
        model: what is trained.
        said: name and flavor as the line has them.
    """
    enabled = _on(line, "compile.enable")
    given = line.texts("compile.components") if line.given("compile.components") else None
    parts = [word for one in given or ("model", "loss") for word in re.findall(r"[a-z_]+", one)]
    why = "compile.enable false: kernels one by one"
    if enabled:
        why = f"compile.enable: {' and '.join(parts)}"
    for key, part in (("kernels", "model"), ("loss_kernels", "loss")):
        trainer.set(key, "pytorch-compiled" if enabled and part in parts else "pytorch-eager", why)
    words = " ".join(said)
    if "varlen" in words:
        trainer.set("attention_kernels", "flash-attention-2", "varlen_attn is FlashAttention-2's")
    elif any(word in words for word in FLEX) or isinstance(model.layers[0].attention, Mla):
        trainer.notes.append("not modelled: FlexAttention's kernels: attention's are the calibration's")
    else:
        trainer.set("attention_kernels", "cudnn", "scaled_dot_product_attention, cuDNN's first")


def _recomputation(line: Line, trainer: Trainer, model: Model) -> None:
    mode = (
        line.text("activation_checkpoint.mode", ("selective", "full", "memory_budget", "none")) or "selective"
    )
    option = line.text("activation_checkpoint.selective_ac_option") or "2"
    why = f"activation_checkpoint.mode {mode}"
    if mode in ("none", "full"):
        trainer.set("recompute", mode, why)
    elif mode == "selective" and option == "op":
        parts = ["norms", "activations", "every_second_product"]
        trainer.set("recompute", parts, f"{why}, selective_ac_option op")
        if model.moe or any(isinstance(layer.attention, Mla) for layer in model.layers):
            trainer.notes.append(
                "not modelled: activation_checkpoint by ops recomputes every second product of latent attention, and "
                "experts: here those of other attention and of dense FFNs"
            )
    elif mode == "selective" and option in ("0", "1"):
        trainer.set("recompute", "full", f"{why}, selective_ac_option {option}: every layer")
    elif mode == "selective":
        number = line.as_whole("activation_checkpoint.selective_ac_option", option)
        trainer.set("recompute", "full", f"{why}, selective_ac_option {option}")
        trainer.notes.append(
            f"not modelled: activation_checkpoint of one layer in {number} (selective_ac_option {number}"
            f"{', its default' if number == 2 else ''}): taken as full, so the step is too long and memory too small"
        )
    else:
        trainer.set("recompute", "none", why)
        trainer.notes.append(
            "not modelled: activation_checkpoint.mode memory_budget: nothing is taken as recomputed"
        )


def _experts(line: Line, trainer: Trainer) -> None:
    ep = _degree(line, trainer, "expert_parallel_degree", "ep")
    etp = line.whole(f"{PARALLELISM}expert_tensor_parallel_degree") or 1
    tp = trainer.keys.get("tp", 1)
    if ep == 1 and tp > 1:
        trainer.set("etp", tp, "without expert parallelism experts are divided as tensor parallelism does")
    elif etp > 1:
        if etp != tp:
            raise SpecError(
                f"{WHERE}: {PARALLELISM}expert_tensor_parallel_degree {etp}: torchtitan takes 1 or the tensor's, {tp}"
            )
        trainer.set("etp", etp, f"{PARALLELISM}expert_tensor_parallel_degree")
    backend = line.text(f"{PARALLELISM}expert_parallel_comm_backend", ("standard", "deepep")) or "standard"
    trainer.set(
        "all_to_all",
        "deepep-normal" if backend == "deepep" else "all-to-all",
        f"{PARALLELISM}expert_parallel_comm_backend {backend}",
    )
    if _on(line, "debug.moe_force_load_balance"):
        trainer.set("balanced", True, "debug.moe_force_load_balance")
    else:
        trainer.notes.append(
            "routing is the router's own; here every rank gets the mean load, unless training.balanced is false and "
            "routing says which experts are chosen"
        )

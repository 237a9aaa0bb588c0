"""What a checkpoint's quantization keys say of each class of weights.

Read are ``quantization_config`` of the config and ModelOpt's ``hf_quant_config.json`` beside it: ``fp8`` (block scales
or per tensor), ``modelopt`` (one algorithm, or one per layer), ``compressed-tensors`` (groups with targets), ``awq``,
``gptq``, ``mxfp4``, with the modules that each leaves out. Layers may differ (a first layer left as it was trained): a
class has the format of most of its layers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from perfmodel.errors import SpecError, UnsupportedError
from perfmodel.spec.checkpoint import Formats
from perfmodel.spec.models.fields import show
from perfmodel.spec.models.module_names import ModuleNames

ALGORITHMS: Final[Mapping[str, str]] = {
    "fp8": "fp8-tensor",
    "fp8_per_channel_per_token": "fp8-tensor",
    "fp8_pb_wo": "fp8",
    "fp8_pb_real": "fp8",
    "fp8_block_scales": "fp8",
    "nvfp4": "fp4",
    "nvfp4_awq": "fp4",
    "w4a16_nvfp4": "fp4",
    "w4a8_nvfp4_fp8": "fp4",
    "mxfp4": "mxfp4",
    "w4a8_mxfp4_fp8": "mxfp4",
    "mxfp8": "mxfp8",
    "int4_awq": "int4",
    "w4a16_awq": "int4",
    "w4a8_awq": "int4",
    "int8_sq": "int8",
    "w8a8_sq_per_channel": "int8",
    "none": "bf16",
}
"""ModelOpt's names of algorithms -> format."""
METHODS: Final = ("fp8", "modelopt", "modelopt_fp4", "compressed-tensors", "awq", "gptq", "mxfp4", "mxfp8")
"""``quant_method`` of configs that are read."""
PREFIXES: Final = (
    "model.layers",
    "layers",
    "model.language_model.layers",
    "language_model.model.layers",
    "language_model.layers",
    "backbone.layers",
)
"""How names of modules begin, before the layer's number."""
MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "linear": (
        "self_attn.q_proj",
        "self_attn.q_b_proj",
        "linear_attn.in_proj_qkv",
        "linear_attn.in_proj_qkvz",
        "attn.wq_b",
        "attention.query_key_value",
        "mixer.in_proj",
        "mixer.q_proj",
    ),
    "attention_output": (
        "self_attn.o_proj",
        "linear_attn.out_proj",
        "attn.wo_b",
        "attention.dense",
        "mixer.out_proj",
        "mixer.o_proj",
    ),
    "dense": ("mlp.gate_proj", "mlp.down_proj", "feed_forward.gate_proj", "ffn.w1"),
    "experts": (
        "mlp.experts.0.gate_proj",
        "mlp.experts.0.down_proj",
        "mlp.experts.gate_up_proj",
        "block_sparse_moe.experts.0.w1",
        "ffn.experts.0.w1",
        "feed_forward.experts.gate_up_proj",
        "mixer.experts.0.up_proj",
        "moe.experts.0.gate_proj",
    ),
    "shared": (
        "mlp.shared_experts.gate_proj",
        "mlp.shared_expert.gate_proj",
        "block_sparse_moe.shared_experts.gate_proj",
        "ffn.shared_experts.w1",
        "mixer.shared_experts.up_proj",
        "share_expert.gate_proj",
    ),
}
"""Class -> names of modules below a layer, in the layouts that checkpoints have."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which layers have a class of weights, by position."""

    mixers: Sequence[int]
    """Layers with attention, or what stands in its place."""
    dense: Sequence[int] = ()
    """Layers with a dense FFN."""
    experts: Sequence[int] = ()
    """Layers with experts."""
    shared: Sequence[int] = ()
    """Layers with shared experts."""
    modules: Mapping[str, Sequence[str]] | None = None
    """Names below a layer where they are not the usual ones."""

    def layers(self, kind: str) -> Sequence[int]:
        """At most ASKED layers of a class, evenly spread."""
        own = {"dense": self.dense, "experts": self.experts, "shared": self.shared}.get(kind, self.mixers)
        return own[:: -(-len(own) // ASKED) or 1]

    def names(self, kind: str) -> Sequence[str]:
        """Names below a layer."""
        return (self.modules or {}).get(kind, MODULES[kind])


ASKED: Final = 30


def formats(config: Mapping[str, Any], layout: Layout, beside: Mapping[str, Any] | None = None) -> Formats:
    """Formats of a checkpoint's weights.

    Args:
        config: the language model's config.
        layout: its layers.
        beside: the content of ``hf_quant_config.json``, where there is one; the config's own keys come first.

    Raises:
        SpecError: keys of another type than they must be.
        UnsupportedError: a method, an algorithm or a width that is not known; states it and what to do.
    """
    stated = config.get("quantization_config") or (beside or {}).get("quantization")
    if not stated:
        return Formats(state=_state(config))
    if not isinstance(stated, Mapping):
        raise SpecError(f"model config: quantization_config = {show(stated)} must be a mapping")
    keys = dict(stated)
    if isinstance(keys.get("quantization"), Mapping):  # ModelOpt's own nesting
        keys |= keys["quantization"]
    method = str(keys.get("quant_method") or ("modelopt" if "quant_algo" in keys else "")).lower()
    if method not in METHODS:
        raise UnsupportedError(
            f"quantization_config: quant_method = {show(keys.get('quant_method'))} is not known; allowed: "
            f"{', '.join(METHODS)}. Take the key out and state deployment.precision"
        )
    left_out = _left_out(keys)
    found = {kind: _format(kind, keys, method, layout, left_out) for kind in MODULES if layout.layers(kind)}
    expert = keys.get("expert_dtype") or config.get("expert_dtype")
    if isinstance(expert, str) and "quantized_layers" not in keys:
        found["experts"] = {"fp4": "mxfp4", "fp8": "fp8", "bf16": "bf16"}.get(expert, found["experts"])
    linear = found.setdefault("linear", _base(keys, method))
    found = {"attention_output": linear, "dense": linear, "experts": linear} | found
    own = {**found, "shared": found.get("shared", found["experts"])}
    cache = _cache(keys) or _cache((beside or {}).get("quantization"))
    return Formats(**own, kv_cache=cache, state=_state(config), method=method)


def _format(kind: str, keys: dict[str, Any], method: str, layout: Layout, left_out: ModuleNames) -> str:
    """The format of most of the layers asked for a class."""
    layers = layout.layers(kind)
    votes = Counter(_in_layer(kind, layer, keys, method, layout, left_out) for layer in layers)
    return votes.most_common(1)[0][0]


def _in_layer(
    kind: str, layer: int, keys: dict[str, Any], method: str, layout: Layout, left_out: ModuleNames
) -> str:
    names = [f"{prefix}.{layer}.{name}" for prefix in PREFIXES for name in layout.names(kind)]
    base = _base(keys, method)
    if isinstance(keys.get("quantized_layers"), Mapping):
        listed = _by_layer(keys).get(str(layer), {})
        own = next((one for name, one in listed.items() if any(_within(each, name) for each in names)), None)
        if isinstance(own, Mapping):
            return _algorithm(own.get("quant_algo"))
        return base if method == "fp8" else "bf16"
    if left_out.holds_any(names):
        return "bf16"
    for group in _groups(keys):
        targets = _texts(group.get("targets") or ["Linear"], "config_groups: targets")
        if "Linear" in targets or ModuleNames(targets).holds_any(names):
            return _of_group(group, str(keys.get("format") or ""))
    return base


def _by_layer(keys: dict[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """``quantized_layers`` by the layer's number; kept in the keys, as the list may have 20,000 names."""
    if "(by layer)" not in keys:
        found: dict[str, dict[str, Any]] = {}
        for name, own in keys["quantized_layers"].items():
            layer = next((part for part in str(name).split(".") if part.isdecimal()), "")
            found.setdefault(layer, {})[str(name)] = own
        keys["(by layer)"] = found
    return keys["(by layer)"]  # type: ignore[no-any-return]


def _left_out(keys: Mapping[str, Any]) -> ModuleNames:
    """Modules that stay as they were trained."""
    keys_of_lists = ("modules_to_not_convert", "exclude_modules", "ignore", "ignored_layers")
    return ModuleNames([name for key in keys_of_lists for name in _texts(keys.get(key) or [], key)])


def _texts(value: Any, key: str) -> list[str]:
    """A list of names.

    Raises:
        SpecError: something else.
    """
    if not isinstance(value, list):
        raise SpecError(f"quantization_config.{key} = {show(value)} must be a list of names")
    return [str(one) for one in value]


def _groups(keys: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = keys.get("config_groups")
    if groups is None or ("quant_algo" in keys and keys.get("quant_algo") != "MIXED_PRECISION"):
        return []
    if not isinstance(groups, Mapping) or not all(isinstance(one, Mapping) for one in groups.values()):
        raise SpecError(f"quantization_config.config_groups = {show(groups)} must be a mapping of groups")
    return list(groups.values())


def _of_group(group: Mapping[str, Any], whole: str) -> str:
    """The format of a group of compressed-tensors: by the weights' type and width."""
    weights = group.get("weights")
    if not isinstance(weights, Mapping):
        raise SpecError(f"quantization_config.config_groups: weights = {show(weights)} must be a mapping")
    name = str(group.get("format") or whole)
    bits, kind, size = weights.get("num_bits"), weights.get("type"), weights.get("group_size")
    if kind == "float" and bits == 8:
        if size == 32:
            return "mxfp8"
        return "fp8" if weights.get("strategy") == "block" or weights.get("block_structure") else "fp8-tensor"
    if kind == "float" and bits == 4:
        return "mxfp4" if size == 32 or "mxfp4" in name else "fp4"
    if kind == "int" and bits in (4, 8):
        return f"int{bits}"
    raise UnsupportedError(
        f"quantization_config: weights of type {show(kind)} with num_bits = {show(bits)} are not known; allowed: float "
        "of 8 or 4, int of 8 or 4. Take the key out and state deployment.precision"
    )


def _base(keys: Mapping[str, Any], method: str) -> str:
    """The format of everything that nothing singles out."""
    if method == "fp8":
        return "fp8" if keys.get("weight_block_size") else "fp8-tensor"
    if method in ("mxfp4", "mxfp8"):
        return method
    if method in ("awq", "gptq"):
        bits = keys.get("bits", keys.get("w_bit", 4))
        if bits not in (4, 8):
            raise UnsupportedError(
                f"quantization_config: bits = {show(bits)} is not known; allowed: 4, 8. Take the key out and state "
                "deployment.precision"
            )
        return f"int{bits}"
    if method == "compressed-tensors":
        return "bf16"  # what no group targets
    return _algorithm(keys.get("quant_algo") or keys.get("quant_type"))


def _algorithm(name: Any) -> str:
    """ModelOpt's algorithm as a format; a mixture has no format of its own."""
    word = str(name).lower()
    if word == "mixed_precision":
        return "bf16"
    if word not in ALGORITHMS:
        raise UnsupportedError(
            f"quantization_config: quant_algo = {show(name)} is not known; allowed: {', '.join(ALGORITHMS)}. Take the "
            "key out and state deployment.precision"
        )
    return ALGORITHMS[word]


def _within(name: str, other: str) -> bool:
    """Whether a module is another, lies inside it, or holds it."""
    return name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.")


STATE_KEYS = ("mamba_ssm_dtype", "mamba_ssm_cache_dtype")
"""Keys of a config that say in which format engines keep states (Qwen3.5; Nemotron-3)."""
STATE_WORDS = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}
"""What they may say -> the format of ``precision.state`` (FP16 is as wide as BF16)."""


def _state(config: Mapping[str, Any]) -> str | None:
    """The format of states; None: the config says none.

    Raises:
        SpecError: a word that is none of STATE_WORDS.
    """
    for key in STATE_KEYS:
        word = config.get(key)
        if word is None:
            continue
        if not isinstance(word, str) or word not in STATE_WORDS:
            raise SpecError(f"model config: {key} = {show(word)} must be one of {', '.join(STATE_WORDS)}")
        return STATE_WORDS[word]
    return None


def _cache(keys: Any) -> str | None:
    """The KV cache's format where the checkpoint has scales for it."""
    if not isinstance(keys, Mapping):
        return None
    scheme = keys.get("kv_cache_quant_algo") or keys.get("kv_cache_scheme")
    if isinstance(scheme, Mapping):
        return "fp8" if scheme.get("type") == "float" and scheme.get("num_bits") == 8 else None
    return "fp8" if str(scheme).lower() == "fp8" else None

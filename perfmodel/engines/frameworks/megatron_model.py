"""A model by its sizes on a line of Megatron-LM's, as a model of the catalogue with other sizes.

Kinds of models are few: latent attention as DeepSeek-V3's, experts with shared ones or dense layers before them as
GLM-4.5's, experts alone as Qwen3's or, without norms of query and key heads, Mixtral's, dense as Qwen3's or Llama's.
Sizes that none of them has are refused: MODEL says them.
"""

from typing import Any

from perfmodel.engines.frameworks.line import WHERE, Line, Trainer
from perfmodel.engines.frameworks.megatron_stages import pattern_of
from perfmodel.errors import SpecError
from perfmodel.spec.mixers import Gqa, Mixer, Mla
from perfmodel.spec.model import Model, Moe

SIZES = (
    "num-layers", "encoder-num-layers", "hidden-size", "ffn-hidden-size", "num-attention-heads", "kv-channels",
    "group-query-attention", "num-query-groups", "swiglu", "squared-relu", "quick-geglu", "multi-latent-attention",
    "q-lora-rank", "kv-lora-rank", "qk-head-dim", "qk-pos-emb-head-dim", "v-head-dim", "num-experts",
    "moe-ffn-hidden-size", "moe-router-topk", "moe-shared-expert-intermediate-size", "moe-layer-freq",
    "moe-router-num-groups", "moe-router-group-topk", "vocab-size", "padded-vocab-size",
    "make-vocab-size-divisible-by", "untie-embeddings-and-output-weights", "max-position-embeddings", "qk-layernorm",
)  # fmt: skip
"""Flags that say the model."""
OTHERS = (
    "window-size", "window-attn-skip-freq", "experimental-attention-variant", "linear-attention-freq",
    "hybrid-layer-pattern", "hybrid-override-pattern", "heterogeneous-layers-config-path",
    "heterogeneous-layers-config-encoded-json", "moe-latent-size", "is-hybrid-model", "spec",
)  # fmt: skip
"""Flags of models that sizes do not say here."""
COMPARED = {"num-layers": "num_layers", "hidden-size": "hidden_size"}


def model_of_sizes(line: Line, trainer: Trainer, tp: int) -> dict[str, Any]:
    """A model as a scenario states it, ``base`` and the keys of its config that differ.

    Raises:
        SpecError: a size that Megatron-LM needs is missing, or one that no kind of model here has.
    """
    other = next((name for name in OTHERS if line.given(name) and line.left[name] != ("local",)), None)
    if other:
        raise SpecError(
            f"{WHERE}: --{other}: sizes on the line do not say such a model here: give MODEL beside it, a name of the "
            "catalogue or a config.json"
        )
    needed = {}
    for name in ("num-layers", "hidden-size", "num-attention-heads"):
        value = line.whole(name)
        if value is None:
            raise SpecError(
                f"{WHERE}: --{name}: missing, so the line does not say the model: give MODEL beside it, a name of the "
                "catalogue or a config.json"
            )
        needed[name] = value
    layers, hidden, heads = needed.values()
    gated = line.switch("swiglu") or line.switch("quick-geglu")
    line.switch("squared-relu")
    ffn = line.whole("ffn-hidden-size") or (int(8 * hidden / 3 / 64) * 64 if gated else 4 * hidden)
    keys: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": _gated(ffn, gated),
        "tie_word_embeddings": not line.switch("untie-embeddings-and-output-weights"),
    }
    if not gated:
        trainer.notes.append(
            "two matrices per FFN (no --swiglu): taken as SwiGLU's three of 2/3 the width, which are as many "
            "weights and "
            "FLOPs"
        )
    positions = line.whole("max-position-embeddings")
    if positions is not None:
        keys["max_position_embeddings"] = positions
    _vocabulary(line, trainer, keys, tp)
    latent, normed = line.switch("multi-latent-attention"), line.switch("qk-layernorm")
    if latent:
        _latent(line, keys)
    else:
        _grouped(line, trainer, keys, heads, hidden)
    experts = line.whole("num-experts", 0)
    shared = line.whole("moe-shared-expert-intermediate-size", 0)
    mtp = (line.left.get("mtp-num-layers") or ("0",))[0] not in ("0", "")
    if not experts:
        for name in ("moe-router-topk", "moe-layer-freq", "moe-ffn-hidden-size"):
            line.left.pop(name, None)
        if latent:
            raise SpecError(
                f"{WHERE}: --multi-latent-attention without --num-experts: no model here has both: give MODEL beside it"
            )
        return {"base": "llama-3.1-70b", **({"model_type": "qwen3"} if normed else {}), **keys}
    freq = line.text("moe-layer-freq") or "1"
    where = pattern_of(freq, layers, "moe-layer-freq")
    dense = where.index(1) if 1 in where else layers
    if 0 in where[dense:]:
        raise SpecError(
            f"{WHERE}: --moe-layer-freq {freq[:60]}: dense layers between those with experts: give MODEL beside it"
        )
    moe_ffn = _gated(line.whole("moe-ffn-hidden-size") or ffn, gated)
    if not dense:
        del keys["intermediate_size"]  # no layer has a dense FFN
    keys["num_experts_per_tok"] = line.whole("moe-router-topk") or 2
    groups, top_groups = line.whole("moe-router-num-groups"), line.whole("moe-router-group-topk")
    if not (latent or shared or dense or mtp or groups):
        if not normed:
            keys |= {"num_local_experts": experts, "intermediate_size": moe_ffn}
            return {"base": "mixtral-8x22b", **keys}
        return {"base": "qwen3-30b-a3b", **keys, "num_experts": experts, "moe_intermediate_size": moe_ffn}
    shared = _gated(shared or 0, gated) if shared else 0
    if shared % moe_ffn:
        raise SpecError(
            f"{WHERE}: --moe-shared-expert-intermediate-size {shared}: no multiple of the {moe_ffn} of a routed "
            "expert: "
            "give MODEL beside it"
        )
    keys |= {
        "moe_intermediate_size": moe_ffn,
        "n_routed_experts": experts,
        "n_shared_experts": shared // moe_ffn,
        "first_k_dense_replace": dense,
        "n_group": groups or 1,
        "topk_group": top_groups or groups or 1,
        "num_nextn_predict_layers": int(mtp),
    }
    if latent:
        return {"base": "deepseek-v3", **keys}
    return {"base": "glm-4.5", "use_qk_norm": normed, **keys}


def _gated(width: int, gated: bool) -> int:
    return width if gated else max(64, round(2 * width / 3 / 64) * 64)


def _grouped(line: Line, trainer: Trainer, keys: dict[str, Any], heads: int, hidden: int) -> None:
    grouped, groups = line.switch("group-query-attention"), line.whole("num-query-groups")
    keys["num_key_value_heads"] = (groups or 1) if grouped else heads
    if groups and not grouped:
        trainer.notes.append(
            f"without effect (no --group-query-attention): --num-query-groups {groups}: every head has keys of its own"
        )
    width = line.whole("kv-channels")
    if width is None and hidden % heads:
        raise SpecError(f"{WHERE}: --num-attention-heads {heads}: must divide --hidden-size {hidden}")
    keys["head_dim"] = width or hidden // heads


def _latent(line: Line, keys: dict[str, Any]) -> None:
    line.left.pop("kv-channels", None)  # each part of a head has its own width
    for name, key, default in (
        ("q-lora-rank", "q_lora_rank", None),
        ("kv-lora-rank", "kv_lora_rank", 32),
        ("qk-head-dim", "qk_nope_head_dim", 128),
        ("qk-pos-emb-head-dim", "qk_rope_head_dim", 64),
        ("v-head-dim", "v_head_dim", 128),
    ):
        keys[key] = line.whole(name) or default
    keys["num_key_value_heads"] = keys["num_attention_heads"]


def _vocabulary(line: Line, trainer: Trainer, keys: dict[str, Any], tp: int) -> None:
    padded, size = line.whole("padded-vocab-size"), line.whole("vocab-size")
    multiple = (line.whole("make-vocab-size-divisible-by") or 128) * tp
    if padded or size:
        keys["vocab_size"] = padded or -(-(size or 1) // multiple) * multiple
    else:
        trainer.notes.append(
            "the vocabulary is the tokenizer's, and not on the line: that of the model like it is taken; state "
            "model.vocab_size"
        )


def sizes_of(model: Model, *, positions: int = 0) -> tuple[str, ...] | None:
    """A model as flags of Megatron-LM, one or a few that belong together in each; None: its flags say more than
    sizes (windows, sinks, shortcuts, ...). ``positions``: at least so many, which a sequence has.
    """
    attention = model.layers[0].attention
    dense = [layer for layer in model.layers if not layer.moe]
    moe = model.moe
    simple = all(
        layer.num_attentions == 1
        and not layer.sandwich_norms
        and layer.output_convs is None
        and layer.attention == attention
        and layer.moe in (None, moe)
        for layer in model.layers
    )
    ordered = [bool(layer.moe) for layer in model.layers] == sorted(bool(layer.moe) for layer in model.layers)
    gated = all(layer.dense_activation == "swiglu" or not layer.dense_ffn_size for layer in model.layers)
    heads = _heads_of(attention)
    if heads is None or not (simple and ordered and gated) or (moe is not None and not _plain(moe)):
        return None
    flags = [
        f"--num-layers {model.num_layers} --hidden-size {model.hidden_size}",
        heads,
        "--swiglu --disable-bias-linear --normalization RMSNorm --position-embedding-type rope",
        f"--max-position-embeddings {max(model.max_context_tokens, positions)}",
        f"--padded-vocab-size {model.vocab_size}",
    ]
    if dense:
        flags.append(f"--ffn-hidden-size {dense[0].dense_ffn_size}")
    if not model.tied_embeddings:
        flags.append("--untie-embeddings-and-output-weights")
    if moe is not None:
        first = sum(layer.count for layer in dense)
        flags.append(
            f"--num-experts {moe.num_experts} --moe-router-topk {moe.top_k} --moe-ffn-hidden-size {moe.ffn_size}"
        )
        if moe.shared_ffn_size:
            flags.append(f"--moe-shared-expert-intermediate-size {moe.shared_ffn_size}")
        if first:
            flags.append(f"--moe-layer-freq '([0]*{first}+[1]*{model.num_layers - first})'")
        if moe.num_groups > 1:
            flags.append(f"--moe-router-num-groups {moe.num_groups} --moe-router-group-topk {moe.top_groups}")
    return tuple(flags)


def _heads_of(attention: Mixer | None) -> str | None:
    if isinstance(attention, Mla):
        odd = (
            attention.sliding_window
            or attention.indexer
            or attention.sinks
            or attention.output_gate != "none"
        )
        if odd or not attention.q_lora_rank:
            return None
        return (
            f"--multi-latent-attention --num-attention-heads {attention.num_heads} --q-lora-rank "
            f"{attention.q_lora_rank} "
            f"--kv-lora-rank {attention.kv_lora_rank} --qk-head-dim {attention.qk_nope_head_dim} --qk-pos-emb-head-dim "
            f"{attention.qk_rope_head_dim} --v-head-dim {attention.v_head_dim} --qk-layernorm"
        )
    if not isinstance(attention, Gqa):
        return None
    said = {"num_heads", "num_kv_heads", "head_dim", "qkv_bias", "qk_norm"}
    if attention != Gqa(**{name: getattr(attention, name) for name in said}):
        return None
    return (
        f"--num-attention-heads {attention.num_heads} --group-query-attention --num-query-groups "
        f"{attention.num_kv_heads} "
        f"--kv-channels {attention.head_dim}"
        + (" --qk-layernorm" if attention.qk_norm else "")
        + (" --add-qkv-bias" if attention.qkv_bias else "")
    )


def _plain(moe: Moe) -> bool:
    """Whether experts are no more than their sizes."""
    odd = moe.num_zero_experts or moe.latent_size or moe.scores_shared or moe.shared_gate or moe.expert_bias
    return not odd and moe.activation == "swiglu"

"""Typed reading of a Hugging Face ``config.json``: one name per quantity, nothing overlooked.

Families call the same quantity differently (``ALIASES``). :class:`Fields` reads each by its first
alias, checks its type and range, and remembers what was read, so that :meth:`Fields.refuse_unread`
can refuse a key that nobody read and that looks like a change of architecture: an unknown switch
must never be taken for its default.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from perfmodel.errors import SpecError, UnsupportedError
from perfmodel.spec.model import Layer, Mtp, NgramEmbedding

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "num_experts_per_tok": ("num_experts_per_tok", "moe_topk", "experts_per_token"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size"),
    "moe_intermediate_size": ("moe_intermediate_size", "expert_ffn_hidden_size"),
    "n_routed_experts": (
        "n_routed_experts",
        "num_experts",
        "num_local_experts",
        "num_routed_experts",
    ),
    "n_shared_experts": ("n_shared_experts", "num_shared_experts"),
    "num_nextn_predict_layers": ("num_nextn_predict_layers", "num_mtp_layers"),
    "ngram_vocab_size_ratio": ("ngram_vocab_size_ratio", "oe_vocab_size_ratio"),
    "emb_neighbor_num": ("emb_neighbor_num", "oe_neighbor_num"),
    "emb_split_num": ("emb_split_num", "oe_split_num"),
}
"""Canonical key -> every key that states the same quantity."""

MAX_LAYERS: Final = 10_000
MAX_COUNT: Final = 10**6
MAX_TOKENS: Final = 10**9
MAX_MTP_LAYERS: Final = 100


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HARMLESS: Final = _words(
    """
    model_type architectures auto_map text_config transformers_version torch_dtype dtype
    params_dtype rounter_params_dtype router_params_dtype router_dtype moe_router_dtype
    _name_or_path name_or_path quantization_config quantization compression_config
    disable_quant_module use_cache use_cache_quantization initializer_range rms_norm_eps norm_eps
    layer_norm_eps layernorm_epsilon attention_dropout hidden_dropout embd_pdrop resid_pdrop
    rope_theta rope_scaling rope_parameters rope_interleave partial_rotary_factor rotary_dim
    default_theta mrope_section use_mrope pretraining_tp ep_size tokenizer_class
    initial_context_length original_max_position_embeddings swiglu_limit head_dtype
    routed_scaling_factor norm_topk_prob scoring_func aux_loss_alpha seq_aux router_aux_loss_coef
    output_router_logits router_jitter_noise router_z_loss_coef mla_scale_q_lora mla_scale_kv_lora
    moe_impl moe_switch_token_num mtp_disable_over_tokenizer dsa_mtp_cli use_grouped_mm
    max_window_layers output_attentions output_hidden_states output_scores return_dict
    return_dict_in_generate num_beams num_beam_groups num_return_sequences num_labels id2label
    label2id problem_type top_k top_p typical_p temperature max_length min_length length_penalty
    repetition_penalty encoder_repetition_penalty diversity_penalty early_stopping do_sample prefix
    task_specific_params torchscript tf_legacy_loss use_bfloat16 remove_invalid_values vision_config
    audio_config image_seq_length ignore_index bos_token_id eos_token_id pad_token_id sep_token_id
    decoder_start_token_id mask_token_id
    """
)
_SUSPICIOUS_WORDS: Final = _words(
    """
    attn attention attend head heads kv mla gqa lora rank qk q k v window windows sliding swa chunk
    chunked sparse sparsity index indexer topk expert experts moe router routed routing route zero
    shared share mlp ffn dense layer layers block blocks hidden intermediate inner bias norm mtp
    nextn ngram oe emb embed embedding embeddings linear kda mamba ssm conv hybrid state recurrent
    loop loops memory cross encoder decoder hyper hc mhc residual softcap softcapping compress
    compression group groups freq pattern types interval depth gate gated sink sinks latent latents
    vocab size dim num width lightning dsa nsa lsa fa cli engram hash skip recurrence parallel
    """
)

_TELLTALES: Final[Sequence[tuple[str, str]]] = (
    (r"block_configs|hybrid_override_pattern|layers_block_type", "layers of several kinds"),
    (r"(hc|mhc)_mult|compress_ratios", "hyper-connections and compressed attention"),
    (r"index_.*|indexer_.*|.*sparse_(attention|block|topk).*", "sparse attention"),
    (r"linear_.*|kda_.*|full_attention_interval|lightning_.*", "linear attention"),
    (r"(mamba|ssm)_.*|.*_ssm_.*", "state-space layers"),
    (r".*softcapping|.*_per_layer_input|query_pre_attn_scalar", "Gemma's attention and embeddings"),
    (r"swa_.*|hybrid_layer_pattern|share_expert_dim", "attentions or experts of several kinds"),
    (r"attention_chunk_size|interleave_moe_layer_step", "chunked attention"),
    (r"is_encoder_decoder|encoder_layers|type_vocab_size", "an encoder"),
    (r"use_routing_bias|qk_norm_type|attention_output_gate", "a norm or router of its own"),
    (r"num_mtp_modules|num_nextn_predict_layers", "multi-token prediction of its own"),
)
"""Pattern of a key -> what its presence shows, the most telling first."""

_REQUIRED: Final = object()


@dataclass(frozen=True, slots=True)
class Parts:
    """What differs between families; the rest of a Model is read alike for all."""

    layers: Sequence[Layer]
    mtp: Mtp | None = None
    ngram_embedding: NgramEmbedding | None = None
    unmodelled: str | None = None


def show(value: Any) -> str:
    """A value as an error message prints it, cut at 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list inside itself
        return f"<{type(value).__name__} too large to print>"
    return text if len(text) <= 60 else f"{text[:57]}..."


def refuse(model_type: object, why: str, supported: str) -> UnsupportedError:
    """The error for a model that perfmodel does not model."""
    return UnsupportedError(
        f"model_type = {show(model_type)} is not supported: {why}. Supported: {supported}"
    )


def telltale(config: Mapping[str, Any]) -> str:
    """Which key shows that a config's architecture is not modelled, in words."""
    for pattern, meaning in _TELLTALES:
        for key, value in config.items():
            if re.fullmatch(pattern, str(key)) and not _is_off(value):
                return f"{key} = {show(value)} shows {meaning}"
    return "perfmodel has no reader for it"


def _is_off(value: Any) -> bool:
    """Whether a switch is off or empty."""
    return value is None or (isinstance(value, bool | int | float | str | list | dict) and not value)


class Fields:
    """The keys of one config, read with types and ranges; errors name the key and the value."""

    def __init__(self, config: Mapping[str, Any], model_type: str) -> None:
        """Reads from ``config``, a flat mapping; ``model_type`` is for messages."""
        self.config = config
        self.model_type = model_type
        self._read: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the config states ``key``, by any alias, as something else than null."""
        return any(self.config.get(alias) is not None for alias in ALIASES.get(key, (key,)))

    def integer(
        self, key: str, *, low: int = 1, high: int = MAX_COUNT, bound: str = "", default: Any = _REQUIRED
    ) -> Any:
        """An integer in [low, high]; ``default`` where the config has none.

        Args:
            key: canonical name.
            low: smallest value allowed.
            high: largest value allowed.
            bound: what ``high`` is, where another key sets it: named in the message.
            default: the result where the key is missing or null; without one that is an error.

        Raises:
            SpecError: missing without default, of another type, out of range, or aliases that disagree.
        """
        found = self._stated(key)
        for alias, value in found:
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                origin = f" ({bound})" if bound else ""
                raise self.wrong(alias, value, f"an integer from {low} to {high}{origin}")
        return self._agreed(key, found, default)

    def number(self, key: str, *, high: float, default: Any = _REQUIRED) -> Any:
        """A positive finite number up to ``high``; ``default`` where the config has none.

        Raises:
            SpecError: missing without default, of another type, out of range, or aliases that
                disagree.
        """
        found = self._stated(key)
        for alias, value in found:
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            if not numeric or not 0 < value <= high:  # false for NaN
                raise self.wrong(alias, value, f"a number above 0 and up to {high:g}")
        return self._agreed(key, found, default)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false; ``default`` where the config has none.

        Raises:
            SpecError: another type.
        """
        found = self._stated(key)
        for alias, value in found:
            if not isinstance(value, bool):
                raise self.wrong(alias, value, "true or false")
        return bool(self._agreed(key, found, default))

    def word(self, key: str, allowed: Sequence[str], *, default: str) -> str:
        """One of ``allowed``; ``default`` where the config has none.

        Raises:
            SpecError: not a text.
            UnsupportedError: a text that is not among ``allowed``.
        """
        found = self._stated(key)
        for alias, value in found:
            if not isinstance(value, str):
                raise self.wrong(alias, value, f"one of {', '.join(allowed)}")
            if value not in allowed:
                raise UnsupportedError(
                    f"{alias} = {show(value)} is not modelled; allowed: {', '.join(allowed)}"
                )
        return str(self._agreed(key, found, default))

    def words(self, key: str, allowed: Sequence[str], *, length: int) -> list[str] | None:
        """A list of ``length`` words, each one of ``allowed``; None where the config has none.

        Raises:
            SpecError: not a list of that length.
            UnsupportedError: a word that is not among ``allowed``.
        """
        for alias, value in self._stated(key):
            if not isinstance(value, list) or len(value) != length:
                raise self.wrong(alias, value, f"a list of {length} words, one per layer")
            strange = next((word for word in value if word not in allowed), None)
            if strange is not None:
                raise UnsupportedError(
                    f"{alias} holds {show(strange)}, which is not modelled; allowed: {', '.join(allowed)}"
                )
            return list(value)
        return None

    def integers(self, key: str, *, high: int) -> list[int]:
        """A list of integers in [0, high]; empty where the config has none.

        Raises:
            SpecError: not a list of such integers.
        """
        for alias, value in self._stated(key):
            good = isinstance(value, list) and all(
                isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= high for item in value
            )
            if not good:
                raise self.wrong(alias, value, f"a list of integers from 0 to {high}")
            return list(value)
        return []

    def read_only(self, keys: Sequence[str]) -> None:
        """Marks keys as known where a switch makes them meaningless."""
        self._read.update(keys)

    def wrong(self, key: str, value: Any, allowed: str) -> SpecError:
        """The error for a value that is not allowed."""
        return SpecError(f"model config ({self.model_type}): {key} = {show(value)} must be {allowed}")

    def refuse_unread(self) -> None:
        """Refuses what nobody has read and looks like another architecture.

        Raises:
            UnsupportedError: such a key is set to something else than null, false, zero or empty.
        """
        for key, value in self.config.items():
            name = str(key)
            harmless = name in self._read or name in _HARMLESS or _is_off(value)
            if harmless or not _SUSPICIOUS_WORDS & set(name.lower().split("_")):
                continue
            raise UnsupportedError(
                f"model config ({self.model_type}): {name} = {show(value)} is a key that perfmodel "
                "does not know and that may change attention, experts or layers; remove it if it "
                "has no effect"
            )

    def _stated(self, key: str) -> list[tuple[str, Any]]:
        """Every alias of ``key`` that is not null, with its value; marks all as read."""
        aliases = ALIASES.get(key, (key,))
        self._read.update(aliases)
        values = ((alias, self.config.get(alias)) for alias in aliases)
        return [(alias, value) for alias, value in values if value is not None]

    def _agreed(self, key: str, found: list[tuple[str, Any]], default: Any) -> Any:
        """The one value of several checked aliases, or the default."""
        if not found:
            if default is _REQUIRED:
                names = " or ".join(ALIASES.get(key, (key,)))
                raise SpecError(f"model config ({self.model_type}): {names} is missing")
            return default
        (first, value), *rest = found
        for alias, other in rest:
            if other != value:
                raise SpecError(
                    f"model config ({self.model_type}): {first} = {show(value)} and "
                    f"{alias} = {show(other)} state the same quantity and must agree"
                )
        return value

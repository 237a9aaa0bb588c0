"""What keys of a ``config.json`` mean, whatever the family: synonyms, keys without consequence, suspicious ones."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

SYNONYMS: Final[Sequence[tuple[str, ...]]] = (
    ("num_experts_per_tok", "moe_topk", "experts_per_token", "moe_k", "num_experts_per_token", "moe_top_k"),
    ("intermediate_size", "ffn_hidden_size"),
    ("moe_intermediate_size", "expert_ffn_hidden_size"),
    (
        "n_routed_experts",
        "num_experts",
        "num_local_experts",
        "num_routed_experts",
        "moe_num_experts",
    ),
    (
        "n_shared_experts",
        "num_shared_experts",
        "moe_num_shared_experts",
        "num_shared_expert",
    ),
    ("num_nextn_predict_layers", "num_mtp_layers"),
    ("ngram_vocab_size_ratio", "oe_vocab_size_ratio"),
    ("emb_neighbor_num", "oe_neighbor_num"),
    ("emb_split_num", "oe_split_num"),
    ("use_qk_norm", "qk_norm", "use_qk_layernorm"),
    ("tie_word_embeddings", "tie_embedding"),
)
"""Keys that state the same quantity; the first is what family files call it."""

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {names[0]: names for names in SYNONYMS}
"""Canonical key -> every key that states the same quantity."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


HARMLESS: Final = _words(
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
    decoder_start_token_id mask_token_id pruned_heads chunk_size_feed_forward moe_norm_min
    router_scaling_factor moe_router_topk_scaling_factor route_scale embedding_dropout
    output_dropout attention_scale scale_emb logits_scaling residual_multiplier embedding_multiplier
    attention_multiplier enable_moe_fp32_combine score_function score_func topk_prob moe_router_enable_expert_bias
    router_func moe_router_score_function aux_loss_coef moe_aux_loss_coef moe_z_loss_coef
    final_logit_softcapping output_multiplier logit_scale expert_bias_update_rate load_balance_coeff
    moe_router_fusion fused_moe
    """
)
"""Keys that change no shape and no work: names, token ids, dropout, training, sampling, scales, rotary embeddings."""

SUSPICIOUS_WORDS: Final = _words(
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
"""Words of a key that nobody reads which show that it may change the architecture."""

TELLTALES: Final[Sequence[tuple[str, str]]] = (
    (r"block_configs|hybrid_override_pattern|layers_block_type", "layers of several kinds"),
    (r"(hc|mhc)_.*|compress_ratios?|hyper_.*", "hyper-connections or compressed attention"),
    (r"index_.*|indexer_.*|.*sparse_(attention|block|topk).*", "sparse attention with an index branch"),
    (r"linear_.*|kda_.*|full_attention_interval|lightning_.*", "linear attention"),
    (r"(mamba|ssm)_.*|.*_ssm_.*|conv_.*", "state-space or convolution layers"),
    (r".*softcapping|.*_per_layer_input|query_pre_attn_scalar", "logit caps or embeddings per layer"),
    (r"swa_.*|hybrid_layer_pattern|sliding_.*|layer_types", "windows in some layers"),
    (r"share_expert_dim|shared_.*", "shared experts"),
    (r"attention_chunk_size|interleave_moe_layer_step", "chunked attention or experts in some layers"),
    (r"is_encoder_decoder|encoder_layers|type_vocab_size", "an encoder"),
    (r"use_routing_bias|qk_norm.*|.*output_gate.*|use_bias", "a bias, gate or norm"),
    (r"num_mtp_.*|num_nextn_.*|mtp_.*", "multi-token prediction"),
    (r"moe_latent_.*|routed_expert_hidden_size|moe_hidden_size", "experts behind a narrower latent"),
)
"""Pattern of a key -> what its presence shows, the most telling first."""


def tells(key: str) -> tuple[int, str]:
    """How telling an unread key is (0: most), and what it shows, in words."""
    for rank, (pattern, words) in enumerate(TELLTALES):
        if re.fullmatch(pattern, key):
            return rank, f"it shows {words}"
    return len(TELLTALES), "it may change attention, experts or layers"


def suspicious(key: str) -> bool:
    """Whether a key that nobody has read may change the architecture."""
    return bool(SUSPICIOUS_WORDS & set(key.lower().replace(".", "_").split("_")))


def is_off(value: Any) -> bool:
    """Whether a switch is off or empty."""
    return value is None or (isinstance(value, bool | int | float | str | list | dict) and not value)

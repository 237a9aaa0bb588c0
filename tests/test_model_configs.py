"""Reading Hugging Face configs: aliases, traps, refusals by name, and no traceback, ever."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import PerfModelError, SpecError, UnsupportedError
from perfmodel.ops.parameters import parameter_counts
from perfmodel.spec.mixers import Gqa, Indexer, Mla
from perfmodel.spec.model import Model
from perfmodel.spec.models.keys import ALIASES
from perfmodel.spec.models.reader import model_from_config, read_config

MODELS = Path(__file__).resolve().parent.parent / "perfmodel" / "data" / "models"
CONFIGS = {path.stem: json.loads(path.read_text()) for path in sorted(MODELS.glob("*.json"))}
LONGCAT = CONFIGS["longcat-flash"]
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}
QWEN3_MOE = LLAMA | {
    "model_type": "qwen3_moe",
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
MLA_KEYS = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
DEEPSEEK = (
    LLAMA
    | MLA_KEYS
    | {
        "model_type": "deepseek_v3",
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    }
)


def read(config: dict[str, Any], expected: float | None = None) -> Model:
    return model_from_config(config, name="test", expected_real_experts=expected)


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def gqa(model: Model, run: int = 0) -> Gqa:
    attention = model.layers[run].attention
    assert isinstance(attention, Gqa)
    return attention


# --- LongCat ---------------------------------------------------------------------------------


def test_longcat_flash() -> None:
    model = read(LONGCAT, expected=8)
    (block,) = model.layers
    assert (block.count, block.num_attentions, block.dense_ffn_size) == (28, 2, 12288)
    assert block.shortcut
    moe = block.moe
    assert moe is not None
    assert (moe.num_experts, moe.num_zero_experts, moe.top_k, moe.ffn_size) == (512, 256, 12, 2048)
    assert moe.correction_bias
    assert not moe.router_bias
    assert moe.mean_real_experts == 8
    assert block.attention == Mla(
        num_heads=64,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
    )
    assert model.indexer is None
    assert model.unmodelled is None
    assert model.max_context_tokens == 131072


def test_longcat_layers_are_blocks_of_two_attentions() -> None:
    """transformers states num_hidden_layers = 56 = 2 x num_layers: neither doubles the model."""
    both = LONGCAT | {"num_hidden_layers": 56}
    attentions_only = without(both, "num_layers")
    for config in (both, attentions_only):
        assert read(config).num_layers == 28
        assert parameter_counts(read(config)).total == 560_664_958_976
    with pytest.raises(SpecError, match=r"num_hidden_layers = 28 must be num_layers \* 2 = 56"):
        read(LONGCAT | {"num_hidden_layers": 28})
    with pytest.raises(SpecError, match=r"num_hidden_layers = 57 must be a multiple of 2"):
        read(without(LONGCAT, "num_layers") | {"num_hidden_layers": 57})
    with pytest.raises(SpecError, match="num_layers is missing"):
        read(without(LONGCAT, "num_layers"))


def test_longcat_aliases_of_other_families() -> None:
    renamed = without(
        LONGCAT, "moe_topk", "ffn_hidden_size", "expert_ffn_hidden_size", "n_routed_experts"
    ) | {
        "num_experts_per_tok": 12,
        "intermediate_size": 12288,
        "moe_intermediate_size": 2048,
        "num_local_experts": 512,
    }
    assert read(renamed) == read(LONGCAT)
    agreeing = LONGCAT | {"num_experts_per_tok": 12}
    assert read(agreeing) == read(LONGCAT)
    with pytest.raises(SpecError, match=r"num_experts_per_tok = 8 and moe_topk = 12 .* agree"):
        read(LONGCAT | {"num_experts_per_tok": 8})


def test_longcat_draft_layer() -> None:
    """LongCat-Flash has one dense draft layer that its config omits; Flash-Lite has none."""
    draft = read(LONGCAT).mtp
    assert draft is not None
    assert draft.num_layers == 1
    assert (draft.layer.count, draft.layer.num_attentions, draft.layer.dense_ffn_size) == (
        1,
        1,
        12288,
    )
    assert draft.layer.moe is None
    assert read(CONFIGS["longcat-flash-lite"]).mtp is None
    assert read(LONGCAT | {"mtp_num_layers": 0}).mtp is None
    stated = read(LONGCAT | {"num_nextn_predict_layers": 3}).mtp
    assert stated is not None
    assert stated.num_layers == 3
    shared = read(LONGCAT | {"mtp_num_layers": 3, "mtp_replicate_modules": True}).mtp
    assert shared is not None
    assert shared.num_layers == 1
    with pytest.raises(UnsupportedError, match="nextn_use_scmoe"):
        read(LONGCAT | {"nextn_use_scmoe": True})


def test_ngram_embedding() -> None:
    lite = read(CONFIGS["longcat-flash-lite"]).ngram_embedding
    assert lite is not None
    assert (lite.num_tables, lite.table_width) == (12, 256)
    rows = sum(78 * 131072 + 2 * index + 1 for index in range(12))
    assert lite.num_tables * lite.rows_per_table == rows
    newer = read(CONFIGS["longcat-2.0"]).ngram_embedding
    assert newer is not None
    assert (newer.num_tables, newer.table_width) == (16, 512)
    for key in ("emb_neighbor_num", "emb_split_num", "ngram_vocab_size_ratio"):
        with pytest.raises(SpecError, match=key):
            read(without(CONFIGS["longcat-flash-lite"], key))


def test_longcat_2_shares_an_indexer_between_the_attentions_of_a_block() -> None:
    config = CONFIGS["longcat-2.0"]
    model = read(config)
    assert model.num_indexers == 38, "one per block: cli_factor 2"
    (block,) = model.layers
    assert block.num_indexers == 1
    attention = block.attention
    assert isinstance(attention, Mla)
    assert attention.indexer == Indexer(
        num_heads=32, head_dim=128, top_k=2048, sink_tokens=16, local_tokens=1024, key_norm="rms"
    )
    assert model.mtp is not None
    assert model.mtp.layer.indexers == 1, "its checkpoint holds one"
    dense = read(config | {"use_longcat_dsa": False})
    assert dense.indexer is None
    assert dense.mtp is not None
    assert dense.mtp.layer.indexers == 0
    sparser = read(config | {"index_topk_pattern": ["C", "S", "S", "S"] * 19})
    assert sparser.num_indexers == 19
    assert [(run.count, run.num_indexers) for run in sparser.layers] == [(19, 1), (19, 0)]
    with pytest.raises(SpecError, match="cli_factor = 3 must be a divisor of the 76"):
        read(config | {"cli_factor": 3})
    with pytest.raises(SpecError, match=r"index_topk_pattern .* at least one 'C'"):
        read(config | {"index_topk_pattern": ["S"] * 76})
    with pytest.raises(SpecError, match="index_n_heads"):
        read(LONGCAT | {"attention_method": "LSA"})


def test_expected_real_experts() -> None:
    assert read(LONGCAT).moe is not None
    assert read(LONGCAT).moe.mean_real_experts == 8  # type: ignore[union-attr]
    lower = read(LONGCAT, expected=7.5).moe
    assert lower is not None
    assert lower.mean_real_experts == 7.5
    assert read(DEEPSEEK, expected=2) == read(DEEPSEEK)
    for wrong in (0, -1, 13, math.nan, True, "8"):
        with pytest.raises(SpecError, match="expected_real_experts"):
            read(LONGCAT, expected=wrong)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="must be 2: without zero-computation experts"):
        read(DEEPSEEK, expected=1.5)
    with pytest.raises(SpecError, match="model without experts"):
        read(LLAMA, expected=1)


# --- other families --------------------------------------------------------------------------


def test_deepseek_layers_groups_and_draft() -> None:
    model = read(CONFIGS["deepseek-v3"])
    dense, sparse = model.layers
    assert (dense.count, dense.dense_ffn_size, dense.moe) == (3, 18432, None)
    assert sparse.count == 58
    assert sparse.moe is not None
    assert (sparse.moe.num_groups, sparse.moe.top_groups) == (8, 4)
    assert (sparse.moe.shared_ffn_size, sparse.moe.shared_gate) == (2048, False)
    assert model.mtp is not None
    assert model.mtp.num_layers == 1
    assert model.mtp.layer.moe == sparse.moe
    assert read(CONFIGS["kimi-k2"]).mtp is None


def test_deepseek_v2_routing_and_direct_query() -> None:
    config = DEEPSEEK | {
        "model_type": "deepseek_v2",
        "q_lora_rank": None,
        "n_group": 4,
        "topk_group": 2,
        "topk_method": "greedy",
        "n_shared_experts": 2,
    }
    model = read(config)
    attention = model.layers[0].attention
    assert isinstance(attention, Mla)
    assert attention.q_lora_rank is None
    assert model.moe is not None
    assert (model.moe.num_groups, model.moe.correction_bias) == (1, False)
    assert model.moe.shared_ffn_size == 64
    limited = read(config | {"topk_method": "group_limited_greedy"}).moe
    assert limited is not None
    assert (limited.num_groups, limited.top_groups) == (4, 2)


def test_moe_layer_freq_and_all_sparse() -> None:
    alternating = read(DEEPSEEK | {"moe_layer_freq": 2})
    assert [(run.count, run.moe is not None) for run in alternating.layers] == [
        (3, False),
        (1, True),
    ]
    (sparse,) = read(DEEPSEEK | {"first_k_dense_replace": 0}).layers
    assert sparse.count == 4
    (dense,) = read(DEEPSEEK | {"first_k_dense_replace": 4}).layers
    assert dense.moe is None


def test_gpt_oss_alternates_windows() -> None:
    model = read(CONFIGS["gpt-oss-120b"])
    assert [(run.count, gqa(model, i).sliding_window) for i, run in enumerate(model.layers)] == [
        (18, 128),
        (18, None),
    ]
    attention = gqa(model)
    assert attention.sinks
    assert attention.qkv_bias
    assert attention.output_bias
    assert model.moe is not None
    assert model.moe.expert_bias
    assert model.moe.router_bias
    linear = ["linear_attention", *CONFIGS["gpt-oss-120b"]["layer_types"][1:]]
    with pytest.raises(UnsupportedError, match=r"layer_types holds 'linear_attention'"):
        read(CONFIGS["gpt-oss-120b"] | {"layer_types": linear})
    with pytest.raises(SpecError, match=r"layer_types .* must be a list of 36"):
        read(CONFIGS["gpt-oss-120b"] | {"layer_types": ["full_attention"]})


def test_qwen_windows_count_only_when_used() -> None:
    stated = QWEN3_MOE | {"sliding_window": 128, "use_sliding_window": False}
    assert gqa(read(stated)).sliding_window is None
    assert gqa(read(stated | {"use_sliding_window": True})).sliding_window == 128
    dense = LLAMA | {"model_type": "qwen3", "head_dim": 16, "sliding_window": 128}
    used = read(dense | {"use_sliding_window": True, "max_window_layers": 3})
    assert [(run.count, gqa(used, i).sliding_window) for i, run in enumerate(used.layers)] == [
        (3, None),
        (1, 128),
    ]
    types = ["full_attention"] * 3 + ["sliding_attention"]
    for unused in ({"use_sliding_window": False}, {}):  # as transformers: a window of none
        assert [run.count for run in read(dense | {"layer_types": types} | unused).layers] == [4]
    assert len(read(dense | {"layer_types": types, "use_sliding_window": True}).layers) == 2


def test_mistral_windows() -> None:
    config = LLAMA | {"model_type": "mistral"}
    assert gqa(read(config | {"sliding_window": 4096})).sliding_window == 4096
    assert gqa(read(config | {"sliding_window": None})).sliding_window is None
    with pytest.raises(SpecError, match="sliding_window is missing"):
        read(config)
    with pytest.raises(UnsupportedError, match="sliding_window = 4096"):
        read(LLAMA | {"sliding_window": 4096})


def test_qwen_dense_and_sparse_layers() -> None:
    mixed = read(QWEN3_MOE | {"mlp_only_layers": [0], "decoder_sparse_step": 2})
    assert [(run.count, run.moe is not None) for run in mixed.layers] == [(2, False), (2, True)]
    assert gqa(mixed).qk_norm
    with pytest.raises(SpecError, match=r"mlp_only_layers = \[7\]"):
        read(QWEN3_MOE | {"mlp_only_layers": [7]})
    with pytest.raises(SpecError, match="intermediate_size"):
        read(without(QWEN3_MOE, "intermediate_size") | {"mlp_only_layers": [0]})
    assert read(without(QWEN3_MOE, "intermediate_size")).num_layers == 4


def test_biases_by_family() -> None:
    assert not gqa(read(LLAMA)).qkv_bias
    biased = gqa(read(LLAMA | {"attention_bias": True}))
    assert (biased.qkv_bias, biased.output_bias) == (True, True)
    qwen2 = gqa(read(LLAMA | {"model_type": "qwen2"}))
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.qk_norm) == (True, False, False)
    glm = read(CONFIGS["glm-4.5"])
    assert (gqa(glm).qkv_bias, gqa(glm).output_bias, gqa(glm).qk_norm) == (True, False, True)
    assert glm.mtp is not None
    with pytest.raises(UnsupportedError, match="attention_bias"):
        read(LLAMA | {"model_type": "mistral", "sliding_window": None, "attention_bias": True})
    with pytest.raises(UnsupportedError, match="mlp_bias"):
        read(LLAMA | {"mlp_bias": True})
    with pytest.raises(UnsupportedError, match="attention_bias"):
        read(DEEPSEEK | {"attention_bias": True})


def test_head_width() -> None:
    assert gqa(read(LLAMA)).head_dim == 16
    assert gqa(read(LLAMA | {"head_dim": 32})).head_dim == 32
    assert gqa(read(without(QWEN3_MOE, "head_dim"))).head_dim == 16, "as transformers, where none is stated"
    with pytest.raises(SpecError, match="hidden_size = 66 must be a multiple of num_attention_heads = 4"):
        read(LLAMA | {"hidden_size": 66})
    with pytest.raises(
        SpecError, match="num_attention_heads = 4 must be a multiple of num_key_value_heads = 3"
    ):
        read(LLAMA | {"num_key_value_heads": 3})
    assert gqa(read(without(LLAMA, "num_key_value_heads"))).num_kv_heads == 4


def test_qwen2_moe_shared_expert() -> None:
    config = QWEN3_MOE | {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 48}
    model = read(config)
    assert model.moe is not None
    assert (model.moe.shared_ffn_size, model.moe.shared_gate) == (48, True)
    assert gqa(model).qkv_bias
    with pytest.raises(UnsupportedError, match="shared_expert_intermediate_size = 48"):
        read(config | {"model_type": "qwen3_moe"})


def test_nested_text_config() -> None:
    text = without(DEEPSEEK, "model_type") | {"model_type": "kimi_k2"}
    outer = {
        "model_type": "kimi_k25",
        "architectures": ["KimiK25ForConditionalGeneration"],
        "text_config": text,
        "vision_config": {"hidden_size": 1152},
        "tie_word_embeddings": True,
        "use_unified_vision_chunk": True,
    }
    assert read(outer) == read(text | {"tie_word_embeddings": True})
    vision = {"text_config": QWEN3_MOE | {"model_type": "qwen3_vl_moe_text"}, "vision_config": {}}
    assert read(vision).model_copy(update={"family": ""}) == read(QWEN3_MOE).model_copy(update={"family": ""})
    with pytest.raises(SpecError, match="text_config"):
        read({"model_type": "kimi_k25", "text_config": 3})


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("LlamaForCausalLM", LLAMA),
        ("Qwen3MoeForCausalLM", QWEN3_MOE),
        ("DeepseekV3ForCausalLM", DEEPSEEK),
        ("LongcatFlashForCausalLM", LONGCAT),
    ],
)
def test_architectures_stand_in_for_model_type(architecture: str, config: dict[str, Any]) -> None:
    plain = without(config, "model_type") | {"architectures": [architecture]}
    assert read(plain) == read(config)


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ({"index_n_heads": 64, "index_topk": 2048}, "index_n_heads = 64 .* sparse attention"),
        ({"full_attention_interval": 4}, "full_attention_interval = 4 .* linear attention"),
        ({"linear_attn_config": {"kda_layers": [1]}}, "linear_attn_config .* linear attention"),
        ({"hybrid_override_pattern": "M-M*"}, "hybrid_override_pattern .* layers of several kinds"),
        ({"block_configs": [{}]}, "block_configs"),
        ({"ssm_state_size": 128}, "ssm_state_size .* state-space"),
        ({"hc_mult": 4}, "hc_mult = 4 .* hyper-connections"),
        ({"attention_chunk_size": 8192}, "attention_chunk_size .* chunked"),
        ({"type_vocab_size": 2}, "type_vocab_size = 2 .* an encoder"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder .* an encoder"),
        ({"layer_types": ["hybrid"] * 4}, "layer_types holds 'hybrid'"),
        ({"hidden_size": None}, "and so is hidden_size"),
    ],
)
def test_what_a_family_in_no_file_is_refused_for(keys: dict[str, Any], shown: str) -> None:
    """By the key that is not understood and what it shows, and with the model type: never "no reader"."""
    with pytest.raises(PerfModelError, match=shown) as caught:
        read(LLAMA | {"model_type": "brand_new"} | keys)
    assert "model_type = 'brand_new' is in no family's file" in str(caught.value)


def test_plain_attention_of_a_family_in_no_file_is_read() -> None:
    """Grouped-query or latent attention, dense or with experts, whose keys are all understood."""
    dense = read(LLAMA | {"model_type": "brand_new", "attention_bias": True, "qk_norm": True})
    assert (gqa(dense).qkv_bias, gqa(dense).qk_norm, dense.family) == (True, True, "brand_new")
    experts = {key: QWEN3_MOE[key] for key in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")}
    sparse = read(LLAMA | experts | {"model_type": "x", "n_shared_experts": 2, "first_k_dense_replace": 1})
    assert [(run.count, run.moe and run.moe.shared_ffn_size) for run in sparse.layers] == [(1, None), (3, 64)]
    latent = read_config(DEEPSEEK | {"model_type": "y"}, name="y")
    assert latent.model.model_copy(update={"family": "", "name": "test"}) == read(DEEPSEEK).model_copy(
        update={"family": ""}
    )
    assert latent.generic
    assert not read_config(DEEPSEEK, name="x").generic
    named = without(LLAMA, "model_type") | {"architectures": ["NewForCausalLM"]}
    assert read(named).family == "NewForCausalLM"


def test_keys_that_nobody_reads_are_listed() -> None:
    reading = read_config(LLAMA | {"swiftness": 3, "rope_theta": 1e6, "nothing": None}, name="x")
    assert reading.unread == {"swiftness": 3}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("index_topk", 2048),
        ("attn_output_gate", True),
        ("linear_num_heads", 8),
        ("num_experts", 8),
        ("num_nextn_predict_layers", 1),
        ("moe_latent_size", 1024),
        ("q_lora_rank", 8),
        ("layer_sparsity", math.nan),
    ],
)
def test_unknown_switches_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=rf"{key} = .*does not know"):
        read(LLAMA | {key: value})
    for off in (None, False, 0, "", [], {}):
        assert read(LLAMA | {key: off}) == read(LLAMA)


def test_harmless_keys_are_ignored() -> None:
    harmless = {
        "torch_dtype": "bfloat16",
        "rope_scaling": {"type": "yarn", "factor": 40},
        "auto_map": {"AutoConfig": "x.Y"},
        "bos_token_id": [1, 2],
        "attention_dropout": 0.1,
        "some_comment": "made by hand",
    }
    assert read(LLAMA | harmless) == read(LLAMA)


def test_activation_must_be_gated_silu() -> None:
    with pytest.raises(UnsupportedError, match="hidden_act = 'gelu'"):
        read(LLAMA | {"hidden_act": "gelu"})


# --- bad values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [True, "12", 12.0, math.nan, math.inf, -1, 0, 10**30, 10**5000, [12], {}, 1e30],
    ids=lambda value: type(value).__name__,
)
def test_wrong_values_name_key_value_and_what_is_allowed(value: Any) -> None:
    for key in ("num_layers", "moe_topk", "hidden_size", "kv_lora_rank", "vocab_size"):
        with pytest.raises(SpecError, match=rf"{key} = .* must be an integer from 1 to \d+"):
            read(LONGCAT | {key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moe_topk": 769}, r"moe_topk = 769 exceeds the 768 routed experts"),
        ({"zero_expert_type": "drop"}, "zero_expert_type = 'drop' is not modelled"),
        ({"zero_expert_num": -1}, "zero_expert_num = -1 must be an integer from 0"),
        ({"use_mla": 0}, "use_mla = 0"),
        ({"num_key_value_heads": 8}, "num_key_value_heads = 8 must be num_attention_heads = 64"),
        ({"qk_head_dim": 128}, r"qk_head_dim = 128 must be qk_nope_head_dim \+ qk_rope_head_dim"),
        ({"attention_method": "GQA"}, "attention_method = 'GQA' is not modelled"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1 must be true or false"),
    ],
)
def test_inconsistent_longcat_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PerfModelError, match=message):
        read(LONGCAT | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_group": 3}, "n_routed_experts = 8 must be a multiple of n_group = 3"),
        ({"n_group": 4, "topk_group": 5}, "topk_group = 5 exceeds n_group = 4"),
        ({"first_k_dense_replace": 5}, "first_k_dense_replace = 5 must be an integer from 0 to 4"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok = 9 exceeds the 8 routed experts"),
        ({"topk_method": "hash"}, "topk_method = 'hash' is not modelled"),
        ({"num_experts": 16}, "n_routed_experts = 8 and num_experts = 16"),
    ],
)
def test_inconsistent_deepseek_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PerfModelError, match=message):
        read(DEEPSEEK | change)


def test_ngram_ratio_is_bounded() -> None:
    lite = CONFIGS["longcat-flash-lite"]
    for ratio in (math.nan, math.inf, -1, 0, True, "78", 10**400):
        with pytest.raises(SpecError, match="ngram_vocab_size_ratio"):
            read(lite | {"ngram_vocab_size_ratio": ratio})
    with pytest.raises(SpecError, match="tables of at most"):
        read(lite | {"ngram_vocab_size_ratio": 1e5})


@pytest.mark.parametrize("config", [None, 3, "x", [], {}, {"model_type": 7}, {"model_type": []}])
def test_what_is_not_a_config(config: Any) -> None:
    with pytest.raises(SpecError, match="model config"):
        read(config)


FIELDS_OF_KEY = {alias: names for names in ALIASES.values() for alias in names}
MUTATIONS: list[Any] = [None, -1, 0, math.nan, 1e30, "x", [], {}, True]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    config = draw(st.sampled_from(list(CONFIGS.values())))
    key = draw(st.sampled_from(sorted(config)))
    if draw(st.booleans()):
        return key, without(config, key)
    return key, config | {key: draw(st.sampled_from(MUTATIONS))}


def complaint(config: dict[str, Any]) -> str | None:
    """The message of the error that reading ``config`` raises, or None for a valid model."""
    try:
        model = read(config)
    except PerfModelError as error:
        return str(error)
    assert parameter_counts(model).total > 0
    return None


def names_key(message: str, key: str) -> bool:
    """Whether the message names the key or an alias of it."""
    names = FIELDS_OF_KEY.get(key, (key,))
    return any(re.search(rf"\b{re.escape(name)}\b", message) for name in names)


@settings(max_examples=600, deadline=None)
@given(mutated())
def test_a_broken_config_gives_a_model_or_an_error_that_names_the_key(
    case: tuple[str, dict[str, Any]],
) -> None:
    key, config = case
    message = complaint(config)
    assert message is None or names_key(message, key), message


@pytest.mark.parametrize("name", CONFIGS)
def test_every_single_mutation(name: str) -> None:
    """The same, exhaustively: every key of every shipped config, deleted and with every value."""
    config = CONFIGS[name]
    for key in config:
        changed = [config | {key: value} for value in MUTATIONS]
        for broken in (without(config, key), *changed):
            message = complaint(broken)
            assert message is None or names_key(message, key), message

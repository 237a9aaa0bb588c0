"""Parameters and FLOPs against transformers' own modules, built full size on the meta device."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from oracle_env import COUNTED, MODELS, oracle_flops, oracle_parameters, run_oracle

from perfmodel.ops.parameters import matmul_parameters, ngram_parameters, parameter_counts
from perfmodel.spec.mixers import Gqa
from perfmodel.spec.model import Model
from perfmodel.spec.models.reader import model_from_config

pytestmark = pytest.mark.oracle

NAMES = sorted(COUNTED)
LACKING = {
    "longcat-flash-lite": "transformers 5.23 has no LongcatFlashNgramForCausalLM: no n-gram embedding",
    "longcat-2.0": "transformers 5.23 has no LongcatCausalLM: no n-gram embedding and no indexer",
}
"""Models of which transformers has all but a part -> that part; the rest is compared."""


def load(name: str) -> Model:
    return model_from_config(json.loads((MODELS / f"{name}.json").read_text()), name=name)


def test_only_the_models_known_to_lack_a_part_have_it() -> None:
    models = {name: load(name) for name in NAMES}
    assert {name for name, model in models.items() if model.ngram_embedding or model.indexer} == set(LACKING)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_equal_transformers(name: str) -> None:
    """Exactly, by component; multi-token prediction layers are in no transformers model."""
    theirs = oracle_parameters()[name]
    counts = parameter_counts(load(name))
    ours = {key: value for key, value in asdict(counts).items() if key not in ("mtp", "indexer")}
    assert (ours.pop("ngram_embedding") > 0) == (name in LACKING), LACKING.get(name)
    assert {key: value for key, value in ours.items() if value} == {
        key: value for key, value in theirs.items() if key != "total"
    }
    assert counts.total - counts.ngram_embedding == theirs["total"]


@pytest.mark.parametrize("name", NAMES)
def test_linear_flops_equal_two_per_weight_and_token(name: str) -> None:
    theirs = oracle_flops()[name]
    model = load(name)
    weights = matmul_parameters(model, theirs["experts"]) - ngram_parameters(model)[1]
    assert theirs["linear"] == 2 * theirs["tokens"] * weights


@pytest.mark.parametrize("name", NAMES)
def test_attention_flops_equal_the_closed_form(name: str) -> None:
    """2 S^2 heads (query width + value width) per attention, full square, keys and values expanded."""
    theirs = oracle_flops()[name]
    per_pair = 0
    for run in load(name).layers:
        attention = run.attention
        widths = (
            2 * attention.head_dim
            if isinstance(attention, Gqa)
            else attention.qk_head_dim + attention.v_head_dim
        )
        per_pair += run.count * run.num_attentions * attention.num_heads * widths
    assert theirs["attention"] == 2 * theirs["tokens"] ** 2 * per_pair


def test_flops_of_longcat_flash_are_those_measured_before() -> None:
    """28.4015 TFLOP for 512 tokens at 8 real experts, 54.30 GFLOP per token of them linear."""
    flops = oracle_flops()["longcat-flash"]
    assert round((flops["linear"] + flops["attention"]) / 1e12, 4) == 28.4015
    assert round(flops["linear"] / flops["tokens"] / 1e9, 2) == 54.30


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "first_k_dense_replace": 1,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "topk_method": "greedy",
}
SHARED = {"shared_expert_intermediate_size": 40}
OTHERS: dict[str, dict[str, object]] = {
    "llama-biased-tied": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 128, "head_dim": 20},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen2-moe": {"architectures": ["Qwen2MoeForCausalLM"], **EXPERTS, **SHARED, "mlp_only_layers": [1]},
    "qwen3-biased": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 24, "attention_bias": True},
    "qwen3-moe-stepped": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "head_dim": 16,
        **EXPERTS,
        "decoder_sparse_step": 2,
    },
    "deepseek-v2": {"architectures": ["DeepseekV2ForCausalLM"], **LATENT},
    "deepseek-v3-direct-query": {
        "architectures": ["DeepseekV3ForCausalLM"],
        **LATENT,
        "topk_method": "noaux_tc",
    },
}
"""Small configs of the families and switches that no catalogue model has."""


def test_small_models_of_the_other_families_equal_transformers(tmp_path: Path) -> None:
    paths = []
    for name, keys in OTHERS.items():
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(SMALL | keys))
    theirs = run_oracle("count_parameters.py", *map(str, paths))
    for name, keys in OTHERS.items():
        counts = parameter_counts(model_from_config(SMALL | keys, name=name))
        ours = {key: value for key, value in asdict(counts).items() if value}
        assert ours | {"total": counts.total} == theirs[name], name

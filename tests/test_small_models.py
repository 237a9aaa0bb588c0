"""A small model of every family that transformers has, run on the CPU: parameters, and FLOPs by FlopCounterMode.

Recorded configs are cut to LAYERS layers and small widths; both sides read the same ones.
"""

import json
from functools import cache
from typing import Any

import pytest
from oracle_env import run_oracle
from test_families import COUNTED_AS_WEIGHTS, NAMES, REFUSED, elements, recorded

from perfmodel.ops.parameters import layer_index_weights, matmul_parameters, parameter_counts
from perfmodel.spec.mixers import CompressedAttention, Gqa, Indexer, Mla
from perfmodel.spec.model import Model
from perfmodel.spec.models.reader import read_config
from perfmodel.spec.models.wrappers import language_model

pytestmark = pytest.mark.oracle

LAYERS = 12
HEADS = {"num_attention_heads", "swa_num_attention_heads"}
KV_HEADS = {"num_key_value_heads", "swa_num_key_value_heads"}
EXPERTS = {"n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"}
SMALL: dict[str, int] = {
    **dict.fromkeys(HEADS, 8),
    **dict.fromkeys(EXPERTS, 8),
    **dict.fromkeys(("num_hidden_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("head_dim", "v_head_dim", "swa_head_dim", "swa_v_head_dim"), 16),
    **dict.fromkeys(("sliding_window", "sliding_window_size"), 16),
    "hidden_size": 64,
    "intermediate_size": 96,
    "intermediate_size_mlp": 80,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "moe_shared_expert_intermediate_size": 24,
    "moe_latent_size": 32,
    "vocab_size": 100,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "index_n_heads": 4,
    "index_head_dim": 16,
    "index_topk": 16,
    "o_groups": 4,
    "o_lora_rank": 12,
    "linear_num_heads": 4,
    "linear_head_dim": 16,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "mamba_n_heads": 8,
    "mamba_num_heads": 8,
    "mamba_d_head": 16,
    "mamba_head_dim": 16,
    "mamba_n_groups": 2,
    "n_groups": 2,
    "mamba_d_state": 8,
    "ssm_state_size": 8,
    "mamba_dt_rank": 12,
    "max_position_embeddings": 512,
}
"""Key -> its value in a small model, where the config states one above 0."""
DROPPED = {"quantization_config", "time_step_limit"}
OF_ONE_CONFIG: dict[str, dict[str, Any]] = {
    "dots3_note": {"per_layer_config": None, "head_dim": 20, "shared_experts_intermediate_size": 24},
    "Hunyuan-A13B": {"moe_intermediate_size": 96},
    "step3p7": {"sliding_window": 16},
    "llama4": {"num_experts_per_tok": 1},
}
"""Config -> what its own checks, or transformers' class, demand: Hunyuan's experts are as wide there as its FFN."""
LACKING = {
    "Grok-2": "transformers' git is another model",
    "LongCat-Next(stub)": "no n-gram embedding; test_oracle_counts.py has the rest",
    "Ling-1T": "remote code",
    "Mistral-Large-3": "its format is vLLM's own; its layers are DeepSeek-V3's",
    "Step-3": "remote code",
    "dbrx": "its class does not run in 5.24: no rope_theta",
    "longcat_flash": "experts for its zero-computation ones; test_oracle_counts.py",
}
"""Configs whose family is not compared -> why."""


def small(name: str) -> dict[str, Any]:
    """A recorded config with LAYERS layers and small widths."""
    flat = language_model(recorded()[name]["config"])
    layers = flat.get("num_hidden_layers") or flat.get("num_layers") or LAYERS
    cut = {key: _small(key, value, layers) for key, value in flat.items() if key not in DROPPED}
    for key in KV_HEADS & set(cut):
        if cut[key]:
            cut[key] = {1: 1, flat["num_attention_heads"]: 8}.get(flat[key], 2)
    if "qk_head_dim" in cut:
        cut["qk_head_dim"] = cut["qk_nope_head_dim"] + cut["qk_rope_head_dim"]
    if cut.get("kv_lora_rank") and "head_dim" in cut:
        cut["head_dim"] = cut["qk_rope_head_dim"] or 16
    return (
        cut | dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0) | OF_ONE_CONFIG.get(name, {})
    )


def _small(key: str, value: Any, layers: int) -> Any:
    if isinstance(value, list) and len(value) >= layers:
        value = value[:LAYERS]
    if isinstance(value, list) and key in SMALL:
        return [SMALL[key]] * len(value)
    counted = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return SMALL[key] if key in SMALL and counted else value


@cache
def one_of_each_family() -> tuple[str, ...]:
    """A config per family: one that transformers counted, if there is."""
    found: dict[str, str] = {}
    for name in sorted(NAMES, key=lambda name: ("parameters" not in recorded()[name], "/" in name, name)):
        if name not in REFUSED:
            found.setdefault(read_config(recorded()[name]["config"], name=name).family.name, name)
    return tuple(name for name in found.values() if name not in LACKING)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What transformers' models hold and multiply, all in one run."""
    path = tmp_path_factory.mktemp("small") / "configs.json"
    path.write_text(json.dumps({name: small(name) for name in one_of_each_family()}))
    return run_oracle("run_small.py", str(path))


def read_small(name: str) -> Model:
    return read_config(small(name), name=name).model


def left_out(name: str, model: Model) -> int:
    """Vectors and scalars that no formula counts (test_families.LEFT_OUT), and selection biases."""
    experts = sum(run.count * run.moe.num_experts for run in model.layers if run.moe)
    routers = sum(run.count for run in model.layers if run.moe)
    known = {"muse_spark": routers * (model.moe.latent_size or 0) if model.moe else 0, "mistral_large4": 4}
    known["inkling_mm_model"] = routers
    return known.get(name, 0) + (experts if name in COUNTED_AS_WEIGHTS else 0)


@pytest.mark.parametrize("name", one_of_each_family())
def test_parameters_equal_transformers(name: str, theirs: dict[str, dict[str, Any]]) -> None:
    model, own = read_small(name), theirs[name]
    without = 0 if own["head"] else parameter_counts(model).head
    assert elements(model) - without + left_out(name, model) == own["parameters"]


def batched_ffns(name: str, model: Model, per_token: bool) -> int:
    """Weights of experts whose products transformers writes as batched ones: Llama 4 sends every token to every expert
    and keeps what was chosen, so that of its experts a token meets those of its own (``per_token``) or all.
    """
    moes = [(run.count, run.moe) for run in model.layers if run.moe]
    sizes = {
        "llama4": lambda moe: (moe.top_k if per_token else moe.num_experts) * moe.ffn_size,
        "inkling_mm_model": lambda moe: moe.shared_ffn_size,
    }
    size = sizes.get(name, lambda _: 0)
    return sum(count * 3 * model.hidden_size * size(moe) for count, moe in moes)


def batched_weights(name: str, model: Model) -> int:
    """Weights whose products are batched there, less what a matrix multiplies more than once per token."""
    found = batched_ffns(name, model, per_token=True)
    for run in model.layers:
        own = run.attention
        if isinstance(own, CompressedAttention):  # groups of heads are projected down apart
            found += run.count * own.num_heads * own.head_dim * own.o_lora_rank
        if isinstance(own, Gqa) and own.relative:  # every head weighs the profiles
            found -= run.count * (own.num_heads - 1) * own.relative.rank * own.relative.extent
    return found


@pytest.mark.parametrize("name", one_of_each_family())
def test_flops_of_projections_equal_two_per_weight_and_token(
    name: str, theirs: dict[str, dict[str, Any]]
) -> None:
    """Index branches, experts, routers and head are in them; convolutions are counted apart."""
    model, own = read_small(name), theirs[name]
    weights = matmul_parameters(model, model.moe.top_k if model.moe else 0)
    weights += sum(run.count * layer_index_weights(run, model.hidden_size).matrices for run in model.layers)
    weights -= 0 if own["head"] else model.vocab_size * model.hidden_size
    assert own["linear"] == 2 * own["tokens"] * (weights - own["taps"] - batched_weights(name, model))


@pytest.mark.parametrize("name", one_of_each_family())
def test_flops_of_softmax_cores_equal_the_closed_form(name: str, theirs: dict[str, dict[str, Any]]) -> None:
    """2 S^2 heads (query width + value width), full square; an index branch scores 2 S^2 heads (width + 1), the sum
    over heads included. Recurrences and compressed attention are written otherwise there (test_mixers.py has them).
    """
    model, own = read_small(name), theirs[name]
    per_pair = 0
    for run in model.layers:
        mixer = run.attention
        if isinstance(mixer, Mla | Gqa):
            query = mixer.qk_head_dim if isinstance(mixer, Mla) else mixer.head_dim
            value = mixer.v_head_dim if isinstance(mixer, Mla) else mixer.value_head_dim
            per_pair += run.count * mixer.num_heads * (query + value)
            if isinstance(mixer.indexer, Indexer) and mixer.indexer.pool == 1:
                per_pair += run.count * run.indexers * mixer.indexer.num_heads * (mixer.indexer.head_dim + 1)
        elif mixer is not None and mixer.kind != "short_conv":
            return
    experts = 2 * own["tokens"] * batched_ffns(name, model, per_token=False)
    assert own["batched"] == 2 * own["tokens"] ** 2 * per_pair + experts

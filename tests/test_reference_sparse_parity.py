"""Sparse attention against transformers' GlmMoeDsaAttention with the same weights.

transformers has no LongCat-2.0; GLM-5's attention is LSA without sinks and local tokens, with a LayerNorm of the index
key (replaced by LongCat's RMS norm in tests/oracle/sparse_attention.py) and the rotated part first in an index head.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from oracle_env import run_oracle
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch

from reference_model.config import Config
from reference_model.sparse import LSA
from reference_model.work import Cache, Group, Rotary

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)
CONFIG = Config(
    vocab_size=64,
    hidden_size=64,
    num_layers=1,
    num_attention_heads=4,
    q_lora_rank=32,
    kv_lora_rank=16,
    qk_nope_head_dim=12,
    qk_rope_head_dim=8,
    v_head_dim=10,
    ffn_hidden_size=16,
    expert_ffn_hidden_size=16,
    n_routed_experts=2,
    moe_topk=1,
    zero_expert_num=0,
    rope_theta=1e4,
    max_position_embeddings=64,
    index_n_heads=16,
    index_head_dim=20,
    index_topk=6,
)
BATCH, TOKENS = 2, 24
ROTATED = CONFIG.qk_rope_head_dim
WAYS = {
    "prefill": [("prefill", TOKENS)],
    "chunked prefill": [("prefill", 5), ("prefill", 19)],
    "prefill, then decode": [("prefill", 4), *[("decode", 1)] * 20],
    "prefill, then two at a time": [("prefill", 4), *[("decode", 2)] * 10],
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparse")
    keys = (
        "vocab_size hidden_size num_attention_heads q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim "
        "v_head_dim max_position_embeddings index_n_heads index_head_dim index_topk"
    )
    config = {key: getattr(CONFIG, key) for key in keys.split()} | {
        "num_key_value_heads": CONFIG.num_attention_heads,
        "head_dim": ROTATED,
        "rope_parameters": {"rope_type": "default", "rope_theta": CONFIG.rope_theta},
    }
    case = {"config": config, "seed": 5, "batch": BATCH, "tokens": TOKENS, "eps": CONFIG.rms_norm_eps}
    (folder / "case.json").write_text(json.dumps(case))
    run_oracle("sparse_attention.py", str(folder))
    with np.load(folder / "out.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def rotated_last(weight, heads):
    """Rows of index heads with their rotated part at the end, as the reference has them."""
    return weight.view(heads, CONFIG.index_head_dim, -1).roll(-ROTATED, dims=1).reshape(weight.shape)


@torch.no_grad()
def attention(theirs, index):
    """The reference's attention with transformers' weights."""
    own = LSA(CONFIG, index, torch.float32, "cpu")

    def weight(name):
        return theirs[f"{index}.{name}.weight"]

    own.qkv_a.copy_(torch.cat((weight("q_a_proj"), weight("kv_a_proj_with_mqa"))))
    for name, theirs_name in {
        "q_norm_L": "q_a_layernorm",
        "kv_norm_C": "kv_a_layernorm",
        "q_b": "q_b_proj",
        "kv_b": "kv_b_proj",
        "o": "o_proj",
    }.items():
        getattr(own, name).copy_(weight(theirs_name))
    if own.indexer is not None:
        own.indexer.q_b.copy_(rotated_last(weight("indexer.wq_b"), CONFIG.index_n_heads))
        own.indexer.k.copy_(rotated_last(weight("indexer.wk"), 1))
        own.indexer.k_norm_J.copy_(rotated_last(weight("indexer.k_norm"), 1))
        own.indexer.weights.copy_(weight("indexer.weights_proj"))
    return own


@torch.no_grad()
def outputs(theirs, way, config=CONFIG):
    """Of both attentions [2, B, T, H], and how many of the selected tokens differ."""
    both = [attention(theirs, index) for index in (0, 1)]
    both[0].indexer.config = config
    cache, rotary, found, start, wrong = Cache(config, BATCH, TOKENS), Rotary(config), [], 0, 0
    for kind, new in WAYS[way]:
        ids = torch.zeros(BATCH, new, dtype=torch.long)
        places = rotary.places([Group(kind, ids, cache)], torch.float32)
        now = slice(start, start + new)
        out = []
        for index, own in enumerate(both):
            x = theirs[f"x{index}"][:, now].flatten(0, 1)
            out.append(own.core(own.pre(x, places), places).view(BATCH, new, -1))
        for place in range(new):
            seen = start + place
            for ours_B, theirs_B in zip(cache.selected_BTU[:, place], theirs["ids"][:, seen], strict=True):
                chosen = [{int(i) for i in ids if i <= seen} for ids in (ours_B, theirs_B)]
                wrong += len(chosen[0] ^ chosen[1])
        found.append(torch.stack(out))
        start += new
        cache.length += new
    return torch.cat(found, dim=2), wrong


@pytest.mark.parametrize("way", WAYS)
def test_outputs_and_selections_equal_transformers(theirs, way):
    ours, wrong = outputs(theirs, way)
    expected = torch.stack((theirs["out0"], theirs["out1"]))
    print(
        f"{way}: {float((ours - expected).abs().max()):.1e}, standard deviation {float(expected.std()):.2f}"
    )
    assert wrong == 0
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_another_selection_would_show(theirs):
    ours, wrong = outputs(theirs, "prefill", replace(CONFIG, index_local_tokens=3))
    assert wrong > 0
    assert float((ours - torch.stack((theirs["out0"], theirs["out1"]))).abs().max()) > 1e-2

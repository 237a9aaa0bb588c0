"""Sequence mixers: what they keep against published configs, what they weigh and multiply against transformers, and
that steps of any of them are told alike by timeline and twin, grow with work, and never end in a traceback.
"""

import json
from math import inf

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixer_models import CSA, HCA, MOE, REAL, layer, mixers, model, models
from oracle_env import run_oracle
from scenarios import BARE

from perfmodel.errors import SpecError
from perfmodel.load import load_scenario
from perfmodel.ops.limits import limits
from perfmodel.ops.memory import beside_bytes, cache_bytes, checkpoint_bytes, state_bytes, step_memory
from perfmodel.ops.mixers.base import Place, seen_keys, seen_pairs
from perfmodel.ops.mixers.mixer import index_weights, mixer_kept, mixer_ops, mixer_weights
from perfmodel.ops.op import OpClass
from perfmodel.ops.parameters import (
    fixed_bytes_per_request,
    growing_bytes_per_token,
    index_bytes_per_token,
    parameter_counts,
)
from perfmodel.ops.work import Group, Work
from perfmodel.overlap.analysis import breakdown_s
from perfmodel.serving.serve import serve
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.deployment import Precision
from perfmodel.spec.mixers import (
    BlockIndexer,
    CompressedAttention,
    GatedDeltaNet,
    Gqa,
    Indexer,
    Kda,
    Lightning,
    Mamba1,
    Mamba2,
    Mla,
    RelativeBias,
    ShortConv,
)
from perfmodel.spec.model import HyperConnections, Layer, Moe
from perfmodel.spec.workload import Workload
from perfmodel.step import predict_steps, simulate_step

CACHES = {
    "minimax-m2.5": (253_952, 0, 0),
    "deepseek-v3.2": (70_272, 8_052, 0),
    "glm-5.2": (89_856, 2_772, 0),
    "qwen3.5-397b": (30_720, 0, 45 * (64 * 128 * 128 * 4 + 3 * (2 * 2048 + 8192) * 2)),
    "kimi-k3": (27_648, 0, 69 * (96 * 128 * 128 * 4 + 3 * 3 * 12_288 * 2)),
    "step-3.7-flash": (49_152, 0, 33 * 4096 * 512),
    "mimo-v2-flash": (23_040, 0, 39 * 8 * 320 * 2 * 128),
    "nemotron-3-nano": (6_144, 0, 23 * (64 * 64 * 128 * 4 + 3 * (4096 + 2 * 8 * 128) * 2)),
    "minimax-m3": (122_880, 57 * 132, 0),
}
"""Model -> bytes per token that grow, of index keys per token, and per request (FP32 states), from public configs."""


@pytest.mark.parametrize("name", CACHES)
def test_what_is_kept_follows_from_the_configs(name):
    grows, index, fixed = CACHES[name]
    assert growing_bytes_per_token(REAL[name]) == grows
    assert index_bytes_per_token(REAL[name]) == index
    assert fixed_bytes_per_request(REAL[name]) == fixed


def test_states_and_index_keys_in_other_formats():
    assert fixed_bytes_per_request(REAL["qwen3.5-397b"], state="bf16") == pytest.approx(94.4e6, rel=0.04)
    assert fixed_bytes_per_request(REAL["kimi-k3"], state="bf16") == pytest.approx(217e6, rel=0.08)
    assert index_bytes_per_token(REAL["minimax-m3"], "bf16") == 14_592
    sparse = REAL["deepseek-v3.2"]
    assert growing_bytes_per_token(sparse, "fp8") == 61 * 656, "512 + 4 scales of 4 bytes + 64 in BF16"


def test_compressed_attention_keeps_what_others_computed_for_it():
    """8.71 GiB at 2^20 tokens in BF16 (https://provide.ai/the-exact-kv-cache-usage-of-deepseek-v4/), FP8 index keys;
    584 bytes per entry in FP8 (https://github.com/NVIDIA/TensorRT-LLM/issues/14327).
    """
    v4 = REAL["deepseek-v4-pro"]
    per_token = growing_bytes_per_token(v4) + index_bytes_per_token(v4)
    assert per_token * 2**20 / 2**30 == pytest.approx(8.71, abs=0.005)
    kept = mixer_kept(HCA, Precision(kv_cache="fp8"), 1, indexes=False)
    assert [(cache.bytes_per_token, cache.most_tokens) for cache in kept.caches] == [
        (584, 128),
        (584 / 128, None),
    ]


# --- against transformers ---------------------------------------------------------------------------------------------

MODULES = {
    "gdn": (
        ("qwen3_next", "Qwen3NextGatedDeltaNet", "Qwen3NextConfig", 0),
        {
            "hidden_size": 256,
            "linear_num_value_heads": 8,
            "linear_num_key_heads": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 16,
            "linear_conv_kernel_dim": 4,
            "num_hidden_layers": 4,
        },
        GatedDeltaNet(num_key_heads=4, num_value_heads=8, key_head_dim=32, value_head_dim=16),
    ),
    "kda": (
        ("kimi_linear", "KimiLinearDeltaAttention", "KimiLinearConfig", 0),
        {"hidden_size": 256, "linear_num_heads": 4, "linear_head_dim": 32, "num_hidden_layers": 4},
        Kda(num_heads=4, head_dim=32, decay_rank=32, gate_rank=32),
    ),
    "kda with full gates": (
        ("bailing_hybrid", "BailingHybridDeltaAttention", "BailingHybridConfig", 0),
        {"hidden_size": 256, "linear_num_heads": 4, "linear_head_dim": 32, "num_hidden_layers": 4},
        Kda(num_heads=4, head_dim=32),
    ),
    "lightning": (
        ("minimax", "MiniMaxLightningAttention", "MiniMaxConfig", 0),
        {"hidden_size": 256, "num_attention_heads": 4, "head_dim": 32, "num_hidden_layers": 4},
        Lightning(num_heads=4, head_dim=32),
    ),
    "mamba2": (
        ("nemotron_h", "NemotronHMamba2Mixer", "NemotronHConfig", 0),
        {
            "hidden_size": 256,
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "n_groups": 2,
            "ssm_state_size": 16,
            "conv_kernel": 4,
        },
        Mamba2(num_heads=8, head_dim=32, num_groups=2, state_size=16),
    ),
    "mamba1": (
        ("jamba", "JambaMambaMixer", "JambaConfig", 0),
        {
            "hidden_size": 256,
            "mamba_expand": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 24,
            "mamba_d_conv": 4,
            "use_mamba_kernels": False,
        },
        Mamba1(width=512, state_size=8, step_rank=24, norms=True),
    ),
    "convolved gqa with a bias by distance": (
        ("inkling", "InklingAttention", "InklingTextConfig", 0),
        {
            "hidden_size": 256,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "d_rel": 6,
            "rel_extent": 100,
            "num_hidden_layers": 1,
            "layer_types": ["hybrid"],
        },
        Gqa(
            num_heads=8,
            num_kv_heads=2,
            head_dim=64,
            qk_norm=True,
            kv_conv=4,
            relative=RelativeBias(rank=6, extent=100),
        ),
    ),
    "dsa with queries from the input": (
        ("mistral_large4", "MistralLarge4TextAttention", "MistralLarge4TextConfig", 3),
        {
            "hidden_size": 256,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "kv_lora_rank": 48,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 24,
            "index_n_heads": 6,
            "index_head_dim": 40,
            "num_hidden_layers": 4,
        },
        Mla(
            num_heads=8,
            kv_lora_rank=48,
            qk_nope_head_dim=48,
            qk_rope_head_dim=0,
            v_head_dim=24,
            scaled_queries=True,
            indexer=Indexer(num_heads=6, head_dim=40, top_k=64, query_norm=True, scaled_queries=True),
        ),
    ),
    "short conv": (
        ("lfm2_moe", "Lfm2MoeShortConv", "Lfm2MoeConfig", 0),
        {"hidden_size": 256, "conv_L_cache": 3, "num_hidden_layers": 4, "layer_types": ["conv"] * 4},
        ShortConv(width=256),
    ),
    "gated gqa": (
        ("qwen3_next", "Qwen3NextAttention", "Qwen3NextConfig", 3),
        {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64},
        Gqa(num_heads=8, num_kv_heads=2, head_dim=64, qk_norm=True, output_gate="per-element"),
    ),
    "gqa with sinks": (
        ("mimo_v2_flash", "MiMoV2FlashAttention", "MiMoV2FlashConfig", 0),
        {
            "hidden_size": 256,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 48,
            "v_head_dim": 32,
            "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        Gqa(num_heads=8, num_kv_heads=4, head_dim=48, v_head_dim=32, sliding_window=128, sinks=True),
    ),
    "msa": (
        ("minimax_m3_vl", "MiniMaxM3VLAttention", "MiniMaxM3VLTextConfig", 0),
        {
            "hidden_size": 256,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "index_head_dim": 64,
            "index_n_heads": 2,
            "num_hidden_layers": 1,
            "layer_types": ["minimax_m3_sparse"],
        },
        Gqa(
            num_heads=8,
            num_kv_heads=2,
            head_dim=64,
            qk_norm=True,
            indexer=BlockIndexer(num_heads=2, head_dim=64, block_tokens=128, top_blocks=16),
        ),
    ),
    "dsa": (
        ("deepseek_v32", "DeepseekV32Attention", "DeepseekV32Config", 0),
        {
            "hidden_size": 256,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "q_lora_rank": 96,
            "kv_lora_rank": 48,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 24,
            "index_n_heads": 6,
            "index_head_dim": 40,
        },
        Mla(
            num_heads=8,
            q_lora_rank=96,
            kv_lora_rank=48,
            qk_nope_head_dim=32,
            qk_rope_head_dim=16,
            v_head_dim=24,
            indexer=Indexer(num_heads=6, head_dim=40, top_k=64),
        ),
    ),
    "dsa over pools": (
        ("glm5_next", "Glm5NextTextAttention", "Glm5NextTextConfig", 0),
        {
            "hidden_size": 256,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "q_lora_rank": 96,
            "kv_lora_rank": 48,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 0,
            "v_head_dim": 24,
            "index_n_heads": 6,
            "index_head_dim": 40,
            "index_kpool": 4,
            "num_hidden_layers": 1,
            "indexer_types": ["full"],
            "layer_types": ["deepseek_sparse_attention"],
        },
        Mla(
            num_heads=8,
            q_lora_rank=96,
            kv_lora_rank=48,
            qk_nope_head_dim=32,
            qk_rope_head_dim=0,
            v_head_dim=24,
            indexer=Indexer(num_heads=6, head_dim=40, top_k=64, pool=4),
        ),
    ),
    **{
        kind: (
            ("deepseek_v4", "DeepseekV4Attention", "DeepseekV4Config", 0),
            {
                "hidden_size": 256,
                "num_attention_heads": 8,
                "head_dim": 64,
                "q_lora_rank": 96,
                "o_groups": 4,
                "o_lora_rank": 24,
                "index_n_heads": 6,
                "index_head_dim": 40,
                "num_hidden_layers": 1,
                "layer_types": [theirs],
                "mlp_layer_types": ["moe"],
            },
            CompressedAttention(
                num_heads=8,
                head_dim=64,
                qk_rope_head_dim=64,
                q_lora_rank=96,
                o_groups=4,
                o_lora_rank=24,
                sliding_window=128,
                compress_ratio=ratio,
                indexer=Indexer(num_heads=6, head_dim=40, top_k=64) if kind == "csa" else None,
            ),
        )
        for kind, theirs, ratio in (
            ("csa", "compressed_sparse_attention", 4),
            ("hca", "heavily_compressed_attention", 128),
            ("window alone", "sliding_attention", 0),
        )
    },
}
"""Name -> (module, class, config class, layer index), keys of its config, and ours of the same sizes."""
RUN = {"gdn": 256, "kda": 256, "mamba1": 256, "mamba2": 256, "short conv": 256}
"""Those that run on hidden states alone -> tokens."""


def theirs(name):
    """One run of the oracle for all of them, which the session keeps."""
    asked = [
        {"name": key, "module": module, "class": cls, "config_class": config_class, "config": config}
        | {"layer": index, "tokens": RUN.get(key)}
        for key, ((module, cls, config_class, index), config, _) in MODULES.items()
    ]
    return run_oracle("mixer_modules.py", *(json.dumps(one, sort_keys=True) for one in asked))[name]


@pytest.mark.oracle
@pytest.mark.parametrize("name", MODULES)
def test_weights_equal_transformers(name):
    mixer = MODULES[name][2]
    ours = mixer_weights(mixer, 256).total + index_weights(mixer, 256).total
    assert ours == theirs(name)["parameters"]


@pytest.mark.oracle
@pytest.mark.parametrize("name", RUN)
def test_flops_of_projections_and_convolutions_equal_transformers(name):
    """They pad a convolution by its taps less one and compute those positions, too."""
    mixer, tokens = MODULES[name][2], RUN[name]
    pre, core = built(mixer, Group("prefill", 1.0, float(tokens), 0.0))
    linear = sum(float(op.flops) for op in (*pre, *core) if op.kernel in ("gemm", "conv_prefill"))
    (conv,) = [op for op in pre if op.kernel == "conv_prefill"]
    padded = float(conv.flops) * (conv.shape["taps"] - 1) / tokens
    assert theirs(name)["linear"] == linear + padded


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["gdn", "kda"])
def test_flops_of_delta_rules_are_transformers_and_the_triangular_solves(name):
    """Its counter does not see the two solves by which a chunk's keys and values are corrected: 2 x 64 x (key + value)
    per token and head.
    """
    mixer, tokens = MODULES[name][2], RUN[name]
    heads = getattr(mixer, "num_value_heads", None) or mixer.num_heads
    widths = (
        (mixer.key_head_dim + mixer.value_head_dim)
        if isinstance(mixer, GatedDeltaNet)
        else 2 * mixer.head_dim
    )
    _, core = built(mixer, Group("prefill", 1.0, float(tokens), 0.0))
    (recurrence,) = [op for op in core if op.name.endswith("prefill_core")]
    assert recurrence.flops == theirs(name)["batched"] + 2 * 64 * widths * heads * tokens


def built(mixer, *groups, **more):
    from perfmodel.ops.mixers.mixer import _BUILD

    place = Place(
        Work(tuple(groups)), more.get("tp", 1), Precision(**more.get("precision", {})), 256, "mixer"
    )
    return _BUILD[type(mixer)](mixer, place)


@pytest.mark.parametrize(
    ("mixer", "tp", "found"),
    [
        (
            Gqa(num_heads=48, num_kv_heads=8, head_dim=128, qk_norm=True, qk_norm_all_heads=True),
            1,
            {"qk_norm": 448},
        ),
        (
            Gqa(num_heads=48, num_kv_heads=8, head_dim=128, qk_norm=True, qk_norm_all_heads=True),
            4,
            {"qk_squares": 56, "qk_reduce": 0, "qk_norm": 112},
        ),
        (Gqa(num_heads=48, num_kv_heads=8, head_dim=128, qk_norm=True), 4, {}),
    ],
    ids=["alone", "four GPUs", "per head"],
)
def test_a_norm_over_all_heads_sums_its_squares_over_the_group(mixer, tp, found):
    """vLLM's MiniMaxText01RMSNormTP: two FP32 sums of each token between two kernels; one kernel where no GPU shares
    its heads. KiB of 16 tokens.
    """
    layout = [f"deployment.attention_tp={tp}", f"deployment.moe_tp={tp}", "deployment.ep=1"]
    scenario = load_scenario(
        "deepseek-v3-h800", [*BARE, "deployment.attention_dp=1", "deployment.overlap=sequential", *layout]
    )
    work = Work((Group("decode", 16.0 / tp, 1.0, 100.0),))
    ops = mixer_ops(mixer, work, scenario.deployment, scenario.cluster, hidden=3072)
    own = [op for op in ops.pre if ".qk_" in op.name]
    assert [op.name for op in own] == [f"attention.{part}" for part in found]
    for op, kib in zip(own, found.values(), strict=True):
        if op.kernel == "all_reduce":
            assert op.link_bytes == pytest.approx(2 * 16 * 8 * (tp - 1) / tp)
        else:
            assert op.hbm_bytes == kib * 1024


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("new", "cached"), [(1, 0), (1, 30), (7, 0), (7, 3), (20, 12), (3, 40), (16, 16)])
@pytest.mark.parametrize("chunk", [1, 5, 16, 100])
def test_chunked_pairs_equal_a_mask(chunk, new, cached):
    positions = np.arange(cached, cached + new)[:, None]
    keys = np.arange(cached + new)[None, :]
    mask = (keys <= positions) & (keys // chunk == positions // chunk)
    group = Group("prefill", 3.0, float(new), float(cached))
    assert seen_pairs(group, chunk, chunked=True) == 3 * mask.sum()
    assert seen_keys(group, chunk, chunked=True) == mask.any(axis=0).sum()


def test_a_decoding_query_in_chunks_sees_their_mean():
    group = Group("decode", 2.0, 1.0, 1e6)
    mean = np.mean([i % 1000 + 1 for i in range(100_000)])
    assert seen_keys(group, 1000, chunked=True) == mean
    assert seen_pairs(group, 1000, chunked=True) == 2 * mean


def test_an_indexer_scores_all_and_attends_to_top_k():
    mixer = Mla(
        num_heads=8,
        q_lora_rank=96,
        kv_lora_rank=48,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=24,
        indexer=Indexer(num_heads=6, head_dim=40, top_k=100),
    )
    group = Group("decode", 3.0, 2.0, 998.0)
    pre, core = built(mixer, group, precision={"kv_cache": "fp8"})
    ops = {op.name.removeprefix("mixer."): op for op in (*pre, *core)}
    assert ops["index_logits"].flops == 2 * 3 * (999 + 1000) * 6 * 40
    assert ops["index_logits"].hbm_bytes == 3 * 1000 * 44 + 3 * 2 * 6 * 40 + 4 * 3 * (999 + 1000)
    assert ops["core"].flops == 2 * 3 * 2 * 100 * 8 * (48 + 16 + 48)
    assert ops["core"].shape["selected"] == 100
    latent = 48 + 4 + 2 * 16  # FP8, one scale for up to 128 elements, rotary part in BF16
    assert ops["core"].hbm_bytes == 3 * 2 * 100 * latent + 2 * 3 * 2 * 8 * (64 + 48)
    assert {op.op_class for op in ops.values() if "index" in op.name} == {OpClass.INDEXER}


def test_a_state_is_read_once_and_written_for_each_draft():
    mixer = MODULES["gdn"][2]
    state = 8 * 32 * 16 * 4
    _, one = built(mixer, Group("decode", 5.0, 1.0, 777.0))
    _, four = built(mixer, Group("decode", 5.0, 4.0, 777.0))
    tokens = [float(op.hbm_bytes) for op in (one[0], four[0])]
    per_token = 2 * (2 * 4 * 32 + 8 * 16 + 2 * 8 + 8 * 16)
    assert tokens == [5 * (2 * state + per_token), 5 * (5 * state + 4 * per_token)]
    _, later = built(mixer, Group("decode", 5.0, 1.0, 7770.0))
    assert later[0].hbm_bytes == one[0].hbm_bytes, "whatever the context"


@pytest.mark.parametrize("tp", [2, 8])
def test_tensor_parallelism_divides_states_and_copies_latents(tp):
    precision = Precision()
    gdn = REAL["qwen3.5-397b"].layers[0].attention
    whole, part = (mixer_kept(gdn, precision, n, indexes=False).state_bytes for n in (1, tp))
    assert whole == tp * part
    for mixer in (CSA, REAL["deepseek-v3.2"].layers[0].attention):
        assert mixer_kept(mixer, precision, tp, indexes=True) == mixer_kept(mixer, precision, 1, indexes=True)


def test_latent_experts_and_squared_relu():
    """Nemotron-3 Super's shape: experts of two matrices behind a latent, and projections that every token passes."""
    moe = Moe(num_experts=8, top_k=2, ffn_size=96, activation="relu2", latent_size=32, shared_ffn_size=160)
    counts = parameter_counts(
        model("latent", 64, layer(1, ShortConv(width=64), moe=None), Layer(count=1, moe=moe))
    )
    assert counts.experts == 8 * 2 * 32 * 96
    assert counts.router == 8 * 64 + 2 * 64 * 32
    assert counts.shared_experts == 2 * 64 * 160
    assert counts.norms == 3 * 64, "one before the mixer, one before the experts, and the final one"


def test_hyper_connections_weigh_what_transformers_modules_do():
    """(2 + n) n outputs of n hidden inputs, biases and three scales per part; the head's n (n hidden) + n + 1."""
    streams = HyperConnections(num_streams=4)
    counts = parameter_counts(model("streams", 64, layer(3, HCA), hyper_connections=streams))
    assert counts.hyper_connections == 3 * 2 * (24 * 4 * 64 + 24 + 3) + 4 * 4 * 64 + 4 + 1
    alone = HyperConnections(num_streams=4, mixes_streams=False, head=False)
    counts = parameter_counts(model("streams", 64, layer(3, HCA), hyper_connections=alone))
    assert counts.hyper_connections == 3 * 2 * (8 * 4 * 64 + 8 + 2)


# --- steps ------------------------------------------------------------------------------------------------------------

LAYOUTS = (
    {"attention_dp": 8, "attention_tp": 1, "dense_tp": 1, "ep": 8, "moe_tp": 1},
    {"attention_dp": 4, "attention_tp": 2, "dense_tp": 2, "ep": 8, "moe_tp": 1},
    {"attention_dp": 1, "attention_tp": 8, "dense_tp": 8, "ep": 1, "moe_tp": 8},
)
FIELDS = {
    "batch_per_gpu": st.integers(1, 200),
    "context_tokens": st.integers(0, 40_000),
    "prefill_tokens": st.integers(1, 9000),
    "prefill_cached_tokens": st.integers(0, 9000),
}


def scenario_of(own, cluster="h200-ib", **deployment):
    sets = [f"deployment.{key}={str(value).lower()}" for key, value in deployment.items()]
    base = load_scenario(
        "deepseek-v3-h800",
        [*BARE, f"cluster={cluster}", "deployment.mtp.draft_tokens=0", *sets],
    )
    return type(base).model_validate(base.model_copy(update={"model": own}).model_dump())


@st.composite
def scenarios(draw, **more):
    own = draw(models(**more))
    has_moe = own.moe is not None
    layout = dict(draw(st.sampled_from(LAYOUTS)))
    if not has_moe:
        layout |= {"ep": 8 // layout["moe_tp"]}
    return scenario_of(
        own,
        cluster=draw(st.sampled_from(["h200-ib", "b200-ib", "a100-ib", "gb200-nvl72"])),
        **layout,
        overlap=draw(st.sampled_from(["sequential", "tbo"])) if layout["ep"] > 1 else "sequential",
        phase=draw(st.sampled_from(["decode", "prefill", "mixed"])),
        **{key: draw(values) for key, values in FIELDS.items()},
    )


RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@RELAXED
@given(scenarios())
def test_timeline_and_twin_agree_on_any_mixer(scenario):
    times = [simulate_step(scenario).step_time_s, float(np.ravel(predict_steps(scenario).step_time_s)[0])]
    assert times[0] == pytest.approx(times[1], rel=1e-3)
    assert 0 < times[0] < inf


@RELAXED
@given(scenarios(chunked=False), st.sampled_from(sorted(FIELDS)), st.integers(1, 5000))
def test_more_tokens_are_never_faster(scenario, field, more):
    """But in chunks, where a longer context may stand at a chunk's beginning."""
    sequential = scenario.deployment.model_copy(update={"overlap": "sequential", "contention": False})
    own = scenario.model_copy(update={"deployment": sequential})
    before = float(getattr(sequential, field))
    arrays = with_arrays(own, {f"deployment.{field}": np.array([before, before + more])})
    first, second = np.broadcast_to(predict_steps(arrays).step_time_s, 2)
    assert second >= first * (1 - 1e-9)


@RELAXED
@given(scenarios(), st.integers(0, 3))
def test_memory_of_any_mixer_is_finite_and_grows(scenario, drafts):
    memory = step_memory(scenario)
    assert all(value >= 0 for value in memory.as_dict().values())
    assert beside_bytes(scenario).of(1e9) >= beside_bytes(scenario).of(1.0) >= 0
    deployment = scenario.deployment
    more = deployment.model_copy(
        update={"batch_per_gpu": deployment.batch_per_gpu + 1, "phase": "decode", "context_tokens": 9.0}
    )
    one, two = (
        step_memory(scenario.model_copy(update={"deployment": d})).total
        for d in (more.model_copy(update={"batch_per_gpu": deployment.batch_per_gpu}), more)
    )
    assert two >= one


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenarios())
def test_any_mixer_is_served(scenario):
    """In BF16, whose widths no engine refuses to cut."""
    traffic = Workload(
        num_requests=12, max_concurrency=6, input_tokens=300, output_tokens=20, turns=2, turn_tokens=50
    )
    plain = scenario.deployment.precision.model_copy(update={"linear": "bf16", "experts": "bf16"})
    deployment = scenario.deployment.model_copy(update={"precision": plain, "phase": "decode"})
    own = scenario.model_copy(update={"workload": traffic, "deployment": deployment})
    assert limits(own).memory > 0
    assert (serve(own).records.end_s > 0).all()


@RELAXED
@given(mixers())
def test_any_mixer_reads_itself_back(mixer):
    assert type(mixer).model_validate_json(mixer.model_dump_json()) == mixer


@pytest.mark.parametrize("name", REAL)
def test_real_models_step_in_every_phase(name):
    for phase in ("decode", "prefill", "mixed"):
        step = simulate_step(scenario_of(REAL[name], **LAYOUTS[0], phase=phase, overlap="sequential"))
        assert step.step_time_s > 0


def test_drafts_keep_states_until_they_are_verified():
    own = scenario_of(REAL["qwen3.5-397b"], **LAYOUTS[0], batch_per_gpu=10)
    work = Work((Group("decode", 10.0, 1.0, 100.0),))
    drafted = own.deployment.model_copy(
        update={"mtp": own.deployment.mtp.model_copy(update={"draft_tokens": 3})}
    )
    with_drafts = own.model_copy(update={"deployment": drafted})
    assert state_bytes(with_drafts, work) == 4 * state_bytes(own, work)
    assert checkpoint_bytes(with_drafts) == checkpoint_bytes(own)
    assert cache_bytes(with_drafts, work) == cache_bytes(own, work)
    assert state_bytes(own, work) == 10 * fixed_bytes_per_request(REAL["qwen3.5-397b"])


def test_refusals_name_what_does_not_divide():
    with pytest.raises((SpecError, ValueError), match="must divide the model's 4 key heads"):
        scenario_of(
            model(
                "gdn",
                64,
                layer(1, GatedDeltaNet(num_key_heads=4, num_value_heads=8, key_head_dim=8, value_head_dim=8)),
            ),
            **LAYOUTS[2],
        )
    with pytest.raises(ValueError, match="num_indexers = 1 needs an attention with an indexer"):
        Layer(count=1, attention=Lightning(num_heads=1, head_dim=1), moe=MOE, num_indexers=1)
    with pytest.raises(ValueError, match="are 3000 tokens together and must be at most top_k = 2048"):
        Indexer(num_heads=1, head_dim=1, top_k=2048, sink_tokens=1000, local_tokens=2000)
    with pytest.raises(ValueError, match="a layer needs attention, a dense FFN or experts"):
        Layer(count=1)
    with pytest.raises(ValueError, match="none of them has attention, or what stands in its place"):
        model("ffn", 64, Layer(count=1, moe=MOE))


# --- LongCat-2.0 ------------------------------------------------------------------------------------------------------

LSA_PAIR_US = {(1, 8192): (232, 46), (32, 32_768): (348, 99), (128, 131_072): (1097, 688)}
"""(Requests per GPU, context) -> one ScMoE layer's two attentions on an H200, TP1, FP8, and of it the indexer, us. By
laws fitted on GLM-5.2's modules with and without an index branch, which has LongCat's indexer and core (vLLM 0.24.0 in
PyPI's aisimulate 0.13.0.dev202610270000000085), projections exchanged: 80 % within 12 %."""


def longcat(batch, context, **more):
    sets = {
        "model": "longcat-2.0",
        "cluster": "h200-ib",
        "deployment.precision.kv_cache": "fp8",
        "deployment.mtp.draft_tokens": 0,
        "deployment.batch_per_gpu": batch,
        "deployment.context_tokens": context,
        **more,
    }
    return load_scenario("longcat-flash-h800", [f"{key}={value}" for key, value in sets.items()])


def attention_us(scenario):
    """Both attentions of a layer, and of them the indexer, us."""
    segment = next(one for one in simulate_step(scenario).segments if one.layers)
    found = dict.fromkeys((OpClass.ATTENTION, OpClass.INDEXER), 0.0)
    for task, timing in zip(segment.tasks, segment.timings, strict=True):
        if task.op.op_class in found:
            found[task.op.op_class] += float(timing.seconds) * 1e6
    return sum(found.values()), found[OpClass.INDEXER]


@pytest.mark.parametrize("calibration", [{}, {"calibration": '""'}], ids=["tables", "bytes and FLOPs"])
@pytest.mark.parametrize(("batch", "context"), LSA_PAIR_US)
def test_longcats_sparse_attention_takes_what_glms_modules_took(batch, context, calibration):
    pair, indexer = LSA_PAIR_US[batch, context]
    predicted = attention_us(longcat(batch, context, **calibration))
    assert predicted[0] == pytest.approx(pair, rel=0.15)
    assert predicted[1] == pytest.approx(indexer, rel=0.25)


def test_the_indexers_share_grows_with_the_context():
    """Scores grow with every token in the cache, the core stops at top-k; the breakdown tells the indexer apart."""
    shares, cores = [], []
    for context in (2048, 32_768, 131_072):
        step = simulate_step(longcat(16, context))
        seconds = breakdown_s(step.timeline)
        shares.append(seconds[OpClass.INDEXER] / step.step_time_s)
        segment = next(one for one in step.segments if one.layers)
        cores.append(
            [float(t.seconds) for task, t in zip(segment.tasks, segment.timings, strict=True)
             if task.op.name == "attention1.core"]
        )  # fmt: skip
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 2 * shares[0]
    assert cores[0] == cores[1] == cores[2]


def test_one_indexer_per_layer_serves_both_attentions():
    segment = next(one for one in simulate_step(longcat(4, 9000)).segments if one.layers)
    names = [task.op.name for task in segment.tasks]
    assert "attention0.index_logits" in names
    assert not any(name.startswith("attention1.index") for name in names)
    assert "attention1.core" in names

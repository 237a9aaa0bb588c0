"""Models of every kind of sequence mixer: real ones as their public configs state them, and small odd ones."""

from hypothesis import strategies as st

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
from perfmodel.spec.model import HyperConnections, Layer, Model, Moe

MOE = Moe(num_experts=64, top_k=8, ffn_size=256)
"""Where a model's experts do not matter."""
GATED = {"output_gate": "per-element"}


def model(name, hidden, *layers, vocab=32768, **more):
    return Model(name=name, hidden_size=hidden, vocab_size=vocab, layers=layers, **more)


def layer(count, mixer, moe=MOE, **more):
    return Layer(count=count, attention=mixer, moe=moe, **more)


DSA = Indexer(num_heads=64, head_dim=128, top_k=2048)
DEEPSEEK = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
V3 = {"num_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "v_head_dim": 128, **DEEPSEEK}
GLM = Mla(
    num_heads=64,
    q_lora_rank=2048,
    qk_nope_head_dim=192,
    v_head_dim=256,
    indexer=Indexer(num_heads=32, head_dim=128, top_k=2048),
    **DEEPSEEK,
)
KIMI = Mla(
    num_heads=96,
    q_lora_rank=1536,
    qk_nope_head_dim=128,
    v_head_dim=128,
    output_gate="per-element",
    **DEEPSEEK,
)
V4 = {
    "num_heads": 128,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 1536,
    "o_groups": 16,
    "o_lora_rank": 1024,
    "sliding_window": 128,
}
CSA = CompressedAttention(
    **V4, compress_ratio=4, indexer=Indexer(num_heads=64, head_dim=128, top_k=1024, key_norm="rms")
)
HCA = CompressedAttention(**V4, compress_ratio=128)

REAL = {
    "minimax-m2.5": model("minimax-m2.5", 3072, layer(62, Gqa(num_heads=48, num_kv_heads=8, head_dim=128))),
    "deepseek-v3.2": model("deepseek-v3.2", 7168, layer(61, Mla(**V3, indexer=DSA))),
    "glm-5.2": model("glm-5.2", 6144, layer(21, GLM), layer(57, GLM, num_indexers=0)),
    "qwen3.5-397b": model(
        "qwen3.5-397b",
        4096,
        layer(45, GatedDeltaNet(num_key_heads=16, num_value_heads=64, key_head_dim=128, value_head_dim=128)),
        layer(15, Gqa(num_heads=32, num_kv_heads=2, head_dim=256, qk_norm=True, **GATED)),
    ),
    "kimi-k3": model(
        "kimi-k3",
        7168,
        layer(69, Kda(num_heads=96, head_dim=128, decay_rank=128)),
        layer(24, KIMI),
    ),
    "step-3.7-flash": model(
        "step-3.7-flash",
        4096,
        layer(12, Gqa(num_heads=64, num_kv_heads=8, head_dim=128)),
        layer(33, Gqa(num_heads=64, num_kv_heads=8, head_dim=128, sliding_window=512)),
    ),
    "mimo-v2-flash": model(
        "mimo-v2-flash",
        4096,
        layer(9, Gqa(num_heads=64, num_kv_heads=4, head_dim=192, v_head_dim=128)),
        layer(
            39,
            Gqa(num_heads=64, num_kv_heads=8, head_dim=192, v_head_dim=128, sliding_window=128, sinks=True),
        ),
    ),
    "nemotron-3-nano": model(
        "nemotron-3-nano",
        2688,
        layer(23, Mamba2(num_heads=64, head_dim=64, num_groups=8, state_size=128), moe=None),
        layer(6, Gqa(num_heads=32, num_kv_heads=2, head_dim=128), moe=None),
        Layer(count=23, moe=Moe(num_experts=128, top_k=6, ffn_size=1856, activation="relu2")),
    ),
    "minimax-m3": model(
        "minimax-m3",
        6144,
        Layer(count=3, attention=Gqa(num_heads=64, num_kv_heads=4, head_dim=128), dense_ffn_size=12288),
        layer(
            57,
            Gqa(
                num_heads=64,
                num_kv_heads=4,
                head_dim=128,
                qk_norm=True,
                indexer=BlockIndexer(
                    num_heads=4, head_dim=128, block_tokens=128, top_blocks=16, local_blocks=1
                ),
            ),
        ),
    ),
    "deepseek-v4-pro": model(
        "deepseek-v4-pro",
        7168,
        layer(30, CSA),
        layer(31, HCA),
        hyper_connections=HyperConnections(num_streams=4),
    ),
}
"""Name -> model, with its mixers as stated; experts and vocabulary are not its own."""


def _odd(most=9):
    return st.integers(1, most)


@st.composite
def mixers(draw, heads=8, chunked=True):
    """Any mixer whose heads, groups and channels are multiples of ``heads``."""
    kind = draw(st.sampled_from(KINDS))
    many = heads * draw(_odd(3))
    width = draw(st.sampled_from([1, 7, 16, 64]))
    taps = draw(_odd(4))
    top = draw(st.integers(1, 3000))
    indexer = Indexer(
        num_heads=draw(_odd()),
        head_dim=width,
        top_k=top,
        sink_tokens=draw(st.integers(0, top // 2)),
        pool=draw(_odd(4)),
        key_norm=draw(st.sampled_from(["layer", "rms"])),
        query_norm=draw(st.booleans()),
        scaled_queries=draw(st.booleans()),
    )
    window = draw(st.sampled_from([None, 1, 5, 128, 4096]))
    gate = draw(st.sampled_from(["none", "per-head", "per-element"]))
    match kind:
        case "mla":
            sparse = draw(st.booleans())
            return Mla(
                num_heads=many,
                q_lora_rank=draw(st.sampled_from([None, 1, 96])),
                kv_lora_rank=draw(_odd(200)),
                qk_nope_head_dim=width,
                qk_rope_head_dim=draw(st.integers(0, 64)),
                v_head_dim=draw(_odd(130)),
                sliding_window=None if sparse else window,
                output_gate=gate,
                sinks=draw(st.booleans()),
                scaled_queries=draw(st.booleans()),
                indexer=indexer if sparse else None,
            )
        case "gqa":
            sparse = draw(st.booleans())
            blocks = draw(_odd(20))
            return Gqa(
                num_heads=many,
                num_kv_heads=draw(st.sampled_from([1, heads, many])),
                head_dim=width,
                v_head_dim=draw(st.sampled_from([None, 3, 128])),
                sliding_window=None if sparse else window,
                chunked=chunked and not sparse and window is not None and draw(st.booleans()),
                output_gate=gate,
                kv_conv=draw(st.sampled_from([None, 1, 4])),
                relative=draw(st.sampled_from([None, RelativeBias(rank=3, extent=40)])),
                indexer=BlockIndexer(
                    num_heads=draw(_odd(4)), head_dim=width, block_tokens=draw(_odd(128)), top_blocks=blocks
                )
                if sparse
                else None,
            )
        case "compressed":
            ratio = draw(st.sampled_from([0, 1, 4, 128]))
            return CompressedAttention(
                num_heads=many,
                head_dim=width,
                qk_rope_head_dim=draw(st.integers(0, width)),
                q_lora_rank=draw(_odd(100)),
                o_groups=draw(st.sampled_from([1, heads])),
                o_lora_rank=draw(_odd(50)),
                sliding_window=draw(_odd(300)),
                compress_ratio=ratio,
                indexer=indexer if ratio and draw(st.booleans()) else None,
            )
        case "gated_delta_net":
            return GatedDeltaNet(
                num_key_heads=heads,
                num_value_heads=many,
                key_head_dim=width,
                value_head_dim=draw(_odd(130)),
                conv_kernel=taps,
            )
        case "kda":
            ranks = st.sampled_from([None, 1, 40])
            return Kda(
                num_heads=many,
                head_dim=width,
                conv_kernel=taps,
                decay_rank=draw(ranks),
                gate_rank=draw(ranks),
            )
        case "lightning":
            return Lightning(num_heads=many, head_dim=width)
        case "mamba1":
            return Mamba1(
                width=heads * draw(_odd(100)),
                state_size=draw(_odd(130)),
                step_rank=draw(_odd(40)),
                conv_kernel=taps,
                norms=draw(st.booleans()),
            )
        case "mamba2":
            groups = draw(st.sampled_from([1, heads, many]))
            return Mamba2(
                num_heads=many,
                head_dim=width,
                num_groups=groups,
                state_size=draw(_odd(130)),
                conv_kernel=taps,
            )
        case _:
            return ShortConv(width=heads * draw(_odd(100)), conv_kernel=taps)


KINDS = ("mla", "gqa", "compressed", "gated_delta_net", "kda", "lightning", "mamba1", "mamba2", "short_conv")


@st.composite
def models(draw, chunked=True):
    """A model of one to three runs of layers, each with a mixer, experts, a dense FFN, or several of them."""
    runs = []
    for _ in range(draw(st.integers(1, 3))):
        mixer = draw(st.one_of(st.none(), mixers(chunked=chunked)) if runs else mixers(chunked=chunked))
        ffn = draw(st.sampled_from(["none", "dense", "moe"] if mixer else ["dense", "moe"]))
        indexed = getattr(mixer, "indexer", None) is not None
        moe = Moe(
            num_experts=16,
            top_k=draw(_odd(8)),
            ffn_size=draw(st.sampled_from([8, 64])),
            activation=draw(st.sampled_from(["swiglu", "relu2"])),
            latent_size=draw(st.sampled_from([None, 24])),
            latent_norm=draw(st.booleans()),
            shared_ffn_size=draw(st.sampled_from([0, 8])),
            scores_shared=draw(st.sampled_from([0, 2])),
        )
        runs.append(
            Layer(
                count=draw(_odd(4)),
                attention=mixer,
                num_indexers=draw(st.sampled_from([None, 0, 1])) if indexed else None,
                dense_ffn_size=draw(st.sampled_from([8, 80])) if ffn == "dense" else 0,
                dense_activation=draw(st.sampled_from(["swiglu", "relu2"])),
                moe=moe if ffn == "moe" else None,
                sandwich_norms=draw(st.booleans()),
                output_convs=draw(st.sampled_from([None, None, 1, 4])),
            )
        )
    streams = draw(st.sampled_from([None, HyperConnections(num_streams=2, mixes_streams=False)]))
    own = {"hyper_connections": streams, "embedding_norm": draw(st.booleans())}
    return model("odd", draw(st.sampled_from([32, 200])), *runs, vocab=64, **own)

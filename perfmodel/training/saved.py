"""Bytes that a layer's forward leaves behind for its backward, by what they are, for one micro-batch on one GPU.

What is kept follows from who needs it: a product keeps its input, attention its queries, keys, values, output and the
logarithm of its sums, a norm its input, SwiGLU gate and up. Kernels are the fused ones of training frameworks (flash
attention, fused SwiGLU, permutations that keep an index); :mod:`tests.test_train_saved` holds the reference model's
unfused ones apart.
"""

from collections.abc import Mapping, Sequence

from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.mixers import Mla
from perfmodel.spec.model import MATRICES, Layer, Moe
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training import alternate, unfused
from perfmodel.training.supported import attention_of

FP32, INT64 = 4.0, 8.0
BF16 = BYTES_PER_ELEMENT["bf16"]
E5M6_BYTES = 1.5
"""12 bits, in which DeepSeek-V3 keeps what goes into attention's output projection (arXiv 2412.19437, 3.3.3)."""


def input_bytes_kept(training: Training) -> float:
    """Bytes per element of a product's input as it is kept."""
    stated = training.keep_inputs or ("bf16" if training.precision == "bf16" else "fp8")
    return BYTES_PER_ELEMENT[stated]


def _swiglu_bytes(training: Training) -> float:
    """Bytes per element of gate and up as they are kept."""
    return BYTES_PER_ELEMENT[training.keep_gate_up]


def _activation_bytes(training: Training, kept: float) -> float:
    """Bytes per element of what an activation leaves behind, where inputs of products are kept in ``kept``."""
    if training.recomputes("activations"):
        return 0.0
    return kept + unfused.silu_kept(training)


def layer_saved(layer: Layer, scenario: Scenario, training: Training) -> dict[str, float]:
    """Bytes by what is kept, after recomputation: whole layers keep their input alone."""
    hidden = scenario.model.hidden_size
    tokens = training.tokens_per_gpu
    if training.recompute == "full":
        return {"layer input": BF16 * tokens * hidden * (2.0 if training.kernels == "eager" else 1.0)}
    attention = attention_of(layer)
    if training.kernels == "eager" and layer.shortcut and layer.moe and isinstance(attention, Mla):
        pairs = tokens * scenario.mean_real_experts
        return eager_block_saved(attention, layer.moe, layer.dense_ffn_size, hidden, tokens, pairs, BF16)
    kept = input_bytes_kept(training)
    found: dict[str, float] = {}
    for i in range(layer.num_attentions):
        for name, size in _attention(layer, hidden, training, kept).items():
            found[f"attention {i}: {name}"] = size
        norms = 0.0 if training.recomputes("norms") else kept * tokens * hidden
        found[f"norm {i}: input"] = BF16 * tokens * hidden
        found[f"norm {i}: output"] = norms
    width = layer.dense_ffn_size / training.tp
    rows = tokens * training.tp
    for i in range(layer.num_dense_ffns):
        found[f"FFN {i}: gate and up"] = (
            alternate.gated_kept(training)
            * _swiglu_bytes(training)
            * rows
            * (MATRICES[layer.dense_activation] - 1)
            * width
        )
        found[f"FFN {i}: activation"] = _activation_bytes(training, kept) * rows * width
    if layer.moe:
        found |= _moe(layer.moe, scenario, training, kept)
    return found


def layers_saved_bytes(layers: Sequence[Layer], scenario: Scenario, training: Training) -> float:
    """Bytes that a stage's layers keep for their backward, of one micro-batch."""
    return sum(sum(layer_saved(layer, scenario, training).values()) for layer in layers)


def eager_block_saved(
    mla: Mla, moe: Moe, ffn: int, hidden: int, tokens: float, pairs: float, element: float
) -> dict[str, float]:
    """What PyTorch keeps of one shortcut-connected block run kernel by kernel, one sequence of ``tokens``: unique
    storages, without parameters and rotary tables. Attention is the unfused one, which keeps its weights twice.

    Args:
        mla: both attentions.
        moe: the experts.
        ffn: width of both dense FFNs.
        hidden: of the residual stream.
        tokens: of the sequence.
        pairs: of tokens and real experts.
        element: bytes of an activation; the router's are FP32 whatever it is.
    """
    n, heads, latent, rope = tokens, mla.num_heads, mla.kv_lora_rank, mla.qk_rope_head_dim
    rank, query = mla.q_lora_rank or 0, mla.qk_head_dim
    experts = moe.num_experts + moe.num_zero_experts
    return {
        "attention: weights": element * 2.0 * heads * n * n,
        "attention: keys and values": element * 2.0 * n * heads * (mla.qk_nope_head_dim + mla.v_head_dim),
        "attention: queries and keys, laid out": element * 4.0 * n * heads * query,
        "attention: query latents": element * 4.0 * n * rank,
        "attention: down-projection": element * 2.0 * n * (rank + latent + rope),
        "attention: cache": element * 2.0 * n * (latent + rope),
        "attention: latents, normed": element * 2.0 * n * latent,
        "norms and residual stream": element * 14.0 * n * hidden,
        "FFN": element * 8.0 * n * ffn,
        "experts: rows": element * 3.0 * pairs * hidden,
        "experts: gate, up and activation": element * 4.0 * pairs * moe.ffn_size,
        "router: probabilities": FP32 * n * experts,
        "reductions": FP32 * (9.0 * n + pairs),
        "router: choice and order": INT64 * (2.0 * pairs + 2.0 * n * moe.top_k) + n * moe.top_k,
    }


def _attention(layer: Layer, hidden: int, training: Training, kept: float) -> dict[str, float]:
    attention, tokens = attention_of(layer), training.tokens_per_gpu
    rows, heads = tokens * training.tp, attention.num_heads / training.tp
    found = {
        "norm input": BF16 * tokens * hidden,
        "norm output": 0.0 if training.recomputes("norms") else kept * tokens * hidden,
    }
    if isinstance(attention, Mla):
        latents = (attention.q_lora_rank or 0) + attention.kv_lora_rank
        found["latents"] = BF16 * rows * (latents + attention.qk_rope_head_dim)
        again = training.recomputes("norms") or training.recomputes("mla_up_projection")
        found["latents, normed"] = 0.0 if again else kept * rows * latents
        expanded = heads * (2 * attention.qk_head_dim + attention.v_head_dim)
        value = attention.v_head_dim
        found["queries, keys, values"] = (
            0.0 if training.recomputes("mla_up_projection") else BF16 * rows * expanded
        )
    else:
        groups = max(attention.num_kv_heads / training.tp, 1.0)
        value = attention.value_head_dim
        keys = alternate.keys_kept(training) * groups
        elements = (heads + keys) * attention.head_dim + groups * value
        found["queries, keys, values"] = BF16 * rows * elements
        if attention.qk_norm and not attention.qk_norm_all_heads:
            found["queries and keys before their norm"] = BF16 * rows * (heads + groups) * attention.head_dim
    if training.recomputes("attention_core"):
        found["output"] = 0.0
    else:
        element = E5M6_BYTES if training.own_fp8_kernels and isinstance(attention, Mla) else BF16
        found["output"] = (
            element * rows * heads * value + FP32 * rows * heads
        )  # quantised again for the projection
    return found


def _moe(moe: Moe, scenario: Scenario, training: Training, kept: float) -> Mapping[str, float]:
    """Rows that came, gate and up, and the activation, of the pairs on this rank; the router's probabilities and
    choice.
    """
    tokens = training.tokens_per_gpu
    pairs = tokens * scenario.mean_real_experts * training.etp
    width = moe.ffn_size / training.etp
    experts = moe.num_experts + moe.num_zero_experts
    wide, routed = MATRICES[moe.activation] - 1, moe.routed_size(scenario.model.hidden_size)
    again = training.recomputes("experts")
    found = {
        "router: probabilities": FP32 * tokens * experts,
        "router: choice": (INT64 + FP32) * tokens * moe.top_k,
        "experts: input": 0.0 if again else kept * pairs * routed,
        "experts: gate and up": 0.0 if again else _swiglu_bytes(training) * pairs * wide * width,
        "experts: activation": 0.0 if again else _activation_bytes(training, kept) * pairs * width,
    }
    if not training.early_probabilities and not again:
        found["experts: output"] = BF16 * pairs * routed
    if moe.shared_ffn_size:
        found["shared: gate and up"] = _swiglu_bytes(training) * tokens * wide * moe.shared_ffn_size
        found["shared: activation"] = _activation_bytes(training, kept) * tokens * moe.shared_ffn_size
    return found


def replayed_bytes(layer: Layer, scenario: Scenario, training: Training) -> float:
    """What one layer's recomputation holds while its backward runs: what it had not kept."""
    if training.recompute == "none":
        return 0.0
    whole = training.model_copy(update={"recompute": "none"})
    every = sum(layer_saved(layer, scenario, whole).values())
    return every - sum(layer_saved(layer, scenario, training).values())


def head_saved(scenario: Scenario, training: Training) -> float:
    """Of the head: the norm's input and output, and the logits, from which the loss's gradient is made."""
    tokens = training.tokens_per_gpu
    model = scenario.model
    rows, each = tokens * training.tp, unfused.LOSS_KEPT[training.loss_kernels]
    return 2.0 * BF16 * tokens * model.hidden_size + each * rows * model.vocab_size / training.tp


def loss_bytes(scenario: Scenario, training: Training) -> float:
    """What the loss holds for a moment: logits in FP32 and their gradient in BF16, where its kernels are fused ones."""
    rows = training.tokens_per_gpu * training.tp
    return unfused.LOSS_HELD[training.loss_kernels] * rows * scenario.model.vocab_size / training.tp

"""Model FLOPs of a training token: three times the forward's products, recomputation left out.

    3 x [2 x (weights of matrices that a token meets) + layers x pairs x 2 x heads x (d_qk + d_v)]

Head and router are in it, the embedding is not, multi-token prediction is if it is trained. Two conventions of
attention are in use: the causal mask halves the pairs, (S + 1) / 2 per token, or they count in full, S (torchtitan's
models/utils.py).
"""

from perfmodel.ops.parameters import expert_parameters, matmul_parameters, mtp_parameters
from perfmodel.spec.mixers import Mla
from perfmodel.spec.model import Layer, Model
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training.supported import attention_of

BACKWARD = 2.0
"""FLOPs of a backward over its forward's, products and attention's (without what flash attention computes again)."""


def model_flops_per_token(scenario: Scenario, training: Training, *, causal: bool) -> float:
    """Model FLOPs of one token, forwards and backwards."""
    model, experts = scenario.model, scenario.mean_real_experts
    pairs = (training.sequence_tokens + 1.0) / 2.0 if causal else float(training.sequence_tokens)
    forward = 2.0 * matmul_parameters(model, experts)
    forward += sum(layer.count * _attention(layer, pairs) for layer in model.layers)
    if training.mtp and model.mtp:
        forward += 2.0 * _mtp_matrices(model, experts) + _attention(model.mtp.layer, pairs)
    return (1.0 + BACKWARD) * forward


def _attention(layer: Layer, pairs: float) -> float:
    attention = attention_of(layer)
    window = attention.sliding_window
    if isinstance(attention, Mla):
        width = attention.qk_head_dim + attention.v_head_dim
    else:
        width = attention.head_dim + attention.value_head_dim
    seen = min(pairs, float(window)) if window else pairs
    return layer.num_attentions * 2.0 * seen * attention.num_heads * width


def _mtp_matrices(model: Model, experts: float) -> float:
    """Matrices that a token meets in the multi-token prediction layer: its own, and the head once more."""
    assert model.mtp is not None, "asked of models with one"
    moe = model.mtp.layer.moe
    idle = (moe.num_experts - experts) * expert_parameters(moe, model.hidden_size) if moe else 0.0
    return mtp_parameters(model) / model.mtp.num_layers - idle + model.vocab_size * model.hidden_size

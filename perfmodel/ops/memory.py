"""Device memory of one GPU, by class, and how many tokens its cache holds.

Where a pipeline's stages differ, the figures are an even share of the layers plus the embedding or the head,
whichever is larger: the first or the last stage, which is where memory runs out first.
"""

from dataclasses import asdict, dataclass

from perfmodel.engines.memory import cache_room, runtime_bytes
from perfmodel.numeric import Num, maximum
from perfmodel.ops.attention import gqa_cache_bytes, mla_cache_bytes
from perfmodel.ops.build import LOGIT_BYTES
from perfmodel.ops.communication import low_latency_buffer_bytes
from perfmodel.ops.parameters import (
    attention_parameters,
    expert_parameters,
    ffn_parameters,
    index_bytes_per_token,
    indexer_parameters,
    ngram_parameters,
    router_parameters,
    shared_parameters,
)
from perfmodel.ops.work import Group, Work, step_work
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.model import Attention, Layer, Mla, Model
from perfmodel.spec.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU; values may be arrays."""

    weights: Num
    """Weights of the layers, embedding and head, and of the draft layer where drafts are used."""
    kv_cache: Num
    """KV cache at the step's end."""
    activations: Num
    """Largest set of intermediate results that live together."""
    communication_buffers: Num
    """Receive and send buffers of the all-to-all."""
    runtime: Num
    """CUDA context, process groups, NVSHMEM and pools of captured graphs."""

    @property
    def total(self) -> Num:
        """All classes together."""
        return self.weights + self.kv_cache + self.activations + self.communication_buffers + self.runtime

    def as_dict(self) -> dict[str, Num]:
        """Bytes by class."""
        return asdict(self)


def step_memory(scenario: Scenario) -> Memory:
    """Memory of one GPU during a step of ``scenario``."""
    work = step_work(scenario.deployment)
    return Memory(
        weights=weight_bytes(scenario.model, scenario.deployment),
        kv_cache=cache_bytes(scenario, work),
        activations=activation_bytes(scenario, work),
        communication_buffers=buffer_bytes(scenario, work),
        runtime=sum(runtime_bytes(scenario)),
    )


def usable_bytes(scenario: Scenario) -> Num:
    """Bytes that a step's memory may come to: the device less what the engine keeps from the cache."""
    memory, device = step_memory(scenario), float(scenario.cluster.gpu.memory_bytes)
    steps = memory.activations + memory.communication_buffers
    left = device - memory.runtime - memory.weights - steps
    return device - maximum(0.0, left - cache_room(scenario, memory.weights, steps))


SHORT = 1 << 20
"""Tokens beyond every sliding window, from where a cache grows evenly."""


def cache_tokens_per_rank(scenario: Scenario, *, prompt_tokens: int, decodes: int = 1) -> int:
    """Tokens that the KV cache of one attention group holds beside weights, buffers and activations.

    Activations and buffers are the larger ones of a step of ``decodes`` requests and of one with ``prompt_tokens`` of
    prompts per group; weights, and low-latency's buffers beside normal ones, are held all the time. At least 0.
    """
    deployment = scenario.deployment
    activations: Num = 0.0
    buffers: Num = 0.0
    for phase in ("decode", "prefill"):
        changed = {
            "phase": phase,
            "batch_per_gpu": decodes / deployment.attention_tp,
            "prefill_requests_per_gpu": 1.0 / deployment.attention_tp,
            "prefill_tokens": float(prompt_tokens),
            "prefill_cached_tokens": 0.0,
        }
        own = scenario.model_copy(update={"deployment": deployment.model_copy(update=changed)})
        work = step_work(own.deployment)
        activations = maximum(activations, activation_bytes(own, work))
        buffers = buffers + buffer_bytes(own, work)
    room = cache_room(scenario, weight_bytes(scenario.model, deployment), activations + buffers)
    return max(0, int(room / cached_token_bytes(scenario)))


def cached_token_bytes(scenario: Scenario) -> float:
    """Bytes of one more token in the KV cache, on each GPU of its attention group; beyond every sliding window."""
    requests = 1.0 / scenario.deployment.attention_tp
    short, long = (
        cache_bytes(scenario, Work((Group("decode", requests, 1.0, tokens),)))
        for tokens in (float(SHORT), float(2 * SHORT))
    )
    return float(long - short) / SHORT


def weight_bytes(model: Model, deployment: Deployment) -> float:
    """Bytes of weights on one GPU.

    MLA's down-projections are replicated over attention TP and its up-projection of keys and values is kept in the
    activations' type, as engines do for the absorbed product. Experts are divided over EP and expert TP; shared experts
    and routers are replicated where tokens are dispatched to experts, and divided like experts otherwise.
    """
    hidden, precision = model.hidden_size, deployment.precision
    layers = sum(run.count * _layer_bytes(run, model, deployment) for run in model.layers)
    if model.mtp and deployment.mtp.draft_tokens:
        join = 2 * hidden * hidden * BYTES_PER_ELEMENT[precision.linear]
        layers += _layer_bytes(model.mtp.layer, model, deployment) + join
    layers += indexer_parameters(model) * precision.activation_bytes
    tp = deployment.attention_tp
    table = BYTES_PER_ELEMENT[precision.embedding] * model.vocab_size * hidden / tp
    ngram = precision.activation_bytes * sum(ngram_parameters(model)) / deployment.stage_gpus
    ends = table + ngram
    if not model.tied_embeddings:
        ends = ends + table if deployment.pp == 1 else maximum(ends, table)
    return layers / deployment.pp + ends


def cache_bytes_per_token(attention: Attention, deployment: Deployment) -> float:
    """Bytes per token of one attention's cache on one GPU of its group; MLA's latent is replicated over TP."""
    if isinstance(attention, Mla):
        return mla_cache_bytes(attention, deployment.precision)
    return gqa_cache_bytes(attention, deployment.precision, deployment.attention_tp)


def cache_bytes(scenario: Scenario, work: Work) -> Num:
    """Bytes of KV cache on one GPU; a sliding window keeps only its own tokens."""
    model, deployment = scenario.model, scenario.deployment
    runs = list(model.layers)
    if model.mtp and deployment.mtp.draft_tokens and deployment.phase != "prefill":
        runs.append(model.mtp.layer)
    total: Num = 0.0
    for group in work.groups:
        requests = group.requests * deployment.attention_tp
        tokens = group.cached_tokens + group.new_tokens
        total = total + requests * tokens * index_bytes_per_token(model, deployment.precision.kv_cache)
        for run in runs:
            window = getattr(run.attention, "sliding_window", None)
            kept = group.keys_per_request(window) if window else tokens
            per_token = cache_bytes_per_token(run.attention, deployment)
            total = total + run.count * run.num_attentions * requests * kept * per_token
    return total


def activation_bytes(scenario: Scenario, work: Work) -> Num:
    """Bytes of the largest set of intermediate results.

    Residual and normed input, plus the largest of: queries, keys and attention output; gate and up product with its
    activation in a dense FFN or in the experts, with their output and, where tokens are sent to them, the rows that
    came (fused kernels gather rows themselves); FP32 logits. An estimate from the ops' inputs and outputs: engines'
    allocators keep somewhat more.
    """
    model, deployment = scenario.model, scenario.deployment
    tokens, element = work.tokens, deployment.precision.activation_bytes
    rows = tokens * deployment.attention_tp
    widest: Num = LOGIT_BYTES * work.logit_rows * model.vocab_size
    for run in model.layers:
        heads = run.attention.num_heads / deployment.attention_tp
        attention = run.attention
        width = (
            attention.qk_head_dim + attention.kv_lora_rank + attention.v_head_dim
            if isinstance(attention, Mla)
            else 3 * attention.head_dim
        )
        widest = maximum(widest, element * rows * heads * width)
        if run.dense_ffn_size:
            gathered = tokens * (deployment.attention_tp if deployment.replicated else deployment.dense_tp)
            widest = maximum(widest, element * gathered * 3 * run.dense_ffn_size / deployment.dense_tp)
        if run.moe:
            pairs = tokens * deployment.moe_tp * scenario.mean_real_experts
            inputs = model.hidden_size if deployment.dispatches else 0
            per_pair = inputs + model.hidden_size + 3 * run.moe.ffn_size / deployment.moe_tp
            widest = maximum(widest, element * pairs * per_pair)
    return 2.0 * element * rows * model.hidden_size + widest


def buffer_bytes(scenario: Scenario, work: Work) -> Num:
    """Bytes of the all-to-all's buffers.

    DeepEP low-latency reserves room for every expert's tokens from every rank (its own size hint). The normal kernels
    and plain collectives receive what is sent: tokens x mean real experts x hidden as activations, in and out.
    """
    moe, deployment = scenario.model.moe, scenario.deployment
    if moe is None or deployment.ep == 1 or deployment.backend == "none":
        return 0.0
    if deployment.backend == "deepep-low-latency":
        experts = moe.num_experts + deployment.redundant_experts
        return low_latency_buffer_bytes(
            deployment.low_latency_max_tokens_per_gpu, scenario.model.hidden_size, deployment.ep, experts
        )
    pairs = work.tokens * scenario.mean_real_experts
    return 2.0 * deployment.precision.activation_bytes * pairs * scenario.model.hidden_size


def _layer_bytes(layer: Layer, model: Model, deployment: Deployment) -> float:
    """Bytes of one layer's weights on one GPU."""
    hidden, precision = model.hidden_size, deployment.precision
    total = layer.num_attentions * _attention_bytes(layer.attention, hidden, deployment)
    total += (
        layer.num_dense_ffns
        * ffn_parameters(hidden, layer.dense_ffn_size)
        * BYTES_PER_ELEMENT[precision.dense_dtype]
        / deployment.dense_tp
    )
    moe = layer.moe
    if moe is None:
        return total
    expert = BYTES_PER_ELEMENT[precision.experts]
    slots = (moe.num_experts + deployment.redundant_experts) / deployment.ep
    total += slots * expert_parameters(moe, hidden) * expert / deployment.moe_tp
    dispatched = deployment.dispatches
    shared = shared_parameters(moe, hidden) * BYTES_PER_ELEMENT[precision.shared_dtype]
    total += shared / (1 if dispatched else deployment.stage_gpus)
    return total + router_parameters(moe, hidden) * BYTES_PER_ELEMENT[precision.router]


def _attention_bytes(attention: Attention, hidden: int, deployment: Deployment) -> float:
    linear = BYTES_PER_ELEMENT[deployment.precision.linear]
    tp = deployment.attention_tp
    whole = attention_parameters(attention, hidden)
    wide = attention.v_head_dim if isinstance(attention, Mla) else attention.head_dim
    output = attention.num_heads * wide * hidden
    narrower = output * (linear - BYTES_PER_ELEMENT[deployment.precision.output_dtype]) / tp
    if not isinstance(attention, Mla):
        return whole * linear / tp - narrower
    expand = (
        attention.kv_lora_rank * attention.num_heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    )
    down = hidden * (attention.kv_lora_rank + attention.qk_rope_head_dim + (attention.q_lora_rank or 0))
    return (
        down * linear
        + ((whole - down - expand) * linear + expand * deployment.precision.activation_bytes) / tp
        - narrower
    )

"""Device memory of one GPU, by class, and how many tokens its cache holds.

Where a pipeline's stages differ, the figures are an even share of the layers plus the embedding or the head,
whichever is larger: the first or the last stage, which is where memory runs out first.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from perfmodel.engines.memory import cache_room, runtime_bytes
from perfmodel.numeric import Num, maximum, minimum
from perfmodel.ops.build import LOGIT_BYTES
from perfmodel.ops.communication import low_latency_buffer_bytes
from perfmodel.ops.hyper import WEIGHT_BYTES
from perfmodel.ops.lora import adapter_bytes
from perfmodel.ops.mixers.base import Kept
from perfmodel.ops.mixers.mixer import keys_width
from perfmodel.ops.parameters import (
    expert_parameters,
    ffn_parameters,
    hyper_parameters,
    kept_of,
    layer_index_weights,
    layer_weights,
    ngram_parameters,
    output_conv_parameters,
    router_parameters,
    shared_parameters,
)
from perfmodel.ops.work import Group, Work, divided, rounds, step_work
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.drafts import Drafter
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.mixers import Gqa, Mla
from perfmodel.spec.model import Layer, Model
from perfmodel.spec.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU; values may be arrays."""

    weights: Num
    """Weights of the layers, embedding and head, of the draft layer where drafts are used, and of LoRA adapters."""
    kv_cache: Num
    """KV cache at the step's end: what grows with tokens, and what windows keep of them."""
    activations: Num
    """Largest set of intermediate results that live together."""
    communication_buffers: Num
    """Receive and send buffers of the all-to-all."""
    runtime: Num
    """CUDA context, process groups, NVSHMEM and pools of captured graphs."""
    states: Num = 0.0
    """States of linear attention, state-space layers and convolutions: fixed per request."""

    @property
    def total(self) -> Num:
        """All classes together."""
        held = self.weights + self.kv_cache + self.activations + self.communication_buffers + self.runtime
        return held + self.states

    def as_dict(self) -> dict[str, Num]:
        """Bytes by class; states where the model has any."""
        found = asdict(self)
        if not np.any(np.asarray(self.states)):
            del found["states"]
        return found


def step_memory(scenario: Scenario) -> Memory:
    """Memory of one GPU during a step of ``scenario``."""
    work, (part, own) = step_work(scenario.deployment), _as_rank(scenario)
    return Memory(
        weights=weight_bytes(scenario.model, part.deployment),
        kv_cache=cache_bytes(scenario, work),
        activations=activation_bytes(part, own),
        communication_buffers=buffer_bytes(part, own),
        runtime=sum(runtime_bytes(scenario)),
        states=state_bytes(scenario, work),
    )


def _as_rank(scenario: Scenario) -> tuple[Scenario, Work]:
    """The scenario, and its step's work, as one of the ranks that divide a prompt sees them."""
    deployment = divided(scenario.deployment)
    part = scenario
    if deployment is not scenario.deployment:
        part = scenario.model_copy(update={"deployment": deployment})
    return part, step_work(deployment)


def usable_bytes(scenario: Scenario) -> Num:
    """Bytes that a step's memory may come to: the device less what the engine keeps from the cache."""
    memory, device = step_memory(scenario), float(scenario.cluster.gpu.memory_bytes)
    steps = memory.activations + memory.communication_buffers
    left = device - memory.runtime - memory.weights - steps
    return device - maximum(0.0, left - cache_room(scenario, memory.weights, steps))


SHORT = 1 << 20
"""Tokens beyond every sliding window, from where a cache grows evenly."""


def cache_tokens_per_rank(scenario: Scenario, *, prompt_tokens: int, decodes: int = 1) -> int:
    """Tokens that the KV cache of one attention group holds beside weights, buffers and activations; of a pipeline as
    many times as many, since each stage keeps its own layers' alone, of all micro-batches.

    Activations and buffers are the larger ones of a step of ``decodes`` requests and of one with ``prompt_tokens`` of
    prompts per group; weights, and low-latency's buffers beside normal ones, are held all the time. At least 0.
    """
    deployment = scenario.deployment
    activations: Num = 0.0
    buffers: Num = 0.0
    for phase in ("decode", "prefill"):
        changed = {
            "phase": phase,
            "batch_per_gpu": max(1.0, decodes / deployment.pp) / deployment.attention_tp,
            "prefill_requests_per_gpu": 1.0 / deployment.attention_tp,
            "prefill_tokens": float(prompt_tokens),
            "prefill_cached_tokens": 0.0,
        }
        own, work = _as_rank(
            scenario.model_copy(update={"deployment": deployment.model_copy(update=changed)})
        )
        activations = maximum(activations, activation_bytes(own, work))
        buffers = buffers + buffer_bytes(own, work)
    weights = weight_bytes(scenario.model, divided(deployment))
    room = cache_room(scenario, weights, activations + buffers)
    return max(0, int(room * deployment.pp / cached_token_bytes(scenario)))


def cached_token_bytes(scenario: Scenario) -> float:
    """Bytes of one more token in the KV cache, on each GPU of its attention group; beyond every sliding window. Where
    nothing grows, a part of what a request keeps that no length of a request makes noticeable: 1 / SHORT; one byte
    where nothing is kept at all (a convolution over the token alone).
    """
    short, long = (_request_cache_bytes(scenario, tokens) for tokens in (float(SHORT), float(2 * SHORT)))
    return (long - short) / SHORT or float(beside_bytes(scenario).of(float(SHORT))) / SHORT or 1.0


@dataclass(frozen=True, slots=True)
class Beside:
    """What a request keeps beside what grows with every token: bytes, or the unit that it is :meth:`scaled` to."""

    fixed: float = 0.0
    """Whatever the request's length: states."""
    windows: tuple[tuple[int, float], ...] = ()
    """(Tokens, amount per token): of so many of its latest tokens."""

    def of(self, tokens: Num) -> Num:
        """Of a request with ``tokens``."""
        return self.fixed + sum(minimum(tokens, float(most)) * each for most, each in self.windows)

    def scaled(self, factor: float) -> "Beside":
        """The same in another unit."""
        return Beside(self.fixed * factor, tuple((most, each * factor) for most, each in self.windows))


NOTHING = Beside()
"""Of attention that sees everything."""


def beside_bytes(scenario: Scenario) -> Beside:
    """What a decoding request keeps beside its tokens, bytes on each GPU of its attention group: states, those of
    unverified drafts too, and windows.
    """
    windows: dict[int, float] = {}
    for times, kept in _kept(scenario):
        for cache in kept.caches:
            if cache.most_tokens:
                before = windows.get(cache.most_tokens, 0.0)
                windows[cache.most_tokens] = before + times * cache.bytes_per_token
    states = float(state_bytes(scenario, _one_request(scenario, 1.0)))
    return Beside(states, tuple(sorted(windows.items())))


def checkpoint_bytes(scenario: Scenario) -> float:
    """Bytes of one state of every layer that has one, on each GPU of an attention group: what a prefix cache keeps
    where a later prompt may go on.
    """
    return sum(times * kept.state_bytes for times, kept in _kept(scenario))


def handed_over_bytes(scenario: Scenario) -> Beside:
    """Bytes of a request beside those of its tokens that go from a prefill rank to a decode rank, on each GPU of the
    latter: one state, and windows.
    """
    own, drafts = beside_bytes(scenario), scenario.deployment.mtp.draft_tokens
    return replace(own, fixed=own.fixed - drafts * checkpoint_bytes(scenario))


def _request_cache_bytes(scenario: Scenario, tokens: float) -> float:
    return float(cache_bytes(scenario, _one_request(scenario, tokens)))


def _one_request(scenario: Scenario, tokens: float) -> Work:
    """A decoding request of an attention group; ``tokens`` are cached."""
    return Work((Group("decode", 1.0 / scenario.deployment.attention_tp, 1.0, tokens),))


def weight_bytes(model: Model, deployment: Deployment) -> float:
    """Bytes of weights on one GPU.

    MLA's down-projections are replicated over attention TP and its up-projection of keys and values is kept in the
    activations' type, as engines do for the absorbed product. Experts are divided over EP and expert TP; shared experts
    and routers are replicated where tokens are dispatched to experts, and divided like experts otherwise.
    """
    hidden, precision = model.hidden_size, deployment.precision
    layers = sum(run.count * _layer_bytes(run, model, deployment) for run in model.layers)
    drafter = deployment.mtp.drafter
    if model.mtp and deployment.mtp.draft_tokens and drafter is None:
        join = 2 * hidden * hidden * BYTES_PER_ELEMENT[precision.linear]
        layers += _layer_bytes(model.mtp.layer, model, deployment) + join
    tp = deployment.attention_tp
    layers += hyper_parameters(model) * WEIGHT_BYTES
    table = BYTES_PER_ELEMENT[precision.embedding] * model.vocab_size * hidden / tp
    ngram = precision.activation_bytes * sum(ngram_parameters(model)) / deployment.stage_gpus
    ends = table + ngram
    if not model.tied_embeddings:
        ends = ends + table if deployment.pp == 1 else maximum(ends, table)
    drafts = drafter_bytes(drafter, model, deployment) if drafter and deployment.mtp.draft_tokens else 0.0
    adapters = adapter_bytes(model, deployment) if deployment.lora_adapters else 0.0
    return layers / deployment.pp + ends + drafts + adapters


def drafter_bytes(drafter: Drafter, model: Model, deployment: Deployment) -> float:
    """Bytes of a draft model's weights on one GPU: all of a small model; of eagle3 its layer, the projections of
    states (whole on every GPU) and its head; of dspark its layers, that projection and its sequential head. Those two
    share the model's embedding, dspark its head too.
    """
    own, tp = deployment.drafting, deployment.attention_tp
    if drafter.kind == "model":
        return weight_bytes(drafter.model, own)
    each, hidden = BYTES_PER_ELEMENT[drafter.precision], drafter.model.hidden_size
    layers = sum(run.count * _layer_bytes(run, drafter.model, own) for run in drafter.model.layers)
    join = each * drafter.fused_states * model.hidden_size * hidden
    if drafter.kind == "dspark":
        return layers + join + each * 2 * drafter.markov_rank * drafter.model.vocab_size / tp
    first = drafter.model.layers[0]
    again = layer_weights(first.model_copy(update={"count": 1}), hidden)
    widened = replace(again, output=0, vectors=0).stored_bytes(own.precision, tp)
    return layers + join + widened + each * drafter.model.vocab_size * hidden / tp


def _kept(scenario: Scenario) -> Iterator[tuple[int, Kept]]:
    """What every mixer of the model keeps of a request, and of the draft layer where drafts are used: (how many alike,
    what).
    """
    model, deployment = scenario.model, scenario.deployment
    drafter = deployment.mtp.drafter if deployment.mtp.draft_tokens else None
    runs = list(model.layers)
    if model.mtp and drafter is None and deployment.mtp.draft_tokens and deployment.phase != "prefill":
        runs.append(model.mtp.layer)
    for run in runs:
        for kept, times in kept_of(run, model.hidden_size, deployment.precision, deployment.head_tp):
            yield run.count * times, kept
    if drafter:
        own = deployment.drafting
        for run in drafter.model.layers:
            for kept, times in kept_of(run, drafter.model.hidden_size, own.precision, own.attention_tp):
                yield run.count * times, kept


def cache_bytes(scenario: Scenario, work: Work) -> Num:
    """Bytes of KV cache on one GPU; a window keeps only its own tokens."""
    total: Num = 0.0
    shards = scenario.deployment.cache_shards
    for group in work.groups:
        requests = group.requests * scenario.deployment.attention_tp
        for times, kept in _kept(scenario):
            for cache in kept.caches:
                total = total + times * requests * cache.kept_tokens(group) * cache.bytes_per_token / shards
    return total


def state_bytes(scenario: Scenario, work: Work) -> Num:
    """Bytes of what requests keep whatever their length, on one GPU. A request that decodes with drafts has a state for
    each of them beside its own, until it is known which are accepted.
    """
    total: Num = 0.0
    drafts = scenario.deployment.mtp.draft_tokens
    for group in work.groups:
        requests = group.requests * scenario.deployment.attention_tp
        copies = 1.0 + (drafts if group.kind == "decode" else 0)
        for times, kept in _kept(scenario):
            if kept.state_bytes or kept.fixed_bytes:
                total = total + times * requests * (copies * kept.state_bytes + kept.fixed_bytes)
    return total


def activation_bytes(scenario: Scenario, work: Work) -> Num:
    """Bytes of the largest set of intermediate results.

    Residual and normed input, plus the largest of: queries, keys and attention output; gate and up product with its
    activation in a dense FFN or in the experts, with their output and, where tokens are sent to them, the rows that
    came (fused kernels gather rows themselves); FP32 logits. An estimate from the ops' inputs and outputs: engines'
    allocators keep somewhat more.
    """
    model, deployment = scenario.model, scenario.deployment
    rows, element = work.tokens * deployment.attention_tp, deployment.precision.activation_bytes
    widest: Num = LOGIT_BYTES * work.logit_rows * model.vocab_size
    for run in model.layers:
        widest = maximum(widest, element * rows * _mixer_width(run, model) / deployment.attention_tp)
        if not deployment.ffn_gpus:  # FFNs are elsewhere
            widest = maximum(widest, _ffn_results(run, scenario, work))
    streams = model.hyper_connections.num_streams if model.hyper_connections else 1
    return (1.0 + streams) * element * rows * model.hidden_size + widest + _ring_bytes(scenario, work)


def _ffn_results(run: Layer, scenario: Scenario, work: Work) -> Num:
    """Bytes of the larger of what a layer's dense FFN and its experts make on one GPU; 0 without either."""
    deployment, tokens = scenario.deployment, work.tokens
    widest: Num = 0.0
    if run.dense_ffn_size:
        gathered = tokens * (deployment.attention_tp if deployment.replicated else deployment.dense_tp)
        widest = gathered * 3 * run.dense_ffn_size / deployment.dense_tp
    if run.moe:
        pairs = tokens * deployment.moe_tp * scenario.mean_real_experts
        routed = run.moe.routed_size(scenario.model.hidden_size)
        inputs = routed if deployment.dispatches else 0
        per_pair = inputs + routed + 3 * run.moe.ffn_size / deployment.moe_tp
        widest = maximum(widest, pairs * per_pair)
    return deployment.precision.activation_bytes * widest


def _ring_bytes(scenario: Scenario, work: Work) -> Num:
    """Bytes of two blocks of keys where they go round in a ring: the one at hand and the one that arrives."""
    deployment = scenario.deployment
    if rounds(deployment) == 1:
        return 0.0
    keys = sum(group.requests * group.keys_per_request() for group in work.groups) * deployment.attention_tp
    width = max(
        keys_width(run.attention, deployment.precision, deployment.attention_tp, indexes=False)
        for run in scenario.model.layers
        if run.attention
    )
    return 2.0 * deployment.precision.activation_bytes * keys * width


def _mixer_width(layer: Layer, model: Model) -> Num:
    """Elements per token of a mixer's queries, keys and output, or of its projections and output, all heads."""
    mixer = layer.attention
    if isinstance(mixer, Mla):
        return mixer.num_heads * (mixer.qk_head_dim + mixer.kv_lora_rank + mixer.v_head_dim)
    if isinstance(mixer, Gqa):
        return mixer.num_heads * (2 * mixer.head_dim + mixer.value_head_dim)
    weights = layer_weights(layer, model.hidden_size)
    return (weights.divided + weights.output) / model.hidden_size


def buffer_bytes(scenario: Scenario, work: Work) -> Num:
    """Bytes of the all-to-all's buffers.

    DeepEP low-latency reserves room for every expert's tokens from every rank (its own size hint). The normal kernels
    and plain collectives receive what is sent: tokens x mean real experts x hidden as activations, in and out.
    """
    moe, deployment = scenario.model.moe, scenario.deployment
    if moe is None or deployment.ep == 1 or deployment.backend == "none":
        return 0.0
    width = moe.routed_size(scenario.model.hidden_size)
    if deployment.backend == "deepep-low-latency":
        experts = moe.num_experts + deployment.redundant_experts
        return low_latency_buffer_bytes(
            deployment.low_latency_max_tokens_per_gpu, width, deployment.ep, experts
        )
    pairs = work.tokens * scenario.mean_real_experts
    return 2.0 * deployment.precision.activation_bytes * pairs * width


def _layer_bytes(layer: Layer, model: Model, deployment: Deployment) -> float:
    """Bytes of one layer's weights on one GPU; where FFNs have GPUs of their own, on one of attention's."""
    hidden, precision = model.hidden_size, deployment.precision
    tp = deployment.attention_tp
    total = layer_weights(layer, hidden).stored_bytes(precision, tp)
    total += layer_index_weights(layer, hidden).stored_bytes(precision, tp)
    total += output_conv_parameters(layer, hidden) * precision.activation_bytes
    total += _router_bytes(layer, hidden, deployment)
    return total if deployment.ffn_gpus else total + _ffn_bytes(layer, hidden, deployment)


def _router_bytes(layer: Layer, hidden: int, deployment: Deployment) -> float:
    if layer.moe is None:
        return 0.0
    return router_parameters(layer.moe, hidden) * BYTES_PER_ELEMENT[deployment.precision.router]


def _ffn_bytes(layer: Layer, hidden: int, deployment: Deployment) -> float:
    """Of its dense FFNs and experts."""
    precision = deployment.precision
    total = (
        layer.num_dense_ffns
        * ffn_parameters(hidden, layer.dense_ffn_size, layer.dense_activation)
        * BYTES_PER_ELEMENT[precision.dense_dtype]
        / deployment.dense_tp
    )
    moe = layer.moe
    if moe is None:
        return total
    expert = BYTES_PER_ELEMENT[precision.experts]
    total += (
        deployment.most_slots(moe.num_experts) * expert_parameters(moe, hidden) * expert / deployment.moe_tp
    )
    dispatched = deployment.dispatches
    shared = shared_parameters(moe, hidden) * BYTES_PER_ELEMENT[precision.shared_dtype]
    return total + shared / (1 if dispatched else deployment.stage_gpus)


def ffn_side_bytes(scenario: Scenario) -> tuple[Num, Num]:
    """Bytes on a GPU that computes FFNs and experts alone: of weights and the runtime, and of a step's tokens: as they
    come and as they go, in rows of tokens and of pairs, and the largest result between. It has no heads and no logits.
    """
    side = scenario.ffn_side
    work, hidden = step_work(side.deployment), scenario.model.hidden_size
    weights = sum(run.count * _ffn_bytes(run, hidden, side.deployment) for run in scenario.model.layers)
    if scenario.model.mtp and side.deployment.mtp.draft_tokens:
        weights += _ffn_bytes(scenario.model.mtp.layer, hidden, side.deployment)
    if side.deployment.lora_adapters:
        weights += adapter_bytes(scenario.model, side.deployment, ffns_alone=True)
    rows = 2.0 * side.deployment.precision.activation_bytes * work.tokens * hidden
    pairs = rows * (scenario.mean_real_experts or 1.0)
    results: Num = 0.0
    for run in scenario.model.layers:
        results = maximum(results, _ffn_results(run, side, work))
    return weights + sum(runtime_bytes(side)), rows + pairs + results

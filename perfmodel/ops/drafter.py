"""Ops of a draft model of its own. Per GPU.

It is divided over the GPUs as the model is that it drafts for. Its first pass of a step takes every verified position
(drafts and one, padded as in a captured graph), so that its cache holds what was accepted; later passes take one token
per request (SGLang's and vLLM's EAGLE workers, vLLM's draft-model proposer). An EAGLE3 layer projects
[embedding; state] of twice its width to queries, keys and values, and joins states of the model's layers before its
first pass alone (arXiv 2503.01840). DSpark projects the model's states of every verified position to keys and values of
its layers, drafts a block in one pass, and corrects its logits token by token by a product of low rank
(https://github.com/deepseek-ai/DeepSpec, deepspec/modeling/dspark); its confidence head, one output per token, is not
counted. Prompts pass the drafter once, so that its cache holds them.
"""

from dataclasses import dataclass, replace

from perfmodel.numeric import Num
from perfmodel.ops.build import gemm, norm
from perfmodel.ops.ends import embedding_ops, head_ops, sampling_op
from perfmodel.ops.layer import LayerOps, layer_ops
from perfmodel.ops.op import Op, OpClass
from perfmodel.ops.work import Group, Work, draft_work, step_work
from perfmodel.spec.drafts import Drafter
from perfmodel.spec.mixers import Gqa
from perfmodel.spec.scenario import Scenario

DRAFT = OpClass.DRAFT


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of a drafter."""

    name: str
    before: tuple[Op, ...]
    layers: tuple[tuple[LayerOps, int], ...]
    """Runs of equal layers."""
    after: tuple[Op, ...] = ()
    corrected: tuple[Op, ...] = ()
    """What is done for each drafted token in turn, behind all that."""
    tokens: int = 0
    """How many those are."""


def draft_passes(scenario: Scenario) -> tuple[Pass, ...]:
    """What the drafter of a scenario does in a step: prompts once, then its drafts."""
    deployment = scenario.deployment
    drafter, drafts = deployment.mtp.drafter, deployment.mtp.draft_tokens
    if drafter is None or not drafts:
        return ()
    found = []
    prompts = tuple(group for group in step_work(deployment).groups if group.kind == "prefill")
    if prompts:
        work = Work(prompts)
        found.append(
            Pass(
                "draft prompts",
                _before(drafter, work, scenario, joins=True),
                _layers(drafter, work, scenario),
            )
        )
    if deployment.phase == "prefill":
        return tuple(found)
    if drafter.kind == "dspark":
        return (*found, _block(drafter, scenario))
    return (*found, *(_one(drafter, scenario, number) for number in range(drafts)))


def _one(drafter: Drafter, scenario: Scenario, number: int) -> Pass:
    """One draft token of every request."""
    own, work = scenario.drafting, draft_work(scenario.deployment, number)
    last = Work(tuple(replace(group, new_tokens=1.0) for group in work.groups))
    return Pass(
        f"draft {number}",
        _before(drafter, work, scenario, joins=number == 0),
        _layers(drafter, work, scenario),
        head_ops(last, own, draft=True),
    )


def _block(drafter: Drafter, scenario: Scenario) -> Pass:
    """All draft tokens of every request, in one pass behind what was verified."""
    own, deployment = scenario.drafting, scenario.deployment
    drafts, requests = deployment.mtp.draft_tokens, deployment.batch_per_gpu
    work = Work((Group("decode", requests, float(drafts), deployment.context_tokens + drafts + 1.0),))
    verified = draft_work(deployment, 0)
    context = [
        gemm(f"context_kv{number}", DRAFT, m=_rows(verified, own), n=_kv_width(run, own), k=own.model.hidden_size,
             dtype=drafter.precision)
        for number, layer in enumerate(own.model.layers)
        for run in [layer.attention] * layer.count
        if isinstance(run, Gqa)
    ]  # fmt: skip
    corrected: tuple[Op, ...] = ()
    if drafter.markov_rank:
        rows, shard = requests * deployment.attention_tp, own.model.vocab_size / deployment.attention_tp
        dtype = deployment.precision.activations
        corrected = (
            gemm("markov", DRAFT, m=rows, n=shard, k=drafter.markov_rank, dtype=drafter.precision),
            sampling_op("markov.sample", rows, shard, dtype),
        )
    return Pass(
        "draft block",
        (*_join(drafter, verified, scenario), *context, *embedding_ops(work, own)),
        _layers(drafter, work, scenario),
        head_ops(work, own, draft=True),
        corrected,
        drafts if corrected else 0,
    )


def _rows(work: Work, scenario: Scenario) -> Num:
    """Tokens that a GPU's attention group has."""
    return work.tokens * scenario.deployment.attention_tp


def _kv_width(attention: Gqa, scenario: Scenario) -> int:
    heads = max(attention.num_kv_heads // scenario.deployment.attention_tp, 1)
    return heads * (attention.head_dim + attention.value_head_dim)


def _before(drafter: Drafter, work: Work, scenario: Scenario, *, joins: bool) -> tuple[Op, ...]:
    """What stands before its layers: embedding, and where it ``joins`` states of the model the projection of those."""
    own = scenario.drafting
    found = embedding_ops(work, own)
    if drafter.kind == "model":
        return found
    return (*found, *(_join(drafter, work, scenario) if joins else ()))


def _join(drafter: Drafter, work: Work, scenario: Scenario) -> tuple[Op, ...]:
    """States of the model's layers projected to the drafter's width, and a norm behind."""
    hidden, width = drafter.model.hidden_size, drafter.fused_states * scenario.model.hidden_size
    rows = work.tokens * (scenario.deployment.attention_tp if scenario.deployment.replicated else 1)
    dtype = scenario.deployment.precision.activations
    return (
        gemm("join.project", DRAFT, m=rows, n=hidden, k=width, dtype=drafter.precision),
        norm("join.norm", tokens=rows, width=hidden, dtype=dtype),
    )


def _layers(drafter: Drafter, work: Work, scenario: Scenario) -> tuple[tuple[LayerOps, int], ...]:
    own = scenario.drafting
    found = [(layer_ops(layer, work, own), layer.count) for layer in own.model.layers]
    if drafter.kind == "eagle3":  # its first layer's projections take embedding and state side by side
        first, count = found[0]
        found[:1] = [(_twice_as_wide(first), 1), *([(first, count - 1)] if count > 1 else [])]
    return tuple(found)


def _twice_as_wide(layer: LayerOps) -> LayerOps:
    """A layer whose queries, keys and values are projected from twice its width."""
    attention = layer.attentions[0]
    pre = tuple(_wider(op) if op.name.endswith(".qkv") else op for op in attention.pre)
    return replace(layer, attentions=(replace(attention, pre=pre), *layer.attentions[1:]))


def _wider(op: Op) -> Op:
    m, n, k = (op.shape[name] for name in ("m", "n", "k"))
    return replace(gemm(op.name, op.op_class, m=m, n=n, k=2 * k, dtype=op.dtype), stream=op.stream)

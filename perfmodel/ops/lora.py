"""LoRA adapters beside a model's products: their ops, and what they weigh. Per GPU.

An adapter of rank r adds B (A x) to a product: A is [k, r], B [r, n]. A step's tokens belong to several adapters, so
each product is followed by two grouped ones, over the adapters that the step's requests use: one that shrinks to the
rank, one that expands and adds. vLLM's layout is that of the base layer (``fully_sharded_loras`` is not modelled): of a
column-parallel product A is whole on every GPU and B divided, of a row-parallel one A is divided and B whole, so both
follow from the base product's own k and n, and no collective is added. Products that stand for several matrices have an
A for each of them. Routed experts have an A and a B per expert and adapter
(https://docs.vllm.ai/en/v0.22.1/api/vllm/lora/layers/fused_moe/, https://docs.vllm.ai/en/v0.22.1/api/vllm/config/lora/).
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from perfmodel.numeric import Num
from perfmodel.ops.layer import LayerOps
from perfmodel.ops.mixers.mixer import projections
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.ops.work import Work
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.model import Layer, Model, Moe

ELEMENT = BYTES_PER_ELEMENT["bf16"]
SHRUNK = BYTES_PER_ELEMENT["fp32"]
"""What stands between the two products is FP32 (vLLM's punica kernels)."""
STACKED = {"qkv": 3, "qkv_a": 2, "gate_up": 2}
"""Product -> matrices that it stands for, each with an A of its own; others are one."""


def with_adapters(ops: LayerOps, work: Work, deployment: Deployment, slots: float) -> LayerOps:
    """A layer with its adapters' ops behind the products that have some; ``slots`` are routed experts of a GPU."""
    targets = deployment.lora_targets
    requests = sum(group.requests for group in work.groups)
    per_row = requests / work.tokens

    def added(every: Iterable[Op]) -> tuple[Op, ...]:
        return tuple(one for op in every for one in (op, *_beside(op, deployment, per_row, slots)))

    if "attention" in targets:
        attentions = tuple(replace(one, pre=added(one.pre), core=added(one.core)) for one in ops.attentions)
        ops = replace(ops, attentions=attentions)
    if "dense" in targets:
        ops = replace(ops, ffns=tuple(added(one) for one in ops.ffns))
    if ops.moe is not None:
        moe = ops.moe
        moe = replace(moe, shared=added(moe.shared)) if "dense" in targets else moe
        moe = replace(moe, experts=added(moe.experts)) if "experts" in targets else moe
        ops = replace(ops, moe=moe)
    return ops


def _beside(op: Op, deployment: Deployment, per_row: Num, slots: float) -> Iterator[Op]:
    """The two ops of a product's adapters; none of what is no product, or an index branch's."""
    adapters = deployment.lora_adapters
    if op.kernel == "gemm" and op.op_class is not OpClass.INDEXER:
        rows = op.shape["m"]
        groups = distinct(adapters, rows * per_row)
    elif op.kernel == "grouped_gemm":
        rows = op.shape["rows"]
        groups = distinct(adapters * slots, rows)
    else:
        return
    n, k = op.shape["n"], op.shape["k"]
    rank, stacked = deployment.lora_rank, _stacked(op.name)
    yield _product(f"{op.name}.lora_shrink", op, rows, groups, stacked * rank, k, ELEMENT, SHRUNK)
    yield _product(f"{op.name}.lora_expand", op, rows, groups, n, rank, SHRUNK * stacked, 2.0 * ELEMENT)


def _stacked(name: str) -> int:
    return STACKED.get(name.rpartition(".")[2], 1)


def distinct(kinds: float, draws: Num) -> Num:
    """How many of so many equally likely kinds are among ``draws``, in the mean."""
    none: Num = (1.0 - 1.0 / kinds) ** draws
    return kinds * (1.0 - none)


def _product(name: str, op: Op, rows: Num, groups: Num, n: Num, k: Num, read: float, written: float) -> Op:
    """One grouped product [rows, k] x [k, n] with a matrix per group; ``read`` and ``written``: bytes per element of
    what comes and goes (what is added to is read and written).
    """
    return Op(
        name,
        op.op_class,
        name.rpartition(".")[2],
        Stream.COMPUTE,
        flops=2.0 * rows * n * k,
        hbm_bytes=ELEMENT * groups * n * k + read * rows * k + written * rows * n,
        dtype="bf16",
        shape={"groups": groups, "rows": rows, "n": n, "k": k},
    )


def adapter_bytes(model: Model, deployment: Deployment, *, ffns_alone: bool = False) -> float:
    """Bytes of all adapters' weights on one GPU, in BF16: engines allocate every slot at the largest rank. Where FFNs
    have GPUs of their own, on one of attention's; ``ffns_alone``: on one of FFNs', whose deployment is asked of.
    """
    left_out = {"attention"} if ffns_alone else {"dense", "experts"} if deployment.ffn_gpus else set()
    targets = set(deployment.lora_targets) - left_out
    elements = sum(run.count * _layer_elements(run, model, deployment, targets) for run in model.layers)
    return ELEMENT * deployment.lora_adapters * deployment.lora_rank * elements / deployment.pp


def _layer_elements(layer: Layer, model: Model, deployment: Deployment, targets: Collection[str]) -> float:
    """Of one layer, per adapter and rank."""
    hidden, total = model.hidden_size, 0.0
    if layer.attention and "attention" in targets:
        ops = projections(layer.attention, deployment.precision, deployment.attention_tp, hidden)
        total += layer.num_mixers * sum(_stacked(op.name) * op.shape["k"] + op.shape["n"] for op in ops)
    if "dense" in targets:
        width = layer.dense_ffn_size / deployment.dense_tp
        total += layer.num_dense_ffns * _ffn_elements(hidden, width, layer.dense_activation)
    moe = layer.moe
    if moe is None:
        return total
    if "dense" in targets and moe.shared_ffn_size:
        width = moe.shared_ffn_size / (1 if deployment.dispatches else deployment.stage_gpus)
        total += _ffn_elements(hidden, width, moe.activation)
    if "experts" in targets:
        each = _ffn_elements(moe.routed_size(hidden), moe.ffn_size / deployment.moe_tp, moe.activation)
        total += slots_of(moe, deployment) * each
    return total


def slots_of(moe: Moe, deployment: Deployment) -> float:
    """Routed experts that one GPU holds, copies among them; of unequal ranks the fullest."""
    return deployment.most_slots(moe.num_experts)


def _ffn_elements(hidden: int, width: float, activation: str) -> float:
    """Of an FFN's products: up (with a gate: two matrices) and down."""
    ups = 2 if activation == "swiglu" else 1
    return ups * (hidden + width) + width + hidden

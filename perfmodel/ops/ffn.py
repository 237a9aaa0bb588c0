"""Dense feed-forward networks, tensor-parallel or not. Counts per GPU."""

from perfmodel.numeric import Num
from perfmodel.ops.build import gemm, relu2, swiglu
from perfmodel.ops.collective import all_gather, all_reduce, reduce_scatter
from perfmodel.ops.op import Op, OpClass
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.model import Activation


def ffn_ops(
    prefix: str,
    op_class: OpClass,
    *,
    tokens: Num,
    hidden: int,
    width: float,
    dtype: str,
    activations: str,
    activation: Activation,
) -> tuple[Op, ...]:
    """Up projection (SwiGLU: gate and up, fused), activation, down projection; ``activations`` is the type between."""
    gated = activation == "swiglu"
    up, widening, between = ("gate_up", 2, swiglu) if gated else ("up", 1, relu2)
    return (
        gemm(f"{prefix}.{up}", op_class, m=tokens, n=widening * width, k=hidden, dtype=dtype),
        between(f"{prefix}.act", op_class, tokens=tokens, width=width, dtype=activations),
        gemm(f"{prefix}.down", op_class, m=tokens, n=hidden, k=width, dtype=dtype),
    )


def dense_ffn_ops(
    size: int,
    tokens: Num,
    deployment: Deployment,
    cluster: Cluster,
    *,
    hidden: int,
    prefix: str = "ffn",
    activation: Activation = "swiglu",
) -> tuple[Op, ...]:
    """A dense FFN of intermediate width ``size`` over ``tokens`` new tokens per GPU.

    With TP of d the d GPUs gather each other's tokens, compute 1/d of the width and reduce-scatter the sums: the
    same FLOPs per GPU as without, but 1/d of the weights to read and to store. On a replicated layout every GPU has
    all tokens already and an all-reduce sums.
    """
    tp = deployment.dense_tp
    rows = tokens * (deployment.attention_tp if deployment.replicated else tp)
    ops = ffn_ops(
        prefix,
        OpClass.DENSE_FFN,
        tokens=rows,
        hidden=hidden,
        width=size / tp,
        dtype=deployment.precision.dense_dtype,
        activations=deployment.precision.activations,
        activation=activation,
    )
    if tp == 1:
        return ops
    if deployment.replicated:
        return (*ops, all_reduce(f"{prefix}.reduce", rows, hidden, deployment, cluster, tp))
    gather = all_gather(f"{prefix}.gather", rows, hidden, deployment, cluster, tp)
    return (gather, *ops, reduce_scatter(f"{prefix}.scatter", rows, hidden, deployment, cluster, tp))

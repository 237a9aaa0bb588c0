"""Ops shared by all builders: GEMMs and element-wise kernels."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from perfmodel.numeric import Num
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.formats import BYTES_PER_ELEMENT

MEMORY_BOUND = frozenset(
    {"norm", "latent_norm", "rope", "activation", "add", "gather", "select", "sample", "permute"}
    | {"unpermute", "reorder", "conv_update", "conv_prefill", "gated_norm", "compress", "mhc_pre", "mhc_post"}
)
"""Kernel classes that move bytes and hardly compute; a calibration tells them apart, the fallback does not."""
Inside: TypeAlias = tuple[tuple[str, str, str], ...]
"""As ``Op.inside``."""
FUSED_REDUCE: Inside = (("all_reduce", "any", "custom"),)
"""An all-reduce that adds the residual and normalises: the norm's bytes pass through it, and it has no launch."""
LOGIT_BYTES = 4.0
"""Logits, of the router and of the head, are FP32."""


def gemm(
    name: str,
    op_class: OpClass,
    *,
    m: Num,
    n: Num,
    k: Num,
    dtype: str,
    stream: Stream = Stream.COMPUTE,
) -> Op:
    """One matrix product [m, k] x [k, n]: 2mnk FLOPs; weights and inputs in ``dtype``, output in BF16 or wider."""
    weight = BYTES_PER_ELEMENT[dtype]
    inputs = input_bytes(dtype)
    return Op(
        name,
        op_class,
        "gemm",
        stream,
        flops=2.0 * m * n * k,
        hbm_bytes=weight * n * k + inputs * m * k + output_bytes(dtype) * m * n,
        dtype=dtype,
        shape={"m": m, "n": n, "k": k},
    )


def input_bytes(dtype: str) -> float:
    """Bytes per element of a product's activations: the weights' format, or BF16 where only weights are quantised."""
    return BYTES_PER_ELEMENT["bf16" if dtype == "int4" else dtype]


def output_bytes(dtype: str) -> float:
    """Bytes per element of a product's output: BF16, or FP32 where the multiply is."""
    return BYTES_PER_ELEMENT["fp32" if dtype == "fp32" else "bf16"]


def bmm(name: str, op_class: OpClass, *, groups: Num, m: Num, n: Num, k: Num, dtype: str) -> Op:
    """``groups`` independent products [m, k] x [k, n] (MLA's absorption)."""
    elements = k * n + m * k + m * n
    return Op(
        name,
        op_class,
        "bmm",
        Stream.COMPUTE,
        flops=2.0 * groups * m * n * k,
        hbm_bytes=BYTES_PER_ELEMENT[dtype] * groups * elements,
        dtype=dtype,
        shape={"groups": groups, "m": m, "n": n, "k": k},
    )


def memory_bound(
    name: str,
    op_class: OpClass,
    kernel: str,
    *,
    hbm_bytes: Num,
    dtype: str,
    shape: Mapping[str, Num],
    flops: Num = 0.0,
) -> Op:
    """A kernel that moves ``hbm_bytes`` and hardly computes; ``shape`` is what its curve is looked up by."""
    assert kernel in MEMORY_BOUND, kernel
    return Op(
        name, op_class, kernel, Stream.COMPUTE, flops=flops, hbm_bytes=hbm_bytes, dtype=dtype, shape=shape
    )


def norm(
    name: str,
    *,
    tokens: Num,
    width: Num,
    dtype: str,
    op_class: OpClass = OpClass.NORM,
    inside: Inside = (),
) -> Op:
    """RMS norm fused with the residual addition: reads and writes both streams once."""
    moved = 4.0 * BYTES_PER_ELEMENT[dtype] * tokens * width
    shape = {"rows": tokens, "width": width}
    return replace(
        memory_bound(name, op_class, "norm", hbm_bytes=moved, dtype=dtype, shape=shape), inside=inside
    )


def inside_reduce(deployment: Deployment) -> Inside:
    """What a norm is part of where the engine's all-reduce normalises; nothing elsewhere."""
    reduces = deployment.replicated and deployment.attention_tp > 1
    return FUSED_REDUCE if deployment.fused_norms and reduces else ()


def swiglu(name: str, op_class: OpClass, *, tokens: Num, width: Num, dtype: str, inside: Inside = ()) -> Op:
    """silu(gate) * up: reads two values and writes one per element of the intermediate."""
    moved = 3.0 * BYTES_PER_ELEMENT[dtype] * tokens * width
    shape = {"rows": tokens, "width": width}
    op = memory_bound(name, op_class, "activation", hbm_bytes=moved, dtype=dtype, shape=shape)
    return replace(op, inside=inside)


def relu2(name: str, op_class: OpClass, *, tokens: Num, width: Num, dtype: str, inside: Inside = ()) -> Op:
    """The square of ReLU: reads and writes one value per element of the intermediate."""
    moved = 2.0 * BYTES_PER_ELEMENT[dtype] * tokens * width
    shape = {"rows": tokens, "width": width}
    op = memory_bound(name, op_class, "activation", hbm_bytes=moved, dtype=dtype, shape=shape)
    return replace(op, inside=inside)


def rows_moved(
    name: str,
    op_class: OpClass,
    kernel: str,
    *,
    read: Num,
    written: Num,
    width: Num,
    dtype: str,
    inside: Inside = (),
) -> Op:
    """Rows of ``width`` copied from one order into another: ``read`` in, ``written`` out.

    ``permute`` (tokens -> a row per token and real expert), ``unpermute`` (back, as weighted sums) and ``reorder``.
    """
    pairs, tokens = (read, written) if kernel == "unpermute" else (written, read)
    op = memory_bound(
        name,
        op_class,
        kernel,
        hbm_bytes=BYTES_PER_ELEMENT[dtype] * width * (read + written),
        dtype=dtype,
        shape={"rows": pairs, "tokens": tokens, "width": width},
    )
    return replace(op, inside=inside)

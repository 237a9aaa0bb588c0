"""Ops shared by all builders: GEMMs and element-wise kernels."""

from perfmodel.numeric import Num
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.spec.deployment import BYTES_PER_ELEMENT

ACTIVATION_BYTES = 2.0
"""Activations between kernels, and what tensor parallelism exchanges, are BF16."""
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
    """One matrix product [m, k] x [k, n]: 2mnk FLOPs; weights and inputs in ``dtype``, output in BF16."""
    weight = BYTES_PER_ELEMENT[dtype]
    return Op(
        name,
        op_class,
        "gemm",
        stream,
        flops=2.0 * m * n * k,
        hbm_bytes=weight * n * k + weight * m * k + ACTIVATION_BYTES * m * n,
        dtype=dtype,
        shape={"m": m, "n": n, "k": k},
    )


def bmm(name: str, op_class: OpClass, *, groups: Num, m: Num, n: Num, k: Num) -> Op:
    """``groups`` independent products [m, k] x [k, n] in BF16 (MLA's absorption)."""
    elements = k * n + m * k + m * n
    return Op(
        name,
        op_class,
        "bmm",
        Stream.COMPUTE,
        flops=2.0 * groups * m * n * k,
        hbm_bytes=ACTIVATION_BYTES * groups * elements,
        dtype="bf16",
        shape={"groups": groups, "m": m, "n": n, "k": k},
    )


def elementwise(name: str, op_class: OpClass, *, hbm_bytes: Num, stream: Stream = Stream.COMPUTE) -> Op:
    """A memory-bound kernel that moves ``hbm_bytes``."""
    return Op(name, op_class, "elementwise", stream, hbm_bytes=hbm_bytes, shape={"bytes": hbm_bytes})


def norm(name: str, *, tokens: Num, width: Num, op_class: OpClass = OpClass.NORM) -> Op:
    """RMS norm fused with the residual addition: reads and writes both streams once."""
    return elementwise(name, op_class, hbm_bytes=4.0 * ACTIVATION_BYTES * tokens * width)


def swiglu(name: str, op_class: OpClass, *, tokens: Num, width: Num, stream: Stream = Stream.COMPUTE) -> Op:
    """silu(gate) * up: reads two values and writes one per element of the intermediate."""
    return elementwise(name, op_class, hbm_bytes=3.0 * ACTIVATION_BYTES * tokens * width, stream=stream)

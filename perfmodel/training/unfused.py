"""What lies between the products where PyTorch runs a model of ordinary modules, as torchtitan's are: reads and writes
of each kernel, and what autograd keeps (``training.kernels`` and ``training.loss_kernels``).

Eager, one kernel per operation of the module's code; bytes per element, BF16 values 2, FP32 4:

    residual      h + f: 2 + 2 read, 2 written. Backwards the two gradients that meet are added: the same
    RMSNorm       one kernel (``_fused_rms_norm``, PyTorch 2.9 and later): 2 read, 2 written. Backwards one for the
                  input, x and dy read, dx written, and one for the weights, x and dy read again
    rotation      of queries and keys: cast to FP32 (2, 4), complex product (4, 4; the angles are small), cast back
                  (4, 2). Backwards the same three
    SwiGLU        silu (2, 2), product (4, 2). Backwards a product for each factor (4, 2 each), silu's (4, 2)
    loss          cast to FP32 (2, 4); log-softmax of a row that does not fit on chip, read for its maximum, for its sum
                  and for its result (12, 4). Backwards the gradient of the choice, zeros (0, 4); of the log-softmax,
                  read for its sum and with the result (4 + 8, 4); cast back (4, 2)

Kept are, beside what fused kernels keep, silu(gate), 2 bytes, and the log-softmax, 4 bytes where fused keeps BF16
logits, 2; while the loss's backward runs two more FP32 gradients: 12 bytes per logit.

Compiled, pointwise kernels fuse with norms and with each other as a framework's do, and as much is kept; but the
compiler makes no code for complex numbers, so the rotation is three kernels as above. A compiled loss reads BF16 logits
for maximum and sum, keeps them, and reads and writes 2 bytes in the backward.

Operations counted by PyTorch's own dispatch, and kept tensors by its hooks: :mod:`tests.test_train_unfused`. Not in
this count: latent attention's layouts and permutations of experts, taken as fused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from perfmodel.ops.backward import Kernel, Way
from perfmodel.ops.op import Op
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.training import Training

BF16, FP32 = BYTES_PER_ELEMENT["bf16"], BYTES_PER_ELEMENT["fp32"]

Bytes = Mapping[str, float]
"""Kernel -> bytes per element, read and written."""
Table = Mapping[str, tuple[Bytes, Bytes]]
"""Kernel class -> kernels forwards and backwards."""

ROTATED: Bytes = {"to_fp32": 6.0, "rotated": 8.0, "to_bf16": 6.0}
EAGER: Table = {
    "norm": (
        {"residual": 6.0, "norm": 4.0},
        {"norm.input": 6.0, "norm.weight": 4.0, "residual": 6.0},
    ),
    "activation": (
        {"silu": 4.0, "product": 6.0},
        {"product.gate": 6.0, "product.up": 6.0, "silu": 6.0},
    ),
    "rope": (ROTATED, ROTATED),
}
"""Of a layer run eagerly."""
COMPILED: Table = {"rope": (ROTATED, ROTATED)}
"""Of a compiled one; classes that are not in it are as fused."""
LOSS: Table = {
    "pytorch-eager": (
        {"to_fp32": 6.0, "log_softmax": 16.0},
        {"choice": 4.0, "log_softmax": 16.0, "to_bf16": 6.0},
    ),
    "pytorch-compiled": ({"log_softmax": 4.0}, {"log_softmax": 4.0}),
}
"""Kernels of the loss."""
LOSS_KEPT = {"fused": BF16, "pytorch-compiled": BF16, "pytorch-eager": FP32}
"""Bytes per logit kept from the forward to the backward."""
LOSS_HELD = {"fused": FP32 + BF16, "pytorch-compiled": BF16, "pytorch-eager": 2.0 * FP32}
"""Bytes per logit held for a moment beside what is kept."""
SWIGLU_BYTES = 6.0
"""Bytes per element of the activation that is counted here."""


def table_of(ops: Sequence[Op], training: Training) -> Table:
    """Kernels of those classes of a part's ops that are not as fused; empty: all are."""
    table = {"pytorch-eager": EAGER, "pytorch-compiled": COMPILED}.get(training.kernels, {})
    if training.loss_kernels != "fused":
        table = {**table, "sample": LOSS[training.loss_kernels]}
    if table and any(op.kernel == "mla_prefill" for op in ops):
        return {kernel: found for kernel, found in table.items() if kernel != "rope"}
    return table


def forwards(op: Op, table: Table) -> tuple[Kernel, ...]:
    """An op as its kernels forwards."""
    found = _of(op, table)
    return (Kernel.plain(op),) if found is None else _kernels(op, found[0], "forward")


def backwards(op: Op, own: tuple[Kernel, ...], table: Table) -> tuple[Kernel, ...]:
    """Kernels of an op's input gradient, where they are not ``own``."""
    found = _of(op, table)
    return own if found is None else _kernels(op, found[1], "input")


def silu_kept(training: Training) -> float:
    """Bytes per element that eager SwiGLU keeps beside gate, up and the activation."""
    return BF16 if training.kernels == "pytorch-eager" else 0.0


def _of(op: Op, table: Table) -> tuple[Bytes, Bytes] | None:
    """SwiGLU alone of the activations is counted."""
    gated = op.kernel != "activation" or op.hbm_bytes == SWIGLU_BYTES * op.shape["rows"] * op.shape["width"]
    return table.get(op.kernel) if gated else None


def _kernels(op: Op, each: Bytes, way: Way) -> tuple[Kernel, ...]:
    """An op's elements, of a rotation those of queries and keys, through each kernel."""
    width = op.shape["heads"] * op.shape["rope"] if op.kernel == "rope" else op.shape["width"]
    elements, back = op.shape["rows"] * width, way == "input"
    found = []
    for name, moved in each.items():
        named = f"{op.name}.{name}{'.backward' if back else ''}"
        one = replace(op, name=named, hbm_bytes=moved * elements, inside=())
        found.append(Kernel(one, one, way, op.kernel if back else ""))
    return tuple(found)

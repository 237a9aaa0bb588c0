"""``recompute: [every_second_product]``, torchtitan's selective recomputation by operation
(torchtitan/distributed/activation_checkpoint.py of v0.2.2): a layer's outputs of products are kept in turn, one yes and
one no, in the order of the model's code.

    attention   queries kept, keys again, values kept, output projection again
    FFN         gate kept, up again, down kept, though nothing needs it

Attention's core is kept too. All else is made again, so norms, rotation and activation stand beside it. What the
output projection gives is needed for the residual stream in front of the FFN, which is not kept: as many bytes as what
down gives, which is. With tensor parallelism the reduced sums are kept, and compiled code does not run a projection
that nothing needs. Counted are attention of queries, keys and values of their own and dense FFNs; latent attention and
experts are as without.
"""

from collections.abc import Sequence
from dataclasses import replace

from perfmodel.ops.backward import Kernel
from perfmodel.ops.build import gemm
from perfmodel.ops.op import Op
from perfmodel.spec.training import Training
from perfmodel.training import unfused

NAME = "every_second_product"


def again(ops: Sequence[Op], training: Training) -> tuple[Kernel, ...]:
    """What a part's backward runs of its products, and of the rotation behind them; nothing without the key."""
    if training.recompute == "full" or not training.recomputes(NAME):
        return ()
    table = unfused.table_of(ops, training)
    found: list[Kernel] = []
    turned = next((op for op in ops if op.kernel == "rope" and op.name.endswith(".rope_cache")), None)
    plain = any(op.kernel == "gqa_prefill" for op in ops)
    for op in ops:
        if op.name.startswith("shared."):
            continue
        if op.name.endswith(".qkv") and turned is not None and plain:
            found.append(_part_of(op, turned.shape["latent"], "keys"))
            found += unfused.forwards(replace(turned, inside=()), table)
        elif op.name.endswith(".o") and plain and (training.tp == 1 or training.kernels == "pytorch-eager"):
            found.append(Kernel.plain(replace(op, name=f"{op.name}.again", inside=())))
        elif op.name.endswith(".gate_up") and op.kernel == "gemm":
            found.append(_part_of(op, op.shape["n"] / 2.0, "up"))
    return tuple(found)


def _part_of(op: Op, width: float, name: str) -> Kernel:
    """The product of some of the columns."""
    product = gemm(
        f"{op.name}.{name}.again", op.op_class, m=op.shape["m"], n=width, k=op.shape["k"], dtype=op.dtype
    )
    return Kernel.plain(product)


def keys_kept(training: Training) -> float:
    """Share of keys that is kept, of queries, keys and values beside each other."""
    return 0.0 if training.recomputes(NAME) else 1.0


def gated_kept(training: Training) -> float:
    """Share of gate and up that is kept."""
    return 0.5 if training.recomputes(NAME) else 1.0

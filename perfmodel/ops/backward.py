"""Backward ops: for every forward op its input gradient and its weight gradient, as ops of their own.

Zero-bubble schedules run the two apart. A product's gradients are products of their own shapes: with Y[m, n] = X[m,
k] W[k, n]
    input gradient    dX[m, k] = dY[m, n] W^T[n, k]
    weight gradient   dW[n, k] = dY^T[n, m] X[m, k], summed into the gradient in FP32 (or BF16)
Attention's core has no weights; its backward computes the scores again: 2.5 times the FLOPs (five products for two).
A gather's backward is a scatter of gradients and the other way round; permutations swap with their inverses; dispatch
and combine swap, each with its own payload's bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from perfmodel.ops.build import gemm, input_bytes
from perfmodel.ops.op import Op
from perfmodel.spec.formats import BYTES_PER_ELEMENT

Way = Literal["forward", "input", "weight"]
CORES = ("mla_prefill", "gqa_prefill")
CORE_FLOPS = 2.5
"""FLOPs of attention's backward over its forward's."""
NARROW = ("fp8", "fp8-tensor", "fp4")


@dataclass(frozen=True, slots=True)
class Kernel:
    """An op of a training step, and what it is costed as."""

    op: Op
    base: Op
    """The op whose time is looked up: itself, or for gradients that no table holds the forward's."""
    way: Way = "forward"
    of: str = ""
    """Kernel class of the forward op, where ``base`` stands in with another's."""

    @property
    def timed_as(self) -> str:
        """Kernel class of a calibration that timed training's kernels: the forward op's and the way."""
        return f"{self.of or self.base.kernel}_{self.way}"

    @staticmethod
    def plain(op: Op) -> "Kernel":
        """An op that is costed as itself."""
        return Kernel(op, op)


@dataclass(frozen=True, slots=True)
class Gradients:
    """What a forward op asks of its backward."""

    input: tuple[Kernel, ...] = ()
    weight: tuple[Kernel, ...] = ()


def gradients(op: Op, gradient_dtype: str = "fp32") -> Gradients:
    """Input and weight gradient of one forward op; ``gradient_dtype``: what weight gradients are summed in."""
    return _RULES[op.kernel](op, BYTES_PER_ELEMENT[gradient_dtype])


def input_gradients(ops: Sequence[Op], gradient_dtype: str = "fp32") -> tuple[Kernel, ...]:
    """Input gradients of a chain, last op first."""
    return tuple(kernel for op in reversed(ops) for kernel in gradients(op, gradient_dtype).input)


def weight_gradients(ops: Sequence[Op], gradient_dtype: str = "fp32") -> tuple[Kernel, ...]:
    """Weight gradients of a chain, last op first."""
    return tuple(kernel for op in reversed(ops) for kernel in gradients(op, gradient_dtype).weight)


def _gemm(op: Op, summed: float) -> Gradients:
    m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
    into_input = gemm(f"{op.name}.dgrad", op.op_class, m=m, n=k, k=n, dtype=op.dtype)
    into_weight = gemm(f"{op.name}.wgrad", op.op_class, m=n, n=k, k=m, dtype=op.dtype)
    moved = input_bytes(op.dtype) * m * (n + k) + 2.0 * summed * n * k
    into_weight = replace(into_weight, hbm_bytes=moved)
    weight = [Kernel(into_weight, into_weight, "weight")]
    if op.dtype in NARROW:
        kept = BYTES_PER_ELEMENT[op.dtype]  # quantised along k; the weight gradient wants it along m
        weight.insert(0, _quantised(op, "input_again", m, k, kept))
    return Gradients((Kernel(into_input, into_input, "input"),), tuple(weight))


def _quantised(op: Op, suffix: str, rows: float, width: float, read: float) -> Kernel:
    """A quantisation that no timed product holds: ``read`` bytes per element in, one element of the product's format
    out.
    """
    moved = (read + BYTES_PER_ELEMENT[op.dtype]) * rows * width
    shape = {"rows": rows, "width": width}
    return Kernel.plain(
        Op(
            f"{op.name}.{suffix}",
            op.op_class,
            "reorder",
            op.stream,
            hbm_bytes=moved,
            dtype="bf16",
            shape=shape,
        )
    )


def _grouped(op: Op, summed: float) -> Gradients:
    rows, n, k = op.shape["rows"], op.shape["n"], op.shape["k"]
    into_input = replace(op, name=f"{op.name}.dgrad")
    moved = input_bytes(op.dtype) * rows * (n + k) + 2.0 * summed * op.shape["groups"] * n * k
    into_weight = replace(op, name=f"{op.name}.wgrad", hbm_bytes=moved)
    weight = [Kernel(into_weight, op, "weight")]
    into_inputs = [Kernel(into_input, op, "input")]
    if (
        op.dtype in NARROW
    ):  # the timed experts get quantised rows: gradients are quantised both ways, inputs once more
        bf16, kept = BYTES_PER_ELEMENT["bf16"], BYTES_PER_ELEMENT[op.dtype]
        into_inputs.insert(0, _quantised(op, "gradient_quantised", rows, n, bf16))
        weight.insert(0, _quantised(op, "input_again", rows, k, kept))
        weight.insert(0, _quantised(op, "gradient_again", rows, n, bf16))
    return Gradients(tuple(into_inputs), tuple(weight))


def _bmm(op: Op, summed: float) -> Gradients:
    return Gradients(
        (Kernel(*_twice(replace(op, name=f"{op.name}.dgrad")), "input"),),
        (Kernel(*_twice(replace(op, name=f"{op.name}.wgrad")), "weight"),),
    )


def _core(op: Op, summed: float) -> Gradients:
    """Reads queries, keys, values, output and its gradient, writes three gradients: counted as 2.5 times the
    forward's bytes.
    """
    back = replace(
        op, name=f"{op.name}.backward", flops=CORE_FLOPS * op.flops, hbm_bytes=CORE_FLOPS * op.hbm_bytes
    )
    return Gradients((Kernel(back, op, "input"),))


def _moved(factor: float) -> Callable[[Op, float], Gradients]:
    """A memory-bound op whose input gradient moves ``factor`` times the forward's bytes."""

    def rule(op: Op, summed: float) -> Gradients:
        return Gradients((Kernel(*_twice(_back(op, op.kernel, factor)), "input", op.kernel),))

    return rule


def _swapped(kernel: str, factor: float = 1.0) -> Callable[[Op, float], Gradients]:
    """An op whose backward is another kernel on the same bytes."""

    def rule(op: Op, summed: float) -> Gradients:
        return Gradients((Kernel(*_twice(_back(op, kernel, factor)), "input", op.kernel),))

    return rule


def _back(op: Op, kernel: str, factor: float) -> Op:
    return replace(op, name=f"{op.name}.backward", kernel=kernel, hbm_bytes=factor * op.hbm_bytes, inside=())


def _twice(op: Op) -> tuple[Op, Op]:
    """An op that is costed as itself."""
    return op, op


def _scattered(op: Op, summed: float) -> Gradients:
    """An embedding's rows: gradients are added into the table, which is read and written."""
    rows, width = op.shape["rows"], op.shape["width"]
    moved = (BYTES_PER_ELEMENT[op.dtype] + 2.0 * summed) * rows * width
    return Gradients(
        weight=(Kernel(*_twice(replace(op, name=f"{op.name}.wgrad", hbm_bytes=moved)), "weight"),)
    )


_RULES: dict[str, Callable[[Op, float], Gradients]] = {
    "gemm": _gemm,
    "grouped_gemm": _grouped,
    "bmm": _bmm,
    "mla_prefill": _core,
    "gqa_prefill": _core,
    "norm": _moved(1.0),  # reads x, the residual's and the output's gradient, writes one: as many as forwards
    "latent_norm": _moved(1.5),  # reads x and dy, writes dx
    "rope": _moved(1.0),
    "activation": _moved(
        5.0 / 3.0
    ),  # reads gate, up and dy, writes two gradients, where forwards reads two and writes one
    "add": _moved(1.0),  # where a value went two ways its gradients are added
    "select": _moved(1.0),
    "gather": _scattered,
    "permute": _swapped("unpermute"),
    "unpermute": _swapped("permute", 1.5),  # reads the experts' output once more, for the weights' gradient
    "reorder": _moved(1.0),
    "sample": _moved(2.0 / 3.0),  # the loss: logits read again, their gradient written
    "dispatch": _swapped("combine"),
    "combine": _swapped("dispatch"),
    "all_to_all": _moved(1.0),
    "all_gather": _swapped("reduce_scatter"),
    "reduce_scatter": _swapped("all_gather"),
    "all_reduce": _moved(1.0),
    "send_recv": _moved(1.0),
}
"""Kernel class -> what its backward is."""

"""Backward ops: for every forward op its input gradient and its weight gradient, as ops of their own.

Zero-bubble schedules run the two apart. A product's gradients are products of their own shapes: with Y[m, n] = X[m,
k] W[k, n]
    input gradient    dX[m, k] = dY[m, n] W^T[n, k]
    weight gradient   dW[n, k] = dY^T[n, m] X[m, k], summed into the gradient in FP32 (or BF16)
Attention's core has no weights; its backward computes the scores again: five products for two, 2.5 times the FLOPs
where all are equally wide.
A gather's backward is a scatter of gradients and the other way round; permutations swap with their inverses; dispatch
and combine swap, each with its own payload's bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from perfmodel.ops.build import gemm, input_bytes
from perfmodel.ops.op import Op
from perfmodel.spec.formats import BYTES_PER_ELEMENT

Way = Literal["forward", "input", "weight"]
CORES = ("mla_prefill", "gqa_prefill")
CORE_FLOPS = 2.5
"""FLOPs of attention's backward over its forward's where queries, keys and values are equally wide."""
NARROW = ("fp8", "fp8-tensor", "fp4")
"""Formats whose operands are quantised; what that takes is said in :mod:`perfmodel.training.narrow`."""


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


def _gemm(op: Op, summed: float) -> Gradients:
    m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
    into_input = gemm(f"{op.name}.dgrad", op.op_class, m=m, n=k, k=n, dtype=op.dtype)
    into_weight = gemm(f"{op.name}.wgrad", op.op_class, m=n, n=k, k=m, dtype=op.dtype)
    moved = input_bytes(op.dtype) * m * (n + k) + 2.0 * summed * n * k
    into_weight = replace(into_weight, hbm_bytes=moved)
    return Gradients(
        (Kernel(into_input, into_input, "input"),), (Kernel(into_weight, into_weight, "weight"),)
    )


def _grouped(op: Op, summed: float) -> Gradients:
    rows, n, k = op.shape["rows"], op.shape["n"], op.shape["k"]
    into_input = replace(op, name=f"{op.name}.dgrad")
    moved = input_bytes(op.dtype) * rows * (n + k) + 2.0 * summed * op.shape["groups"] * n * k
    into_weight = replace(op, name=f"{op.name}.wgrad", hbm_bytes=moved)
    return Gradients((Kernel(into_input, op, "input"),), (Kernel(into_weight, op, "weight"),))


def _bmm(op: Op, summed: float) -> Gradients:
    return Gradients(
        (Kernel(*_twice(replace(op, name=f"{op.name}.dgrad")), "input"),),
        (Kernel(*_twice(replace(op, name=f"{op.name}.wgrad")), "weight"),),
    )


def _core(op: Op, summed: float) -> Gradients:
    """Reads queries, keys, values, output and its gradient, writes three gradients: counted as 2.5 times the
    forward's bytes. Of the five products three are as wide as queries and keys (scores again, dQ, dK), two as values
    (dP, dV), where the forward has one of each.
    """
    factor = core_flops(op)
    back = replace(
        op, name=f"{op.name}.backward", flops=factor * op.flops, hbm_bytes=CORE_FLOPS * op.hbm_bytes
    )
    return Gradients((Kernel(back, op, "input"),))


def core_flops(op: Op) -> float:
    """FLOPs of attention's backward over its forward's: (3 d_qk + 2 d_v) / (d_qk + d_v), 2.6 for MLA's 192 and 128."""
    if op.kernel != "mla_prefill":
        return CORE_FLOPS
    keys, value = op.shape["nope"] + op.shape["rope"], op.shape["value"]
    return float((3.0 * keys + 2.0 * value) / (keys + value))


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
    "unpermute": _swapped("permute"),
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

"""What products in a narrow format ask beside themselves in a training step: quantisation, transposition, and what is
kept narrow for the backward. All of it is bound by bandwidth; bytes per element are written out here.

A product of narrow operands scales blocks along what it sums over. X [m, k] is scaled along k forwards, dY [m, n] along
n for the input gradient, and both along m for the weight gradient, so each is quantised twice, in two layouts
(DeepSeek-V3's report, arXiv 2412.19437, 3.3: tiles of 1 x 128 become tiles of 128 x 1). Which of these a timed product
holds already depends on what was timed:

    dense, as a calibration timed it    a linear layer: its first operand's quantisation is inside, forwards and in both
                                        gradients; left over is X along m, out of what was kept
    grouped                             rows arrive quantised: rows are quantised here, unless the dispatch did it or
                                        the activation before the second product writes them narrow
    ``fp8_kernels: deepseek-2024``      products alone: everything is an op

``deepseek-2024`` are the kernels of DeepSeek-V3's own run, in so far as its report (3.3.2 and 3.3.3) and the names in
its published trace say which run: one FP8 copy of the weights, transposed for the input gradient since Hopper takes
both operands along k alone; scales transposed for each product; attention's output kept in 12 bits (E5M6) and, after
its projection, scaled; the gradient of the router's weights as a kernel of its own; gradients of the residual stream
added apart from the norm's; rows that arrived counted and put in the order of their experts by kernels of one thread
block per expert. None of the trace's times sets a number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from perfmodel.ops.backward import NARROW, Kernel
from perfmodel.ops.build import memory_bound
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.training import Training
from perfmodel.training.saved import E5M6_BYTES, input_bytes_kept

BF16 = BYTES_PER_ELEMENT["bf16"]
SCALES = 4.0 / 128.0
"""Bytes of scale per element of a row that travels in FP8: one FP32 for 128 elements."""


@dataclass(frozen=True, slots=True)
class Casts:
    """Kernels in front of a product and of its two gradients."""

    forward: tuple[Kernel, ...] = ()
    input: tuple[Kernel, ...] = ()
    weight: tuple[Kernel, ...] = ()


def casts(op: Op, training: Training) -> Casts:
    """What a product in a narrow format has in front of itself and of its gradients; nothing for other ops."""
    if op.dtype not in NARROW or op.kernel not in ("gemm", "grouped_gemm"):
        return Casts()
    if op.kernel == "gemm":
        return _dense(op, training)
    return _grouped(op, training)


def _dense(op: Op, training: Training) -> Casts:
    m, n, k, element = op.shape["m"], op.shape["n"], op.shape["k"], BYTES_PER_ELEMENT[op.dtype]
    again = _cast(op, "input_again", m, k, input_bytes_kept(training) + element)
    if not training.own_fp8_kernels:
        return Casts(weight=(again,))
    quantised = () if _sent_narrow(op, training) else (_cast(op, "input_quantised", m, k, BF16 + element),)
    gradient = _cast(op, "gradient_quantised", m, n, BF16 + element)
    return Casts(
        (*quantised, _scales(op, m, k)),
        (gradient, _scales(op, m, n), _transposed(op, 1.0)),
        (_cast(op, "gradient_again", m, n, BF16 + element), again),
    )


def _sent_narrow(op: Op, training: Training) -> bool:
    """Shared experts take the rows that were quantised for the dispatch."""
    return op.name.startswith(("shared.gate_up", "shared.up")) and arrives_narrow(training)


def _grouped(op: Op, training: Training) -> Casts:
    rows, n, k, element = op.shape["rows"], op.shape["n"], op.shape["k"], BYTES_PER_ELEMENT[op.dtype]
    first, narrow = not op.name.endswith(".down"), arrives_narrow(training)
    forward, input_ = [], []
    if first and not narrow:
        forward.append(_cast(op, "input_quantised", rows, k, BF16 + element))
    if first or not narrow:
        input_.append(_cast(op, "gradient_quantised", rows, n, BF16 + element))
    if training.own_fp8_kernels:
        forward.append(_scales(op, rows, k))
        input_ += [_scales(op, rows, n), _transposed(op, op.shape["groups"])]
    came = element if narrow and not first else BF16
    kept = BF16 if training.recomputes("activations") and not first else input_bytes_kept(training)
    weight = (
        _cast(op, "gradient_again", rows, n, came + element),
        _cast(op, "input_again", rows, k, kept + element),
    )
    return Casts(tuple(forward), tuple(input_), weight)


def _transposed(op: Op, groups: float) -> Kernel:
    element = BYTES_PER_ELEMENT[op.dtype]
    return _cast(op, "weights_transposed", groups * op.shape["n"], op.shape["k"], 2.0 * element)


def _scales(op: Op, rows: float, width: float) -> Kernel:
    """Scales of a product's first operand, transposed for the copy engine (DeepGEMM's README asks for that)."""
    return _cast(op, "scales_transposed", rows, width, 2.0 * SCALES)


def _cast(op: Op, suffix: str, rows: float, width: float, per_element: float) -> Kernel:
    return Kernel.plain(_moved(f"{op.name}.{suffix}", op.op_class, rows, width, per_element))


def _moved(name: str, op_class: OpClass, rows: float, width: float, per_element: float) -> Op:
    shape = {"rows": rows, "width": width}
    moved = per_element * rows * width
    return memory_bound(name, op_class, "reorder", hbm_bytes=moved, dtype="bf16", shape=shape)


def arrives_narrow(training: Training) -> bool:
    """Whether rows, and gradients of what goes back, come to the experts quantised."""
    return training.dispatch == "fp8" and training.ep * training.etp > 1


def row_bytes(training: Training) -> float:
    """Bytes per element of rows that came through the dispatch, of gradients that came through combine's backward."""
    return BYTES_PER_ELEMENT["fp8"] + SCALES if arrives_narrow(training) else BF16


def quantised_to_send(tokens: float, width: float, training: Training) -> tuple[Kernel, ...]:
    """In front of a dispatch, and of the dispatch of gradients, on a stream of its own: the other micro-batch's compute
    does not stand before it.
    """
    if not arrives_narrow(training):
        return ()
    each = BF16 + BYTES_PER_ELEMENT["fp8"]
    op = _moved("dispatch.quantised", OpClass.DISPATCH, tokens, width, each)
    return (Kernel.plain(replace(op, stream=Stream.EXPERTS)),)


CHOICE_BYTES, PLACE_BYTES = 8.0, 4.0
"""Of a row and one of its choices: an expert's number (INT64), and where the pair goes (INT32)."""


def sorted_by_expert(experts: Sequence[Op], top_k: float, training: Training) -> tuple[Kernel, ...]:
    """Kernels that find the order of the rows that came, of one block of threads per expert (the trace has grids of 4,
    DeepSeek-V3's experts of a rank): each block reads all rows' choices, to count its own and to write where they go.
    Fused elsewhere, and a few us.
    """
    if not training.own_fp8_kernels:
        return ()
    rows = next((op.shape["tokens"] for op in experts if op.kernel == "permute"), 0.0)
    blocks = next(op.shape["groups"] for op in experts if op.kernel == "grouped_gemm")
    choices = rows * top_k * blocks
    shape = {"rows": rows, "width": top_k, "blocks": blocks}

    def scanned(name: str, per_choice: float) -> Kernel:
        moved = per_choice * choices
        return Kernel.plain(
            memory_bound(name, OpClass.EXPERTS, "gather", hbm_bytes=moved, dtype="bf16", shape=shape)
        )

    return (
        scanned("experts.count", CHOICE_BYTES),
        scanned("experts.order", CHOICE_BYTES + PLACE_BYTES / blocks),
    )


def with_kept(ops: tuple[Op, ...], training: Training) -> tuple[tuple[Op, Op], ...]:
    """A forward with what is written down narrow for the backward: gate and up (``keep_gate_up``: 2 bytes read, 1
    written; the way back as many), attention's output (2 read, 1.5 written); experts' rows as they come, and an
    activation that writes the second product's format (gate and up read, 4 bytes, 1 written instead of 2).

    Returns:
        Each op as it runs forwards, and as what its backward follows from: gradients of rows and of activations are
        BF16.
    """
    found: list[tuple[Op, Op]] = []
    products = {op.name for op in ops if op.kernel == "grouped_gemm" and op.dtype in NARROW}
    for op in ops:
        changed = op
        if op.name == "experts.permute":
            changed = replace(op, hbm_bytes=op.hbm_bytes * row_bytes(training) / BF16)
        elif op.name == "experts.act" and "experts.down" in products:
            wide = 3.0 if "experts.gate_up" in products else 2.0
            changed = replace(op, hbm_bytes=op.hbm_bytes * (wide - 0.5) / wide)
        found.append((changed, op))
        found += [(kept, kept) for kept in _kept(op, training)]
    return tuple(found)


def _kept(op: Op, training: Training) -> tuple[Op, ...]:
    if op.name.endswith(".gate_up") and training.keep_gate_up == "fp8":
        rows = op.shape["rows" if op.kernel == "grouped_gemm" else "m"]
        return (_moved(f"{op.name}.kept", op.op_class, rows, op.shape["n"], BF16 + 1.0),)
    if op.kernel == "mla_prefill" and training.own_fp8_kernels:
        rows, width = op.shape["requests"] * op.shape["new_tokens"], op.shape["heads"] * op.shape["value"]
        return (_moved(f"{op.name}.output_kept", op.op_class, rows, width, BF16 + E5M6_BYTES),)
    if op.name.endswith(".o") and op.op_class == OpClass.ATTENTION and training.own_fp8_kernels:
        return (_moved(f"{op.name}.scaled", op.op_class, op.shape["m"], op.shape["n"], 2.0 * BF16),)
    return ()


def residual_factor(training: Training) -> float:
    """What a norm's backward moves over a fused one's, which reads x, the residual's and the output's gradient and
    writes one: reading x and dy, writing dx, then two gradients read and their sum written.
    """
    return 6.0 / 4.0 if training.own_fp8_kernels else 1.0


def weights_of_choice(op: Op, training: Training) -> tuple[Kernel, ...]:
    """The gradient of the router's weights where they were applied at the activation: fused into its backward, or a
    kernel that reads the activation and its gradient.
    """
    if not (training.own_fp8_kernels and training.early_probabilities):
        return ()
    return (_cast(op, "probabilities", op.shape["rows"], op.shape["width"], 2.0 * BF16),)

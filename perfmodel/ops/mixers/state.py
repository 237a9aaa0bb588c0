"""What mixers with a state have in common: causal convolutions, recurrences, and a state of fixed size per request.

A decode step reads a request's state and writes it once per new token: while drafts are verified, the state after each
of them is kept until it is known which are accepted. A prompt goes through in chunks of CHUNK tokens: products inside a
chunk, the state from chunk to chunk (arXiv 2405.21060, section 6; arXiv 2412.06464, section 3.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from perfmodel.numeric import Num
from perfmodel.ops.build import gemm, memory_bound
from perfmodel.ops.mixers.base import ATTENTION, Kept, Place
from perfmodel.ops.op import Op, Stream
from perfmodel.ops.work import Group
from perfmodel.spec.deployment import Precision
from perfmodel.spec.formats import BYTES_PER_ELEMENT

CHUNK = 64
"""Tokens of a chunk in engines' prefill kernels (flash-linear-attention and what derives from it,
https://github.com/fla-org/flash-linear-attention)."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """One GPU's heads of a mixer with a matrix of state per head."""

    kernel: str
    """Class: gdn, kda, lightning or ssm."""
    heads: int
    key: int
    """Rows of a head's state."""
    value: int
    """Columns."""
    inputs: int
    """Elements of queries, keys, values, gates and decays per token, all heads."""
    products: int
    """Products of key x value elements per token and head in a recurrent step, each a multiply-add."""
    chunk_keys: int
    """Products of a chunk's tokens with vectors of the key's width, per token, in a prompt."""
    chunk_values: int
    """With vectors of the value's width."""
    shape: Mapping[str, Num]
    """What a curve is looked up by, beside requests and new tokens."""

    @property
    def outputs(self) -> int:
        """Elements of the output per token."""
        return self.heads * self.value

    @property
    def state(self) -> int:
        """Elements of one request's state."""
        return self.heads * self.key * self.value


def recurrence_ops(recurrence: Recurrence, place: Place) -> list[Op]:
    """The recurrence over every group.

    FLOPs of a recurrent step: 2 x products x key x value per token and head. Of a prompt: 6 x key x value (the state is
    read, corrected and updated) and 2 x CHUNK x (chunk_keys x key + chunk_values x value), whole tiles as kernels
    compute them. Bytes: inputs and output, and the state: in decode read once and written per token, in a prompt read
    and written once and, per chunk, written and read in the activations' type.
    """
    return [_recur(recurrence, place, group) for group in place.work.groups]


def _recur(own: Recurrence, place: Place, group: Group) -> Op:
    tp, precision, decode = place.tp, place.precision, group.kind == "decode"
    tokens, requests = group.tokens * tp, group.requests * tp
    element, state = precision.activation_bytes, BYTES_PER_ELEMENT[precision.state]
    moved = element * tokens * (own.inputs + own.outputs)
    if decode:
        flops = 2.0 * own.products * own.key * own.value * own.heads * tokens
        moved = moved + state * own.state * requests * (1.0 + group.new_tokens)
    else:
        inside = 2.0 * CHUNK * (own.chunk_keys * own.key + own.chunk_values * own.value)
        flops = tokens * own.heads * (6.0 * own.key * own.value + inside)
        moved = moved + 2.0 * own.state * (state * requests + element * tokens / CHUNK)
    return Op(
        place.name("core" if decode else "prefill_core"),
        ATTENTION,
        f"{own.kernel}_{group.kind}",
        Stream.COMPUTE,
        flops=flops,
        hbm_bytes=moved,
        dtype=precision.activations,
        cache_dtype=precision.state,
        shape={"requests": requests, "new_tokens": group.new_tokens, **own.shape},
    )


def conv_ops(place: Place, *, channels: int, taps: int) -> list[Op]:
    """A causal convolution along each request's tokens, channel by channel, and its activation; every group.

    Reads and writes each channel of each token, and the tail of taps - 1 tokens that a request keeps.
    """
    tp, precision = place.tp, place.precision
    found = []
    for group in place.work.groups:
        tokens, requests = group.tokens * tp, group.requests * tp
        decode = group.kind == "decode"
        found.append(
            memory_bound(
                place.name("conv" if decode else "prefill_conv"),
                ATTENTION,
                "conv_update" if decode else "conv_prefill",
                hbm_bytes=2.0 * precision.activation_bytes * channels * (tokens + requests * (taps - 1)),
                dtype=precision.activations,
                shape={
                    "requests": requests,
                    "new_tokens": group.new_tokens,
                    "channels": channels,
                    "taps": taps,
                },
                flops=2.0 * taps * channels * tokens,
            )
        )
    return found


def gated_norm(place: Place, *, width: int) -> Op:
    """RMS norm of the output times a gate: two values read, one written per element."""
    precision, rows = place.precision, place.rows
    return memory_bound(
        place.name("gated_norm"),
        ATTENTION,
        "gated_norm",
        hbm_bytes=3.0 * precision.activation_bytes * rows * width,
        dtype=precision.activations,
        shape={"rows": rows, "width": width},
    )


def output(place: Place, *, width: int) -> Op:
    """The output projection."""
    return gemm(
        place.name("o"), ATTENTION, m=place.rows, n=place.hidden, k=width, dtype=place.precision.output_dtype
    )


def projection(place: Place, part: str, *, outputs: int, inputs: int | None = None, dtype: str = "") -> Op:
    """A projection of the layer's input, or of ``inputs`` elements, in linear's format or another."""
    return gemm(
        place.name(part),
        ATTENTION,
        m=place.rows,
        n=outputs,
        k=inputs or place.hidden,
        dtype=dtype or place.precision.linear,
    )


def kept(precision: Precision, *, state: int, channels: int, taps: int) -> Kept:
    """A request's state, and the tail of its convolution, on one GPU."""
    size = BYTES_PER_ELEMENT[precision.state] * state
    return Kept(state_bytes=size + precision.activation_bytes * channels * (taps - 1))

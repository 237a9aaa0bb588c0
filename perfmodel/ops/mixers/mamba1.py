"""Mamba (arXiv 2312.00752), as Jamba has it: each channel has a state and a time step of its own.

Nothing in its recurrence is a matrix product: B and C are shared by all channels, but decays are not, so a prompt is
scanned channel by channel and takes an exponential per element of the state and token.
"""

from perfmodel.ops.build import norm
from perfmodel.ops.mixers import state
from perfmodel.ops.mixers.base import ATTENTION, Built, Kept, MixerWeights, Place
from perfmodel.ops.op import Op, Stream
from perfmodel.ops.work import Group
from perfmodel.spec.deployment import Precision
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.mixers import Mamba1

SCAN_FLOPS = 7
"""Per element of the state and token: step x decay, its exponential, times the state, plus step x input x B; times C,
summed (arXiv 2312.00752, algorithm 2)."""


def build(mamba: Mamba1, place: Place) -> Built:
    """Input and gate in one product; convolution; from it time step, B and C; time steps of all channels; scan with
    skip and gate; output. Every GPU needs all of B and C, to which each GPU adds: they are summed over the group.
    """
    width, step_and_bc = mamba.width // place.tp, mamba.step_rank + 2 * mamba.state_size
    pre = [
        state.projection(place, "in", outputs=2 * width),
        *state.conv_ops(place, channels=width, taps=mamba.conv_kernel),
        state.projection(place, "x", outputs=step_and_bc, inputs=width),
        *place.summed("x_reduce", step_and_bc),
    ]
    if mamba.norms:
        dtype = place.precision.activations
        pre.append(norm(place.name("x_norm"), tokens=place.rows, width=step_and_bc, dtype=dtype))
    pre.append(state.projection(place, "dt", outputs=width, inputs=mamba.step_rank))
    return pre, [
        *(_scan(mamba, group, place) for group in place.work.groups),
        state.output(place, width=width),
    ]


def weights(mamba: Mamba1, hidden: int) -> MixerWeights:
    """Per channel a decay for each element of its state, a skip, and a bias of its time step."""
    width, states, rank = mamba.width, mamba.state_size, mamba.step_rank
    biases = (width if mamba.conv_bias else 0) + (2 * width + hidden if mamba.bias else 0)
    return MixerWeights(
        divided=hidden * 2 * width + width * (rank + 2 * states) + rank * width,
        output=width * hidden,
        unquantised=width * mamba.conv_kernel,
        vectors=width * (states + 2) + biases + (rank + 2 * states if mamba.norms else 0),
    )


def kept(mamba: Mamba1, precision: Precision, tp: int) -> Kept:
    """A state per channel, and the convolution's tail."""
    width = mamba.width // tp
    return state.kept(precision, state=width * mamba.state_size, channels=width, taps=mamba.conv_kernel)


def _scan(mamba: Mamba1, group: Group, place: Place) -> Op:
    """The recurrence: SCAN_FLOPS per element of the state and token. Bytes: input, gate and time step of each channel,
    B and C, the output; the state read once and written per new token (of a prompt once).
    """
    tp, precision, decode = place.tp, place.precision, group.kind == "decode"
    tokens, requests, width = group.tokens * tp, group.requests * tp, mamba.width // tp
    elements = width * mamba.state_size
    writes = group.new_tokens if decode else 1.0
    return Op(
        place.name("core" if decode else "prefill_core"),
        ATTENTION,
        f"scan_{group.kind}",
        Stream.COMPUTE,
        flops=SCAN_FLOPS * elements * tokens,
        hbm_bytes=precision.activation_bytes * tokens * (4.0 * width + 2.0 * mamba.state_size)
        + BYTES_PER_ELEMENT[precision.state] * elements * requests * (1.0 + writes),
        dtype=precision.activations,
        cache_dtype=precision.state,
        shape={
            "requests": requests,
            "new_tokens": group.new_tokens,
            "channels": width,
            "state_size": mamba.state_size,
        },
    )

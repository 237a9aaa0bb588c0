"""Mamba-2 (arXiv 2405.21060): a state of channels x state size per head, B and C shared by groups of heads."""

from perfmodel.ops.mixers import state
from perfmodel.ops.mixers.base import Built, Kept, MixerWeights, Place
from perfmodel.spec.deployment import Precision
from perfmodel.spec.mixers import Mamba2


def build(mamba: Mamba2, place: Place) -> Built:
    """Gate, x, B, C and time steps in one product; convolution of x, B, C; state-space duality; gated norm; output."""
    inner, channels = _widths(mamba, place.tp)
    heads = mamba.num_heads // place.tp
    pre = [
        state.projection(place, "in", outputs=inner + channels + heads),
        *state.conv_ops(place, channels=channels, taps=mamba.conv_kernel),
    ]
    core = [
        *state.recurrence_ops(_recurrence(mamba, place.tp), place),
        state.gated_norm(place, width=inner),
        state.output(place, width=inner),
    ]
    return pre, core


def weights(mamba: Mamba2, hidden: int) -> MixerWeights:
    """Per head a decay, a time-step bias and a skip; a norm weight per channel."""
    inner, channels = _widths(mamba, 1)
    outputs = inner + channels + mamba.num_heads
    biases = (channels if mamba.conv_bias else 0) + (outputs + hidden if mamba.bias else 0)
    return MixerWeights(
        divided=hidden * outputs,
        output=inner * hidden,
        unquantised=channels * mamba.conv_kernel,
        vectors=3 * mamba.num_heads + inner + biases,
    )


def kept(mamba: Mamba2, precision: Precision, tp: int) -> Kept:
    """A matrix per head, and the convolution's tail."""
    _, channels = _widths(mamba, tp)
    return state.kept(
        precision, state=_recurrence(mamba, tp).state, channels=channels, taps=mamba.conv_kernel
    )


def _widths(mamba: Mamba2, tp: int) -> tuple[int, int]:
    """Channels of x, and of x, B and C together, on one GPU; groups are copied once tp exceeds them."""
    inner = mamba.num_heads // tp * mamba.head_dim
    return inner, inner + 2 * max(mamba.num_groups // tp, 1) * mamba.state_size


def _recurrence(mamba: Mamba2, tp: int) -> state.Recurrence:
    """Recurrent step: outer product of x and B, state times C. In a chunk: C with B, scores with x."""
    inner, channels = _widths(mamba, tp)
    heads = mamba.num_heads // tp
    return state.Recurrence(
        kernel="ssm",
        heads=heads,
        key=mamba.state_size,
        value=mamba.head_dim,
        inputs=channels + inner + heads,
        products=2,
        chunk_keys=1,
        chunk_values=1,
        shape={
            "heads": heads,
            "head_dim": mamba.head_dim,
            "groups": max(mamba.num_groups // tp, 1),
            "state_size": mamba.state_size,
        },
    )

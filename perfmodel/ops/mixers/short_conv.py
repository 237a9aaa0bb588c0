"""Gated short convolutions (LFM2): the input gates what is convolved and what comes out."""

from perfmodel.ops.build import swiglu
from perfmodel.ops.mixers import state
from perfmodel.ops.mixers.base import ATTENTION, Built, Kept, MixerWeights, Place
from perfmodel.ops.op import Op
from perfmodel.spec.deployment import Precision
from perfmodel.spec.mixers import ShortConv


def build(conv: ShortConv, place: Place) -> Built:
    """Two gates and the value in one product; gate; convolution; gate; output."""
    width = conv.width // place.tp
    pre = [
        state.projection(place, "in", outputs=3 * width),
        _gate(place, "gate_in", width),
        *state.conv_ops(place, channels=width, taps=conv.conv_kernel),
    ]
    return pre, [_gate(place, "gate_out", width), state.output(place, width=width)]


def weights(conv: ShortConv, hidden: int) -> MixerWeights:
    """Projections, and the taps of each channel."""
    width = conv.width
    return MixerWeights(
        divided=hidden * 3 * width,
        output=width * hidden,
        unquantised=width * conv.conv_kernel,
        vectors=4 * width + hidden if conv.bias else 0,
    )


def kept(conv: ShortConv, precision: Precision, tp: int) -> Kept:
    """The convolution's tail."""
    return state.kept(precision, state=0, channels=conv.width // tp, taps=conv.conv_kernel)


def _gate(place: Place, part: str, width: int) -> Op:
    return swiglu(
        place.name(part), ATTENTION, tokens=place.rows, width=width, dtype=place.precision.activations
    )

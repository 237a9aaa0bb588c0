"""Gated DeltaNet (arXiv 2412.06464), as Qwen3-Next and Qwen3.5 have it."""

from perfmodel.ops.mixers import state
from perfmodel.ops.mixers.base import Built, Kept, MixerWeights, Place
from perfmodel.spec.deployment import Precision
from perfmodel.spec.mixers import GatedDeltaNet


def build(gdn: GatedDeltaNet, place: Place) -> Built:
    """Queries, keys, values and output gate in one product, write strength and decay in a small one that is never
    quantised; convolution; delta rule; gated norm; output.
    """
    keys, values = _widths(gdn, place.tp)
    heads = gdn.num_value_heads // place.tp
    own = _recurrence(gdn, place.tp)
    pre = [
        state.projection(place, "qkvz", outputs=2 * keys + 2 * values),
        state.projection(place, "ba", outputs=2 * heads, dtype=place.precision.activations),
        *state.conv_ops(place, channels=2 * keys + values, taps=gdn.conv_kernel),
    ]
    core = [
        *state.recurrence_ops(own, place),
        state.gated_norm(place, width=values),
        state.output(place, width=values),
    ]
    return pre, core


def weights(gdn: GatedDeltaNet, hidden: int) -> MixerWeights:
    """Two vectors per value head (decay and its bias) and one norm that heads share."""
    keys, values = _widths(gdn, 1)
    heads = gdn.num_value_heads
    return MixerWeights(
        divided=hidden * (2 * keys + 2 * values),
        output=values * hidden,
        unquantised=hidden * 2 * heads + (2 * keys + values) * gdn.conv_kernel,
        vectors=2 * heads + gdn.value_head_dim,
    )


def kept(gdn: GatedDeltaNet, precision: Precision, tp: int) -> Kept:
    """A matrix per value head, and the convolution's tail."""
    keys, values = _widths(gdn, tp)
    own = _recurrence(gdn, tp)
    return state.kept(precision, state=own.state, channels=2 * keys + values, taps=gdn.conv_kernel)


def _widths(gdn: GatedDeltaNet, tp: int) -> tuple[int, int]:
    """Of keys (and of queries), and of values, on one GPU."""
    return gdn.num_key_heads // tp * gdn.key_head_dim, gdn.num_value_heads // tp * gdn.value_head_dim


def _recurrence(gdn: GatedDeltaNet, tp: int) -> state.Recurrence:
    """Recurrent step: state times key, outer product, state times query. In a chunk: keys with keys, queries with keys
    and the corrected keys; the corrected values and the outputs (WY representation, section 3.3).
    """
    keys, values = _widths(gdn, tp)
    heads = gdn.num_value_heads // tp
    return state.Recurrence(
        kernel="gdn",
        heads=heads,
        key=gdn.key_head_dim,
        value=gdn.value_head_dim,
        inputs=2 * keys + values + 2 * heads,
        products=3,
        chunk_keys=3,
        chunk_values=2,
        shape={
            "key_heads": gdn.num_key_heads // tp,
            "heads": heads,
            "key_dim": gdn.key_head_dim,
            "value_dim": gdn.value_head_dim,
        },
    )

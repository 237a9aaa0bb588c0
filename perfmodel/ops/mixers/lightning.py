"""Lightning attention (arXiv 2501.08313): linear attention with a fixed decay per head, and no convolution."""

from perfmodel.ops.mixers import state
from perfmodel.ops.mixers.base import Built, Kept, MixerWeights, Place
from perfmodel.spec.deployment import Precision
from perfmodel.spec.mixers import Lightning


def build(lightning: Lightning, place: Place) -> Built:
    """Queries, keys and values in one product; recurrence; norm of all heads' outputs times a gate; output."""
    width = lightning.num_heads // place.tp * lightning.head_dim
    pre = [
        state.projection(place, "qkv", outputs=3 * width),
        state.projection(place, "gate_proj", outputs=width),
    ]
    core = [
        *state.recurrence_ops(_recurrence(lightning, place.tp), place),
        state.gated_norm(place, width=width),
        state.output(place, width=width),
    ]
    return pre, core


def weights(lightning: Lightning, hidden: int) -> MixerWeights:
    """Four square projections, and a norm weight per channel; decays are constants."""
    width = lightning.num_heads * lightning.head_dim
    return MixerWeights(
        divided=hidden * 4 * width,
        output=width * hidden,
        vectors=width + (2 * lightning.head_dim if lightning.qk_norm else 0),
    )


def kept(lightning: Lightning, precision: Precision, tp: int) -> Kept:
    """A matrix per head."""
    return state.kept(precision, state=_recurrence(lightning, tp).state, channels=0, taps=1)


def _recurrence(lightning: Lightning, tp: int) -> state.Recurrence:
    """Recurrent step: outer product, state times query. In a chunk: queries with keys, scores with values."""
    heads = lightning.num_heads // tp
    return state.Recurrence(
        kernel="lightning",
        heads=heads,
        key=lightning.head_dim,
        value=lightning.head_dim,
        inputs=3 * heads * lightning.head_dim,
        products=2,
        chunk_keys=1,
        chunk_values=1,
        shape={"heads": heads, "key_dim": lightning.head_dim, "value_dim": lightning.head_dim},
    )

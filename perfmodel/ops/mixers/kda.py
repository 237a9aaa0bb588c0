"""Kimi delta attention (arXiv 2510.26692): a gated delta rule whose decay is a value per channel of the key."""

from perfmodel.ops.mixers import state
from perfmodel.ops.mixers.base import Built, Kept, MixerWeights, Place
from perfmodel.ops.op import Op
from perfmodel.spec.deployment import Precision
from perfmodel.spec.mixers import Kda


def build(kda: Kda, place: Place) -> Built:
    """Queries, keys and values in one product; decay and output gate through a narrow width each, or in full; write
    strength; convolution; delta rule; gated norm; output.
    """
    heads = kda.num_heads // place.tp
    width = heads * kda.head_dim
    pre = [
        state.projection(place, "qkv", outputs=3 * width),
        state.projection(place, "beta", outputs=heads, dtype=place.precision.activations),
        *_through(place, "decay", kda.decay_rank, width),
        *_through(place, "gate", kda.gate_rank, width),
        *state.conv_ops(place, channels=3 * width, taps=kda.conv_kernel),
    ]
    core = [
        *state.recurrence_ops(_recurrence(kda, place.tp), place),
        state.gated_norm(place, width=width),
        state.output(place, width=width),
    ]
    return pre, core


def weights(kda: Kda, hidden: int) -> MixerWeights:
    """A decay bias per channel and a decay per head, and one norm that heads share."""
    width = kda.num_heads * kda.head_dim
    narrow = [rank for rank in (kda.decay_rank, kda.gate_rank) if rank]
    full = 2 - len(narrow)
    return MixerWeights(
        divided=hidden * 3 * width + full * hidden * width + sum(rank * width for rank in narrow),
        output=width * hidden,
        replicated=sum(hidden * rank for rank in narrow),
        unquantised=hidden * kda.num_heads + 3 * width * kda.conv_kernel,
        vectors=width + kda.num_heads + kda.head_dim,
    )


def kept(kda: Kda, precision: Precision, tp: int) -> Kept:
    """A matrix per head, and the convolution's tail."""
    own = _recurrence(kda, tp)
    return state.kept(precision, state=own.state, channels=3 * own.heads * kda.head_dim, taps=kda.conv_kernel)


def _through(place: Place, part: str, rank: int | None, width: int) -> list[Op]:
    """A projection to ``width``, through ``rank`` where that is stated."""
    if rank is None:
        return [state.projection(place, f"{part}_proj", outputs=width)]
    return [
        state.projection(place, f"{part}_a", outputs=rank),
        state.projection(place, f"{part}_b", outputs=width, inputs=rank),
    ]


def _recurrence(kda: Kda, tp: int) -> state.Recurrence:
    """As Gated DeltaNet's, with a decay per channel beside queries, keys and values."""
    heads = kda.num_heads // tp
    return state.Recurrence(
        kernel="kda",
        heads=heads,
        key=kda.head_dim,
        value=kda.head_dim,
        inputs=4 * heads * kda.head_dim + heads,
        products=3,
        chunk_keys=3,
        chunk_values=2,
        shape={"heads": heads, "key_dim": kda.head_dim, "value_dim": kda.head_dim},
    )

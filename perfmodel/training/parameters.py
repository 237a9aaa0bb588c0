"""Weights of one GPU of a training layout, by pipeline stage and by what shares them: experts apart from the rest."""

from dataclasses import dataclass

from perfmodel.ops.parameters import (
    expert_parameters,
    ffn_parameters,
    layer_weights,
    ngram_parameters,
    router_parameters,
    shared_parameters,
)
from perfmodel.spec.model import Layer, Model
from perfmodel.spec.training import Training


@dataclass(frozen=True, slots=True)
class Parameters:
    """Weights on one GPU; each kind is divided over data-parallel ranks of its own number."""

    dense: float = 0.0
    """Attention, dense FFNs, routers, shared experts, norms, embedding, head: the same on dp x cp ranks."""
    experts: float = 0.0
    """Routed experts: the same on edp ranks."""

    def __add__(self, other: "Parameters") -> "Parameters":
        """Of two stages together."""
        return Parameters(self.dense + other.dense, self.experts + other.experts)

    @property
    def total(self) -> float:
        """All of them."""
        return self.dense + self.experts


def stage_parameters(
    model: Model, training: Training, layers: tuple[Layer, ...], *, first: bool, last: bool
) -> Parameters:
    """Weights of one stage on one GPU, with embedding, head and multi-token prediction where they sit.

    MLA's down-projections, routers, shared experts and norms are not divided over tensor-parallel ranks.
    """
    hidden, tp = model.hidden_size, training.tp
    found = Parameters()
    for layer in layers:
        found += layer_parameters(layer, model, training)
    table = model.vocab_size * hidden / tp
    if first:
        found += Parameters(table + sum(ngram_parameters(model)) / tp)
    if last:
        found += Parameters(hidden + (0.0 if model.tied_embeddings and first else table))
        if training.mtp and model.mtp:
            found += layer_parameters(model.mtp.layer, model, training)
            found += Parameters(2.0 * hidden * hidden + 3.0 * hidden)
            if not first and training.schedule not in ("dualpipe", "dualpipe-v", "zb-v"):
                found += Parameters(
                    table
                )  # the embedding; in a V or DualPipe the first stage's lies on the same rank
    return found


def layer_parameters(layer: Layer, model: Model, training: Training) -> Parameters:
    """One layer's."""
    hidden, tp = model.hidden_size, training.tp
    own = layer_weights(layer, hidden)
    divided = own.divided + own.output + own.unquantised + own.vectors
    dense = divided / tp + own.replicated + own.small
    dense += 2.0 * layer.num_attentions * hidden  # norms
    dense += layer.num_dense_ffns * ffn_parameters(hidden, layer.dense_ffn_size, layer.dense_activation) / tp
    moe = layer.moe
    if moe is None:
        return Parameters(dense)
    dense += router_parameters(moe, hidden) + shared_parameters(moe, hidden)
    experts = moe.num_experts / training.ep * expert_parameters(moe, hidden) / training.etp
    return Parameters(dense, experts)

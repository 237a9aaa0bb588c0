"""Multi-token prediction: one dense layer that guesses the token after next, to be verified by the model.

Shape suffixes as in :mod:`reference_model.kernels`.
"""

import torch
from torch import Tensor, nn

from reference_model import kernels
from reference_model.config import Config
from reference_model.layer import DenseLayer, norm_weight
from reference_model.work import Cache, Group, Place


class DraftLayer(nn.Module):
    """At position i: the model's hidden state there and the token at i + 1 give a guess for i + 2.

    Embedding and head are the model's. Its cache holds one attention (:meth:`new_cache`), position i at place i.
    """

    def __init__(self, config: Config, dtype: torch.dtype, device: torch.device | str) -> None:
        """Norms, projection [2 H -> H], dense layer."""
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.embedding_norm = norm_weight(hidden, dtype, device)
        self.hidden_norm = norm_weight(hidden, dtype, device)
        self.eh_proj = nn.Parameter(torch.empty(hidden, 2 * hidden, dtype=dtype, device=device))
        self.layer = DenseLayer(config, 0, dtype, device)
        self.norm = norm_weight(hidden, dtype, device)

    def new_cache(self, requests: int, max_tokens: int) -> Cache:
        """An empty cache for this layer's attention, in its type and on its device."""
        dtype, device = self.eh_proj.dtype, self.eh_proj.device
        return Cache(self.config, requests, max_tokens, num_attentions=1, dtype=dtype, device=device)

    def forward(
        self, group: Group, place: Place, hidden_NH: Tensor, embedding: Tensor, rows: Tensor
    ) -> Tensor:
        """Normed rows [M, H] for the head, at ``rows`` of the group's N tokens; adds the tokens to its cache.

        ``group`` holds the tokens that follow the positions whose ``hidden_NH`` the model returned, and this layer's
        cache; ``place`` is its place (:meth:`reference_model.work.Rotary.places`).
        """
        eps = self.config.rms_norm_eps
        embedded_NH = kernels.embed(group.ids_BT.flatten(), embedding)
        embedded_NH, _ = kernels.add_norm(embedded_NH, None, self.embedding_norm, eps)
        hidden_NH, _ = kernels.add_norm(hidden_NH, None, self.hidden_norm, eps)
        residual_NH = kernels.linear(torch.cat((embedded_NH, hidden_NH), dim=-1), self.eh_proj)
        queries, residual_NH = self.layer.pre(residual_NH, None, [place])
        x_NH, residual_NH = self.layer.core(queries, residual_NH, [place])
        delta_NH = self.layer.ffn(x_NH)
        group.cache.length += place.num_new
        residual_MH, delta_MH = kernels.reorder(residual_NH, rows), kernels.reorder(delta_NH, rows)
        return kernels.add_norm(residual_MH, delta_MH, self.norm, eps)[0]

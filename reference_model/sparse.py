"""LongCat's sparse attention (LSA): MLA over the tokens that an index branch selects.

Of each token the index branch caches one small key; a query's score of a token is the sum over its index heads of
weight x ReLU(query . key). It attends to ``index_topk`` tokens: the first ``index_init_tokens``, the latest
``index_local_tokens`` and the best others. Of a block's two attentions the first selects for both.

Rotated parts stand at the end of a head here, as in MLA (in checkpoints an index head begins with it): scores are the
same. Engines keep index keys in FP8 with a scale; here they are in the type of the activations, as torch has no product
of such keys that runs on a CPU.

Shape suffixes as in :mod:`reference_model.kernels`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reference_model import kernels
from reference_model.attention import MLA, Query
from reference_model.config import Config
from reference_model.work import Place


class Indexer(nn.Module):
    """The index branch of one attention, over all groups of a step."""

    def __init__(
        self, config: Config, cache_index: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        """``cache_index`` is its attention's number in the groups' caches."""
        super().__init__()
        self.config = config
        self.cache_index = cache_index
        heads, width, hidden = config.index_n_heads, config.index_head_dim, config.hidden_size

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype, device=device))

        self.q_b = parameter(heads * width, config.q_lora_rank)
        self.k = parameter(width, hidden)
        self.k_norm_J = parameter(width)
        self.weights = parameter(heads, hidden)

    def pre(self, x_NH: Tensor, query_NL: Tensor, places: Sequence[Place]) -> list[Query]:
        """Projections, rotation, cache write; per group the queries [B, T, I, J], their rotated part, head weights.

        ``query_NL`` is the latent of MLA's queries, scale correction included: it multiplies all scores alike.
        """
        config = self.config
        query_NIJ = torch.unflatten(
            kernels.linear(query_NL, self.q_b), -1, (config.index_n_heads, config.index_head_dim)
        )
        key_NJ, _ = kernels.add_norm(kernels.linear(x_NH, self.k), None, self.k_norm_J, config.rms_norm_eps)
        weights_NI = kernels.linear(x_NH, self.weights)
        return [self._group_pre(query_NIJ, key_NJ, weights_NI, place) for place in places]

    def _group_pre(self, query_NIJ: Tensor, key_NJ: Tensor, weights_NI: Tensor, place: Place) -> Query:
        query_BTIJ, key_BTJ = place.own(query_NIJ), place.own(key_NJ)
        plain = self.config.index_head_dim - self.config.qk_rope_head_dim
        query_BTIR = kernels.rotate_and_cache(
            query_BTIJ[..., plain:],
            key_BTJ[..., :plain],
            key_BTJ[..., plain:],
            place.cos_TR,
            place.sin_TR,
            place.cache.new_index(self.cache_index, place.num_new),
        )
        return query_BTIJ, query_BTIR, place.own(weights_NI)

    def select(self, query: Query, place: Place) -> None:
        """Scores all tokens of a group's requests and notes what each query attends to in the group's cache."""
        config = self.config
        key_BSJ = place.cache.filled_index(self.cache_index, place.num_new)
        query_BTIJ, query_BTIR, weights_BTI = query
        scores_BTS = kernels.index_logits(query_BTIJ, query_BTIR, weights_BTI, key_BSJ)
        place.cache.selected_BTU = kernels.index_topk(
            scores_BTS, config.index_topk, config.index_init_tokens, config.index_local_tokens
        )


class LSA(MLA):
    """MLA in its absorbed form, also in prefill, over selected tokens."""

    def __init__(
        self, config: Config, cache_index: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        """``cache_index`` is the attention's number in the groups' caches; an even one has an index branch."""
        super().__init__(config, cache_index, dtype, device)
        self.indexer = None if cache_index % 2 else Indexer(config, cache_index, dtype, device)

    def pre(self, x_NH: Tensor, places: Sequence[Place]) -> list[Query]:
        """Per group the absorbed query [B, T, A, C], its rotated part [B, T, A, R], and the index branch's, if any."""
        projected = self.project(x_NH)
        rotated = [self.rotate(projected, place) for place in places]
        indexed: list[Query] = [()] * len(places)
        if self.indexer is not None:
            indexed = self.indexer.pre(x_NH, projected.query_NL, places)
        absorbed = [self.absorb_query(projected, place) for place in places]
        return [(*own, *index) for *own, index in zip(absorbed, rotated, indexed, strict=True)]

    def core(self, queries: Sequence[Query], places: Sequence[Place]) -> Tensor:
        """Selection, attention of each group, then the output projection, [N, H]."""
        if self.indexer is not None:
            for (_, _, *index), place in zip(queries, places, strict=True):
                self.indexer.select(tuple(index), place)
        return super().core(queries, places)

    def group_core(self, query: Query, place: Place) -> Tensor:
        """Attention of one group, [its tokens, A V]."""
        latent_BTAC, rotated_BTAR, *_ = query
        ids_BTU = place.cache.selected_BTU
        assert ids_BTU is not None
        cache_BSX = place.cache.filled(self.cache_index, place.num_new)
        scale = self.config.qk_head_dim**-0.5
        return self.absorb_value(kernels.mla_sparse(latent_BTAC, rotated_BTAR, cache_BSX, ids_BTU, scale))

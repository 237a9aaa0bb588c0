"""Multi-head latent attention, cut in two where shortcut-connected overlap cuts it.

Shape suffixes as in :mod:`reference_model.kernels`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from reference_model import kernels
from reference_model.config import Config
from reference_model.work import Place

Query = tuple[Tensor, ...]
"""A group's query and what it meets: see :meth:`MLA.pre`."""
LATENT_EPS: Final = 1e-6
"""Of the norms of the latents, whatever ``rms_norm_eps`` says of the others."""


class Projected(NamedTuple):
    """What all groups' tokens are projected to."""

    query_NAQ: Tensor
    query_NL: Tensor
    """The normed latent that queries come from."""
    latent_NC: Tensor
    key_NR: Tensor
    """Not rotated yet."""


class MLA(nn.Module):
    """One attention over all groups of a step.

    Queries come from a latent of width L; of each token the cache holds a latent of width C and one key of width R that
    all heads share. ``q_norm_L`` and ``kv_norm_C`` contain LongCat's scale corrections sqrt(H / L) and sqrt(H / C):
    they are multiplied in when weights are loaded, as the released engine does, and cost nothing here.
    """

    def __init__(
        self, config: Config, cache_index: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        """``cache_index`` is the attention's number in the groups' caches."""
        super().__init__()
        self.config = config
        self.cache_index = cache_index
        heads, nope, value = config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim
        rank, latent = config.q_lora_rank, config.kv_lora_rank

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype, device=device))

        self.qkv_a = parameter(rank + config.latent_dim, config.hidden_size)
        self.q_norm_L = parameter(rank)
        self.kv_norm_C = parameter(latent)
        self.q_b = parameter(heads * config.qk_head_dim, rank)
        self.kv_b = parameter(heads * (nope + value), latent)
        self.o = parameter(config.hidden_size, heads * value)

    def pre(self, x_NH: Tensor, places: Sequence[Place]) -> list[Query]:
        """Projections, rotation, cache write; per group the query and what it meets.

        Decode: the query absorbed into the latent [B, T, A, C] and its rotated part [B, T, A, R]. Prefill: the
        query [B, T, A, Q], its rotated part, and the keys and values of all cached and new tokens [B, S, A, Y].
        """
        projected = self.project(x_NH)
        return [self._group_pre(projected, place) for place in places]

    def project(self, x_NH: Tensor) -> Projected:
        """Down-projections, norms of the latents, and all queries."""
        config = self.config
        fused_NLX = kernels.linear(x_NH, self.qkv_a)
        query_NL, latent_NC = kernels.latent_norm(fused_NLX, self.q_norm_L, self.kv_norm_C, LATENT_EPS)
        heads = (config.num_attention_heads, config.qk_head_dim)
        query_NAQ = torch.unflatten(kernels.linear(query_NL, self.q_b), -1, heads)
        return Projected(query_NAQ, query_NL, latent_NC, fused_NLX[:, -config.qk_rope_head_dim :])

    def rotate(self, projected: Projected, place: Place) -> Tensor:
        """Writes a group's cache; the rotated part of its queries, [B, T, A, R]."""
        return kernels.rotate_and_cache(
            place.own(projected.query_NAQ)[..., self.config.qk_nope_head_dim :],
            place.own(projected.latent_NC),
            place.own(projected.key_NR),
            place.cos_TR,
            place.sin_TR,
            place.cache.new(self.cache_index, place.num_new),
        )

    def absorb_query(self, projected: Projected, place: Place) -> Tensor:
        """A group's queries without rotary embedding, absorbed into the latent: [B, T, A, C]."""
        nope = self.config.qk_nope_head_dim
        absorbed_NAC = kernels.absorb(projected.query_NAQ[place.rows, :, :nope], self._kv_b_AYC()[:, :nope])
        return torch.unflatten(absorbed_NAC, 0, (place.requests, place.num_new))

    def absorb_value(self, out_BTAC: Tensor) -> Tensor:
        """The output of a core in the latent, out of it: [B T, A V]."""
        value_ACV = self._kv_b_AYC()[:, self.config.qk_nope_head_dim :].transpose(1, 2)
        return kernels.absorb(out_BTAC.flatten(0, 1), value_ACV).flatten(1)

    def _group_pre(self, projected: Projected, place: Place) -> Query:
        config, query_BTAR = self.config, self.rotate(projected, place)
        if place.kind == "decode":
            return self.absorb_query(projected, place), query_BTAR
        latent_BSC = place.cache.filled(self.cache_index, place.num_new)[..., : config.kv_lora_rank]
        per_head = (config.num_attention_heads, config.qk_nope_head_dim + config.v_head_dim)
        expanded_BSAY = torch.unflatten(kernels.linear(latent_BSC, self.kv_b), -1, per_head)
        return place.own(projected.query_NAQ), query_BTAR, expanded_BSAY

    def core(self, queries: Sequence[Query], places: Sequence[Place]) -> Tensor:
        """Attention of each group, then the output projection, [N, H]."""
        out = [self.group_core(query, place) for query, place in zip(queries, places, strict=True)]
        return kernels.linear(out[0] if len(out) == 1 else torch.cat(out), self.o)

    def group_core(self, query: Query, place: Place) -> Tensor:
        """Attention of one group, [its tokens, A V]."""
        config, scale = self.config, self.config.qk_head_dim**-0.5
        cache_BSX = place.cache.filled(self.cache_index, place.num_new)
        if place.kind == "decode":
            latent_BTAC, rotated_BTAR = query
            return self.absorb_value(kernels.mla_decode(latent_BTAC, rotated_BTAR, cache_BSX, scale))
        key_BSR = cache_BSX[..., config.kv_lora_rank :]
        query_BTAQ, query_BTAR, expanded_BSAY = query
        return kernels.mla_prefill(query_BTAQ, query_BTAR, expanded_BSAY, key_BSR, scale)

    def _kv_b_AYC(self) -> Tensor:
        return self.kv_b.view(self.config.num_attention_heads, -1, self.config.kv_lora_rank)

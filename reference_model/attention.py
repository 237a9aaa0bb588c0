"""Multi-head latent attention, cut in two where shortcut-connected overlap cuts it.

Shape suffixes as in :mod:`reference_model.kernels`.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from reference_model import kernels
from reference_model.config import Config
from reference_model.work import Place

Query = tuple[Tensor, ...]
"""A group's query and what it meets: see :meth:`MLA.pre`."""
LATENT_EPS: Final = 1e-6
"""Of the norms of the latents, whatever ``rms_norm_eps`` says of the others."""


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
        config = self.config
        fused_NLX = kernels.linear(x_NH, self.qkv_a)
        query_NL, latent_NC = kernels.latent_norm(fused_NLX, self.q_norm_L, self.kv_norm_C, LATENT_EPS)
        heads = (config.num_attention_heads, config.qk_head_dim)
        query_NAQ = torch.unflatten(kernels.linear(query_NL, self.q_b), -1, heads)
        key_NR = fused_NLX[:, -config.qk_rope_head_dim :]
        return [self._group_pre(query_NAQ, latent_NC, key_NR, place) for place in places]

    def _group_pre(self, query_NAQ: Tensor, latent_NC: Tensor, key_NR: Tensor, place: Place) -> Query:
        config, shape = self.config, (place.requests, place.num_new)
        query_BTAQ = torch.unflatten(query_NAQ[place.rows], 0, shape)
        query_BTAR = kernels.rotate_and_cache(
            query_BTAQ[..., config.qk_nope_head_dim :],
            torch.unflatten(latent_NC[place.rows], 0, shape),
            torch.unflatten(key_NR[place.rows], 0, shape),
            place.cos_TR,
            place.sin_TR,
            place.cache.new(self.cache_index, place.num_new),
        )
        if place.kind == "decode":
            nope_NAD = query_NAQ[place.rows, :, : config.qk_nope_head_dim]
            key_ADC = self._kv_b_AYC()[:, : config.qk_nope_head_dim]
            return torch.unflatten(kernels.absorb(nope_NAD, key_ADC), 0, shape), query_BTAR
        latent_BSC = place.cache.filled(self.cache_index, place.num_new)[..., : config.kv_lora_rank]
        per_head = (config.num_attention_heads, config.qk_nope_head_dim + config.v_head_dim)
        return query_BTAQ, query_BTAR, torch.unflatten(kernels.linear(latent_BSC, self.kv_b), -1, per_head)

    def core(self, queries: Sequence[Query], places: Sequence[Place]) -> Tensor:
        """Attention of each group, then the output projection, [N, H]."""
        out = [self._group_core(query, place) for query, place in zip(queries, places, strict=True)]
        return kernels.linear(out[0] if len(out) == 1 else torch.cat(out), self.o)

    def _group_core(self, query: Query, place: Place) -> Tensor:
        """Attention of one group, [its tokens, A V]."""
        config = self.config
        scale = config.qk_head_dim**-0.5
        cache_BSX = place.cache.filled(self.cache_index, place.num_new)
        if place.kind == "decode":
            latent_BTAC, rotated_BTAR = query
            out_BTAC = kernels.mla_decode(latent_BTAC, rotated_BTAR, cache_BSX, scale)
            value_ACV = self._kv_b_AYC()[:, config.qk_nope_head_dim :].transpose(1, 2)
            return kernels.absorb(out_BTAC.flatten(0, 1), value_ACV).flatten(1)
        key_BSR = cache_BSX[..., config.kv_lora_rank :]
        query_BTAQ, query_BTAR, expanded_BSAY = query
        return kernels.mla_prefill(query_BTAQ, query_BTAR, expanded_BSAY, key_BSR, scale)

    def _kv_b_AYC(self) -> Tensor:
        return self.kv_b.view(self.config.num_attention_heads, -1, self.config.kv_lora_rank)

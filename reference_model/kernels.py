"""LongCat's kernels: one function for each launch that perfmodel counts as an op.

The model calls nothing else that takes time, and ``calibrate`` times exactly these functions, so what is calibrated
is what runs. The name of the perfmodel kernel class stands in each docstring.

Shape suffixes: N new tokens of the step, B requests of a group, T new tokens of a request, S keys of a request
(cached and new), H hidden, F width of an FFN, A attention heads, D head width without rotary embedding, R head width
with it, V value width, C latent (kv_lora_rank), X = C + R what the cache holds of a token, Q = D + R a query head,
Y = D + V what one head's key and value expand to, L q_lora_rank, I index heads of width J, U tokens that a query of a
sparse attention attends to, E real experts, Z real and zero-computation experts, K experts that a token selects, P
pairs (token, real expert), M, N, K in a plain product the usual ones.
"""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

QUERY_BLOCK: Final = 64
"""New tokens of a request that a sparse attention's kernels take at a time: what a block's last token does not see is
not computed, and what a block gathers stays small."""


def linear(x_MK: Tensor, weight_NK: Tensor) -> Tensor:
    """[M, K] x [N, K]^T (kernel class ``gemm``)."""
    return functional.linear(x_MK, weight_NK)


def absorb(x_NAD: Tensor, weight_ADC: Tensor) -> Tensor:
    """One product per head (``bmm``): [N, A, D] x [A, D, C] -> [N, A, C], MLA's weight absorption."""
    return torch.bmm(x_NAD.transpose(0, 1), weight_ADC).transpose(0, 1)


def grouped_linear(x_PK: Tensor, weight_ENK: Tensor, counts: list[int]) -> Tensor:
    """Rows sorted by expert meet their expert's matrix (``grouped_gemm``): [P, K] x [E, N, K]^T -> [P, N].

    ``counts`` are the rows of each expert; an expert without rows is not touched.
    """
    # views of all experts at once: indexed one by one, each would get a gradient of the whole stack in a backward;
    # written into rows of one output, each would copy the whole output's gradient
    parts = zip(torch.split(x_PK, counts), weight_ENK.unbind(), strict=True)
    out = [functional.linear(rows_MK, weight_NK) for rows_MK, weight_NK in parts if len(rows_MK)]
    return torch.cat(out) if out else x_PK.new_empty(0, weight_ENK.shape[1])


def add_norm(x_NH: Tensor, delta_NH: Tensor | None, weight_H: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Residual addition and RMS norm (``norm``): returns norm(x + delta) and x + delta."""
    if delta_NH is not None:
        x_NH = x_NH + delta_NH
    return functional.rms_norm(x_NH, (x_NH.shape[-1],), weight_H, eps), x_NH


def latent_norm(
    fused_NLX: Tensor, query_weight_L: Tensor, latent_weight_C: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """RMS norms of the two latents in one fused down-projection (``latent_norm``): [N, L + C + R] -> [N, L], [N, C]."""
    rank, latent = query_weight_L.shape[0], latent_weight_C.shape[0]
    query_NL = functional.rms_norm(fused_NLX[:, :rank], (rank,), query_weight_L, eps)
    latent_NC = functional.rms_norm(fused_NLX[:, rank : rank + latent], (latent,), latent_weight_C, eps)
    return query_NL, latent_NC


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding on interleaved pairs; ``x`` [..., R], ``cos`` and ``sin`` [..., R / 2] in its type."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def rotate_and_cache(
    query_BTAR: Tensor,
    latent_BTC: Tensor,
    key_BTR: Tensor,
    cos_TR: Tensor,
    sin_TR: Tensor,
    cache_BTX: Tensor,
) -> Tensor:
    """Rotates queries and keys and writes latent and key to the cache (``rope``); returns the rotated queries.

    ``cos_TR`` and ``sin_TR`` are [T, R / 2] for the positions of the new tokens; ``cache_BTX`` is the cache's part for
    them, [B, T, C + R]. An index branch's key is written so, too: what is not rotated of it stands for the latent.
    """
    width = latent_BTC.shape[-1]
    cache_BTX[..., :width] = latent_BTC
    cache_BTX[..., width:] = rotate(key_BTR, cos_TR, sin_TR)
    return rotate(query_BTAR, cos_TR[:, None], sin_TR[:, None])


def mla_decode(
    latent_query_BTAC: Tensor, query_BTAR: Tensor, cache_BSX: Tensor, softmax_scale: float
) -> Tensor:
    """Absorbed attention core (``mla_decode``): every head reads the same latent; -> [B, T, A, C].

    The new tokens are the last T of the S keys and see those before them.
    """
    batch, new, heads, latent = latent_query_BTAC.shape
    query_BX = torch.cat((latent_query_BTAC, query_BTAR), dim=-1).flatten(1, 2)
    scores = torch.bmm(query_BX, cache_BSX.transpose(1, 2)) * softmax_scale
    if new > 1:
        keys = cache_BSX.shape[1]
        scores.view(batch, new, heads, keys).masked_fill_(
            ~causal_mask(new, keys, scores.device)[:, None], -torch.inf
        )
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(cache_BSX.dtype)
    return torch.bmm(weights, cache_BSX[..., :latent]).view(batch, new, heads, latent)


def mla_prefill(
    query_BTAQ: Tensor, query_BTAR: Tensor, expanded_BSAY: Tensor, key_BSR: Tensor, softmax_scale: float
) -> Tensor:
    """Expanded attention core (``mla_prefill``): every head has its own keys and values; -> [B T, A V].

    ``query_BTAR`` is the rotated part, which takes its place at the end of ``query_BTAQ``. ``expanded_BSAY`` holds each
    head's key without rotary embedding and its value, ``key_BSR`` the shared rotated key.
    """
    heads, rotated = query_BTAQ.shape[2], key_BSR.shape[-1]
    key_width = query_BTAQ.shape[-1] - rotated
    query_BTAQ[..., key_width:] = query_BTAR
    key_BSAD, value_BSAV = expanded_BSAY[..., :key_width], expanded_BSAY[..., key_width:]
    key_BSAQ = torch.cat((key_BSAD, key_BSR[:, :, None].expand(-1, -1, heads, -1)), dim=-1)
    return _attend(query_BTAQ, key_BSAQ, value_BSAV, softmax_scale).flatten(0, 1).flatten(1)


def index_logits(query_BTIJ: Tensor, query_BTIR: Tensor, weights_BTI: Tensor, key_BSJ: Tensor) -> Tensor:
    """Scores by which an index branch selects (``index_logits``): sum over heads of weight x ReLU(query . key).

    ``query_BTIR`` is the rotated part, which takes its place at the end of ``query_BTIJ``. Returns [B, T, S] in
    float32; keys that come after all queries of a block are not computed and score -inf.
    """
    query_BTIJ[..., -query_BTIR.shape[-1] :] = query_BTIR
    (batch, new, heads, _), keys = query_BTIJ.shape, key_BSJ.shape[1]
    scores_BTS = query_BTIJ.new_full((batch, new, keys), -torch.inf, dtype=torch.float32)
    for block, seen in query_blocks(new, keys):
        products = torch.bmm(query_BTIJ[:, block].flatten(1, 2), key_BSJ[:, :seen].transpose(1, 2))
        by_head_BTIS = products.relu_().view(batch, -1, heads, seen)
        scores_BTS[:, block, :seen] = torch.matmul(weights_BTI[:, block, None], by_head_BTIS).squeeze(2)
    return scores_BTS


def index_topk(scores_BTS: Tensor, top_k: int, sink: int, local: int) -> Tensor:
    """The tokens that each query attends to (``index_topk``): ids [B, T, U] with U = ``top_k``, or S if that is less.

    The ``sink`` first and ``local`` latest tokens (the query's own is one) are among them, the others are those of the
    largest scores. Tokens that a query does not see come last, and only where it sees fewer than U. Writes on the
    scores.
    """
    new, keys = scores_BTS.shape[1:]
    places_S = torch.arange(keys, device=scores_BTS.device)
    behind_TS = places_S[keys - new :, None] - places_S
    scores_BTS.masked_fill_(behind_TS < local, torch.inf)
    scores_BTS[..., :sink] = torch.inf
    scores_BTS.masked_fill_(behind_TS < 0, -torch.inf)
    return torch.topk(scores_BTS, min(top_k, keys), dim=-1).indices


def mla_sparse(
    latent_query_BTAC: Tensor, query_BTAR: Tensor, cache_BSX: Tensor, ids_BTU: Tensor, softmax_scale: float
) -> Tensor:
    """Absorbed core over selected tokens, -> [B, T, A, C] (``mla_sparse_decode``; many new tokens:
    ``mla_sparse_prefill``).

    Each query has its own tokens ``ids_BTU``, in an order in which those that it does not see come last.
    """
    query_BTAX = torch.cat((latent_query_BTAC, query_BTAR), dim=-1)
    (batch, new, _, latent), keys, width = latent_query_BTAC.shape, *cache_BSX.shape[1:]
    per_request = cache_BSX.stride(0) // width  # rows of the cache, which has room for more than S
    rows_X = cache_BSX.as_strided(((batch - 1) * per_request + keys, width), (width, 1))
    first_B = per_request * torch.arange(batch, device=ids_BTU.device)
    blocks = []
    for block, seen in query_blocks(new, keys):
        ids = ids_BTU[:, block, :seen]
        chosen_BTUX = functional.embedding(ids + first_B[:, None, None], rows_X)
        scores_BTAU = torch.matmul(query_BTAX[:, block], chosen_BTUX.transpose(2, 3)) * softmax_scale
        places_T = torch.arange(keys - new + block.start, seen, device=ids.device)
        if keys - new + block.start + 1 < ids.shape[-1]:
            scores_BTAU.masked_fill_((ids > places_T[:, None])[:, :, None], -torch.inf)
        weights_BTAU = torch.softmax(scores_BTAU, dim=-1, dtype=torch.float32).to(cache_BSX.dtype)
        blocks.append(torch.matmul(weights_BTAU, chosen_BTUX[..., :latent]))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


def query_blocks(new: int, keys: int) -> Iterator[tuple[slice, int]]:
    """Blocks of the last ``new`` of ``keys`` tokens, and how many keys the last token of each sees."""
    for start in range(0, new, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, new)
        yield slice(start, stop), keys - new + stop


def gqa(query_BTAD: Tensor, key_BSGD: Tensor, value_BSGD: Tensor, softmax_scale: float) -> Tensor:
    """Grouped-query attention core (``gqa_decode`` with few new tokens, ``gqa_prefill`` with many); -> [B, T, A, D].

    Each of the G key heads serves A / G query heads, which are laid out as more queries of that head.
    """
    batch, new, heads, width = query_BTAD.shape
    shared, groups = heads // key_BSGD.shape[2], key_BSGD.shape[2]
    query = query_BTAD.view(batch, new, groups, shared, width).permute(0, 2, 3, 1, 4)
    query = query.reshape(batch, groups, shared * new, width)
    mask = None
    if new > 1:
        mask = causal_mask(new, key_BSGD.shape[1], query.device).repeat(shared, 1)
    out = functional.scaled_dot_product_attention(
        query, key_BSGD.transpose(1, 2), value_BSGD.transpose(1, 2), attn_mask=mask, scale=softmax_scale
    )
    return (
        out.view(batch, groups, shared, new, width).permute(0, 3, 1, 2, 4).reshape(batch, new, heads, width)
    )


def causal_mask(new: int, keys: int, device: torch.device) -> Tensor:
    """[T, S], true where the new token (one of the last T) may look."""
    return torch.ones(new, keys, dtype=torch.bool, device=device).tril(keys - new)


def _attend(query_BTAQ: Tensor, key_BSAQ: Tensor, value_BSAV: Tensor, softmax_scale: float) -> Tensor:
    new, keys = query_BTAQ.shape[1], key_BSAQ.shape[1]
    mask = None if new in (1, keys) else causal_mask(new, keys, query_BTAQ.device)
    out_BATV = functional.scaled_dot_product_attention(
        query_BTAQ.transpose(1, 2),
        key_BSAQ.transpose(1, 2),
        value_BSAV.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None and new > 1,
        scale=softmax_scale,
    )
    return out_BATV.transpose(1, 2)


def swiglu(gate_up_NF: Tensor) -> Tensor:
    """silu(gate) x up (``activation``): [N, 2 F] -> [N, F]."""
    gate_NF, up_NF = gate_up_NF.chunk(2, dim=-1)
    return functional.silu(gate_NF) * up_NF


def select_experts(
    logits_NZ: Tensor, bias_Z: Tensor, top_k: int, scaling_factor: float
) -> tuple[Tensor, Tensor]:
    """Softmax over all experts, then the top k (``select``): chosen ids [N, K] and their weights [N, K].

    The bias takes part in the choice alone; weights are the plain probabilities, not renormalised, times the factor.
    """
    probabilities_NZ = torch.softmax(logits_NZ, dim=-1)
    ids_NK = torch.topk(probabilities_NZ + bias_Z, top_k, dim=-1, sorted=False).indices
    return ids_NK, probabilities_NZ.gather(1, ids_NK) * scaling_factor


def zero_weight(weights_NK: Tensor, ids_NK: Tensor, num_experts: int) -> Tensor:
    """What a token gives to its zero-computation experts together, [N, 1] (a part of ``select``)."""
    return weights_NK.masked_fill(ids_NK < num_experts, 0.0).sum(dim=-1, keepdim=True)


def permute(x_NH: Tensor, ids_NK: Tensor, num_experts: int) -> tuple[Tensor, Tensor, list[int]]:
    """Rows in the order of their experts, zero-computation experts dropped (``permute``).

    Returns the rows [P, H], the pair (its index in ids) that each row belongs to [P], and the rows of each of the E
    experts. The counts are read to the host, which waits for the device: once, and only here. ``ids_NK`` may lie on
    the CPU for rows elsewhere (routing that is known beforehand).
    """
    ids, pairs = torch.sort(ids_NK.flatten(), stable=True)
    experts = torch.arange(num_experts, device=ids.device)
    ends = torch.searchsorted(ids, experts, right=True).tolist()
    pairs_P = pairs[: ends[-1]].to(x_NH.device)
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return x_NH[pairs_P // ids_NK.shape[1]], pairs_P, counts


def unpermute(
    y_PH: Tensor, pairs_P: Tensor, weights_NK: Tensor, x_NH: Tensor, zero_weight_N1: Tensor
) -> Tensor:
    """Weighted sum of the experts' outputs per token (``unpermute``), zero-computation experts included.

    Those return their input, so together they add ``zero_weight_N1`` times it: no row is moved for them.
    """
    top_k = weights_NK.shape[1]
    weighted_PH = y_PH * weights_NK.flatten()[pairs_P, None].to(y_PH.dtype)
    return (x_NH * zero_weight_N1.to(x_NH.dtype)).index_add(0, pairs_P // top_k, weighted_PH)


def reorder(x_PH: Tensor, order_P: Tensor) -> Tensor:
    """Rows in another order (``permute`` without a router's output)."""
    return x_PH[order_P]


def join(x_NH: Tensor, y_NH: Tensor) -> Tensor:
    """The experts' output joins the dense path (``add``)."""
    return x_NH + y_NH


def embed(ids: Tensor, table_VH: Tensor) -> Tensor:
    """Rows of the embedding (``gather``)."""
    return functional.embedding(ids, table_VH)


def greedy(logits_NV: Tensor) -> Tensor:
    """The likeliest token of each row (``sample``)."""
    return logits_NV.argmax(dim=-1)

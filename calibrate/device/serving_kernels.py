"""How each kernel class of a serving step is set up to run once.

Weights and caches are views into one pool of random values, at the next offset in each call, and the pool is several
times the last-level cache: they are as cold as in a step, where many layers lie between two uses of a weight.
Activations are warm, as what the kernel before has just written (:meth:`calibrate.device.timing.Bench.between_others`).
torch is imported by the builders alone, so that whoever reads timings needs none.
"""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from calibrate.device.case import (
    EPS,
    REAL_EXPERTS,
    SCALING_FACTOR,
    Build,
    Case,
    Run,
    attention_sizes,
    random_of,
    routed_ids,
    selected_ids,
    sizes_of,
)
from perfmodel.errors import DataError

if TYPE_CHECKING:
    from calibrate.device.timing import Bench


def _gemm(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import linear

    m, n, k = sizes_of(case)
    x, weight = bench.warm(m, k, dtype=case.dtype), bench.cold(n, k, dtype=case.dtype)
    return lambda: linear(x, weight())


def _bmm(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import absorb

    groups, m, n, k = sizes_of(case)
    x, weight = bench.warm(m, groups, k, dtype=case.dtype), bench.cold(groups, k, n, dtype=case.dtype)
    return lambda: absorb(x, weight())


def _grouped_gemm(case: Case, bench: "Bench") -> Run:
    """Rows fall on the experts independently and uniformly (multinomial), the same counts in every call."""
    from reference_model.kernels import grouped_linear

    groups, rows, n, k = sizes_of(case)
    counts: list[int] = random_of(case).multinomial(rows, np.full(groups, 1.0 / groups)).tolist()
    x, weight = bench.warm(rows, k, dtype=case.dtype), bench.cold(groups, n, k, dtype=case.dtype)
    return lambda: grouped_linear(x, weight(), counts)


def _mla_decode(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import mla_decode

    requests, new, context, heads, latent, rope = attention_sizes(case)
    latent_query = bench.warm(requests, new, heads, latent, dtype=case.dtype)
    query = bench.warm(requests, new, heads, rope, dtype=case.dtype)
    cache = bench.cold(requests, context, latent + rope, dtype=case.dtype)
    scale = (latent + rope) ** -0.5
    return lambda: mla_decode(latent_query, query, cache(), scale)


def _mla_prefill(case: Case, bench: "Bench") -> Run:
    """The expanded keys and values are warm: a GEMM has just made them from the cache."""
    from reference_model.kernels import mla_prefill

    requests, new, context, heads, nope, rope, value = attention_sizes(case)
    query = bench.warm(requests, new, heads, nope + rope, dtype=case.dtype)
    rotated = bench.warm(requests, new, heads, rope, dtype=case.dtype)
    expanded = bench.warm(requests, context, heads, nope + value, dtype=case.dtype)
    key = bench.cold(requests, context, rope, dtype=case.dtype)
    scale = (nope + rope) ** -0.5
    return lambda: mla_prefill(query, rotated, expanded, key(), scale)


def _mla_sparse(case: Case, bench: "Bench") -> Run:
    """Half of what a query attends to is its latest tokens, as in LongCat, the rest lies anywhere before."""
    from reference_model.kernels import mla_sparse

    requests, new, context, _, heads, latent, rope = attention_sizes(case)
    latent_query = bench.warm(requests, new, heads, latent, dtype=case.dtype)
    query = bench.warm(requests, new, heads, rope, dtype=case.dtype)
    cache = bench.cold(requests, context, latent + rope, dtype=case.dtype)
    ids = bench.ids(selected_ids(case))
    scale = (latent + rope) ** -0.5
    return lambda: mla_sparse(latent_query, query, cache(), ids, scale)


def _index_logits(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import index_logits

    requests, new, context, heads, head_dim = attention_sizes(case)
    query = bench.warm(requests, new, heads, head_dim, dtype=case.dtype)
    rotated = bench.warm(requests, new, heads, max(head_dim // 2, 1), dtype=case.dtype)
    weights = bench.warm(requests, new, heads, dtype=case.dtype)
    key = bench.cold(requests, context, head_dim, dtype=case.dtype)
    return lambda: index_logits(query, rotated, weights, key())


def _index_topk(case: Case, bench: "Bench") -> Run:
    """Of what is selected half are the latest tokens and a 128th the first ones, as in LongCat."""
    from reference_model.kernels import index_topk

    requests, new, context, top_k = attention_sizes(case)
    scores = bench.warm(requests, new, context, dtype="fp32")
    return lambda: index_topk(scores, top_k, top_k // 128, top_k // 2)


def _gqa(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import gqa

    requests, new, context, heads, kv_heads, head_dim = attention_sizes(case)
    if heads % kv_heads:
        raise DataError(f"{case.label}: heads must be a multiple of kv_heads")
    query = bench.warm(requests, new, heads, head_dim, dtype=case.dtype)
    key = bench.cold(requests, context, kv_heads, head_dim, dtype=case.dtype)
    value = bench.cold(requests, context, kv_heads, head_dim, dtype=case.dtype)
    return lambda: gqa(query, key(), value(), head_dim**-0.5)


def _norm(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import add_norm

    rows, width = sizes_of(case)
    x, delta = bench.warm(rows, width, dtype=case.dtype), bench.warm(rows, width, dtype=case.dtype)
    weight = bench.cold(width, dtype=case.dtype)
    return lambda: add_norm(x, delta, weight(), EPS)


def _latent_norm(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import latent_norm

    rows, width, latent, rope = sizes_of(case)
    if width <= latent + rope:
        raise DataError(f"{case.label}: width = query rank + latent + rope must be larger than latent + rope")
    fused = bench.warm(rows, width, dtype=case.dtype)
    query_weight = bench.cold(width - latent - rope, dtype=case.dtype)
    latent_weight = bench.cold(latent, dtype=case.dtype)
    return lambda: latent_norm(fused, query_weight(), latent_weight(), EPS)


def _rope(case: Case, bench: "Bench") -> Run:
    """As in a decode step: one new token per request, each written to another place of the cache."""
    from reference_model.kernels import rotate_and_cache

    rows, heads, rope, latent = sizes_of(case)
    if rope % 2:
        raise DataError(f"{case.label}: rope must be even")
    query = bench.warm(rows, 1, heads, rope, dtype=case.dtype)
    fresh, key = bench.warm(rows, 1, latent, dtype=case.dtype), bench.warm(rows, 1, rope, dtype=case.dtype)
    cos, sin = bench.warm(1, rope // 2, dtype=case.dtype), bench.warm(1, rope // 2, dtype=case.dtype)
    cache = bench.cold(rows, 1, latent + rope, dtype=case.dtype)
    return lambda: rotate_and_cache(query, fresh, key, cos, sin, cache())


def _activation(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import swiglu

    rows, width = sizes_of(case)
    gate_up = bench.warm(rows, 2 * width, dtype=case.dtype)
    return lambda: swiglu(gate_up)


def _add(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import join

    x, y = bench.warm(*sizes_of(case), dtype=case.dtype), bench.warm(*sizes_of(case), dtype=case.dtype)
    return lambda: join(x, y)


def _gather(case: Case, bench: "Bench") -> Run:
    """Every call reads other rows of a table as large as the pool."""
    from reference_model.kernels import embed

    rows, width = sizes_of(case)
    table = bench.table(width, dtype=case.dtype)
    order = random_of(case).permutation(table.shape[0])
    draws = max(1, min(len(order) // rows, 4096))
    ids = np.resize(order, (draws, rows))
    next_ids = itertools.cycle([bench.ids(row) for row in ids]).__next__
    return lambda: embed(next_ids(), table)


def _select(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import select_experts, zero_weight

    rows, width, top_k = sizes_of(case)
    if top_k > width:
        raise DataError(f"{case.label}: top_k can't exceed width, the number of experts")
    logits, bias = bench.warm(rows, width, dtype="fp32"), bench.cold(width, dtype="fp32")
    num_real = max(1, width * 2 // 3)

    def run() -> object:
        ids, weights = select_experts(logits, bias(), top_k, SCALING_FACTOR)
        return zero_weight(weights, ids, num_real)

    return run


def _permute(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import permute

    _, tokens, width = sizes_of(case)
    x, ids = bench.warm(tokens, width, dtype=case.dtype), bench.ids(routed_ids(case))
    return lambda: permute(x, ids, REAL_EXPERTS)


def _unpermute(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import unpermute

    rows, tokens, width = sizes_of(case)
    ids = routed_ids(case)
    pairs = bench.ids(np.argsort(ids.ravel(), kind="stable")[:rows])
    y, x = bench.warm(rows, width, dtype=case.dtype), bench.warm(tokens, width, dtype=case.dtype)
    weights, zero_weight = bench.warm(*ids.shape, dtype="fp32"), bench.warm(tokens, 1, dtype="fp32")
    return lambda: unpermute(y, pairs, weights, x, zero_weight)


def _reorder(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import reorder

    rows, width = sizes_of(case)
    x, order = bench.warm(rows, width, dtype=case.dtype), bench.ids(random_of(case).permutation(rows))
    return lambda: reorder(x, order)


def _sample(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import greedy

    logits = bench.warm(*sizes_of(case), dtype=case.dtype)
    return lambda: greedy(logits)


def _launch(case: Case, bench: "Bench") -> Run:
    """On a CPU what lies between two kernels of a step; a GPU's host runs ahead of it, so there the smallest op."""
    if bench.device == "cpu":
        from calibrate.device.between import build as between

        return between(case, bench, gradients=False)
    x = bench.warm(1, dtype=case.dtype)
    return lambda: x.add_(1.0)


BUILDERS: Mapping[str, Build] = {
    "gemm": _gemm,
    "bmm": _bmm,
    "grouped_gemm": _grouped_gemm,
    "mla_decode": _mla_decode,
    "mla_prefill": _mla_prefill,
    "mla_sparse_decode": _mla_sparse,
    "mla_sparse_prefill": _mla_sparse,
    "index_logits": _index_logits,
    "index_topk": _index_topk,
    "gqa_decode": _gqa,
    "gqa_prefill": _gqa,
    "norm": _norm,
    "latent_norm": _latent_norm,
    "rope": _rope,
    "activation": _activation,
    "add": _add,
    "gather": _gather,
    "select": _select,
    "permute": _permute,
    "unpermute": _unpermute,
    "reorder": _reorder,
    "sample": _sample,
    "launch": _launch,
}
"""How each kernel class of one rank is set up."""

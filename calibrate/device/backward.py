"""Kernels of a training step: gradients of the reference model's kernels, one way at a time, and the loss.

A product's input gradient is the product that autograd runs, on a weight that is as cold as in a step. Everything else
is timed through autograd itself, on a graph that is kept: what the forward saved is cold, the gradient that comes in
has just been written. A call of autograd's engine costs some microseconds here for every kernel, in a step once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calibrate.device.cases import (
    EPS,
    REAL_EXPERTS,
    SCALING_FACTOR,
    SHAPES,
    Case,
    Run,
    attention_sizes,
    random_of,
    routed_ids,
)
from reference_model import kernels

if TYPE_CHECKING:
    from calibrate.device.timing import Bench


def _sizes(case: Case) -> tuple[int, ...]:
    return tuple(int(case.shape[name]) for name in SHAPES[case.kernel])


def _through_autograd(
    forward: Callable[[], Tensor | Sequence[Tensor]], wanted: Sequence[Tensor], bench: "Bench", dtype: str
) -> Run:
    """The backward of a graph that is made once: gradients of ``wanted``, from gradients just written."""
    with torch.inference_mode(False), torch.enable_grad():
        outputs = forward()
    made = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    came = [bench.warm(*one.shape, dtype=dtype) for one in made]

    def run() -> object:
        with torch.inference_mode(False):
            return torch.autograd.grad(made, list(wanted), came, retain_graph=True)

    return run


def _gemm_input(case: Case, bench: "Bench") -> Run:
    """dX[m, n] = dY[m, k] W[k, n]."""
    m, n, k = _sizes(case)
    came, weight = bench.warm(m, k, dtype=case.dtype), bench.cold(k, n, dtype=case.dtype)
    return lambda: came @ weight()


def _gemm_weight(case: Case, bench: "Bench") -> Run:
    """dW[m, n] = dY[k, m]^T X[k, n]; X was saved by the forward."""
    m, n, k = _sizes(case)
    came, saved = bench.warm(k, m, dtype=case.dtype), bench.cold(k, n, dtype=case.dtype)
    return lambda: came.t() @ saved()


def _grouped(case: Case, bench: "Bench", wanted: int) -> Run:
    groups, rows, n, k = _sizes(case)
    counts: list[int] = random_of(case).multinomial(rows, np.full(groups, 1.0 / groups)).tolist()
    x, weight = bench.saved(rows, k, dtype=case.dtype), bench.saved(groups, n, k, dtype=case.dtype)
    return _through_autograd(
        lambda: kernels.grouped_linear(x, weight, counts), [(x, weight)[wanted]], bench, case.dtype
    )


def _mla_prefill_input(case: Case, bench: "Bench") -> Run:
    requests, new, context, heads, nope, rope, value = attention_sizes(case)
    query = bench.saved(requests, new, heads, nope + rope, dtype=case.dtype)
    rotated = bench.saved(requests, new, heads, rope, dtype=case.dtype)
    expanded = bench.saved(requests, context, heads, nope + value, dtype=case.dtype)
    key = bench.saved(requests, context, rope, dtype=case.dtype)
    scale = (nope + rope) ** -0.5
    return _through_autograd(
        lambda: kernels.mla_prefill(query * 1.0, rotated, expanded, key, scale),
        [query, rotated, expanded, key],
        bench,
        case.dtype,
    )


def _gqa_prefill_input(case: Case, bench: "Bench") -> Run:
    requests, new, context, heads, kv_heads, head_dim = attention_sizes(case)
    query = bench.saved(requests, new, heads, head_dim, dtype=case.dtype)
    key, value = (bench.saved(requests, context, kv_heads, head_dim, dtype=case.dtype) for _ in range(2))
    return _through_autograd(
        lambda: kernels.gqa(query, key, value, head_dim**-0.5), [query, key, value], bench, case.dtype
    )


def _norm_input(case: Case, bench: "Bench") -> Run:
    rows, width = _sizes(case)
    x, delta = (bench.saved(rows, width, dtype=case.dtype) for _ in range(2))
    weight = bench.saved(width, dtype=case.dtype)
    return _through_autograd(
        lambda: kernels.add_norm(x, delta, weight, EPS), [x, delta, weight], bench, case.dtype
    )


def _latent_norm_input(case: Case, bench: "Bench") -> Run:
    rows, width, latent, rope = _sizes(case)
    fused = bench.saved(rows, width, dtype=case.dtype)
    query_weight = bench.saved(width - latent - rope, dtype=case.dtype)
    latent_weight = bench.saved(latent, dtype=case.dtype)
    return _through_autograd(
        lambda: kernels.latent_norm(fused, query_weight, latent_weight, EPS),
        [fused, query_weight, latent_weight],
        bench,
        case.dtype,
    )


def _rope_input(case: Case, bench: "Bench") -> Run:
    """One request of all rows, written to a cache of its own, as in training."""
    rows, heads, rope, latent = _sizes(case)
    query = bench.saved(1, rows, heads, rope, dtype=case.dtype)
    fresh, key = bench.saved(1, rows, latent, dtype=case.dtype), bench.saved(1, rows, rope, dtype=case.dtype)
    cos, sin = (bench.warm(rows, rope // 2, dtype=case.dtype).clone() for _ in range(2))

    def forward() -> Sequence[Tensor]:
        cache = query.new_zeros(1, rows, latent + rope)
        return kernels.rotate_and_cache(query, fresh, key, cos, sin, cache), cache

    return _through_autograd(forward, [query, fresh, key], bench, case.dtype)


def _activation_input(case: Case, bench: "Bench") -> Run:
    rows, width = _sizes(case)
    gate_up = bench.saved(rows, 2 * width, dtype=case.dtype)
    return _through_autograd(lambda: kernels.swiglu(gate_up), [gate_up], bench, case.dtype)


def _gather_weight(case: Case, bench: "Bench") -> Run:
    """The embedding's gradient is as large as the embedding, whatever the rows."""
    rows, width, vocabulary = _sizes(case)
    table = bench.saved(vocabulary, width, dtype=case.dtype)
    ids = bench.ids(random_of(case).integers(0, vocabulary, rows))
    return _through_autograd(lambda: kernels.embed(ids, table), [table], bench, case.dtype)


def _select_input(case: Case, bench: "Bench") -> Run:
    rows, width, top_k = _sizes(case)
    logits, bias = bench.saved(rows, width, dtype="fp32"), bench.warm(width, dtype="fp32").clone()
    real = max(1, width * 2 // 3)

    def forward() -> Sequence[Tensor]:
        ids, weights = kernels.select_experts(logits, bias, top_k, SCALING_FACTOR)
        return weights, kernels.zero_weight(weights, ids, real)

    return _through_autograd(forward, [logits], bench, "fp32")


def _permute_input(case: Case, bench: "Bench") -> Run:
    _, tokens, width = _sizes(case)
    x, ids = bench.saved(tokens, width, dtype=case.dtype), bench.ids(routed_ids(case))
    return _through_autograd(lambda: kernels.permute(x, ids, REAL_EXPERTS)[0], [x], bench, case.dtype)


def _unpermute_input(case: Case, bench: "Bench") -> Run:
    rows, tokens, width = _sizes(case)
    ids = routed_ids(case)
    pairs = bench.ids(np.argsort(ids.ravel(), kind="stable")[:rows])
    y, x = bench.saved(rows, width, dtype=case.dtype), bench.saved(tokens, width, dtype=case.dtype)
    weights, zero_weight = bench.saved(*ids.shape, dtype="fp32"), bench.saved(tokens, 1, dtype="fp32")
    return _through_autograd(
        lambda: kernels.unpermute(y, pairs, weights, x, zero_weight),
        [y, weights, x, zero_weight],
        bench,
        case.dtype,
    )


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets)


def _sample_forward(case: Case, bench: "Bench") -> Run:
    rows, width = _sizes(case)
    logits, targets = bench.warm(rows, width, dtype=case.dtype), _targets(case, bench)
    return lambda: _loss(logits, targets)


def _sample_input(case: Case, bench: "Bench") -> Run:
    rows, width = _sizes(case)
    logits, targets = bench.saved(rows, width, dtype=case.dtype), _targets(case, bench)
    return _through_autograd(lambda: _loss(logits, targets), [logits], bench, case.dtype)


def _targets(case: Case, bench: "Bench") -> Tensor:
    rows, width = _sizes(case)
    return bench.ids(random_of(case).integers(0, width, rows))


BUILDERS: Mapping[str, Callable[[Case, "Bench"], Run]] = {
    "gemm_input": _gemm_input,
    "gemm_weight": _gemm_weight,
    "grouped_gemm_input": lambda case, bench: _grouped(case, bench, 0),
    "grouped_gemm_weight": lambda case, bench: _grouped(case, bench, 1),
    "mla_prefill_input": _mla_prefill_input,
    "gqa_prefill_input": _gqa_prefill_input,
    "norm_input": _norm_input,
    "latent_norm_input": _latent_norm_input,
    "rope_input": _rope_input,
    "activation_input": _activation_input,
    "gather_weight": _gather_weight,
    "select_input": _select_input,
    "permute_input": _permute_input,
    "unpermute_input": _unpermute_input,
    "sample_forward": _sample_forward,
    "sample_input": _sample_input,
}
"""How each is set up."""

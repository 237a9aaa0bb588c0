"""What is timed: one kernel of :mod:`reference_model.kernels` on one shape, and the call that runs it once.

Weights and caches are views into one pool of random values, at the next offset in each call, and the pool is several
times the last-level cache: they are as cold as in a step, where many layers lie between two uses of a weight.
Activations are warm, as what the kernel before has just written (:meth:`calibrate.device.timing.Bench.between_others`).
torch is imported by the builders alone, so that whoever reads timings needs none.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from perfmodel.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calibrate.device.timing import Bench

Run = Callable[[], object]
Shape = Mapping[str, float]
Build = Callable[["Case", "Bench"], Run]

COMMUNICATION = ("all_to_all", "all_gather", "reduce_scatter", "all_reduce", "send_recv")
"""Kernels that need more than one rank: :mod:`calibrate.device.ranks` times them."""
DTYPES = ("fp32", "bf16")
REAL_EXPERTS = 32
"""Experts among which the rows of ``permute`` and ``unpermute`` are spread."""
EPS = 1e-5
SCALING_FACTOR = 6.0
SHAPES: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "bmm": ("groups", "m", "n", "k"),
    "grouped_gemm": ("groups", "rows", "n", "k"),
    "mla_decode": ("requests", "new_tokens", "context", "heads", "latent", "rope"),
    "mla_prefill": ("requests", "new_tokens", "context", "heads", "nope", "rope", "value"),
    "mla_sparse_decode": ("requests", "new_tokens", "context", "selected", "heads", "latent", "rope"),
    "mla_sparse_prefill": ("requests", "new_tokens", "context", "selected", "heads", "latent", "rope"),
    "index_logits": ("requests", "new_tokens", "context", "heads", "head_dim"),
    "index_topk": ("requests", "new_tokens", "context", "top_k"),
    "gqa_decode": ("requests", "new_tokens", "context", "heads", "kv_heads", "head_dim"),
    "gqa_prefill": ("requests", "new_tokens", "context", "heads", "kv_heads", "head_dim"),
    "norm": ("rows", "width"),
    "latent_norm": ("rows", "width", "latent", "rope"),
    "rope": ("rows", "heads", "rope", "latent"),
    "activation": ("rows", "width"),
    "add": ("rows", "width"),
    "gather": ("rows", "width"),
    "select": ("rows", "width", "top_k"),
    "permute": ("rows", "tokens", "width"),
    "unpermute": ("rows", "tokens", "width"),
    "reorder": ("rows", "width"),
    "sample": ("rows", "width"),
    "launch": (),
    "gather_weight": ("rows", "width", "vocabulary"),
} | dict.fromkeys(COMMUNICATION, ("ranks", "bytes"))
WAYS: Mapping[str, tuple[str, ...]] = {
    "forward": (
        "gemm",
        "grouped_gemm",
        "mla_prefill",
        "gqa_prefill",
        "norm",
        "latent_norm",
        "rope",
        "activation",
        "add",
        "gather",
        "select",
        "permute",
        "unpermute",
        "reorder",
        "sample",
        "launch",
    ),
    "input": (
        "gemm",
        "grouped_gemm",
        "mla_prefill",
        "gqa_prefill",
        "norm",
        "latent_norm",
        "rope",
        "activation",
        "select",
        "permute",
        "unpermute",
        "reorder",
        "sample",
    ),
    "weight": ("gemm", "grouped_gemm", "gather"),
}
"""Way -> kernel classes of a training step that go it: forwards that leave a graph, input and weight gradients."""
TRAINING: Mapping[str, str] = {
    f"{kernel}_{way}": kernel for way, kernels in WAYS.items() for kernel in kernels
}
"""Kernel class of a training step -> the serving step's; the loss stands where that takes the likeliest token. Products
have the shape of their own product, others the forward's."""
SHAPES = {**{name: SHAPES[of] for name, of in TRAINING.items()}, **SHAPES}
"""The shape variables of each kernel class: counts, and bytes for communication."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel class on one shape.

    Raises:
        DataError: an unknown kernel or dtype, other variables than :data:`SHAPES` has, or one that is not a count.
    """

    kernel: str
    dtype: str
    """``fp32`` or ``bf16``: of weights, activations and caches; ``select`` and ``index_topk`` are FP32 whatever it
    says."""
    shape: Shape = field(default_factory=dict)
    """Every variable of the kernel class; context is S, the keys that are there after the step."""

    def __post_init__(self) -> None:
        variables = SHAPES.get(self.kernel)
        if variables is None:
            raise DataError(f"kernel: {self.kernel!r} is not timed; kernels are {', '.join(SHAPES)}")
        if self.dtype not in DTYPES:
            raise DataError(f"{self.kernel}: dtype {self.dtype!r} must be one of {', '.join(DTYPES)}")
        if set(self.shape) != set(variables):
            given = ", ".join(self.shape) or "none"
            raise DataError(
                f"{self.kernel}: shape has {given}; it must have {', '.join(variables) or 'none'}"
            )
        for name, value in self.shape.items():
            if not (math.isfinite(value) and value >= 1):
                raise DataError(f"{self.kernel}: {name} = {value} must be a number of at least 1")
        object.__setattr__(self, "shape", {name: _count(self.shape[name]) for name in variables})

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> str:
        """Short hash of kernel, dtype and shape, the same on every machine."""
        text = json.dumps([self.kernel, self.dtype, sorted(self.shape.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """For people: ``gemm fp32 m=4 n=512 k=512``."""
        return " ".join(
            [self.kernel, self.dtype, *(f"{name}={value:g}" for name, value in self.shape.items())]
        )


def build(case: Case, bench: "Bench") -> Run:
    """A callable that runs the kernel once on ``bench.device``.

    Raises:
        DataError: a communication kernel, a shape that the kernel can't have, or one that needs too much memory.
    """
    if case.kernel in COMMUNICATION:
        raise DataError(f"{case.label}: needs several ranks; give calibrate profile --ranks 2")
    return bench.between_others(lambda: builder_of(case.kernel)(case, bench))


def builder_of(kernel: str) -> Build:
    """How a kernel class of one rank is set up."""
    if kernel not in TRAINING:
        return BUILDERS[kernel]
    from calibrate.device.training_kernels import BUILDERS as OF_TRAINING

    return OF_TRAINING[kernel]


def parse_dtypes(text: str) -> list[str]:
    """``fp32,bf16`` as a list.

    Raises:
        DataError: empty, or a type that is not in :data:`DTYPES`.
    """
    dtypes = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise DataError(f"dtype: {dtype!r} must be {' or '.join(DTYPES)}, or several with commas")
    return dtypes


def _count(value: float) -> float:
    return int(value) if value == int(value) else float(value)


def _sizes(case: Case) -> tuple[int, ...]:
    """The shape's values in the order of :data:`SHAPES`, as integers."""
    return tuple(int(case.shape[name]) for name in SHAPES[case.kernel])


def random_of(case: Case) -> np.random.Generator:
    """A generator of the case's own."""
    return np.random.default_rng(int(case.key, 16))


def _gemm(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import linear

    m, n, k = _sizes(case)
    x, weight = bench.warm(m, k, dtype=case.dtype), bench.cold(n, k, dtype=case.dtype)
    return lambda: linear(x, weight())


def _bmm(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import absorb

    groups, m, n, k = _sizes(case)
    x, weight = bench.warm(m, groups, k, dtype=case.dtype), bench.cold(groups, k, n, dtype=case.dtype)
    return lambda: absorb(x, weight())


def _grouped_gemm(case: Case, bench: "Bench") -> Run:
    """Rows fall on the experts independently and uniformly (multinomial), the same counts in every call."""
    from reference_model.kernels import grouped_linear

    groups, rows, n, k = _sizes(case)
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
    ids = bench.ids(_selected_ids(case))
    scale = (latent + rope) ** -0.5
    return lambda: mla_sparse(latent_query, query, cache(), ids, scale)


def _selected_ids(case: Case) -> "NDArray[np.int64]":
    """Ids [B, T, U] of which queries attend to ``selected`` in the mean; those that a query does not see come last."""
    requests, new, context = (int(case.shape[name]) for name in ("requests", "new_tokens", "context"))
    places = np.arange(context - new, context)
    means = (np.minimum(places + 1, most).mean() for most in range(1, context + 1))
    found = next((u for u, mean in enumerate(means, 1) if mean >= case.shape["selected"]), None)
    if found is None:
        raise DataError(f"{case.label}: selected must be at most what a query sees in the mean")
    rank, last = np.arange(found), places[:, None]
    earlier = random_of(case).random((requests, new, found)) * np.maximum(last - found // 2 + 1, 1)
    ids = np.where(rank < found // 2, last - rank, earlier.astype(np.int64))
    return np.where(last + 1 < found, np.where(rank <= last, last - rank, rank), ids)


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


def attention_sizes(case: Case) -> tuple[int, ...]:
    """The sizes of an attention core.

    Raises:
        DataError: fewer keys than new tokens.
    """
    if case.shape["context"] < case.shape["new_tokens"]:
        raise DataError(
            f"{case.label}: context counts the new tokens too, so it can't be smaller than new_tokens"
        )
    return _sizes(case)


def _norm(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import add_norm

    rows, width = _sizes(case)
    x, delta = bench.warm(rows, width, dtype=case.dtype), bench.warm(rows, width, dtype=case.dtype)
    weight = bench.cold(width, dtype=case.dtype)
    return lambda: add_norm(x, delta, weight(), EPS)


def _latent_norm(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import latent_norm

    rows, width, latent, rope = _sizes(case)
    if width <= latent + rope:
        raise DataError(f"{case.label}: width = query rank + latent + rope must be larger than latent + rope")
    fused = bench.warm(rows, width, dtype=case.dtype)
    query_weight = bench.cold(width - latent - rope, dtype=case.dtype)
    latent_weight = bench.cold(latent, dtype=case.dtype)
    return lambda: latent_norm(fused, query_weight(), latent_weight(), EPS)


def _rope(case: Case, bench: "Bench") -> Run:
    """As in a decode step: one new token per request, each written to another place of the cache."""
    from reference_model.kernels import rotate_and_cache

    rows, heads, rope, latent = _sizes(case)
    if rope % 2:
        raise DataError(f"{case.label}: rope must be even")
    query = bench.warm(rows, 1, heads, rope, dtype=case.dtype)
    fresh, key = bench.warm(rows, 1, latent, dtype=case.dtype), bench.warm(rows, 1, rope, dtype=case.dtype)
    cos, sin = bench.warm(1, rope // 2, dtype=case.dtype), bench.warm(1, rope // 2, dtype=case.dtype)
    cache = bench.cold(rows, 1, latent + rope, dtype=case.dtype)
    return lambda: rotate_and_cache(query, fresh, key, cos, sin, cache())


def _activation(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import swiglu

    rows, width = _sizes(case)
    gate_up = bench.warm(rows, 2 * width, dtype=case.dtype)
    return lambda: swiglu(gate_up)


def _add(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import join

    x, y = bench.warm(*_sizes(case), dtype=case.dtype), bench.warm(*_sizes(case), dtype=case.dtype)
    return lambda: join(x, y)


def _gather(case: Case, bench: "Bench") -> Run:
    """Every call reads other rows of a table as large as the pool."""
    from reference_model.kernels import embed

    rows, width = _sizes(case)
    table = bench.table(width, dtype=case.dtype)
    order = random_of(case).permutation(table.shape[0])
    draws = max(1, min(len(order) // rows, 4096))
    ids = np.resize(order, (draws, rows))
    next_ids = itertools.cycle([bench.ids(row) for row in ids]).__next__
    return lambda: embed(next_ids(), table)


def _select(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import select_experts, zero_weight

    rows, width, top_k = _sizes(case)
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

    _, tokens, width = _sizes(case)
    x, ids = bench.warm(tokens, width, dtype=case.dtype), bench.ids(routed_ids(case))
    return lambda: permute(x, ids, REAL_EXPERTS)


def _unpermute(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import unpermute

    rows, tokens, width = _sizes(case)
    ids = routed_ids(case)
    pairs = bench.ids(np.argsort(ids.ravel(), kind="stable")[:rows])
    y, x = bench.warm(rows, width, dtype=case.dtype), bench.warm(tokens, width, dtype=case.dtype)
    weights, zero_weight = bench.warm(*ids.shape, dtype="fp32"), bench.warm(tokens, 1, dtype="fp32")
    return lambda: unpermute(y, pairs, weights, x, zero_weight)


def routed_ids(case: Case) -> "NDArray[np.int64]":
    """Ids [tokens, K] of which exactly ``rows`` are real experts, the others one zero-computation expert."""
    rows, tokens, _ = _sizes(case)
    random, top_k = random_of(case), math.ceil(rows / tokens)
    ids = np.full(tokens * top_k, REAL_EXPERTS)
    ids[random.permutation(ids.size)[:rows]] = random.integers(0, REAL_EXPERTS, rows)
    return ids.reshape(tokens, top_k)


def _reorder(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import reorder

    rows, width = _sizes(case)
    x, order = bench.warm(rows, width, dtype=case.dtype), bench.ids(random_of(case).permutation(rows))
    return lambda: reorder(x, order)


def _sample(case: Case, bench: "Bench") -> Run:
    from reference_model.kernels import greedy

    logits = bench.warm(*_sizes(case), dtype=case.dtype)
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

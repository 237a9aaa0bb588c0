"""Kernels of a training step: forwards that leave a graph, gradients of one way at a time, and the loss.

They are timed as they run in a step. A forward records what its backward will need, and what it leaves stays: the next
one writes to memory that was freed long ago, not to what it has just read. So do weight gradients. A product's
gradients are the products that autograd runs, on operands as cold as in a step; every other gradient runs through
autograd itself, on a graph that is kept: what the forward saved is cold, the gradient that comes in has just been
written. Views that the model takes of a kernel's operands belong to the kernel, as their gradients are copies and sums.
A call of autograd's engine costs some microseconds here for every kernel, in a step once.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calibrate.device import between
from calibrate.device.calls import WithGradients
from calibrate.device.case import (
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
from calibrate.device.serving_kernels import BUILDERS as SERVING
from calibrate.device.timing import pool_bytes
from reference_model import kernels

if TYPE_CHECKING:
    from calibrate.device.timing import Bench


LEFT_PER_OUTPUT = 3
"""Bytes that a forward leaves with its output, over the output's: a norm's pieces save two more tensors of its size."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A kernel of a forward, and what its gradients are asked for."""

    forward: Callable[[], Sequence[Tensor]]
    input: Sequence[Tensor] = ()
    """Operands whose gradients its input gradient is."""
    weight: Sequence[Tensor] = ()


@dataclass(frozen=True, slots=True)
class Operands:
    """Where a kernel's operands lie: for a forward activations have just been written and every call has other weights;
    for a gradient both are where the forward saved them. All ask for gradients.
    """

    case: Case
    bench: "Bench"
    forward: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values of the shape's variables."""
        return tuple(round(self.case.shape[name]) for name in SHAPES[self.case.kernel])

    def activation(self, *shape: int, dtype: str = "") -> Tensor:
        """What the kernel before wrote."""
        dtype = dtype or self.case.dtype
        if self.forward:
            return self.bench.warm(*shape, dtype=dtype).requires_grad_()
        return self.bench.saved(*shape, dtype=dtype)

    def weight(self, *shape: int) -> Callable[[], Tensor]:
        """A parameter: another one in every forward."""
        if self.forward:
            cold = self.bench.cold(*shape, dtype=self.case.dtype)
            return lambda: cold().detach().requires_grad_()
        saved = self.bench.saved(*shape, dtype=self.case.dtype)
        return lambda: saved


def _gemm(take: Operands) -> Graph:
    m, n, k = take.sizes
    x, weight = take.activation(m, k), take.weight(n, k)
    return Graph(lambda: [kernels.linear(x, weight())])


def _gemm_input(case: Case, bench: "Bench") -> Run:
    """dX[m, n] = dY[m, k] W[k, n]."""
    m, n, k = Operands(case, bench, forward=False).sizes
    came, weight = bench.warm(m, k, dtype=case.dtype), bench.cold(k, n, dtype=case.dtype)
    return lambda: came @ weight()


def _gemm_weight(case: Case, bench: "Bench") -> Run:
    """dW[m, n] = dY[k, m]^T X[k, n]; X was saved by the forward."""
    m, n, k = Operands(case, bench, forward=False).sizes
    came, saved = bench.warm(k, m, dtype=case.dtype), bench.cold(k, n, dtype=case.dtype)
    return _staying(lambda: [came.t() @ saved()], bench)


def _grouped(take: Operands) -> Graph:
    groups, rows, n, k = take.sizes
    counts: list[int] = random_of(take.case).multinomial(rows, np.full(groups, 1.0 / groups)).tolist()
    x, weight = take.activation(rows, k), take.weight(groups, n, k)
    return Graph(lambda: [kernels.grouped_linear(x, weight(), counts)], [x], [weight()])


def _mla_prefill(take: Operands) -> Graph:
    """The rotated part of the query is taken from it beforehand, and comes back to be written into it."""
    requests, new, context, heads, nope, rope, value = attention_sizes(take.case)
    query = take.activation(requests, new, heads, nope + rope)
    rotated = take.activation(requests, new, heads, rope)
    expanded = take.activation(requests, context, heads, nope + value)
    key = take.activation(requests, context, rope)
    scale = (nope + rope) ** -0.5

    def forward() -> Sequence[Tensor]:
        own = _output(query)
        part = _output(own[..., nope:])
        return kernels.mla_prefill(own.view(own.shape), rotated, expanded, key, scale), part

    return Graph(forward, [query, rotated, expanded, key])


def _gqa_prefill(take: Operands) -> Graph:
    requests, new, context, heads, kv_heads, head_dim = attention_sizes(take.case)
    query = take.activation(requests, new, heads, head_dim)
    key, value = (take.activation(requests, context, kv_heads, head_dim) for _ in range(2))
    return Graph(lambda: [kernels.gqa(query, key, value, head_dim**-0.5)], [query, key, value])


def _norm(take: Operands) -> Graph:
    rows, width = take.sizes
    x, delta = (take.activation(rows, width) for _ in range(2))
    weight = take.weight(width)
    return Graph(lambda: kernels.add_norm(x, delta, weight(), EPS), [x, delta, weight()])


def _latent_norm(take: Operands) -> Graph:
    """The key beside the latents is taken from the fused projection, too."""
    rows, width, latent, rope = take.sizes
    fused = take.activation(rows, width)
    query_weight, latent_weight = take.weight(width - latent - rope), take.weight(latent)
    return Graph(
        lambda: (*kernels.latent_norm(fused, query_weight(), latent_weight(), EPS), fused[:, -rope:]),
        [fused, query_weight(), latent_weight()],
    )


def _rope(take: Operands) -> Graph:
    """One request of all rows, written to a cache of its own, of which latents and keys are then taken."""
    rows, heads, rope, latent = take.sizes
    query = take.activation(1, rows, heads, rope)
    fresh, key = take.activation(1, rows, latent), take.activation(1, rows, rope)
    cos, sin = (take.bench.warm(rows, rope // 2, dtype=take.case.dtype).clone() for _ in range(2))

    def forward() -> Sequence[Tensor]:
        cache = query.new_zeros(1, rows, latent + rope)
        rotated = kernels.rotate_and_cache(query, fresh, key, cos, sin, cache)
        return rotated, cache[..., :latent], cache[..., latent:]

    return Graph(forward, [query, fresh, key])


def _activation(take: Operands) -> Graph:
    rows, width = take.sizes
    gate_up = take.activation(rows, 2 * width)
    return Graph(lambda: [kernels.swiglu(gate_up)], [gate_up])


def _add(take: Operands) -> Graph:
    x, y = (take.activation(*take.sizes) for _ in range(2))
    return Graph(lambda: [kernels.join(x, y)], [x, y])


def _gather(take: Operands) -> Graph:
    """Forwards from the whole pool; the embedding's gradient is as large as the embedding, whatever the rows."""
    rows, width = take.sizes[:2]
    if take.forward:
        table = take.bench.table(width, dtype=take.case.dtype).detach().requires_grad_()
    else:
        table = take.bench.saved(take.sizes[2], width, dtype=take.case.dtype)
    ids = take.bench.ids(random_of(take.case).integers(0, len(table), rows))
    return Graph(lambda: [kernels.embed(ids, table)], weight=[table])


def _select(take: Operands) -> Graph:
    rows, width, top_k = take.sizes
    logits = take.activation(rows, width, dtype="fp32")
    bias, real = take.bench.warm(width, dtype="fp32").clone(), max(1, width * 2 // 3)

    def forward() -> Sequence[Tensor]:
        ids, weights = kernels.select_experts(logits, bias, top_k, SCALING_FACTOR)
        return weights, kernels.zero_weight(weights, ids, real)

    return Graph(forward, [logits])


def _permute(take: Operands) -> Graph:
    _, tokens, width = take.sizes
    x, ids = take.activation(tokens, width), take.bench.ids(routed_ids(take.case))
    return Graph(lambda: [kernels.permute(x, ids, REAL_EXPERTS)[0]], [x])


def _unpermute(take: Operands) -> Graph:
    rows, tokens, width = take.sizes
    ids = routed_ids(take.case)
    pairs = take.bench.ids(np.argsort(ids.ravel(), kind="stable")[:rows])
    y, x = take.activation(rows, width), take.activation(tokens, width)
    weights, zero_weight = take.activation(*ids.shape, dtype="fp32"), take.activation(tokens, 1, dtype="fp32")
    return Graph(lambda: [kernels.unpermute(y, pairs, weights, x, zero_weight)], [y, weights, x, zero_weight])


def _reorder(take: Operands) -> Graph:
    rows, width = take.sizes
    x, order = take.activation(rows, width), take.bench.ids(random_of(take.case).permutation(rows))
    return Graph(lambda: [kernels.reorder(x, order)], [x])


def _sample(take: Operands) -> Graph:
    """The loss stands where a serving step takes the likeliest token."""
    rows, width = take.sizes
    logits = take.activation(rows, width)
    targets = take.bench.ids(random_of(take.case).integers(0, width, rows))
    return Graph(lambda: [functional.cross_entropy(logits, targets)], [logits])


def _output(x: Tensor) -> Tensor:
    """A tensor as if a kernel had put it out, or taken it as it is now: what is written into it later is recorded."""
    return _AsIs.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class _AsIs(torch.autograd.Function):
    """The same values, without a copy."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        del ctx
        return x.detach()

    @staticmethod
    def backward(ctx: object, *came: Tensor) -> Tensor:
        del ctx
        return came[0]


def _launch(case: Case, bench: "Bench") -> Run:
    """Between two kernels of a forward that leaves a graph; on a GPU as in serving."""
    if bench.device == "cpu":
        return between.build(case, bench, gradients=True)
    return SERVING["launch"](case, bench)


def _forward(graph: Callable[[Operands], Graph]) -> Callable[[Case, "Bench"], Run]:
    def build(case: Case, bench: "Bench") -> Run:
        return _staying(graph(Operands(case, bench, forward=True)).forward, bench)

    return build


def _gradient(graph: Callable[[Operands], Graph], way: str) -> Callable[[Case, "Bench"], Run]:
    """The backward of a graph that is made once, from gradients just written."""

    def build(case: Case, bench: "Bench") -> Run:
        with torch.inference_mode(False), torch.enable_grad():
            own = graph(Operands(case, bench, forward=False))
            made = list(own.forward())
        wanted = list(getattr(own, way))
        came = [
            bench.warm(*one.shape, dtype="fp32" if one.dtype == torch.float32 else case.dtype) for one in made
        ]

        def run() -> Sequence[Tensor]:
            return torch.autograd.grad(made, wanted, came, retain_graph=True)

        return _staying(run, bench) if way == "weight" else WithGradients(run)

    return build


def _staying(run: Callable[[], Sequence[Tensor]], bench: "Bench") -> Run:
    """A call whose outputs stay until as much has come after them as the pool of cold operands holds."""
    bench.reserve(pool_bytes(bench.device))
    kept: collections.deque[Sequence[Tensor]] = collections.deque()

    def call() -> Sequence[Tensor]:
        out = run()
        kept.append(out)
        left = LEFT_PER_OUTPUT * len(kept) * sum(one.nbytes for one in out)
        if len(kept) > 1 and left > pool_bytes(bench.device):
            kept.popleft()
        return out

    return WithGradients(call)


GRAPHS: Mapping[str, Callable[[Operands], Graph]] = {
    "gemm": _gemm,
    "grouped_gemm": _grouped,
    "mla_prefill": _mla_prefill,
    "gqa_prefill": _gqa_prefill,
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
}
"""How each kernel is set up."""
BUILDERS: Mapping[str, Callable[[Case, "Bench"], Run]] = {
    **{f"{kernel}_forward": _forward(graph) for kernel, graph in GRAPHS.items()},
    **{
        f"{kernel}_input": _gradient(graph, "input")
        for kernel, graph in GRAPHS.items()
        if kernel not in ("add", "gather")  # nothing runs
    },
    "gemm_input": _gemm_input,
    "gemm_weight": _gemm_weight,
    "grouped_gemm_weight": _gradient(_grouped, "weight"),
    "gather_weight": _gradient(_gather, "weight"),
    "launch_forward": _launch,
}
"""How each way of each is timed."""

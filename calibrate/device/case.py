"""What is timed: one kernel of :mod:`reference_model.kernels` on one shape. Read without torch."""

import hashlib
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


def sizes_of(case: Case) -> tuple[int, ...]:
    """The shape's values in the order of :data:`SHAPES`, as integers."""
    return tuple(int(case.shape[name]) for name in SHAPES[case.kernel])


def random_of(case: Case) -> np.random.Generator:
    """A generator of the case's own."""
    return np.random.default_rng(int(case.key, 16))


def selected_ids(case: Case) -> "NDArray[np.int64]":
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


def attention_sizes(case: Case) -> tuple[int, ...]:
    """The sizes of an attention core.

    Raises:
        DataError: fewer keys than new tokens.
    """
    if case.shape["context"] < case.shape["new_tokens"]:
        raise DataError(
            f"{case.label}: context counts the new tokens too, so it can't be smaller than new_tokens"
        )
    return sizes_of(case)


def routed_ids(case: Case) -> "NDArray[np.int64]":
    """Ids [tokens, K] of which exactly ``rows`` are real experts, the others one zero-computation expert."""
    rows, tokens, _ = sizes_of(case)
    random, top_k = random_of(case), math.ceil(rows / tokens)
    ids = np.full(tokens * top_k, REAL_EXPERTS)
    ids[random.permutation(ids.size)[:rows]] = random.integers(0, REAL_EXPERTS, rows)
    return ids.reshape(tokens, top_k)

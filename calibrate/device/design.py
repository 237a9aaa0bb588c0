"""Which shapes are timed: a quasi-random design inside the ranges that the user's models need.

perfmodel itself says what a model asks of each kernel: its ops are built for the corners of the work (one token to the
most, short and long contexts, decode and prefill, one real expert to all). Within the box that those shapes span, up to
the largest FLOPs and bytes among them, points follow a Sobol sequence in logarithms. Half of a product's points take
the widths of the models' own matrices, the other half any widths in between, so that the curve also serves a model that
was not named. Few rows have kinks of their own (matrix-vector kernels), so they have their own grid.

Classes take turns, so that any prefix of the list is a usable design: a run may be stopped whenever time is up.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from calibrate.device.case import COMMUNICATION, SHAPES, TRAINING, WAYS, Case
from calibrate.device.needs import ROWS, Ranges, load_model, needed_ranges, training_ranges
from perfmodel.errors import DataError
from perfmodel.ops.build import LOGIT_BYTES
from perfmodel.spec.formats import BYTES_PER_ELEMENT

SMALL_ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Rows of a product with a grid of their own."""
SPARSE = ("mla_sparse_decode", "mla_sparse_prefill", "index_logits", "index_topk")
"""Kernels of a sparse attention."""
DENSITY = {"gemm": 6, "grouped_gemm": 4, "mla_decode": 3, "mla_prefill": 3, "bmm": 2, "norm": 2, "permute": 2}
DENSITY |= dict.fromkeys(SPARSE, 2)
DENSITY |= {f"gemm_{way}": 3 for way in WAYS}
DENSITY |= {f"{kernel}_{way}": 2 for kernel in ("grouped_gemm", "mla_prefill") for way in WAYS}
"""Points of a class in a round; 1 for the others."""
ROUNDS = 220
"""Rounds in a full design; a time limit ends it earlier."""
MAX_CASE_BYTES = 2**30
"""A kernel that moves more is not timed: it would take most of the time and memory."""
MAX_EXPERTS_PER_TOKEN = 16
"""Rows per token that a permutation is timed with, at most: no model selects more experts (DeepSeek 8, LongCat 12)."""
EXCHANGE_BYTES = tuple(round(2 ** (10 + half / 2)) for half in range(27))
"""Bytes that a rank sends, from 1 KiB to 8 MiB."""


FREE_WIDTHS = ("gemm", "grouped_gemm", *(f"gemm_{way}" for way in WAYS), *ROWS)
"""Classes whose fixed variables are also varied freely: half of their points."""
MARGIN = 1.1
"""The box reaches a tenth beyond what the models need, or points would hardly come near its edges."""


def design_cases(
    models: Sequence[str],
    *,
    dtypes: Sequence[str],
    max_tokens: int,
    max_context: int,
    ranks: int,
    seed: int,
    training: bool = False,
) -> list[Case]:
    """The cases to time, in an order of which any prefix is a design.

    ``models`` are catalogue names, paths of a ``config.json`` or sizes of the reference model. ``max_tokens`` bounds
    the new tokens of a step, ``max_context`` a request's keys; with ``training`` what a training step of at most as
    many tokens asks for, gradients too, and nothing else.

    Raises:
        SpecError: an unknown model.
        DataError: a limit below 1.
    """
    if max_tokens < 1 or max_context < 1:
        raise DataError(f"max_tokens = {max_tokens} and max_context = {max_context} must be at least 1")
    rounds = []
    for dtype in dtypes:
        needed = [load_model(name) for name in models]
        ranges = (
            training_ranges(needed, dtype, max_tokens, max_context, ranks)
            if training
            else needed_ranges(needed, dtype, max_tokens, max_context, ranks)
        )
        for (kernel, own_dtype), own in ranges.items():
            points = sample_points(kernel, own, own_dtype, ROUNDS * DENSITY.get(kernel, 1), seed)
            rounds.append((DENSITY.get(kernel, 1), points))
        if ranks > 1:
            rounds.append((2, exchange_cases(dtype, ranks)))
        rounds.append((1, iter([Case("launch_forward" if training else "launch", dtype, {})])))
    return list(_unique(_take_turns(rounds)))


def sample_points(kernel: str, ranges: Ranges, dtype: str, count: int, seed: int) -> Iterator[Case]:
    """Cases of one class inside its ranges: Sobol points in logarithms, whole numbers, at most the largest op."""
    from scipy.stats import qmc  # deferred: slow to import

    names = SHAPES[kernel]
    sequence = qmc.Sobol(len(names) + 1, scramble=True, rng=_seed(kernel, dtype, seed))
    fixed = sorted(ranges.fixed)
    made = tried = 0
    while made < count and tried < 20 * count:
        for point in sequence.random(256):
            tried += 1
            shape = _shape(kernel, dtype, ranges, fixed, point, made)
            if shape is not None:
                made += 1
                yield Case(kernel, dtype, shape)
            if made >= count:
                return


def exchange_cases(dtype: str, ranks: int) -> Iterator[Case]:
    """Collectives over ``ranks``, small to large, the all-to-all most finely."""
    for size in EXCHANGE_BYTES:
        yield Case("all_to_all", dtype, {"ranks": ranks, "bytes": size})
    for size in EXCHANGE_BYTES[::2]:
        for kernel in COMMUNICATION[1:]:
            yield Case(kernel, dtype, {"ranks": ranks, "bytes": size})


def _shape(
    kernel: str,
    dtype: str,
    ranges: Ranges,
    fixed: Sequence[tuple[float, ...]],
    point: Any,
    turn: int,
) -> dict[str, float] | None:
    """The shape at one point of the unit cube, or None where no model needs one that large."""
    names = SHAPES[kernel]
    low = {name: ranges.low[name] / MARGIN for name in names}
    shape = {
        name: max(round(low[name] * (MARGIN * ranges.high[name] / low[name]) ** point[i]), 1)
        for i, name in enumerate(names)
    }
    free = kernel in FREE_WIDTHS and turn % 2
    if fixed and ranges.fixed_names and not free:
        chosen = fixed[min(int(point[-1] * len(fixed)), len(fixed) - 1)]
        shape |= {name: round(value) for name, value in zip(ranges.fixed_names, chosen, strict=True)}
    if kernel in ("gemm", "bmm") and turn % 3 == 2:
        shape["m"] = SMALL_ROWS[turn // 3 % len(SMALL_ROWS)]
    if "selected" in shape and turn % 2:
        shape["selected"] = ranges.high["selected"]  # as at every context beyond it
    _make_consistent(kernel, shape)
    flops, moved = work_of(kernel, shape, element_bytes(kernel, dtype))
    limit = min(MARGIN**2 * ranges.max_bytes, MAX_CASE_BYTES)
    return shape if flops <= MARGIN**2 * ranges.max_flops and moved <= limit else None


def _make_consistent(kernel: str, shape: dict[str, float]) -> None:
    """Variables that bound each other."""
    if "context" in shape:
        shape["context"] = max(shape["context"], shape["new_tokens"])
    if kernel in ("mla_prefill_input", "gqa_prefill_input"):  # in training nothing is cached
        shape["context"] = shape["new_tokens"]
    if "selected" in shape:  # in the mean over queries, of which the first sees fewer than the last
        seen = shape["context"] - (shape["new_tokens"] - 1) / 2.0
        shape["selected"] = max(min(shape["selected"], math.floor(seen)), 1)
    kernel = TRAINING.get(kernel, kernel)
    if kernel == "grouped_gemm":
        shape["rows"] = max(shape["rows"], shape["groups"])
    if kernel in ("permute", "unpermute"):
        shape["rows"] = min(max(shape["rows"], 1), MAX_EXPERTS_PER_TOKEN * shape["tokens"])
    if "rope" in shape:
        shape["rope"] = max(2 * round(shape["rope"] / 2), 2)


def work_of(kernel: str, shape: Mapping[str, float], element_bytes: float = 4.0) -> tuple[float, float]:
    """FLOPs and bytes of a case, counted as perfmodel counts the op of that shape."""
    s = shape
    kernel = TRAINING.get(kernel, kernel)
    count: Callable[[], tuple[float, float]] = {
        "gemm": lambda: _product(1, s["m"], s["n"], s["k"]),
        "bmm": lambda: _product(s["groups"], s["m"], s["n"], s["k"]),
        "grouped_gemm": lambda: (
            2.0 * s["rows"] * s["n"] * s["k"],
            s["groups"] * s["n"] * s["k"] + s["rows"] * (s["n"] + s["k"]),
        ),
        "mla_decode": lambda: _decode(s),
        "mla_prefill": lambda: _prefill(s),
        "mla_sparse_decode": lambda: _sparse(s, s["requests"] * s["new_tokens"] * s["selected"]),
        "mla_sparse_prefill": lambda: _sparse(s, s["requests"] * s["context"]),
        "index_logits": lambda: _index_logits(s, element_bytes),
        "index_topk": lambda: (0.0, _pairs(s) + s["requests"] * s["new_tokens"] * s["top_k"]),
        "gqa_decode": lambda: _gqa(s),
        "gqa_prefill": lambda: _gqa(s),
        "norm": lambda: (0.0, 4.0 * s["rows"] * s["width"]),
        "latent_norm": lambda: (0.0, 2.0 * s["rows"] * s["width"]),
        "rope": lambda: (0.0, s["rows"] * 2.0 * (s["heads"] * s["rope"] + s["latent"] + s["rope"])),
        "activation": lambda: (0.0, 3.0 * s["rows"] * s["width"]),
        "add": lambda: (0.0, 3.0 * s["rows"] * s["width"]),
        "gather": lambda: (0.0, 2.0 * s["rows"] * s["width"]),
        "select": lambda: (0.0, 2.0 * s["rows"] * s["width"]),
        "permute": lambda: (0.0, (s["rows"] + s["tokens"]) * s["width"]),
        "unpermute": lambda: (0.0, (s["rows"] + s["tokens"]) * s["width"]),
        "reorder": lambda: (0.0, 2.0 * s["rows"] * s["width"]),
        "sample": lambda: (0.0, s["rows"] * s["width"]),
    }.get(kernel, lambda: (0.0, 0.0))
    flops, elements = count()
    return flops, element_bytes * elements


def element_bytes(kernel: str, dtype: str) -> float:
    """Bytes of an element of what a kernel moves; logits are counted as FP32, as perfmodel does."""
    return BYTES_PER_ELEMENT[
        "fp32" if TRAINING.get(kernel, kernel) in ("sample", "select", "index_topk") else dtype
    ]


def with_work(kernel: str, dtype: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """A shape and what perfmodel counts for it, under the names that a curve may ask for."""
    if kernel in COMMUNICATION:
        return dict(shape)
    flops, moved = work_of(kernel, shape, element_bytes(kernel, dtype))
    return {"flops": flops, "bytes": moved, **shape}


def _product(groups: float, m: float, n: float, k: float) -> tuple[float, float]:
    return 2.0 * groups * m * n * k, groups * (n * k + m * k + m * n)


def _pairs(s: Mapping[str, float]) -> float:
    """Attended pairs under a causal mask: new tokens x cached + the triangle."""
    new, cached = s["new_tokens"], s["context"] - s["new_tokens"]
    return s["requests"] * (new * cached + new * (new + 1.0) / 2.0)


def _decode(s: Mapping[str, float]) -> tuple[float, float]:
    width = s["latent"] + s["rope"]
    rows = s["requests"] * s["new_tokens"] * s["heads"]
    flops = 2.0 * _pairs(s) * s["heads"] * (width + s["latent"])
    return flops, s["requests"] * s["context"] * width + rows * (width + s["latent"])


def _sparse(s: Mapping[str, float], read: float) -> tuple[float, float]:
    """``read`` latents; a prompt's queries share what they select."""
    width = s["latent"] + s["rope"]
    rows = s["requests"] * s["new_tokens"] * s["heads"]
    per_row = width + s["latent"]
    return 2.0 * rows * s["selected"] * per_row, read * width + rows * per_row


def _index_logits(s: Mapping[str, float], element_bytes: float) -> tuple[float, float]:
    """Keys and queries in their format, one FP32 score per pair."""
    pairs, queries = _pairs(s), s["requests"] * s["new_tokens"] * s["heads"]
    elements = (s["requests"] * s["context"] + queries) * s["head_dim"]
    return 2.0 * pairs * s["heads"] * s["head_dim"], elements + LOGIT_BYTES * pairs / element_bytes


def _prefill(s: Mapping[str, float]) -> tuple[float, float]:
    per_query = s["nope"] + s["rope"] + s["value"]
    rows = s["requests"] * (s["new_tokens"] + s["context"])
    return 2.0 * _pairs(s) * s["heads"] * per_query, s["heads"] * per_query * rows


def _gqa(s: Mapping[str, float]) -> tuple[float, float]:
    rows = 2.0 * s["requests"] * s["new_tokens"] * s["heads"] * s["head_dim"]
    cache = s["requests"] * s["context"] * 2.0 * s["kv_heads"] * s["head_dim"]
    return 4.0 * _pairs(s) * s["heads"] * s["head_dim"], cache + rows


def _seed(kernel: str, dtype: str, seed: int) -> int:
    """A stream of its own for every class, so that one class's points do not depend on the others."""
    return int(np.random.SeedSequence([seed, *kernel.encode(), *dtype.encode()]).generate_state(1)[0])


def _take_turns(rounds: Sequence[tuple[int, Iterator[Case]]]) -> Iterator[Case]:
    """``density`` cases of each class in turn, until all are used up."""
    left = [(density, iter(cases)) for density, cases in rounds]
    while left:
        going = []
        for density, cases in left:
            taken = list(itertools.islice(cases, density))
            yield from taken
            if len(taken) == density:
                going.append((density, cases))
        left = going


def _unique(cases: Iterator[Case]) -> Iterator[Case]:
    seen: set[str] = set()
    for case in cases:
        if case.key not in seen:
            seen.add(case.key)
            yield case

"""Fits a monotone curve of time to the timings of one kernel class.

Candidates are products of the shape's variables, some of them cut into parts (``m[4:16]``), so that time may grow
fast or slowly in each part but never falls. Which of them matter, and how much, is a non-negative least squares
problem in relative error,

    minimise  sum over timed shapes of w_i (sum over terms of c_j x_ij / t_i  -  1)^2 ,   c_j >= 0,

which is convex and has one answer; most coefficients come out as zero. Weights w_i fall where a residual is far out
(a shape that a library is badly tuned for must not bend the curve), by the usual iteration with Huber's rule.

The spread of a curve is what it does on shapes it has not seen: ten-fold leave-out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from calibrate.device.case import TRAINING
from perfmodel.errors import DataError
from perfmodel.kernels.curves import DOMAIN_SLACK, Curve, evaluate
from perfmodel.units import PERCENT

Array: TypeAlias = NDArray[np.float64]
Variables: TypeAlias = Mapping[str, Array]

FOLDS = 10
MIN_ROWS = 12
"""Fewer timed shapes make no curve."""
ROBUST_ROUNDS = 8
NORMAL_90 = 1.2816
"""The 90th percentile of a standard normal: half an 80 % interval in standard deviations."""
HUBER = 1.345
"""Residuals beyond this many robust standard deviations weigh less (95 % efficient if none is an outlier)."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a kernel class's time may be made of."""

    terms: tuple[str, ...]
    """Products that are candidates as they stand."""
    cut: Mapping[str, tuple[str, ...]]
    """Variable -> products that it multiplies, part by part."""
    domain: tuple[str, ...]
    """Variables whose range limits where the curve holds."""


ROWS = Form(("1", "rows", "rows*width"), {"rows": ("1", "width"), "bytes": ("1",)}, ("rows", "width"))
MOVED = Form(
    ("1", "rows", "tokens", "rows*width", "tokens*width"),
    {"rows": ("1", "width"), "tokens": ("1", "width"), "bytes": ("1",)},
    ("rows", "tokens", "width"),
)
ATTENTION = ("requests", "new_tokens", "context", "heads")
SPARSE = Form(
    (
        "1",
        "requests",
        "requests*context",
        "requests*new_tokens",
        *(f"requests*new_tokens*heads{x}" for x in ("", "*latent", "*rope")),
        *(f"requests*new_tokens*selected{x}" for x in ("", "*latent", "*rope")),
        *(f"requests*new_tokens*heads*selected{x}" for x in ("", "*latent", "*rope")),
    ),
    {
        "selected": ("requests*new_tokens", "requests*new_tokens*heads", "requests*new_tokens*latent"),
        "new_tokens": ("requests", "requests*selected*latent", "requests*heads*selected"),
        "requests": ("1",),
    },
    ("requests", "new_tokens", "selected", "heads"),
)
FORMS: Mapping[str, Form] = {
    "gemm": Form(
        ("1", "n", "k", "n*k", "m", "m*n", "m*k", "m*n*k"),
        {"m": ("1", "n", "k", "n*k"), "n": ("1", "k"), "k": ("n",), "bytes": ("1",)},
        ("m", "n", "k"),
    ),
    "bmm": Form(
        ("1", "groups", "groups*n*k", "groups*m", "groups*m*n", "groups*m*k", "groups*m*n*k"),
        {"m": ("groups", "groups*n", "groups*k", "groups*n*k"), "bytes": ("1",)},
        ("groups", "m", "n", "k"),
    ),
    "grouped_gemm": Form(
        (
            "1",
            "groups",
            *(f"groups*{x}" for x in ("n", "k", "n*k")),
            "rows",
            *(f"rows*{x}" for x in ("n", "k", "n*k")),
            *(f"min(rows,{m}*groups)*{x}" for m in (2, 4, 8, 16, 32, 64) for x in ("n", "k", "n*k")),
            *(f"min(rows,{m}*groups)" for m in (2, 4, 8, 16, 32, 64)),
        ),
        {"bytes": ("1",)},
        ("groups", "rows", "n", "k"),
    ),
    "mla_decode": Form(
        (
            "1",
            "requests",
            "requests*context",
            *(f"requests*context*{x}" for x in ("latent", "rope")),
            "requests*new_tokens*heads",
            *(f"requests*new_tokens*heads*{x}" for x in ("latent", "rope")),
            "requests*new_tokens*heads*context",
            *(f"requests*new_tokens*heads*context*{x}" for x in ("latent", "rope")),
        ),
        {
            "context": (
                "requests",
                "requests*latent",
                "requests*new_tokens*heads",
                "requests*new_tokens*heads*latent",
            ),
            "new_tokens": ("requests", "requests*context", "requests*heads*context"),
        },
        ATTENTION,
    ),
    "mla_prefill": Form(
        (
            "1",
            "requests",
            "requests*heads",
            *(f"requests*heads*context*{x}" for x in ("nope", "value", "rope")),
            "requests*heads*context",
            *(f"requests*heads*new_tokens*{x}" for x in ("nope", "value", "rope")),
            "requests*heads*new_tokens",
            *(f"requests*heads*new_tokens*context*{x}" for x in ("nope", "value", "rope")),
            "requests*heads*new_tokens*context",
        ),
        {
            "context": ("requests*heads*new_tokens", "requests*heads*new_tokens*nope", "requests*heads*nope"),
            "new_tokens": ("requests*heads*context", "requests*heads*context*nope"),
            "bytes": ("1",),
        },
        ATTENTION,
    ),
    "mla_sparse_decode": SPARSE,
    "mla_sparse_prefill": SPARSE,
    "index_logits": Form(
        (
            "1",
            "requests",
            "flops",
            "requests*context",
            "requests*context*head_dim",
            "requests*new_tokens*heads",
            "requests*new_tokens*context",
            "requests*new_tokens*heads*head_dim",
            "requests*new_tokens*heads*context",
        ),
        {
            "context": (
                "requests*head_dim",
                "requests*new_tokens*heads",
                "requests*new_tokens*heads*head_dim",
            ),
            "new_tokens": ("requests*context", "requests*heads*context", "requests*heads*context*head_dim"),
            "requests": ("1",),
            "flops": ("1",),
        },
        (*ATTENTION, "head_dim"),
    ),
    "index_topk": Form(
        ("1", "requests", *(f"requests*new_tokens{x}" for x in ("", "*context", "*top_k"))),
        {
            "context": ("1", "requests*new_tokens"),
            "new_tokens": ("requests", "requests*context"),
            "top_k": ("requests*new_tokens",),
        },
        ("requests", "new_tokens", "context", "top_k"),
    ),
    "norm": ROWS,
    "latent_norm": ROWS,
    "activation": ROWS,
    "add": ROWS,
    "gather": ROWS,
    "reorder": ROWS,
    "sample": ROWS,
    "select": Form(
        ("1", "rows", "rows*width", "rows*top_k"), {"rows": ("1", "width")}, ("rows", "width", "top_k")
    ),
    "rope": Form(
        ("1", "rows", "rows*heads", "rows*heads*rope", "rows*latent"),
        {"rows": ("1", "heads", "heads*rope", "latent")},
        ("rows", "heads"),
    ),
    "permute": MOVED,
    "unpermute": MOVED,
} | dict.fromkeys(
    ("all_to_all", "all_gather", "reduce_scatter", "all_reduce", "send_recv"),
    Form(("1", "bytes"), {"bytes": ("1",)}, ("bytes", "ranks")),
)
for _name in ("gqa_decode", "gqa_prefill"):
    FORMS = {
        **FORMS,
        _name: Form(
            (
                "1",
                "requests",
                "requests*kv_heads",
                "requests*kv_heads*context*head_dim",
                "requests*heads*new_tokens*head_dim",
                "requests*heads*new_tokens*context",
                "requests*heads*new_tokens*context*head_dim",
            ),
            {
                "context": ("requests*kv_heads*head_dim", "requests*heads*new_tokens"),
                "new_tokens": ("requests*heads*context", "requests*heads*context*head_dim"),
            },
            (*ATTENTION, "kv_heads", "head_dim"),
        ),
    }


def form_of(kernel: str) -> Form | None:
    """What a kernel class's time may be made of; None: it is not fitted. Of a gradient: as its forward, by shape alone,
    as what perfmodel counts that a gradient moves is not what its forward does.
    """
    if kernel == "gather_weight":
        return Form(
            ("1", "rows", "rows*width", "vocabulary*width"), {"rows": ("1", "width")}, ("rows", "width")
        )
    if kernel not in TRAINING:
        return FORMS.get(kernel)
    forward = FORMS.get(TRAINING[kernel])
    if forward is None:
        return None
    cut = {name: products for name, products in forward.cut.items() if name not in ("bytes", "flops")}
    return Form(forward.terms, cut, forward.domain)


def fit_curve(
    kernel: str, dtype: str, variables: Variables, seconds: Array, min_rows: int = MIN_ROWS
) -> Curve:
    """The curve of one kernel class, with its leave-out errors.

    ``variables`` are the shapes' values, one array each, ``seconds`` the measured times.

    Raises:
        DataError: a class without a form, too few rows, or times that are not positive.
    """
    form = form_of(kernel)
    if form is None:
        raise DataError(f"kernel {kernel!r}: no form to fit; known: {', '.join(FORMS)}")
    if len(seconds) < min_rows:
        raise DataError(f"{kernel} {dtype}: {len(seconds)} timed shapes, {min_rows} are needed")
    if not (np.isfinite(seconds).all() and (seconds > 0).all()):
        raise DataError(f"{kernel} {dtype}: times must be positive numbers")
    candidates = candidate_terms(form, variables)
    residuals = leave_out_residuals(candidates, variables, seconds)
    errors = PERCENT * np.abs(np.expm1(residuals))
    return Curve(
        kernel=kernel,
        dtype=dtype,
        terms=fit_terms(candidates, variables, seconds),
        domain={name: _range(variables[name]) for name in form.domain},
        log_std=robust_std(residuals),
        num_rows=len(seconds),
        median_error_pct=float(np.median(errors)),
        p90_error_pct=float(np.quantile(errors, 0.9)),
    )


def candidate_terms(form: Form, variables: Variables) -> tuple[str, ...]:
    """The form's products, and the parts of its cut variables: knots are powers of two (few) inside the timed range."""
    terms = list(form.terms)
    for name, products in form.cut.items():
        for low, high in _parts(variables[name]):
            part = f"{name}[{low:g}:{'' if high == np.inf else format(high, 'g')}]"
            terms += [part if product == "1" else f"{product}*{part}" for product in products]
    return tuple(dict.fromkeys(terms))


def fit_terms(
    candidates: Sequence[str], variables: Variables, seconds: Array
) -> tuple[tuple[str, float], ...]:
    """Terms with their coefficients; those that came out as zero are left out."""
    from scipy.optimize import nnls  # deferred: slow to import, and only fits need it

    design = _design(candidates, variables) / seconds[:, None]
    scale = np.linalg.norm(design, axis=0)
    used = scale > 0
    scaled = design[:, used] / scale[used]
    weights = np.ones(len(seconds))
    coefficients = np.zeros(scaled.shape[1])
    for _ in range(ROBUST_ROUNDS):
        root = np.sqrt(weights)
        coefficients, _ = nnls(scaled * root[:, None], root, maxiter=100 * scaled.shape[1])
        residuals = scaled @ coefficients - 1.0
        weights = _huber_weights(residuals)
    values = coefficients / scale[used]
    names = [name for name, use in zip(candidates, used, strict=True) if use]
    return tuple((name, float(c)) for name, c in zip(names, values, strict=True) if c > 0.0)


def leave_out_residuals(candidates: Sequence[str], variables: Variables, seconds: Array) -> Array:
    """log(predicted / measured) of every row, predicted by the fit without its tenth of the rows."""
    residuals = np.zeros(len(seconds))
    folds = np.random.default_rng(0).permutation(len(seconds)) % FOLDS
    for fold in range(FOLDS):
        out = folds == fold
        if not out.any():
            continue
        kept = {name: values[~out] for name, values in variables.items()}
        terms = fit_terms(candidates, kept, seconds[~out])
        predicted = evaluate(terms, {name: values[out] for name, values in variables.items()})
        residuals[out] = np.log(np.maximum(predicted, 1e-12) / seconds[out])
    return residuals


def robust_std(residuals: Array) -> float:
    """Standard deviation of log residuals, bias included: half the width of the middle 80 %, as of a normal.

    The 80 % interval is what the spread is used for, and its ends are what far outliers do not move.
    """
    return float(np.quantile(np.abs(residuals), 0.8) / NORMAL_90)


def _parts(values: Array) -> list[tuple[float, float]]:
    """Consecutive parts of a variable's range, the last one open: cut at powers of two up to 256, of four above."""
    smallest, largest = _range(values)
    knots = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 2**14, 2**16, 2**18, 2**20, 2**22)
    inside = [float(knot) for knot in knots if smallest <= knot < largest]
    ends = [0.0, *inside]
    return list(zip(ends, [*inside, np.inf], strict=True))


def _design(candidates: Sequence[str], variables: Variables) -> Array:
    size = len(next(iter(variables.values())))
    columns = [np.broadcast_to(evaluate(((term, 1.0),), variables), size) for term in candidates]  # type: ignore[arg-type]
    return np.stack(columns, axis=1).astype(float)


def _huber_weights(residuals: Array) -> Array:
    scale = max(1.4826 * float(np.median(np.abs(residuals))), 1e-6)
    weights: Array = np.minimum(1.0, HUBER * scale / np.maximum(np.abs(residuals), 1e-12))
    return weights


def _range(values: Array) -> tuple[float, float]:
    return float(np.min(values)), float(np.max(values))


def inside(curve: Curve, variables: Mapping[str, float]) -> bool:
    """Whether a shape lies where the curve was timed."""
    return all(
        low * (1 - DOMAIN_SLACK) <= variables[name] <= high * (1 + DOMAIN_SLACK)
        for name, (low, high) in curve.domain.items()
    )

"""Calibrations of GPUs that nobody timed: another GPU's curves, scaled (:mod:`perfmodel.kernels.derivation`).

How far off that is was measured where both GPUs of a pair were timed: the rows that the target's own calibration held
out are predicted from the base's, scaled by the same rule.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import perfmodel
from calibrate.device.curves import robust_std
from calibrate.public.clusters import cluster_section
from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.kernels.calibration import Calibration
from perfmodel.kernels.calibration_file import FILE_NAME, content_id, load_calibration
from perfmodel.kernels.tables import TableCurve
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.spec import catalogue
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.hardware import Cluster
from perfmodel.units import PERCENT

FORMAT = 2
TESTED = ("h100-sxm", "h200-sxm")
"""The pair by which scaling is tested: one chip, two memories, both timed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a GPU is derived from."""

    base: str
    """Catalogue name of the timed GPU."""
    log_std: float
    """How far off it may be: standard deviation of the logarithm."""
    why: str
    """Where that number comes from."""


CAPPED = (
    "0.24: ln(0.95 / 0.75), the shares of their peaks that products reach on H20 and on H200 "
    "(https://github.com/tile-ai/TileOPs/pull/1658): compute-bound kernels may be that much faster than derived. "
    "Scaling by bandwidth alone was off by 0.17 from H100 to H200 (`tested`)"
)
MEMORIES = (
    "0.17: what scaling by bandwidth alone was off by from H100 to H200 (`tested`), one chip with two memories, as "
    "MI300X and MI325X are; aiter's files don't say which of the two a row was timed on"
)
RULES = {
    "h20-sxm": Rule("h100-sxm", 0.24, CAPPED),
    "h20-141g-sxm": Rule("h200-sxm", 0.24, CAPPED),
    "a800-sxm": Rule(
        "a100-sxm",
        0.06,
        "same chip and memory; 0.06 is what H100's and H200's kernels differ by where neither memory nor arithmetic "
        "bounds them",
    ),
    "mi325x": Rule("mi300x", 0.17, MEMORIES),
}
"""Catalogue GPU -> what it is derived from."""


def build(gpu: str, out: Path, created: str | None = None) -> Path:
    """Write the derived calibration of a catalogue GPU into the folder ``out``.

    Raises:
        DataError: its base does not ship, or the file can't be written.
    """
    rule = RULES[gpu]
    base = load_calibration(rule.base)
    own = Cluster.model_validate(cluster_section(gpu))
    document: dict[str, Any] = {
        "format": FORMAT,
        "created": created or datetime.now(UTC).isoformat(timespec="seconds"),
        "perfmodel": perfmodel.__version__,
        "source": f"derived from calibration {base.name} ({base.document.get('source', '')})",
        "environment": {
            "device": "cuda",
            "device_name": f"{base.document['environment']['device_name']}, scaled to {gpu}",
            "threads": 1,
        },
        "cluster": cluster_section(gpu),
        "clock": base.document["clock"],
        "contention": base.document["contention"],
        "wire": base.document["wire"],
        "launch_s": 0.0,
        "curves": [],
        "derived": {
            "from": base.name,
            "id": base.id,
            "log_std": rule.log_std,
            "why": rule.why,
            "how": how(base.made_on, own),
            "tested": tested(),
        },
        "errors": [],
    }
    document["id"] = content_id(document)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: can't be made: {error.strerror}") from error
    atomic_write(out / FILE_NAME, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return out


def how(base: Cluster, own: Cluster) -> str:
    """What is scaled by how much, in words."""
    ratios = {
        "arithmetic": base.gpu.peak_flops("bf16") / own.gpu.peak_flops("bf16"),
        "memory": base.gpu.hbm_bytes_per_s / own.gpu.hbm_bytes_per_s,
        "link": base.link_bytes_per_s / own.link_bytes_per_s,
        "network": base.network_bytes_per_s() / own.network_bytes_per_s(),
    }
    changed = ", ".join(f"{name} {ratio:.3g}" for name, ratio in ratios.items() if abs(ratio - 1.0) > 0.01)
    return f"{base.gpu.name}'s kernels, times by what bounds them: {changed}"


def tested() -> list[dict[str, Any]]:
    """Errors of scaling where both GPUs were timed, by kernel class and for all: rows, median and bias in %, spread."""
    base, target = (load_calibration(name) for name in TESTED)
    logs: dict[str, list[float]] = {}
    for kernel, error in _scaled_errors(base, target):
        logs.setdefault(kernel, []).append(error)
    found = [*sorted(logs.items()), ("all", [error for errors in logs.values() for error in errors])]
    return [
        {"from": TESTED[0], "to": TESTED[1], "kernel": kernel, **_summary(errors)} for kernel, errors in found
    ]


def _summary(logs: list[float]) -> dict[str, Any]:
    errors = np.array(logs)
    percent = PERCENT * np.expm1(errors)
    figures = {
        "median_pct": float(np.median(np.abs(percent))),
        "bias_pct": float(np.median(percent)),
        "log_std": robust_std(errors),
    }
    return {"rows": len(logs), **{name: float(f"{value:.3g}") for name, value in figures.items()}}


def _scaled_errors(base: Calibration, target: Calibration) -> Iterator[tuple[str, float]]:
    """(kernel class, log of predicted over measured) of the rows that the target held out."""
    renamed = {**target.made_on.gpu.model_dump(), "name": base.gpu}
    cluster = Cluster.model_validate({**target.made_on.model_dump(), "gpu": renamed})
    curves = {(curve.kernel, curve.dtype, curve.backend, curve.engine): curve for curve in base.all_curves}
    with (catalogue.calibration_path(target.name).parent / "heldout.csv").open(
        newline="", encoding="utf-8"
    ) as file:
        for row in csv.DictReader(file):
            curve = curves.get((row["kernel"], row["dtype"], row["backend"], row["engine"]))
            shape = {name: float(size) for name, size in (part.split("=") for part in row["shape"].split())}
            done = work(row["kernel"], row["dtype"], shape)
            if done is None or not isinstance(curve, TableCurve) or shape.get("skew"):
                continue
            alone = replace(base, all_curves=(curve,), curves={_key(row): replace(curve, includes=())})
            op = Op(
                row["kernel"],
                OpClass.ATTENTION,
                row["kernel"],
                Stream.COMPUTE,
                flops=done[0],
                hbm_bytes=done[1],
                dtype="bf16" if row["kernel"] in CORES else row["dtype"],
                cache_dtype=row["dtype"] if row["kernel"] in CORES else "",
                backend=row["backend"],
                shape=shape,
            )
            timing = alone.cost(op, cluster)
            if timing is not None:
                yield row["kernel"], float(np.log(float(timing.seconds) / float(row["seconds"])))


def _key(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["kernel"], row["dtype"], row["backend"]


CORES = ("gqa_decode", "gqa_prefill", "mla_decode", "mla_prefill")
"""Attention cores: their rows name the cache's format; queries and products are BF16."""
LATENT, ROPE, NOPE, VALUE = 512.0, 64.0, 128.0, 128.0
"""Widths of the MLA that the tables hold."""


def work(kernel: str, dtype: str, shape: Mapping[str, float]) -> tuple[float, float] | None:
    """(FLOPs, HBM bytes) of a timed shape; None for classes that are not tested."""
    size = BYTES_PER_ELEMENT.get(dtype, 2.0)
    if kernel in ("gemm", "bmm"):
        m, n, k, groups = shape["m"], shape["n"], shape["k"], shape.get("groups", 1.0)
        return 2.0 * m * n * k * groups, groups * (size * (n * k + m * k) + 2.0 * m * n)
    if kernel == "grouped_gemm":
        rows, weights = shape["rows_per_group"] * shape["groups"], 3.0 * shape["hidden"] * shape["width"]
        return 2.0 * rows * weights, size * shape["groups"] * weights + 4.0 * rows * shape["hidden"]
    if kernel not in CORES:
        return None
    heads, tokens = shape["heads"], shape["requests"] * shape.get("new_tokens", 1.0)
    if kernel == "gqa_decode":
        seen = shape["requests"] * shape["context"]
        return 4.0 * seen * heads * shape["head_dim"], 2.0 * seen * shape["kv_heads"] * shape[
            "head_dim"
        ] * size
    if kernel == "gqa_prefill":
        moved = shape["head_dim"] * (4.0 * heads + 2.0 * shape["kv_heads"] * size)
        return 2.0 * tokens * shape["new_tokens"] * heads * shape["head_dim"], tokens * moved
    if kernel == "mla_decode":
        seen = shape["requests"] * shape["context"]
        return 2.0 * seen * heads * (2.0 * LATENT + ROPE), seen * (LATENT + ROPE) * size
    widths = NOPE + ROPE + VALUE
    return tokens * shape["new_tokens"] * heads * widths, 2.0 * tokens * heads * widths

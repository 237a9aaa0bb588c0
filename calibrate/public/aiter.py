"""AMD's kernels out of ROCm/aiter's published tuning files: products of matrices, and fused experts.

aiter (https://github.com/ROCm/aiter, MIT) keeps, shape by shape, the fastest kernel that its tuner found and how
long it took (``aiter/configs/**/*tuned*.csv``): what SGLang, vLLM and ATOM look up on ROCm. What the rows are:

- Times are microseconds of the kernel alone, from a profiler's trace over 101 runs (aiter/test_common.py), the operands
  copied so often that they come from memory, not from the 256 MB cache before it: no row reads faster than the HBM.
- ``gfx942`` with 304 compute units is MI300X or MI325X (one chip, the files don't say which); with 80 it is MI308X, a
  chip for another market, whose products serve BF16 alone. ``gfx950`` with 256 is MI350X or MI355X. ``gfx1250`` is
  left out.
- ``0``, ``inf`` and ``1.0`` stand for "not timed"; a row that beats a peak is one of these, too.
- ``blockscale`` is FP8 with scales for 128 x 128 blocks, in two layouts (``bpreshuffle``: weights shuffled before,
  newer
  engines on gfx950); where both were tuned the faster one answers, as the engines choose by shape. ``a8w8`` has a
  scale per row of activations and column of weights; ``a4w4`` is MXFP4.
- Products take quantised activations: quantising is a kernel of its own, unlike in NVIDIA's tables.
- Fused experts: ``expert`` and ``topk`` count what the rank holds and picks, so ``token x topk`` rows go to ``expert``
  experts (DeepSeek-V3 EP8 is 33 and 9: one shared). ``us`` is both products; sorting and quantising are not in it.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped, unused-ignore]

from calibrate.public.samples import Samples
from perfmodel.errors import DataError
from perfmodel.spec import catalogue
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.hardware import Gpu
from perfmodel.units import US

SOURCE = "github.com/ROCm/aiter at e404860 (2026-08-22), aiter/configs, MIT License"
CHIPS = {"mi300x": ("gfx942", 304), "mi308x": ("gfx942", 80), "mi355x": ("gfx950", 256)}
"""GPU -> how the files name its chip."""
EITHER_LOG_STD = {"mi300x": 0.124, "mi355x": 0.087}
"""What the files leave open of the GPU: ln(6.0 / 5.3), the memories of MI325X and MI300X, and ln(2516.6 / 2306.9),
the BF16 peaks of MI355X and MI350X. No curve is surer than that."""
UNTIMED_US = 1.5
"""Shorter than any launch on these GPUs takes (the shortest timed row is 2.4 us): not a timing."""
MOST_US = 1e6
LEAST_POINTS = 4
LARGEST_FIRST = 32
"""A shape has a table of its own where at least four sizes were tuned, the smallest of them a decode step's."""


@dataclass(frozen=True, slots=True)
class Product:
    """One tuned product of matrices."""

    gpu: str
    dtype: str
    m: int
    n: int
    k: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Experts:
    """One tuned fused MoE: both products of the experts that one rank holds."""

    gpu: str
    dtype: str
    tokens: int
    hidden: int
    width: int
    experts: int
    top_k: int
    seconds: float


def products(folder: Path) -> list[Product]:
    """Every timed product of the known chips, once per shape: the fastest.

    Raises:
        DataError: no tuning files there, or a file that can't be read.
    """
    best: dict[tuple[str, str, int, int, int], float] = {}
    for path in _files(folder, "gemm"):
        for row in _rows(path):
            gpu, dtype = _gpu(row), _product_dtype(path.name, row)
            if gpu is None or dtype is None:
                continue
            m, n, k = (int(row[name]) for name in "MNK")
            seconds = _seconds(row)
            if seconds is not None and _possible(gpu, dtype, m, n, k, seconds):
                key = gpu, dtype, m, n, k
                best[key] = min(best.get(key, math.inf), seconds)
    return [Product(*key, seconds) for key, seconds in sorted(best.items())]


def experts(folder: Path) -> list[Experts]:
    """Every timed fused MoE with a gate, once per shape.

    Raises:
        DataError: as :func:`products`.
    """
    best: dict[tuple[str, str, int, int, int, int, int], float] = {}
    for path in _files(folder, "fmoe"):
        for row in _rows(path):
            gpu, dtype, seconds = _gpu(row), _experts_dtype(row), _seconds(row)
            if gpu is None or dtype is None or seconds is None or row.get("use_g1u1") != "1":
                continue
            tokens, hidden, width, held, picked = (
                int(row[name]) for name in ("token", "model_dim", "inter_dim", "expert", "topk")
            )
            key = (gpu, dtype, tokens, hidden, width, held, picked)
            best[key] = min(best.get(key, math.inf), seconds)
    return [Experts(*key, seconds) for key, seconds in sorted(best.items())]


def samples(found: list[Product], gpu: str) -> list[Samples]:
    """Gemm by format: a table of times over m for every (n, k) that was tuned from decode's sizes on."""
    frame = pd.DataFrame([one for one in found if one.gpu == gpu])
    made = []
    for dtype, rows in frame.groupby("dtype", sort=True):
        sized = rows.groupby(["n", "k"])["m"].agg(["min", "nunique"])
        kept = sized[(sized["min"] <= LARGEST_FIRST) & (sized["nunique"] >= LEAST_POINTS)].index
        rows = rows[pd.MultiIndex.from_frame(rows[["n", "k"]]).isin(kept)].reset_index(drop=True)
        if rows.empty:
            continue
        made.append(
            Samples(
                kernel="gemm",
                dtype=str(dtype),
                backend="",
                engine="",
                axes=("m",),
                frame=rows[["n", "k", "m", "seconds"]].astype(float),
                source=f"{SOURCE}, {CHIPS[gpu][0]} with {CHIPS[gpu][1]} compute units",
                match=("n", "k"),
                exact=("n", "k"),
                slices={"m from 65 to 1024": (rows["m"] > 64) & (rows["m"] <= 1024)},
                least_log_std=EITHER_LOG_STD[gpu],
                note="The fastest kernel of each tuned shape, alone; quantising the activations is not in it.",
            )
        )
    return made


def _files(folder: Path, kind: str) -> Iterator[Path]:
    places = sorted(folder.rglob("*tuned*.csv")) if folder.is_dir() else []
    if not places:
        raise DataError(
            f"{folder}: no tuning files (*tuned*.csv); name the folder aiter/configs of a copy of ROCm/aiter"
        )
    for path in places:
        if (
            "untuned" not in path.name
            and "batched" not in path.name
            and "grouped" not in path.name
            and kind in path.name
        ):
            yield path


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: can't be read: {error}") from error


def _gpu(row: dict[str, str]) -> str | None:
    """The GPU of a row; files without a chip's name state its compute units."""
    units = row.get("cu_num") or ""
    for gpu, (chip, count) in CHIPS.items():
        if units == str(count) and row.get("gfx", chip) == chip:
            return gpu
    return None


def _product_dtype(name: str, row: dict[str, str]) -> str | None:
    """A product's number format; None where perfmodel has no such op."""
    if "a4w4" in name:
        return "mxfp4"
    if "blockscale" in name:
        return "fp8"
    if "a8w8" in name:
        return "int8" if row["q_dtype_w"].endswith("int8") else "fp8-tensor"
    if (
        row["dtype"].endswith("bfloat16")
        and row["outdtype"].endswith("bfloat16")
        and row["scaleAB"] == "False"
    ):
        return "bf16"
    return None


EXPERT_FORMATS = {
    ("bfloat16", "bfloat16", "No"): "bf16",
    ("bfloat16", "int4", "per_1x32"): "int4",
    ("float4", "float4", "per_1x32"): "mxfp4",
    ("float8", "float8", "per_1x128"): "fp8",
    ("float8", "float8", "per_Token"): "fp8-tensor",
}
"""(activations, weights, scales) -> number format."""


def _experts_dtype(row: dict[str, str]) -> str | None:
    names = (row["q_dtype_a"], row["q_dtype_w"])
    held = [name.split(".")[-1].split("_")[0] for name in names]
    return EXPERT_FORMATS.get((held[0], held[1], row["q_type"].split(".")[-1]))


def _seconds(row: dict[str, str]) -> float | None:
    """Time of a row, s; None where nothing was timed."""
    try:
        taken = float(row["us"])
    except (KeyError, TypeError, ValueError):
        return None
    return taken * US if UNTIMED_US < taken < MOST_US else None


def _possible(gpu: str, dtype: str, m: int, n: int, k: int, seconds: float) -> bool:
    """Whether a time is below neither peak (MI308X: of a chip with as many memories and fewer units)."""
    own = chip(gpu)
    moved = BYTES_PER_ELEMENT[dtype] * (n * k + m * k) + 2.0 * m * n
    return seconds >= max(2.0 * m * n * k / own.peak_flops(dtype), moved / own.hbm_bytes_per_s)


def chip(gpu: str) -> Gpu:
    """The catalogue's GPU; MI308X is MI300X with fewer compute units."""
    if gpu in catalogue.names("gpus"):
        return catalogue.gpu(gpu)
    whole = catalogue.gpu("mi300x")
    share = CHIPS[gpu][1] / CHIPS["mi300x"][1]
    peaks = {name: share * value for name in ("bf16_tflops", "fp8_tflops") if (value := getattr(whole, name))}
    return whole.model_copy(update={"name": gpu, "num_sms": CHIPS[gpu][1], **peaks})

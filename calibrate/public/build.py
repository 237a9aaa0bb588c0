"""From the public measured tables to a calibration of a catalogue GPU: its file, its tables and its held-out rows."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import perfmodel
from calibrate.device.assemble import LONG_S
from calibrate.device.curves import MIN_ROWS, NORMAL_90
from calibrate.public import (
    attention,
    derived,
    expert_formats,
    experts,
    gemm,
    modules,
    sparse,
    states,
    transfers,
)
from calibrate.public.clusters import cluster_section
from calibrate.public.heldout import RANDOM, TRANSFERS, Errors, Held, as_op, hold_out
from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, SYSTEMS, Source
from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.kernels import parts
from perfmodel.kernels.calibration_file import FILE_NAME, content_id, parse
from perfmodel.kernels.curves import Curve, curve_document
from perfmodel.kernels.sums import write_sums
from perfmodel.kernels.table_file import FILE as TABLES_NAME
from perfmodel.kernels.table_file import Store, table_curve_document
from perfmodel.spec import catalogue

Reader: TypeAlias = Callable[[Source, str], list[Samples]]
"""What a system's tables hold of some classes."""

FORMAT = 2
READERS: tuple[Reader, ...] = (gemm.samples, attention.samples, experts.samples)
"""Of the kernels of one GPU. Transfers have their own, which H800 does not share."""
PART_READERS: dict[str, tuple[Reader, ...]] = {
    parts.MIXERS: (states.samples, sparse.samples),
    parts.MODULES: (modules.samples,),
    parts.FORMATS: (expert_formats.samples,),
    parts.RACKS: (transfers.rack_samples,),
}
"""Part of a calibration -> the readers of its classes."""
DERIVED = {"h800-sxm": "h100_sxm"}
"""Catalogue GPU -> system of the same chip whose kernels are its own; the package has no tables of it."""
GPUS = (*SYSTEMS.values(), *DERIVED, *derived.RULES)
SAME_CHIP = "H100's kernels: same chip."
HELD_OUT, ERRORS, NOTICE = "heldout.csv", "errors.csv", "NOTICE"
MAX_HELD_OUT = 60
"""Held-out rows that are kept of a curve."""
MAX_HELD_OUT_TOTAL = 2500
"""Of all curves together, so that the file stays below 300 kB."""
MAX_HELD_OUT_PART = {parts.MIXERS: 1000, parts.MODULES: 120, parts.FORMATS: 1000, parts.RACKS: 100}
"""Of all curves of a part, so that a GPU's folder stays below 2 MB."""
REPEATED = (("mla", "generation_mla"), ("mla", "context_mla"), ("mla_bmm", "mla_bmm"), ("moe", "moe"))
"""Tables that hold shapes that were timed twice."""
NOISY = ("h100_sxm", "h200_sxm", "b200_sxm", "gb200", "b300_sxm", "gb300")
"""Systems with such tables of today's versions."""
ATTRIBUTION = """Fitted on measured tables of the {source} (https://github.com/ai-dynamo/aiconfigurator),
Copyright (c) 2025-2026 NVIDIA CORPORATION & AFFILIATES, Apache License 2.0. Changes: units converted, a subset
selected, outliers left out, holes interpolated, times made to grow with the work; heldout.csv holds single rows of
them. Transfers of some GPUs also rest on DeepEP's published timings: each curve of calibration.json names its source.
Made by calibrate import-tables.
"""


@dataclass(frozen=True, slots=True)
class Built:
    """A calibration that was just made."""

    gpu: str
    folder: Path
    errors: tuple[Errors, ...]
    left_out: tuple[str, ...]
    """Tables that made no curve, and why."""
    num_curves: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a calibration's timings come from."""

    label: str
    """Package or repository, with its version."""
    tables: str
    """Which of its tables."""
    device_name: str
    """What the timed device is called there."""
    repeat_log_std: float
    """Noise of one timing: standard deviation of its log."""
    repeats: str
    """How that is known."""
    notice: str
    """The licence's text for the folder."""


def system_of(name: str) -> str:
    """The catalogue GPU that a catalogue name or a system folder of the package stands for.

    Raises:
        DataError: neither.
    """
    gpu = SYSTEMS.get(name, name)
    if gpu not in GPUS:
        raise DataError(f"--system {name}: no tables of it; known: {', '.join(GPUS)}")
    return gpu


def part_named(name: str) -> str:
    """The name of a part that can be made.

    Raises:
        DataError: there is none of that name.
    """
    if name not in PART_READERS:
        raise DataError(f"--part {name}: unknown; known: {', '.join(PART_READERS)}")
    return name


def available(source: Source) -> list[str]:
    """Catalogue GPUs that the source has tables of, or of their chip."""
    found = [gpu for system, gpu in SYSTEMS.items() if source.has(system)]
    found += [gpu for gpu, system in DERIVED.items() if SYSTEMS[system] in found]
    return [gpu for gpu in found if gpu in catalogue.names("gpus")]


def build(source: Source, gpu: str, out: Path, created: str | None = None) -> Built:
    """Make the calibration of a catalogue GPU in the folder ``out``, which is made if it is not there.

    ``created`` is an ISO date; without it now. Same tables and date, same bytes. calibration.json is written last: a
    reader that comes between refuses the tables, whose hash it states.

    Raises:
        DataError: no tables of it, a table that can't be used, or a file that can't be written.
    """
    system = _system(source, gpu)
    held, curves = fitted(source, system, gpu)
    return written(
        _origin(source, system, gpu), gpu, out, held, curves, gemm.left_out(source, system), created
    )


def build_part(source: Source, gpu: str, name: str, out: Path, created: str | None = None) -> Built | None:
    """Make a part (:mod:`perfmodel.kernels.parts`) of a GPU's calibration in ``out``; None without tables for it.

    Raises:
        DataError: as :func:`build`.
    """
    system = _system(source, gpu)
    note = SAME_CHIP if gpu in DERIVED else ""
    held = [_noted(one, note) for one in _fits(source, system, PART_READERS[name])]
    kept = MAX_HELD_OUT_PART[name]
    return written(_origin(source, system, gpu), gpu, out, held, [], [], created, kept) if held else None


def _system(source: Source, gpu: str) -> str:
    system = {name: folder for folder, name in SYSTEMS.items()}.get(gpu) or DERIVED.get(gpu)
    if system is None or not source.has(system):
        raise DataError(f"{gpu}: no tables of it in {source.systems / 'data'}")
    return system


def _origin(source: Source, system: str, gpu: str) -> Origin:
    return Origin(
        label=source.label,
        tables=f"measured tables of {system}",
        device_name=device_name(source, system, gpu),
        repeat_log_std=repeat_log_std(source),
        repeats=f"shapes above {LONG_S:g} s that the tables of any GPU hold twice: ratio of the two times, robust",
        notice=ATTRIBUTION.format(source=source.label),
    )


def written(
    origin: Origin,
    gpu: str,
    out: Path,
    held: Sequence[Held],
    curves: Sequence[Curve],
    left_out: Sequence[str],
    created: str | None,
    most_held_out: int = MAX_HELD_OUT_TOTAL,
) -> Built:
    """The files of a calibration or of a part of one."""
    created = created or datetime.now(UTC).isoformat(timespec="seconds")
    errors = [error for one in held for error in one.errors] + [_curve_errors(curve) for curve in curves]
    store = Store()
    documents = [table_curve_document(one.curve, store) for one in held]
    documents += [curve_document(curve) for curve in curves]
    _check_keys(documents)
    arrays = store.arrays()
    tables = _npz(arrays)
    document = {
        "format": FORMAT,
        "created": created,
        "perfmodel": perfmodel.__version__,
        "source": f"{origin.label}, {origin.tables}",
        "environment": {"device": "cuda", "device_name": origin.device_name, "threads": 1},
        "cluster": cluster_section(gpu),
        "clock": {
            "repeat_log_std": origin.repeat_log_std,
            "how": origin.repeats,
        },
        "contention": {"compute_held": 0.0, "measured": 0},
        "wire": "link",
        "launch_s": 0.0,
        "curves": documents,
        "tables": {"file": TABLES_NAME, "sha256": hashlib.sha256(tables).hexdigest()},
        "errors": [_rounded(error) for error in errors],
        "left_out": list(left_out),
    }
    document["id"] = content_id(document)
    parse(document, name=gpu, arrays=arrays)  # what we write must be what perfmodel reads
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: can't be made: {error.strerror}") from error
    atomic_write(out / TABLES_NAME, tables)
    atomic_write(out / HELD_OUT, _held_out_csv(held, origin.label, most_held_out))
    atomic_write(out / ERRORS, _csv([_rounded(error) for error in errors]))
    atomic_write(out / NOTICE, origin.notice)
    atomic_write(out / FILE_NAME, _json(document))
    write_sums(out)
    return Built(gpu, out, tuple(errors), tuple(left_out), len(documents))


def fitted(source: Source, system: str, gpu: str) -> tuple[list[Held], list[Curve]]:
    """Every table curve of a GPU with its held-out errors, and the parametric curves of its transfers."""
    if gpu not in DERIVED:
        moved = [hold_out(samples) for samples in transfers.samples(source, system)]
        return [*_kernels(source, system), *moved], transfers.curves(source, system, experts=True)
    samples, curves = transfers.h800(source)
    return [*_kernels(source, system, SAME_CHIP), *(hold_out(one) for one in samples)], curves


def _kernels(source: Source, system: str, note: str = "") -> list[Held]:
    return [_noted(one, note) for one in _fits(source, system, READERS)]


def _noted(one: Held, note: str) -> Held:
    return replace(one, curve=replace(one.curve, note=f"{note} {one.curve.note}".strip())) if note else one


@cache
def _fits(source: Source, system: str, readers: tuple[Reader, ...]) -> tuple[Held, ...]:
    try:
        return tuple(hold_out(samples) for reader in readers for samples in reader(source, system))
    except KeyError as error:
        raise DataError(f"{source.label}: a table of {system} lacks the column {error}") from error


def device_name(source: Source, system: str, gpu: str) -> str:
    """What CUDA calls the device, as the rows name it."""
    for engine in ENGINES:
        frame = source.read(system, "gemm", engine, "gemm")
        if frame is not None and len(frame):
            name = str(frame["device"].iloc[0])
            return name if gpu not in DERIVED else f"{name} (for {gpu}: same chip)"
    return gpu


@cache
def repeat_log_std(source: Source) -> float:
    """Noise of one timing: standard deviation of its log, from shapes that a table holds twice.

    As :func:`calibrate.device.assemble.repeat_log_std`: of kernels longer than a millisecond, half the middle 80 % of
    the log ratio, over sqrt(2) since both timings scatter. Few GPUs have such shapes, so those of all are taken
    together.

    Raises:
        DataError: too few of them to tell.
    """
    ratios: list[float] = []
    for system in NOISY:
        for family, table in REPEATED:
            for engine in ENGINES:
                found = source.repeats(system, family, engine, table)
                if found is not None:
                    ratios += found[found["seconds"] > LONG_S]["log_ratio"].tolist()
    if len(ratios) < MIN_ROWS:
        raise DataError(f"{source.systems}: {len(ratios)} shapes were timed twice, {MIN_ROWS} are needed")
    return float(f"{np.quantile(ratios, 0.8) / NORMAL_90 / np.sqrt(2.0):.3g}")


def _curve_errors(curve: Curve) -> Errors:
    """A parametric curve's leave-out errors (a tenth at a time); its bias is not kept."""
    return Errors(
        kernel=curve.kernel,
        dtype=curve.dtype,
        backend=curve.backend,
        engine=curve.engine,
        left_out=RANDOM,
        rows=curve.num_rows,
        median_pct=curve.median_error_pct,
        p90_pct=curve.p90_error_pct,
        bias_pct=0.0,
        log_std=curve.log_std,
        target_pct=TRANSFERS[0],
    )


def _check_keys(documents: Sequence[Mapping[str, Any]]) -> None:
    seen = set()
    for curve in documents:
        key = tuple(str(curve.get(name, "")) for name in ("kernel", "dtype", "backend", "engine"))
        if key in seen:
            raise DataError(f"two curves of {' '.join(filter(None, key))}: one would never answer")
        seen.add(key)


def _npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _json(document: Mapping[str, Any]) -> str:
    """One line per key, and per item of a list: curves can be compared line by line, and the file stays small."""

    def value(item: Any) -> str:
        if isinstance(item, list) and item:
            return "[\n" + ",\n".join(json.dumps(part, allow_nan=False) for part in item) + "\n]"
        return json.dumps(item, allow_nan=False)

    return "{\n" + ",\n".join(f"{json.dumps(key)}: {value(item)}" for key, item in document.items()) + "\n}\n"


def _rounded(error: Errors) -> dict[str, Any]:
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in asdict(error).items()
    }


def _held_out_csv(held: Sequence[Held], source: str, total: int) -> str:
    most = max(min(MAX_HELD_OUT, total // max(len(held), 1)), 1)
    rows = []
    for one in held:
        names = (*one.curve.tables[0].match, *one.curve.tables[0].axes)
        for row in one.rows.head(most).to_dict("records"):
            shape = as_op(one.curve.kernel, {name: row[name] for name in names})
            rows.append(
                {
                    "kernel": one.curve.kernel,
                    "dtype": one.curve.dtype,
                    "backend": one.curve.backend,
                    "engine": one.curve.engine,
                    "shape": " ".join(f"{name}={value:.10g}" for name, value in shape.items()),
                    "seconds": f"{row['seconds']:.6g}",
                    "source": source,
                }
            )
    return _csv(rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

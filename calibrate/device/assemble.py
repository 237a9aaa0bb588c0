"""From a folder of timings to the calibration file that perfmodel reads (docs/calibration_format.md)."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import perfmodel
from calibrate.device.case import COMMUNICATION, SHAPES, WAYS
from calibrate.device.curves import MIN_ROWS, NORMAL_90, Array, fit_curve, form_of
from calibrate.device.design import with_work, work_of
from calibrate.device.environment import gpu_spec
from calibrate.device.journal import JOURNAL, PARQUET, read_metadata, read_timings, to_parquet
from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.kernels.calibration_file import FILE_NAME, FORMAT, content_id, parse
from perfmodel.kernels.curves import Curve, curve_document
from perfmodel.kernels.sums import write_sums
from perfmodel.spec.paths import is_file
from perfmodel.units import GB

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

ANY = "any"
"""Number format of curves whose time depends on bytes alone."""
LONG_S = 1e-3
"""Kernels longer than this tell what two runs of a step differ by."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibration that was just made."""

    path: Path
    """Its ``calibration.json``."""
    document: Mapping[str, Any]
    curves: tuple[Curve, ...]
    left_out: tuple[str, ...]
    """Classes that were timed but have no curve, and why."""


def fit_folder(folder: Path) -> Fitted:
    """Fit every kernel class of the timings in ``folder`` and write ``calibration.json`` beside them.

    Raises:
        DataError: no timings there, too few for a single curve, or the file can't be written.
    """
    if is_file(folder / JOURNAL):
        to_parquet(folder)  # what is fitted is what lies there, also after a run that was killed
    metadata, timings = read_metadata(folder), read_timings(folder)
    curves, left_out = _curves(timings)
    if not curves:
        raise DataError(
            f"{folder}: {len(timings)} timed shapes, which is too few: a kernel class needs {MIN_ROWS}; run calibrate "
            f"profile --out {folder} again, which goes on where it was"
        )
    document = build_document(metadata, curves, timings)
    document["timings"] = {"file": PARQUET, "sha256": _sha256(folder / PARQUET), "rows": len(timings)}
    document["id"] = content_id(document)
    parse(document, name=folder.name)  # what we write must be what perfmodel reads
    path = folder / FILE_NAME
    atomic_write(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
    write_sums(folder)
    return Fitted(path, document, tuple(curves), tuple(left_out))


def build_document(
    metadata: Mapping[str, Any], curves: Sequence[Curve], timings: "pd.DataFrame"
) -> dict[str, Any]:
    """Everything of a calibration file but ``timings`` and ``id``."""
    environment = metadata["environment"]
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "perfmodel": perfmodel.__version__,
        "source": f"calibrate profile on {environment['device_name']}, {environment['date'][:10]}",
        "environment": environment,
        "requested": metadata["requested"],
        "clock": {
            "reference_probe_s": metadata["reference_probe_s"],
            "repeat_log_std": repeat_log_std(metadata, timings),
            "sample_log_std": float(timings["spread"].median()),
            "foreign_load": float(timings["foreign_load"].median()),
        },
        "cluster": cluster_section(environment, timings, max(metadata["requested"].get("ranks", 1), 1)),
        "contention": contention_section(metadata),
        "wire": "link",
        "launch_s": _launch_s(timings),
        "curves": [curve_document(curve) for curve in curves],
    }


def cluster_section(environment: Mapping[str, Any], timings: "pd.DataFrame", ranks: int) -> dict[str, Any]:
    """The device as a cluster of its own: what ``cluster: calibrated`` stands for.

    The link between ranks of one machine is as fast as its fastest timed transfer; its peak only serves to say what a
    transfer achieves of it, since transfers are costed by their own curve.
    """
    gpu = gpu_spec(environment, peak_flops(timings), environment["copy_bytes_per_s"])
    transfers = timings[timings["kernel"].isin(COMMUNICATION)]
    fastest = float((transfers["bytes"] / transfers["seconds"]).max()) if len(transfers) else 0.0
    link = max(fastest, 1.0) / GB if fastest else gpu["hbm_gb_per_s"]
    return {
        "name": f"{gpu['name']}-calibrated",
        "gpu": gpu,
        "node": {"num_gpus": ranks, "link_domain_gpus": ranks, "link_gb_per_s": link},
        "network": {"gb_per_s_per_gpu": link},
        "source": "calibrate profile: the fastest timed transfer between ranks of this machine"
        if fastest
        else "calibrate profile without ranks: transfers are not timed, links are taken as fast as memory",
        "date": environment["date"][:10],
    }


def contention_section(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a transfer in flight takes from compute: the median over what was measured; 0 where nothing was."""
    found = metadata.get("contention") or []
    if not found:
        return {"compute_held": 0.0, "measured": 0}
    held = float(np.median([one["held"] for one in found]))
    return {
        "compute_held": min(max(held, 0.0), 0.95),
        "exchange_stretch": float(np.median([one["exchange_stretch"] for one in found])),
        "measured": len(found),
    }


def peak_flops(timings: "pd.DataFrame") -> dict[str, float]:
    """Dtype -> FLOP/s of the fastest timed product."""
    products = timings[timings["kernel"].isin(("gemm", *(f"gemm_{way}" for way in WAYS)))]
    peaks: dict[str, float] = {}
    for row in products.to_dict("records"):
        flops, _ = work_of("gemm", row)
        peaks[row["dtype"]] = max(peaks.get(row["dtype"], 0.0), flops / row["seconds"])
    return peaks


def repeat_log_std(metadata: Mapping[str, Any], timings: "pd.DataFrame") -> float:
    """Noise floor of a step: standard deviation of the log ratio between two timings of one kernel, minutes apart.

    Of kernels longer than a millisecond, because short ones scatter by themselves, which a step averages out; per
    timing, so the ratio's over sqrt(2). Where too little was timed twice: the median spread of samples.
    """
    repeats = [one for one in metadata.get("repeats") or [] if one["first_seconds"] > LONG_S]
    if len(repeats) < MIN_ROWS:
        return float(timings["spread"].median())
    ratios = np.log([one["seconds"] / one["first_seconds"] for one in repeats])
    return float(np.quantile(np.abs(ratios), 0.8) / NORMAL_90 / np.sqrt(2.0))


def shape_arrays(kernel: str, dtype: str, rows: "pd.DataFrame") -> dict[str, Array]:
    """The variables that a class's curve may ask for, one array each: its shape, and its bytes."""
    shape = {name: rows[name].to_numpy(dtype=float) for name in SHAPES[kernel]}
    found = with_work(kernel, dtype, shape)
    return {name: np.broadcast_to(values, len(rows)).astype(float) for name, values in found.items()}


def _curves(timings: "pd.DataFrame") -> tuple[list[Curve], list[str]]:
    curves, left_out = [], []
    for kernel, dtype, rows in _classes(timings):
        try:
            curves.append(
                fit_curve(
                    kernel, dtype, shape_arrays(kernel, dtype, rows), rows["seconds"].to_numpy(dtype=float)
                )
            )
        except DataError as error:
            left_out.append(str(error))
    return curves, left_out


def _classes(timings: "pd.DataFrame") -> Iterator[tuple[str, str, "pd.DataFrame"]]:
    """Timings by kernel class and number format; those of transfers go by bytes, whatever their format."""
    for (kernel, dtype), rows in timings.groupby(["kernel", "dtype"], sort=True):
        if form_of(kernel) and kernel not in COMMUNICATION:
            yield str(kernel), str(dtype), rows
    for kernel, rows in timings.groupby("kernel", sort=True):
        if kernel in COMMUNICATION:
            yield str(kernel), ANY, rows


def _launch_s(timings: "pd.DataFrame") -> float | None:
    """What lies between two kernels, s."""
    found = timings[timings["kernel"].isin(("launch", "launch_forward"))]["seconds"]
    return float(found.median()) if len(found) else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""What is known of a calibration: errors by kernel class, and what of a scenario's step it covers."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dashboard.pool import pooled
from dashboard.results import Failed
from dashboard.trusted import days, kernel_row
from perfmodel.answers.step import answer_step
from perfmodel.errors import DataError, PerfModelError
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.spec.scenario import Scenario

Files = tuple[tuple[str, bytes], ...]
"""A calibration's files, name and content; empty: one of the catalogue."""
NAMES = ("calibration.json", "tables.npz")
"""Files that make one; raw timings may stay at home."""


@dataclass(frozen=True)
class Facts:
    """A calibration, and what it is worth for a scenario."""

    name: str
    id: str
    gpu: str
    device: str
    created: str
    source: str
    age: str
    rows: pd.DataFrame
    """One row per kernel: kernel, format, backend, engine, timed shapes, median error and 90th percentile, %."""
    classes: pd.DataFrame
    """One row per kernel class: timed shapes, and of the shapes' errors the median and 90th percentile, %."""
    fractions: Mapping[str, float] | None
    """Shares of the scenario's step by what they rest on; None: the scenario has no answer with it."""
    why: str
    """Why not."""

    @property
    def covered(self) -> float | None:
        """Share of the step's time whose kernels were timed on its GPU."""
        return None if self.fractions is None else float(self.fractions["timed"])


@pooled(16)
def facts(name: str, files: Files, scenario: Scenario) -> Facts | Failed:
    """Of a calibration of the catalogue, or of one that was brought, for a scenario; or why it is none."""
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files:
            (Path(folder) / file).write_bytes(content)
        try:
            return _facts(folder, scenario, title=name) if files else _facts(name, scenario)
        except PerfModelError as error:
            return Failed(str(error).replace(f"{folder}/", ""))


def brought(files: Sequence[tuple[str, bytes]]) -> Files:
    """Files that somebody brought, if they are a calibration's.

    Raises:
        DataError: another file, or none of the one that there must be.
    """
    names = [name for name, _ in files]
    strange = [name for name in names if name not in NAMES]
    if strange:
        raise DataError(f"{strange[0][:60]}: a calibration's files are {' and '.join(NAMES)}")
    if NAMES[0] not in names or len(set(names)) < len(names):
        raise DataError(
            f"a calibration is {NAMES[0]}, once, with {NAMES[1]} where it has one; its folder holds both"
        )
    return tuple(sorted(files))


def _facts(name: str, scenario: Scenario, title: str = "") -> Facts:
    found = load_calibration(name)
    rows = pd.DataFrame([kernel_row(curve) for curve in found.whole()])
    fractions, why = None, ""
    try:
        with_it = scenario.model_copy(update={"calibration": name})
        fractions = answer_step(with_it, over_steps=False, ops=False).values["basis"]["fractions"]
    except PerfModelError as error:
        why = str(error)
    return Facts(
        title or found.name,
        found.id,
        found.gpu,
        str(found.document.get("environment", {}).get("device_name") or found.gpu),
        found.created,
        str(found.document.get("source") or ""),
        days(found.created),
        rows,
        _classes(rows),
        fractions,
        why.replace(name, title) if title else why,
    )


def _classes(rows: pd.DataFrame) -> pd.DataFrame:
    """By kernel class: errors weighted by timed shapes."""
    found = []
    for kernel, own in rows.groupby("kernel", sort=True):
        weights = own["timed shapes"].to_numpy(dtype=float)
        found.append(
            {
                "kernel": kernel,
                "timed shapes": int(weights.sum()),
                **{name: _weighted(own[name], weights) for name in ("median error", "90th percentile")},
            }
        )
    return pd.DataFrame(found).sort_values("timed shapes", ascending=False, ignore_index=True)


def _weighted(values: Any, weights: Any) -> float | None:
    numbers = pd.to_numeric(values).to_numpy(dtype=float)
    known = np.isfinite(numbers)
    return float(np.average(numbers[known], weights=weights[known])) if known.any() else None

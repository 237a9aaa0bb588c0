"""Kernel timings against the calibrations that ship: shapes that were held out of their fits.

Every calibration from public tables keeps some of the shapes that its curves never saw (``heldout.csv``). They are
timings of kernels alone; what they say of a whole step is for the other suites.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from perfmodel.kernels.calibration import AnyCurve, Calibration
from perfmodel.kernels.calibration_file import FILE_NAME, load_calibration
from perfmodel.kernels.parts import found_in
from perfmodel.kernels.sums import check_sum
from perfmodel.spec import catalogue
from perfmodel.validation.rows import Row

NORMAL_90 = 1.2816
"""90th percentile of the standard normal distribution."""


@cache
def shipped(name: str) -> Calibration:
    """A calibration of the catalogue."""
    return load_calibration(name)


def calibration_names() -> list[str]:
    """Catalogue calibrations that keep held-out shapes."""
    return [
        name
        for name in catalogue.names("calibrations")
        if (catalogue.calibration_path(name).parent / "heldout.csv").is_file()
    ]


def identities(names: Iterable[str]) -> tuple[str, ...]:
    """NAME-ID of calibrations, as a result names them."""
    return tuple(f"{name}-{shipped(name).id}" for name in dict.fromkeys(names))


def held_out_rows(
    suite: str, wanted: Callable[[str], bool], progress: Callable[[str, int, int], None] | None = None
) -> list[Row]:
    """Rows of the kernels that are ``wanted``, of every calibration."""
    names = calibration_names()
    found: list[Row] = []
    for number, name in enumerate(names):
        if progress is not None:
            progress(suite, number, len(names))
        curves: dict[Any, list[AnyCurve]] = {}
        for curve in shipped(name).whole():
            curves.setdefault(_key(curve), []).append(curve)
        own = [record for record in _read(name) if wanted(record["kernel"])]
        found += [_row(suite, name, record, curves) for record in own]
    return found


def timing_row(
    suite: str, curve: AnyCurve | None, variables: Mapping[str, Any], *, measured: float, **own: Any
) -> Row:
    """One measured time against a curve; unanswered where there is none."""
    quantity = f"{own.pop('kernel')}_s"
    if curve is None or not curve.covers(variables):
        own["reason"] = own.get("reason") or "no curve covers it"
        return Row(suite=suite, quantity=quantity, unit="s", measured=measured, predicted=None, **own)
    predicted = float(curve.seconds(variables))
    spread = float(np.exp(NORMAL_90 * curve.log_std))
    return Row(
        suite=suite,
        quantity=quantity,
        unit="s",
        measured=measured,
        predicted=predicted,
        low=predicted / spread,
        high=predicted * spread,
        **own,
    )


def _row(suite: str, name: str, record: Mapping[str, str], curves: Mapping[Any, Sequence[AnyCurve]]) -> Row:
    variables = {key: float(value) for key, value in (part.split("=") for part in record["shape"].split(" "))}
    key = tuple(record[part] for part in KEY)
    label = " ".join(filter(None, (name, *key[::-1], record["shape"])))
    known = curves.get(key, ())  # a rack's has other numbers of ranks than a node's
    return timing_row(
        suite,
        next((curve for curve in known if curve.covers(variables)), None),
        variables,
        measured=float(record["seconds"]),
        kernel=record["kernel"],
        id=label,
        model=name,
        role="check",
        source=record["source"],
        system=shipped(name).gpu,
        engine=record["engine"],
    )


KEY = ("kernel", "dtype", "backend", "engine")


def _key(curve: AnyCurve) -> tuple[str, ...]:
    return tuple(getattr(curve, part) for part in KEY)


def _read(name: str) -> Iterator[dict[str, str]]:
    """Of the calibration's file and of its parts."""
    folder = catalogue.calibration_path(name).parent
    for held in (folder, *(path.parent for path in found_in(folder, FILE_NAME).values())):
        path = held / "heldout.csv"
        check_sum(path)
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def find_curve(calibration: Calibration, kernel: str, dtype: str, backend: str = "") -> AnyCurve | None:
    """The curve that answers for a kernel alone."""
    curves: Sequence[AnyCurve | None] = [
        calibration.curves.get((kernel, own, backend)) for own in (dtype, "any")
    ]
    return next((curve for curve in curves if curve is not None), None)

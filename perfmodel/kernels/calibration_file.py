"""Calibrations on disk: read, checked, cached.

One is a folder with ``calibration.json`` (what this module reads) and ``timings.parquet`` (the raw timings, for
people and for a later fit); docs/calibration_format.md describes both. The file's ``id`` is a hash of its content, so a
damaged or edited file is refused, and every result can name what it rests on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from perfmodel.errors import DataError
from perfmodel.kernels.calibration import Calibration, of_engine
from perfmodel.kernels.curves import curve_from
from perfmodel.kernels.derivation import derivation_from
from perfmodel.kernels.parts import NAMES as PARTS
from perfmodel.kernels.parts import found_in
from perfmodel.kernels.table_file import read_tables, table_curve_from
from perfmodel.spec import catalogue
from perfmodel.spec.documents import read_document
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.paths import is_file

FORMATS = (1, 2)
"""Versions of the file format that are read; 2 adds tables, engines and backends."""
FORMAT = 1
"""What ``calibrate fit`` writes."""
FILE_NAME = "calibration.json"
TIMINGS_NAME = "timings.parquet"


def load_calibration(name: str, engine: str = "") -> Calibration:
    """The calibration of a catalogue name, a folder or a ``calibration.json``, answering for ``engine``.

    Raises:
        SpecError: no such name in the catalogue.
        DataError: unreadable, of another format version, or damaged.
    """
    return _load_file(catalogue.calibration_path(name), engine)


def _load_file(path: Path, engine: str) -> Calibration:
    return _load_for(path, path.stat().st_mtime_ns if is_file(path) else 0, engine)


@cache
def _load_for(path: Path, modified: int, engine: str) -> Calibration:
    return _load(path, modified).for_engine(engine)


@cache
def _load(path: Path, _modified: int) -> Calibration:
    document = read_document(path)
    shipped = path.is_relative_to(catalogue.DATA)
    check_document(document, path, shipped=shipped)
    if "derived" in document:
        return _derived(document, path.parent.name)
    folder = path.parent
    name = f"{folder.parent.name}/{folder.name}" if folder.name in PARTS else folder.name
    arrays = read_tables(document, path)
    calibration = parse(document, name=name, arrays=arrays, shipped=shipped)
    _check_timings(document, path)
    return replace(
        calibration,
        parts={part: partial(_load_file, file) for part, file in found_in(folder, FILE_NAME).items()},
    )


def _derived(document: Mapping[str, Any], name: str) -> Calibration:
    """Another calibration's curves as those of this device.

    Raises:
        DataError: a missing or malformed field, or another version of the calibration that it names.
    """
    stated = derivation_from(document, name)
    base = load_calibration(stated.base)
    if base.id != stated.base_id:
        raise DataError(
            f"{name}: derived from {stated.base}-{stated.base_id}, but {stated.base} is {base.id}; run calibrate "
            "import-tables again"
        )
    own = parse(document, name=name)
    return replace(
        own,
        all_curves=base.all_curves,
        curves=base.curves,
        timed_on=base.made_on,
        derivation=stated,
        parts=base.parts,
    )


def parse(
    document: Mapping[str, Any],
    *,
    name: str,
    arrays: Mapping[str, Any] | None = None,
    shipped: bool = False,
) -> Calibration:
    """The calibration in a document whose format and id were checked; ``arrays`` are its tables' values. Tables of one
    that is ``shipped`` with the package are checked when they are asked for.

    Raises:
        DataError: a missing or malformed field.
    """
    try:
        curves = tuple(
            table_curve_from(curve, arrays or {}, name, shipped=shipped)
            if "tables" in curve
            else curve_from(curve, name)
            for curve in document["curves"]
        )
        return Calibration(
            id=str(document["id"]),
            name=name,
            made_on=Cluster.model_validate(dict(document["cluster"])),
            created=str(document["created"]),
            perfmodel=str(document["perfmodel"]),
            all_curves=curves,
            curves=of_engine(curves, ""),
            engine="",
            compute_held=_share(document["contention"]["compute_held"], name),
            repeat_log_std=_spread(document["clock"]["repeat_log_std"], name),
            launch_s=_launch(document, name),
            document=document,
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{name}: {FILE_NAME} lacks or garbles {error}; make it anew with calibrate fit"
        ) from error


def check_document(document: Mapping[str, Any], path: Path, *, shipped: bool = False) -> None:
    """Refuse another format version, and content that does not hash to its id (of those that ship with the package a
    test has checked that).

    Raises:
        DataError: as said.
    """
    version = document.get("format")
    if version not in FORMATS:
        readable = " and ".join(map(str, FORMATS))
        raise DataError(
            f"{path}: format = {version!r}, this version reads {readable}; run calibrate fit again"
        )
    if shipped:
        return
    expected = content_id(document)
    if document.get("id") != expected:
        raise DataError(
            f"{path}: damaged or edited: id = {document.get('id')!r}, its content hashes to {expected!r}; run "
            f"calibrate fit on its {TIMINGS_NAME} again"
        )


def content_id(document: Mapping[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of everything but the id itself, in canonical JSON."""
    content = {key: value for key, value in document.items() if key != "id"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check_timings(document: Mapping[str, Any], path: Path) -> None:
    """The raw timings may be left behind, but if they are there they are those that were fitted."""
    timings = path.parent / TIMINGS_NAME
    stated = document.get("timings")
    if not isinstance(stated, Mapping) or not is_file(timings):
        return
    with timings.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != stated.get("sha256"):
        raise DataError(f"{timings}: not the timings that {FILE_NAME} was fitted on; run calibrate fit again")


def _spread(value: Any, name: str) -> float:
    spread = float(value)
    if not 0.0 <= spread < 10.0:
        raise DataError(f"{name}: clock.repeat_log_std = {spread:g} must be at least 0 and below 10")
    return spread


def _launch(document: Mapping[str, Any], name: str) -> float:
    on_cpu = document["cluster"]["gpu"]["architecture"] == "cpu"
    seconds = float(document.get("launch_s") or 0.0) if on_cpu else 0.0
    if not 0.0 <= seconds < 1.0:
        raise DataError(f"{name}: launch_s = {seconds:g} must be at least 0 and below 1")
    return seconds


def _share(value: Any, name: str) -> float:
    share = float(value)
    if not 0.0 <= share < 1.0:
        raise DataError(f"{name}: contention.compute_held = {share:g} must be at least 0 and below 1")
    return share

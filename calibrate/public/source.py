"""The tables of public packages of measured kernels, as pandas frames with seconds.

Two PyPI packages hold them, in one layout: aiconfigurator-core, and its successor aisimulate (pre-releases; its
releases up to 0.13.0 are stubs). Both Apache-2.0, Copyright (c) 2025-2026 NVIDIA CORPORATION & AFFILIATES. A wheel is
read as it is, or unpacked, or installed (``pip install 'perfmodel[tables]'``). Traps of reading are settled here, once:
the unit of time, duplicated keys, versions, columns that some tables lack, and folders that are absent.
"""

import io
import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from perfmodel.errors import DataError
from perfmodel.spec.paths import kind_of, quoted
from perfmodel.units import MS, US

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

Folder: TypeAlias = Path | zipfile.Path

PACKAGES = {"aiconfigurator_core": "aiconfigurator-core", "aisimulate_core": "aisimulate"}
"""Import name of a package with tables -> its name on PyPI."""
PACKAGE = "aiconfigurator_core"
"""The package that is read where none is given, and whose tables a bare ``systems`` folder is taken for."""

SYSTEMS = {
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200-sxm",
    "gb200": "gb200-nvl72",
    "b300_sxm": "b300-sxm",
    "gb300": "gb300-nvl72",
    "a100_sxm": "a100-sxm",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
"""Folder of a system -> catalogue GPU."""
ENGINES = ("sglang", "trtllm", "vllm")
"""Serving engines whose kernels were timed, in the order in which one stands in for another."""
PROVENANCE = ("framework", "version", "device", "op_name", "kernel_source")
USUAL = {
    "sglang": ("0.5.14",),
    "trtllm": ("1.3.0rc20",),
    "vllm": ("0.25.0", "0.24.0"),
    "nccl": ("2.29.2",),
}
"""Whose tables -> versions that hold whole tables on most GPUs, the best first, so that GPUs differ by their hardware
alone. What is newer holds a few models (moe of 1.3.0rc23 and 0.31.0), was launched from the host (nccl 2.30.7) or
differs up to 36 times between GPUs of one chip (gemm of 0.27.1)."""
HELD_TABLES = 64
"""Tables that are kept: readers of different classes ask for the same ones."""
STEPS_OF_A_NAME = re.compile(r"\d+|[a-z]+")


@dataclass(frozen=True, eq=False)
class Source:
    """The ``systems`` folder of a package: unpacked, installed or inside its wheel."""

    systems: Folder
    label: str = f"PyPI package {PACKAGES[PACKAGE]}, version not stated"
    """The package and its version, in words."""

    @classmethod
    def find(cls, place: Path | None = None) -> "Source":
        """The given wheel or folder (the unpacked wheel, its package, or its ``systems``), or the installed package's.

        Raises:
            DataError: nothing is there, or it holds no tables.
        """
        if place is None:
            found = util.find_spec(PACKAGE)
            if found is None or not found.submodule_search_locations:
                raise DataError(
                    f"{PACKAGE} is not installed: pip install 'perfmodel[tables]', or give a wheel with --tables"
                )
            place = Path(next(iter(found.submodule_search_locations)))
        root = _opened(place)
        candidates = (root, root / "systems", *(root / name / "systems" for name in PACKAGES))
        for candidate in candidates:
            if (candidate / "data").is_dir():
                return cls(candidate, _label(candidate))
        raise DataError(
            f"--tables {place}: has no systems/data; give the wheel of aiconfigurator-core, or of a pre-release of "
            "aisimulate (its releases up to 0.13.0 hold no tables), or what it unpacks to"
        )

    def has(self, system: str) -> bool:
        """Whether there is a folder of the system."""
        return (self.systems / "data" / system).is_dir()

    def versions(self, system: str, family: str, backend: str, table: str) -> tuple[str, ...]:
        """Released versions with ``table``, oldest first: folders whose name starts with a digit.

        Others are drops of a few shapes (``dev-1aa0e96...``: 45 GEMMs) that a name's order would take for the newest.
        """
        folder = self.systems / "data" / system / family / backend
        if not folder.is_dir():
            return ()
        found = [path.name for path in folder.iterdir() if (path / f"{table}_perf.parquet").is_file()]
        return tuple(sorted((name for name in found if name[:1].isdigit()), key=_version_key))

    def version(self, system: str, family: str, backend: str, table: str) -> str:
        """The version to read: a usual one (:data:`USUAL`), else the newest; empty where there is none."""
        found = self.versions(system, family, backend, table)
        usual = [name for name in USUAL.get(backend, ()) if name in found]
        return usual[0] if usual else (found[-1] if found else "")

    def read(
        self, system: str, family: str, backend: str, table: str, version: str = ""
    ) -> "pd.DataFrame | None":
        """One table with a column ``seconds``; None where the system has none. Times of 0 stay: the fit refuses them.

        ``latency`` is in ms, except in ``moe_a2a`` and the ``wideep_deepep_*`` tables (us; those keep their own
        columns, and ``seconds`` is left out). Without ``version`` that of :meth:`version` is read. Keys that occur
        twice are kept once, with the smaller time: the repeats are re-runs of one shape. Version, device, framework
        and kernel are the folder's where the table has no such columns.

        Raises:
            DataError: an unreadable file.
        """
        version = version or self.version(system, family, backend, table)
        path = f"{system}/{family}/{backend}/{version}/{table}_perf.parquet"
        if not version or not (self.systems / "data" / path).is_file():
            return None
        frame = _read(self, path).copy()
        folder = {"framework": backend, "version": version, "device": system, "kernel_source": table}
        return frame.assign(**{name: text for name, text in folder.items() if name not in frame})

    def repeats(self, system: str, family: str, backend: str, table: str) -> "pd.DataFrame | None":
        """Shapes that the newest table holds twice: ``seconds`` (the smaller time) and ``log_ratio`` to the larger.

        None where the system has no such table. What :meth:`read` drops tells how well a timing repeats.
        """
        found = self.versions(system, family, backend, table)
        if not found:
            return None
        import pandas as pd

        path = self.systems / "data" / system / family / backend / found[-1] / f"{table}_perf.parquet"
        frame = _parquet(path)
        keys = [name for name in frame.columns if name not in ("latency", "power", "power_limit")]
        times = frame.groupby(keys, dropna=False, sort=False)["latency"].agg(["min", "max", "size"])
        twice = times[(times["size"] > 1) & (times["min"] > 0.0)]
        ratio = np.log(twice["max"] / twice["min"])
        return pd.DataFrame({"seconds": twice["min"] * MS, "log_ratio": ratio}).reset_index(drop=True)

    def powers(self, system: str, family: str, backend: str, table: str) -> "pd.DataFrame":
        """Rows whose power was read: column ``power``, W, and ``seconds``; of the usual version.

        Raises:
            DataError: no such table, or no power in it.
        """
        version = self.version(system, family, backend, table)
        path = self.systems / "data" / system / family / backend / version / f"{table}_perf.parquet"
        frame = _parquet(path)
        if "power" not in frame:
            raise DataError(f"{path}: has no column power; only B200's tables have, of aisimulate 0.13.0.dev")
        frame = frame.assign(seconds=frame["latency"] * MS)
        return frame[(frame["power"] > 0.0) & (frame["seconds"] > 0.0)]


def _opened(place: Path) -> Folder:
    """A folder, or the inside of a wheel.

    Raises:
        DataError: no such place, or no archive.
    """
    kind = kind_of(place)
    if kind == "folder":
        return place
    if kind != "file":  # a device may never end
        raise DataError(f"--tables {quoted(place)}: no such wheel or folder")
    try:
        return zipfile.Path(zipfile.ZipFile(place))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"--tables {quoted(place)}: neither a folder nor a wheel ({error})") from error


def _label(systems: Folder) -> str:
    """The package of a ``systems`` folder and its version, which the metadata beside it names."""
    package: Folder = systems.parent  # type: ignore[assignment]  # of a zipfile.Path: another
    name = package.name if package.name in PACKAGES else PACKAGE
    pypi = PACKAGES[name]
    around: Folder = package.parent  # type: ignore[assignment]
    for beside in around.iterdir() if package.name in PACKAGES else ():
        if beside.name.endswith(".dist-info") and beside.name.startswith(f"{pypi.replace('-', '_')}-"):
            return f"PyPI package {pypi} {beside.name.removesuffix('.dist-info').rpartition('-')[2]}"
    return f"PyPI package {pypi}, version not stated"


@lru_cache(maxsize=HELD_TABLES)
def _read(source: Source, table: str) -> "pd.DataFrame":
    path = source.systems / "data" / table
    frame = _parquet(path)
    if "latency" in frame:
        unit = US if path.name.startswith("moe_a2a") else MS
        frame = frame.assign(seconds=frame.pop("latency") * unit)
    if "avg_ms" in frame:
        frame = frame.assign(seconds=frame.pop("avg_ms") * MS)
    if "seconds" in frame:
        keys = [name for name in frame.columns if name not in ("seconds", "power", "power_limit")]
        frame = frame.groupby(keys, as_index=False, dropna=False, sort=False)["seconds"].min()
    return frame


def _parquet(path: Folder) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_parquet(io.BytesIO(path.read_bytes()))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: can't be read: {str(error).splitlines()[0]}") from error


def _version_key(text: str) -> tuple[Any, ...]:
    """Sorts 0.5.9 before 0.5.10 and 1.3.0rc9 before 1.3.0rc10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in STEPS_OF_A_NAME.findall(text))

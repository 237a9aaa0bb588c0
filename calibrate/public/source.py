"""The tables of the PyPI package aiconfigurator-core, as pandas frames with seconds.

Apache-2.0, Copyright (c) 2025-2026 NVIDIA CORPORATION & AFFILIATES. The package is an optional extra
(``pip install 'perfmodel[tables]'``); a folder of its ``systems`` works as well. Traps of reading are settled here,
once: the unit of time, duplicated keys, versions, and folders that are absent.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perfmodel.errors import DataError
from perfmodel.units import MS, US

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

PACKAGE = "aiconfigurator_core"
VERSION = "0.12.0"
"""The version whose tables were read for what ships."""
SOURCE = f"PyPI package aiconfigurator-core {VERSION}"

SYSTEMS = {
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200-sxm",
    "gb200": "gb200-nvl72",
    "b300_sxm": "b300-sxm",
    "gb300": "gb300-nvl72",
}
"""Folder of a system -> catalogue GPU."""
ENGINES = ("sglang", "trtllm", "vllm")
"""Serving engines whose kernels were timed, in the order in which one stands in for another."""
PROVENANCE = ("framework", "version", "device", "op_name", "kernel_source")


@dataclass(frozen=True)
class Source:
    """The ``systems`` folder of an unpacked or installed package."""

    systems: Path

    @classmethod
    def find(cls, folder: Path | None = None) -> "Source":
        """The given folder (the package, or its ``systems``), or the installed package's.

        Raises:
            DataError: neither is there.
        """
        if folder is None:
            found = importlib.util.find_spec(PACKAGE)
            if found is None or not found.submodule_search_locations:
                raise DataError(
                    f"{PACKAGE} is not installed: pip install 'perfmodel[tables]', or give the unpacked wheel with "
                    "--tables"
                )
            folder = Path(next(iter(found.submodule_search_locations)))
        for candidate in (folder, folder / "systems", folder / PACKAGE / "systems"):
            if (candidate / "data").is_dir():
                return cls(candidate)
        raise DataError(f"--tables {folder}: has no systems/data; give the folder of the unpacked wheel")

    def versions(self, system: str, family: str, backend: str, table: str) -> tuple[str, ...]:
        """Version folders that hold ``table``, oldest first."""
        folder = self.systems / "data" / system / family / backend
        found = [path.parent.name for path in folder.glob(f"*/{table}_perf.parquet")]
        return tuple(sorted(found, key=_version_key))

    def read(
        self, system: str, family: str, backend: str, table: str, version: str | None = None
    ) -> "pd.DataFrame | None":
        """One table with a column ``seconds``; None where the system has none. Times of 0 stay: the fit refuses them.

        ``latency`` is in ms, except in ``moe_a2a`` and the ``wideep_deepep_*`` tables (us; those keep their own
        columns, and ``seconds`` is left out). Without ``version`` the newest folder is read. Keys that occur twice
        are kept once, with the smaller time: the repeats are re-runs of one shape.

        Raises:
            DataError: an unreadable file.
        """
        found = self.versions(system, family, backend, table)
        if not found or (version is not None and version not in found):
            return None
        path = self.systems / "data" / system / family / backend / (version or found[-1])
        return _read(path / f"{table}_perf.parquet").copy()

    def repeats(self, system: str, family: str, backend: str, table: str) -> "pd.DataFrame | None":
        """Shapes that the newest table holds twice: ``seconds`` (the smaller time) and ``log_ratio`` to the larger.

        None where the system has no such table. What :meth:`read` drops tells how well a timing repeats.
        """
        found = self.versions(system, family, backend, table)
        if not found:
            return None
        import pandas as pd

        folder = self.systems / "data" / system / family / backend / found[-1]
        frame = pd.read_parquet(folder / f"{table}_perf.parquet")
        keys = [name for name in frame.columns if name not in ("latency", "power", "power_limit")]
        times = frame.groupby(keys, dropna=False, sort=False)["latency"].agg(["min", "max", "size"])
        twice = times[(times["size"] > 1) & (times["min"] > 0.0)]
        ratio = np.log(twice["max"] / twice["min"])
        return pd.DataFrame({"seconds": twice["min"] * MS, "log_ratio": ratio}).reset_index(drop=True)


@cache
def _read(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    if "latency" in frame:
        unit = US if path.stem.startswith("moe_a2a") else MS
        frame = frame.assign(seconds=frame.pop("latency") * unit)
    if "avg_ms" in frame:
        frame = frame.assign(seconds=frame.pop("avg_ms") * MS)
    if "seconds" in frame:
        keys = [name for name in frame.columns if name not in ("seconds", "power", "power_limit")]
        frame = frame.groupby(keys, as_index=False, dropna=False, sort=False)["seconds"].min()
    return frame


def _version_key(text: str) -> tuple[Any, ...]:
    """Sorts 0.5.9 before 0.5.10 and 1.3.0rc9 before 1.3.0rc10."""
    import re

    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|[a-z]+", text))

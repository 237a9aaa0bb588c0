"""What the readers of attention tables share: versions, formats, one row per shape, slices, wording."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from calibrate.public.source import Source

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

FORMATS = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
"""The tables' number formats -> ours."""
HOPPER = ("h100_sxm", "h200_sxm")
REQUESTS_SLICE = (16, 64)
"""A batch range left out together: three of nine to twelve batch sizes, so each is predicted from 4 times away."""
KEYS_SLICE = (1024, 4096)
"""A range of context (or prompt) lengths left out together."""


def read(
    source: Source, system: str, family: str, engine: str, table: str
) -> tuple["pd.DataFrame | None", str]:
    """The engine's table, and of which version it is."""
    version = source.version(system, family, engine, table)
    return source.read(system, family, engine, table), version


def preferred(frame: "pd.DataFrame", shape: Sequence[str], preference: Sequence[str]) -> "pd.DataFrame":
    """Only the rows of the kernel that the engine takes for each shape.

    Args:
        frame: columns ``shape`` and ``kernel_source``.
        shape: columns that make a shape.
        preference: kernels in the order in which the engine takes them; others come after these, by name.
    """
    others = sorted(set(frame["kernel_source"]) - set(preference))
    rank = {name: place for place, name in enumerate((*preference, *others))}
    place = frame["kernel_source"].map(rank)
    return frame[place == frame.assign(place=place).groupby(list(shape))["place"].transform("min")]


def one_per_shape(frame: "pd.DataFrame", shape: Sequence[str]) -> tuple["pd.DataFrame", str]:
    """One row per shape, and the kernels, the most frequent first.

    Repeats, the same local shape reached by another tensor-parallel size, are taken by their median.
    """
    rows = frame.groupby(list(shape), as_index=False)["seconds"].median()
    return rows, "/".join(str(name) for name in frame["kernel_source"].value_counts().index)


def slices(rows: "pd.DataFrame", keys: str) -> dict[str, "pd.Series"]:
    """The batch range and the length range to leave out together. ``keys`` is the column of lengths."""
    return {
        "requests {}..{}".format(*REQUESTS_SLICE): rows["requests"].between(*REQUESTS_SLICE),
        "{} {}..{}".format(keys, *KEYS_SLICE): rows[keys].between(*KEYS_SLICE),
    }


def cite(source: Source, system: str, engine: str, version: str, table: str, kernels: str) -> str:
    """Package, system, engine version, table and kernels of some rows."""
    return f"{source.label}, {system}, {engine} {version}, {table}, {kernels}"


def renamed(frame: "pd.DataFrame", names: Mapping[str, str]) -> "pd.DataFrame":
    """The frame under perfmodel's names, with each row's KV length as ``context``.

    Generation rows have ``isl`` 1 and ``step`` keys before it. (Module and wide-EP tables count otherwise.)
    """
    return frame.assign(context=frame["isl"] + frame["step"]).rename(columns=dict(names))

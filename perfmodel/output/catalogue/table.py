"""What ``perfmodel show`` prints: catalogue entries with counts, sources and dates.

Whatever one kind of entry alone needs is imported where it is asked for: a list of models reads no calibration.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.output.catalogue.kept import kept_rows
from perfmodel.output.console import PIPE_WIDTH, console
from perfmodel.output.formats import number

KINDS = (
    "models",
    "families",
    "gpus",
    "clusters",
    "prices",
    "scenarios",
    "calibrations",
    "traces",
    "engines",
    "drafters",
    "acceptance",
    "keys",
)


def list_values(kind: str) -> list[dict[str, Any]]:
    """One short row per entry.

    Raises:
        SpecError: no such kind.
    """
    _check(kind)
    if kind == "keys":
        from perfmodel.output.catalogue.keys import key_rows

        return key_rows()
    if kind == "families":
        from perfmodel.output.catalogue.models import family_rows

        return family_rows()
    if kind == "models":
        kept = kept_rows()
        if kept is not None:
            return kept
        from perfmodel.output.catalogue.models import model_rows

        return model_rows()
    from perfmodel.output.catalogue.entries import rows

    return rows(kind)


def entry_values(kind: str, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that the catalogue knows of one entry; ``overrides`` say how a trace is read.

    Raises:
        SpecError: no such kind or name, or overrides of something else than a trace.
    """
    _check(kind)
    if overrides and kind != "traces":
        raise SpecError(f"show {kind}: --set belongs to show traces, to say how a file is read")
    if kind == "families":
        from perfmodel.output.catalogue.models import family_values

        return family_values(name)
    if kind == "models":
        from perfmodel.output.catalogue.models import named_values

        return named_values(name)
    if kind == "keys":
        from perfmodel.output.catalogue.keys import key_values

        return key_values(name)
    from perfmodel.output.catalogue.entries import values

    return values(kind, name, overrides)


def print_list(kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the entries of one kind as a table."""
    if rows and not sys.stdout.isatty():
        plain = plain_table(kind, rows)
        if plain is not None:
            print(plain, end="", flush=True)
            return
    from rich.table import Table

    if not rows:
        console().print(f"no {kind} in the catalogue")
        return
    table = Table(title=kind, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(
            column, overflow="fold", justify="right" if isinstance(rows[0][column], float) else "left"
        )
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console().print(table)


def plain_table(title: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What rich prints of the same table into a pipe, without importing it; None: it would do more than set columns
    beside each other (fold cells, read markup, colour, as the environment may ask).
    """
    if {"FORCE_COLOR", "TTY_COMPATIBLE"} & os.environ.keys():
        return None
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    cells = [cell for line in lines for cell in line]
    if not all(
        cell.isascii() and cell.isprintable() and not re.search(r"[\[\\]|:\S+:", cell) for cell in cells
    ):
        return None
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    whole = sum(widths) + 2 * (len(widths) - 1)
    if not all(widths) or not len(title) <= whole <= PIPE_WIDTH:
        return None
    right = [isinstance(value, float) for value in rows[0].values()]
    shown = (
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        for line in lines
    )
    return "\n".join((title.ljust(whole), *shown)) + "\n"


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def print_entry(values: Mapping[str, Any], indent: int = 0) -> None:
    """Print one entry, key by key."""
    from rich.text import Text

    out = console()
    for key, value in values.items():
        if isinstance(value, Mapping):
            out.print(Text.assemble(" " * indent, (str(key), "bold")))
            print_entry(value, indent + 2)
        else:
            shown: Any = value
            if isinstance(value, float):
                shown = f"{value:.6g}"
            elif isinstance(value, int) and not isinstance(value, bool):
                shown = f"{value:,}"
            out.print(Text.assemble(" " * indent, (str(key), "bold"), f": {shown}"), soft_wrap=True)


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise SpecError(f"show {kind}: unknown kind; allowed: {', '.join(KINDS)}")

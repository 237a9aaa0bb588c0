"""What an answer rests on and what makes it less certain, for a terminal: one line, dangers, notes, the rest folded."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from perfmodel.answers.basis import Rest, operations, percent_of_time
from perfmodel.output.console import console
from perfmodel.output.tables import table_of
from perfmodel.spec.messages import number_of

MOST_OPS = 6
"""Ops that a row of the basis names."""


def print_basis(values: Mapping[str, Any], rest: Rest | None = None, *, why: bool = False) -> None:
    """Print what the time rests on, to stdout: one line; with ``why`` the ops behind each kind and the standing
    caveats, else how many of those there are.
    """
    out = console()
    out.print(Text(f"Basis: {values['basis']['text']}"))
    if not why:
        if values["caveats"]:
            out.print(Text(folded(values["caveats"]), style="dim"))
        return
    if rest is not None:
        table = table_of("What the time rests on", "kind", "share", "ops")
        for row in operations(rest):
            table.add_row(row["kind"], percent_of_time(row["share"]), Text(_some(row["ops"])))
        out.print(table)
    for text in values["caveats"]:
        out.print(Text(f"- {text}"))


def print_warnings(values: Mapping[str, Any]) -> None:
    """Print dangers and notes to stderr, dangers first."""
    err = console(stderr=True)
    dangers = set(values["dangers"])
    for text in values["warnings"]:
        is_danger = text in dangers
        err.print(
            Text(f"{'warning' if is_danger else 'note'}: {text}", style="bold red" if is_danger else "yellow")
        )


def folded(caveats: Sequence[str]) -> str:
    """``5 standing caveats: --why``."""
    return f"{number_of(len(caveats), 'standing caveat')}: --why"


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_OPS
    return ", ".join(names[:MOST_OPS]) + (f" and {more} more" if more > 0 else "")

"""The program ``perfmodel``: plain command lines go straight to their commands, all others to typer."""

import sys
from typing import Any

from perfmodel.commands.plain import plainly_asked
from perfmodel.commands.process import run_guarded


def main() -> None:
    """Run the command line."""
    run_guarded(_answer, "perfmodel")


def _answer() -> Any:
    asked = plainly_asked(sys.argv[1:])
    if asked is None:
        from perfmodel.cli import app, by_typer

        return by_typer(app, "perfmodel")
    command, values = asked
    if command == "step":
        from perfmodel.commands.step import run_step

        return run_step(**values)
    from perfmodel.commands.show import run_show

    return run_show(**values)

"""A launch command in a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from perfmodel.output.console import console


def print_launch(launch: Mapping[str, Any], what: str) -> None:
    """Prints the command and what it does not say; ``what``: of which layout, in words."""
    out = console()
    out.print(Text(f"\n{what} on every node, {launch['framework']}:", style="bold"))
    out.print(Text(launch["command"]), soft_wrap=True)
    for text in launch["cannot"]:
        out.print(Text(f"not in the command: {text}", style="dim"))

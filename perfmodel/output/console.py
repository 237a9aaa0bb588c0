"""Where a terminal's text goes."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 118
"""Columns where stdout is not a terminal."""


def console(*, stderr: bool = False) -> "Console":
    """A console for stdout or stderr; a pipe gets a fixed width and no colours."""
    from rich.console import Console  # deferred: slow to import

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)

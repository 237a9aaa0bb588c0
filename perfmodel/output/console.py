"""Where a terminal's text goes."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from perfmodel.spec.paths import printable

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 118
"""Columns where stdout is not a terminal."""


def console(*, stderr: bool = False) -> "Console":
    """A console for stdout or stderr; a pipe gets a fixed width and no colours."""
    from rich.console import Console  # deferred: slow to import
    from rich.segment import Segment

    class Guarded(Console):
        """One that shows what a terminal would obey, as names of files may hold it."""

        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for part in super().render(renderable, options):
                plain = part.control is not None or part.text.isprintable()
                yield part if plain else Segment(printable(part.text), part.style)

    stream = sys.stderr if stderr else sys.stdout
    return Guarded(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)

"""How far a long command is, on stderr and only where a person watches."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from perfmodel.validation.suites import Progress

INTERVAL_S = 0.1
"""A terminal is not told more often."""
ERASE_LINE = "\r\x1b[K"


@contextmanager
def request_progress() -> Iterator[Callable[[int, int], None] | None]:
    """As :func:`suite_progress`, for requests that have ended."""
    with suite_progress() as tell:
        if tell is None:
            yield None
        else:
            yield lambda done, total: tell("requests", done, total)


@contextmanager
def suite_progress() -> Iterator[Progress | None]:
    """A line such as "suite silicon: 120 of 399 rows" that is replaced as work goes on and erased at its end.

    None where stderr is not a terminal: a log would keep every line.
    """
    if not sys.stderr.isatty():
        yield None
        return
    last = 0.0

    def tell(suite: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= INTERVAL_S:
            last = time.monotonic()
            what, of = (suite, "") if suite == "requests" else (f"suite {suite}", " rows")
            sys.stderr.write(f"{ERASE_LINE}{what}: {done:,} of {total:,}{of}")
            sys.stderr.flush()

    try:
        yield tell
    finally:
        sys.stderr.write(ERASE_LINE)
        sys.stderr.flush()

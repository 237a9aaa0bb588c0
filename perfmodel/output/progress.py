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
    with _line(lambda suite: (suite, "") if suite == "requests" else (f"suite {suite}", " rows")) as tell:
        yield tell


@contextmanager
def report_progress() -> Iterator[Progress | None]:
    """As :func:`suite_progress`, for the parts of a report: "longcat-flash-h800, requests: 120 of 1,000"."""
    with _line(lambda what: (what, "")) as tell:
        yield tell


@contextmanager
def _line(words: Callable[[str], tuple[str, str]]) -> Iterator[Progress | None]:
    """The line; ``words`` are what stands before and after its numbers."""
    if not sys.stderr.isatty():
        yield None
        return
    last = 0.0

    def tell(name: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= INTERVAL_S:
            last = time.monotonic()
            what, of = words(name)
            printable = "".join(character if character.isprintable() else "?" for character in what)
            sys.stderr.write(f"{ERASE_LINE}{printable}: {done:,} of {total:,}{of}")
            sys.stderr.flush()

    try:
        yield tell
    finally:
        sys.stderr.write(ERASE_LINE)
        sys.stderr.flush()


def with_rate(tell: Progress) -> Callable[[int, int], None]:
    """Progress of points, with how many are answered in a second and how long the rest takes at that rate."""
    start = time.monotonic()
    first = -1

    def told(done: int, total: int) -> None:
        nonlocal first
        if first < 0:
            first = done  # of earlier runs
        took = time.monotonic() - start
        rate = (done - first) / took if took > 0.0 else 0.0
        left = f", {(total - done) / rate:,.0f} s left" if rate > 0.0 else ""
        tell(f"points ({rate:,.1f}/s{left})" if rate > 0.0 else "points", done, total)

    return told

"""Many independent pieces of work, here or by an executor: the same results in the same order either way."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from perfmodel.errors import SpecError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

MOST = 1024
"""Workers of one machine."""


def each(
    function: Callable[[Piece], Result],
    pieces: Sequence[Piece],
    *,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """``function`` of every piece, in their order. What an executor of processes is given has to pickle: a function of
    a module (or a ``partial`` of one) and plain data.

    ``progress`` is told how many pieces are done, and how many there are. The first error in the order of the pieces
    is raised, and what has not begun by then is not.
    """
    asked = [executor.submit(function, piece) for piece in pieces] if executor is not None else []
    found: list[Result] = []
    try:
        for number, piece in enumerate(pieces):
            if progress is not None:
                progress(number, len(pieces))
            found.append(asked[number].result() if asked else function(piece))
    finally:
        for future in asked:
            future.cancel()
    return found


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def processes(workers: int | None) -> Iterator[Executor | None]:
    """An executor of so many processes (None: as many as there are cores); one needs none.

    Raises:
        SpecError: fewer than one, or more than MOST.
    """
    if workers is not None and not 1 <= workers <= MOST:
        raise SpecError(f"--workers {workers}: must be from 1 to {MOST:,}")
    count = cores() if workers is None else workers
    if count == 1:
        yield None
        return
    # started anew, so that no thread or compiled code of this process is copied in the middle of something
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as executor:
        yield executor

"""Many independent pieces of work, here or by an executor: the same results in the same order either way.

An executor is a :class:`concurrent.futures.Executor`: processes of this machine (:mod:`perfmodel.workers.machine`) or a
Ray cluster (:mod:`perfmodel.workers.cluster`). Both do the pieces of a worker that was lost again.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, redirect_stdout
from typing import Generic, Protocol, TypeVar

from perfmodel.errors import SpecError
from perfmodel.workers.machine import Processes, cores

Piece = TypeVar("Piece")
Result = TypeVar("Result")
Value = TypeVar("Value")
Given = TypeVar("Given", covariant=True)

MOST = 1024
"""Workers of one machine."""
ENGINES = ("local", "ray")


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


class Shared(Protocol[Given]):
    """A value that many pieces need: it pickles, and ``get`` gives it, here or in a worker."""

    def get(self) -> Given:
        """The value."""
        ...


class _Beside(Generic[Value]):
    """A value that travels with each piece: between processes of one machine, where that is a copy of kilobytes."""

    def __init__(self, value: Value) -> None:
        self._value = value

    def get(self) -> Value:
        return self._value


def shared(executor: Executor | None, value: Value) -> Shared[Value]:
    """A value for many pieces; on a cluster it travels to each node once."""
    from perfmodel.workers.cluster import Cluster

    return executor.share(value) if isinstance(executor, Cluster) else _Beside(value)


def has_files_of_this_machine(executor: Executor | None) -> bool:
    """Whether pieces may read files by their path."""
    from perfmodel.workers.cluster import Cluster

    return not isinstance(executor, Cluster)


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
    with Processes(count) as executor:
        yield executor


@contextmanager
def engine(on: str, *, workers: int | None = None, address: str | None = None) -> Iterator[Executor | None]:
    """The executor that ``--on``, ``--workers`` and ``--address`` ask for.

    Raises:
        SpecError: an unknown engine, or an option that belongs to another one.
        WorkerError: the cluster can't be used.
    """
    if on not in ENGINES:
        raise SpecError(f"--on {on}: must be one of {', '.join(ENGINES)}")
    if on == "local":
        if address is not None:
            raise SpecError(f"--address {address}: belongs to --on ray; give it too")
        with processes(workers) as executor:
            yield executor
        return
    if workers is not None:
        raise SpecError(
            f"--workers {workers}: belongs to --on local; on Ray all processors of the cluster work"
        )
    from perfmodel.workers.cluster import Cluster, FirstLines

    # Ray prints what happens to nodes, at length and on stdout, where a command's answer belongs
    with redirect_stdout(FirstLines(sys.stderr)), Cluster(address) as cluster:
        yield cluster

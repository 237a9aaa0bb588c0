"""Processes of this machine."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context, parent_process
from threading import Lock, Thread
from typing import Any

from perfmodel.errors import WorkerError

MOST_LOST = 3
"""Times in a row that processes may die without one piece done between: more are the piece's own doing."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Processes(Executor):
    """Processes of this machine. Python's own pool is over when one of them dies (killed, out of memory): here
    another pool does what was under way again.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = Lock()
        self._lost = 0
        self._over = False
        self._pool = self._new()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As an executor does; a piece may be begun more than once and is done once.

        Its error is WorkerError where processes die of it.
        """
        future: Future[Any] = Future()
        self._begin(future, partial(fn, *args, **kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End the processes; what has not begun is dropped."""
        self._over = True
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _new(self) -> ProcessPoolExecutor:
        # started anew, so that no thread or compiled code of this process is copied in the middle of something
        return ProcessPoolExecutor(self._count, mp_context=get_context("spawn"), initializer=_end_with_parent)

    def _begin(self, future: Future[Any], call: Callable[[], Any]) -> None:
        while True:
            pool = self._pool
            try:
                inner = pool.submit(call)
            except BrokenProcessPool:
                self._replace(pool)
                continue
            inner.add_done_callback(partial(self._ended, future, call, pool))
            future.add_done_callback(partial(_dropped, inner))
            return

    def _replace(self, pool: ProcessPoolExecutor) -> None:
        """Another pool in the place of a broken one, once for all its pieces."""
        with self._lock:
            if self._pool is pool:
                self._lost += 1
                self._pool = self._new()

    def _ended(
        self, future: Future[Any], call: Callable[[], Any], pool: ProcessPoolExecutor, inner: Future[Any]
    ) -> None:
        if future.cancelled() or inner.cancelled():
            future.cancel()
            return
        error = inner.exception()
        if isinstance(error, BrokenProcessPool):
            self._replace(pool)
            if self._over:
                future.cancel()
                return
            if self._lost <= MOST_LOST:
                self._begin(future, call)
                return
            error = WorkerError(
                f"--workers {self._count}: processes were killed {self._lost} times in a row (out of memory?): give "
                "fewer --workers"
            )
        if not future.set_running_or_notify_cancel():
            return
        if error is not None:
            future.set_exception(error)
        else:
            self._lost = 0
            future.set_result(inner.result())


def _dropped(inner: Future[Any], future: Future[Any]) -> None:
    """What was cancelled is not begun."""
    if future.cancelled():
        inner.cancel()


def _end_with_parent() -> None:
    """A process whose parent was killed ends, rather than wait for pieces for ever."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()

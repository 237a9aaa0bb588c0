"""Work that computes, in processes of its own: the server's one keeps its interpreter for pages.

Streamlit runs every session's script in a thread of one process, so that ten sessions that compute wait for each other,
and whoever computes delays everybody's pages. A function marked :func:`pooled` is called like any other::

    @pooled(most=16, slow=True)
    def plan(scenario: Scenario, users: int, *, progress: Progress) -> Plan | Failed: ...

    found = plan(session.scenario(), 500, progress=bar)

It runs in one of the pool's processes, its result is kept for all sessions by what its arguments say, sessions that ask
the same at the same time wait for one run, and a session that has been asked something else meanwhile leaves: the call
raises what Streamlit ends a script with, and a run that nobody waits for is dropped, or ended if it has begun. Without
a pool (tests, ``streamlit run``) it runs where it is called, with the same results.
"""

import os
import signal
import time
from bisect import insort
from collections.abc import Callable, Hashable
from functools import wraps
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Condition, Event, Thread
from typing import Any, TypeVar, cast

from dashboard.cache import MOST_KEPT, Kept, key_of_call
from dashboard.together import send, since
from perfmodel.errors import WorkerError

F = TypeVar("F", bound=Callable[..., Any])
Progress = Callable[[int, int], None]
Call = tuple[str, str, tuple[Any, ...], bool]
"""Module and name of a function, its arguments, and whether somebody wants to know how far it is."""

LOOK_S = 0.05
"""Between two looks at whether a session still waits, and at how far a run has come."""
GRACE_S = 1.0
"""That a run goes on which nobody waits for: an answer of a tenth of a second is worth keeping, a minute's is not."""
MOST_HOMES = 1024
"""Of which it is known what they hold."""
FORKED_FROM = "dashboard.forked"
"""What the process holds from which all others are forked."""


def pooled(
    most: int = MOST_KEPT,
    *,
    slow: bool = False,
    key: Callable[..., tuple[Any, ...]] | None = None,
    near: Callable[..., Hashable] | None = None,
) -> Callable[[F], F]:
    """A function of scenarios and other plain values that runs in the pool, its last ``most`` results kept.

    It must be at the top of a module that knows nothing of Streamlit, with a result that can be pickled, is not None
    and that nobody changes. Expected errors are results (``Failed``): what it raises is raised where it is called, and
    not kept. If it has an argument ``progress``, it calls that with (done, total); the caller's own is called in the
    caller's thread, where it may draw. :func:`begin` starts it without waiting.

    Args:
        most: results that are kept.
        slow: it takes seconds: all but one process may be busy with such at the same time.
        key: by what a result is kept, of the same arguments; all of them otherwise.
        near: what calls share that a process remembers (tables that take long to fill), of the same arguments; those
            that share it go to one process while that is free. None: any process is as good.
    """

    def decorate(function: F) -> F:
        results = Kept(most)
        where = (function.__module__, function.__qualname__)

        def known_of(arguments: tuple[Any, ...]) -> tuple[Any, Hashable]:
            named = (where, key_of_call(key(*arguments) if key is not None else arguments))
            return results.get(named), named

        def new(named: Hashable, arguments: tuple[Any, ...], reports: bool = False) -> _Job:
            shared = near(*arguments) if near is not None else None
            return _Job(results, named, (*where, arguments, reports), slow=slow, near=shared)

        @wraps(function)
        def found(*arguments: Any, progress: Progress | None = None) -> Any:
            known, named = known_of(arguments)
            if known is not None:
                return known
            if _pool is None:
                value = function(*arguments, **({"progress": progress} if progress is not None else {}))
                return results.put(named, value)
            return _pool.result(new(named, arguments, progress is not None), progress)

        def start(*arguments: Any) -> None:
            known, named = known_of(arguments)
            if known is None and _pool is not None:
                _pool.begin(new(named, arguments))

        found.start = start  # type: ignore[attr-defined]
        return cast(F, found)

    return decorate


def begin(function: Callable[..., Any], *arguments: Any) -> None:
    """Begin what will be asked of a pooled function soon, beside whatever else is asked before it."""
    function.start(*arguments)  # type: ignore[attr-defined]


class _Job:
    """One run of a function, for whoever waits for it. All but ``done`` is guarded by the pool's lock."""

    def __init__(self, results: Kept, key: Hashable, call: Call, *, slow: bool, near: Hashable) -> None:
        self.results, self.key, self.call, self.slow, self.near = results, key, call, slow, near
        self.done = Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.progress: tuple[int, int] | None = None
        self.since = time.monotonic() if slow else since()
        """Whose turn it is: runs of the script in the order in which they began, whatever they ask last; what takes
        seconds goes by when it was asked."""
        self.waiting = 0
        self.left_at: float | None = None
        """Since when nobody waits any more; None before anybody has come."""

    def is_left(self, for_s: float = 0.0) -> bool:
        """Whether nobody has waited for so long."""
        return self.left_at is not None and time.monotonic() - self.left_at >= for_s


class Pool:
    """Processes, each with a thread that hands it one job after the other."""

    def __init__(self, count: int) -> None:
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([FORKED_FROM])
        self._change = Condition()
        self._jobs: dict[Hashable, _Job] = {}
        """By key, those that are under way or wait for it."""
        self._queue: list[_Job] = []
        self._slow = 0
        self._most_slow = max(count - 1, 1)
        self._homes = Kept(MOST_HOMES)
        """What jobs share -> the process that did the last of them."""
        self._idle: set[int] = set()
        for number in range(count):
            Thread(target=self._keep, args=(number,), daemon=True).start()

    def begin(self, new: _Job, *, waits: bool = False) -> _Job:
        """Have a job done; the run under way of the same, where there is one."""
        with self._change:
            job = self._jobs.setdefault(new.key, new)
            if job is new:
                insort(self._queue, new, key=lambda one: one.since)
                self._change.notify_all()
            if waits:
                job.waiting += 1
                job.left_at = None
            return job

    def result(self, new: _Job, progress: Progress | None) -> Any:
        """Have it done and wait for what comes of it; leave if the session is asked something else meanwhile."""
        job = self.begin(new, waits=True)
        look, seen = _look(), None
        send()
        try:
            while not job.done.wait(LOOK_S):
                look()
                if progress is not None and job.progress is not None and job.progress != seen:
                    seen = job.progress
                    progress(*seen)
                    send()
        finally:
            with self._change:
                job.waiting -= 1
                if not job.waiting:
                    job.left_at = time.monotonic()
        if job.error is not None:
            raise job.error
        return job.value

    def _next(self, number: int) -> _Job:
        """The first job that a process may begin; those that everybody has left are dropped."""
        with self._change:
            self._idle.add(number)
            while True:
                for job in [job for job in self._queue if job.is_left()]:
                    self._queue.remove(job)
                    del self._jobs[job.key]
                for job in self._queue:
                    if self._may(number, job):
                        self._queue.remove(job)
                        self._idle.remove(number)
                        self._slow += job.slow
                        if job.near is not None:
                            self._homes.replace(job.near, number)
                        return job
                self._change.wait()

    def _may(self, number: int, job: _Job) -> bool:
        """Whether a process may begin a job: not if its tables are in another one that is free."""
        home = self._homes.get(job.near) if job.near is not None else None
        free = home is None or home == number or home not in self._idle
        return free and (not job.slow or self._slow < self._most_slow)

    def _keep(self, number: int) -> None:
        """One process: hand it jobs, and start another one where it has ended or had to be."""
        worker = _Worker(self._context)
        while True:
            job = self._next(number)
            try:
                worker = self._run(worker, job)
            finally:
                with self._change:
                    self._slow -= job.slow
                    if self._jobs.get(job.key) is job:
                        del self._jobs[job.key]
                    job.done.set()
                    self._change.notify_all()

    def _run(self, worker: "_Worker", job: _Job) -> "_Worker":
        """Have a job done; the process that is there afterwards."""
        try:
            worker.connection.send(job.call)
            while True:
                if worker.connection.poll(LOOK_S):
                    kind, value = worker.connection.recv()
                    if kind == "progress":
                        job.progress = value
                        continue
                    if kind == "value":
                        job.value = job.results.put(job.key, value)
                    else:
                        job.error = value
                    return worker
                with self._change:
                    if job.is_left(GRACE_S):
                        del self._jobs[job.key]  # whoever comes now begins anew
                        break
        except (EOFError, OSError):
            job.error = WorkerError(
                "the process that worked on this was ended (out of memory?): ask again, or for less at once"
            )
        worker.end()
        return _Worker(self._context)


class _Worker:
    """A process of the pool, as its thread sees it."""

    def __init__(self, context: Any) -> None:
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def end(self) -> None:
        """Kill it, whatever it does."""
        self.connection.close()
        self._process.kill()
        self._process.join()


def _work(connection: Connection) -> None:
    """A process's whole life: calls come, results go; it ends with whoever sends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the server, which then ends us

    told = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= LOOK_S:
            told = now
            connection.send(("progress", (done, total)))

    while True:
        try:
            module, name, arguments, reports = connection.recv()
        except EOFError:
            return
        try:
            function = getattr(import_module(module), name).__wrapped__
            answer = ("value", function(*arguments, **({"progress": progress} if reports else {})))
        except Exception as error:
            answer = ("error", error)
        try:
            connection.send(answer)
        except OSError:
            return
        except Exception as error:  # what can't be pickled
            connection.send(("error", TypeError(f"{module}.{name}: {error}")))


def _look() -> Callable[[], None]:
    """What raises, in a session's script, that the session is asked something else or has gone."""
    try:
        from streamlit.runtime.scriptrunner_utils.script_run_context import get_run_yield_check
    except ImportError:  # a Streamlit that has no such thing
        return _nothing
    return get_run_yield_check() or _nothing


def _nothing() -> None:
    """Nobody asks anything else."""


_pool: Pool | None = None


def start_pool(count: int) -> None:
    """Start the processes of this server, two at least, so that what is slow delays nobody; calls of :func:`pooled`
    functions go there from now on.
    """
    global _pool
    if _pool is None and hasattr(os, "fork"):
        _pool = Pool(max(count, 2))

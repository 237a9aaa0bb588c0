"""Inputs tried in a few forked workers that live long, each input under a limit of time and memory.

A worker is forked from this process, which has imported everything and answered once, so that starting one costs
nothing. It answers in order: one that hangs or dies has a name. Peaks of memory are those of one
input: the kernel's high-water mark is reset before it (``/proc/self/clear_refs``).
"""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from bench.hostile.rights import without_rights
from bench.hostile.tally import MEMORY_MB, MOST_S, Outcome

Try = Callable[[random.Random, Path], str | None]
Job = tuple[str, str]
"""Kind and seed."""
LIVES = 1_000
"""Inputs that a worker tries before another takes its place."""
AHEAD = 8
"""Jobs that a worker has."""
HANGS_S = 90.0
"""Wall seconds after which nobody waits any longer: the machine may be shared, so it is not what is judged."""
ADDRESS_BYTES = 3 * 2**30
"""Of address space beyond what a worker begins with."""


def attempt(kinds: dict[str, Try], kind: str, seed: str) -> Outcome:
    """What becomes of one input, here."""
    from perfmodel.errors import PerfModelError

    chance = random.Random(f"{kind}/{seed}")
    before, started = _reset_peak(), time.process_time()
    name = tempfile.mkdtemp(prefix="hostile-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        wrong = kinds[kind](chance, Path(name))
        word, said = ("wrong", wrong) if wrong else ("answered", "")
    except PerfModelError as error:
        said = str(error)
        one_line = said.strip() and "Traceback" not in said
        word = "refused" if one_line else "traceback"
    except MemoryError:
        word, said = "large", "MemoryError"
    except Exception as error:  # that is what is looked for
        said = f"{type(error).__name__}: {error}"
        word = "lost" if str(error).startswith("lost") else "traceback"
    finally:
        shutil.rmtree(name, ignore_errors=True)
    seconds, more = time.process_time() - started, _peak_mb() - before
    if word in ("answered", "refused") and seconds > MOST_S:
        word, said = "slow", f"{seconds:.0f} s of CPU; {said}"
    if word in ("answered", "refused") and more > MEMORY_MB:
        word, said = "large", f"{more:.0f} MB; {said}"
    return Outcome(word, said, seconds, max(more, 0.0))


def _reset_peak() -> float:
    """MB that this process holds now; its high-water mark begins anew there."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _peak_mb() -> float:
    return _status_mb("VmHWM")


def _status_mb(key: str) -> float:
    found = re.search(rf"{key}:\s+([0-9]+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


@dataclass
class Worker:
    """One process and what it is at: it answers in order, so that the first of its jobs is the one being tried."""

    process: int
    pipe: Connection
    jobs: deque[Job] = field(default_factory=deque)
    since: float = 0.0
    done: int = 0


def tried(
    kinds: dict[str, Try], jobs: Sequence[Job], *, workers: int, until: float
) -> Iterator[tuple[Job, Outcome]]:
    """Outcomes as they come, until all jobs are done or the time (``time.monotonic``) is up."""
    waiting = list(reversed(jobs))
    crew = [_hired(kinds) for _ in range(min(workers, len(waiting)))]
    try:
        while True:
            for place, worker in enumerate(crew):
                if worker.done >= LIVES and not worker.jobs:
                    crew[place] = _replaced(kinds, worker, waiting)
                _give(crew[place], waiting if time.monotonic() < until else [])
            busy = {worker.pipe: place for place, worker in enumerate(crew) if worker.jobs}
            if not busy or time.monotonic() > until + HANGS_S:
                return
            for pipe in wait(list(busy), timeout=1.0):
                worker = crew[busy[pipe]]  # type: ignore[index]
                job, worker.since = worker.jobs.popleft(), time.monotonic()
                try:
                    yield job, worker.pipe.recv()
                    worker.done += 1
                except (EOFError, ConnectionError):
                    yield job, Outcome("traceback", "the process died")
                    crew[busy[pipe]] = _replaced(kinds, worker, waiting)  # type: ignore[index]
            for place, worker in enumerate(crew):
                if worker.jobs and time.monotonic() - worker.since > HANGS_S:
                    yield worker.jobs.popleft(), Outcome("slow", "no end", HANGS_S)
                    crew[place] = _replaced(kinds, worker, waiting)
    finally:
        for worker in crew:
            _fired(worker)


def _give(worker: Worker, waiting: list[Job]) -> None:
    """Jobs ahead, so that a worker on a busy machine need not wait for us between two of them."""
    if not worker.jobs:
        worker.since = time.monotonic()
    while waiting and len(worker.jobs) < AHEAD and worker.done + len(worker.jobs) < LIVES:
        worker.jobs.append(waiting.pop())
        with contextlib.suppress(ConnectionError):  # it died: that is found where its answer is read
            worker.pipe.send(worker.jobs[-1])


def _replaced(kinds: dict[str, Try], worker: Worker, waiting: list[Job]) -> Worker:
    """Another in its place; what it had not begun is given to whoever comes next."""
    waiting += reversed(worker.jobs)
    _fired(worker)
    return _hired(kinds)


def _fired(worker: Worker) -> None:
    worker.pipe.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.process, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(worker.process, 0)


def _hired(kinds: dict[str, Try]) -> Worker:
    ours, theirs = Pipe()
    process = os.fork()
    if process:
        theirs.close()
        return Worker(process, ours)
    code = 1
    try:
        ours.close()
        _work(kinds, theirs)
        code = 0
    finally:
        os._exit(code)


def _work(kinds: dict[str, Try], pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    without_rights()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    size = int(_status_mb("VmSize") * 2**20) + ADDRESS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            kind, seed = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(kinds, kind, seed))

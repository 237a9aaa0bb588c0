"""Times a list of cases within a budget of minutes, one after the other, each on disk before the next one starts."""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from calibrate.device.builders import build
from calibrate.device.case import COMMUNICATION, Case
from calibrate.device.environment import ForeignLoad, describe
from calibrate.device.journal import Contention, Journal, Record, Repeat, open_journal, to_parquet
from calibrate.device.ranks import CONTENTION_MIN_S, Ranks
from calibrate.device.timing import Bench
from perfmodel.errors import DataError

REPEAT_EVERY = 20
"""One in so many cases is timed twice."""
REPEAT_AFTER_S = 60.0
LONGEST_MINUTES = 1e6
"""And not before so much time has passed, so that the machine may have changed its speed meanwhile."""


@dataclass(slots=True)
class Outcome:
    """What a profile run did."""

    total: int
    """Cases asked for."""
    before: int
    """Of them in the journal already."""
    timed: int = 0
    skipped: list[str] = field(default_factory=list)
    """Why a case could not be timed, one line each."""
    stopped: str = ""
    """``time`` or the name of the signal that ended it early."""

    @property
    def left(self) -> int:
        """Cases that another run would time."""
        return max(0, self.total - self.before - self.timed - len(self.skipped))


class Stop:
    """Whether to go on: the time is not up, and nobody has asked to stop."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60.0 * minutes
        self.signal = ""

    @property
    def reason(self) -> str:
        """Empty while work may go on."""
        return self.signal or ("time" if time.monotonic() > self._end else "")

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the kernel being timed; a second one ends it at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.signal:
                raise KeyboardInterrupt
            self.signal = signal.Signals(number).name

        old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def profile(
    cases: Sequence[Case],
    folder: Path,
    *,
    minutes: float,
    bench: Bench,
    ranks: int = 1,
    progress: bool = True,
    requested: Mapping[str, Any] | None = None,
) -> Outcome:
    """Time the cases that the journal of ``folder`` does not have yet, in the given order, until the time is up.

    A killed run loses the kernel that it was timing, and nothing else. The journal's reference probe becomes
    ``bench``'s, so that a resumed run is on the same clock. At the end ``timings.parquet`` is written.

    Args:
        cases: what to time; any prefix should be worth having.
        folder: where the journal and the Parquet file go.
        minutes: the budget; the kernel being timed then is finished.
        bench: the device.
        ranks: processes for communication cases; with 1 they are skipped.
        progress: whether to draw a bar on stderr.
        requested: what was asked for, kept in the journal's header.

    Raises:
        DataError: the budget is not positive, or the journal is another's (see
            :func:`calibrate.device.journal.open_journal`).
    """
    if not 0 < minutes < LONGEST_MINUTES:
        raise DataError(f"minutes = {minutes:g} must be above 0 and below {LONGEST_MINUTES:g}")
    journal = open_journal(folder, _header(bench, requested or {}))
    try:
        bench.reference_probe_s = journal.contents.header["reference_probe_s"]
        todo = [case for case in dict.fromkeys(cases) if case.key not in journal.done]
        total = len(set(cases))
        outcome, stop = Outcome(total, total - len(todo)), Stop(minutes)
        with stop.on_signals(), ExitStack() as stack:
            show = stack.enter_context(_bar(outcome, enabled=progress))
            seconds = {one.case.key: one.seconds for one in journal.contents.records}
            _Run(journal, bench, ranks, outcome, stop, show, stack, seconds).through(cases)
        outcome.stopped = stop.reason if outcome.left else ""
    finally:
        journal.close()
    to_parquet(folder)
    return outcome


@dataclass(slots=True)
class _Run:
    """One run: what it needs to time a case."""

    journal: Journal
    bench: Bench
    num_ranks: int
    outcome: Outcome
    stop: Stop
    show: Callable[[str], None]
    stack: ExitStack
    """Ends the ranks when the run ends."""
    seconds: dict[str, float]
    """By key, what each case took that is in the journal, s."""
    ranks: Ranks | None = None
    to_repeat: deque[tuple[float, Case, float]] = field(default_factory=deque)
    """When (monotonic), what, and the seconds it took: cases to time again, oldest first."""

    def through(self, cases: Sequence[Case]) -> None:
        """Time what is missing, in order."""
        contended = {(one.dtype, one.bytes) for one in self.journal.contents.contention}
        for case in dict.fromkeys(cases):
            if self.stop.reason:
                return
            try:
                if case.key not in self.seconds:
                    self.show(case.label)
                    self._repeat()
                    self._time(case)
                if case.kernel == "all_to_all" and (case.dtype, case.shape["bytes"]) not in contended:
                    self._contend(case)
            except DataError as error:
                if not self.stop.signal:  # a signal to the whole group ends young ranks too
                    self.outcome.skipped.append(str(error))

    def _time(self, case: Case) -> None:
        started = _now()
        with ForeignLoad() as load:
            if case.kernel in COMMUNICATION:
                measurement = self._group(case).measure(case)
            else:
                measurement = self.bench.measure(build(case, self.bench))
        self.journal.append(Record(case, measurement, started, load.share))
        self.seconds[case.key] = measurement.seconds
        if case.kernel not in COMMUNICATION and self.outcome.timed % REPEAT_EVERY == 0:
            self.to_repeat.append((time.monotonic(), case, measurement.seconds))
        self.outcome.timed += 1

    def _repeat(self) -> None:
        """Time an early case again when it is old enough: the noise floor of the whole set."""
        if not self.to_repeat or time.monotonic() - self.to_repeat[0][0] < REPEAT_AFTER_S:
            return
        _, case, first = self.to_repeat.popleft()
        started = _now()
        again = self.bench.measure(build(case, self.bench))
        self.journal.append(Repeat(case, first, again.seconds, started))

    def _contend(self, case: Case) -> None:
        """Compute beside an exchange that is long enough to count it in."""
        if self.seconds[case.key] < CONTENTION_MIN_S:
            return
        started, found = _now(), self._group(case).contention(case)
        self.journal.append(
            Contention(
                dtype=case.dtype, ranks=self.num_ranks, bytes=case.shape["bytes"], time=started, **found
            )
        )

    def _group(self, case: Case) -> Ranks:
        """The ranks, started when they are first needed."""
        if self.num_ranks < 2:
            raise DataError(f"{case.label}: needs several ranks; give --ranks 2")
        if self.ranks is None:
            self.ranks = self.stack.enter_context(Ranks(self.num_ranks, self.bench))
        return self.ranks


def _header(bench: Bench, requested: Mapping[str, Any]) -> dict[str, Any]:
    environment = describe(bench.device, bench.threads)
    environment["copy_bytes_per_s"] = bench.copy_bytes_per_s()
    return {
        "environment": environment,
        "reference_probe_s": bench.reference_probe_s,
        "requested": dict(requested),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextmanager
def _bar(outcome: Outcome, *, enabled: bool) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr, drawn between kernels only: a thread that draws would disturb what is timed."""
    if not enabled:
        yield lambda label: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task("", total=outcome.total)

        def show(label: str) -> None:
            done = outcome.before + outcome.timed + len(outcome.skipped)
            bar.update(task, completed=done, description=label)
            bar.refresh()

        yield show
        show("")

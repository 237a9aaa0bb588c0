"""A clock for processes that take turns: what the timeline needs of a discrete-event simulation.

The order of events is simpy's, to the last tie: by time, and at equal times in the order in which they were made. Its
events and processes are general, and cost three times as much where a step has thousands of them.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from heapq import heappop, heappush

Call = Callable[[], None]


class Event:
    """Something that happens once, for which processes wait."""

    __slots__ = ("_soon", "_waiting", "happened")

    def __init__(self, clock: "Clock") -> None:
        self._soon, self.happened = clock.soon, False
        self._waiting: list[Call] = []

    def succeed(self) -> None:
        """Have it happen at this instant, after what is under way."""
        self._soon.append(self._happen)

    def wait(self, resume: Call) -> None:
        """Call ``resume`` when it happens."""
        self._waiting.append(resume)

    def _happen(self) -> None:
        self.happened = True
        for resume in self._waiting:
            resume()


Run = Generator[Event | None, None, None]
"""What a process does. It yields what it waits for; None: it has arranged with somebody to be resumed."""


class Process:
    """Something that runs and waits in turns. It begins to run when it is made."""

    __slots__ = ("_clock", "_next", "ended")

    def __init__(self, clock: "Clock", do: Callable[[Call], Run]) -> None:
        """``do`` makes its run; it is given what resumes it."""
        self._clock, self._next, self.ended = clock, do(self.resume).__next__, Event(clock)
        clock.running += 1
        self.resume()

    def resume(self) -> None:
        """Go on until it waits again, or ends."""
        try:
            event = self._next()
        except StopIteration:
            self._clock.running -= 1
            self.ended.succeed()
            return
        if event is not None:
            event.wait(self.resume)


class Clock:
    """Time, and what is to happen when."""

    __slots__ = ("_count", "_later", "now", "running", "soon")

    def __init__(self) -> None:
        self.now = 0.0
        self.running = 0
        """Processes that have not ended."""
        self.soon: deque[Call] = deque()
        """What is to happen at this instant, in order; all of it after what was said before this instant to be now."""
        self._later: list[tuple[float, int, Call]] = []
        self._count = 0

    def after(self, delay_s: float, call: Call) -> None:
        """Have something called in so many seconds (at least 0)."""
        at = self.now + delay_s
        if at == self.now:
            self.soon.append(call)
        else:
            self._count += 1
            heappush(self._later, (at, self._count, call))

    def run(self) -> None:
        """Let time pass until all processes have ended."""
        soon, later = self.soon, self._later
        while self.running:
            while soon:
                soon.popleft()()
            if not self.running:
                break
            self.now = now = later[0][0]
            while later and later[0][0] == now:
                heappop(later)[2]()


def ended(processes: Sequence[Process]) -> Generator[Event, None, None]:
    """Wait until all of them have ended."""
    for process in processes:
        if not process.ended.happened:
            yield process.ended

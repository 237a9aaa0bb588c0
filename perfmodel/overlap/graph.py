"""Tasks with dependencies, and segments: what schedules produce and simulators run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from perfmodel.kernels.timing import Timing
from perfmodel.ops.op import Op, Stream


@dataclass(frozen=True, slots=True)
class Task:
    """One op in a schedule. It starts when it is first in its stream and everything it depends on is done."""

    op: Op
    after: tuple[int, ...]
    """Tasks of the same iteration that must be done first; indices smaller than its own."""
    after_previous: tuple[int, ...] = ()
    """Tasks of the previous iteration that must be done first (segments that carry over)."""
    stage: str = ""
    """Named part of the schedule, for people."""
    micro_batch: int = 0
    """Which micro-batch it belongs to."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tasks that repeat: a run of equal layers, or what comes before and after them."""

    name: str
    tasks: tuple[Task, ...]
    timings: tuple[Timing, ...]
    """Time alone of each task."""
    repeat: int = 1
    """Iterations."""
    carries: bool = False
    """True: an iteration may start before the previous one is over. False: everything but the host joins in
    between, which runs ahead."""
    layers: bool = False
    """Whether its iterations are layers of the model, or its draft layer where FFNs have GPUs of their own."""

    def __post_init__(self) -> None:
        for index, task in enumerate(self.tasks):
            assert all(0 <= other < index for other in task.after), (
                f"{self.name}: task {index} is not in order"
            )
        assert len(self.tasks) == len(self.timings)

    @property
    def is_chain(self) -> bool:
        """Whether its ops run one after another, whatever their streams: each waits for the one before."""
        previous: int | None = None
        for index, task in enumerate(self.tasks):
            if task.op.stream == Stream.HOST:
                continue
            if previous is not None:
                same = task.op.stream == self.tasks[previous].op.stream
                if not same and previous not in task.after:
                    return False
            previous = index
        return not self.carries

    @property
    def has_host(self) -> bool:
        """Whether the host does something in it."""
        return any(task.op.stream == Stream.HOST for task in self.tasks)


@dataclass(slots=True)
class Graph:
    """Collects tasks; the order of adding is the order within each stream."""

    tasks: list[Task] = field(default_factory=list)

    def add(self, op: Op, *, after: Iterable[int] = (), stage: str = "") -> int:
        """Add one op and return its index."""
        self.tasks.append(Task(op, tuple(sorted(set(after))), stage=stage))
        return len(self.tasks) - 1

    def chain(self, ops: Sequence[Op], *, after: Iterable[int] = (), stage: str = "") -> tuple[int, ...]:
        """Add ops that follow each other, but for those that run beside others (``Op.beside``); returns the indices
        that a successor must wait for.
        """
        last, beside = tuple(after), tuple[int, ...]()
        for op in ops:
            if op.beside:
                last, beside = (*last, *beside), ()
            added = (self.add(op, after=last, stage=stage),)
            if op.beside == "starts":
                beside = added
            else:
                last = added
        return (*last, *beside)


def on_stream(ops: Sequence[Op], stream: Stream) -> tuple[Op, ...]:
    """The same ops, queued on another stream."""
    return tuple(replace(op, stream=stream) for op in ops)

"""What a timeline says: critical path, exposed communication, overlap, busy time of each stream."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from perfmodel.numeric import comparable
from perfmodel.ops.op import COMPUTE_STREAMS, Op, OpClass, Stream
from perfmodel.overlap.timeline import Span, Timeline, demand
from perfmodel.units import PERCENT

Interval = tuple[float, float]


class PathItem(NamedTuple):
    """A stretch of the critical path: an op (or part of it), or waiting (no span)."""

    span: Span | None
    start_s: float
    end_s: float


def op_of(timeline: Timeline, span: Span) -> Op:
    """The op that a span ran."""
    return timeline.segments[span.segment].tasks[span.task].op


@dataclass(frozen=True, slots=True)
class _Looked:
    """What is found out once of one rank's spans, for all that is asked of them."""

    spans: tuple[Span, ...]
    by_key: dict[tuple[int, int, int], Span]
    """By (segment, iteration, task)."""
    previous_on_stream: dict[int, Span]
    """By id of a span, the span before it on its stream."""
    last_of_iterations: dict[tuple[int, int], Span]
    """By (segment, iteration), the span that ends last in it on the GPU."""
    compute: list[Interval]
    communication: list[Interval]
    """When something of each kind runs: disjoint, in order."""


def rank_spans(timeline: Timeline, rank: int = 0) -> tuple[Span, ...]:
    """Spans of one rank, in the order in which they ended."""
    if timeline.num_ranks == 1:
        return timeline.spans
    return tuple(span for span in timeline.spans if span.rank == rank)


def slowest_rank(timeline: Timeline) -> int:
    """The rank whose last op ends last."""
    if timeline.num_ranks == 1:
        return timeline.spans[0].rank
    return max(timeline.spans, key=lambda span: (comparable(span.end_s), -span.rank)).rank


def critical_path(timeline: Timeline, rank: int = 0) -> tuple[PathItem, ...]:
    """The chain of ops on one rank, back from its last, each of which the next one waited for.

    Before an op comes whichever of these ended last: what it depends on (its launch among it), its predecessor on its
    stream, or (for the first on the GPU of an iteration that does not carry over) everything on the GPU before the
    iteration. A gap between is waiting for other ranks.
    The stretches join without holes, so their times add up to the step time.
    """
    if rank not in timeline.paths:
        timeline.paths[rank] = tuple(_critical_path(timeline, rank))
    return timeline.paths[rank]


def _critical_path(timeline: Timeline, rank: int) -> Iterator[PathItem]:
    looked = _looked(timeline, rank)
    path: list[PathItem] = []
    current: Span | None = max(looked.spans, key=lambda s: s.end_s)
    until = timeline.step_time_s
    if current is not None and current.end_s < until:
        path.append(PathItem(None, current.end_s, until))
    while current is not None:
        path.append(PathItem(current, current.start_s, current.end_s))
        latest = _latest(_predecessors(timeline, current, looked))
        reached = latest.end_s if latest else 0.0
        if reached < current.start_s and comparable(reached) < comparable(current.start_s):
            path.append(PathItem(None, reached, current.start_s))
        current = latest
    return reversed(path)


def _latest(spans: Sequence[Span]) -> Span | None:
    """The first of those that end last, to the digits that are comparable."""
    latest: Span | None = None
    for span in spans:
        if latest is None or span.end_s > latest.end_s:
            latest = span
    if latest is None:
        return None
    last = latest.end_s
    nearly = last * (1.0 - 2e-9)  # what rounding takes for equal is nearer
    for span in spans:
        if nearly <= span.end_s < last:
            return max(spans, key=lambda one: comparable(one.end_s))
    return latest


def breakdown_s(timeline: Timeline, rank: int = 0) -> dict[str, float]:
    """Seconds of the critical path by op class, waiting included; sums to the step time."""
    totals: dict[str, float] = {}
    for item in critical_path(timeline, rank):
        name = OpClass.WAITING if item.span is None else op_of(timeline, item.span).op_class
        seconds = item.end_s - item.start_s
        if seconds > 0.0:
            totals[str(name)] = totals.get(str(name), 0.0) + seconds
    return dict(sorted(totals.items(), key=lambda item: -comparable(item[1])))


def stage_seconds(timeline: Timeline, rank: int = 0) -> dict[tuple[int, str], float]:
    """Seconds of the critical path by (segment, stage of the schedule), in order of appearance."""
    totals: dict[tuple[int, str], float] = {}
    for item in critical_path(timeline, rank):
        if item.span is None:
            continue
        task = timeline.segments[item.span.segment].tasks[item.span.task]
        key = (item.span.segment, task.stage)
        totals[key] = totals.get(key, 0.0) + item.end_s - item.start_s
    return totals


def exposed_communication_s(timeline: Timeline, rank: int = 0) -> float:
    """Seconds in which something communicates and nothing computes."""
    looked = _looked(timeline, rank)
    compute, communication = looked.compute, looked.communication
    return _length(communication) - _overlap(compute, communication)


def exposed_by_class_s(timeline: Timeline, rank: int = 0) -> dict[str, float]:
    """The same by op class; where several communicate at once, the one that began first counts."""
    spans = [span for span in rank_spans(timeline, rank) if span.end_s > span.start_s]
    busy = _looked(timeline, rank).compute
    totals: dict[str, float] = {}
    for span in sorted(spans, key=lambda s: s.start_s):
        op = op_of(timeline, span)
        if not op.is_communication:
            continue
        own = [(span.start_s, span.end_s)]
        alone = span.end_s - span.start_s - _overlap(busy, own)
        if alone > 0.0:
            totals[op.op_class] = totals.get(op.op_class, 0.0) + alone
        busy = _merge((*busy, *own))
    return totals


def overlap_pct(timeline: Timeline, rank: int = 0) -> float:
    """Communication hidden behind compute, percent of communication time (Holistic Trace Analysis's definition).

    Kernels of one kind that run together count once. 0 where nothing communicates.
    """
    looked = _looked(timeline, rank)
    compute, communication = looked.compute, looked.communication
    total = _length(communication)
    return PERCENT * _overlap(compute, communication) / total if total > 0.0 else 0.0


def occupied_s(timeline: Timeline, rank: int = 0) -> dict[str, float]:
    """Each instant of a step once, by what one rank does in it, s; sums to the step time.

    ``compute``: something computes; ``communication``: something communicates and nothing computes (exposed);
    ``host``: neither, and the host works; ``waiting``: nothing runs.
    """
    looked = _looked(timeline, rank)
    compute, communication = looked.compute, looked.communication
    host = _merge(
        (span.start_s, span.end_s)
        for span in rank_spans(timeline, rank)
        if op_of(timeline, span).stream == Stream.HOST
    )
    upto_communication = _merge((*compute, *communication))
    upto_host = _length(_merge((*upto_communication, *host)))
    return {
        "compute": _length(compute),
        "communication": _length(upto_communication) - _length(compute),
        "host": upto_host - _length(upto_communication),
        "waiting": timeline.step_time_s - upto_host,
    }


MOST_RANKS = 16
"""Ranks that :func:`in_situ_s` looks at, spaced evenly."""


def in_situ_s(timeline: Timeline) -> dict[str, dict[str, float]]:
    """Why exchanges (dispatch, combine) take as long as they do in a running step: seconds per call, mean over calls.

    By op: ``fixed`` (what an empty message takes), ``transfer`` (what its bytes add, alone), ``contention`` (what
    running beside other ops adds) and ``waiting`` (from when a rank could start until all ranks have arrived). Their
    sum is what a profiler shows for a kernel that spins until its peers have come. A representative rank is the last
    to come, so it waits for nobody: waiting needs ``ranks: all``. Of many ranks MOST_RANKS stand for all.
    """
    most = min(MOST_RANKS, timeline.num_ranks)
    ranks = sorted(
        {rank * timeline.num_ranks // most + rank % 2 for rank in range(most)}
    )  # not one place of each node
    totals: dict[str, dict[str, float]] = {}
    calls: dict[str, int] = {}
    for rank in (one for one in ranks if one < timeline.num_ranks):
        looked = _looked(timeline, rank)
        for span in looked.spans:
            op = op_of(timeline, span)
            if not op.barrier:
                continue
            before = _predecessors(timeline, span, looked)
            ready = max((other.end_s for other in before), default=0.0)
            alone = demand(timeline.segments[span.segment].timings[span.task], rank)
            own = totals.setdefault(
                op.name, dict.fromkeys(("fixed", "transfer", "contention", "waiting"), 0.0)
            )
            calls[op.name] = calls.get(op.name, 0) + 1
            own["fixed"] += alone.latency_s
            own["transfer"] += alone.seconds - alone.latency_s
            own["contention"] += span.end_s - span.start_s - alone.seconds
            own["waiting"] += span.start_s - ready
    return {
        name: {part: max(value / calls[name], 0.0) for part, value in own.items()}
        for name, own in totals.items()
    }


def stream_busy_s(timeline: Timeline, rank: int = 0) -> dict[str, float]:
    """Seconds in which each stream runs something."""
    intervals: dict[Stream, list[Interval]] = {}
    for span in rank_spans(timeline, rank):
        intervals.setdefault(op_of(timeline, span).stream, []).append((span.start_s, span.end_s))
    return {str(stream): _length(_merge(own)) for stream, own in intervals.items()}


def _looked(timeline: Timeline, rank: int) -> _Looked:
    """Kept with the timeline: a page asks for path, overlap and exchanges of one rank."""
    if rank not in timeline.looked:
        timeline.looked[rank] = _look(timeline, rank)
    found: _Looked = timeline.looked[rank]
    return found


def _look(timeline: Timeline, rank: int) -> _Looked:
    spans = rank_spans(timeline, rank)
    by_key: dict[tuple[int, int, int], Span] = {}
    last_on: dict[Stream, Span] = {}
    previous: dict[int, Span] = {}
    last_of: dict[tuple[int, int], Span] = {}
    compute: list[Interval] = []
    communication: list[Interval] = []
    kinds = [[_kind(task.op) for task in segment.tasks] for segment in timeline.segments]
    for span in spans:
        _, segment, iteration, task, start, end = span
        by_key[segment, iteration, task] = span
        stream, own = kinds[segment][task]
        if stream in last_on:
            previous[id(span)] = last_on[stream]
        last_on[stream] = span
        if stream != Stream.HOST:
            last = last_of.get((segment, iteration))
            if last is None or end >= last.end_s:
                last_of[segment, iteration] = span
        if own == "communication":
            communication.append((start, end))
        elif own == "compute":
            compute.append((start, end))
    return _Looked(spans, by_key, previous, last_of, _merge(compute), _merge(communication))


def _kind(op: Op) -> tuple[Stream, str]:
    """An op's stream, and which of the two kinds of busy time it is of, if any."""
    if op.is_communication:
        return op.stream, "communication"
    return op.stream, "compute" if op.stream in COMPUTE_STREAMS else ""


def _merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Disjoint intervals that cover the same times, in order."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _length(intervals: Sequence[Interval]) -> float:
    return sum(end - start for start, end in intervals)


def _overlap(first: Sequence[Interval], second: Sequence[Interval]) -> float:
    """Length of the intersection of two lists of disjoint, ordered intervals."""
    total, i, j = 0.0, 0, 0
    while i < len(first) and j < len(second):
        total += max(0.0, min(first[i][1], second[j][1]) - max(first[i][0], second[j][0]))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return total


def _predecessors(timeline: Timeline, span: Span, looked: _Looked) -> list[Span]:
    """Spans that had to be over before this one could start."""
    _, number, iteration, index, _, _ = span
    segment, by_key, last_of = timeline.segments[number], looked.by_key, looked.last_of_iterations
    task = segment.tasks[index]
    found = [by_key[number, iteration, other] for other in task.after]
    if iteration and task.after_previous:
        found += [by_key[number, iteration - 1, other] for other in task.after_previous]
    before = looked.previous_on_stream.get(id(span))
    if before is not None:
        found.append(before)
    if task.op.stream == Stream.HOST:
        return found
    if iteration and not segment.carries:
        found.append(last_of[number, iteration - 1])
    if iteration == 0 and number:
        key = (number - 1, timeline.segments[number - 1].repeat - 1)
        found += [last_of[key]] if key in last_of else []
    return found

"""What ran on one rank, flattened: one record per op, which traces and pictures are made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfmodel.economics.peaks import gpus_of_ops
from perfmodel.kernels.timing import Timing
from perfmodel.ops.op import COMMUNICATION_STREAMS, COMPUTE_STREAMS, Op, Stream
from perfmodel.overlap.analysis import Interval, rank_spans
from perfmodel.overlap.graph import Segment, Task
from perfmodel.overlap.timeline import demand
from perfmodel.step import Step


@dataclass(frozen=True, slots=True)
class Launch:
    """One op of a segment as one rank runs it: everything but when."""

    name: str
    op_class: str
    stream: Stream
    segment: str
    stage: str
    micro_batch: int
    flops: float
    hbm_bytes: float
    link_bytes: float
    network_bytes: float
    dtype: str
    alone_s: float
    """Time it takes when nothing else runs."""
    bound: str
    peak_s: float
    """FLOPs over the peak."""
    stream_s: float
    """HBM bytes over the peak bandwidth."""
    source: str
    flag: str


@dataclass(frozen=True, slots=True)
class OpRun:
    """One op that ran. Ops that took no time are left out."""

    launch: Launch
    segment: int
    iteration: int
    layer: int | None
    """Number of the layer in the model, from 0; None outside the layers."""
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.end_s - self.start_s

    @property
    def is_communication(self) -> bool:
        """Whether it occupied a link."""
        return self.launch.stream in COMMUNICATION_STREAMS

    @property
    def is_compute(self) -> bool:
        """Whether it occupied the compute units."""
        return self.launch.stream in COMPUTE_STREAMS

    @property
    def on_host(self) -> bool:
        """Whether the host did it: it may be layers ahead of what the GPU runs."""
        return self.launch.stream == Stream.HOST

    @property
    def place(self) -> str:
        """Where in the model it ran: ``layer 3``, or its segment."""
        return self.launch.segment if self.layer is None else f"layer {self.layer}"


def op_runs(step: Step, rank: int) -> tuple[OpRun, ...]:
    """The ops of one rank, in the order in which they started."""
    launches = [
        [_launch(segment, task, timing, step, rank) for task, timing in zip(*_columns(segment), strict=True)]
        for segment in step.segments
    ]
    first = first_layers(step.segments)
    runs = [
        OpRun(
            launches[span.segment][span.task],
            span.segment,
            span.iteration,
            None if (start := first[span.segment]) is None else start + span.iteration,
            span.start_s,
            span.end_s,
        )
        for span in rank_spans(step.timeline, rank)
        if span.end_s > span.start_s
    ]
    return tuple(sorted(runs, key=lambda run: run.start_s))


def first_layers(segments: Sequence[Segment]) -> list[int | None]:
    """By segment, the number of its first layer; None for what surrounds the layers."""
    first: list[int | None] = []
    count = 0
    for segment in segments:
        is_layer = segment.name.startswith("layers")
        first.append(count if is_layer else None)
        count += segment.repeat if is_layer else 0
    return first


def exposed_intervals(runs: Iterable[OpRun]) -> list[Interval]:
    """When something communicates and nothing computes, as disjoint intervals in order."""
    changes: list[tuple[float, int, int]] = []
    for run in runs:
        step = (int(run.is_communication), int(run.is_compute))
        changes += [(run.start_s, *step), (run.end_s, -step[0], -step[1])]
    intervals: list[Interval] = []
    communicating = computing = 0
    before = 0.0
    for now, communication, compute in sorted(changes):
        if communicating and not computing and now > before:
            if intervals and intervals[-1][1] == before:
                before = intervals.pop()[0]
            intervals.append((before, now))
        communicating, computing, before = communicating + communication, computing + compute, now
    return intervals


def _columns(segment: Segment) -> tuple[tuple[Task, ...], tuple[Timing, ...]]:
    return segment.tasks, segment.timings


def _launch(segment: Segment, task: Task, timing: Timing, step: Step, rank: int) -> Launch:
    op, gpu = task.op, gpus_of_ops(step.scenario)(task.op)
    flops, hbm_bytes = _own(op.flops, rank), _own(op.hbm_bytes, rank)
    return Launch(
        name=op.name,
        op_class=str(op.op_class),
        stream=op.stream,
        segment=segment.name,
        stage=task.stage,
        micro_batch=task.micro_batch,
        flops=flops,
        hbm_bytes=hbm_bytes,
        link_bytes=_own(op.link_bytes, rank),
        network_bytes=_own(op.network_bytes, rank),
        dtype=op.dtype,
        alone_s=demand(timing, rank).seconds,
        bound=_bound(op, timing, rank),
        peak_s=flops / gpu.peak_flops(op.dtype) if op.stream in COMPUTE_STREAMS else 0.0,
        stream_s=hbm_bytes / gpu.hbm_bytes_per_s,
        source=timing.source,
        flag=timing.flag,
    )


def _bound(op: Op, timing: Timing, rank: int) -> str:
    """What limits the op on this rank; the host's own time is given, not limited by anything."""
    if op.stream == Stream.HOST:
        return "host"
    parts = demand(timing, rank)
    own = replace(
        timing,
        latency_s=parts.latency_s,
        compute_s=parts.compute_s,
        memory_s=parts.memory_s,
        link_s=parts.link_s,
        network_s=parts.network_s,
    )
    return own.bound


def _own(value: Any, rank: int) -> float:
    """A rank's own value where there is one per rank."""
    return float(value[rank]) if isinstance(value, np.ndarray) and value.ndim else float(value)

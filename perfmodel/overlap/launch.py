"""What the host does in a step: it launches kernels one by one, or replays a captured graph.

Eager: every op gets a launch on :data:`~perfmodel.ops.op.Stream.HOST`, in the order in which ops were added to the
schedule, and starts when its inputs are there, its stream is free and it has been launched. The host runs ahead of the
GPU, over layers and segments, except where it waits for it: DeepEP's normal kernels need the counts of what will
arrive before they can launch the transfer ("the CPU will wait for GPU's signal to arrive, so this is not compatible
with CUDA graph": https://github.com/deepseek-ai/DeepEP/blob/main/docs/legacy.md).

Graph: one replay launches everything; kernels pay a gap each and joins of streams theirs, where those are stated.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from perfmodel.engines.launches import kernels_launched
from perfmodel.kernels.calibration import INSIDE
from perfmodel.kernels.timing import Timing
from perfmodel.numeric import Num
from perfmodel.ops.build import FUSED_REDUCE
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.overlap.graph import Segment, Task
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.host import Host, Launch
from perfmodel.units import US

PREPARE = "host.prepare"
LAUNCH = "launch"
"""``Op.kernel`` of a launch."""
APART = ("masked", "contiguous")
"""Layouts of experts whose kernels are launched one by one; the others are one call of an engine's fused experts."""
HOST_WAITS = frozenset({("dispatch", "deepep-normal")})
"""Ops, as (kernel, backend), that the host launches only once their inputs are done: it needs counts from the GPU."""
FFN_SIDE = (Stream.EXPERTS, Stream.LINK)
"""Where ops of a layer queue that GPUs of FFNs launch, where they are GPUs of their own: FFNs and the way back."""


def launch_mode(deployment: Deployment) -> Launch:
    """How this step's kernels are launched."""
    host = deployment.host
    return host.decode if deployment.phase == "decode" else host.prompts


def with_host(segments: Sequence[Segment], deployment: Deployment) -> tuple[Segment, ...]:
    """A step's segments with what the host does in it.

    Preparing the step comes before everything else; with asynchronous scheduling this step's preparing was done
    during the last one, and the host prepares the next one once it has launched all of this one.
    """
    host, engine = deployment.host, deployment.engine
    if launch_mode(deployment) == "graph":
        launched = [_in_graph(segment, host, engine) for segment in segments]
    else:
        launched = _eager(segments, deployment)
    if not _some(host.prepare_us):
        return tuple(launched)
    prepare = Task(Op(PREPARE, OpClass.HOST, "host", Stream.HOST), (), stage=PREPARE)
    timing = _given(host.prepare_us * US)
    if host.asynchronous:
        return (*launched, Segment("the next step", (prepare,), (timing,)))
    first, *others = launched
    return (_after_prepare(first, prepare, timing), *others)


def launches_of(segment: Segment, engine: str) -> tuple[float, ...]:
    """Kernels that each task of a segment launches."""
    pairs = zip(segment.tasks, segment.timings, strict=True)
    return tuple(_launches(task.op, timing, engine) for task, timing in pairs)


def _launches(op: Op, timing: Timing, engine: str) -> float:
    """Kernels of an op of its own: none where an all-reduce normalises, or an engine's fused experts hold it; those
    are counted as a whole and fall to their products by their share of the work.
    """
    fused = any(key[0] == "grouped_gemm" and key[2] not in APART for key in op.inside)
    if op.stream == Stream.HOST or op.inside == FUSED_REDUCE:
        return 0.0
    if not engine:
        return 0.0 if timing.source.startswith(INSIDE) else 1.0
    if op.kernel != "grouped_gemm" and fused:
        return 0.0
    kernels = kernels_launched(engine, op.kernel, op.dtype, op.backend)
    return kernels * float(op.shape["share"]) if op.kernel == "grouped_gemm" else kernels


def merged_launches(segment: Segment) -> Segment:
    """For people: the segment with its launches as one task at the end, and nothing that waits for them."""
    launches = [i for i, task in enumerate(segment.tasks) if task.op.kernel == LAUNCH]
    if not launches:
        return segment
    kept = [i for i in range(len(segment.tasks)) if i not in launches]
    total: Num = sum(segment.timings[i].seconds for i in launches)
    kernels = sum(segment.tasks[i].op.shape["kernels"] for i in launches)
    op = Op("host.launches", OpClass.HOST, LAUNCH, Stream.HOST, shape={"kernels": kernels})
    tasks = [replace(segment.tasks[i], after=(), after_previous=()) for i in kept]
    return replace(
        segment,
        tasks=(*tasks, Task(op, ())),
        timings=(*(segment.timings[i] for i in kept), _given(total)),
    )


def _eager(segments: Sequence[Segment], deployment: Deployment) -> list[Segment]:
    """Segments whose ops wait for their launches; with prompts each takes what nobody counted, too. GPUs that compute
    FFNs alone have hosts of their own, with fewer kernels to launch, which are taken to keep up.
    """
    host, engine = deployment.host, deployment.engine
    launch_us: Num = host.launch_us + (host.uncounted_us if deployment.phase != "decode" else 0.0)
    if not _some(launch_us):
        return list(segments)
    found = []
    for segment in segments:
        counts = launches_of(segment, engine)
        if deployment.ffn_gpus and segment.layers:
            own = (task.op.stream not in FFN_SIDE for task in segment.tasks)
            counts = tuple(count if here else 0.0 for count, here in zip(counts, own, strict=True))
        found.append(_launched(segment, counts, launch_us * US))
    return found


def _launched(segment: Segment, counts: Sequence[float], launch_s: Num) -> Segment:
    """The segment with a launch before each op that has kernels of its own."""
    tasks: list[Task] = []
    timings: list[Timing] = []
    place: list[int] = []  # of each old task among the new ones
    for task, timing, count in zip(segment.tasks, segment.timings, counts, strict=True):
        after = tuple(place[other] for other in task.after)
        previous = task.after_previous  # tasks of the whole segment: renumbered below
        if count:
            waits = after if (task.op.kernel, task.op.backend) in HOST_WAITS else ()
            op = Op(f"launch.{task.op.name}", OpClass.HOST, LAUNCH, Stream.HOST, shape={"kernels": count})
            tasks.append(Task(op, waits, stage=task.stage, micro_batch=task.micro_batch))
            timings.append(_given(count * launch_s))
            after = (*after, len(tasks) - 1)
        place.append(len(tasks))
        tasks.append(replace(task, after=after, after_previous=previous))
        timings.append(timing)
    renumbered = tuple(
        replace(task, after_previous=tuple(place[other] for other in task.after_previous))
        if task.after_previous
        else task
        for task in tasks
    )
    return replace(segment, tasks=renumbered, timings=tuple(timings))


def _in_graph(segment: Segment, host: Host, engine: str) -> Segment:
    """The segment with a gap per kernel and one where an op waits for another stream.

    Tensor parallelism's collectives run in line with their neighbours, so nothing is joined around them; a chain has
    nothing to join at all.
    """
    if not _some(host.node_us) and not _some(host.join_us):
        return segment
    counts, in_line = launches_of(segment, engine), segment.is_chain
    made: dict[tuple[int, float, bool], Timing] = {}  # what is alike stays one timing
    timings = []
    for task, timing, count in zip(segment.tasks, segment.timings, counts, strict=True):
        joins = not in_line and any(_joins(task.op, segment.tasks[other].op) for other in task.after)
        kind = (id(timing), count, joins)
        if kind not in made:
            made[kind] = _with_gap(timing, host.node_us * count + (host.join_us if joins else 0.0))
        timings.append(made[kind])
    return replace(segment, timings=tuple(timings))


def _with_gap(timing: Timing, gap_us: Num) -> Timing:
    if not _some(gap_us):
        return timing
    return replace(timing, latency_s=timing.latency_s + gap_us * US, gap_s=gap_us * US)


def _joins(op: Op, other: Op) -> bool:
    in_line = OpClass.TP_COMMUNICATION in (op.op_class, other.op_class)
    return op.stream != other.stream and not in_line


def _after_prepare(segment: Segment, prepare: Task, timing: Timing) -> Segment:
    """The first segment with preparing before it: the host's order holds launches back, ``after`` everything else."""

    def moved(task: Task) -> Task:
        after = tuple(other + 1 for other in task.after)
        previous = tuple(other + 1 for other in task.after_previous)
        if not after and task.op.stream != Stream.HOST:
            after = (0,)
        return replace(task, after=after, after_previous=previous)

    tasks = (prepare, *(moved(task) for task in segment.tasks))
    return replace(segment, tasks=tasks, timings=(timing, *segment.timings))


def _given(seconds: Num) -> Timing:
    """Host time: it errs with the engine and is slowed by nothing on the GPU."""
    return Timing(latency_s=seconds, source="given")


def _some(value: Num) -> bool:
    return value > 0.0 if isinstance(value, (float, int)) else bool(np.any(np.asarray(value) > 0.0))

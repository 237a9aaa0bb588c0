"""Schedules: functions from a layer's ops to tasks with streams and dependencies.

Each stream runs its tasks in the order they are added, so a schedule is an order and a set of dependencies, nothing
more. :func:`schedule_layer` returns the tasks of one layer; adding a schedule means adding a function here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from perfmodel.ops.layer import LayerOps
from perfmodel.ops.moe import MoeOps
from perfmodel.ops.op import COMPUTE_STREAMS, Op, Stream
from perfmodel.overlap.graph import Graph, Task, on_stream

STAGES = {
    "stage 1": "stage 1: first attention, alone",
    "stage 2": "stage 2: dispatch beside the first dense FFN and the second attention's projections",
    "stage 3": "stage 3: experts, alone",
    "stage 4": "stage 4: combine beside the second attention's core and the second dense FFN",
}
"""The report's four stages of single-batch overlap (its Figure 9)."""


def schedule_layer(name: str, layers: Sequence[LayerOps]) -> tuple[Task, ...]:
    """Tasks of one layer under schedule ``name``.

    ``layers`` holds the layer's ops for the whole step; for ``tbo`` it holds them twice, once per micro-batch.
    A layer that a schedule has nothing to hide in (a dense layer under SBO) runs in sequence.
    """
    if name == "tbo":
        return two_batch_overlap(layers)
    layer = layers[0]
    if name == "tbo-report":
        return tbo_report(layer)
    if not layer.shortcut or layer.moe is None:
        return sequential(layer)
    return _SHORTCUT_SCHEDULES[name](layer, layer.moe)


def num_micro_batches(name: str) -> int:
    """Micro-batches that a schedule splits a step into."""
    return 2 if name == "tbo" else 1


def carries_over(name: str) -> bool:
    """Whether a layer may start while the previous one is still running elsewhere."""
    return name == "tbo"


def overlaps(name: str) -> bool:
    """Whether a schedule puts transfers beside compute."""
    return name in ("tbo", "sbo", "sbo-engine")


def sequential(layer: LayerOps) -> tuple[Task, ...]:
    """One op after another, communication included; shared experts on a stream of their own where an engine has one."""
    graph = Graph()
    last: tuple[int, ...] = ()
    beside: tuple[int, ...] = ()
    for stage, ops in _in_sequence(layer):
        if layer.moe and layer.moe.shared_beside and stage == "router":
            beside = graph.chain(on_stream(layer.moe.shared, Stream.EXPERTS), after=last, stage="experts")
        if stage == "combine":
            last = (*last, *beside)
        last = graph.chain(ops, after=last, stage=stage)
    return tuple(graph.tasks)


def single_batch_overlap(layer: LayerOps, moe: MoeOps) -> tuple[Task, ...]:
    """LongCat's four stages (the report's Figure 9).

    1. The first attention, alone: its output feeds both branches.
    2. Dispatch, beside the first dense FFN and the second attention's projections.
    3. The experts, alone on the compute stream.
    4. Combine, beside the second attention's core and the second dense FFN.
    """
    graph = Graph()
    first, second = layer.attentions
    fork = graph.chain((*first.pre, *first.core, *layer.post_norms[0]), stage="stage 1")
    routed = graph.chain(moe.router, after=fork, stage="stage 2")
    sent = graph.chain(moe.dispatch, after=routed, stage="stage 2")
    dense = graph.chain(layer.ffns[0], after=fork, stage="stage 2")
    queries = graph.chain(second.pre, after=dense, stage="stage 2")
    experts = graph.chain((*moe.shared, *moe.experts), after=sent, stage="stage 3")
    combined = graph.chain(moe.combine, after=experts, stage="stage 4")
    attended = graph.chain(second.core, after=queries, stage="stage 4")
    dense = graph.chain((*layer.post_norms[1], *layer.ffns[1]), after=attended, stage="stage 4")
    graph.chain((*moe.unpack, *layer.join), after=(*combined, *dense), stage="stage 4")
    return tuple(graph.tasks)


def engine_overlap(layer: LayerOps, moe: MoeOps) -> tuple[Task, ...]:
    """The released engine's overlap (SGLang-FluentLLM, longcat_flash_overlap.py): experts on a stream of their own.

    Decode, low-latency kernels: first attention | router and dispatch beside FFN 0 and the second attention's
    projections | experts beside the second attention's core and FFN 1 | combine.
    Prefill, normal kernels: first attention | router beside the gather | dispatch beside FFN 0's GEMMs | experts beside
    the scatter, the second attention and the next gather | combine beside FFN 1's GEMMs.
    """
    return _engine_prefill(layer, moe) if moe.holds_sms else _engine_decode(layer, moe)


def _engine_decode(layer: LayerOps, moe: MoeOps) -> tuple[Task, ...]:
    graph = Graph()
    first, second = layer.attentions
    fork = graph.chain((*first.pre, *first.core, *layer.post_norms[0]), stage="first attention")
    routed = graph.chain(moe.router, after=fork, stage="dispatch || FFN 0")
    sent = graph.chain(moe.dispatch, after=routed, stage="dispatch || FFN 0")
    queries = graph.chain((*layer.ffns[0], *second.pre), after=fork, stage="dispatch || FFN 0")
    experts = on_stream((*moe.shared, *moe.experts), Stream.EXPERTS)
    computed = graph.chain(experts, after=(*sent, *queries), stage="experts || attention 1, FFN 1")
    combined = graph.chain(moe.combine, after=computed, stage="combine")
    dense = graph.chain(
        (*second.core, *layer.post_norms[1], *layer.ffns[1]),
        after=queries,
        stage="experts || attention 1, FFN 1",
    )
    graph.chain((*moe.unpack, *layer.join), after=(*combined, *dense), stage="combine")
    return tuple(graph.tasks)


def _engine_prefill(layer: LayerOps, moe: MoeOps) -> tuple[Task, ...]:
    graph = Graph()
    first, second = layer.attentions
    fork = graph.chain((*first.pre, *first.core, *layer.post_norms[0]), stage="first attention")
    routed = graph.chain(moe.router, after=fork, stage="router || gather")
    gather0, dense0, scatter0 = _cut_ffn(layer.ffns[0])
    gathered = graph.chain(gather0, after=fork, stage="router || gather")
    sent = graph.chain(moe.dispatch, after=(*routed, *gathered), stage="dispatch || FFN 0")
    computed0 = graph.chain(dense0, after=(*routed, *gathered), stage="dispatch || FFN 0")
    experts = on_stream((*moe.shared, *moe.experts), Stream.EXPERTS)
    stage = "experts || attention 1"
    computed = graph.chain(experts, after=(*sent, *computed0), stage=stage)
    gather1, dense1, scatter1 = _cut_ffn(layer.ffns[1])
    attended = graph.chain(
        (*scatter0, *second.pre, *second.core, *layer.post_norms[1], *gather1), after=computed0, stage=stage
    )
    stage = "combine || FFN 1"
    combined = graph.chain(moe.combine, after=(*computed, *attended), stage=stage)
    computed1 = graph.chain((*dense1, *scatter1), after=(*attended, *computed), stage=stage)
    graph.chain((*moe.unpack, *layer.join), after=(*combined, *computed1), stage=stage)
    return tuple(graph.tasks)


def two_batch_overlap(micro_batches: Sequence[LayerOps]) -> tuple[Task, ...]:
    """Two half batches take turns: while one communicates the other computes, across layers.

    Each micro-batch runs its layer in sequence, cut into runs of compute and of communication; the runs of the
    two are added in turn, so a stream serves them alternately. A shared expert only waits for the router, so it
    can run under its own dispatch. Iterations carry over: a micro-batch waits for itself alone. A turn begins with what
    follows a combine: at a layer's end it would keep the other micro-batch, whose attention is ready, from the GPU.
    """
    graph = Graph()
    runs = [_runs(_from_the_combine(_with_dependencies(layer), layer.moe)) for layer in micro_batches]
    indices: list[list[int]] = [[] for _ in micro_batches]
    for turn in range(max(len(chain) for chain in runs)):
        for micro_batch, chain in enumerate(runs):
            for op, after, stage in chain[turn] if turn < len(chain) else ():
                index = graph.add(op, after=[indices[micro_batch][i] for i in after], stage=stage)
                indices[micro_batch].append(index)
                graph.tasks[index] = replace(graph.tasks[index], micro_batch=micro_batch)
    for own in indices:
        graph.tasks[own[0]] = replace(graph.tasks[own[0]], after_previous=(own[-1],))
    return tuple(graph.tasks)


def attention_ffn(
    micro_batches: Sequence[Mapping[str, Sequence[Op]]],
) -> tuple[tuple[Task, ...], tuple[Stream, ...]]:
    """Attention and FFN on GPUs of their own (Step-3, arXiv 2507.19427; MegaScale-Infer, arXiv 2504.02263).

    Micro-batches take turns on both, and are on their way meanwhile. The ops keep the streams that they are
    costed by; where each task queues is returned beside them. Iterations carry over: a micro-batch waits for itself
    alone.
    """
    graph, streams = Graph(), list[Stream]()
    last: list[tuple[int, ...]] = [() for _ in micro_batches]
    first: list[int] = []
    for part, stream in AFD_PARTS.items():
        for number, ops in enumerate(micro_batches):
            begin = len(graph.tasks)
            last[number] = graph.chain(ops[part], after=last[number], stage=part)
            streams += [stream] * (len(graph.tasks) - begin)
            for index in range(begin, len(graph.tasks)):
                graph.tasks[index] = replace(graph.tasks[index], micro_batch=number)
            if part == "attention":
                first.append(begin)
    for begin, own in zip(first, last, strict=True):
        graph.tasks[begin] = replace(graph.tasks[begin], after_previous=own)
    return tuple(graph.tasks), tuple(streams)


AFD_PARTS = {
    "attention": Stream.COMPUTE,
    "to the FFNs": Stream.NETWORK,
    "FFN": Stream.EXPERTS,
    "back": Stream.LINK,
}
"""Parts of a layer whose FFN has GPUs of its own -> where they queue: compute streams of either GPU, and each direction
of what lies between them."""


def tbo_report(layer: LayerOps) -> tuple[Task, ...]:
    """What the report's Table 7 assumes of two-batch overlap: the MoE path is exposed, attention hides behind it.

    Dispatch, experts and combine of the whole batch follow each other; attention's two parts fill the two
    communication windows. Only for that table.
    """
    if layer.moe is None or not layer.attentions:
        return sequential(layer)
    graph = Graph()
    attention = layer.attentions[0]
    sent = graph.chain(layer.moe.dispatch, stage="dispatch")
    queries = graph.chain(attention.pre, stage="dispatch")
    computed = graph.chain((*layer.moe.shared, *layer.moe.experts), after=sent, stage="experts")
    graph.chain(layer.moe.combine, after=computed, stage="combine")
    graph.chain(attention.core, after=queries, stage="combine")
    return tuple(graph.tasks)


def _in_sequence(layer: LayerOps) -> list[tuple[str, tuple[Op, ...]]]:
    """A layer's ops in program order, by named part.

    In a shortcut-connected block the experts come right after the first attention, where their input is ready.
    """
    parts: list[tuple[str, tuple[Op, ...]]] = []
    for i in range(max(len(layer.attentions), len(layer.post_norms))):
        mixer: tuple[Op, ...] = ()
        for own in layer.attentions[i : i + 1]:
            mixer = (*own.pre, *own.core)
        parts.append((f"attention {i}", (*mixer, *(op for ops in layer.post_norms[i : i + 1] for op in ops))))
        if i == 0 and layer.moe:
            moe = layer.moe
            parts += [("router", moe.router), ("dispatch", moe.dispatch)]
            shared = () if moe.shared_beside else moe.shared
            parts += [("experts", (*shared, *moe.experts)), ("combine", (*moe.combine, *moe.unpack))]
        if i < len(layer.ffns):
            parts.append((f"FFN {i}", layer.ffns[i]))
    if layer.join:
        parts.append(("join", layer.join))
    return parts


_Step = tuple[Op, tuple[int, ...], str]
"""An op, the positions in its chain that it waits for, and its part's name."""


def _with_dependencies(layer: LayerOps) -> list[_Step]:
    """A layer's chain for one micro-batch; shared experts wait for the router, not for the dispatch."""
    moe = layer.moe
    steps: list[_Step] = []
    sent = len(steps)
    for stage, ops in _in_sequence(layer):
        for op in ops:
            position = len(steps)
            after: tuple[int, ...] = (position - 1,) if position else ()
            if moe and moe.dispatch and moe.shared:
                if op is moe.shared[0]:
                    sent = position - 1
                    after = (sent - len(moe.dispatch),)
                elif op is moe.experts[0]:
                    after = (position - 1, sent)
            steps.append((op, after, stage))
    return steps


def _from_the_combine(steps: list[_Step], moe: MoeOps | None) -> list[_Step]:
    """The same chain begun behind its combine: the end of one layer and the beginning of the next are one run.

    The first of them waits for the previous iteration's combine, which is this one's last op.
    """
    if not moe or not moe.combine:
        return steps
    (start,) = (i + 1 for i, (op, _, _) in enumerate(steps) if op is moe.combine[-1])
    moved = len(steps) - start
    turned = [
        (op, () if i == start else tuple((one - start) % len(steps) for one in after), stage)
        for i, (op, after, stage) in enumerate(steps)
    ]
    if moved:  # the layer's first op, which waited for nothing in it, follows what ends the layer before
        op, _, stage = turned[0]
        turned[0] = (op, (moved - 1,), stage)
    return turned[start:] + turned[:start]


def _runs(steps: Sequence[_Step]) -> list[list[_Step]]:
    """A chain cut where it changes between compute and communication."""
    runs: list[list[_Step]] = []
    kind: bool | None = None
    for step in steps:
        compute = step[0].stream in COMPUTE_STREAMS
        if compute != kind:
            runs.append([])
            kind = compute
        runs[-1].append(step)
    return runs


def _cut_ffn(ops: Sequence[Op]) -> tuple[tuple[Op, ...], tuple[Op, ...], tuple[Op, ...]]:
    """A dense FFN's gather, GEMMs and scatter; the first and last are empty without tensor parallelism."""
    compute = [i for i, op in enumerate(ops) if op.stream in COMPUTE_STREAMS]
    first, last = compute[0], compute[-1] + 1
    return tuple(ops[:first]), tuple(ops[first:last]), tuple(ops[last:])


_SHORTCUT_SCHEDULES: dict[str, Callable[[LayerOps, MoeOps], tuple[Task, ...]]] = {
    "sequential": lambda layer, moe: sequential(layer),
    "sbo": single_batch_overlap,
    "sbo-engine": engine_overlap,
}

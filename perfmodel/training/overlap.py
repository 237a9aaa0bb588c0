"""How long a run of layers takes forwards, backwards, or one beside the other, under a schedule of its exchanges.

Each is a graph of ops on streams that the timeline runs (contention included). What hides what:
    none              one op after another
    two-chunks        LongCat-Flash's report, Figure 8(c): tokens go to the experts in two chunks. The first chunk's
    dispatch runs
                      beside the dense path, the second's beside the first's experts, combines beside the second's
                      experts and the rest of the dense path. Backwards the same, mirrored.
    forward-backward  one micro-batch's forward beside another's backward, cut where exchanges begin and end
    (DualPipe)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from perfmodel.kernels.timing import Timing
from perfmodel.ops.backward import CORES, Kernel
from perfmodel.ops.op import Op, OpClass
from perfmodel.overlap.analysis import exposed_by_class_s
from perfmodel.overlap.graph import Segment, Task
from perfmodel.overlap.timeline import simulate
from perfmodel.training.parts import Exchange, LayerParts, Part

Deps = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a stage for one micro-batch."""

    seconds: float = 0.0
    exposed_s: dict[str, float] = field(default_factory=dict)
    """Op class -> time in which it communicates and nothing computes."""
    compute_s: dict[str, float] = field(default_factory=dict)
    """Op class -> time alone of its compute ops."""
    transfer_s: dict[str, float] = field(default_factory=dict)
    """Op class -> time alone of its transfers."""

    def __add__(self, other: "Phase") -> "Phase":
        """One after the other."""
        return Phase(
            self.seconds + other.seconds,
            _sum(self.exposed_s, other.exposed_s),
            _sum(self.compute_s, other.compute_s),
            _sum(self.transfer_s, other.transfer_s),
        )


def _sum(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {key: first.get(key, 0.0) + second.get(key, 0.0) for key in (*first, *second)}


CostOf = Callable[[Kernel], Timing]


class Sketch:
    """A graph in the making: its ops, what each waits for, and the time of each."""

    def __init__(self, cost_of: CostOf) -> None:
        self.ops: list[Op] = []
        self.after: list[Deps] = []
        self.timings: list[Timing] = []
        self.cost_of = cost_of

    def chain(self, kernels: Sequence[Kernel], after: Deps = ()) -> Deps:
        """Kernels that follow each other."""
        for kernel in kernels:
            self.ops.append(kernel.op)
            self.after.append(tuple(sorted(set(after))) if len(after) > 1 else after)
            self.timings.append(self.cost_of(kernel))
            after = (len(self.ops) - 1,)
        return after

    def tasks(self) -> tuple[Task, ...]:
        """The graph."""
        return tuple(Task(op, after) for op, after in zip(self.ops, self.after, strict=True))

    def part(self, part: Part, way: str, after: Deps = ()) -> Deps:
        """One part's forward, input or weight gradient; a ring exchange runs beside attention's core."""
        kernels: tuple[Kernel, ...] = getattr(part, way)
        if part.ring is None or way == "weight":
            return self.chain(kernels, after)
        at = next(i for i, kernel in enumerate(kernels) if kernel.base.kernel in CORES)
        before = self.chain(kernels[:at], after)
        exchanged = self.chain((part.ring[0 if way == "forward" else 1],), before)
        attended = self.chain(kernels[at : at + 1], before)
        return self.chain(kernels[at + 1 :], (*exchanged, *attended))

    def run(self, *, contention: bool) -> Phase:
        """How long it takes."""
        if not self.ops:
            return Phase()
        segment = Segment("stage", self.tasks(), tuple(self.timings))
        timeline = simulate((segment,), contention=contention)
        compute: dict[str, float] = {}
        transfer: dict[str, float] = {}
        for task, timing in zip(segment.tasks, segment.timings, strict=True):
            into = transfer if task.op.is_communication else compute
            into[task.op.op_class] = into.get(task.op.op_class, 0.0) + float(timing.seconds)
        return Phase(timeline.step_time_s, exposed_by_class_s(timeline), compute, transfer)


@dataclass(frozen=True, slots=True)
class Chain:
    """What one pipeline stage runs, in order: layers, with parts before and after them."""

    before: tuple[Part, ...]
    layers: tuple[LayerParts, ...]
    after: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Costing:
    """How ops are timed: alone, and where they run beside others."""

    alone: CostOf
    beside: CostOf
    """Transfers take longer beside compute, where that was measured."""
    contention: bool
    overlap: str
    replay: bool
    """Whether whole layers are computed again before their backward."""
    delay_weights: bool = True
    """Whether a backward's exchanges go before weight gradients, where a forward runs beside it."""


def forward_phase(chain: Chain, costing: Costing) -> Phase:
    """A stage forwards."""
    return forward_sketch(chain, costing).run(contention=costing.contention)


def forward_sketch(chain: Chain, costing: Costing) -> Sketch:
    """The graph of :func:`forward_phase`."""
    sketch = Sketch(costing.beside if costing.overlap == "two-chunks" else costing.alone)
    last: Deps = ()
    for part in chain.before:
        last = sketch.part(part, "forward", last)
    for layer in chain.layers:
        last = _layer_forward(sketch, layer, costing.overlap, last)
    for part in chain.after:
        last = sketch.part(part, "forward", last)
    return sketch


def input_phase(chain: Chain, costing: Costing, *, weights: bool) -> Phase:
    """A stage's input gradients; with ``weights`` its weight gradients too, each behind its own input gradient."""
    return input_sketch(chain, costing, weights=weights).run(contention=costing.contention)


def input_sketch(chain: Chain, costing: Costing, *, weights: bool) -> Sketch:
    """The graph of :func:`input_phase`."""
    sketch = Sketch(costing.beside if costing.overlap == "two-chunks" else costing.alone)
    last: Deps = ()
    for part in reversed(chain.after):
        last = _backward_part(sketch, part, last, weights=weights)
    for layer in reversed(chain.layers):
        if costing.replay:
            last = _layer_forward(sketch, layer, costing.overlap, last)
        last = _layer_backward(sketch, layer, costing.overlap, last, weights=weights)
    for part in reversed(chain.before):
        last = _backward_part(sketch, part, last, weights=weights)
    return sketch


def weight_phase(chain: Chain, costing: Costing) -> Phase:
    """A stage's weight gradients alone."""
    sketch = Sketch(costing.alone)
    last: Deps = ()
    for part in parts_of(chain)[::-1]:
        last = sketch.part(part, "weight", last)
    return sketch.run(contention=costing.contention)


def pair_phase(forward: Chain, backward: Chain, costing: Costing) -> Phase:
    """One stage forwards beside another backwards: runs of compute and of transfers of the two take turns, so that a
    stream serves them alternately, and each waits for itself alone.

    A backward's weight gradients stand behind its input gradients, where they fill what exchanges leave, or are not
    delayed: autograd's own order, in which an exchange waits for both. It begins with an exchange, so the forward's
    first compute runs beside that.
    """
    return pair_sketch(forward, backward, costing).run(contention=costing.contention)


def pair_sketch(forward: Chain, backward: Chain, costing: Costing) -> Sketch:
    """The graph of :func:`pair_phase`."""
    sketch = Sketch(costing.beside)
    ends: list[Deps] = [(), ()]
    turns = zip_longest(_forward_turns(forward), _backward_turns(backward, costing))
    for turn in turns:
        for side, blocks in enumerate(turn):
            for part, way, joins in blocks or ():
                end = sketch.part(part, way, ends[side])
                if joins:
                    ends[side] = end
    return sketch


Block = tuple[Part, str, bool]
"""(part, way, whether what follows waits for it)."""


def _forward_turns(chain: Chain) -> list[list[Block]]:
    return _turns([(part, "forward", True) for part in parts_of(chain)])


def _backward_turns(chain: Chain, costing: Costing) -> list[list[Block]]:
    blocks: list[Block] = []
    for part in parts_of(chain)[::-1]:
        if costing.replay:
            blocks.append((part, "forward", True))
        blocks += [(part, "input", True), (part, "weight", not costing.delay_weights)]
    return _turns(blocks)


def _turns(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks cut where they change between exchanges and the rest."""
    turns: list[list[Block]] = []
    kind: bool | None = None
    for block in blocks:
        kernels: tuple[Kernel, ...] = getattr(block[0], block[1])
        if not kernels:
            continue
        exchanges = any(kernel.op.op_class in EXCHANGES and kernel.op.is_communication for kernel in kernels)
        if exchanges != kind:
            turns.append([])
            kind = exchanges
        turns[-1].append(block)
    return turns


EXCHANGES = (OpClass.DISPATCH, OpClass.COMBINE)


def parts_of(chain: Chain) -> tuple[Part, ...]:
    """All parts of a chain in program order."""
    middle = [part for layer in chain.layers for part in layer.in_sequence()]
    return (*chain.before, *middle, *chain.after)


def _backward_part(sketch: Sketch, part: Part, after: Deps, *, weights: bool) -> Deps:
    done = sketch.part(part, "input", after)
    if weights:
        return sketch.part(part, "weight", done)
    return done


def _layer_forward(sketch: Sketch, layer: LayerParts, overlap: str, after: Deps) -> Deps:
    if overlap != "two-chunks" or not layer.exchanges:
        for part in layer.in_sequence():
            after = sketch.part(part, "forward", after)
        return after
    fork = sketch.part(layer.attentions[0], "forward", after)
    dense = sketch.part(layer.ffns[0], "forward", fork) if layer.join else fork
    combined = _chunks(sketch, layer.exchanges, "forward", fork)
    if layer.join:
        for part in (*layer.attentions[1:], *layer.ffns[1:]):
            dense = sketch.part(part, "forward", dense)
        return sketch.part(layer.join, "forward", (*dense, *combined))
    return (*dense, *combined)


def _chunks(sketch: Sketch, exchanges: Sequence[Exchange], way: str, after: Deps) -> Deps:
    """Chunks behind each other on both streams: all go out, each is computed when it has come, and returns."""
    forwards = way == "forward"
    order = list(exchanges) if forwards else list(reversed(exchanges))
    sent = [sketch.part(one.dispatch if forwards else one.combine, way, after) for one in order]
    ends: Deps = ()
    for one, there in zip(order, sent, strict=True):
        computed = sketch.part(one.experts, way, there)
        ends += sketch.part(one.combine if forwards else one.dispatch, way, computed)
    return ends


def _layer_backward(sketch: Sketch, layer: LayerParts, overlap: str, after: Deps, *, weights: bool) -> Deps:
    if overlap != "two-chunks" or not layer.exchanges:
        for part in reversed(layer.in_sequence()):
            after = _backward_part(sketch, part, after, weights=weights)
        return after
    dense = after
    if layer.join:  # mirrored: the end of the dense path runs while the chunks' gradients go out
        dense = after = _backward_part(sketch, layer.join, after, weights=weights)
        for part in (*layer.ffns[:0:-1], *layer.attentions[:0:-1]):
            dense = _backward_part(sketch, part, dense, weights=weights)
    returned = _chunks(sketch, layer.exchanges, "input", after)
    if layer.join:
        dense = _backward_part(sketch, layer.ffns[0], dense, weights=weights)
    if weights:
        for one in layer.exchanges:
            dense = sketch.part(one.experts, "weight", dense)
    return _backward_part(sketch, layer.attentions[0], (*dense, *returned), weights=weights)

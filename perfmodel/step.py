"""One step of a batch: ops, their costs and their schedule, run on the timeline or on its vectorised twin."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import numpy as np

from perfmodel.engines.profile import kernels_of
from perfmodel.errors import UnsupportedError
from perfmodel.kernels.alike import timings_of
from perfmodel.kernels.calibration import Calibration
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.communication import beside_compute
from perfmodel.kernels.cost import costing
from perfmodel.kernels.timing import Timing
from perfmodel.numeric import Num, ceil_div, where
from perfmodel.ops.apart import apart_ops, is_transfer, on_ffns
from perfmodel.ops.collective import send_receive
from perfmodel.ops.drafter import Pass, draft_passes
from perfmodel.ops.ends import draft_ops, embedding_ops, head_ops
from perfmodel.ops.layer import layer_ops
from perfmodel.ops.lora import slots_of, with_adapters
from perfmodel.ops.op import COMPUTE_STREAMS, Op, OpClass, Stream
from perfmodel.ops.report import report_layer
from perfmodel.ops.work import Work, divided, draft_work, step_work
from perfmodel.overlap.graph import Graph, Segment, Task
from perfmodel.overlap.launch import with_host
from perfmodel.overlap.schedules import (
    attention_ffn,
    carries_over,
    num_micro_batches,
    overlaps,
    schedule_layer,
)
from perfmodel.overlap.timeline import Timeline, simulate
from perfmodel.overlap.twin import StepTimes, step_times
from perfmodel.routing.activation import layer_activations
from perfmodel.spec.deployment import Slowdown
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.model import Layer
from perfmodel.spec.scenario import Scenario
from perfmodel.units import US


@dataclass(frozen=True, slots=True)
class Place:
    """GPUs and network that ops run on, and what times their kernels."""

    cluster: Cluster
    calibration: Calibration | None

    def cost(self, op: Op, costs: str) -> Timing:
        """Time of an op there, alone and on a healthy GPU."""
        return costing(self.cluster, costs, self.calibration)(op)


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was simulated on the timeline."""

    scenario: Scenario
    segments: tuple[Segment, ...]
    timeline: Timeline
    calibration: Calibration | None = None
    """What ops were costed by, where the scenario names one; where FFNs have other GPUs, those of attention."""
    ffn_calibration: Calibration | None = None
    """What ops of FFNs were costed by, where they have other GPUs."""

    @property
    def places(self) -> "tuple[Place, ...]":
        """Where ops run: one place, or attention's and the FFNs'."""
        own = Place(self.scenario.cluster, self.calibration)
        ffns = self.scenario.ffns
        if ffns is None or (ffns.cluster is None and ffns.calibration is None):
            return (own,)
        return own, Place(self.scenario.ffn_cluster, self.ffn_calibration)

    def place_of(self, op: Op) -> int:
        """Which of ``places`` an op runs in; of a transfer between two clusters the end that sets its time."""
        places = self.places
        if len(places) == 1 or not is_transfer(op):
            return int(on_ffns(op)) if len(places) > 1 else 0
        here, there = (float(np.mean(one.cost(op, self.scenario.costs).seconds)) for one in places)
        return int(there > here)

    @property
    def step_time_s(self) -> float:
        """Time of the step, s."""
        return self.timeline.step_time_s


def simulate_step(scenario: Scenario) -> Step:
    """Simulate one step on the timeline, every op of every layer.

    Raises:
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    all_ranks = scenario.deployment.ranks == "all"
    segments = step_segments(scenario)
    timeline = simulate(
        segments,
        num_ranks=scenario.deployment.ep if all_ranks else 1,
        contention=has_contention(scenario),
    )
    ffns = _calibration(scenario.ffn_side) if scenario.ffns else None
    return Step(scenario, segments, timeline, _calibration(scenario), ffns)


def predict_steps(scenario: Scenario) -> StepTimes:
    """Step times of a scenario whose leaves may be arrays (:func:`perfmodel.spec.arrays.with_arrays`), by the twin."""
    return step_times(step_segments(scenario), contention=has_contention(scenario))


def sending_s(scenario: Scenario, wire: Literal["link", "network"]) -> Num:
    """Seconds in which a step's own bytes keep the link or the network adapter of a GPU busy: the sum of its transfers'
    bytes over what they achieve, without their fixed costs. Leaves may be arrays.
    """
    total: Num = 0.0
    for segment in step_segments(scenario):
        for timing in segment.timings:
            total = total + segment.repeat * (timing.link_s if wire == "link" else timing.network_s)
    return total


def has_contention(scenario: Scenario) -> bool:
    """Whether ops that run together slow each other; never under ``costs: report``, nor where attention and FFNs have
    GPUs of their own.
    """
    apart = bool(scenario.deployment.ffn_gpus)  # streams are GPUs of their own
    return scenario.deployment.contention and scenario.costs != "report" and not apart


def common_log_std(scenario: Scenario) -> float:
    """Spread that all ops of a step share: the device's noise between runs (of two kinds of GPUs the larger), and what
    the engine's constants leave.
    """
    sides = (scenario, scenario.ffn_side) if scenario.ffns else (scenario,)
    repeat = max(one.repeat_log_std if one else 0.0 for one in map(_calibration, sides))
    return math.hypot(repeat, scenario.deployment.step_log_std)


def step_segments(scenario: Scenario) -> tuple[Segment, ...]:
    """A step as segments: what comes before the layers, runs of equal layers, head, drafts; with what the host does.

    Raises:
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    if scenario.model.unmodelled:
        raise UnsupportedError(
            f"model {scenario.model.name}: {scenario.model.unmodelled} is not modelled in time; its counts and "
            f"memory are in `perfmodel show models {scenario.model.name}`"
        )
    deployment = divided(scenario.deployment)
    if deployment is not scenario.deployment:
        scenario = scenario.model_copy(update={"deployment": deployment})
    work = step_work(deployment)
    layers = [
        _layer_segment(f"layers {number}" if number else "layers", layer, work, own, count)
        for number, (layer, count, own) in enumerate(_runs(scenario))
    ]
    if scenario.costs == "report":
        return tuple(layers)
    before = _chain("before the layers", embedding_ops(work, scenario), scenario)
    after = _chain("head", head_ops(work, scenario), scenario)
    return with_host(
        (before, *layers, *_pipeline(work, scenario), after, *_drafts(scenario)), scenario.deployment
    )


def drawable(scenario: Scenario, segments: Sequence[Segment] | None = None) -> tuple[Segment, ...]:
    """A step's segments (made anew where they are not given) with what a busier rank would do to each op, where nothing
    is known of the router: what :mod:`perfmodel.uncertainty` draws from.
    """
    own = tuple(segments) if segments is not None else step_segments(scenario)
    prior = scenario.routing.prior_imbalance
    if prior == 1.0 or scenario.model.moe is None or scenario.costs == "report":
        return own
    loads = scenario.routing.rank_loads
    more = (
        {"imbalance": prior * (scenario.routing.imbalance or 1.0)}
        if loads is None
        else {"rank_loads": tuple(load * prior for load in loads)}
    )
    routing = scenario.routing.model_copy(update={**more, "prior_imbalance": 1.0})
    uneven = step_segments(scenario.model_copy(update={"routing": routing}))
    made: dict[tuple[int, int], Timing] = {}  # what is alike stays one timing
    return tuple(
        replace(
            segment,
            timings=tuple(
                made.get((id(timing), id(other)))
                or made.setdefault((id(timing), id(other)), _with_uneven(timing, other))
                for timing, other in zip(segment.timings, like.timings, strict=True)
            ),
        )
        for segment, like in zip(own, uneven, strict=True)
    )


def _with_uneven(timing: Timing, other: Timing) -> Timing:
    """The timing with what it takes longer as ``other``, if it takes any time."""
    if timing is other:
        return timing
    before, after = timing.seconds, other.seconds
    if not np.all(np.asarray(before) > 0.0) or not np.any(after != before):
        return timing
    return replace(timing, uneven_log=np.log(after / before))


def _layer_counts(scenario: Scenario) -> list[tuple[Layer, int]]:
    """Runs of layers with the count that sets the pace.

    Pipeline stages take turns with as many micro-batches as there are stages, so a token passes the pipeline in
    stages x (time of the slowest stage). Where stages do not divide the layers the slowest has one more: the last
    run is lengthened to stages x ceil(layers / stages).
    """
    pp = scenario.deployment.pp
    counts = [(layer, layer.count) for layer in scenario.model.layers]
    missing = int(ceil_div(scenario.model.num_layers, pp)) * pp - scenario.model.num_layers
    last, count = counts[-1]
    return [*counts[:-1], (last, count + missing)]


def _runs(scenario: Scenario) -> Iterator[tuple[Layer, int, Scenario]]:
    """Runs of equal layers, each with the scenario that it sees: where layers have numbers of real experts of their
    own, a run ends where those change.
    """
    moe, routing = scenario.model.moe, scenario.routing
    rows = layer_activations(moe, routing, scenario.mean_real_experts) if moe else ()
    at = 0
    for layer, count in _layer_counts(scenario):
        if not layer.moe or len(rows) < 2:
            yield layer, count, scenario
            continue
        own = [rows[min(at + i, len(rows) - 1)] for i in range(count)]
        at += count
        for row, same in groupby(own):
            yield layer, len(list(same)), _with_activation(scenario, row)


def _with_activation(scenario: Scenario, row: tuple[Num, ...]) -> Scenario:
    """The scenario with one distribution of real experts for all layers."""
    one = {"activation": (row,), "layer_means": None, "layer_stds": None}
    return scenario.model_copy(update={"routing": scenario.routing.model_copy(update=one)})


def _layer_segment(name: str, layer: Layer, work: Work, scenario: Scenario, count: int) -> Segment:
    """Equal layers under the deployment's schedule."""
    overlap = scenario.deployment.overlap
    if scenario.deployment.ffn_gpus:
        return _apart_segment(name, layer, work, scenario, count)
    parts = num_micro_batches(overlap)
    own = work.scaled(1 / parts)
    ops = layer_ops(layer, own, scenario)
    if scenario.deployment.lora_adapters and scenario.costs != "report":
        slots = slots_of(layer.moe, scenario.deployment) if layer.moe else 0.0
        ops = with_adapters(ops, own, scenario.deployment, slots)
    if scenario.costs == "report":
        ops = report_layer(ops)
    tasks = schedule_layer(overlap, [ops] * parts)
    hides = has_contention(scenario) and overlaps(overlap)
    timings = _with_given(tasks, _alone(_ops(tasks), scenario, beside=hides), scenario, share=1 / parts)
    return Segment(name, tasks, timings, repeat=count, carries=carries_over(overlap), layers=True)


def _apart_segment(
    name: str,
    layer: Layer,
    work: Work,
    scenario: Scenario,
    count: int,
    *,
    drafts: bool = False,
) -> Segment:
    """Equal layers whose attention and FFN have GPUs of their own, between which micro-batches take turns; ``drafts``:
    it is the draft layer, which has no adapters.
    """
    parts = scenario.deployment.ffn_micro_batches
    own = apart_ops(layer, work.scaled(1 / parts), scenario, adapters=not drafts)
    if drafts:
        own = {part: _drafted(ops) for part, ops in own.items()}
    tasks, streams = attention_ffn([own] * parts)
    timings = _with_given(tasks, _apart(_ops(tasks), streams, scenario), scenario, share=1 / parts)
    queued = tuple(
        replace(task, op=replace(task.op, stream=stream)) for task, stream in zip(tasks, streams, strict=True)
    )
    return Segment(name, queued, timings, repeat=count, carries=True, layers=True)


def beside_compute_cost(op: Op, timing: Timing, scenario: Scenario) -> Timing:
    """A transfer under a schedule that hides it takes as long as such transfers were timed beside compute."""
    if not op.is_communication:
        return timing
    stretch, log_std, flag = beside_compute(op, scenario.cluster.gpu.architecture)
    if stretch == 1.0:
        return timing
    return replace(
        timing.scaled(stretch),
        flag="; ".join(filter(None, (timing.flag, flag))),
        log_std=math.hypot(timing.log_std, log_std),
        spread_key=f"{timing.spread_key} in situ" if timing.spread_key and log_std else timing.spread_key,
    )


def _ops(tasks: Sequence[Task]) -> list[Op]:
    return [task.op for task in tasks]


def _with_given(
    tasks: Sequence[Task], alone: tuple[Timing, ...], scenario: Scenario, share: float
) -> tuple[Timing, ...]:
    """Time of each task; a given attention time is spread over attention's ops as they would share it."""
    given_us = scenario.given.attention_us
    if given_us is None:
        return alone
    timings = list(alone)
    for prefix in sorted({task.op.name.split(".")[0] for task in tasks if _is_attention(task.op)}):
        for micro_batch in {task.micro_batch for task in tasks}:
            own = [
                i
                for i, task in enumerate(tasks)
                if _is_attention(task.op)
                and task.op.name.startswith(f"{prefix}.")
                and task.micro_batch == micro_batch
            ]
            total: Num = sum(timings[i].seconds for i in own)
            total = where(np.asarray(total) > 0.0, total, 1.0)  # no work that a float could hold: no time
            for i in own:
                given = timings[i].scaled(given_us * US * share / total, source="given")
                timings[i] = replace(given, spread_key="", log_std=0.0)
    return tuple(timings)


def _alone(ops: Sequence[Op], scenario: Scenario, beside: bool = False) -> tuple[Timing, ...]:
    """Time alone of each op, by the scenario's calibration where it has one; ``beside``: transfers beside compute."""
    calibration = _calibration(scenario)
    slow = scenario.deployment.slowdown
    cost = costing(scenario.cluster, scenario.costs, calibration)

    def alone(op: Op) -> Timing:
        timing = _slowed(op, cost(op), slow)
        return beside_compute_cost(op, timing, scenario) if beside else timing

    return timings_of(ops, alone)


def _apart(ops: Sequence[Op], streams: Sequence[Stream], scenario: Scenario) -> tuple[Timing, ...]:
    """Time alone of ops of two pools that queue on ``streams``: each by its own GPU, and a transfer between two
    clusters by the slower of their networks.
    """
    if scenario.ffns is None:
        return _alone(ops, scenario)
    side = scenario.ffn_side
    found: dict[int, Timing] = {}
    for stream in dict.fromkeys(streams):
        places = [i for i, queue in enumerate(streams) if queue == stream]
        own = [ops[i] for i in places]
        timings = _alone(own, side if stream == Stream.EXPERTS else scenario)
        if stream in (Stream.NETWORK, Stream.LINK):
            ends = zip(timings, _alone(own, side), strict=True)
            timings = tuple(here.or_slower(there) for here, there in ends)
        found |= zip(places, timings, strict=True)
    return tuple(found[i] for i in range(len(ops)))


def _slowed(op: Op, timing: Timing, slow: Slowdown) -> Timing:
    """The time of an op on the slowest GPU."""
    if op.is_communication:
        if slow.link == slow.network == 1.0:
            return timing
        return replace(timing, link_s=timing.link_s * slow.link, network_s=timing.network_s * slow.network)
    return timing if slow.kernels == 1.0 else timing.scaled(slow.kernels)


def _calibration(scenario: Scenario) -> Calibration | None:
    used = scenario.calibration and scenario.costs != "report"
    return load_calibration(scenario.calibration, kernels_of(scenario.deployment.engine)) if used else None


def _is_attention(op: Op) -> bool:
    return op.op_class in (OpClass.ATTENTION, OpClass.INDEXER)


def _chain(name: str, ops: Sequence[Op], scenario: Scenario, repeat: int = 1) -> Segment:
    """Ops in sequence as a segment."""
    graph = Graph()
    graph.chain(ops, stage=name)
    return Segment(name, tuple(graph.tasks), _alone(ops, scenario), repeat=repeat)


def _pipeline(work: Work, scenario: Scenario) -> tuple[Segment, ...]:
    """Activations handed from stage to stage: once per stage, the last one's back to the first."""
    pp = scenario.deployment.pp
    if pp == 1:
        return ()
    op = send_receive("pipeline.send", work.tokens, scenario.model.hidden_size, scenario)
    return (_chain("pipeline", (op,), scenario, repeat=pp),)


def _drafts(scenario: Scenario) -> tuple[Segment, ...]:
    """The draft layer, run once per draft token, or what a draft model does; its ops are classed as draft."""
    deployment, mtp = scenario.deployment, scenario.model.mtp
    if deployment.mtp.drafter is not None:
        return tuple(segment for one in draft_passes(scenario) for segment in _pass_segments(one, scenario))
    if not deployment.mtp.draft_tokens or mtp is None or deployment.phase == "prefill":
        return ()
    passes = ((draft_work(deployment, number), number) for number in range(deployment.mtp.draft_tokens))
    if deployment.ffn_gpus:
        return tuple(one for work, n in passes for one in _drafts_apart(mtp.layer, work, scenario, n))
    return tuple(_draft_segment(mtp.layer, work, scenario, number) for work, number in passes)


def _pass_segments(one: Pass, scenario: Scenario) -> Iterator[Segment]:
    """A pass of a draft model: what stands before its layers, runs of those, head, and what follows token by token."""
    own = scenario.drafting

    def chain(name: str, ops: Sequence[Op], repeat: int = 1) -> Segment:
        return _chain(name, _drafted(ops), own, repeat=repeat)

    yield chain(f"{one.name}, before", one.before)
    for layer, count in one.layers:
        yield chain(one.name, [task.op for task in schedule_layer("sequential", [layer])], repeat=count)
    if one.after:
        yield chain(f"{one.name}, head", one.after)
    if one.tokens:
        yield chain(f"{one.name}, corrected", one.corrected, repeat=one.tokens)


def _drafted(ops: Iterable[Op]) -> tuple[Op, ...]:
    return tuple(replace(op, name=f"draft.{op.name}", op_class=_draft_class(op)) for op in ops)


def _drafts_apart(layer: Layer, work: Work, scenario: Scenario, number: int) -> Iterator[Segment]:
    """A pass of the draft layer over two pools: its micro-batches take turns on the four places once, from the first
    one's way in to the last one's way out, since each pass needs the tokens of the one before.
    """
    before, after = draft_ops(work, scenario)
    yield _chain(f"draft {number}, before", _drafted(before), scenario)
    own = _apart_segment(f"draft {number}", layer, work, scenario, 1, drafts=True)
    yield replace(own, carries=False, tasks=tuple(replace(task, after_previous=()) for task in own.tasks))
    yield _chain(f"draft {number}, head", _drafted(after), scenario)


def _draft_segment(layer: Layer, work: Work, scenario: Scenario, number: int) -> Segment:
    body = [task.op for task in schedule_layer("sequential", [layer_ops(layer, work, scenario)])]
    before, after = draft_ops(work, scenario)
    return _chain(f"draft {number}", _drafted((*before, *body, *after)), scenario)


def _draft_class(op: Op) -> OpClass:
    """Compute of the draft layer is one class of its own; its communication keeps its class."""
    return OpClass.DRAFT if op.stream in COMPUTE_STREAMS else op.op_class

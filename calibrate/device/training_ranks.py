"""Training steps of the reference model over two ranks of this machine: a pipeline, and experts divided between them.

Ranks run what a schedule's order says, send over gloo, and note when they begin and end; a step is from the first
beginning to the last end. As everything that is compared with a calibration, times are those of a machine as fast as
its probe says: each rank probes before and after a step. Ranks are processes on CPUs, whatever the device.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from calibrate.device.steps import DTYPES, forced_ids
from calibrate.device.timing import Bench
from calibrate.device.training_steps import TrainingCase, as_segment, builder_for
from perfmodel.kernels.calibration import Calibration
from perfmodel.overlap.timeline import simulate
from perfmodel.training.overlap import parts_of
from perfmodel.training.pipeline.actions import Action, Kind
from perfmodel.training.pipeline.schedules import schedule
from perfmodel.training.pipeline.simulate import simulate as simulate_pipeline
from perfmodel.training.pipeline.times import StageTimes
from reference_model import kernels
from reference_model.config import SIZES
from reference_model.model import LongcatFlash
from reference_model.parallel import Exchange
from reference_model.ranks import run_ranks
from reference_model.weights import init_weights
from reference_model.work import Cache, Group

RANKS = 2
STEPS = 5
"""Steps of a run; the first one warms up."""
KINDS = ("pipeline", "experts")


def predict(kind: str, case: TrainingCase, calibration: Calibration, path: str, micro_batches: int) -> float:
    """Seconds of a step over two ranks: 1F1B over two halves of the model, or every rank its own tokens and half of the
    experts.
    """
    if kind == "pipeline":
        batch = case.sequences * micro_batches
        split = {"pp": RANKS, "global_batch_sequences": batch}
        return builder_for(case, calibration, path, **split).step().pipeline_s
    split = {"ep": RANKS, "dp": RANKS, "global_batch_sequences": RANKS * case.sequences}
    builder = builder_for(case, calibration, path, **split)
    layers = [builder.layer_chain(layer, layer.count) for layer in builder.scenario.model.layers]
    chains = [builder.first_chain(), *layers, builder.last_chain()]
    ways = as_segment(builder, chains, ("forward",)), as_segment(builder, chains[::-1], ("input", "weight"))
    return simulate(ways, contention=False).step_time_s


def measure(kind: str, case: TrainingCase, micro_batches: int, reference_probe_s: float) -> list[float]:
    """Seconds of every step but the first, each from the first rank's beginning to the last one's end, on a machine
    whose probe takes ``reference_probe_s``.
    """
    spans = run_ranks(_steps, RANKS, kind, case, micro_batches, reference_probe_s)
    return [
        (max(one.end_s for one in step) - min(one.start_s for one in step))
        * reference_probe_s
        / float(np.mean([one.probe_s for one in step]))
        for step in zip(*spans, strict=True)
    ][1:]


def predict_busy(
    kind: str, case: TrainingCase, calibration: Calibration, path: str, micro_batches: int
) -> float:
    """The same without what travels: the pipeline's makespan with free transfers, or a rank's own kernels."""
    if kind == "pipeline":
        split = {"pp": RANKS, "global_batch_sequences": case.sequences * micro_batches}
        step = builder_for(case, calibration, path, **split).step()
        return pipeline_s(step.times.forward_s, np.asarray(step.times.backward_s), micro_batches)
    split = {"ep": RANKS, "dp": RANKS, "global_batch_sequences": RANKS * case.sequences}
    builder = builder_for(case, calibration, path, **split)
    layers = [builder.layer_chain(layer, layer.count) for layer in builder.scenario.model.layers]
    parts = [part for one in (builder.first_chain(), *layers, builder.last_chain()) for part in parts_of(one)]
    kernels_ = [kernel for part in parts for kernel in (*part.forward, *part.input, *part.weight)]
    own = [kernel for kernel in kernels_ if not kernel.op.is_communication]
    return float(sum(builder.costing.alone(kernel).seconds for kernel in own))


def measure_busy(kind: str, case: TrainingCase, micro_batches: int, reference_probe_s: float) -> float:
    """A step as it would be if nothing travelled, on a machine whose probe takes ``reference_probe_s``: every rank's
    own CPU time, the median of each action over steps and micro-batches, in the schedule's order.
    """
    ranks = run_ranks(_busy, RANKS, kind, case, micro_batches, reference_probe_s)
    own = [{name: float(np.median(seconds)) for name, seconds in rank.items()} for rank in ranks]
    if kind == "experts":
        return max(rank["step"] for rank in own)
    forward, back = (np.array([rank[way.name] for rank in own]) for way in (Kind.FORWARD, Kind.BACKWARD))
    return pipeline_s(forward, back, micro_batches)


def pipeline_s(forward_s: np.ndarray, backward_s: np.ndarray, micro_batches: int) -> float:
    """Makespan of 1F1B over two ranks whose transfers are free."""
    none = np.zeros(RANKS)
    times = StageTimes(forward_s, none, none, backward_s)
    return float(simulate_pipeline(schedule("1f1b", RANKS, micro_batches), times).makespan_s)


@dataclass(frozen=True, slots=True)
class Span:
    """One rank's part of a step."""

    start_s: float
    end_s: float
    probe_s: float
    """Mean of the probes before and after it."""


def _rank_bench(reference_probe_s: float, clock: Callable[[], int]) -> Bench:
    """A rank's own probe; memory is kept as where kernels were timed, as this is a process of its own."""
    return Bench("cpu", 1, dist.get_rank(), reference_probe_s=reference_probe_s, clock=clock)


def _busy(
    kind: str, case: TrainingCase, micro_batches: int, reference_probe_s: float
) -> dict[str, list[float]]:
    """CPU time of one rank's own thread, normalised by its probe: of every action of a pipeline, or of whole steps
    without their exchanges.
    """
    bench = _rank_bench(reference_probe_s, time.thread_time_ns)
    config, dtype = SIZES[case.size], DTYPES[case.dtype]
    exchange = TimedExchange(config.n_routed_experts) if kind == "experts" else None
    model = LongcatFlash(config, exchange=exchange, dtype=dtype)
    init_weights(model, seed=0)
    order = schedule("1f1b", RANKS, micro_batches).orders[dist.get_rank()]
    half = Half(model, case, dist.get_rank())
    step = _own_step(model, case)
    found: dict[str, list[float]] = {}
    for number in range(STEPS):
        own: dict[str, list[float]] = {}
        before = bench.probe()
        dist.barrier()
        if exchange is not None:
            travelled = exchange.spent_s
            _noted(own, "step", step)
            own["step"][-1] -= exchange.spent_s - travelled
        else:
            sent: list[dist.Work] = []
            for action in order:
                sent += _noted(own, action.kind.name, lambda action=action: list(half.run(action)))  # type: ignore[misc]
            for work in sent:
                work.wait()
        factor = 2.0 * reference_probe_s / (before + bench.probe())
        for name, seconds in own.items() if number else ():  # the first step warms up
            found.setdefault(name, []).extend(factor * one for one in seconds)
    if exchange is not None:
        exchange.close()
    return found


class TimedExchange(Exchange):
    """An exchange that adds up its own CPU time: gloo copies into and out of sockets in the caller's thread."""

    spent_s = 0.0

    def swap(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """As :meth:`Exchange.swap`."""
        start = time.thread_time()
        came = super().swap(x, send, receive)
        self.spent_s += time.thread_time() - start
        return came


def _noted(found: dict[str, list[float]], name: str, call: Callable[[], Any]) -> Any:
    start = time.thread_time()
    done = call()
    found.setdefault(name, []).append(time.thread_time() - start)
    return done


def _steps(kind: str, case: TrainingCase, micro_batches: int, reference_probe_s: float) -> list[Span]:
    """What one rank does: its part of each step, on the machine's clock."""
    bench = _rank_bench(reference_probe_s, time.perf_counter_ns)
    config, dtype = SIZES[case.size], DTYPES[case.dtype]
    exchange = Exchange(config.n_routed_experts) if kind == "experts" else None
    model = LongcatFlash(config, exchange=exchange, dtype=dtype)
    init_weights(model, seed=0)
    step = _pipeline_step(model, case, micro_batches) if kind == "pipeline" else _own_step(model, case)
    found = []
    for _ in range(STEPS):
        before = bench.probe()
        dist.barrier()
        start = time.perf_counter()
        step()
        end = time.perf_counter()
        found.append(Span(start, end, (before + bench.probe()) / 2))
    if exchange is not None:
        exchange.close()
    return found


def _text(model: LongcatFlash, case: TrainingCase, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, what follows them, and the experts that they go to."""
    random = np.random.default_rng([case.seed, case.tokens, seed])
    size = (case.sequences, case.tokens + 1)
    text = torch.from_numpy(random.integers(0, model.config.vocab_size, size))
    routed = forced_ids(model, case.sequences * case.tokens, case.real_experts, random)
    return text[:, :-1].contiguous(), text[:, 1:].flatten(), routed


def _own_step(model: LongcatFlash, case: TrainingCase) -> Callable[[], None]:
    """Every rank has its own tokens; experts are where they are."""
    inputs, targets, routed = _text(model, case, dist.get_rank())

    def step() -> None:
        model.zero_grad(set_to_none=True)
        group = Group("prefill", inputs, Cache(model.config, *inputs.shape, dtype=model.embedding.dtype))
        logits = model.step([group], routed_ids_NK=routed, all_logits=True)
        functional.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]

    return step


def _pipeline_step(model: LongcatFlash, case: TrainingCase, micro_batches: int) -> Callable[[], None]:
    """One rank's order of 1F1B over the model's two halves."""
    rank = dist.get_rank()
    order = schedule("1f1b", RANKS, micro_batches).orders[rank]
    half = Half(model, case, rank)

    def step() -> None:
        sent = [work for action in order for work in half.run(action)]
        for work in sent:
            work.wait()

    return step


class Half:
    """One of two pipeline stages: the embedding and the first blocks, or the last blocks, the head and the loss."""

    def __init__(self, model: LongcatFlash, case: TrainingCase, rank: int) -> None:
        self.model, self.case, self.first = model, case, rank == 0
        half = len(model.blocks) // 2
        self.blocks = list(model.blocks)[:half] if self.first else list(model.blocks)[half:]
        self.other = 1 - rank
        self.text = _text(model, case, 0)
        self.kept: dict[int, tuple[Tensor | None, Tensor]] = {}
        """Micro-batch -> what came in and what went out."""

    def run(self, action: Action) -> Iterator[dist.Work]:
        """One action; what it sends is under way when it is done."""
        work = (
            self._forward(action.micro_batch)
            if action.kind is Kind.FORWARD
            else self._backward(action.micro_batch)
        )
        if work is not None:
            yield work

    def _forward(self, k: int) -> dist.Work | None:
        model, (inputs, targets, routed) = self.model, self.text
        group = Group("prefill", inputs, Cache(model.config, *inputs.shape, dtype=model.embedding.dtype))
        places = model.rotary.places([group], model.embedding.dtype)
        came = None
        if self.first:
            stream = kernels.embed(inputs.flatten(), model.embedding)
        else:
            came = torch.empty(inputs.numel(), model.config.hidden_size, dtype=model.embedding.dtype)
            dist.recv(came, self.other, tag=k)
            stream = came.requires_grad_()
        delta: Tensor | None = None
        for block in self.blocks:
            stream, delta = block(stream, delta, places, routed_ids_NK=routed)
        if self.first:
            assert delta is not None
            out = kernels.join(stream, delta)
            self.kept[k] = None, out
            return dist.isend(out.detach(), self.other, tag=k)
        rows = kernels.add_norm(stream, delta, model.norm, model.config.rms_norm_eps)[0]
        self.kept[k] = came, functional.cross_entropy(model.logits(rows), targets)
        return None

    def _backward(self, k: int) -> dist.Work | None:
        self.model.zero_grad(set_to_none=True)  # nothing is added up, as the calibration timed it
        came, out = self.kept.pop(k)
        if self.first:
            gradient = torch.empty_like(out)
            dist.recv(gradient, self.other, tag=1000 + k)
            out.backward(gradient)  # type: ignore[no-untyped-call]
            return None
        out.backward()  # type: ignore[no-untyped-call]
        assert came is not None
        assert came.grad is not None
        return dist.isend(came.grad, self.other, tag=1000 + k)

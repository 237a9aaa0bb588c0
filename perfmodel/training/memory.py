"""Device memory of every pipeline rank over a step: what stands (weights, gradients, optimizer state) and what is in
flight.

Bytes per weight: BF16 2, gradient 4 or 2, optimizer state by its formats, each divided by as many data-parallel ranks
as hold it where ZeRO divides it. Activations are exact by what is in flight: a chunk's from its forward to its weight
gradient; in a pair of both, which go layer by layer, a layer's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from perfmodel.engines.memory import runtime_bytes
from perfmodel.numeric import Num, maximum
from perfmodel.ops.layer import layer_ops
from perfmodel.ops.memory import buffer_bytes
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.model import Layer
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training.layout import micro_batch_work
from perfmodel.training.offload import host_state_bytes
from perfmodel.training.parameters import Parameters
from perfmodel.training.pipeline.occupancy import Occupancy, occupancy
from perfmodel.training.pipeline.simulate import Run
from perfmodel.training.saved import (
    head_saved,
    layer_saved,
    layers_saved_bytes,
    loss_bytes,
    replayed_bytes,
)
from perfmodel.training.traffic import WEIGHT_BYTES, state_bytes_per_parameter, updated


@dataclass(frozen=True, slots=True)
class RankMemory:
    """One pipeline rank's memory at its fullest moment, bytes."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    workspace: float
    """What a layer's recomputation or the loss holds for a moment."""
    communication_buffers: float
    runtime: float

    @property
    def total(self) -> float:
        """All classes together."""
        return float(sum(asdict(self).values()))


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Memory of all pipeline ranks."""

    ranks: tuple[RankMemory, ...]
    held: tuple[Occupancy, ...]
    """Activations over the step."""

    @property
    def fullest(self) -> int:
        """The rank that needs most."""
        return max(range(len(self.ranks)), key=lambda rank: self.ranks[rank].total)


def training_memory(
    scenario: Scenario,
    training: Training,
    run: Run,
    stages: Sequence[tuple[Layer, ...]],
    parameters: Sequence[Parameters],
) -> TrainingMemory:
    """Memory of every pipeline rank; ``scenario`` as :func:`perfmodel.training.layout.inner` makes it, ``stages`` and
    ``parameters`` by stage.
    """
    last = len(stages) - 1
    stays = 1.0 - training.offload.activations_fraction
    saved = [
        stays * layers_saved_bytes(own, scenario, training)
        + (end_saved(scenario, training) if stage == last else 0.0)
        for stage, own in enumerate(stages)
    ]
    leads = pair_leads(stages, scenario, training, stays)
    buffers = float(buffer_bytes(scenario, micro_batch_work(training)))
    runtime = runtime_bytes(scenario).start
    ranks, held = [], []
    for rank in range(run.schedule.ranks):
        own = run.schedule.stages_of(rank)
        total = _held(run, rank, parameters)
        one = occupancy(run, rank, saved, leads)
        replayed = max(
            (replayed_bytes(layer, scenario, training) for stage in own for layer in stages[stage]),
            default=0.0,
        )
        weights, gradients = divided_bytes(total, training)
        held.append(one)
        ranks.append(
            RankMemory(
                weights=weights,
                gradients=gradients,
                optimizer=device_state_bytes(total, training),
                activations=one.peak_bytes,
                workspace=max(
                    replayed
                    + max(backward_bytes(layer, scenario, training) for layer in _layers(stages, own)),
                    loss_bytes(scenario, training) if last in own else 0.0,
                )
                + gathered_bytes(total, training, sum(len(stages[stage]) for stage in own))
                + copied_bytes(
                    max(layers_saved_bytes((layer,), scenario, training) for layer in _layers(stages, own)),
                    training,
                ),
                communication_buffers=buffers,
                runtime=runtime,
            )
        )
    return TrainingMemory(tuple(ranks), tuple(held))


@dataclass(frozen=True, slots=True)
class HostMemory:
    """What a host holds for one of its GPUs, bytes."""

    optimizer: float
    """Optimizer state and gradients of what the host updates."""
    activations: float
    """At the fullest moment."""


def host_memory(
    scenario: Scenario,
    training: Training,
    run: Run,
    stages: Sequence[tuple[Layer, ...]],
    parameters: Sequence[Parameters],
) -> tuple[HostMemory, ...]:
    """What hosts hold for a GPU of each pipeline rank; arguments as of :func:`training_memory`."""
    share = training.offload.activations_fraction
    saved = [share * layers_saved_bytes(own, scenario, training) for own in stages]
    leads = pair_leads(stages, scenario, training, share)
    return tuple(
        HostMemory(
            float(host_state_bytes(_held(run, rank, parameters), training)),
            occupancy(run, rank, saved, leads).peak_bytes,
        )
        for rank in range(run.schedule.ranks)
    )


def pair_leads(
    stages: Sequence[tuple[Layer, ...]], scenario: Scenario, training: Training, share: float
) -> list[float]:
    """What a pair's backward frees late in each stage (:func:`perfmodel.training.pipeline.occupancy.beside_backward`):
    ``share`` of its largest layer, of :func:`layers_in_hand`.
    """
    return [
        share
        * layers_in_hand(training)
        * max((layers_saved_bytes((layer,), scenario, training) for layer in own), default=0.0)
        for own in stages
    ]


def layers_in_hand(training: Training) -> float:
    """Layers of which a pair holds forward and backward at once: the one that runs; with weight gradients put off, the
    one before it, too, whose inputs they wait for.
    """
    return 2.0 if training.delay_weights else 1.0


def _held(run: Run, rank: int, parameters: Sequence[Parameters]) -> Parameters:
    return sum((parameters[stage] for stage in run.schedule.stages_of(rank)), Parameters())


def _layers(stages: Sequence[tuple[Layer, ...]], own: Sequence[int]) -> list[Layer]:
    return [layer for stage in own for layer in stages[stage]] or [stages[0][0]]


def backward_bytes(layer: Layer, scenario: Scenario, training: Training) -> float:
    """Gradients that a layer's backward holds at once: of the widest FFN's gate, up and activation, and its output."""
    rows = training.tokens_per_gpu * training.tp
    widths = [rows * 3.0 * layer.dense_ffn_size / training.tp]
    if layer.moe:
        pairs = training.tokens_per_gpu * scenario.mean_real_experts
        widths.append(pairs * (3.0 * layer.moe.ffn_size + scenario.model.hidden_size))
    placeholders = placeholder_bytes(layer, scenario, training) if training.placeholder_gradients else 0.0
    return placeholders + WEIGHT_BYTES * (maximum(0.0, *widths) + rows * scenario.model.hidden_size)


def placeholder_bytes(layer: Layer, scenario: Scenario, training: Training) -> float:
    """One BF16 gradient of every distinct shape of weights: what Transformer Engine hands to autograd where a weight
    gradient was added into the main gradient already, kept from its first use on (``get_dummy_wgrad``). Experts of a
    group have one shape.
    """
    whole = layer_ops(layer, micro_batch_work(training), scenario)
    ops = [op for attention in whole.attentions for op in (*attention.pre, *attention.core)]
    ops += [op for own in whole.ffns for op in own]
    if whole.moe:
        ops += [*whole.moe.shared, *whole.moe.experts]
    shapes = {(op.shape["n"], op.shape["k"]) for op in ops if op.kernel in ("gemm", "grouped_gemm")}
    return WEIGHT_BYTES * float(sum(n * k for n, k in shapes))


def gathered_bytes(parameters: Parameters, training: Training, layers: Num) -> Num:
    """With weights divided (ZeRO 3): two layers' weights whole, and one's gradients."""
    if training.zero < 3:
        return 0.0
    layer = parameters.total / maximum(1, layers)
    return (2.0 * WEIGHT_BYTES + BYTES_PER_ELEMENT[training.optimizer.gradients]) * layer


def device_state_bytes(parameters: Parameters, training: Training) -> Num:
    """Optimizer state that the GPU itself holds."""
    here = 1.0 - training.offload.optimizer_fraction
    return here * state_bytes_per_parameter(training.optimizer) * updated(parameters, training)


def copied_bytes(layer_saved_bytes: Num, training: Training) -> Num:
    """With activations in the host's memory: those of two layers, one that computes and one that travels."""
    return 2.0 * training.offload.activations_fraction * layer_saved_bytes


def end_saved(scenario: Scenario, training: Training) -> float:
    """What head and multi-token prediction leave behind on the last stage."""
    mtp = scenario.model.mtp
    if not (training.mtp and mtp):
        return head_saved(scenario, training)
    return 2.0 * head_saved(scenario, training) + sum(layer_saved(mtp.layer, scenario, training).values())


def divided_bytes(parameters: Parameters, training: Training) -> tuple[Num, Num]:
    """Bytes of weights and of gradients: whole, or a share (the units gathered for use are :func:`gathered_bytes`)."""
    share = updated(parameters, training) if training.zero else parameters.total
    gradient = BYTES_PER_ELEMENT[training.optimizer.gradients]
    weights = WEIGHT_BYTES * (share if training.zero == 3 else parameters.total)
    return weights, gradient * (share if training.zero >= 2 else parameters.total)

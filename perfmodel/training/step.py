"""One training step: stages timed, micro-batches through the pipeline, gradients reduced, weights updated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from perfmodel.kernels.calibration import Calibration
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.gradients import kernel_cost
from perfmodel.kernels.power import capped
from perfmodel.kernels.timing import Timing
from perfmodel.ops.backward import CORES, Kernel
from perfmodel.ops.collective import send_receive
from perfmodel.ops.op import Op, OpClass
from perfmodel.spec.model import Layer
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.step import beside_compute_cost
from perfmodel.training.layout import inner, micro_batch_work, stage_layers, training_of
from perfmodel.training.memory import HostMemory, TrainingMemory, host_memory, training_memory
from perfmodel.training.offload import activations_copy_s
from perfmodel.training.optimizer import update_s
from perfmodel.training.overlap import (
    Chain,
    Costing,
    Phase,
    forward_phase,
    input_phase,
    pair_phase,
    weight_phase,
)
from perfmodel.training.parameters import Parameters, stage_parameters
from perfmodel.training.parts import LayerParts, Part, embedding_part, head_part, layer_parts, mtp_join_part
from perfmodel.training.pipeline.actions import Action, Kind
from perfmodel.training.pipeline.schedules import schedule
from perfmodel.training.pipeline.simulate import Run, simulate
from perfmodel.training.pipeline.times import StageTimes
from perfmodel.training.saved import layers_saved_bytes
from perfmodel.training.supported import check_model
from perfmodel.training.traffic import (
    WEIGHT_BYTES,
    gradient_ops,
    state_bytes_per_parameter,
    updated,
    weight_ops,
)

DETERMINISTIC = 1.0 / 0.95
"""Time of attention's deterministic backward over the other (LongCat-Flash's report, arXiv 2509.01322)."""

EXCHANGE_SMS = 20
"""SMs that DeepSeek-V3 gives to dispatch and combine (arXiv 2412.19437, 3.2.2; grids of 112 of 132 in its trace)."""


@dataclass(frozen=True, slots=True)
class StagePhases:
    """One stage's phases for one micro-batch."""

    forward: Phase
    input: Phase
    weight: Phase
    backward: Phase
    """Both gradients as one action."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What one pipeline rank does once per step, s."""

    gradients_s: float
    """Reducing gradients, alone."""
    gradients_exposed_s: float
    optimizer_s: float
    weights_s: float
    """Gathering weights, alone."""
    weights_exposed_s: float
    host_s: float = 0.0
    """What the host takes for its part of the update, beyond the GPU's."""

    @property
    def seconds(self) -> float:
        """What it adds to the step."""
        return self.gradients_exposed_s + self.optimizer_s + self.weights_exposed_s + self.host_s


@dataclass(frozen=True)
class TrainingStep:
    """A training step, simulated."""

    scenario: Scenario
    inner: Scenario
    """The scenario as one GPU sees it."""
    training: Training
    stages: tuple[tuple[Layer, ...], ...]
    parameters: tuple[Parameters, ...]
    """By stage, on one GPU."""
    phases: tuple[StagePhases, ...]
    pairs: dict[tuple[int, int], Phase]
    times: StageTimes
    run: Run
    tails: tuple[Tail, ...]
    """By pipeline rank."""
    timings: tuple[tuple[Kernel, Timing], ...]
    """Every kernel that was costed, once."""
    calibration: Calibration | None

    @property
    def transfer_s(self) -> float:
        """Activations from one pipeline rank to the next, s."""
        return float(self.times.transfer_s)

    @property
    def pipeline_s(self) -> float:
        """From the first micro-batch's start to what the optimizer waits for."""
        if not self.training.post_validation:
            return self.run.makespan_s
        return max(own[-1].end_s - own[0].start_s for own in self.run.spans)

    @property
    def step_time_s(self) -> float:
        """Time of the step, s."""
        return self.pipeline_s + max(tail.seconds for tail in self.tails)

    @cached_property
    def memory(self) -> TrainingMemory:
        """Memory of every pipeline rank."""
        return training_memory(self.inner, self.training, self.run, self.stages, self.parameters)

    @cached_property
    def host_memory(self) -> tuple[HostMemory, ...]:
        """What hosts hold for a GPU of each pipeline rank."""
        return host_memory(self.inner, self.training, self.run, self.stages, self.parameters)

    @property
    def checkpoint_bytes(self) -> float:
        """What a GPU of the fullest pipeline rank saves: weights in BF16 and optimizer state, each weight once."""
        size = WEIGHT_BYTES + state_bytes_per_parameter(self.training.optimizer)
        divided = self.training.model_copy(update={"zero": max(1, self.training.zero), "dp_replicate": 1})
        held = (
            sum((self.parameters[stage] for stage in self.run.schedule.stages_of(rank)), Parameters())
            for rank in range(self.training.pp)
        )
        return float(size * max(updated(one, divided) for one in held))

    def phase(self, action: Action) -> Phase:
        """What one action is made of."""
        own = self.phases[action.stage]
        if action.kind is Kind.FORWARD:
            return own.forward
        if action.kind is Kind.INPUT:
            return own.input
        if action.kind is Kind.WEIGHT:
            return own.weight
        if action.kind is Kind.BACKWARD:
            return own.backward
        together = self.pairs.get((action.stage, action.other_stage))
        return together if together is not None else own.forward + self.phases[action.other_stage].backward


def simulate_training(scenario: Scenario) -> TrainingStep:
    """Simulate one training step.

    Raises:
        SpecError: no training section, or a layout, schedule or stage boundary that does not fit.
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    check_model(scenario.model)
    training = training_of(scenario)
    return StepBuilder(scenario, training).step()


Memo = dict[tuple[Any, ...], Timing]
"""Kernels that were costed, by what they are: layouts of one scenario share most of them."""


class StepBuilder:
    """Times every distinct part once, then composes."""

    def __init__(self, scenario: Scenario, training: Training, memo: Memo | None = None) -> None:
        self.scenario, self.training = scenario, training
        self.memo: Memo = {} if memo is None else memo
        self.inner = inner(scenario, training)
        self.calibration = load_calibration(scenario.calibration) if scenario.calibration else None
        """Of no serving engine, whatever ``deployment`` names: none of them trains."""
        self.known: dict[tuple[int, bool], tuple[Kernel, Timing]] = {}
        """By identity: parts are made once and kept."""
        self.costing = Costing(
            self._alone,
            self._beside,
            contention=scenario.deployment.contention,
            overlap=training.moe_overlap,
            replay=training.recompute == "full",
            delay_weights=training.delay_weights,
        )
        self.layers: dict[str, LayerParts] = {}
        self.pieces: dict[tuple[tuple[int, ...], str], Phase] = {}

    @cached_property
    def stages(self) -> tuple[tuple[Layer, ...], ...]:
        """Layers of every pipeline stage."""
        return stage_layers(self.scenario.model, self.training)

    def step(self) -> TrainingStep:
        """The step."""
        training = self.training
        chains = [self._chain(stage) for stage in range(len(self.stages))]
        parameters = tuple(
            stage_parameters(
                self.scenario.model, training, own, first=stage == 0, last=stage == len(self.stages) - 1
            )
            for stage, own in enumerate(self.stages)
        )
        phases = tuple(
            self._offloaded(self._gathered(self._phases(chain), own), stage)
            for stage, (chain, own) in enumerate(zip(chains, parameters, strict=True))
        )
        order = schedule(
            training.schedule,
            training.pp,
            training.micro_batches,
            training.virtual_stages,
            paired=training.moe_overlap == "forward-backward",
        )
        pairs = (
            self._pairs(order.orders, chains, phases, parameters)
            if training.moe_overlap == "forward-backward"
            else {}
        )
        times = StageTimes(
            np.array([one.forward.seconds for one in phases]),
            np.array([one.input.seconds for one in phases]),
            np.array([one.weight.seconds for one in phases]),
            np.array([one.backward.seconds for one in phases]),
            pair_s={key: one.seconds for key, one in pairs.items()},
            transfer_s=self.transfer_s(),
            rank_factor=self._rank_factor(),
        )
        run = simulate(order, times)
        tails = tuple(self._tail(order.stages_of(rank), parameters, phases) for rank in range(training.pp))
        return TrainingStep(
            self.scenario,
            self.inner,
            training,
            self.stages,
            parameters,
            phases,
            pairs,
            times,
            run,
            tails,
            tuple(self.known.values()),
            self.calibration,
        )

    def _alone(self, kernel: Kernel) -> Timing:
        return self._known(kernel, beside=False)

    def _beside(self, kernel: Kernel) -> Timing:
        return self._known(kernel, beside=True)

    def _known(self, kernel: Kernel, *, beside: bool) -> Timing:
        key = (id(kernel), beside)
        if key not in self.known:
            self.known[key] = (kernel, self.timed(kernel, beside=beside))
        return self.known[key][1]

    def timed(self, kernel: Kernel, *, beside: bool) -> Timing:
        """How long a kernel takes, alone or beside others."""
        timing = self._cost(kernel)
        if self.training.deterministic and kernel.way == "input" and kernel.base.kernel in CORES:
            timing = timing.scaled(DETERMINISTIC)
        timing = self._capped(kernel.op, timing)
        if beside:
            timing = self._partitioned(kernel.op, beside_compute_cost(kernel.op, timing, self.scenario))
        return timing

    def _capped(self, op: Op, timing: Timing) -> Timing:
        """At the clock that a power cap leaves."""
        cap, power = self.training.power_cap_w, self.scenario.power
        if cap is None or power is None:
            return timing
        return capped(op, timing, self.scenario.cluster.gpu, power, cap)

    def _partitioned(self, op: Op, timing: Timing) -> Timing:
        """DeepSeek-V3's kernels divide the SMs once: grids leave those of dispatch and combine alone, whether one runs
        or not, so exchanges then take nothing from anyone.
        """
        if not self.training.own_fp8_kernels:
            return timing
        if op.is_communication:
            return replace(timing, held_sms=0.0)
        held = EXCHANGE_SMS / self.scenario.cluster.gpu.num_sms
        return replace(timing, compute_s=timing.compute_s / (1.0 - held))

    def _cost(self, kernel: Kernel) -> Timing:
        own, core = self.training.own_fp8_kernels, self.training.attention_kernels
        plain = kernel.base is kernel.op
        key = (kernel.way, own, core, _content(kernel.op), None if plain else _content(kernel.base))
        if key not in self.memo:
            scenario = self.scenario
            self.memo[key] = kernel_cost(
                kernel, scenario.cluster, scenario.costs, self.calibration, own, core
            )
        return self.memo[key]

    def layer_chain(self, layer: Layer, count: int = 1) -> Chain:
        """So many of one layer."""
        return Chain((), (self._parts(layer),) * count, ())

    def first_chain(self) -> Chain:
        """What the first stage has in front of its layers."""
        return Chain((embedding_part(self.inner, self.training),), (), ())

    def last_chain(self) -> Chain:
        """What the last stage has behind its layers."""
        after: tuple[Part, ...] = (head_part(self.inner, self.training),)
        mtp = self.scenario.model.mtp
        if self.training.mtp and mtp is not None:
            join = mtp_join_part(self.inner, self.training)
            own = self._parts(mtp.layer).in_sequence()
            after = (*after, join, *own, head_part(self.inner, self.training, "MTP head"))
        return Chain((), (), after)

    def _parts(self, layer: Layer) -> LayerParts:
        key = layer.model_dump_json()
        if key not in self.layers:
            self.layers[key] = layer_parts(layer, self.inner, self.training)
        return self.layers[key]

    def _chain(self, stage: int) -> Chain:
        """What a stage runs: the embedding in front of the first layers, the head and multi-token prediction at the
        end.
        """
        first, last = stage == 0, stage == len(self.stages) - 1
        layers = tuple(self._parts(layer) for layer in self.stages[stage])
        return Chain(
            self.first_chain().before if first else (), layers, self.last_chain().after if last else ()
        )

    def _phases(self, chain: Chain) -> StagePhases:
        """Phases of a stage: layers join at their ends, so each kind is run once and the rest is a sum."""
        pieces = [Chain((), (layer,), ()) for layer in chain.layers]
        if chain.before or chain.after:
            pieces.append(Chain(chain.before, (), chain.after))
        forward = weight = input_ = backward = Phase()
        for piece in pieces:
            forward += self.phase(piece, "forward")
            input_ += self.phase(piece, "input")
            weight += self.phase(piece, "weight")
            backward += self.phase(piece, "backward")
        return StagePhases(forward, input_, weight, backward)

    def phase(self, piece: Chain, way: str) -> Phase:
        """One phase of a piece of a stage: forward, input, weight or backward (both gradients as one)."""
        key = (_identity(piece), way)
        if key not in self.pieces:
            if way == "forward":
                self.pieces[key] = forward_phase(piece, self.costing)
            elif way == "weight":
                self.pieces[key] = weight_phase(piece, self.costing)
            else:
                self.pieces[key] = input_phase(piece, self.costing, weights=way == "backward")
        return self.pieces[key]

    def _pairs(
        self,
        orders: Sequence[Sequence[Action]],
        chains: Sequence[Chain],
        phases: Sequence[StagePhases],
        parameters: Sequence[Parameters],
    ) -> dict[tuple[int, int], Phase]:
        """A forward beside a backward, for all stages that meet; never longer than one after the other."""
        found: dict[tuple[int, int], Phase] = {}
        known: dict[tuple[tuple[int, ...], ...], Phase] = {}
        for order in orders:
            for action in order:
                key = (action.stage, action.other_stage)
                if action.kind is not Kind.PAIR or key in found:
                    continue
                both = (chains[action.stage], chains[action.other_stage])
                same = (_identity(both[0]), _identity(both[1]))
                if same not in known:
                    known[same] = pair_phase(*both, self.costing)
                after = phases[action.stage].forward + phases[action.other_stage].backward
                together = known[same]
                if self.training.zero == 3:
                    moved = (self._gather_s(parameters[action.stage]), *self._travel_s(parameters[key[1]]))
                    together = _exposing(together, sum(moved))
                if self.training.offload.activations_fraction:  # up for one and down for the other at once
                    copied = max(self._copy_s(stage) for stage in key)
                    together = _exposing(together, copied, OpClass.HOST)
                found[key] = min(together, after, key=lambda phase: phase.seconds)
        return found

    def _gathered(self, phases: StagePhases, parameters: Parameters) -> StagePhases:
        """With weights divided (ZeRO 3) every pass gathers them and every backward reduces gradients: what its own
        compute does not hide.
        """
        if self.training.zero < 3:
            return phases
        gather, reduce = self._travel_s(parameters)
        return StagePhases(
            _exposing(phases.forward, gather),
            _exposing(phases.input, gather),
            _exposing(phases.weight, reduce),
            _exposing(phases.backward, gather + reduce),
        )

    def _offloaded(self, phases: StagePhases, stage: int) -> StagePhases:
        """With activations in the host's memory they go down beside the forward and come up beside the input gradient:
        what compute does not hide.
        """
        if not self.training.offload.activations_fraction:
            return phases
        copied = self._copy_s(stage)
        forward, input_, backward = (
            _exposing(phase, copied, OpClass.HOST)
            for phase in (phases.forward, phases.input, phases.backward)
        )
        return StagePhases(forward, input_, phases.weight, backward)

    def _copy_s(self, stage: int) -> float:
        """A stage's activations between GPU and host, one way."""
        saved = layers_saved_bytes(self.stages[stage], self.inner, self.training)
        return float(activations_copy_s(saved, self.training, self.scenario))

    def _gather_s(self, parameters: Parameters) -> float:
        return self._collective_s(weight_ops(parameters, self.training, self.scenario.cluster))

    def _travel_s(self, parameters: Parameters) -> tuple[float, float]:
        """Gathering a stage's weights, and reducing its gradients, alone."""
        reduced = gradient_ops(parameters, self.training, self.scenario.cluster)
        return self._gather_s(parameters), self._collective_s(reduced)

    def _collective_s(self, ops: Sequence[Op]) -> float:
        return sum(float(self._alone(Kernel.plain(op)).seconds) for op in ops)

    def transfer_s(self) -> float:
        """Activations from one pipeline rank to the next."""
        return 0.0 if self.training.pp == 1 else float(self._alone(self.transfer()).seconds)

    def transfer(self) -> Kernel:
        """What hands activations from one pipeline rank to the next."""
        tokens, hidden = micro_batch_work(self.training).tokens, self.scenario.model.hidden_size
        return Kernel.plain(send_receive("pipeline.send", tokens, hidden, self.inner))

    def _rank_factor(self) -> np.ndarray | None:
        """A slow rank in the middle of the pipeline."""
        if self.training.slowest_rank == 1.0:
            return None
        factor = np.ones(self.training.pp)
        factor[self.training.pp // 2] = self.training.slowest_rank
        return factor

    def _tail(
        self,
        stages: Sequence[int],
        parameters: Sequence[Parameters],
        phases: Sequence[StagePhases],
    ) -> Tail:
        """Gradients are reduced beside the last micro-batch's backward, but for those of its last layer; weights
        gathered beside the first one's forward.
        """
        training, cluster = self.training, self.scenario.cluster
        total = sum((parameters[stage] for stage in stages), Parameters())
        layers = max(1, sum(len(self.stages[stage]) for stage in stages))
        update = update_s(
            total, training, self.scenario, lambda op: float(self._alone(Kernel.plain(op)).seconds)
        )
        optimizer, host = float(update.device_s), float(update.host_s)
        if training.zero == 3:
            return Tail(0.0, 0.0, optimizer, 0.0, 0.0, host)
        gradients = self._collective_s(gradient_ops(total, training, cluster))
        weights = self._collective_s(weight_ops(total, training, cluster))
        inside = (layers - 1) / layers
        backward = sum(phases[stage].backward.seconds for stage in stages) * inside
        forward = sum(phases[stage].forward.seconds for stage in stages) * inside
        return Tail(
            gradients,
            max(gradients / layers, gradients - backward) if training.overlap_gradients else gradients,
            optimizer,
            weights,
            max(weights / layers, weights - forward) if training.overlap_parameters else weights,
            host,
        )


def _exposing(phase: Phase, transfer_s: float, of: OpClass = OpClass.DATA_PARALLEL) -> Phase:
    """The phase beside a transfer of data parallelism, or to the host."""
    exposed = max(0.0, transfer_s - phase.seconds)
    own = Phase(exposed, {of: exposed}, {}, {of: transfer_s})
    return phase + own


def _content(op: Op) -> tuple[Any, ...]:
    """What an op's cost depends on: all but its name."""
    return (
        op.op_class,
        op.kernel,
        op.stream,
        op.flops,
        op.hbm_bytes,
        op.link_bytes,
        op.network_bytes,
        op.dtype,
        op.backend,
        tuple(op.shape.items()),
        op.barrier,
        op.cache_dtype,
        op.inside,
    )


def _identity(chain: Chain) -> tuple[int, ...]:
    """What a chain is made of: parts are made once and kept, so equal ones are the same."""
    return tuple(id(one) for one in (*chain.before, *chain.layers, *chain.after))

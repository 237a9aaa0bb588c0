"""What one GPU of a training layout sees: its share of a micro-batch, as a scenario that the forward builders
understand.

``Deployment`` describes inference, where experts and attention span the same GPUs. Here a group of experts is ep x
etp GPUs, whatever attention's tensor, context and data parallelism is made of, and tensor parallelism always scatters
the sequence between its regions (sequence parallelism).
"""

from collections.abc import Sequence

import numpy as np

from perfmodel.errors import SpecError
from perfmodel.numeric import maximum
from perfmodel.ops.work import Group, Work
from perfmodel.spec.deployment import Deployment, Precision
from perfmodel.spec.model import Layer, Model
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import BatchRamp, Training
from perfmodel.training.capacity import with_capacity
from perfmodel.training.pipeline.schedules import RULES, schedule_problem

MULTIPLIED_AS = {"bf16": "bf16", "fp8": "fp8", "mxfp8": "fp8", "nvfp4": "fp4"}
"""Format of a training step -> number format whose kernels' times stand for it."""


class TrainingLayout(Deployment):
    """A training layout in the words of a deployment."""

    @property
    def stage_gpus(self) -> int:
        """GPUs among which tokens are dispatched."""
        return self.ep * self.moe_tp

    @property
    def replicated(self) -> bool:
        """Sequence parallelism: no two GPUs hold the same tokens."""
        return False


def training_of(scenario: Scenario) -> Training:
    """The scenario's training section; kernels that only Hopper has are left out on other GPUs.

    Raises:
        SpecError: it has none, or the schedule does not take its numbers.
    """
    training = scenario.training
    if training is None:
        raise SpecError(
            "training: missing; perfmodel train needs it, e.g. training: {global_batch_sequences: 1024, dp: 64} "
            "(docs/train.md)"
        )
    problem = schedule_problem(
        training.schedule, training.pp, training.micro_batches, training.virtual_stages
    )
    if problem:
        what = "global_batch_sequences / (dp x micro_batch_sequences)"
        raise SpecError(f"training.schedule = {training.schedule}: {problem} (micro-batches are {what})")
    if training.batch_ramp is not None:
        _check_ramp(training, training.batch_ramp)
    if training.moe_overlap == "forward-backward" and training.schedule not in PAIRED:
        raise SpecError(
            f"training.moe_overlap = forward-backward: schedule {training.schedule} runs no forward beside a backward; "
            f"allowed: {', '.join(PAIRED)}"
        )
    return training if scenario.cluster.gpu.architecture == "hopper" else _without_hoppers(training)


def _without_hoppers(training: Training) -> Training:
    """The training with calibrated kernels where those that it names are known on Hopper alone."""
    named = {
        "fp8_kernels": training.own_fp8_kernels,
        "attention_kernels": training.attention_kernels != "calibrated",
    }
    gone = {key: "calibrated" for key, stated in named.items() if stated}
    return training.model_copy(update=gone) if gone else training


def _check_ramp(training: Training, ramp: BatchRamp) -> None:
    """Refuse a ramp with a batch that the schedule does not take.

    Raises:
        SpecError: as said.
    """
    for batch in ramp.batches(training.global_batch_sequences):
        micro = batch // (training.dp * training.micro_batch_sequences)
        problem = schedule_problem(training.schedule, training.pp, micro, training.virtual_stages)
        if problem:
            raise SpecError(
                f"training.batch_ramp: schedule {training.schedule} with {batch} sequences: {problem}: a larger "
                "start_sequences, or 1f1b"
            )


PAIRED = tuple(name for name, rule in RULES.items() if rule.pairs or rule.paired)
"""Schedules in which a forward may run beside a backward."""


def inner(scenario: Scenario, training: Training) -> Scenario:
    """The scenario as the forward builders take it: one GPU's share of one micro-batch.

    A rank of context parallelism has S/cp new tokens of each sequence, cut in zigzag, so that its queries see on
    average (S + 1) / 2 keys: as many as after (S - S/cp) / 2 tokens that are already there.
    """
    piece = training.sequence_tokens / training.cp
    deployment = TrainingLayout.model_construct(
        phase="prefill",
        attention_dp=maximum(1, training.ep * training.etp // training.tp),  # type: ignore[arg-type]
        attention_tp=training.tp,
        dense_tp=training.tp,
        ep=training.ep,
        moe_tp=training.etp,
        precision=_precision(training),
        all_to_all="all-gather" if training.etp > 1 else training.all_to_all,  # type: ignore[arg-type]  # HybridEP, too
        tp_collectives="nccl",
        prefill_requests_per_gpu=training.micro_batch_sequences / training.tp,
        prefill_tokens=piece,
        prefill_cached_tokens=(training.sequence_tokens - piece) / 2.0,
    )
    changed: dict[str, object] = {"deployment": deployment}
    if training.balanced:
        even = {"popularity": "", "skew": None, "histogram": None, "placement": "contiguous", "drift": 0.0}
        changed["routing"] = scenario.routing.model_copy(
            update={**even, "imbalance": 1.0, "rank_loads": None, "prior_imbalance": 1.0}
        )
    return with_capacity(scenario.model_copy(update=changed), training)


def _precision(training: Training) -> Precision:
    narrow = MULTIPLIED_AS[training.precision]

    def of(part: str) -> str:
        return "bf16" if part in training.bf16_parts else narrow

    return Precision.model_validate(
        {
            "linear": of("attention"),
            "dense": of("dense_ffn"),
            "experts": of("experts"),
            "shared": of("shared"),
            "attention": "bf16",
            "kv_cache": "bf16",
            "dispatch": training.dispatch,
            "combine": "bf16",
        }
    )


def micro_batch_work(training: Training) -> Work:
    """One GPU's share of one micro-batch; with tensor parallelism its tokens are a piece of each sequence."""
    piece = training.sequence_tokens / training.cp
    return Work(
        (
            Group(
                "prefill",
                requests=training.micro_batch_sequences / training.tp,
                new_tokens=piece,
                cached_tokens=(training.sequence_tokens - piece) / 2.0,
            ),
        )
    )


def every_token(work: Work) -> Work:
    """The same tokens where each needs its logits, as the loss does."""
    return Work((Group("decode", requests=work.tokens, new_tokens=1.0, cached_tokens=0.0),))


def model_layers(model: Model) -> tuple[Layer, ...]:
    """Every layer of the model, one by one."""
    return tuple(layer.model_copy(update={"count": 1}) for layer in model.layers for _ in range(layer.count))


def stage_layers(model: Model, training: Training) -> tuple[tuple[Layer, ...], ...]:
    """Layers of each pipeline stage.

    Raises:
        SpecError: stated numbers do not add up, or there are more stages than layers.
    """
    layers, at, found = model_layers(model), 0, []
    for number in _stage_sizes(model, training):
        found.append(layers[at : at + number])
        at += number
    return tuple(found)


def layers_by_stage(model: Model, training: Training) -> np.ndarray:
    """The same as numbers, (stages, the model's runs of equal layers)."""
    runs = np.cumsum([0, *(layer.count for layer in model.layers)])
    stages = np.cumsum([0, *_stage_sizes(model, training)])
    low = np.maximum(stages[:-1, None], runs[:-1])
    high = np.minimum(stages[1:, None], runs[1:])
    found: np.ndarray = np.maximum(high - low, 0).astype(float)
    return found


def _stage_sizes(model: Model, training: Training) -> Sequence[int]:
    """Layers of each stage, as :func:`stage_layers` says."""
    layers, stages, stated = model.num_layers, training.pp * training.virtual_stages, training.stage_layers
    if stated is not None:
        if len(stated) != stages:
            raise SpecError(
                f"training.stage_layers has {len(stated)} values, pp x virtual_stages = {stages} stages need one each"
            )
        if sum(stated) != layers:
            raise SpecError(f"training.stage_layers sums to {sum(stated)}, the model has {layers} layers")
        return stated
    if layers < stages:
        raise SpecError(
            f"training: pp x virtual_stages = {training.pp} x {training.virtual_stages} = {stages} stages, the model "
            f"has {layers} layers: some stages would have none; state training.stage_layers if that is meant"
        )
    return even_layers(layers, stages)


def even_layers(layers: int, stages: int) -> list[int]:
    """As even as can be; the last stage, then the first, has one fewer where they do not divide: head and embedding
    are there.
    """
    least, more = divmod(layers, stages)
    numbers = [least] * stages
    order = [*range(1, stages - 1), 0, stages - 1] if stages > 1 else [0]
    for stage in order[:more]:
        numbers[stage] += 1
    return numbers

"""Whole training steps of the reference model: forwards, the loss and backwards, as ``calibrate check`` measures and
perfmodel predicts them.

Weights' gradients are new in every step (one micro-batch, set to none before), so nothing is added up; the update of
the weights is left out. Experts are forced, uniformly at random: the load is known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from calibrate.device.needs import load_model, training_builder
from calibrate.device.steps import Models, Prediction, forced_ids
from perfmodel.kernels.calibration import Calibration
from perfmodel.overlap.graph import Segment
from perfmodel.overlap.timeline import simulate
from perfmodel.training.overlap import Chain, Sketch, parts_of
from perfmodel.training.step import StepBuilder
from perfmodel.uncertainty import step_interval
from reference_model.config import SIZES
from reference_model.work import Cache, Group


@dataclass(frozen=True, slots=True)
class TrainingCase:
    """One training step of one micro-batch."""

    size: str
    """A name of ``reference_model.config.SIZES``."""
    dtype: str
    sequences: int
    tokens: int
    """Of each sequence."""
    real_experts: int
    """Real experts of each token, out of the top-k."""
    seed: int = 0

    @property
    def label(self) -> str:
        """For people."""
        return f"training step {self.size} {self.sequences} x {self.tokens}, {self.real_experts} real"


def builder_for(case: TrainingCase, calibration: Calibration, path: str, **training: object) -> StepBuilder:
    """Perfmodel's training step for a case; ``path`` is the calibration's folder, ``training`` what differs from one
    device.
    """
    return training_builder(
        load_model(case.size),
        case.dtype,
        case.sequences,
        case.tokens,
        case.real_experts,
        cluster=calibration.document["cluster"],
        calibration=path,
        training=training,
    )


def predict(case: TrainingCase, calibration: Calibration, path: str) -> Prediction:
    """Time of a step by perfmodel's own timeline, with its interval."""
    builder = builder_for(case, calibration, path)
    layers = [builder.layer_chain(layer, layer.count) for layer in load_model(case.size).layers]
    chains = [builder.first_chain(), *layers, builder.last_chain()]
    segment = (
        as_segment(builder, chains, ("forward",)),
        as_segment(builder, chains[::-1], ("input", "weight")),
    )
    seconds = simulate(segment, contention=False).step_time_s
    found = step_interval(segment, common_log_std=calibration.repeat_log_std, contention=False)
    low, high = found or (float("nan"), float("nan"))
    flags = [timing.flag for one in segment for timing in one.timings]
    return Prediction(seconds, low, high, any(flags))


def as_segment(builder: StepBuilder, chains: Sequence[Chain], ways: Sequence[str]) -> Segment:
    """Kernels of pieces of a step, one after the other, as a segment of the timeline."""
    sketch = Sketch(builder.costing.alone)
    last: tuple[int, ...] = ()
    for chain in chains:
        for part in parts_of(chain):
            for way in ways:
                last = sketch.chain(getattr(part, way), last)
    return Segment(" and ".join(ways), sketch.tasks(), tuple(sketch.timings))


def build_training_step(case: TrainingCase, models: Models) -> Callable[[], object]:
    """A call that runs forwards, the loss and backwards once."""
    model = models.get(case.size, case.dtype)
    random = np.random.default_rng([case.seed, case.tokens])
    size = (case.sequences, case.tokens + 1)
    text = torch.from_numpy(random.integers(0, model.config.vocab_size, size)).to(model.embedding.device)
    inputs, targets = text[:, :-1].contiguous(), text[:, 1:].flatten()
    routed = forced_ids(model, case.sequences * case.tokens, case.real_experts, random)

    def step() -> object:
        with torch.inference_mode(False), torch.enable_grad():
            model.zero_grad(set_to_none=True)
            cache = Cache(model.config, *inputs.shape, dtype=model.embedding.dtype, device=inputs.device)
            logits = model.step([Group("prefill", inputs, cache)], routed_ids_NK=routed, all_logits=True)
            loss = functional.cross_entropy(logits, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

    return step


def draw_training_steps(
    sizes: Sequence[str], dtype: str, count: int, *, max_tokens: int, max_context: int, seed: int
) -> list[TrainingCase]:
    """Cases that differ in size, sequences, tokens and real experts; random draws, the same for a seed."""
    random = np.random.default_rng(seed)
    cases = []
    for number in range(count):
        size = sizes[number % len(sizes)]
        longest = min(max_context, max_tokens, SIZES[size].max_position_embeddings)
        tokens = round(float(np.exp(random.uniform(np.log(min(64, longest)), np.log(longest)))))
        sequences = 1 if random.random() < 0.6 else max(1, min(4, max_tokens // tokens))
        experts = min((0, 4, 8, 12)[int(random.integers(4))], SIZES[size].moe_topk)
        cases.append(TrainingCase(size, dtype, sequences, tokens, experts, seed + number))
    return cases

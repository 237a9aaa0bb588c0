"""Whole blocks and steps of the reference model: what a calibration is checked against.

A step case says what perfmodel would be asked (phase, batch, context, new tokens, real experts per token) and builds
the call that does just that on the reference model. Experts are forced, uniformly at random: the load is known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from calibrate.device.needs import load_model, reference_scenario
from perfmodel.kernels.calibration import Calibration
from perfmodel.overlap.graph import Segment
from perfmodel.overlap.timeline import simulate
from perfmodel.spec.scenario import Scenario
from perfmodel.step import has_contention, step_segments
from perfmodel.uncertainty import step_interval
from reference_model import kernels
from reference_model.config import SIZES
from reference_model.model import LongcatFlash
from reference_model.weights import init_weights
from reference_model.work import Cache, Group

if TYPE_CHECKING:
    from torch import Tensor

Phase = Literal["decode", "prefill", "mixed"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class StepCase:
    """One block, or one whole step, of a size of the reference model."""

    size: str
    """A name of ``reference_model.config.SIZES``."""
    dtype: str
    what: Literal["block", "step"]
    """``block``: one ScMoE block alone; ``step``: embedding, all blocks, head and the choice of tokens."""
    phase: Phase
    real_experts: int
    """Real experts of each token, out of the top-k."""
    batch: int = 0
    """Decoding requests."""
    new_tokens: int = 1
    """New tokens of each decoding request: 1, or more where drafts are verified."""
    context: int = 0
    """Cached tokens of each decoding request."""
    prefill_requests: int = 0
    prefill_tokens: int = 0
    """New tokens of each prefilling request."""
    prefill_cached: int = 0
    """Cached tokens of each prefilling request."""
    seed: int = 0

    @property
    def label(self) -> str:
        """For people."""
        parts = [self.what, self.size, self.phase]
        if self.batch:
            parts.append(f"{self.batch} x {self.new_tokens} at {self.context}")
        if self.prefill_requests:
            parts.append(f"prefill {self.prefill_requests} x {self.prefill_tokens} at {self.prefill_cached}")
        return " ".join([*parts, f"{self.real_experts} real"])

    @property
    def tokens(self) -> int:
        """New tokens of the step."""
        return self.batch * self.new_tokens + self.prefill_requests * self.prefill_tokens


@dataclass(frozen=True, slots=True)
class Prediction:
    """What perfmodel says of a step case."""

    seconds: float
    low_s: float
    """Lower end of the 80 % interval."""
    high_s: float
    outside: bool
    """Whether some op left the domain of its curve."""


def predict(case: StepCase, calibration: Calibration, path: str) -> Prediction:
    """Time by perfmodel's own timeline, with its interval. ``path`` is the calibration's folder."""
    segments, scenario = segments_of(case, calibration, path)
    contention = has_contention(scenario)
    seconds = simulate(segments, contention=contention).step_time_s
    found = step_interval(segments, common_log_std=calibration.repeat_log_std, contention=contention)
    low, high = found or (float("nan"), float("nan"))  # some op has no curve: no interval, so none is kept
    flags = [timing.flag for segment in segments for timing in segment.timings]
    return Prediction(seconds, low, high, any(flags))


def segments_of(case: StepCase, calibration: Calibration, path: str) -> tuple[list[Segment], Scenario]:
    """The step's segments without the draft layer, which the model's step does not run; of a block, one layer."""
    scenario = scenario_of(case, calibration, path)
    segments = [s for s in step_segments(scenario) if not s.name.startswith("draft")]
    if case.what == "block":
        segments = [replace(s, repeat=1) for s in segments if s.name.startswith("layers")]
    return segments, scenario


def scenario_of(case: StepCase, calibration: Calibration, path: str) -> Scenario:
    """The question that perfmodel is asked."""
    deployment: dict[str, Any] = {"phase": case.phase}
    if case.batch:
        deployment |= {"batch_per_gpu": case.batch, "context_tokens": case.context}
        drafts = case.new_tokens - 1
        deployment["mtp"] = {"draft_tokens": drafts, "acceptance": 0.0}
    if case.prefill_requests:
        deployment |= {
            "prefill_requests_per_gpu": case.prefill_requests,
            "prefill_tokens": case.prefill_tokens,
            "prefill_cached_tokens": case.prefill_cached,
        }
    return reference_scenario(
        load_model(case.size),
        case.dtype,
        deployment,
        cluster=calibration.document["cluster"],
        routing={"mean_real_experts": case.real_experts},
        calibration=path,
    )


class Models:
    """Reference models with random weights, built when first asked for and kept."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._models: dict[tuple[str, str], LongcatFlash] = {}

    def get(self, size: str, dtype: str) -> LongcatFlash:
        """The model of a size."""
        key = size, dtype
        if key not in self._models:
            model = LongcatFlash(SIZES[size], dtype=DTYPES[dtype], device=self.device)
            init_weights(model, seed=0)
            self._models[key] = model.eval()
        return self._models[key]


def build_step(case: StepCase, models: Models) -> Callable[[], object]:
    """A call that runs the case once, on caches that are as full as it says.

    A block's call takes the model's blocks in turn, so that its weights are as cold as in a step.
    """
    model = models.get(case.size, case.dtype)
    random = np.random.default_rng([case.seed, case.tokens])
    groups = _groups(case, model, random)
    lengths = [group.cache.length for group in groups]
    routed = forced_ids(model, case.tokens, case.real_experts, random)
    if case.what == "block":
        return _block_call(model, groups, routed, random)

    def step() -> object:
        for group, length in zip(groups, lengths, strict=True):
            group.cache.length = length
        return kernels.greedy(model.step(groups, routed_ids_NK=routed))

    return step


def forced_ids(model: LongcatFlash, tokens: int, real_experts: int, random: np.random.Generator) -> "Tensor":
    """[N, K] ids: that many distinct real experts, uniformly at random, the rest zero-computation ones."""
    config = model.config
    real = random.permuted(np.tile(np.arange(config.n_routed_experts), (tokens, 1)), axis=1)[:, :real_experts]
    zero_count = config.moe_topk - real_experts
    zero = np.arange(config.n_routed_experts, config.num_experts)
    ids = np.concatenate([real, np.tile(zero[:zero_count], (tokens, 1))], axis=1)
    return torch.from_numpy(np.ascontiguousarray(ids)).to(model.embedding.device)


def _groups(case: StepCase, model: LongcatFlash, random: np.random.Generator) -> list[Group]:
    groups = []
    if case.batch:
        groups.append(_group("decode", case.batch, case.new_tokens, case.context, model, random))
    if case.prefill_requests:
        groups.append(
            _group("prefill", case.prefill_requests, case.prefill_tokens, case.prefill_cached, model, random)
        )
    return groups


def _group(
    kind: Literal["decode", "prefill"],
    requests: int,
    new: int,
    cached: int,
    model: LongcatFlash,
    random: np.random.Generator,
) -> Group:
    embedding = model.embedding
    ids = torch.from_numpy(random.integers(0, model.config.vocab_size, (requests, new)))
    kept = Cache(model.config, requests, cached + new, dtype=embedding.dtype, device=embedding.device)
    for rows in (*kept.latents, *kept.index_keys):
        rows.normal_()
    kept.length = cached
    return Group(kind, ids.to(embedding.device), kept)


def _block_call(
    model: LongcatFlash, groups: Sequence[Group], routed: "Tensor", random: np.random.Generator
) -> Callable[[], object]:
    """Blocks in turn on a residual stream and a delta, as in the middle of a step."""
    config, embedding = model.config, model.embedding
    tokens = sum(group.ids_BT.numel() for group in groups)
    streams = [
        torch.from_numpy(random.standard_normal((tokens, config.hidden_size))).to(embedding) for _ in range(2)
    ]
    places = model.rotary.places(groups, embedding.dtype)
    turn = 0

    def block() -> object:
        nonlocal turn
        turn += 1
        return model.blocks[turn % len(model.blocks)](*streams, places, routed_ids_NK=routed)

    return block


def draw_steps(
    sizes: Sequence[str],
    dtype: str,
    count: int,
    *,
    max_tokens: int,
    max_context: int,
    seed: int,
) -> list[StepCase]:
    """Cases that differ in size, phase, batch, context and real experts: random draws, the same for a seed.

    Blocks and steps, phases and sizes take turns, so that each combination is covered; 0, 4, 8 or 12 real experts are
    drawn at random. No request is longer than its model takes.
    """
    random = np.random.default_rng(seed)
    kinds: Sequence[Literal["block", "step"]] = ("block", "step")
    phases: Sequence[Phase] = ("decode", "prefill", "mixed")
    cases = []
    for number in range(count):
        size, phase = sizes[number // 6 % len(sizes)], phases[number // 2 % 3]
        experts = (0, 4, 8, 12)[int(random.integers(4))]
        experts = min(experts, SIZES[size].moe_topk)
        longest = min(max_context, SIZES[size].max_position_embeddings)
        work = _draw_work(phase, random, max_tokens, longest)
        cases.append(StepCase(size, dtype, kinds[number % 2], phase, experts, seed=seed + number, **work))
    return cases


def _draw_work(
    phase: Phase, random: np.random.Generator, max_tokens: int, max_context: int
) -> Mapping[str, int]:
    """Batch, context and tokens, uniform in logarithms."""

    def log_uniform(low: float, high: float) -> int:
        return round(float(np.exp(random.uniform(np.log(low), np.log(max(high, low))))))

    work: dict[str, int] = {}
    share = 0.5 if phase == "mixed" else 1.0
    if phase != "prefill":
        work["batch"] = log_uniform(1, max_tokens * share / 4)
        # many requests with long contexts would be more cache than any profile was asked for
        longest = min(max_context - 8, max(max_context * max_tokens / 8 / work["batch"], 16))
        work["context"] = log_uniform(16, longest)
        work["new_tokens"] = (1, 1, 2, 4)[int(random.integers(4))]
    if phase != "decode":
        work["prefill_requests"] = 1 if random.random() < 0.7 else 2
        most = min(max_tokens * share / work["prefill_requests"], max_context - 8)
        work["prefill_tokens"] = log_uniform(16, most)
        room = max_context - work["prefill_tokens"]
        work["prefill_cached"] = log_uniform(16, room) if random.random() < 0.4 and room > 32 else 0
    return work

"""Whether a layout runs at all, and the one limit on its batch: the least of memory, dispatch buffers and scheduler.

Every command asks here: what ``step`` refuses is what a curve leaves out, a slider ends at and ``serve`` queues.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.engines.legality import refusal
from perfmodel.errors import InfeasibleError
from perfmodel.ops.lora import adapter_bytes
from perfmodel.ops.memory import ffn_side_bytes, step_memory, usable_bytes
from perfmodel.ops.work import step_work
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import Scenario
from perfmodel.units import GB

LOW_LATENCY = "deepep-low-latency"
SETTING = {
    "atom": "gpu_memory_utilization",
    "sglang": "mem_fraction_static",
    "trtllm": "free_gpu_memory_fraction",
    "vllm": "gpu_memory_utilization",
}
"""What an engine calls ``deployment.memory_utilization``."""
MOST = 2**20
BETWEEN = 32
"""Batches that are asked at once."""
"""Most requests of an attention group that are looked for."""
ROUNDING = 1e-9
"""Slack for a batch that is a fraction: a third of a request, three times, is one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Whole requests of one attention group that each limit allows: decoding ones, in prefill prompts."""

    memory: int
    """What device memory holds beside weights, activations, buffers and the runtime."""
    dispatch: int | None
    """What DeepEP low-latency's buffers are sized for; None: no such limit."""
    scheduler: int
    """``serving.max_running``."""
    gpus: int
    """Of the group: ``attention_tp``."""

    @property
    def per_group(self) -> int:
        """The least of them; 0: not even one request."""
        return min(self.memory, self.scheduler, MOST if self.dispatch is None else self.dispatch)

    @property
    def fits(self) -> float:
        """The largest batch per GPU: the least of them over the group's GPUs, which share it; whole where it is."""
        return self.per_group if self.gpus == 1 else _plain(self.per_group / self.gpus)

    @property
    def bound_by(self) -> str:
        """Which of them it is, in words."""
        if self.per_group == self.memory:
            return "memory"
        return "dispatch buffers" if self.per_group == self.dispatch else "scheduler"

    @property
    def text(self) -> str:
        """What fits, in words."""
        shared = f", {self.per_group:,} per attention group of {self.gpus}" if self.gpus > 1 else ""
        return f"{self.fits:.10g} requests per GPU ({self.bound_by}{shared})"


def _plain(value: float) -> float:
    """A whole number as one: it is printed without a point."""
    return int(value) if float(value).is_integer() else value


def batch_key(scenario: Scenario) -> str:
    """Key path of what is limited: decoding requests per GPU, in prefill prompts per GPU."""
    prefill = scenario.deployment.phase == "prefill"
    return f"deployment.{'prefill_requests_per_gpu' if prefill else 'batch_per_gpu'}"


def batch_of(scenario: Scenario) -> float:
    """The scenario's own value of it."""
    d = scenario.deployment
    return float(d.prefill_requests_per_gpu if d.phase == "prefill" else d.batch_per_gpu)


def with_batch(scenario: Scenario, batch: float) -> Scenario:
    """The scenario with another value of it."""
    changed = {batch_key(scenario).split(".")[1]: batch}
    return scenario.model_copy(update={"deployment": scenario.deployment.model_copy(update=changed)})


def limits(scenario: Scenario) -> Limits:
    """The limits of a scenario's step, whatever its own batch."""
    return Limits(
        _memory_limit(scenario),
        _dispatch_limit(scenario),
        _scheduler_limit(scenario),
        scenario.deployment.attention_tp,
    )


def longest_context(scenario: Scenario) -> int:
    """The longest context, tokens per request, that the scenario's batch fits with: memory's limit, or the model's own.
    0: none does.
    """
    prefill = scenario.deployment.phase == "prefill"
    key = f"deployment.{'prefill' if prefill else 'context'}_tokens"

    def least_too_long(tokens: Any) -> int:
        fits = _fits(with_arrays(scenario, {key: tokens.astype(float)}, checked=False), tokens.shape)
        return int(np.argmin(np.append(fits, False)))

    low, high = 0, scenario.model.max_context_tokens + 1
    while high - low > 1:
        between = np.unique(np.linspace(low, high, BETWEEN + 2, dtype=int)[1:-1].clip(low + 1, high - 1))
        place = least_too_long(between)
        ends = [low, *map(int, between), high]
        low, high = ends[place], ends[place + 1]
    return low


def requests_per_rank(scenario: Scenario) -> int:
    """Requests of one attention group that may decode together under ``serve``, whose cache is the other limit: the
    least of scheduler and dispatch buffers. Of a pipeline all micro-batches together.

    Raises:
        InfeasibleError: low-latency's buffers do not hold one request's tokens.
    """
    decode = scenario.model_copy(
        update={"deployment": scenario.deployment.model_copy(update={"phase": "decode"})}
    )
    dispatch = _dispatch_limit(decode)
    if dispatch == 0:
        one = with_batch(decode, 1.0 / decode.deployment.attention_tp)
        raise InfeasibleError(_dispatch_problem(one) or "")
    stages = decode.deployment.pp
    return min(decode.serving.max_running, MOST if dispatch is None else stages * dispatch)


def check_layout(scenario: Scenario) -> None:
    """Refuse a layout that the engine would not load, of prefill replicas too where those are apart.

    Raises:
        InfeasibleError: with the reason and the way out.
    """
    if scenario.costs == "report":
        return
    text = refusal(scenario)
    if text:
        raise InfeasibleError(text)
    side = scenario.prefill_side
    text = refusal(side) if side is not None else None
    if text:
        raise InfeasibleError(f"prefill.{text}")


def check_runs(scenario: Scenario) -> None:
    """Refuse a step that could not run; what a report counts (``costs: report``) is not asked to.

    Raises:
        InfeasibleError: a layout that the engine would not load, or more requests than memory, dispatch buffers or the
            scheduler take.
    """
    check_layout(scenario)
    if scenario.costs == "report":
        return
    problems = (_ffn_side_problem(scenario), _memory_problem(scenario))
    for text in (*problems, _dispatch_problem(scenario), _scheduler_problem(scenario)):
        if text:
            raise InfeasibleError(text)


def runs(scenario: Scenario) -> bool:
    """Whether :func:`check_runs` lets a scenario pass."""
    try:
        check_runs(scenario)
    except InfeasibleError:
        return False
    return True


def _fits(sized: Scenario, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether memory holds the step of each of a scenario's array of sizes: on GPUs of FFNs alone, too."""
    fits = np.asarray(step_memory(sized).total <= usable_bytes(sized))
    if sized.deployment.ffn_gpus:
        fits = fits & np.asarray(sum(ffn_side_bytes(sized)) <= sized.ffn_cluster.gpu.memory_bytes)
    return np.broadcast_to(fits, shape)


def _largest(scenario: Scenario) -> str:
    """What fits, for a message."""
    found = limits(scenario)
    if not found.fits:
        return f"not even one request per attention group fits ({found.bound_by})"
    return f"largest batch that fits: {found.text}"


def _ffn_side_problem(s: Scenario, lower: str = "") -> str | None:
    """Whether GPUs that compute FFNs alone hold them, or None where there are no such, too; ``lower``: what makes their
    step smaller, if not its batch.
    """
    d, gpu = s.deployment, s.ffn_cluster.gpu
    if not d.ffn_gpus:
        return None
    device = float(gpu.memory_bytes)
    kept, step = (float(np.max(np.asarray(part))) for part in ffn_side_bytes(s))
    if kept + step <= device:
        return None
    ways = ["spread them over more"] if s.model.moe else []
    if d.dense_tp < d.ffn_gpus and any(layer.dense_ffn_size for layer in s.model.layers):
        ways.append(f"divide dense FFNs (deployment.dense_tp = {d.dense_tp})")
    if kept < device:
        ways.append(f"lower {lower}" if lower else f"lower the batch; {_largest(s)}")
    kind = f"{gpu.name} GPUs" if s.two_clusters else "GPUs"
    return (
        f"does not fit: FFNs and experts need {(kept + step) / GB:.1f} GB on each of deployment.ffn_gpus = "
        f"{d.ffn_gpus} {kind} of {device / GB:.1f}, {kept / GB:.1f} of it for weights and the "
        f"runtime{_adapters(s, ffns_alone=True)}: {', or '.join(ways) or 'take GPUs with more memory'}"
    )


def check_ffn_side(scenario: Scenario, *, prompt_tokens: int, decodes: int) -> None:
    """Refuse GPUs of FFNs alone that do not hold them beside the largest step under traffic: ``decodes`` requests of
    each attention group, or ``prompt_tokens`` of prompts. Nothing is asked where all GPUs do both.

    Raises:
        InfeasibleError: with what they need.
    """
    if not scenario.deployment.ffn_gpus:
        return
    per_gpu = 1.0 / scenario.deployment.attention_tp
    prompts = {
        "phase": "prefill",
        "prefill_requests_per_gpu": per_gpu,
        "prefill_tokens": float(prompt_tokens),
        "prefill_cached_tokens": 0.0,
    }
    for lower, changed in (
        ("serving.max_running", {"phase": "decode", "batch_per_gpu": decodes * per_gpu}),
        ("serving.max_batched_tokens", prompts),
    ):
        step = scenario.model_copy(update={"deployment": scenario.deployment.model_copy(update=changed)})
        text = _ffn_side_problem(step, lower)
        if text:
            raise InfeasibleError(text)


def _memory_problem(s: Scenario) -> str | None:
    memory, usable, device = step_memory(s), usable_bytes(s), s.cluster.gpu.memory_bytes
    if memory.total <= usable:
        return None
    parts = ", ".join(f"{name} {value / GB:.1f}" for name, value in memory.as_dict().items())
    parts += _adapters(s)
    kept = ""
    if s.deployment.engine and memory.total <= device:
        setting = SETTING.get(s.deployment.engine, "its setting")
        kept = f", or raise deployment.memory_utilization ({s.deployment.engine}'s {setting})"
    some = "Lower the batch (under traffic, `perfmodel serve` lets the rest wait) or the context"
    lower = some if _memory_limit(s) else "Lower the context"
    return (
        f"does not fit: {memory.total / GB:.1f} GB needed per GPU ({parts}), {usable / GB:.1f} GB usable of "
        f"{device / GB:.1f}; {_largest(s)}. {lower}, spread weights over more GPUs{kept}{_narrower(s)}"
    )


def no_cache_left(s: Scenario, tokens: int, weights: float) -> str:
    """Why a rank's cache would hold no more than so many ``tokens``, less than a block, and what helps: beside so many
    bytes of ``weights`` per GPU.
    """
    usable = usable_bytes(s)
    helps = "spread weights over more GPUs"
    if weights < usable:
        helps = f"lower serving.max_batched_tokens, raise deployment.memory_utilization, or {helps}"
    return (
        f"the KV cache would hold {tokens} tokens per rank, less than one block of {s.serving.block_tokens}, beside "
        f"{weights / GB:.1f} GB of weights per GPU of {s.cluster.gpu.memory_bytes / GB:.1f}, of which "
        f"{usable / GB:.1f} may be used{_adapters(s)}: {helps}{_narrower(s)}"
    )


def _adapters(s: Scenario, *, ffns_alone: bool = False) -> str:
    """How much of the weights are adapters' where there are any, for a message; ``ffns_alone``: on a GPU of FFNs."""
    if not s.deployment.lora_adapters:
        return ""
    deployment = s.ffn_side.deployment if ffns_alone else s.deployment
    own = adapter_bytes(s.model, deployment, ffns_alone=ffns_alone) / GB
    return f"; {own:.1f} of the weights are adapters, fewer with deployment.lora_targets or lora_rank"


def _narrower(s: Scenario) -> str:
    """What weights in FP8 would take, where BF16 ones are what does not fit and FP8 ones would; else empty."""
    precision = s.deployment.precision
    if _memory_limit(s) or {precision.linear, precision.experts} != {"bf16"}:
        return ""
    in_fp8 = precision.model_copy(update={"linear": "fp8", "experts": "fp8"})
    other = s.model_copy(update={"deployment": s.deployment.model_copy(update={"precision": in_fp8})})
    if refusal(other) or step_memory(other).total > usable_bytes(other):
        return ""
    now, then = step_memory(s).weights / GB, step_memory(other).weights / GB
    return (
        f", or serve FP8 weights: {then:.1f} GB instead of {now:.1f} "
        "(deployment.precision.linear=fp8, deployment.precision.experts=fp8)"
    )


def _dispatch_problem(s: Scenario) -> str | None:
    d, tokens = s.deployment, step_work(s.deployment).tokens
    if d.backend != LOW_LATENCY or tokens <= d.low_latency_max_tokens_per_gpu * (1.0 + ROUNDING):
        return None
    return (
        f"{number_of(tokens, 'token')} per GPU exceed deployment.low_latency_max_tokens_per_gpu = "
        f"{d.low_latency_max_tokens_per_gpu}, which DeepEP low-latency's buffers are sized for; {_largest(s)}. "
        f"Raise it (buffers grow) or set deployment.all_to_all=deepep-normal"
    )


def _scheduler_problem(s: Scenario) -> str | None:
    requests = sum(float(group.requests) for group in step_work(s.deployment).groups)
    per_rank = requests * s.deployment.attention_tp * s.deployment.pp
    if per_rank <= s.serving.max_running * (1.0 + ROUNDING):
        return None
    return (
        f"{number_of(per_rank, 'request')} per rank exceed serving.max_running = {s.serving.max_running}, which the "
        f"scheduler takes; {_largest(s)}. Raise it, or lower {batch_key(s)}"
    )


def _memory_limit(scenario: Scenario) -> int:
    """Memory never falls with the batch, so the largest lies between two of ever closer ones."""
    path, gpus = batch_key(scenario), scenario.deployment.attention_tp

    def least_too_large(requests: Any) -> int:
        """The place of the first that does not fit; their number if all do."""
        fits = _fits(with_arrays(scenario, {path: requests / gpus}, checked=False), requests.shape)
        return int(np.argmin(np.append(fits, False)))

    doubled = 2 ** np.arange(MOST.bit_length() - 1)
    place = least_too_large(doubled)
    low, high = (int(doubled[place - 1]) if place else 0), 2**place
    while high - low > 1:
        between = np.linspace(low, high, BETWEEN + 2, dtype=int)[1:-1].clip(low + 1, high - 1)
        place = least_too_large(between)
        ends = [low, *map(int, between), high]
        low, high = ends[place], ends[place + 1]
    return low


def _dispatch_limit(scenario: Scenario) -> int | None:
    d = scenario.deployment
    if d.backend != LOW_LATENCY:
        return None
    of_batch, *others = step_work(d).groups
    tokens = d.low_latency_max_tokens_per_gpu - sum(group.tokens for group in others)
    return max(0, math.floor(tokens * d.attention_tp / of_batch.new_tokens + ROUNDING))


def _scheduler_limit(scenario: Scenario) -> int:
    d = scenario.deployment
    _, *others = step_work(d).groups
    beside = d.attention_tp * sum(group.requests for group in others)
    # a scheduler has all micro-batches of a pipeline
    return max(0, math.floor(scenario.serving.max_running / d.pp - beside + ROUNDING))

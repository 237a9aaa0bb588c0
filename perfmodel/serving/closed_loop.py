"""Closed loop, in the mean: a fixed number of requests in the system, and the mean step that they see.

Public benchmarks keep C requests in flight: each that ends is replaced at once. In the steady state N of them decode,
and every decode step ends N / (osl - 1) requests on average, so that as many prompts must be prefilled meanwhile. What
a prompt costs the others depends on the engine's policy:

    prefill-first  prompts run alone while decodes wait:      TPOT = t_d(N) + f x t_p / b
    mixed          prompt tokens join a decode step:          TPOT = t_d(N) + f x k x (t_m(N) - t_d(N))

with f = N / (osl - 1) x (C - 1) / C prompts of other requests per decode step, t_p the time of one prefill step of b
prompts, and t_m that of a step that carries one of a prompt's k chunks beside the decodes; with b prompts to a chunk,
k = 1 / b. At most every step can carry a chunk: where N / (osl - 1) x k would exceed 1, N is what makes it 1, and
requests queue. N follows from Little's law: a request spends TTFT waiting and in prefill, and (osl - 1) TPOT decoding,
so N = C x decode / (TTFT + decode), solved as a fixed point. Disaggregated, decodes run undisturbed and prompts queue
at their own instances.

Requests are taken as equal, of mean length; the first wave and the last, which drains, are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from perfmodel.errors import SpecError
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.workload import DEFAULT_INPUT, DEFAULT_OUTPUT
from perfmodel.step import drawable, has_contention, predict_steps
from perfmodel.uncertainty import Array, drawn_step_times

ITERATIONS = 200
TOLERANCE = 1e-9
POINTS = 12
"""Batch sizes at which the step time is asked; between them it is interpolated."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """A closed-loop benchmark of one instance (or of several equal decode instances)."""

    concurrency: float
    """Requests in flight, of all instances."""
    input_tokens: float
    """Mean prompt length."""
    output_tokens: float
    """Mean number of generated tokens, at least 2."""
    policy: Literal["prefill-first", "mixed", "disaggregated"]
    chunk_tokens: float
    """Most prompt tokens of one step."""
    max_running: float = np.inf
    """Most requests that decode at once."""
    poll_steps: float = 1.0
    """Decode steps between two looks at newly arrived requests."""
    ranks_together: int = 1
    """Data-parallel ranks that the engine makes prefill in the same step (each its own prompts), by holding prompts
    back until every rank has one; 1: prompts run as they come."""


@dataclass(frozen=True, slots=True)
class MeanStep:
    """The mean step of a closed loop."""

    tpot_s: float
    """Mean time between two tokens of a request, s."""
    decode_step_s: float
    """Time of a step that only decodes, s."""
    prefill_step_s: float
    """Time of a step that carries a chunk (mixed), or of a prefill step (otherwise), s."""
    running: float
    """Requests that decode at once, of all instances."""
    steps_with_prefill: float
    """Share of decode steps that carry or wait for a prefill step."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The scenarios of a closed loop's steps, of which times are asked."""

    decode: Scenario
    """Phase decode; ``batch_per_gpu`` is replaced."""
    prefill: Scenario
    """Phase prefill, of the prefill instance where disaggregated; its requests and tokens are replaced."""
    decode_instances: int = 1
    prefill_instances: int = 1


def steps_of(scenario: Scenario) -> Steps:
    """The steps of a scenario's replicas."""
    side = scenario.prefill_side
    prefill = scenario if side is None else side
    return Steps(
        _in_phase(scenario, "decode"),
        _in_phase(prefill, "prefill"),
        scenario.serving.replicas,
        prefill.serving.replicas,
    )


def loop_of(scenario: Scenario) -> ClosedLoop:
    """A scenario's closed loop in the mean: ``workload.max_concurrency`` requests of mean length in flight.

    Raises:
        SpecError: the workload is no closed loop.
    """
    workload, serving, deployment = scenario.workload, scenario.serving, scenario.deployment
    if workload.max_concurrency is None or workload.trace:
        raise SpecError("workload.max_concurrency: missing; a closed loop has so many requests in flight")
    inputs = (workload.input_tokens or DEFAULT_INPUT).expected + workload.prefix_tokens
    outputs = (workload.output_tokens or DEFAULT_OUTPUT).expected
    ranks = deployment.attention_dp * serving.replicas
    side = scenario.prefill_side
    own = serving if side is None else side.serving
    budget = float(own.max_batched_tokens)
    return ClosedLoop(
        concurrency=float(workload.max_concurrency),
        input_tokens=inputs,
        output_tokens=max(2.0, outputs),
        policy="disaggregated" if side is not None else serving.policy,
        chunk_tokens=max(budget, inputs) if own.whole_prompts else budget,
        max_running=float(serving.max_running * ranks),
        poll_steps=float(serving.scheduler_steps),
        ranks_together=deployment.attention_dp if serving.hold_steps else 1,
    )


def _in_phase(scenario: Scenario, phase: str) -> Scenario:
    return scenario.model_copy(update={"deployment": scenario.deployment.model_copy(update={"phase": phase})})


def mean_step(steps: Steps, load: ClosedLoop) -> MeanStep:
    """The fixed point for one load.

    Raises:
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    decode_s = _decode_times(steps, load)
    chunks, prompts = chunking(load)
    if load.policy == "mixed":
        return _mixed(steps, load, decode_s, chunks / prompts)
    one_s = _prefill_seconds(steps, load)
    if load.policy == "disaggregated":
        return _disaggregated(steps, load, decode_s, one_s / prompts)
    return _prefill_first(load, decode_s, one_s / prompts, prompts)


def tpot_draws(steps: Steps, load: ClosedLoop, mean: MeanStep, *, common_log_std: float) -> Array | None:
    """64 draws of the TPOT of a fixed point, s: the spread of the kernels that its steps use, at its own batch.

    The longer step is drawn at the middle of a prompt. None where some op has no known spread.
    """
    asked = [_with_values(steps.decode, _decode_values(steps, load, mean.running))]
    weights = [1.0 - mean.steps_with_prefill if load.policy == "mixed" else 1.0]
    chunks, prompts = chunking(load)
    if load.policy == "mixed":
        asked.append(
            _with_values(_mixed_scenario(steps), _mixed_values(steps, load, mean.running, chunks // 2))
        )
        weights.append(mean.steps_with_prefill)
    elif load.policy == "prefill-first":
        asked.append(_with_values(steps.prefill, _prefill_values(steps, load, chunks // 2)))
        weights.append(others(load, mean.running) * chunks / prompts)
    drawn = drawn_step_times(
        [drawable(scenario) for scenario in asked],
        common_log_std=common_log_std,
        contention=[has_contention(scenario) for scenario in asked],
    )
    if drawn is None:
        return None
    total = sum(weight * times for weight, times in zip(weights, drawn, strict=True))
    middle = float(np.median(total))
    return np.asarray(total * (mean.tpot_s / middle))


def chunking(load: ClosedLoop) -> tuple[float, float]:
    """(chunks per prompt, prompts per chunk) of an engine that fills a step's budget with whole prompts if it can.

    In the steady state prompts arrive one by one; only those that came since the last look run together.
    """
    chunks = float(np.ceil(load.input_tokens / load.chunk_tokens - 1e-9))
    together = min(load.ranks_together, load.concurrency)
    if chunks > 1:
        return chunks, float(max(1.0, together))
    fit = max(1.0, np.floor(load.chunk_tokens / load.input_tokens)) * load.ranks_together
    arrived = 1.0 + others(load, load.concurrency) * (load.poll_steps - 1.0)
    return 1.0, float(min(fit, max(1.0, arrived, together)))


def others(load: ClosedLoop, running: float) -> float:
    """Prompts of other requests per decode step: of C requests that take turns, C - 1 are not one's own."""
    return running / (load.output_tokens - 1.0) * (load.concurrency - 1.0) / load.concurrency


def _prefill_first(
    load: ClosedLoop, decode_s: Callable[[float], float], prompt_s: float, prompts: float
) -> MeanStep:
    """Every prompt stops all decodes for ``prompt_s``."""

    def tpot(running: float) -> float:
        return decode_s(running) + others(load, running) * prompt_s

    def wait(running: float) -> float:
        return load.poll_steps / 2.0 * decode_s(running) + prompt_s * prompts

    running = _fixed_point(load, tpot, wait)
    share = others(load, running) / prompts
    return MeanStep(tpot(running), decode_s(running), prompt_s * prompts, running, share)


def _mixed(
    steps: Steps, load: ClosedLoop, decode_s: Callable[[float], float], chunks_per_prompt: float
) -> MeanStep:
    """Every chunk makes one decode step longer; no step carries more than one."""
    length = load.output_tokens - 1.0
    most = length / chunks_per_prompt  # running requests at which every step carries a chunk
    mixed_s = _mixed_times(steps, load)

    def tpot(running: float) -> float:
        share = min(1.0, others(load, running) * chunks_per_prompt)
        return decode_s(running) + share * (mixed_s(running) - decode_s(running))

    def wait(running: float) -> float:
        return mixed_s(running) * max(1.0, chunks_per_prompt)

    running = min(_fixed_point(replace(load, max_running=min(load.max_running, most)), tpot, wait), most)
    share = min(1.0, others(load, running) * chunks_per_prompt)
    return MeanStep(tpot(running), decode_s(running), mixed_s(running), running, share)


def _disaggregated(
    steps: Steps, load: ClosedLoop, decode_s: Callable[[float], float], prompt_s: float
) -> MeanStep:
    """Prompts queue at ``prefill_instances`` servers; decode instances share what has been prefilled."""
    length = load.output_tokens - 1.0
    service_s = prompt_s / steps.prefill_instances

    def wait(running: float) -> float:
        busy = min(1.0, running / (length * decode_s(running)) * service_s)
        waiting = load.concurrency - running if busy >= 1.0 else 0.0
        return prompt_s + waiting * service_s

    most = _rate_limited(load, decode_s, length, service_s)
    running = _fixed_point(replace(load, max_running=min(load.max_running, most)), decode_s, wait)
    return MeanStep(decode_s(running), decode_s(running), prompt_s, running, 0.0)


def _rate_limited(
    load: ClosedLoop, decode_s: Callable[[float], float], length: float, service_s: float
) -> float:
    """Most requests that can decode at once when prompts come no faster than prefill delivers them."""
    low, high = 0.0, load.concurrency
    for _ in range(60):
        middle = (low + high) / 2.0
        if middle * service_s <= length * decode_s(max(middle, 1e-6)):
            low = middle
        else:
            high = middle
    return max(low, 1.0)


def _fixed_point(load: ClosedLoop, tpot: Callable[[float], float], wait: Callable[[float], float]) -> float:
    """N = C x decode / (wait + decode), damped; at most ``max_running``."""
    running = most = min(load.concurrency, load.max_running)
    for _ in range(ITERATIONS):
        decode = (load.output_tokens - 1.0) * tpot(running)
        wanted = min(most, load.concurrency * decode / (wait(running) + decode))
        if abs(wanted - running) <= TOLERANCE * most:
            break
        running = (running + wanted) / 2.0
    return running


def _decode_values(steps: Steps, load: ClosedLoop, running: Any) -> dict[str, Any]:
    """Leaves of a decode step with ``running`` requests in all instances."""
    gpus = steps.decode.deployment.stage_gpus * steps.decode_instances
    context = load.input_tokens + load.output_tokens / 2.0
    return {
        "deployment.batch_per_gpu": running / gpus,
        "deployment.context_tokens": np.full(np.shape(running), context),
    }


def _mixed_values(steps: Steps, load: ClosedLoop, running: Any, chunk: float) -> dict[str, Any]:
    """Leaves of a step that carries a prompt's ``chunk``-th chunk beside the decodes."""
    chunks, prompts = chunking(load)
    gpus, tokens = steps.decode.deployment.stage_gpus, load.input_tokens / chunks
    shape = np.shape(running)
    return {
        **_decode_values(steps, load, running),
        "deployment.prefill_requests_per_gpu": np.full(shape, prompts / gpus),
        "deployment.prefill_tokens": np.full(shape, tokens),
        "deployment.prefill_cached_tokens": np.full(shape, chunk * tokens),
    }


def _prefill_values(steps: Steps, load: ClosedLoop, chunk: Any) -> dict[str, Any]:
    """Leaves of the prefill step of a ``chunk``-th chunk."""
    chunks, prompts = chunking(load)
    shape, tokens = np.shape(chunk), load.input_tokens / chunks
    return {
        "deployment.prefill_requests_per_gpu": np.full(shape, prompts / steps.prefill.deployment.stage_gpus),
        "deployment.prefill_tokens": np.full(shape, tokens),
        "deployment.prefill_cached_tokens": chunk * tokens,
    }


def _mixed_scenario(steps: Steps) -> Scenario:
    deployment = steps.decode.deployment.model_copy(update={"phase": "mixed"})
    return steps.decode.model_copy(update={"deployment": deployment})


def _with_values(scenario: Scenario, values: dict[str, Any]) -> Scenario:
    """A scenario with plain numbers for what the fixed point chose."""
    plain = {path.removeprefix("deployment."): float(value) for path, value in values.items()}
    return scenario.model_copy(update={"deployment": scenario.deployment.model_copy(update=plain)})


def _decode_times(steps: Steps, load: ClosedLoop) -> Callable[[float], float]:
    """Decode step time as a function of the requests that decode at once in all instances."""
    counts = np.geomspace(1.0, max(load.concurrency, 1.0 + 1e-6), POINTS)
    values = _decode_values(steps, load, counts)
    return _interpolated(counts, predict_steps(with_arrays(steps.decode, values)).step_time_s)


def _mixed_times(steps: Steps, load: ClosedLoop) -> Callable[[float], float]:
    """Time of a step with one chunk of a prompt beside the decodes: the mean over the prompt's chunks."""
    chunks, _ = chunking(load)
    scenario = _mixed_scenario(steps)
    counts = np.geomspace(1.0, max(load.concurrency, 1.0 + 1e-6), POINTS)
    total = np.zeros(POINTS)
    for chunk in np.arange(chunks):
        values = _mixed_values(steps, load, counts, chunk)
        total += predict_steps(with_arrays(scenario, values)).step_time_s
    return _interpolated(counts, total / chunks)


def _prefill_seconds(steps: Steps, load: ClosedLoop) -> float:
    """Time to prefill the prompts that run together, all their chunks, s."""
    chunks, _ = chunking(load)
    values = _prefill_values(steps, load, np.arange(chunks))
    return float(predict_steps(with_arrays(steps.prefill, values)).step_time_s.sum())


def _interpolated(points: Array, values: Array) -> Callable[[float], float]:
    return lambda at: float(np.interp(at, points, values))

"""Rates, utilisation and money of one step. Every argument may be an array; see :mod:`perfmodel.numeric`."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from perfmodel.numeric import Num, maximum
from perfmodel.ops.work import step_work, tokens_per_step
from perfmodel.spec.scenario import Scenario
from perfmodel.units import HOUR, MEGA

WITHIN = NormalDist().inv_cdf(0.9)
"""Standard deviations to either side that hold 80 %."""


@dataclass(frozen=True, slots=True)
class StepRates:
    """What a step time means for users, GPUs and money; None where the phase has no such quantity."""

    tokens_per_step: Num | None
    """Output tokens per request and step."""
    tpot_s: Num | None
    """Time per output token of one request: step time (or what the front end needs to stream a step's outputs, if that
    is longer) over tokens per step."""
    itl_s: Num | None
    """Gap between chunks of output: the whole step, or what streaming it takes."""
    ttft_s: Num | None
    """Time to first token of a request that is prefilled in this step, queueing left out: what its front end takes for
    one request, and the step."""
    tokens_per_s_per_user: Num | None
    """1 / tpot_s."""
    output_tokens_per_s_per_gpu: Num | None
    """Output tokens per second and GPU, all GPUs counted."""
    input_tokens_per_s_per_gpu: Num | None
    """Prompt tokens per second and GPU, all GPUs counted."""
    usd_per_million_output_tokens: Num | None
    """GPU cost of a million output tokens; in a mixed step the whole cost is charged to the output."""
    usd_per_million_input_tokens: Num | None
    """GPU cost of a million prompt tokens; prefill only."""


def step_rates(scenario: Scenario, step_time_s: Num, *, streaming: float = 1.0) -> StepRates:
    """Rates of a step that takes ``step_time_s``, with a front end that takes ``streaming`` times what it says.

    A pipeline of p stages holds p micro-batches of batch_per_gpu x (GPUs of a stage) requests, each of which advances
    once per rotation; per GPU that is batch_per_gpu requests per step time, as without a pipeline. Where outputs are
    streamed more slowly than steps make them, steps come no faster than that.
    """
    deployment, front = scenario.deployment, scenario.serving.front_end
    decodes, prefills = deployment.phase != "prefill", deployment.phase != "decode"
    per_step = tokens_per_step(deployment) if decodes else None
    pace = step_time_s
    if per_step is not None:
        pace = maximum(step_time_s, streamed_s(scenario) * streaming)
    tpot = pace / per_step if per_step is not None else None
    output = deployment.batch_per_gpu / tpot if tpot is not None else None
    prompt = _prefilled_tokens(scenario) / pace if prefills else None
    if deployment.ffn_gpus:  # which hold no requests
        share = deployment.gpu_share(ffn=False)
        output, prompt = (None if rate is None else rate * share for rate in (output, prompt))
    price = scenario.replica_usd_per_gpu_hour
    return StepRates(
        tokens_per_step=per_step,
        tpot_s=tpot,
        itl_s=pace if decodes else None,
        ttft_s=step_time_s + (front.latency_s + front.request_s) if prefills else None,
        tokens_per_s_per_user=1.0 / tpot if tpot is not None else None,
        output_tokens_per_s_per_gpu=output,
        input_tokens_per_s_per_gpu=prompt,
        usd_per_million_output_tokens=usd_per_million(price, output) if output is not None else None,
        usd_per_million_input_tokens=(
            usd_per_million(price, prompt) if prompt is not None and not decodes else None
        ),
    )


def rate_range(scenario: Scenario, fast_s: Num, slow_s: Num) -> tuple[StepRates, StepRates]:
    """Rates at both ends of a step time's 80 % interval. What a front end streams is as little known as what else an
    engine adds to its kernels (``deployment.step_log_std``).
    """
    slower = math.exp(WITHIN * scenario.deployment.step_log_std)
    return (
        step_rates(scenario, fast_s, streaming=1.0 / slower),
        step_rates(scenario, slow_s, streaming=slower),
    )


def streamed_s(scenario: Scenario) -> Num:
    """Seconds that a replica's front end needs to stream what one step brings to all of its requests."""
    deployment = scenario.deployment
    requests = deployment.batch_per_gpu * deployment.request_gpus
    return scenario.serving.front_end.streaming_s(requests, tokens_per_step(deployment))


def usd_per_million(usd_per_gpu_hour: Num, tokens_per_s_per_gpu: Num) -> Num:
    """USD per million tokens: price per GPU second over tokens per GPU second."""
    return usd_per_gpu_hour / HOUR / tokens_per_s_per_gpu * MEGA


def _prefilled_tokens(scenario: Scenario) -> Num:
    """New prompt tokens in one step, per GPU that holds requests."""
    return next(g.tokens for g in step_work(scenario.deployment).groups if g.kind == "prefill")

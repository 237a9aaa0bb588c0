"""A row of ``silicon_serving.csv`` simulated as it was measured: a closed loop, request by request.

Fixed before the first comparison (2026-11-24): all of the first wave at time zero, ten prompts per slot, no warm-up
cut, lengths uniform from (2 r - 1) L to L where the mean is r L (InferenceX: 0.8 L to L), else all L; a row's figure is
taken as a mean. Where that is not known the other reading, a median, is in docs/trust.md.
"""

from collections.abc import Mapping
from typing import Any

from perfmodel.ops.memory import cache_tokens_per_rank
from perfmodel.serving.batching import Batching
from perfmodel.serving.closed_loop import Steps
from perfmodel.serving.cluster import simulate
from perfmodel.serving.drafts import decode_steps
from perfmodel.serving.pool import Layout
from perfmodel.serving.records import Records
from perfmodel.serving.requests import requests_of
from perfmodel.serving.step_times import TwinStepTimes
from perfmodel.spec.workload import Workload
from perfmodel.validation.setups import Setup

WAVES = 10
"""Prompts per slot."""
BLOCK_TOKENS = 64
HOLD_STEPS = 60
"""TensorRT-LLM's timeout_iters, where prompts are held back (docs/engines.md)."""


def simulated(record: Mapping[str, str], setup: Setup, steps: Steps) -> Records:
    """The row's requests, served.

    Raises:
        InfeasibleError: a request is longer than the cache.
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    slots, scenario = int(float(record["concurrency"])), steps.decode
    inputs, outputs = int(float(record["isl"])), max(1, int(float(record["osl"])))
    requests = requests_of(
        Workload(
            max_concurrency=slots,
            num_requests=WAVES * slots,
            input_tokens=_lengths(inputs, setup.length_ratio),
            output_tokens=_lengths(outputs, setup.length_ratio),
        ),
        seed=0,
    )
    ranks, budget = scenario.deployment.attention_dp, int(setup.budget(slots, inputs))
    tokens = cache_tokens_per_rank(scenario, prompt_tokens=budget)
    times = TwinStepTimes(
        scenario,
        most_requests=min(-(-slots // ranks) + 1, max(1, int(setup.max_running))),
        most_prompt=min(budget, WAVES * slots * inputs),
        most_context=inputs + outputs,
    )
    return simulate(
        requests,
        lambda _: times,
        Layout(
            ranks=ranks,
            blocks=tokens // BLOCK_TOKENS,
            block_tokens=BLOCK_TOKENS,
            max_running=max(1, int(setup.max_running) // ranks),
        ),
        Batching(
            setup.policy,
            max(budget, slots + 1),
            tokens_per_decode=1,
            poll_steps=int(setup.poll_steps),
            hold_steps=HOLD_STEPS if setup.balanced_prefill and ranks > 1 else 0,
        ),
        decode_steps(requests.output_tokens, 0, 0.0, 0),
    )


def _lengths(longest: int, ratio: float) -> Any:
    """All alike, or uniform with a mean of ``ratio`` of the longest."""
    if ratio == 1.0:
        return {"value": longest}
    return {"min": max(1, round(longest * (2.0 * ratio - 1.0))), "max": longest}

"""A row of a silicon file simulated as it was measured: a closed loop, request by request.

As the row's client does it (:mod:`perfmodel.validation.setups`): how many prompts per slot, lengths drawn uniformly
between the client's bounds, all of the first wave at time zero. Warm-up requests are gone before the first one that
counts is sent, so none is simulated. A row's figure is a mean over all requests, the first wave and the last included.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from perfmodel.ops.memory import cache_tokens_per_rank
from perfmodel.serving.batching import Batching
from perfmodel.serving.closed_loop import Steps
from perfmodel.serving.cluster import PrefillSide, simulate
from perfmodel.serving.drafts import decode_steps
from perfmodel.serving.handoff import KvPath
from perfmodel.serving.pool import Layout
from perfmodel.serving.records import Records
from perfmodel.serving.requests import Requests, requests_of
from perfmodel.serving.serve import kv_path
from perfmodel.serving.step_times import TwinStepTimes
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.workload import Workload
from perfmodel.validation.setups import Setup

MANY, WAVES_OF_MANY = 1000, 3
"""Disaggregated rows with more slots than this have so many prompts per slot: the largest has 8,192 slots."""
BLOCK_TOKENS = 64
HOLD_STEPS = 60
"""TensorRT-LLM's timeout_iters, where prompts are held back (docs/engines.md)."""


def simulated(record: Mapping[str, str], setup: Setup, steps: Steps) -> Records:
    """The row's requests, served.

    Raises:
        InfeasibleError: a request is longer than the cache.
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    slots = int(float(record["concurrency"]))
    inputs, outputs = int(float(record["isl"])), max(1, int(float(record["osl"])))
    apart = record["mode"] == "disagg"
    requests = requests_of(
        Workload(
            max_concurrency=slots,
            num_requests=round(waves_of(record, setup) * slots),
            input_tokens=_lengths(inputs, setup),
            output_tokens=_lengths(outputs, setup),
        ),
        seed=0,
    )
    decode = _instances(setup, steps.decode, slots, requests, steps.decode_instances)
    prefill = _instances(setup, steps.prefill, slots, requests, steps.prefill_instances) if apart else None
    return simulate(
        requests,
        lambda _: decode.times,
        decode.layout,
        decode.batching,
        decode_steps(requests.output_tokens, 0, 0.0, 0),
        prefill=(
            PrefillSide(prefill.layout, prefill.batching, lambda _: prefill.times, _path(record, steps))
            if prefill is not None
            else None
        ),
    )


def waves_of(record: Mapping[str, str], setup: Setup) -> float:
    """Prompts per slot that are simulated."""
    many = record["mode"] == "disagg" and float(record["concurrency"]) > MANY
    return min(setup.prompts_per_slot, WAVES_OF_MANY) if many else setup.prompts_per_slot


class _Instances(NamedTuple):
    """Equal instances of a row."""

    layout: Layout
    batching: Batching
    times: TwinStepTimes


def _instances(setup: Setup, scenario: Scenario, slots: int, requests: Requests, count: int) -> _Instances:
    """``count`` instances of a scenario's deployment."""
    ranks, longest = scenario.deployment.attention_dp, int(requests.input_tokens.max())
    budget = int(setup.budget(slots, longest))
    tokens = cache_tokens_per_rank(scenario, prompt_tokens=budget)
    times = TwinStepTimes(
        scenario,
        most_requests=min(-(-slots // ranks) + 1, max(1, int(setup.max_running))),
        most_prompt=min(budget, int(requests.input_tokens.sum())),
        most_context=longest + int(requests.output_tokens.max()),
    )
    layout = Layout(
        replicas=count,
        ranks=ranks,
        blocks=tokens // BLOCK_TOKENS,
        block_tokens=BLOCK_TOKENS,
        max_running=max(1, int(setup.max_running) // ranks),
    )
    batching = Batching(
        setup.policy,
        max(budget, slots + 1),
        tokens_per_decode=1,
        poll_steps=int(setup.poll_steps),
        hold_steps=HOLD_STEPS if setup.balanced_prefill and ranks > 1 else 0,
    )
    return _Instances(layout, batching, times)


def _path(record: Mapping[str, str], steps: Steps) -> KvPath:
    """Caches between the row's instances: SGLang sends them layer by layer, the others when a prompt is done."""
    d, p = steps.decode.deployment, steps.prefill.deployment
    gpus = d.num_gpus * steps.decode_instances + p.num_gpus * steps.prefill_instances
    return kv_path(steps.decode, p, gpus=gpus, layer_wise=record["backend"] == "sglang")


def _lengths(stated: int, setup: Setup) -> Any:
    """All alike, or uniform between the client's bounds."""
    low, high = setup.lowest_length_ratio, setup.highest_length_ratio
    if low == high:
        return {"value": stated}
    return {"min": max(1, round(stated * low)), "max": max(1, round(stated * high))}

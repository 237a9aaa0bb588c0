"""Decoding GPUs whose batch is always full, simulated request by request: what a published throughput at a batch is."""

from typing import Any, NamedTuple

from perfmodel.ops.work import tokens_per_step
from perfmodel.serving.batching import Batching
from perfmodel.serving.cluster import PrefillSide, simulate
from perfmodel.serving.drafts import decode_steps
from perfmodel.serving.handoff import KvPath
from perfmodel.serving.pool import Layout
from perfmodel.serving.records import StepRuns
from perfmodel.serving.requests import requests_of
from perfmodel.serving.step_times import TwinStepTimes
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.workload import Workload

SPREAD = 0.5
"""Lengths are uniform within this share of their mean."""
WAVES = 2
"""Outputs per slot of a decoding GPU."""
IN_FLIGHT = 1.1
"""Requests in the loop over those that decode: the rest have been computed and wait."""
BLOCK_TOKENS = 64
AT_ONCE = KvPath(0.0, 1.0, 1.0, 0.0, layers=1)
"""Caches without bytes."""


class Lengths(NamedTuple):
    """Mean tokens of a request."""

    inputs: float
    outputs: float


def lengths_with(input_over_output: float, mean_kv: float) -> Lengths:
    """Prompts and outputs in a proportion r whose mean KV length per output token is L.

    With outputs O uniform within a share s of their mean, a token of an output finds I + E[O^2] / (2 E[O]) =
    I + O (1 + s^2 / 3) / 2 tokens in the cache; with I = r O, O = L / (r + (1 + s^2 / 3) / 2).
    """
    outputs = mean_kv / (input_over_output + (1.0 + SPREAD**2 / 3.0) / 2.0)
    return Lengths(input_over_output * outputs, outputs)


def uniform(mean: float) -> Any:
    """A distribution of lengths with this mean."""
    return {"min": round(mean * (1.0 - SPREAD)), "max": round(mean * (1.0 + SPREAD))}


def full_batches(scenario: Scenario, lengths: Lengths, batch: int) -> float:
    """Output tokens per second and GPU with ``batch`` requests on each, always: there are prefill nodes enough, and
    what they have computed waits.
    """
    deployment = scenario.deployment
    ranks, per_rank = deployment.attention_dp, batch * deployment.attention_tp
    requests = requests_of(
        Workload(
            max_concurrency=round(IN_FLIGHT * per_rank * ranks),
            num_requests=WAVES * per_rank * ranks,
            input_tokens=uniform(lengths.inputs),
            output_tokens=uniform(lengths.outputs),
        ),
        seed=scenario.seed,
    )
    longest = int((requests.input_tokens + requests.output_tokens).max())
    times = TwinStepTimes(scenario, most_requests=per_rank, most_prompt=1, most_context=longest)
    mtp = deployment.mtp
    found = simulate(
        requests,
        lambda _: times,
        Layout(ranks=ranks, block_tokens=BLOCK_TOKENS, max_running=per_rank),
        Batching("prefill-first", longest, tokens_per_decode=1 + mtp.draft_tokens),
        decode_steps(requests.output_tokens, mtp.draft_tokens, mtp.acceptance, scenario.seed),
        prefill=PrefillSide(
            Layout(), Batching("prefill-first", 1 << 40, tokens_per_decode=1), lambda _: _Instant(), AT_ONCE
        ),
    )
    busy, steps = middle(found.load.runs, prompts=False)
    return steps * float(tokens_per_step(deployment)) * ranks / busy / deployment.num_gpus


def middle(runs: StepRuns, *, prompts: bool) -> tuple[float, float]:
    """(seconds, prompt tokens or decode steps of the mean rank's requests) of steps in the middle half of a run's time,
    when it neither fills nor empties.
    """
    ends = runs.start_s + runs.seconds
    low, high = 0.25 * float(ends.max()), 0.75 * float(ends.max())
    own = (ends > low) & (ends <= high) & ((runs.prompt > 0.0) == prompts)
    done = runs.even * (runs.prompt if prompts else runs.requests * runs.steps)
    return float(runs.seconds[own].sum()), float(done[own].sum())


class _Instant:
    """Steps of prefill nodes that nobody waits for."""

    def decode_s(self, requests: int, tokens: float, even: float) -> float:
        """They don't decode."""
        raise NotImplementedError

    def decode_run_s(self, requests: int, tokens: float, growth: float, steps: int, even: float) -> float:
        """They don't decode."""
        raise NotImplementedError

    def prompt_s(self, prompt: float, attended: float, requests: int, tokens: float, even: float) -> float:
        """As good as no time."""
        return 1e-6

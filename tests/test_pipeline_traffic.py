"""Pipeline stages under traffic: turns of micro-batches against an exact flow shop, and `step` against `serve`."""

import heapq
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_laws import keeps_the_laws
from test_serving import requests_of

from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step
from perfmodel.load import build_scenario
from perfmodel.ops.limits import limits
from perfmodel.ops.memory import cached_token_bytes, step_memory, usable_bytes
from perfmodel.serving.batching import Batching
from perfmodel.serving.cluster import simulate
from perfmodel.serving.pool import Layout
from perfmodel.serving.serve import kv_path, kv_tokens_of, serve
from perfmodel.serving.step_times import TwinStepTimes
from perfmodel.step import predict_steps


def scenario(*, pp=2, workload=None, serving=None, prefill=None, **deployment):
    """DeepSeek-R1, TP8 x PP2 on two nodes of H800, as people run it with vLLM."""
    own = {
        "engine": "vllm", "attention_tp": 8, "dense_tp": 8, "moe_tp": 8, "pp": pp, "batch_per_gpu": 2,
        "context_tokens": 2250, **deployment,
    }  # fmt: skip
    document = {
        "model": "deepseek-v3",
        "cluster": "h800-ib",
        "prices": "h800-deepseek-lease",
        "deployment": own,
    }
    parts = {"workload": workload, "serving": serving, "prefill": prefill}
    return build_scenario(document | {key: value for key, value in parts.items() if value})


CLOSED = {"input_tokens": 2000, "output_tokens": 200, "max_concurrency": 32, "num_requests": 64}


# --- the theory that a turn rests on --------------------------------------------------------------------------------


def flow_shop(times, stages, turns):
    """Mean time of a turn of jobs that come again and again, each ``times[j]`` on every stage, first come first served
    everywhere: by the recursion, nothing else.
    """
    free, left = np.zeros(stages), np.zeros(len(times))
    ends = []
    for _ in range(turns):
        for job, seconds in enumerate(times):
            at = left[job]
            for stage in range(stages):
                at = free[stage] = max(at, free[stage]) + seconds
            left[job] = at
        ends.append(left.max())
    half = turns // 2
    return (ends[-1] - ends[half - 1]) / (turns - half)


@given(st.integers(1, 6), st.data())
@settings(max_examples=80, deadline=None)
def test_a_turn_takes_what_its_slowest_micro_batch_takes_alone(stages, data):
    jobs = data.draw(st.integers(1, stages))
    times = data.draw(st.lists(st.floats(0.1, 10.0), min_size=jobs, max_size=jobs))
    assert flow_shop(times, stages, 200) == pytest.approx(stages * max(times), rel=0.02)


def exact_pipeline(prompts, outputs, stages, budget, base, per_request, per_token, concurrency):
    """(end of each request, mean gap) of micro-batches that pass stage after stage, each with requests of its own.

    A simulation by events of a closed loop, in the way of SGLang's running micro-batches: a micro-batch that has passed
    the last stage takes prompts in, up to the budget, and queues for the first one again.
    """
    n = len(prompts)
    waiting, ends, tokens = list(range(n)), np.zeros(n), {}
    members = [[] for _ in range(stages)]
    free, order = np.zeros(stages), count()
    events = [(0.0, next(order), batch) for batch in range(stages)]
    flight, decode_s, decoded = 0, 0.0, 0
    last = {}
    while events:
        at, _, batch = heapq.heappop(events)
        for request in list(members[batch]):  # what came out
            if request in last:
                decode_s, decoded = decode_s + at - last[request], decoded + 1
            last[request] = at
            tokens[request] += 1
            if tokens[request] == outputs[request]:
                members[batch].remove(request)
                ends[request] = at
                flight -= 1
        decodes, prompt = len(members[batch]), 0
        fewest = min(map(len, members)) == len(members[batch])
        while waiting and flight < concurrency and prompt + prompts[waiting[0]] <= budget:
            if prompt and not fewest:
                break
            if len(members[batch]) >= -(-concurrency // stages):
                break
            request = waiting.pop(0)
            prompt += prompts[request]
            tokens[request] = 0
            members[batch].append(request)
            flight += 1
        if not members[batch]:
            if waiting:
                heapq.heappush(events, (at + base / stages, next(order), batch))
            continue
        each = (base + per_request * decodes + per_token * prompt) / stages
        for stage in range(stages):
            at = free[stage] = max(at, free[stage]) + each
        heapq.heappush(events, (at, next(order), batch))
    return ends, decode_s / max(decoded, 1)


class Turns:
    """The same step times, of turns."""

    def __init__(self, stages, budget, base, per_request, per_token):
        self.stages, self.budget = stages, budget
        self.base, self.per_request, self.per_token = base, per_request, per_token

    def prompt_s(self, prompt, attended, requests, tokens, even=1.0):
        each, part = -(-requests // self.stages), min(prompt, self.budget)
        return self.base + self.per_request * each + self.per_token * part

    def decode_s(self, requests, tokens, even=1.0, stretch=1.0):
        return self.prompt_s(0, 0, requests, tokens)

    def decode_run_s(self, requests, tokens, growth, steps, even=1.0, stretch=1.0):
        return steps * self.decode_s(requests, tokens)


@pytest.mark.parametrize(
    ("stages", "outputs", "within"),
    [(2, 20, 0.06), (4, 20, 0.21), (2, 200, 0.02), (4, 200, 0.02), (8, 200, 0.04)],
)
def test_turns_against_an_exact_pipeline(stages, outputs, within):
    """Throughput and the mean gap between tokens of a closed loop, prompts among decodes. Where every turn has prompts
    in some micro-batch, a real pipeline overlaps bubbles that a turn waits for: the model is slower, never faster.
    """
    rng = np.random.default_rng(stages)
    n, concurrency, budget = 160, 8 * stages, 600
    prompts = rng.integers(100, 400, n)
    lengths = rng.integers(outputs // 2, outputs * 3 // 2, n)
    figures = {"base": 0.01, "per_request": 0.0005, "per_token": 0.0001}
    ends, gap = exact_pipeline(
        prompts.tolist(), lengths.tolist(), stages, budget, *figures.values(), concurrency
    )
    requests = requests_of(np.zeros(n), prompts, lengths, max_concurrency=concurrency)
    records = simulate(
        requests, lambda _: Turns(stages, budget, **figures), Layout(max_running=concurrency),
        Batching("mixed", stages * budget, 1), requests.output_tokens - 1,
    )  # fmt: skip
    told = (records.end_s - records.first_token_s).sum() / (lengths - 1).sum()
    for found, exact in ((records.end_s.max(), ends.max()), (told, gap)):
        assert exact * 0.98 < found < exact * (1.0 + within)


# --- step and serve -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pp", [1, 2, 4])
def test_a_turn_is_one_step_as_step_has_it(pp):
    """``batch_per_gpu`` requests of each micro-batch's GPUs: a rank has them of all its micro-batches."""
    own = scenario(pp=pp, batch_per_gpu=3)
    times = TwinStepTimes(own, most_requests=24 * pp, most_prompt=4096 * pp, most_context=4096, chunk=4096)
    step = float(predict_steps(own).step_time_s[0])
    assert times.decode_s(24 * pp, 24 * pp * 2250.0) == pytest.approx(step, rel=0.01)
    prompt = own.deployment.model_copy(
        update={"phase": "prefill", "prefill_requests_per_gpu": 0.125, "prefill_tokens": 4096.0}
    )
    alone = float(predict_steps(own.model_copy(update={"deployment": prompt})).step_time_s[0])
    assert times.prompt_s(4096.0, 4096.0 * 2048.0, 0, 0.0) == pytest.approx(alone, rel=0.01)
    assert times.prompt_s(4096.0 * pp, 4096.0 * pp * 2048.0, 0, 0.0) == pytest.approx(alone, rel=0.01)


@pytest.mark.parametrize("pp", [1, 2])
def test_step_and_serve_agree(pp):
    """16 requests in each micro-batch: the gap between tokens is the step, and so are money and utilisation, but for
    prompts and the ends of the run.
    """
    traffic = {
        **CLOSED,
        "input_tokens": 2000,
        "output_tokens": 500,
        "max_concurrency": 16 * pp,
        "num_requests": 64,
    }
    # weights of one stage's GPUs alone do not fit for pp = 1: a figure for time, not a deployment
    own = scenario(pp=pp, workload=traffic, serving={"kv_tokens": 500_000})
    step = float(predict_steps(own).step_time_s[0])
    found = answer_serve(own).values
    assert found["itl_s"]["p50"] == pytest.approx(step, rel=0.01)
    assert found["num_gpus"] == 8 * pp
    output = own.deployment.batch_per_gpu / step
    assert found["output_tokens_per_s_per_gpu"] == pytest.approx(output, rel=0.2)
    assert found["output_tokens_per_s_per_gpu"] < output


def test_utilisation_is_the_steps():
    own = scenario(
        workload={
            **CLOSED,
            "input_tokens": 50,
            "output_tokens": 1000,
            "max_concurrency": 32,
            "num_requests": 32,
        }
    )
    step = answer_step(scenario(context_tokens=550)).values
    found = answer_serve(own).values
    for name in ("mfu", "mbu"):
        assert found[name] == pytest.approx(step[name], rel=0.06), name


# --- memory ---------------------------------------------------------------------------------------------------------


def test_each_stage_keeps_its_own_layers_of_all_micro_batches():
    """What a stage's GPUs hold of all tokens fits beside weights; ``step`` at that batch is just inside."""
    own = scenario()
    tokens = kv_tokens_of(own)
    per_stage = cached_token_bytes(own) / 2
    spare = usable_bytes(own) - (step_memory(own).total - step_memory(own).kv_cache)
    assert tokens * per_stage == pytest.approx(float(spare), rel=0.1)
    assert kv_tokens_of(scenario(pp=4)) > 2 * tokens  # fewer weights, too


def test_a_scheduler_has_all_micro_batches():
    most = limits(scenario(serving={"max_running": 100})).per_group
    assert most == 50
    own = scenario(serving={"max_running": 10}, workload=CLOSED)
    assert serve(own).records.load.runs.held.max() <= 10


def test_caches_go_from_all_stages_to_all_stages():
    apart = {"cluster": "h100-ib", "deployment": {"attention_tp": 8, "dense_tp": 8, "moe_tp": 8, "pp": 4}}
    path = {}
    for pp in (1, 2):
        own = scenario(pp=pp, prefill=apart)
        path[pp] = kv_path(own, own.prefill_side, layer_wise=True)
    assert path[2].receive_bytes_per_s == 2 * path[1].receive_bytes_per_s
    assert path[2].send_bytes_per_s == path[1].send_bytes_per_s
    assert path[2].bytes_per_token == path[1].bytes_per_token
    alone = scenario(prefill={**apart, "deployment": {**apart["deployment"], "pp": 1}})
    one = kv_path(alone, alone.prefill_side, layer_wise=True)
    assert path[2].send_bytes_per_s == 4 * one.send_bytes_per_s


# --- the simulation's own laws --------------------------------------------------------------------------------------


@given(
    st.integers(1, 4),
    st.sampled_from([1, 8]),
    st.sampled_from(["vllm", "sglang"]),
    st.integers(1, 40),
    st.integers(0, 2**16),
)
@settings(max_examples=12, deadline=None)
def test_everything_holds_with_stages(pp, dp, engine, concurrency, seed):
    """Both cores to the last bit, steps together as alone, Little's law, every prompt token once."""
    traffic = {
        "input_tokens": {"mean": 300, "std": 100},
        "output_tokens": 12,
        "max_concurrency": concurrency,
        "num_requests": 40,
    }
    sizes = {
        "attention_tp": 8 // dp,
        "attention_dp": dp,
        "dense_tp": 8 // dp,
        **({"ep": 8, "moe_tp": 1} if dp > 1 else {}),
    }
    own = scenario(pp=pp, engine=engine, workload=traffic, serving={"kv_tokens": 20_000}, **sizes)
    own = own.model_copy(update={"seed": seed})
    keeps_the_laws(own)

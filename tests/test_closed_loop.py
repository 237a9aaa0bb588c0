"""Closed loop in the mean: limits in closed form, and a loop of single steps that knows no formula."""

from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios import BARE

from perfmodel.load import load_scenario
from perfmodel.serving import closed_loop
from perfmodel.serving.closed_loop import ClosedLoop, Steps, chunking, mean_step, tpot_draws

GPUS = 8


@pytest.fixture(scope="module")
def scenarios():
    overrides = [
        "cluster=h100-ib",
        "deployment.attention_dp=8",
        "deployment.ep=8",
        "deployment.overlap=sequential",
    ]
    scenario = load_scenario("longcat-flash-h800", [*BARE, *overrides, "deployment.phase=decode"])
    assert scenario.deployment.stage_gpus == GPUS
    deployment = scenario.deployment.model_copy(update={"phase": "prefill"})
    return Steps(scenario, scenario.model_copy(update={"deployment": deployment}))


def decode_s(requests):
    return 0.010 + 5e-5 * requests


def prompt_tokens_s(tokens):
    return 20e-6 * tokens


@pytest.fixture
def steps(scenarios, monkeypatch):
    """Steps whose times are known: linear in the requests of all GPUs and in the prompt tokens of all GPUs."""

    def predicted(scenario):
        d = scenario.deployment
        tokens = GPUS * np.asarray(d.prefill_requests_per_gpu) * d.prefill_tokens
        requests = GPUS * np.asarray(d.batch_per_gpu)
        times = {
            "decode": lambda: decode_s(requests),
            "prefill": lambda: prompt_tokens_s(tokens),
            "mixed": lambda: decode_s(requests) + prompt_tokens_s(tokens),
        }
        return SimpleNamespace(step_time_s=times[d.phase]())

    monkeypatch.setattr(closed_loop, "predict_steps", predicted)
    return scenarios


def load(**changes):
    cells = {
        "concurrency": 64.0, "input_tokens": 1000.0, "output_tokens": 500.0, "policy": "prefill-first",
        "chunk_tokens": 2048.0,
    }  # fmt: skip
    return ClosedLoop(**(cells | changes))


POLICIES = ("prefill-first", "mixed", "disaggregated")

# --- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_very_long_outputs_leave_the_decode_step(steps, policy):
    found = mean_step(steps, load(policy=policy, output_tokens=1e7))
    assert found.tpot_s == pytest.approx(decode_s(64), rel=1e-3)
    assert found.running == pytest.approx(64, rel=1e-3)
    assert found.steps_with_prefill < 1e-4


@pytest.mark.parametrize(
    "policy",
    [
        "prefill-first",
        "mixed",
        "disaggregated",
    ],
)
def test_one_request_never_waits_for_another(steps, policy):
    """Its own prompt is before its first token, and there is no other."""
    found = mean_step(steps, load(policy=policy, concurrency=1.0, input_tokens=2000.0, output_tokens=101.0))
    assert found.tpot_s == pytest.approx(decode_s(1), rel=1e-6)


@pytest.mark.parametrize("concurrency", [8.0, 64.0, 200.0])
def test_prefill_first_adds_the_prompts_that_come_meanwhile(steps, concurrency):
    found = mean_step(steps, load(concurrency=concurrency))
    others = (concurrency - 1.0) / concurrency
    lower, upper = (
        found.decode_step_s + share * found.running / 499.0 * prompt_tokens_s(1000) for share in (others, 1.0)
    )
    assert lower * (1 - 1e-9) <= found.tpot_s <= upper * (1 + 1e-9)
    assert found.prefill_step_s == pytest.approx(prompt_tokens_s(1000))
    assert found.decode_step_s == pytest.approx(decode_s(found.running), rel=0.01)


def test_prompts_longer_than_a_chunk_are_prefilled_in_several_steps(steps):
    assert chunking(load(input_tokens=5000.0, chunk_tokens=2048.0)) == (3.0, 1.0)
    assert chunking(load(input_tokens=4096.0, chunk_tokens=2048.0)) == (2.0, 1.0)
    assert chunking(load(input_tokens=2048.0, chunk_tokens=2048.0)) == (1.0, 1.0)
    whole = mean_step(steps, load(input_tokens=5000.0, chunk_tokens=5000.0))
    cut = mean_step(steps, load(input_tokens=5000.0, chunk_tokens=2048.0))
    assert cut.tpot_s == pytest.approx(whole.tpot_s)  # this prefill's time is by tokens alone


def test_chunks_see_the_tokens_before_them(scenarios, monkeypatch):
    asked = []

    def predicted(scenario):
        d = scenario.deployment
        asked.append(d)
        own = d.batch_per_gpu if d.phase == "decode" else d.prefill_cached_tokens
        return SimpleNamespace(step_time_s=np.full(np.shape(own), 0.01))

    monkeypatch.setattr(closed_loop, "predict_steps", predicted)
    mean_step(scenarios, load(input_tokens=5000.0, chunk_tokens=2048.0))
    prefill = next(d for d in asked if d.phase == "prefill")
    assert np.allclose(prefill.prefill_tokens, 5000 / 3)
    assert np.allclose(prefill.prefill_cached_tokens, [0, 5000 / 3, 2 * 5000 / 3])
    assert np.allclose(np.asarray(prefill.prefill_requests_per_gpu) * GPUS, 1.0)
    decode = next(d for d in asked if d.phase == "decode")
    assert np.allclose(decode.context_tokens, 5000 + 250)
    assert np.max(decode.batch_per_gpu) * GPUS == pytest.approx(64)


def test_prompts_that_arrive_together_share_a_chunk():
    """63 others, 20 tokens each: 63 / 19 prompts come with each further step that one waits for a look."""
    assert chunking(load(output_tokens=20.0, chunk_tokens=1e6))[1] == 1.0
    waited = chunking(load(output_tokens=20.0, chunk_tokens=1e6, poll_steps=5.0))[1]
    assert waited == pytest.approx(1 + 4 * 63 / 19)
    assert chunking(load(output_tokens=20.0, chunk_tokens=2048.0, poll_steps=5.0))[1] == 2.0  # no more fit
    assert chunking(load(output_tokens=500.0, chunk_tokens=1e6))[1] == 1.0


def test_ranks_that_prefill_together_share_a_step():
    """Each rank brings a prompt of its own, and no more ranks than there are requests."""
    assert chunking(load(ranks_together=8)) == (1.0, 8.0)
    assert chunking(load(ranks_together=8, concurrency=4.0)) == (1.0, 4.0)
    assert chunking(load(ranks_together=1)) == (1.0, 1.0)
    assert chunking(load(ranks_together=2, output_tokens=20.0)) == (1.0, 2.0)
    assert chunking(load(ranks_together=8, input_tokens=5000.0)) == (3.0, 8.0)


@pytest.mark.parametrize("chunk", [1000.0, 250.0])
def test_mixed_saturates_where_every_step_carries_a_chunk(steps, chunk):
    busy = load(policy="mixed", concurrency=2000.0, output_tokens=101.0, chunk_tokens=chunk)
    found = mean_step(steps, busy)
    chunks = 1000.0 / chunk
    assert found.steps_with_prefill == pytest.approx(1999 / 2000)  # one in 2000 prompts is one's own
    assert found.running == pytest.approx(100.0 / chunks)
    assert found.tpot_s == pytest.approx(found.prefill_step_s, rel=1e-3)
    assert found.prefill_step_s == pytest.approx(decode_s(found.running) + prompt_tokens_s(chunk), rel=0.01)
    more = mean_step(steps, replace(busy, concurrency=4000.0))
    assert more.tpot_s == pytest.approx(found.tpot_s, rel=0.01)  # they queue


def test_an_infinitely_fast_prefill_leaves_all_decoding(steps):
    load_ = load(policy="disaggregated", input_tokens=1e-6, chunk_tokens=1.0)
    found = mean_step(steps, load_)
    assert found.running == pytest.approx(64.0, rel=1e-6)
    assert found.tpot_s == pytest.approx(decode_s(64.0))


def test_a_slow_prefill_sets_the_pace_of_disaggregated_decodes(steps):
    """Prompts come at M / t_p, each decodes (osl - 1) t_d(N): N = (osl - 1) t_d(N) M / t_p."""
    slow = load(policy="disaggregated", concurrency=400.0, output_tokens=101.0, input_tokens=2000.0)
    for instances in (1, 2):
        found = mean_step(replace(steps, prefill_instances=instances), slow)
        expected = 100 * found.tpot_s * instances / prompt_tokens_s(2000)
        assert found.running == pytest.approx(expected, rel=0.01)
        assert found.running < 400
        more = mean_step(replace(steps, prefill_instances=instances), replace(slow, concurrency=800.0))
        assert more.running == pytest.approx(found.running, rel=0.01)


def test_decode_instances_share_the_requests(scenarios, monkeypatch):
    asked = []

    def predicted(scenario):
        asked.append(scenario.deployment)
        return SimpleNamespace(step_time_s=np.full(np.shape(scenario.deployment.context_tokens), 0.01))

    monkeypatch.setattr(closed_loop, "predict_steps", predicted)
    closed_loop._decode_times(replace(scenarios, decode_instances=4), load(policy="disaggregated"))
    assert np.max(asked[0].batch_per_gpu) == pytest.approx(64 / (4 * GPUS))


@pytest.mark.parametrize("policy", POLICIES)
def test_no_more_than_the_limit_run(steps, policy):
    found = mean_step(steps, load(policy=policy, max_running=10.0, output_tokens=2000.0))
    assert found.running == pytest.approx(10.0)
    assert found.decode_step_s == pytest.approx(decode_s(10.0), rel=0.01)


CASES = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(POLICIES),
        "concurrency": st.floats(1.0, 500.0),
        "input_tokens": st.floats(10.0, 20000.0),
        "output_tokens": st.floats(50.0, 5000.0),
        "chunk_tokens": st.sampled_from([512.0, 2048.0, 16384.0]),
    }
)


@settings(max_examples=100, deadline=None)
@given(case=CASES)
def test_requests_are_conserved(steps_of_module, case):
    """Little's law, N (TTFT + decode) = C decode, wherever nothing queues; less runs where something does."""
    asked = load(**case)
    found = mean_step(steps_of_module, asked)
    length = asked.output_tokens - 1.0
    chunks, prompts = chunking(asked)
    wait = {
        "prefill-first": 0.5 * found.decode_step_s + found.prefill_step_s,
        "mixed": found.prefill_step_s * max(1.0, chunks / prompts),
        "disaggregated": found.prefill_step_s,
    }[asked.policy]
    decode = length * found.tpot_s
    queues = asked.policy == "mixed" and found.running > 0.999 * length * prompts / chunks
    if asked.policy == "disaggregated":
        queues = found.running * prompt_tokens_s(asked.input_tokens) > 0.98 * decode
    shares = found.running * (wait + decode), asked.concurrency * decode
    assert found.running <= asked.concurrency * (1 + 1e-9)
    if queues:
        assert shares[0] <= shares[1] * (1 + 1e-3)
    else:
        assert shares[0] == pytest.approx(shares[1], rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(case=CASES, factor=st.floats(1.05, 4.0))
def test_more_requests_never_make_a_token_faster(steps_of_module, case, factor):
    less = mean_step(steps_of_module, load(**case))
    more = mean_step(steps_of_module, load(**case | {"concurrency": case["concurrency"] * factor}))
    assert more.tpot_s >= less.tpot_s * (1 - 0.005)  # step times are interpolated between twelve batches
    assert more.running >= less.running * (1 - 0.005)


@pytest.fixture(scope="module")
def steps_of_module(scenarios):
    """As ``steps``, for tests that ask many times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            closed_loop,
            "predict_steps",
            lambda scenario: SimpleNamespace(step_time_s=_known(scenario.deployment)),
        )
        yield scenarios


def _known(d):
    requests = GPUS * np.asarray(d.batch_per_gpu)
    tokens = GPUS * np.asarray(d.prefill_requests_per_gpu) * d.prefill_tokens
    decode, prefill = decode_s(requests), prompt_tokens_s(tokens)
    return {"decode": decode, "prefill": prefill, "mixed": decode + prefill}[d.phase]


# --- against single steps ------------------------------------------------------------------------------------


class Loop:
    """C requests of equal length, step by step; each that ends is replaced at once. Knows no mean."""

    def __init__(self, asked: ClosedLoop, servers: int = 1):
        self.length = int(asked.output_tokens) - 1
        self.asked, self.servers, self.now = asked, servers, 0.0
        count = int(asked.concurrency)
        lefts = [1 + i * self.length // count for i in range(count)]  # in the middle of things, evenly spread
        self.running = [(left, None) for left in lefts]
        self.waiting = deque()
        self.tpots, self.areas = [], 0.0

    def decode(self, seconds):
        """A step in which every running request gets a token."""
        self.areas += len(self.running) * seconds
        self.now += seconds
        kept = []
        for left, started in self.running:
            if left > 1:
                kept.append((left - 1, started))
                continue
            if started is not None:
                self.tpots.append((self.now - started) / self.length)
            self.waiting.append(self.now)
        self.running = kept

    def prefill_first(self):
        if self.waiting:
            prompts = min(len(self.waiting), max(1, int(self.asked.chunk_tokens // self.asked.input_tokens)))
            seconds = prompt_tokens_s(prompts * self.asked.input_tokens)
            self.areas += len(self.running) * seconds
            self.now += seconds
            for _ in range(prompts):
                self.waiting.popleft()
                self.running.append((self.length, self.now))
        else:
            self.decode(decode_s(len(self.running)))

    def mixed(self):
        chunks = int(np.ceil(self.asked.input_tokens / self.asked.chunk_tokens))
        carried = bool(self.waiting)
        self.done = getattr(self, "done", 0) + carried
        self.decode(decode_s(len(self.running)) + carried * prompt_tokens_s(self.asked.input_tokens / chunks))
        if carried and self.done == chunks:
            self.done = 0
            self.waiting.popleft()
            self.running.append((self.length, self.now))

    def disaggregated(self):
        """Prompts are served in turn at ``servers`` places beside the decodes."""
        free = self.__dict__.setdefault("free", [0.0] * self.servers)
        ready = self.__dict__.setdefault("ready", [])
        while self.waiting:
            came = self.waiting.popleft()
            place = int(np.argmin(free))
            free[place] = max(free[place], came) + prompt_tokens_s(self.asked.input_tokens)
            ready.append(free[place])
        ready.sort()
        while ready and (ready[0] <= self.now or not self.running):
            self.now = max(self.now, ready[0])
            self.running.append((self.length, self.now))
            ready.pop(0)
        self.decode(decode_s(len(self.running)))

    def run(self):
        """(mean TPOT, mean number of running requests) after two generations."""
        step = getattr(self, self.asked.policy.replace("-", "_"))
        count = int(self.asked.concurrency)
        while len(self.tpots) < 2 * count:
            step()
        self.tpots, self.areas, start = [], 0.0, self.now
        while len(self.tpots) < 4 * count:
            step()
        return np.mean(self.tpots), self.areas / (self.now - start)


@pytest.mark.parametrize(
    ("changes", "servers"),
    [
        ({"concurrency": 8.0}, 1),
        ({"concurrency": 64.0}, 1),
        ({"concurrency": 160.0, "input_tokens": 2000.0}, 1),
        ({"concurrency": 64.0, "input_tokens": 4000.0, "output_tokens": 1000.0}, 1),
        ({"policy": "mixed", "concurrency": 16.0}, 1),
        ({"policy": "mixed", "concurrency": 100.0}, 1),
        ({"policy": "mixed", "concurrency": 100.0, "input_tokens": 4000.0, "chunk_tokens": 2000.0}, 1),
        ({"policy": "disaggregated", "concurrency": 64.0}, 1),
        ({"policy": "disaggregated", "concurrency": 200.0, "input_tokens": 4000.0}, 4),
        (
            {"policy": "disaggregated", "concurrency": 300.0, "input_tokens": 4000.0, "output_tokens": 200.0},
            2,
        ),
    ],
)
def test_the_mean_is_that_of_single_steps(steps, changes, servers):
    asked = load(**changes)
    tpot, running = Loop(asked, servers).run()
    found = mean_step(replace(steps, prefill_instances=servers), asked)
    assert found.tpot_s == pytest.approx(tpot, rel=0.03)
    assert found.running == pytest.approx(running, rel=0.03)


# --- intervals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_lie_around_the_point_and_spread_with_what_is_shared(scenarios, policy):
    asked = load(policy=policy, input_tokens=3000.0)
    found = mean_step(scenarios, asked)
    widths = []
    for common in (0.0, 0.1, 0.3):
        draws = tpot_draws(scenarios, asked, found, common_log_std=common)
        low, high = np.quantile(draws, (0.1, 0.9))
        assert low < found.tpot_s < high
        assert np.median(draws) == pytest.approx(found.tpot_s)
        widths.append(np.log(high / low))
    assert widths[0] < widths[1] < widths[2]
    assert widths[2] > 2 * 1.2816 * 0.3 * 0.9  # what is shared does not cancel


def test_draws_of_a_mixed_step_weigh_the_longer_step(scenarios):
    """With a prompt in every step the draws are those of the longer step alone, with none of the shorter."""
    busy = load(policy="mixed", concurrency=400.0, output_tokens=21.0)
    full = mean_step(scenarios, busy)
    assert full.steps_with_prefill == pytest.approx(399 / 400)
    draws = tpot_draws(scenarios, busy, full, common_log_std=0.0)
    none = replace(full, steps_with_prefill=0.0)
    other = tpot_draws(scenarios, busy, none, common_log_std=0.0)
    assert not np.allclose(draws, other, rtol=1e-3)

"""What stands in front of an engine: the same in a step, on a curve and under traffic."""

import numpy as np
import pytest

from perfmodel.answers.step import answer_step
from perfmodel.economics.rates import step_rates, streamed_s
from perfmodel.explore.curve import batch_curve
from perfmodel.load import load_scenario
from perfmodel.serving.serve import serve
from perfmodel.spec.serving import FrontEnd
from perfmodel.step import predict_steps

BASE = "deepseek-v3-h800"
PROMPT = ("deployment.phase=prefill", "deployment.prefill_tokens=2048", "deployment.mtp.draft_tokens=0")


def test_a_chunk_costs_what_a_token_costs():
    front = FrontEnd(chunk_s=1e-4, servers=2, stream_interval=5)
    assert front.streaming_s(100.0) == pytest.approx(100 * 1e-4 / 2 / 5)
    assert front.streaming_s(100.0, 2.5) == pytest.approx(100 * 1e-4 / 2 / 2), (
        "half as many chunks as tokens / 1.25"
    )
    assert front.streaming_s(100.0, 9.0) == pytest.approx(100 * 1e-4 / 2), "never more chunks than steps"
    assert FrontEnd().streaming_s(1e6) == 0.0


def test_a_step_comes_no_faster_than_it_is_streamed():
    free = load_scenario(BASE)
    slow = load_scenario(BASE, ["serving.front_end.chunk_s=1e-5"])  # 128 x 128 requests: 164 ms
    sent = 128 * 128 * 1e-5
    before, after = answer_step(free).values, answer_step(slow).values
    assert after["step_time_s"] == before["step_time_s"] < sent
    assert after["tpot_s"] == pytest.approx(sent)
    assert after["itl_s"] == pytest.approx(sent)
    assert after["output_tokens_per_s_per_gpu"] == pytest.approx(128 / sent)
    assert after["usd_per_million_output_tokens"] == pytest.approx(
        before["usd_per_million_output_tokens"] * sent / before["tpot_s"]
    )
    assert any("front end sets the pace" in text for text in after["dangers"])
    assert not any("front end" in text for text in before["dangers"])
    low, high = after["intervals"]["tpot_s"]
    assert low < sent < high, "as little known as the engine's other constants"


def test_the_curve_says_what_the_step_says():
    slow = load_scenario(BASE, ["serving.front_end.chunk_s=2e-6"])
    table = batch_curve(slow, np.array([16.0, 128.0]))
    for batch, tpot in zip(table["batch_per_gpu"], table["tpot_s"], strict=True):
        one = load_scenario(BASE, ["serving.front_end.chunk_s=2e-6", f"deployment.batch_per_gpu={batch}"])
        assert tpot == pytest.approx(answer_step(one).values["tpot_s"], rel=1e-3)


def test_what_a_request_costs_in_front_is_in_its_first_token():
    before = load_scenario(BASE, PROMPT)
    after = load_scenario(
        BASE, [*PROMPT, "serving.front_end.latency_s=0.2", "serving.front_end.request_s=0.03"]
    )
    seconds = float(predict_steps(before).step_time_s[0])
    assert step_rates(after, seconds).ttft_s == pytest.approx(step_rates(before, seconds).ttft_s + 0.23)


@pytest.mark.parametrize("drafts", [0, 1])
def test_under_traffic_the_pace_is_the_steps_own(drafts):
    own = [
        "cluster=h200-ib", "deployment.attention_dp=1", "deployment.attention_tp=8", "deployment.dense_tp=8",
        "deployment.moe_tp=8", "deployment.ep=1", "deployment.overlap=sequential", "deployment.redundant_experts=0",
        f"deployment.mtp.draft_tokens={drafts}", "deployment.mtp.acceptance=0.5", "serving.front_end.chunk_s=0.005",
        "workload={max_concurrency: 8, num_requests: 64, input_tokens: 64, output_tokens: 400}",
        "deployment.batch_per_gpu=1", "deployment.context_tokens=264",
        "deployment.host={launch_us: 0, uncounted_us: 0}",  # prompts run alone, and decodes wait for them
    ]  # fmt: skip
    scenario = load_scenario(BASE, own)
    step = answer_step(scenario).values
    assert step["tpot_s"] == pytest.approx(float(streamed_s(scenario)) / step["tokens_per_step"])
    records = serve(scenario).records
    tpot = (records.end_s - records.first_token_s) / (records.output_tokens - 1)
    assert float(np.median(tpot)) == pytest.approx(step["tpot_s"], rel=0.04)

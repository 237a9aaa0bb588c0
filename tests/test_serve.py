"""perfmodel serve: what is reported follows from the records, real traffic, the command, bad input."""

import json

import numpy as np
import pandas
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from perfmodel.answers.serve import answer_serve
from perfmodel.cli import app
from perfmodel.economics.quantiles import mean_interval, weighted_spread
from perfmodel.economics.requests import is_good, serving_metrics
from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.load import load_scenario
from perfmodel.ops.memory import cache_tokens_per_rank
from perfmodel.output.serve.table import _serve_rates
from perfmodel.serving.records import Load, Records, StepRuns
from perfmodel.serving.serve import batching_of, serve
from perfmodel.serving.step_times import TwinStepTimes
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import predict_steps

NODE = [
    "cluster=h200-ib", "calibration=h200-sxm", "deployment.attention_dp=1", "deployment.attention_tp=8",
    "deployment.dense_tp=8", "deployment.ep=8", "deployment.overlap=sequential", "deployment.batch_per_gpu=8",
    "workload.trace=''",
]  # fmt: skip
"""DeepSeek-V3 on one node of eight H200, tensor-parallel."""


def node(*overrides):
    return load_scenario("deepseek-v3-h800", [*NODE, *overrides])


DECODES, PROMPT = [0, 0, 4.0, 6, 0, 1, 1, 20, 0, 0, 1], [4, 0, 1.0, 1, 0, 1, 0, 0, 30, 450, 1]
"""Rows of the table of steps."""


def records_of(arrival, first, end, inputs, outputs):
    zero = np.zeros(len(arrival), dtype=np.int64)
    return Records(
        arrival_s=np.asarray(arrival, float), scheduled_s=np.asarray(arrival, float),
        first_token_s=np.asarray(first, float), end_s=np.asarray(end, float),
        input_tokens=np.asarray(inputs), output_tokens=np.asarray(outputs), preemptions=zero,
        prefilled_s=np.asarray(first, float), retries=zero, cached_tokens=zero, replica=zero, prefill_replica=zero,
        gap_s=np.array([0.1, 0.3]), gap_count=np.array([3, 1]),
        load=Load(10.0, 30, StepRuns.of([DECODES, PROMPT])),
    )  # fmt: skip


# --- from records to figures ----------------------------------------------------------------------------------------


def test_figures_follow_from_records_by_hand():
    records = records_of([0, 1, 2], [1, 3, 5], [5, 3, 10], [10, 20, 30], [5, 1, 11])
    found = serving_metrics(records, node("prices.usd_per_gpu_hour=3.6"))
    assert found["ttft_s"]["mean"] == pytest.approx(2.0)
    assert found["tpot_s"]["mean"] == pytest.approx((1.0 + 0.5) / 2)  # one output token has none
    assert found["e2e_s"]["p50"] == pytest.approx(5.0)
    assert found["itl_s"]["mean"] == pytest.approx(0.15)
    assert found["itl_s"]["p50"] == 0.1
    assert found["itl_s"]["p90"] == 0.3
    assert found["tokens_per_s_per_user"]["mean"] == pytest.approx(1.5)
    assert found["requests_per_s"] == pytest.approx(0.3)
    assert found["output_tokens_per_s_per_gpu"] == pytest.approx(17 / 10 / 8)
    assert found["input_tokens_per_s_per_gpu"] == pytest.approx(60 / 10 / 8)
    assert found["gpu_hours"] == pytest.approx(8 * 10 / 3600)
    assert found["usd_per_million_output_tokens"] == pytest.approx(8 * 10 / 3600 * 3.6 / 17 * 1e6)
    assert found["usd_per_million_total_tokens"] == pytest.approx(8 * 10 / 3600 * 3.6 / 77 * 1e6)
    assert found["busy_pct"] == pytest.approx(50.0)
    assert found["prompt_steps_pct"] == pytest.approx(20.0)
    assert found["steps"] == 7


def test_goodput_counts_requests_that_keep_every_limit():
    ttft, tpot, e2e = np.array([0.1, 0.5, 0.1, 0.1]), np.array([0.01, 0.01, 0.09, np.nan]), np.full(4, 3.0)

    def good(**slo):
        return is_good(ttft, tpot, e2e, node(*(f"slo.{key}={value}" for key, value in slo.items()))).tolist()

    assert good() == [True] * 4
    assert good(ttft_ms=200) == [True, False, True, True]
    assert good(ttft_ms=200, tpot_ms=50) == [True, False, False, True]
    assert good(e2e_ms=2000) == [False] * 4


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 50)), min_size=1, max_size=30))
def test_weighted_percentiles_are_those_of_the_values_written_out(runs):
    values, counts = (np.array(column) for column in zip(*runs, strict=True))
    whole = np.sort(np.repeat(values, counts))
    found = weighted_spread(values, counts)
    assert found["mean"] == pytest.approx(whole.mean())
    for name, q in (("p50", 0.5), ("p99", 0.99)):
        assert found[name] == whole[min(int(np.ceil(q * len(whole))) - 1, len(whole) - 1)]


def test_batch_means_cover_the_mean_of_a_sequence_that_depends_on_itself():
    """Autoregressive values: four of five intervals hold the mean; taken as independent, far fewer would."""
    inside = naive = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).standard_normal(2_000).tolist()
        last, values = noise[0], []
        for one in noise:
            last = 0.9 * last + one
            values.append(last)
        found = np.array(values)
        low, high = mean_interval(found)
        inside += low <= 0.0 <= high
        naive += abs(found.mean()) < 1.28 * found.std() / len(found) ** 0.5
    assert 135 <= inside <= 180
    assert naive < 90
    assert mean_interval(np.ones(39)) is None


# --- step times -----------------------------------------------------------------------------------------------------


def test_interpolated_steps_are_the_twins():
    times = TwinStepTimes(node(), most_requests=64, most_prompt=8192, most_context=16_384)
    rng = np.random.default_rng(1)
    requests, context = rng.integers(1, 65, 60), np.exp(rng.uniform(np.log(64), np.log(16_000), 60))
    prompt, attended = (np.exp(rng.uniform(np.log(20), np.log(high), 60)) for high in (8_000, 16_000))
    values = {"deployment.batch_per_gpu": requests / 8, "deployment.context_tokens": context}
    twin = predict_steps(with_arrays(node("deployment.phase=decode"), values)).step_time_s
    mine = [times.decode_s(n, n * c) for n, c in zip(requests.tolist(), context, strict=True)]
    assert mine == pytest.approx(twin.tolist(), rel=0.05)
    for n, c, p, m in zip(requests.tolist(), context, prompt, attended, strict=True):
        alone = times.prompt_s(p, p * m, 0, 0.0)
        beside = times.prompt_s(p, p * m, n, n * c)
        assert alone < beside < 1.1 * (alone + times.decode_s(n, n * c))


def test_ranks_with_little_to_do_cost_the_experts_little():
    """One rank of 128 with a prompt: attention and what it sends as with all, experts as with few tokens."""
    scenario = load_scenario("deepseek-v3-h800", ["deployment.overlap=sequential", "workload.trace=''"])
    times = TwinStepTimes(scenario, most_requests=32, most_prompt=4096, most_context=8192)
    alone, all_ = (times.prompt_s(2048, 2048 * 1024, 0, 0.0, even) for even in (1 / 128, 1.0))
    direct = load_scenario(
        "deepseek-v3-h800",
        ["deployment.overlap=sequential", "deployment.phase=prefill", "deployment.prefill_tokens=2048"],
    )
    assert all_ == pytest.approx(float(predict_steps(direct).step_time_s[0]), rel=0.03)
    assert 0.3 * all_ < alone < 0.97 * all_
    values = [times.prompt_s(2048, 2048 * 1024, 8, 16_000.0, even) for even in (0.05, 0.2, 0.5, 1.0)]
    assert values == sorted(values)


def test_a_run_of_steps_is_the_sum_of_its_steps():
    times = TwinStepTimes(node(), most_requests=32, most_prompt=512, most_context=8_192)
    for start, growth, steps in ((100.0, 5.0, 900), (3_000.0, 0.0, 7), (31.0, 12.5, 3_000)):
        one_by_one = sum(times.decode_s(5, start + growth * i) for i in range(steps))
        assert times.decode_run_s(5, start, growth, steps) == pytest.approx(one_by_one, rel=1e-9)


def test_the_cache_takes_what_memory_leaves():
    """By `perfmodel step`'s own count: as many tokens as the largest batch that fits, of the same length."""
    wide = "deployment.low_latency_max_tokens_per_gpu=512"  # so that memory is what limits
    scenario = load_scenario("longcat-flash-h800", [wide])
    tokens = cache_tokens_per_rank(scenario, prompt_tokens=256)
    largest = CliRunner().invoke(app, ["step", "longcat-flash-h800", "--set", wide, "--json"])
    values = json.loads(largest.stdout)
    assert values["max_batch_bound_by"] == "memory"
    assert tokens == pytest.approx(values["max_batch_per_gpu"] * 5_002, rel=0.03)
    assert cache_tokens_per_rank(scenario, prompt_tokens=8192) < tokens


# --- whole runs -----------------------------------------------------------------------------------------------------


def test_a_lone_request_takes_its_own_steps():
    values = answer_serve(
        node("workload.num_requests=1", "workload.input_tokens=2000", "workload.output_tokens=100")
    ).values
    prefill = node(
        "deployment.phase=prefill",
        "deployment.prefill_tokens=2000",
        "deployment.prefill_requests_per_gpu=0.125",
    )
    assert values["ttft_s"]["mean"] == pytest.approx(float(predict_steps(prefill).step_time_s[0]), rel=0.03)
    decode = node("deployment.batch_per_gpu=0.125", "deployment.context_tokens=2050")
    assert values["tpot_s"]["mean"] == pytest.approx(float(predict_steps(decode).step_time_s[0]), rel=0.03)


def test_more_traffic_makes_requests_wait_and_tokens_cheap():
    found = [
        answer_serve(
            node(f"workload.request_rate={rate}", "workload.num_requests=400", "workload.output_tokens=200")
        ).values
        for rate in (0.5, 2.0, 8.0)
    ]
    waits = [one["ttft_s"]["mean"] for one in found]
    assert waits == sorted(waits)
    costs = [one["usd_per_million_output_tokens"] for one in found]
    assert costs == sorted(costs, reverse=True)
    assert found[0]["requests_per_s"] == pytest.approx(0.5, rel=0.15)


def test_the_azure_hour_is_served_whole():
    records = serve(node("workload.trace=azure-conv-2023", "serving.replicas=4")).records
    assert len(records.end_s) == 19_366
    assert records.output_tokens.sum() == records.gap_count.sum() + 19_366
    assert set(records.replica) == {0, 1, 2, 3}
    assert np.bincount(records.replica).min() > 4_000
    assert records.preemptions.sum() == 0


def test_the_same_seed_gives_the_same_bytes():
    first, again = (
        answer_serve(node("workload.trace=azure-conv-2023", "workload.num_requests=50")).values
        for _ in range(2)
    )
    assert json.dumps(first) == json.dumps(again)
    assert first["provenance"]["trace"].startswith("azure-conv-2023")


def test_engines_have_their_own_policy():
    assert batching_of(node("deployment.engine=sglang")).policy == "prefill-first"
    assert batching_of(node("deployment.engine=vllm")).policy == "mixed"
    assert batching_of(node("serving.policy=mixed")).policy == "mixed"
    assert batching_of(load_scenario("longcat-flash-h800")).tokens_per_decode == 2


def test_low_latency_buffers_bound_what_runs():
    values = answer_serve(load_scenario("longcat-flash-h800", ["workload.num_requests=40"])).values
    assert any("a rank runs at most 128 requests" in text for text in values["warnings"])
    assert not any(
        "a rank runs at most" in text
        for text in answer_serve(node("workload.num_requests=5")).values["warnings"]
    )


def test_padding_to_captured_batches_costs_time():
    def tpot(*more):
        asked = node("workload.max_concurrency=5", "workload.num_requests=20", *more)
        return answer_serve(asked).values["tpot_s"]["mean"]

    unpadded = tpot("serving.graph_batches=null")
    assert tpot("serving.graph_batches=[8,16]") > unpadded * 1.005
    assert tpot("serving.graph_batches=[1,2,3,4,5]") == pytest.approx(unpadded)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_writes_and_agrees_with_itself(tmp_path):
    args = ["serve", "longcat-flash-h800", "--set", "workload.num_requests=60"]
    shown = CliRunner().invoke(app, args)
    assert shown.exit_code == 0
    for text in ("TTFT", "TPOT", "ITL", "$ per million output tokens", "60 requests"):
        assert text in shown.stdout
    file = tmp_path / "requests.parquet"
    values = json.loads(CliRunner().invoke(app, [*args, "--json", "--requests", str(file)]).stdout)
    frame = pandas.read_parquet(file)
    assert len(frame) == values["requests"] == 60
    assert frame["ttft_s"].mean() == pytest.approx(values["ttft_s"]["mean"])
    assert np.percentile(frame["e2e_s"], 99) == pytest.approx(values["e2e_s"]["p99"])
    note = json.loads(pyarrow.parquet.read_schema(file).metadata[b"perfmodel"])
    assert note["scenario_hash"] == values["provenance"]["scenario_hash"]
    csv = tmp_path / "requests.csv"
    CliRunner().invoke(app, [*args, "--requests", str(csv)])
    assert pandas.read_csv(csv)["ttft_s"].to_numpy() == pytest.approx(frame["ttft_s"].to_numpy())


def test_a_scenario_file_may_name_a_trace_beside_it(tmp_path):
    (tmp_path / "mine.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2026-01-01 00:00:00,100,20\n2026-01-01 00:00:01,200,30\n"
    )
    (tmp_path / "mine.yaml").write_text("base: longcat-flash-h800\nworkload: {trace: mine.csv}\n")
    run = CliRunner().invoke(app, ["serve", str(tmp_path / "mine.yaml"), "--json"])
    values = json.loads(run.stdout)
    assert values["requests"] == 2
    assert values["provenance"]["trace"]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["serving.policy=bogus"], SpecError, "policy"),
        (["serving.graph_batches=[8,4]"], SpecError, "ascending"),
        (["serving.max_batched_tokens=1", "serving.policy=mixed"], SpecError, "must exceed the 1 tokens"),
        (["serving.kv_tokens=100"], InfeasibleError, "KV blocks of 64, one rank has 1"),
        (["serving.kv_tokens=10"], InfeasibleError, "less than one block"),
        (["serving.replicas=0"], SpecError, "replicas"),
        (["serving.replicas=1000000000"], SpecError, "replicas"),
        (["given.attention_us=100"], SpecError, "given.attention_us"),
        (["workload.request_rate=-1"], SpecError, "request_rate"),
        (["slo.ttft_ms=0"], SpecError, "ttft_ms"),
    ],
)
def test_bad_input_says_what_is_allowed(overrides, error, message):
    with pytest.raises(error, match=message):
        serve(node("workload.num_requests=5", *overrides))


def test_reports_costs_are_not_served():
    with pytest.raises(SpecError, match="costs = report"):
        serve(load_scenario("table7-longcat-flash"))


def test_several_steps_per_scheduling_share_its_gap_and_make_requests_wait():
    one, four = (
        serve(
            node(
                "workload.request_rate=20",
                "workload.num_requests=200",
                f"serving.scheduler_steps={n}",
                "deployment.host.prepare_us=2000",
                "deployment.host.asynchronous=false",
                "deployment.host.launch_us=0",
                "deployment.host.uncounted_us=0",
            )
        )
        for n in (1, 4)
    )
    alone = [served.pool.times().decode_s(4, 4_000.0, 1.0) for served in (one, four)]
    assert alone[0] - alone[1] == pytest.approx(0.75 * 2e-3, rel=0.05)
    waits = [float((served.records.scheduled_s - served.records.arrival_s).mean()) for served in (one, four)]
    assert waits[1] > 1.1 * waits[0]


def test_no_figure_is_printed_with_an_exponent():
    """Capacity of 370 % was printed as 3.7e+02 %."""
    answer = answer_serve(node("workload.num_requests=5"))
    large = {
        key: 12345.6 * value if isinstance(value, float) else value for key, value in answer.values.items()
    }
    large["capacity_used_pct"] = 372.0
    rows = _serve_rates(large, answer.scenario)
    assert ("capacity used", "372 %") in [row[:2] for row in rows]
    assert not [row for row in rows if "e+" in " ".join(row)]

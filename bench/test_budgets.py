"""What the design's budgets promise, timed: `make bench`. Figures go to the log; no test gates on them."""

import subprocess
import sys

import numpy as np
import pytest

from bench.yardstick import at_budget_s
from perfmodel.explore.plan_training.answer import SIMULATE
from perfmodel.explore.plan_training.question import Question
from perfmodel.explore.plan_training.screen import screen
from perfmodel.load import load_scenario
from perfmodel.overlap.twin import step_times
from perfmodel.routing.activation import beta_binomial
from perfmodel.routing.loads import multinomial_rank_loads, sample_activation, sample_experts
from perfmodel.routing.popularity import power_law
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.routing import theta_of
from perfmodel.spec.training import Checkpoints, Failures
from perfmodel.step import has_contention, predict_steps, simulate_step, step_segments
from perfmodel.training.pipeline.program import makespans
from perfmodel.training.pipeline.schedules import schedule
from perfmodel.training.pipeline.simulate import simulate as simulate_pipeline
from perfmodel.training.pipeline.times import StageTimes
from perfmodel.training.run import simulate_run
from perfmodel.training.step import simulate_training
from perfmodel.units import HOUR

SCHEDULES = ("sequential", "sbo", "sbo-engine", "tbo")
SCENARIOS = 10_000


def test_help(benchmark):
    """Budget: 0.5 s."""
    benchmark(
        lambda: subprocess.run([sys.executable, "-m", "perfmodel", "--help"], check=True, capture_output=True)
    )


@pytest.mark.parametrize("overlap", SCHEDULES)
def test_timeline_of_one_rank(benchmark, overlap):
    """Budget: 50 ms."""
    benchmark(simulate_step, load_scenario("longcat-flash-h800", [f"deployment.overlap={overlap}"]))


def test_timeline_of_all_ranks(benchmark):
    """Budget: 3 s of CPU where the yardstick takes 1.8."""
    scenario = load_scenario("longcat-flash-h800", ["deployment.ranks=all"])
    benchmark.pedantic(simulate_step, args=(scenario,), rounds=1)
    benchmark.extra_info["cpu_s_where_the_yardstick_takes_1.8"] = at_budget_s(lambda: simulate_step(scenario))


@pytest.mark.parametrize("overlap", SCHEDULES)
def test_twin_of_one_scenario(benchmark, overlap):
    """Budget: 5 ms of CPU where the yardstick takes 1.8 s; building the step takes 25 ms more."""
    scenario = load_scenario("longcat-flash-h800", [f"deployment.overlap={overlap}"])
    segments = step_segments(scenario)

    def twin():
        return step_times(segments, contention=has_contention(scenario), compiled=True)

    benchmark(twin)
    benchmark.extra_info["cpu_ms_where_the_yardstick_takes_1.8_s"] = 1e3 * at_budget_s(twin, repeats=50)


@pytest.mark.parametrize("overlap", SCHEDULES)
def test_twin(benchmark, overlap):
    """Budget: 50,000 scenarios/s of CPU, segments built, where the yardstick takes 1.8 s."""
    swept = with_arrays(
        load_scenario("longcat-flash-h800", [f"deployment.overlap={overlap}"]),
        {
            "deployment.batch_per_gpu": np.linspace(1, 128, SCENARIOS),
            "deployment.context_tokens": np.linspace(1000, 9000, SCENARIOS),
        },
    )
    benchmark.pedantic(predict_steps, args=(swept,), rounds=3, warmup_rounds=1)
    taken_s = at_budget_s(lambda: predict_steps(swept))
    benchmark.extra_info["scenarios_per_s_where_the_yardstick_takes_1.8_s"] = round(SCENARIOS / taken_s)


def test_twin_with_popularity(benchmark):
    """The busiest rank's load from popularity adds nothing that can be measured: compare test_twin[sbo]."""
    swept = with_arrays(
        load_scenario("longcat-flash-h800", ["routing.popularity=power-law", "routing.skew=0.6"]),
        {"deployment.batch_per_gpu": np.linspace(1, 128, SCENARIOS)},
    )
    benchmark.pedantic(predict_steps, args=(swept,), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("layers", [1, 28])
def test_experts_of_every_token(benchmark, layers):
    """Budget: 50 ms for one layer of LongCat-Flash on 128 ranks x 192 tokens, 1.5 s for all 28."""
    popularity = power_law(512, 0.6)
    pmf = beta_binomial(12, 8.0, theta_of(12, 8.0, 2.55))
    rng = np.random.default_rng(0)

    def draw():
        for _ in range(layers):
            sample_experts(rng, popularity, sample_activation(rng, pmf, 128 * 192))

    benchmark.pedantic(draw, rounds=3, warmup_rounds=1)


def test_loads_of_all_layers(benchmark):
    """Budget: 50 ms for one multinomial per layer, 28 layers."""
    shares = np.full(128, 1 / 128)
    rng = np.random.default_rng(0)
    benchmark(lambda: [multinomial_rank_loads(rng, shares, 128 * 192 * 8, 1) for _ in range(28)])


NODE = (
    "cluster=h200-ib", "calibration=h200-sxm", "deployment.attention_dp=1", "deployment.attention_tp=8",
    "deployment.dense_tp=8", "deployment.ep=8", "deployment.overlap=sequential", "deployment.batch_per_gpu=8",
)  # fmt: skip


@pytest.mark.parametrize(
    ("replicas", "least_per_s"), [(1, 10_000), (10, 5_000)], ids=["one replica", "ten replicas"]
)
def test_an_hour_of_conversations(benchmark, replicas, least_per_s):
    """19,366 requests, set-up of the step times included; ten replicas get ten times the rate."""
    from perfmodel.serving.serve import serve

    scenario = load_scenario(
        "deepseek-v3-h800", [*NODE, f"serving.replicas={replicas}", f"workload.time_scale={replicas}"]
    )
    served = benchmark.pedantic(serve, args=(scenario,), rounds=3, warmup_rounds=1)
    assert len(served.records.end_s) == 19_366
    assert 19_366 / benchmark.stats.stats.median > least_per_s


def test_an_hour_through_128_ranks_in_lockstep(benchmark):
    """The main job's traffic: one replica whose 128 ranks wait for each other in every step."""
    from perfmodel.serving.serve import serve

    served = benchmark.pedantic(serve, args=(load_scenario("longcat-flash-h800"),), rounds=3, warmup_rounds=1)
    assert 19_366 / benchmark.stats.stats.median > 5_000
    assert len(served.records.end_s) == 19_366


@pytest.mark.parametrize("requests", [20_000, 200_000])
def test_cost_grows_with_requests_alone(benchmark, requests):
    """Ten times as many take no longer each, and each leaves at most 200 bytes (the table of steps is beside it)."""
    from dataclasses import fields

    from perfmodel.serving.serve import serve

    traffic = (
        "workload.trace=''", "workload.request_rate=5", f"workload.num_requests={requests}",
        "workload.input_tokens={min: 200, max: 2000}", "workload.output_tokens={min: 20, max: 400}",
    )  # fmt: skip
    scenario = load_scenario("deepseek-v3-h800", [*NODE, *traffic])
    records = benchmark.pedantic(serve, args=(scenario,), rounds=1, warmup_rounds=1).records
    assert requests / benchmark.stats.stats.median > 10_000
    columns = [getattr(records, one.name) for one in fields(records) if one.name != "load"]
    assert sum(column.nbytes for column in columns) <= 200 * requests


PIPELINES = ("1f1b", "zb-h1", "dualpipe")


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_of_16_stages_and_240_micro_batches(benchmark, name):
    """Budget: 2 s, orders included."""

    def step():
        schedule.cache_clear()
        own = schedule(name, 16, 240)
        return simulate_pipeline(own, StageTimes.even(16, 1.0, 1.2, 0.9, transfer_s=0.01))

    benchmark.pedantic(step, rounds=3)


@pytest.mark.parametrize("name", PIPELINES)
def test_many_layouts_of_a_pipeline(benchmark, name):
    """Budget: 2,000 layouts/s."""
    own, layouts = schedule(name, 16, 240), 2000
    times = np.random.default_rng(0).uniform(0.5, 1.5, (3, 16, layouts))
    benchmark.pedantic(makespans, args=(own, StageTimes(*times, transfer_s=np.full(layouts, 0.01))), rounds=3)
    benchmark.extra_info["layouts_per_s"] = layouts / benchmark.stats.stats.median


@pytest.mark.parametrize("name", ["deepseek-v3-train-h800", "longcat-flash-train-h800"])
def test_a_screen_of_training_layouts(benchmark, name):
    """Budget: 2,000 layouts/s of CPU where the yardstick takes 1.8 s, from the question to ranked layouts."""
    question = Question(name)
    (kind,) = question.every_kind()
    found = benchmark.pedantic(screen, args=(question, kind, SIMULATE), rounds=3, warmup_rounds=1)
    layouts_per_s = len(found.layouts) / at_budget_s(lambda: screen(question, kind, SIMULATE))
    benchmark.extra_info["layouts_per_s_where_the_yardstick_takes_1.8_s"] = round(layouts_per_s)


def test_a_year_of_failures_a_thousand_times(benchmark):
    """Budget: 5 s. 16,384 GPUs that fail as Llama 3's did."""
    benchmark.pedantic(
        simulate_run,
        args=(365.0 * 24.0 * HOUR,),
        kwargs={
            "num_gpus": 16384,
            "step_time_s": 10.0,
            "checkpoints": Checkpoints(stall_s=5.0),
            "failures": Failures(per_gpu_day=4.74e-4, restart_s=300.0, spare_nodes=8),
            "seed": 0,
        },
        rounds=3,
    )


@pytest.mark.parametrize("name", ["deepseek-v3-train-h800", "longcat-flash-train-h800"])
def test_a_training_step(benchmark, name):
    """Stages timed, pipeline simulated; a calibration loaded before."""
    benchmark.pedantic(simulate_training, args=(load_scenario(name),), rounds=3, warmup_rounds=1)

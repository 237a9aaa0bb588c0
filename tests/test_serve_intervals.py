"""perfmodel serve --intervals: factors, step times stretched by them, and what a queue makes of it."""

import json

import numpy as np
import pytest
from test_serve import DECODES, PROMPT, node
from typer.testing import CliRunner

from perfmodel.answers import serve_intervals as answer_intervals
from perfmodel.answers.serve import answer_serve
from perfmodel.cli import app
from perfmodel.errors import SpecError
from perfmodel.load import load_scenario
from perfmodel.serving.records import StepRuns
from perfmodel.serving.serve import serve
from perfmodel.serving.spread import Spread, run_spread, typical_step
from perfmodel.serving.stretch import stretched
from perfmodel.step import common_log_std, predict_steps, simulate_step
from perfmodel.uncertainty import step_interval

BUSY = ["workload.request_rate=4", "workload.num_requests=150", "workload.output_tokens=150"]
TENTHS = 1.2816
"""Standard deviations from the middle to the 10th and 90th percentile."""


@pytest.fixture(scope="module")
def busy():
    return answer_serve(node(*BUSY, "slo.tpot_ms=40"), repeats=16).values


# --- factors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [8, 16, 32, 64, 256])
@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.97, 1.0])
def test_factors_have_the_spread_and_the_correlation(count, correlation):
    pairs = np.log(Spread(0.01, 0.2, -0.02, 0.1, correlation).factors(count))
    assert pairs.mean(axis=0) == pytest.approx([0.01, -0.02], abs=1e-9)
    assert pairs.std(axis=0) == pytest.approx([0.2, 0.1], rel=0.7 / count**0.6)
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(correlation, abs=0.01)


@pytest.mark.parametrize("count", [8, 16, 32, 64, 256])
def test_percentiles_of_steps_that_have_much_in_common_are_those_of_the_distribution(count):
    pairs = np.log(Spread(0.01, 0.2, -0.02, 0.1, 0.97).factors(count))
    for values, mean, std in zip(pairs.T, (0.01, -0.02), (0.2, 0.1), strict=True):
        found = np.quantile(values, (0.1, 0.9), method="hazen")
        assert found == pytest.approx([mean - TENTHS * std, mean + TENTHS * std], abs=0.13 * std)


def test_the_typical_step_is_the_mean_by_time():
    more = [5, 0, 2.0, 6, 0, 1, 3, 90, 0, 0, 1]
    runs = StepRuns.of([DECODES, PROMPT, more])
    scenario = node()
    step = typical_step(scenario, runs, runs.prompt == 0.0).deployment
    requests, tokens = (4 * 1 + 2 * 3) / 6, (4 * 20 + 2 * 90) / 6
    assert step.phase == "decode"
    assert step.batch_per_gpu == pytest.approx(requests / 8)
    assert step.context_tokens == pytest.approx(tokens / requests)
    prompt = typical_step(scenario, runs, runs.prompt > 0.0).deployment
    assert prompt.phase == "prefill"
    assert prompt.prefill_tokens * prompt.prefill_requests_per_gpu == pytest.approx(30 / 8)
    mixed = typical_step(scenario, runs, runs.prompt >= 0.0).deployment
    assert mixed.phase == "mixed"


def test_the_spread_is_that_of_the_step_command():
    """One kind of step, alone: the draws are those of `perfmodel step`, so its interval comes out."""
    scenario = node()
    runs = StepRuns.of([[0, 0, 4.0, 6, 0, 1, 64, 64 * 5000, 0, 0, 1]])
    step = simulate_step(node("deployment.batch_per_gpu=8", "deployment.context_tokens=5000"))
    common = common_log_std(step.scenario)
    found = run_spread(scenario, runs, common_log_std=common)
    low, high = step_interval(step.segments, common_log_std=common, contention=True)
    assert found.correlation == pytest.approx(1.0)
    assert found.decode_log_std == found.prompt_log_std
    assert np.log(high / low) == pytest.approx(2 * TENTHS * found.decode_log_std, rel=0.15)


def test_decodes_and_prompts_err_together_as_far_as_they_share_kernels():
    served = serve(node(*BUSY))
    runs = served.records.load.runs
    alone = run_spread(served.scenario, runs, common_log_std=0.0)
    engine = run_spread(served.scenario, runs, common_log_std=0.3)
    assert alone.correlation < 0.8 < 0.95 < engine.correlation <= 1.0
    assert engine.decode_log_std == pytest.approx(np.hypot(alone.decode_log_std, 0.3), rel=0.1)


def test_ranks_in_lockstep_have_a_spread_too():
    served = serve(load_scenario("longcat-flash-h800", ["workload.num_requests=200"]))
    found = run_spread(served.scenario, served.records.load.runs, common_log_std=0.0)
    assert 0.005 < found.decode_log_std < 0.2
    assert 0.005 < found.prompt_log_std < 0.2
    step = typical_step(served.scenario, served.records.load.runs, served.records.load.runs.prompt == 0.0)
    assert len(step.routing.rank_loads) == 1
    assert float(predict_steps(step).step_time_s[0]) > 0.0


# --- runs with stretched steps --------------------------------------------------------------------------------------


NO_FRONT = "serving.front_end={latency_s: 0, request_s: 0}"
"""Nothing but steps takes time."""


def test_twice_as_long_steps_take_twice_as_long():
    asked = node("workload.num_requests=20", "workload.output_tokens={min: 5, max: 90}", NO_FRONT)
    first = serve(asked)
    same, double = (
        serve(asked, requests=first.requests, fleet=stretched(first.fleet, factor, factor))
        for factor in (1.0, 2.0)
    )
    assert np.array_equal(same.records.end_s, first.records.end_s)
    assert double.records.end_s == pytest.approx(2.0 * first.records.end_s)
    assert double.records.first_token_s == pytest.approx(2.0 * first.records.first_token_s)


def test_each_factor_has_its_own_steps():
    asked = node("workload.num_requests=1", "workload.output_tokens=50", NO_FRONT)
    first = serve(asked)
    found = serve(asked, fleet=stretched(first.fleet, 3.0, 0.5)).records
    ttft, end = first.records.first_token_s, first.records.end_s
    assert found.first_token_s == pytest.approx(0.5 * ttft)
    assert found.end_s - found.first_token_s == pytest.approx(3.0 * (end - ttft))


def test_figures_lie_in_their_intervals(busy):
    for name, (low, high) in busy["intervals"].items():
        value = busy
        for part in name.split("."):
            value = value[part]
        assert low <= value * 1.01, name
        assert value <= high * 1.01, name
    assert {"ttft_s.mean", "ttft_s.p99", "tpot_s.p50", "e2e_s.p90", "goodput_requests_per_s"} <= set(
        busy["intervals"]
    )
    assert busy["interval_draws"]["repeats"] == 16


def test_a_queue_multiplies_the_spread(busy):
    """Slow steps make batches grow, which makes steps slower still; arrivals hold the rate."""
    draws = busy["interval_draws"]
    own = 2 * TENTHS * draws["decode_log_std"]
    low, high = busy["intervals"]["tpot_s.mean"]
    assert np.log(high / low) > 1.2 * own
    low, high = busy["intervals"]["output_tokens_per_s_per_gpu"]
    assert np.log(high / low) < 0.5 * own


def test_intervals_are_the_same_bytes_again_and_stand_beside_those_of_means(busy):
    again = answer_serve(node(*BUSY, "slo.tpot_ms=40"), repeats=16).values
    assert json.dumps(again) == json.dumps(busy)
    without = answer_serve(node(*BUSY, "slo.tpot_ms=40")).values
    assert "intervals" not in without
    assert without["mean_intervals"] == busy["mean_intervals"]
    assert {key: busy[key] for key in without} == without


def test_an_unknown_spread_gives_no_intervals_and_says_so(monkeypatch):
    monkeypatch.setattr(answer_intervals, "run_spread", lambda *_, **__: None)
    values = answer_serve(node("workload.num_requests=5"), repeats=16).values
    assert "intervals" not in values
    assert any("no intervals" in text for text in values["warnings"])


def test_progress_counts_all_repeats():
    told = []
    answer_serve(
        node("workload.num_requests=5"), repeats=8, progress=lambda done, total: told.append((done, total))
    )
    assert (5, 5) in told
    assert told[-1] == (40, 40)
    assert [done for done, total in told if total == 40] == sorted(
        done for done, total in told if total == 40
    )


# --- the command ----------------------------------------------------------------------------------------------------

SHORT = ["serve", "longcat-flash-h800", "--set", "workload.num_requests=40"]


def test_the_command_has_them_when_asked():
    values = json.loads(CliRunner().invoke(app, [*SHORT, "--intervals", "--repeats", "8", "--json"]).stdout)
    low, high = values["intervals"]["ttft_s.mean"]
    assert low < values["ttft_s"]["mean"] < high
    assert values["interval_draws"]["repeats"] == 8
    shown = CliRunner().invoke(app, [*SHORT, "--intervals", "--repeats", "8"])
    assert "80 % intervals of the model" in shown.stdout
    assert "80 % intervals" not in CliRunner().invoke(app, SHORT).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--repeats", "16"], "belongs to --intervals"),
        (["--intervals", "--repeats", "4"], "from 8 to 1024"),
        (["--intervals", "--repeats", "20"], "power of two"),
        (["--intervals", "--repeats", "65536"], "from 8 to 1024"),
    ],
)
def test_bad_options_are_refused(options, message):
    done = CliRunner().invoke(app, [*SHORT, *options])
    assert isinstance(done.exception, SpecError)
    assert message in str(done.exception)


def test_of_two_tied_lattices_the_first_is_taken_whatever_a_sum_rounds_to():
    """A lattice and its inverse hold the same products; factors must come without any sum by BLAS."""
    for count, step in ((8, 3), (16, 7), (32, 7), (64, 13), (128, 23), (256, 111)):
        decode = np.log(Spread(0.0, 1.0, 0.0, 1.0, 0.0).factors(count))
        shared, apart = decode.sum(axis=1), decode[:, 0] - decode[:, 1]
        ranks = np.argsort(np.argsort(apart))
        assert np.argsort(shared).tolist() == list(range(count))
        places = (np.arange(count) * step + step // 2) % count
        assert ranks.tolist() in (places.tolist(), (count - 1 - places).tolist())


def test_an_unknown_router_is_drawn_with_data_parallel_ranks_too():
    """Steps of uneven ranks state their loads, and a busier rank is those times the prior."""
    known = load_scenario("longcat-flash-h800", ["routing.prior_imbalance=1.0"])
    unknown = load_scenario("longcat-flash-h800")
    assert unknown.routing.prior_imbalance > 1.0
    rows = StepRuns.of([[0, 0, 4.0, 6, 0, 96, 96, 96 * 5000, 0, 0, 1]])
    spreads = [run_spread(one, rows, common_log_std=0.05) for one in (known, unknown)]
    assert spreads[1].decode_mean > spreads[0].decode_mean + 0.01
    assert spreads[1].decode_log_std > spreads[0].decode_log_std

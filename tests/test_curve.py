"""The trade-off curve: every point is what one step says, and the draws of its band are the step's own."""

import numpy as np
import plotly.graph_objects as go
import pytest

from perfmodel.answers.step import answer_step
from perfmodel.explore.curve import batch_curve, curve_batches
from perfmodel.load import load_scenario
from perfmodel.output.charts.curve import trade_off_chart, trade_offs_chart
from perfmodel.validation.published_points import published_points

FIGURES = (
    "step_time_s",
    "tpot_s",
    "tokens_per_s_per_user",
    "output_tokens_per_s_per_gpu",
    "usd_per_million_output_tokens",
)


@pytest.mark.parametrize("overlap", ["sbo", "tbo", "sequential"])
def test_the_curve_at_the_scenarios_batch_is_its_answer_interval_included(overlap):
    scenario = load_scenario("longcat-flash-h800", [f"deployment.overlap={overlap}"])
    values = answer_step(scenario).values
    curve = batch_curve(scenario)
    (row,) = curve[curve.batch_per_gpu == 96].to_dict("records")
    for name in FIGURES:
        assert row[name] == pytest.approx(values[name], rel=1e-6)
        low, high = values["intervals"][name]
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((low, high), rel=1e-6)


def test_every_point_is_a_step_of_that_batch():
    scenario = load_scenario("deepseek-v3-h800")
    curve = batch_curve(scenario, np.array([8.0, 40.0, 128.0]))
    for _, row in curve.iterrows():
        alone = load_scenario("deepseek-v3-h800", [f"deployment.batch_per_gpu={row.batch_per_gpu:g}"])
        assert row.step_time_s == pytest.approx(answer_step(alone).values["step_time_s"], rel=1e-6)


def test_intervals_hold_the_middle_and_bigger_batches_are_slower_and_cheaper():
    curve = batch_curve(load_scenario("longcat-flash-h800"))
    for name in FIGURES:
        assert (curve[f"{name}_low"] < curve[name]).all()
        assert (curve[name] < curve[f"{name}_high"]).all()
    assert (np.diff(curve.tokens_per_s_per_user) < 0).all()
    assert (np.diff(curve.usd_per_million_output_tokens) < 0).all()


def test_batches_are_whole_fit_in_memory_and_hold_the_scenarios_own():
    scenario = load_scenario("longcat-flash-h800", ["deployment.batch_per_gpu=97"])
    batches = curve_batches(scenario)
    assert 97 in batches
    assert batches[0] == 1
    assert batches[-1] == answer_step(scenario).values["max_batch_per_gpu"]
    assert (batches == np.round(batches)).all()


def test_prefill_has_a_curve_over_prompts():
    scenario = load_scenario(
        "longcat-flash-h800", ["deployment.phase=prefill", "deployment.prefill_tokens=1024"]
    )
    curve = batch_curve(scenario)
    assert "tpot_s" not in curve
    assert (np.diff(curve.ttft_s) > 0).all()
    assert curve.usd_per_million_input_tokens.iloc[-1] < curve.usd_per_million_input_tokens.iloc[0]


def test_the_reports_way_of_counting_has_no_band():
    curve = batch_curve(load_scenario("table7-longcat-flash"))
    assert "tpot_s" in curve
    assert "tpot_s_low" not in curve


def test_published_points_stand_beside_their_own_model_and_gpu_only():
    points = published_points(load_scenario("longcat-flash-h800"))
    assert sorted(points.output_tokens_per_s_per_gpu) == [804, 2205, 3240, 3785, 4230]
    headline = points[points.output_tokens_per_s_per_gpu == 804].iloc[0]
    assert headline.tokens_per_s_per_user == 100.5
    assert headline.usd_per_million_output_tokens == pytest.approx(0.691, abs=5e-4)  # the report's $0.70
    assert len(published_points(load_scenario("deepseek-v3-h800"))) == 2
    assert not len(published_points(load_scenario("longcat-flash-h800", ["cluster=h200-ib"])))
    assert not len(
        published_points(
            load_scenario(
                "longcat-flash-h800",
                ["model=kimi-k2", "deployment.overlap=tbo", "deployment.mtp.draft_tokens=0"],
            )
        )
    )


def test_the_chart_draws_the_curves_numbers():
    scenario = load_scenario("longcat-flash-h800")
    curve = batch_curve(scenario)
    x, y = "tokens_per_s_per_user", "output_tokens_per_s_per_gpu"
    plain = trade_off_chart(curve, x=x, y=y, here=96, published=published_points(scenario))
    figure = go.Figure(plain)  # plotly checks it
    band, line, here, published = figure.data
    assert list(line.x) == list(curve[x])
    assert list(line.y) == list(curve[y])
    assert list(here.x) == list(curve[x][curve.batch_per_gpu == 96])
    assert len(band.x) == 2 * len(curve)
    assert max(band.y) == curve[f"{y}_high"].max()
    assert min(band.x) == curve[f"{x}_low"].min()
    assert len(published.x) == 5
    both = trade_offs_chart(
        {"A": (curve, 96), "<b>B</b>": (curve, 8)}, x=x, y="usd_per_million_output_tokens"
    )
    both = go.Figure(both)
    assert [trace.name for trace in both.data] == ["A", "&lt;b&gt;B&lt;/b&gt;"]
    assert both.data[0].line.dash != both.data[1].line.dash

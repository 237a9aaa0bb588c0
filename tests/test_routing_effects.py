"""What routing does to a step: laws of loads, and that the charts carry the numbers."""

import numpy as np
import pytest

from perfmodel.answers.step import answer_step
from perfmodel.errors import SpecError
from perfmodel.explore.routing_effects import (
    PLACEMENTS,
    active_rows,
    rank_load_rows,
    skew_cases,
    skew_row,
)
from perfmodel.load import load_scenario
from perfmodel.output.charts.experts import active_chart, rank_load_chart, skew_chart

SMALL = ("deployment.attention_dp=32", "deployment.ep=32", "deployment.batch_per_gpu=32")


def scenario(*sets):
    return load_scenario("longcat-flash-h800", [*SMALL, *sets])


def test_the_distribution_is_the_answers_and_spans_the_reports_range():
    rows, values = active_rows(scenario()), answer_step(scenario()).values
    assert list(rows.probability) == pytest.approx(values["real_experts"]["probabilities"])
    assert rows.probability.sum() == pytest.approx(1.0)
    assert rows.active_parameters.iloc[0] == values["active_parameters"]["least"]
    assert rows.active_parameters.iloc[-1] == values["active_parameters"]["most"]
    mean = (rows.probability * rows.active_parameters).sum()
    assert mean == pytest.approx(values["active_parameters"]["mean"], rel=1e-6)
    figure = active_chart(rows, mean=8.0)
    assert list(figure.data[0].y) == list(rows.probability * 100)


def test_loads_average_one_before_what_is_unexplained():
    rows = rank_load_rows(scenario("routing.imbalance=1.0"))
    assert len(rows) == 32
    assert rows["mean"].mean() == pytest.approx(1.0)
    assert (np.diff(rows["mean"]) <= 0).all()
    assert (rows.low <= rows["mean"]).all()
    assert (rows["mean"] <= rows.high).all()
    raised = rank_load_rows(scenario("routing.imbalance=1.5"))
    assert raised["mean"].iloc[0] == pytest.approx(1.5 * rows["mean"].iloc[0])
    assert list(raised["mean"].iloc[1:]) == list(rows["mean"].iloc[1:])
    assert list(rank_load_chart(rows).data[0].y) == list(rows["mean"])


def test_stated_loads_and_no_statement():
    stated = "[" + ", ".join(["1.5", "0.5"] * 16) + "]"
    rows = rank_load_rows(scenario(f"routing.rank_loads={stated}", "routing.imbalance=1.0"))
    assert list(rows["mean"]) == [1.5] * 16 + [0.5] * 16
    even = rank_load_rows(scenario('routing.popularity=""', "routing.imbalance=1.0"))
    assert list(even["mean"]) == [1.0] * 32


def test_skew_costs_and_placement_and_copies_save():
    in_order, eplb, copies = PLACEMENTS
    one = scenario("routing.imbalance=1.0")
    times = {
        placed.name: [skew_row(one, placed, exponent)["step_time_s"] for exponent in (0.0, 0.75)]
        for placed in PLACEMENTS
    }
    assert times[in_order.name][1] > times[in_order.name][0]
    assert times[eplb.name][1] < times[in_order.name][1]
    assert times[copies.name][1] == pytest.approx(
        times[copies.name][0], rel=1e-3
    )  # flat, for more weights to read
    even = [own[0] for own in times.values()]
    assert max(even) < 1.05 * min(even)
    assert times[in_order.name][0] == pytest.approx(answer_step(one).values["step_time_s"], rel=1e-6)


def test_cases_and_their_chart():
    cases = skew_cases(scenario())
    assert len(cases) == 15
    import pandas as pd

    rows = pd.DataFrame(
        [
            {
                "placement": placed.name,
                "exponent": exponent,
                "step_time_s": 0.05,
                "usd_per_million_tokens": 0.1,
            }
            for placed, exponent in cases
        ]
    )
    assert [trace.name for trace in skew_chart(rows).data] == [placed.name for placed in PLACEMENTS]


def test_models_without_experts_and_single_ranks_say_so():
    dense = [
        "model=llama-3.1-70b",
        "deployment.overlap=sequential",
        "deployment.mtp.draft_tokens=0",
        "routing={}",
    ]
    with pytest.raises(SpecError, match="has no experts"):
        active_rows(load_scenario("longcat-flash-h800", dense))
    with pytest.raises(SpecError, match="one rank"):
        skew_cases(load_scenario("reference-cpu"))


def test_a_free_gpu_has_a_cost_of_nothing_rather_than_none():
    row = skew_row(scenario("prices.usd_per_gpu_hour=0"), PLACEMENTS[0], 0.0)
    assert row["usd_per_million_tokens"] == 0.0

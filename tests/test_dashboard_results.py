"""What pages keep: nothing is computed again that does not depend on what was changed, and figures stay the same."""

import numpy as np
import pandas as pd
import pytest

from dashboard import results
from dashboard.chart_table import words_of
from dashboard.looks import MOST_TILES, columns
from perfmodel.answers.step import answer_step
from perfmodel.explore.curve import batch_curve
from perfmodel.load import load_scenario

MAIN, DRAWS, PLAIN = "longcat-flash-h800", "deepseek-v3-h200-vllm", "deepseek-v3-h800"
"""The second one's router is skewed, so that its seed is drawn from; the third states no popularity of experts."""


@pytest.fixture
def computed(monkeypatch):
    """Names of what is computed from now on."""
    seen = []

    def counting(name):
        real = getattr(results, name)

        def counted(*arguments, **named):
            seen.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(results, name, counted)

    for name in ("answer_step", "batch_curve"):
        counting(name)
    return seen


def asked(name, *sets):
    scenario = load_scenario(name, sets)
    return results.answer(scenario), pd.DataFrame(results.curve(scenario))


@pytest.mark.parametrize("name", [MAIN, DRAWS, PLAIN, "table7-longcat-flash"])
@pytest.mark.parametrize("sets", [["prices.usd_per_gpu_hour=9.5"], ["prices.usd_per_gpu_hour=0"], ["seed=7"]])
def test_answers_at_another_price_or_seed_are_those_of_perfmodel(name, sets):
    asked(name)
    scenario = load_scenario(name, sets)
    assert results.answer(scenario).values == answer_step(scenario, over_steps=False, ops=False).values


def test_a_prefill_step_at_another_price():
    sets = ["deployment.phase=prefill", "prices.usd_per_gpu_hour=4"]
    scenario = load_scenario(MAIN, sets)
    assert results.answer(scenario).values == answer_step(scenario, over_steps=False, ops=False).values
    assert (results.curve(scenario)["usd_per_million_input_tokens"] > 0.0).all()


def test_price_seed_and_what_is_shown_compute_nothing(computed):
    for name in (MAIN, PLAIN):
        asked(name, "deployment.context_tokens=5123")
    before = [*computed]
    assert before == ["answer_step", "batch_curve"] * 2
    for name in (MAIN, PLAIN):
        asked(name, "deployment.context_tokens=5123", "prices.usd_per_gpu_hour=3")
    asked(PLAIN, "deployment.context_tokens=5123", "prices.usd_per_gpu_hour=4", "seed=4")
    assert computed == before


def test_a_seed_that_is_drawn_from_does(computed):
    asked(DRAWS, "deployment.context_tokens=4001")
    found = asked(DRAWS, "deployment.context_tokens=4001", "seed=5")
    assert computed == ["answer_step", "batch_curve"] * 2
    assert found[0].values["provenance"]["seed"] == 5


def test_another_batch_computes_its_step_alone(computed):
    first = asked(MAIN, "deployment.context_tokens=5200", "deployment.batch_per_gpu=33")[1]
    second = asked(MAIN, "deployment.context_tokens=5200", "deployment.batch_per_gpu=34")[1]
    assert computed == ["answer_step", "batch_curve", "answer_step"]
    both = first.merge(second, on="batch_per_gpu", suffixes=("", "_again"))
    assert np.array_equal(both.step_time_s_high, both.step_time_s_high_again)  # the band stands still
    assert set(first.batch_per_gpu) ^ set(second.batch_per_gpu) == {33.0, 34.0}


@pytest.mark.parametrize("name", [MAIN, DRAWS, "reference-cpu", "reference-lsa-cpu", "table7-longcat-flash"])
def test_the_curve_is_perfmodels_with_the_tiles_in_it(name):
    scenario = load_scenario(name, ["prices.usd_per_gpu_hour=3.7"])
    found, expected = pd.DataFrame(results.curve(scenario)), batch_curve(scenario)
    assert list(found) == list(expected)
    for column in expected:
        ends = column.endswith(("_low", "_high"))
        assert found[column].to_numpy() == pytest.approx(
            expected[column].to_numpy(), rel=0.02 if ends else 1e-9
        )
    values = results.answer(scenario).values
    (own,) = found[found.batch_per_gpu == scenario.deployment.batch_per_gpu].to_dict("records")
    for key, (low, high) in values.get("intervals", {}).items():
        if f"{key}_low" in own:
            assert [own[f"{key}_low"], own[f"{key}_high"]] == pytest.approx([low, high], rel=1e-12)
    assert own["step_time_s"] == values["step_time_s"]


def test_a_scenario_that_does_not_fit_has_no_answer_and_a_curve_of_what_does():
    scenario = load_scenario(MAIN, ["deployment.batch_per_gpu=4000"])
    assert isinstance(results.answer(scenario), results.Failed)
    assert results.curve(scenario)["batch_per_gpu"].max() == 128


def test_a_chart_is_told_in_words():
    """Axes, and each series with its least and largest value."""
    figure = {
        "data": [
            {"name": "predicted", "x": [1, 2], "y": [3.0, 4500.0]},
            {"name": "<b>none</b>", "x": [], "y": []},
        ],
        "layout": {"xaxis": {"title": {"text": "batch"}}, "yaxis": {"title": "tokens/s"}},
    }
    said = words_of(figure)
    assert said.startswith("Chart of tokens/s against batch. predicted 3 to 4,500;")
    assert "<b>" not in said


@pytest.mark.parametrize("most", [4, 6])
def test_no_tile_is_left_over(most):
    for count in range(1, MOST_TILES + 1):
        found = columns(count, most)
        assert count <= found or count % found != 1, count
        assert found <= min(count, most + 1)
    assert (columns(5, 6), columns(5, 4), columns(16, 6), columns(8, 4)) == (5, 3, 6, 4)

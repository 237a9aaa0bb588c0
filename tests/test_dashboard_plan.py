"""The planner's page: figures are those of ``perfmodel plan --json``, the question is in the link, clicks take it."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("streamlit")

from patience import patient_s
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from dashboard import plan_asked
from dashboard.plan_asked import PlanAsked, command, from_text, space_text
from dashboard.plan_lines import line_of
from dashboard.plan_runs import Planned, steps_here
from perfmodel.cli import app as cli
from perfmodel.errors import SpecError
from perfmodel.explore.plan import offers
from perfmodel.explore.plan.screen import screen, stepped
from perfmodel.load import build_scenario
from perfmodel.output.formats import duration, significant
from perfmodel.output.report.words import dollars
from perfmodel.report.money import HOURS_PER_MONTH
from perfmodel.spec import catalogue

SMALL = PlanAsked(models=("qwen3-30b-a3b",), clusters=("h200-ib",), amount=40.0, isl=1000.0, osl=100.0)


def page():
    from dashboard import session
    from dashboard.views.plan import render

    session.start()
    errors, _ = session.said()
    assert not errors, errors
    render(session.scenario())


def opened(asked):
    app = AppTest.from_function(page, default_timeout=patient_s(120.0))
    app.query_params["plan"] = asked.text()
    return checked(app.run())


def checked(app):
    assert not app.exception, [error.message for error in app.exception]
    return app


def plain(text):
    return text.replace("\\", "")


def heading(app):
    return next(plain(one.value) for one in app.markdown if one.value.startswith("## "))


@pytest.fixture(scope="module")
def answered():
    return opened(SMALL)


def test_figures_are_those_of_the_command_that_the_page_shows(answered, tmp_path):
    """The command under the page, run as a user would with the file that it names, gives the page's figures."""
    shown, space = (block.value for block in answered.code)
    (tmp_path / "space.yaml").write_text(space)
    words = shlex.split(shown.replace("space.yaml", str(tmp_path / "space.yaml")))
    found = json.loads(CliRunner().invoke(cli, words[1:], catch_exceptions=False).stdout)
    best = found["candidates"][0]
    month = (
        best["num_gpus"] * catalogue.entry("prices", "h200-on-demand")["usd_per_gpu_hour"] * HOURS_PER_MONTH
    )
    said = heading(answered)
    assert f"{best['num_gpus']} x H200, InfiniBand" in said
    assert dollars(month) in said
    assert f"at {significant(1 / best['tpot_at_s'])} tokens/s" in said
    assert f"first token within {duration(best['ttft_at_s'])}" in said
    (row,) = answered.dataframe[0].value.to_dict("records")
    low, high = best["intervals"]["tpot_at_s"]
    speeds = " to ".join(significant(1 / bound) for bound in (high, low))
    assert row["Tokens/s per user"] == f"{significant(1 / best['tpot_at_s'])} ({speeds})"
    assert row["Layout"] == best["layout"]
    line = line_of(SMALL, "qwen3-30b-a3b", "h200-ib")
    assert isinstance(line.box.planned, Planned)
    assert json.loads(json.dumps(line.box.planned.values)) == found


def test_the_question_is_in_the_link_and_a_link_asks_it_again(answered):
    number = answered.number_input(key="plan-speed")
    assert number.value == SMALL.speed
    assert answered.number_input(key="plan-amount").value == SMALL.amount
    assert answered.multiselect(key="plan-clusters").value == ["h200-ib"]


def test_what_is_taken_is_a_scenario_that_step_answers(answered):
    line = line_of(SMALL, "qwen3-30b-a3b", "h200-ib")
    for offer in line.offers:
        found = build_scenario(offers.scenario_document(line.box.question, offer))
        assert found.fleet_gpus == offer.gpus
        assert found.prices.usd_per_gpu_hour * found.fleet_gpus == pytest.approx(offer.usd_per_hour)


def test_a_refusal_is_mended_by_its_button():
    app = opened(replace(SMALL, speed=2000.0))
    assert "keeps the limits" in plain(app.warning[0].value)
    checked(app.button(key="plan-mend-speed").click().run())
    assert app.number_input(key="plan-speed").value < 2000.0
    assert "The cheapest" in heading(app)


def test_gpus_without_a_price_ask_for_one_and_take_it():
    app = opened(replace(SMALL, clusters=("a100-ib",)))
    assert "no price" in plain(app.warning[0].value)
    checked(app.number_input(key="plan-price-a100-ib").set_value(1.5).run())
    assert "x A100, InfiniBand" in heading(app)
    assert "--set prices.usd_per_gpu_hour=1.5" in app.code[0].value


def test_a_budget_buys_what_it_pays_for_and_the_simulation_keeps_the_limits():
    asked = replace(SMALL, mode="carry", budget=4000.0)
    app = opened(asked)
    assert heading(app).startswith("## Most traffic: ")
    line = line_of(asked, "qwen3-30b-a3b", "h200-ib")
    (kind,) = line.box.question.kinds
    assert kind.gpus == int(4000 / HOURS_PER_MONTH / 4.54) == 1
    best = line.winner
    assert best["tpot_at_s"] <= 1 / asked.speed
    assert best["ttft_at_s"] <= asked.ttft_s
    # half as much again is too much for it, by the screen that chose it
    more = replace(line.box.screened.question, traffic=line.box.screened.question.traffic.times(1.5))
    assert offers.cheapest(screen(more)) is None


# --- what stands behind it -------------------------------------------------------------------------------------------


def test_kept_steps_give_the_screen_that_new_ones_give():
    question = replace(SMALL.question("qwen3-30b-a3b", "h200-ib"))
    asked = replace(question, kinds=(offers.Kind("h200-ib", 4, "sglang"),))
    kept = {}

    def steps(q, kind, lengths):
        if not kept:
            kept[0] = stepped(q, kind, lengths)
        return kept[0]

    for limits in (asked.limits, replace(asked.limits, tpot_s=0.01)):
        own = replace(asked, limits=limits)
        again, new = screen(own, steps=steps), screen(own)
        assert again.ranked == new.ranked
        for a, b in zip(again.batches, new.batches, strict=True):
            assert np.array_equal(a.usd, b.usd)
            assert np.array_equal(a.screen.tpot_at_s, b.screen.tpot_at_s)


def test_along_a_line_nothing_is_both_cheaper_and_faster():
    need = offers.needed(SMALL.question("qwen3-30b-a3b", "h200-ib"), steps=steps_here)
    costs = [one.usd_per_hour for one in need.front]
    speeds = [one.tokens_per_s_per_user for one in need.front]
    assert costs == sorted(costs)
    assert speeds == sorted(speeds)
    assert len(set(costs)) == len(costs)
    (kind,) = need.question.kinds
    found = screen(need.question)
    for batch in found.batches:
        keeps = ~batch.screen.overloaded & (batch.screen.ttft_at_s <= SMALL.ttft_s) & np.isfinite(batch.score)
        for gpus, tpot in zip(batch.candidates.gpus[keeps], batch.screen.tpot_at_s[keeps], strict=True):
            assert any(one.gpus <= gpus and one.tpot_at_s <= tpot for one in need.front)
    assert need.best.gpus <= kind.gpus


def test_slower_kernels_never_need_fewer_gpus():
    question = replace(
        SMALL.question("qwen3-30b-a3b", "h200-ib"), kinds=(offers.Kind("h200-ib", 8, "sglang"),)
    )
    heavy = replace(question, traffic=question.traffic.times(20.0))
    needs = []
    for factor in (0.5, 1.0, 3.0):
        found = screen(heavy, steps=lambda q, k, n, factor=factor: steps_here(q, k, n).times(factor))
        needs.append(offers.cheapest(found).gpus)
    assert needs == sorted(needs)
    assert needs[0] < needs[-1]


@settings(max_examples=60, deadline=None)
@given(
    amount=st.floats(1, 1e4),
    speed=st.floats(0.1, 1e4),
    unit=st.sampled_from(["users", "rate", "day"]),
    mode=st.sampled_from(["need", "carry"]),
    clusters=st.lists(st.sampled_from(catalogue.names("clusters")), unique=True, max_size=3),
    price=st.floats(0.01, 1e3),
)
def test_a_link_gives_back_what_was_asked(amount, speed, unit, mode, clusters, price):
    asked = PlanAsked(
        mode=mode,
        amount=float(f"{amount:.6g}"),
        speed=float(f"{speed:.6g}"),
        unit=unit,
        clusters=tuple(clusters),
        prices=tuple((name, float(f"{price:.4g}")) for name in clusters[:1]),
    )
    assert from_text(asked.text()) == asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed=0", "speed = 0: must be from"),
        ("speed=x", "must be a number"),
        ("speed=nan", "must be from"),
        ("models=nothing", "not in the catalogue"),
        ("evil=1", "no part of a planner's question"),
        ("mode=both", "must be one of need, carry"),
        ("unit=users&amount=1e6", "at most 20,000"),
        ("prices=h200-ib:-1", "must be above 0"),
        ("models=qwen3-30b-a3b,deepseek-v3,kimi-k2&clusters=h200-ib,b200-ib,h100-ib", "at most 8"),
    ],
)
def test_a_bad_link_is_told_in_one_line(text, said):
    with pytest.raises(SpecError, match=said) as told:
        from_text(text)
    assert "\n" not in str(told.value)


def test_a_day_of_tokens_is_its_peak_in_requests():
    asked = replace(SMALL, unit="day", amount=8.64e6, peak=3.0, osl=100.0)
    question = asked.question("qwen3-30b-a3b", "h200-ib")
    assert question.traffic.rate == pytest.approx(8.64e6 / 86400 / 100 * 3)
    assert f"--rate {question.traffic.rate:.10g}" in command(question, 6)
    assert "weights" in space_text(question)
    assert plan_asked.own_format("qwen3-30b-a3b") == "fp8"

"""Headlines say under what they hold: if experts are used evenly, wherever nothing is known of the router."""

import pytest
from command import run_here

pytest.importorskip("streamlit")

from patience import patient_s
from streamlit.testing.v1 import AppTest

from perfmodel.answers.caveats import IF_EVEN, condition
from perfmodel.answers.step import answer_step
from perfmodel.load import load_scenario
from perfmodel.output.report.words import answer, traffic_answer
from perfmodel.output.step.page import step_html
from perfmodel.report.content import build_report
from perfmodel.report.part import Options

FEW = ["workload.num_requests=20"]
CASES = [
    ("longcat-flash-h800", [], True),
    ("longcat-flash-h800", ['routing.popularity=""'], True),
    ("longcat-flash-h800", ["routing.popularity=power-law", "routing.skew=0.5"], False),
    ("deepseek-v3-h800", [], False),
    ("table7-longcat-flash", [], False),
]
"""Scenario, overrides, whether its router is unknown."""


@pytest.mark.parametrize(("name", "sets", "unknown"), CASES)
def test_step_says_it_in_text_and_on_its_page(name, sets, unknown):
    scenario = load_scenario(name, sets)
    assert (condition(scenario) == IF_EVEN) is unknown
    done = run_here("perfmodel", "step", name, *(word for text in sets for word in ("--set", text)))
    assert (f"Result, {IF_EVEN}" in done.stdout) is unknown
    found = answer_step(scenario, over_steps=False)
    above_the_tiles = step_html(found).partition('aria-label="Result"')[0]
    assert (f"{IF_EVEN.capitalize()}:" in above_the_tiles) is unknown
    assert any(IF_EVEN in text for text in found.values["warnings"]) is unknown


@pytest.mark.parametrize(("name", "sets", "unknown"), [CASES[0], CASES[2]])
def test_the_reports_sentences_say_it(name, sets, unknown):
    part = build_report([load_scenario(name, [*sets, *FEW])], Options()).parts[0]
    assert (IF_EVEN.removeprefix("if ") in answer(part)) is unknown
    assert (IF_EVEN in traffic_answer(part)) is unknown


def test_gpus_without_a_price_say_it_too():
    part = build_report(
        [load_scenario("longcat-flash-h800", ["prices.usd_per_gpu_hour=0"])], Options(serves=False)
    ).parts[0]
    assert f"{IF_EVEN}; its GPUs have no price" in answer(part)


def test_serve_says_it():
    sets = ["--set", FEW[0]]
    assert f"request, {IF_EVEN}" in run_here("perfmodel", "serve", "longcat-flash-h800", *sets).stdout
    assert IF_EVEN not in run_here("perfmodel", "serve", "deepseek-v3-h800", *sets).stdout


def page(view, name, settings):
    from importlib import import_module

    from dashboard import session
    from dashboard.asked import Asked

    session.start()
    session.ask(Asked(name, sets=tuple(tuple(text.split("=")) for text in settings)))
    import_module(f"dashboard.views.{view}").render(session.scenario())


@pytest.mark.parametrize("view", ["what_if", "overlap", "compare", "traffic"])
@pytest.mark.parametrize(("name", "unknown"), [("longcat-flash-h800", True), ("deepseek-v3-h800", False)])
def test_pages_of_the_dashboard_say_it_above_their_figures(view, name, unknown):
    app = AppTest.from_function(page, args=(view, name, FEW), default_timeout=patient_s(60.0)).run()
    assert not app.exception, [error.message for error in app.exception]
    assert any(IF_EVEN in text.value.lower() for text in app.markdown) is unknown

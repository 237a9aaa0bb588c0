"""The Training page: figures are those of ``perfmodel train``, controls ask, a button mends what does not fit."""

import json

import pytest

pytest.importorskip("streamlit")

from patience import patient_s
from streamlit.testing.v1 import AppTest

from dashboard import session
from dashboard.asked import Asked
from dashboard.train_runs import page_of, trace_of, trained
from perfmodel.answers.train import answer_train
from perfmodel.load import load_scenario
from perfmodel.output.formats import duration, percent

NAME = "longcat-flash-train-h800"


def page():
    from dashboard import session
    from dashboard.views.training import render

    session.start()
    errors, _ = session.said()
    for text in errors:
        import streamlit as st

        st.error(text)
    render(session.scenario())
    session.write_link(session.link())


def opened(*sets, name=NAME):
    app = AppTest.from_function(page, default_timeout=patient_s(60.0))
    if sets or name != NAME:
        from urllib.parse import urlencode

        app.query_params["train"] = urlencode({"v": "1", "scenario": name, "set": list(sets)}, doseq=True)
    return checked(app.run())


def checked(app):
    assert not app.exception, [error.message for error in app.exception]
    return app


def heading(app):
    return next(one.value.replace("\\", "") for one in app.markdown if one.value.startswith("## "))


def fits(app, *sets, name=NAME):
    values = answer_train(load_scenario(name, sets)).values
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["Step time"] == duration(values["step_time_s"])
    assert shown["MFU"] == percent(values["mfu"])
    assert shown["Bubble"] == percent(values["bubble_fraction"])
    assert shown["Exposed communication"] == percent(values["exposed_communication_fraction"])
    assert f"{values['days']:.1f} days" in heading(app)
    low, high = values["intervals"]["days"]
    assert f"{low:.1f} to {high:.1f} days" in heading(app)


@pytest.mark.parametrize("name", [NAME, "deepseek-v3-train-h800"])
def test_figures_are_those_of_the_command_line(name):
    app = opened(name=name)
    fits(app, name=name)
    assert app.code[0].value == f"perfmodel train {name}"


def test_controls_ask_what_set_would_and_the_link_holds_it():
    app = opened()
    checked(app.number_input(key="train-training.tokens").set_value(10.0).run())
    checked(app.selectbox(key="train-training.zero").set_value(2).run())
    sets = ("training.tokens=10000000000000", "training.zero=2")
    fits(app, *sets)
    assert all(f"--set {one}" in app.code[0].value for one in sets)
    assert "training.zero%3D2" in "".join(app.query_params["train"])
    again = opened(*sets)
    fits(again, *sets)
    checked(again.button(key="train-back").click().run())
    fits(again)


def test_what_does_not_fit_is_mended_by_its_button():
    sets = ("training.pp=4", "training.dp=224", "training.cp=4", "training.stage_layers=null")
    app = opened(*sets)
    assert "with training.recompute=full it would need" in app.error[0].value.replace("\\", "")
    checked(app.button(key="train-mend").click().run())
    assert not app.error
    fits(app, *sets, "training.recompute=full")


def test_a_change_that_is_no_run_leaves_the_page_as_it_was():
    app = opened()
    before = heading(app)
    checked(app.number_input(key="train-training.global_batch_sequences").set_value(6273).run())
    assert any("must be a multiple" in one.value for one in app.error)
    assert heading(app) == before


def test_a_refusal_has_a_field_for_each_key_that_it_names():
    app = opened("training.recompute=none", "training.pp=1", "training.dp=896", "training.ep=32")
    named = [one.key for one in app.text_input if one.key and one.key.startswith("train-refusal-training.")]
    assert app.error, "it should not fit"
    assert named, app.error[0].value


def test_a_link_to_a_scenario_without_training_is_refused():
    app = opened(name="deepseek-v3-h800")
    assert any("training section" in one.value for one in app.error)
    fits(app)


def test_more_than_a_page_simulates_is_refused():
    found = trained(Asked(NAME, sets=(("training.global_batch_sequences", "6272000"),)).scenario())
    assert "use fewer micro-batches" in found.text


def test_files_are_the_command_lines():
    scenario = session.TRAINED.scenario()
    assert "<h1" in page_of(scenario)
    assert len(json.loads(trace_of(scenario))["traceEvents"]) > 1000

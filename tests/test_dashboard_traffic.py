"""The dashboard's page on traffic: its numbers are answer_serve's, its controls ask, a stop leaves what was there."""

import io
import json

import pandas as pd
import pytest

pytest.importorskip("streamlit")

from patience import patient_s
from streamlit.testing.v1 import AppTest

from dashboard import traffic_runs
from dashboard.asked import Asked
from dashboard.cache import key_of
from dashboard.views import traffic
from perfmodel.answers.serve import answer_serve
from perfmodel.explore.goodput import POINTS
from perfmodel.load import load_scenario
from perfmodel.output.formats import duration, percent, significant, usd
from perfmodel.spec import catalogue
from perfmodel.spec.slo import Slo

FEW = "workload.num_requests=300"


def page():
    from dashboard import session
    from dashboard.views.traffic import render

    session.start()
    errors, _ = session.said()
    assert not errors, errors
    render(session.scenario())


def app_of(*sets, name="longcat-flash-h800"):
    app = AppTest.from_function(page, default_timeout=patient_s(60.0))
    app.query_params["v"], app.query_params["scenario"] = "1", name
    if sets:
        app.query_params["set"] = list(sets)
    return app


def opened(*sets, name="longcat-flash-h800"):
    return checked(app_of(*sets, name=name).run())


def checked(app):
    assert not app.exception, [error.message for error in app.exception]
    return app


def figures(app):
    return {metric.label: metric.value for metric in app.metric}


def answered(*sets, name="longcat-flash-h800"):
    scenario = load_scenario(name, sets)
    return answer_serve(scenario).values | {"has_slo": scenario.slo != Slo()}


def fits(app, values):
    found = figures(app)
    assert found["TTFT p99"] == duration(values["ttft_s"]["p99"])
    assert found["TPOT p50"] == duration(values["tpot_s"]["p50"])
    assert found["E2E p99"] == duration(values["e2e_s"]["p99"])
    good = significant(values["goodput_requests_per_s"]) if values["has_slo"] else None
    assert found.get("Goodput, requests/s") == good
    assert found["Load"] == percent(values["capacity_used_pct"] / 100.0)
    assert found["$ per M output tokens"] == usd(values["usd_per_million_output_tokens"])
    assert found["GPUs"] == f"{values['num_gpus']:,}"


def charts(app):
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


# --- the run ---------------------------------------------------------------------------------------------------------


def test_the_first_screen_is_a_quick_run_and_the_command_that_gives_the_same():
    app = opened()
    fits(app, answered("workload.num_requests=2000"))
    assert app.code[0].value == "perfmodel serve longcat-flash-h800 --set workload.num_requests=2000"
    assert len(charts(app)) == 3  # the bridge from full batches, latencies, load
    assert any("2,000 requests" in text.value for text in app.markdown)


def test_controls_ask_what_the_command_line_would():
    app = opened(FEW)
    for path, value in (("workload.time_scale", 2.5), ("slo.ttft_ms", 400.0), ("slo.tpot_ms", 40.0)):
        app.number_input(key=f"traffic-{path}").set_value(value)
        checked(app.run())
    sets = [FEW, "workload.time_scale=2.5", "slo.ttft_ms=400", "slo.tpot_ms=40"]
    values = answered(*sets)
    assert 0 < values["goodput_requests_per_s"] < values["requests_per_s"]
    fits(app, values)
    assert all(f"--set {one}" in app.code[0].value for one in sets)
    lines = [shape["x0"] for shape in charts(app)[1]["layout"]["shapes"]]
    assert lines == [0.4, 0.04]
    app.number_input(key="traffic-slo.ttft_ms").set_value(None)
    checked(app.run())
    fits(app, answered(FEW, "workload.time_scale=2.5", "slo.tpot_ms=40"))


def test_requests_that_come_at_once_can_be_given_a_rate():
    app = opened("workload.num_requests=200", name="reference-cpu")
    assert any("no rate to change" in caption.value for caption in app.caption)
    app.number_input(key="traffic-workload.request_rate").set_value(0.5)
    checked(app.run())
    fits(app, answered("workload.num_requests=200", "workload.request_rate=0.5", name="reference-cpu"))
    app.number_input(key="traffic-workload.request_rate").set_value(None)
    checked(app.run())
    fits(app, answered("workload.num_requests=200", name="reference-cpu"))


def test_a_number_beyond_the_controls_is_shown_and_one_taken_away_is_the_scenarios_own():
    app = opened(FEW, "workload.time_scale=1e-5", "slo.tpot_ms=0.0001")
    assert app.number_input(key="traffic-workload.time_scale").value == 1e-5
    app.number_input(key="traffic-workload.time_scale").set_value(None)
    app.number_input(key="traffic-slo.tpot_ms").set_value(None)
    checked(app.run())
    fits(app, answered(FEW))
    assert app.number_input(key="traffic-workload.time_scale").value == 1.0
    assert FEW in app.code[0].value
    assert "slo" not in app.code[0].value


def test_no_more_than_the_page_serves_and_it_says_so():
    asked = Asked(sets=(("workload.num_requests", "9000000"),))
    assert traffic_runs.served_by_page(asked).scenario().workload.num_requests == traffic_runs.MOST
    few = Asked(sets=(("workload.num_requests", "20"),))
    assert traffic_runs.served_by_page(few) is few
    app = opened("workload.num_requests=20")
    fits(app, answered("workload.num_requests=20"))


@pytest.mark.parametrize("name", catalogue.names("scenarios"))
def test_every_scenario_of_the_catalogue_opens(name):
    app = opened(FEW, name=name)
    if load_scenario(name).costs == "report":
        (error,) = app.error
        assert "serve with costs" in error.value
    else:
        assert not app.error
        fits(app, answered(FEW, name=name))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("deployment.attention_dp=8", "deployment.ep=8", "deployment.dense_tp=1"), "GPUs"),
        (("given.attention_us=100",), "time of one batch"),
        (("workload.warm_up_requests=400", FEW), "leaves none"),
    ],
    ids=["does not fit", "given", "nothing left"],
)
def test_what_can_not_be_served_has_a_message(settings, words):
    app = opened(*settings)
    (error,) = app.error
    assert words in error.value.replace("\\", "")
    assert not app.metric


# --- stopping --------------------------------------------------------------------------------------------------------


def test_after_a_stop_the_last_run_stays_and_says_that_it_is_an_earlier_one():
    app = opened(FEW)
    before = figures(app)
    other = "workload.num_requests=412"
    app.session_state[traffic.STOPPED] = key_of(Asked(sets=((*other.split("="),),)).scenario())
    app.number_input(key="traffic-workload.num_requests").set_value(412)
    checked(app.run())
    assert figures(app) == before
    assert "earlier settings" in app.info[0].value
    assert FEW in app.code[0].value
    app.button(key="traffic-run").click()
    checked(app.run())
    fits(app, answered(other))
    assert not app.info


def test_a_stop_before_anything_was_served_says_how_to_go_on():
    app = app_of("workload.num_requests=413")
    app.session_state[traffic.STOPPED] = key_of(Asked(sets=(("workload.num_requests", "413"),)).scenario())
    checked(app.run())
    assert "Nothing has been served yet" in app.info[0].value
    app.button(key="traffic-run").click()
    checked(app.run())
    assert app.metric


class Stopped(BaseException):
    """As Streamlit stops a script."""


def test_a_stopped_run_leaves_its_box_empty_and_a_stopped_curve_its_points():
    asked = Asked(sets=(("workload.num_requests", "300"), ("workload.time_scale", "1.25")))
    box = traffic_runs.Box()

    def stop(done, total):
        raise Stopped

    with pytest.raises(Stopped):
        traffic_runs.fill(box, asked, stop)
    assert box.run is None
    run = traffic_runs.fill(box, asked, lambda done, total: None)

    def after_three():
        if len(box.points) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        traffic_runs.add_points(box, run.answer, lambda done, total: None, after_three)
    first = box.points
    assert len({point.speed for point in first}) == 3
    assert len(first) == 3
    traffic_runs.add_points(box, run.answer, lambda done, total: None, lambda: None)
    assert box.points[:3] == first
    assert box.complete


# --- goodput, files, several users -----------------------------------------------------------------------------------


def test_goodput_is_found_on_demand():
    app = opened("workload.num_requests=200", "slo.tpot_ms=60")
    assert len(charts(app)) == 3
    app.button(key="traffic-find").click()
    checked(app.run())
    assert len(charts(app)) == 4
    (table,) = [found.value for found in app.dataframe if "good_pct" in found.value]
    assert len(table) == POINTS
    assert (table["goodput_requests_per_s"] <= table["served_requests_per_s"]).all()
    assert any("keep the SLO" in text.value for text in app.markdown)
    assert not [button for button in app.button if button.key == "traffic-find"]


def test_without_an_slo_the_curve_has_no_goodput():
    app = opened("workload.num_requests=200")
    app.button(key="traffic-find").click()
    checked(app.run())
    (table,) = [found.value for found in app.dataframe if "served_requests_per_s" in found.value]
    assert not {"goodput_requests_per_s", "good_pct"} & set(table)
    assert "Latency against rate" in [title.value for title in app.subheader]
    assert any("no SLO is stated" in text.value for text in app.markdown)


def test_files_are_those_of_the_command_line():
    asked = Asked(sets=(("workload.num_requests", "150"),))
    run = traffic_runs.fill(traffic_runs.Box(), asked, lambda done, total: None)
    rows = pd.read_csv(io.BytesIO(traffic_runs.written(run.answer, "requests.csv")))
    assert len(rows) == 150
    assert rows.ttft_s.quantile(0.5) == pytest.approx(run.answer.values["ttft_s"]["p50"])
    same = pd.read_parquet(io.BytesIO(traffic_runs.written(run.answer, "requests.parquet")))
    assert len(same) == 150
    assert traffic_runs.written(run.answer, "serve-trace.json.gz")[:2] == b"\x1f\x8b"


def test_two_users_do_not_share_what_they_stopped_or_saw():
    one, two = opened(FEW), opened("workload.num_requests=301")
    one.session_state[traffic.STOPPED] = key_of(Asked(sets=(("workload.num_requests", "301"),)).scenario())
    checked(one.run())
    checked(two.run())
    fits(one, answered(FEW))
    fits(two, answered("workload.num_requests=301"))
    assert not two.info


def test_a_kept_run_has_the_command_of_whoever_asks():
    """Two ways to ask the same scenario share its run, not its words."""
    first, second = opened(FEW, "seed=3"), opened(FEW, "seed=0x3")
    assert figures(first) == figures(second)
    assert "--set seed=3" in first.code[0].value
    assert "--set seed=0x3" in second.code[0].value


def test_a_report_serves_no_more_than_the_page():
    assert traffic_runs.at_most(Asked()) == Asked()
    many = Asked(sets=(("workload.num_requests", "10000000"),))
    assert traffic_runs.at_most(many).scenario().workload.num_requests == traffic_runs.MOST

"""The dashboard's page on trust: its numbers are the record's, whatever scenario is asked."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("streamlit")

from patience import patient_s
from streamlit.testing.v1 import AppTest

from dashboard.show import plain
from dashboard.trusted import days, pct
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.output.charts.validation import sample
from perfmodel.output.validation.page import quantity_name
from perfmodel.spec import catalogue
from perfmodel.validation.recorded import recorded_results
from perfmodel.validation.rows import unanswered

RECORD = recorded_results()


def page(name, settings):
    from dashboard import session
    from dashboard.views.trust import render
    from perfmodel.load import load_scenario

    session.start()
    render(load_scenario(name, settings))


def opened(name="longcat-flash-h800", *settings):
    app = AppTest.from_function(page, args=(str(name), settings), default_timeout=patient_s(60.0))
    return checked(app.run())


def checked(app):
    assert not app.exception, [error.message for error in app.exception]
    return app


@pytest.fixture(scope="module")
def main_job():
    return opened()


def summary_of(app):
    """The summary's table: the last one with a column of medians."""
    return [table.value for table in app.dataframe if "median_abs_pct" in table.value][-1]


def expected(record):
    return [line for line in record.summary() if line["answered"]]


def figures(app):
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


def points(figure):
    return [trace for trace in figure["data"] if "hovertext" in trace]


# --- the validation --------------------------------------------------------------------------------------------------


def test_the_summary_is_the_records(main_job):
    table, lines = summary_of(main_job), expected(RECORD)
    assert len(table) == len(lines)
    for shown, line in zip(table.to_dict("records"), lines, strict=True):
        assert (shown["suite"], shown["quantity"], shown["role"]) == (
            line["suite"], quantity_name(line["quantity"]), line["role"],
        )  # fmt: skip
        assert (shown["answered"], shown["of"]) == (line["answered"], line["n"])
        for key in ("median_abs_pct", "mean_abs_pct", "bias_pct", "coverage_pct", "mean_interval_width_pct"):
            assert shown[key] == pytest.approx(float("nan") if line[key] is None else line[key], nan_ok=True)


def test_every_filter_narrows_tables_and_charts():
    app = opened()
    app.multiselect(key="trust-suite").select("silicon")
    app.multiselect(key="trust-role").select("check")
    app.multiselect(key="trust-quantity").select("tpot_s")
    checked(app.run())
    (line,) = summary_of(app).to_dict("records")
    (same,) = [
        one for one in expected(RECORD)
        if (one["suite"], one["role"], one["quantity"]) == ("silicon", "check", "tpot_s")
    ]  # fmt: skip
    assert line["median_abs_pct"] == same["median_abs_pct"]
    assert line["peer_median_abs_pct"] == same["peer_median_abs_pct"]
    scatter, errors = figures(app)
    (trace,) = points(scatter)
    assert len(trace["hovertext"]) == same["answered"]
    assert {trace["name"]: len(trace["hovertext"]) for trace in points(errors)} == {
        "silicon": same["answered"], "silicon: peer": same["peer_n"],
    }  # fmt: skip
    assert all("measured" in text for text in trace["hovertext"])


def test_a_filter_that_lets_nothing_pass_says_so():
    app = opened()
    app.multiselect(key="trust-suite").select("kernels")
    app.multiselect(key="trust-quantity").select("tpot_s")
    checked(app.run())
    assert any("No row with a prediction" in text.value for text in app.info)
    assert figures(app) == []


def test_units_have_a_scatter_each_and_colours_stay(main_job):
    app = opened()
    first = {trace["name"]: trace["marker"]["color"] for trace in points(figures(app)[0])}
    app.get("button_group")[0].set_value("tokens/s")
    checked(app.run())
    found = {trace["name"]: trace["marker"]["color"] for trace in points(figures(app)[0])}
    assert found.keys() >= {"longcat-measured", "longcat-measured-serving", "deepseek", "deepseek-fleet"}
    assert "kernels" not in found  # in seconds
    assert all(first[name] == colour for name, colour in found.items() if name in first)
    shown = figures(app)[0]["layout"]["xaxis"]["range"]
    assert 0 < shown[1] - shown[0] < 4  # decades, not the diagonal's thirty


def test_a_legend_says_which_colour_is_which_suite(main_job):
    (legend,) = [found.proto.body for found in main_job.get("html") if "&#9679;" in found.proto.body]
    for figure in figures(main_job)[:1]:
        for trace in points(figure):
            assert f'color:{trace["marker"]["color"]}">&#9679;</span> {trace["name"]}<' in legend
    assert any(plain("Line: exact") in text.value for text in main_job.caption)


def test_few_suites_are_drawn_whole_and_many_rows_by_chance(main_job):
    counts = {trace["name"]: len(trace["hovertext"]) for trace in points(figures(main_job)[1])}
    assert counts["longcat-measured"] == 15
    assert counts["kernels"] == counts["silicon"] == 300
    rows = [row for row in RECORD.rows if row.predicted is not None]
    assert sample(rows, 300) == sample(rows, 300)
    assert len(sample(rows, 10**6)) == len(rows)


def test_what_is_not_answered_is_listed_with_its_reason(main_job):
    missing = unanswered(RECORD.rows)
    table = next(found.value for found in main_job.dataframe if "reason" in found.value)
    assert list(table.itertuples(index=False, name=None)) == [(n, suite, why) for suite, why, n in missing]
    assert any(f"{sum(n for _, _, n in missing):,} rows without" in one.label for one in main_job.expander)


def test_all_rows_are_listed_on_demand(main_job):
    app = opened()
    assert not any(len(table.value) == len(RECORD.rows) for table in app.dataframe)
    app.toggle(key="trust-list").set_value(True)
    checked(app.run())
    (table,) = [found.value for found in app.dataframe if len(found.value) == len(RECORD.rows)]
    assert table["error_pct"].iloc[0] == pytest.approx(RECORD.rows[0].error_pct)


# --- the scenario ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalogue.names("scenarios"))
def test_every_scenario_has_a_page(name):
    app = opened(name)
    assert app.markdown[1].value.startswith("- **The figure:**")
    assert len(summary_of(app)) == len(expected(RECORD))


def test_the_main_job_is_judged_by_table_6(main_job):
    (tile,) = [metric for metric in main_job.metric if metric.label == "Nearest measurements"]
    (line,) = RECORD.about(suites=["longcat-measured"]).summary()[:1]
    assert (line["quantity"], tile.value) == ("tpot_s", pct(line["median_abs_pct"]))
    calibration = load_calibration("h800-sxm")
    text = main_job.markdown[1].value
    for word in (
        calibration.id,
        "NVIDIA H100 80GB HBM3",
        "aiconfigurator-core 0.12.0",
        "401,241",
        "sglang 0.5.9: decode steps by graph",
    ):
        assert plain(word) in text
    kernels = next(table.value for table in main_job.dataframe if "timed shapes" in table.value)
    used = {curve.kernel: curve for curve in calibration.all_curves}
    assert set(kernels["kernel"]) <= set(used)
    assert "attention0.core" in " ".join(kernels["ops"])


def test_an_interval_is_said_to_hold_what_it_holds(main_job):
    """The engine's spread where one is named, the busiest rank's where the router is unknown, and never a direction."""
    text = main_job.markdown[1].value
    assert (
        "kernels and published runs of the engine were seen to vary, and how busy a busiest rank may be"
        in text
    )
    bare = (
        opened("longcat-flash-h800", "deployment.engine=''", "routing.popularity=uniform").markdown[1].value
    )
    figure = bare.partition("Measured elsewhere")[0]
    assert "how much kernels were seen to vary; what the model leaves out" in figure
    assert "too small" not in figure


def test_all_kernels_on_demand():
    app = opened()
    app.toggle(key="trust-every-kernel").set_value(True)
    checked(app.run())
    kernels = next(table.value for table in app.dataframe if "timed shapes" in table.value)
    assert len(kernels) == len(load_calibration("h800-sxm").all_curves)


def test_a_device_without_published_rows_says_so():
    app = opened("reference-cpu")
    text = app.markdown[1].value
    assert "no measurement on record" in text
    assert plain("Whole steps timed anew on it were 2.4%") in text
    assert not any(metric.label == "Nearest measurements" for metric in app.metric)


def test_a_scenario_without_calibration_or_engine_says_so():
    app = opened("longcat-flash-h800", "calibration=''", "deployment.engine=''")
    text = app.markdown[1].value
    assert plain("no calibration: each op is estimated") in text
    assert "none is named" in text
    assert [metric.label for metric in app.metric] == ["Nearest measurements"]


def test_without_an_answer_the_record_still_shows():
    app = opened("longcat-flash-h800", "deployment.batch_per_gpu=100000")
    (error,) = app.error
    assert "does not fit" in error.value
    assert not app.metric
    assert len(summary_of(app)) == len(expected(RECORD))


def test_what_an_upload_brings_is_text(tmp_path):
    name = "**x** [l](http:e) $a$ :red[b] <b>"
    shutil.copytree(catalogue.calibration_path("epyc-zen4-1core").parent, tmp_path / name.replace("/", ""))
    app = opened("reference-cpu", f"calibration={tmp_path / name}")
    text = app.markdown[1].value
    assert plain(name) in text
    assert name not in text
    assert all(name not in one.label for one in app.expander)


def test_ages():
    now = datetime.now(UTC)
    assert days((now - timedelta(days=1, hours=1)).isoformat()) == "1 day"
    assert days((now - timedelta(days=40)).isoformat()) == "40 days"
    assert days((now + timedelta(days=2)).isoformat()) == "0 days"  # a clock that goes wrong
    assert days(now.date().isoformat()) == "0 days"

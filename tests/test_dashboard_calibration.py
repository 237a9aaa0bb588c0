"""The Calibration page: it says what the calibration's file says; one's own is loaded, anything else is refused."""

import json
import tempfile

import numpy as np
import pytest

pytest.importorskip("streamlit")

from patience import patient_s
from streamlit.testing.v1 import AppTest

from dashboard.calibration_facts import NAMES, Facts, brought, facts
from dashboard.results import Failed
from perfmodel.answers.step import answer_step
from perfmodel.errors import DataError
from perfmodel.kernels.calibration_file import content_id, load_calibration
from perfmodel.load import load_scenario
from perfmodel.output.formats import percent
from perfmodel.spec.catalogue import DATA

SHIPPED = DATA / "calibrations" / "h800-sxm"


def page():
    from dashboard import session
    from dashboard.views.calibration import render

    session.start()
    render(session.scenario())


def checked(app):
    assert not app.exception, [error.message for error in app.exception]
    return app


@pytest.fixture(scope="module")
def opened():
    return checked(AppTest.from_function(page, default_timeout=patient_s(60.0)).run())


def files_of(folder):
    return brought([(name, (folder / name).read_bytes()) for name in NAMES if (folder / name).is_file()])


def test_it_opens_on_the_scenarios_own_with_what_it_covers(opened):
    values = answer_step(load_scenario("longcat-flash-h800"), over_steps=False).values
    shown = {metric.label: metric.value for metric in opened.metric}
    assert shown["Covers"] == percent(values["basis"]["fractions"]["timed"])
    assert (
        shown["Timed shapes"] == f"{sum(curve.num_rows for curve in load_calibration('h800-sxm').whole()):,}"
    )
    assert opened.selectbox(key="calibration-a").value == "h800-sxm"


def test_two_are_shown_beside_each_other():
    app = AppTest.from_function(page, default_timeout=patient_s(60.0)).run()
    checked(app.selectbox(key="calibration-b").set_value("b200-sxm").run())
    assert [metric.label for metric in app.metric].count("Age") == 2
    headline = app.markdown[0].value.replace("\\", "")
    assert "h800-sxm" in headline
    assert "b200-sxm" in headline


def test_errors_by_class_are_means_of_what_the_file_states():
    found = facts("h100-sxm", (), load_scenario("longcat-flash-h800"))
    curves = [curve for curve in load_calibration("h100-sxm").whole() if curve.kernel == "gemm"]
    (row,) = found.classes[found.classes.kernel == "gemm"].to_dict("records")
    assert row["timed shapes"] == sum(curve.num_rows for curve in curves)
    expected = np.average([c.median_error_pct for c in curves], weights=[c.num_rows for c in curves])
    assert row["median error"] == pytest.approx(expected)


def test_ones_own_says_what_the_shipped_one_says_of_the_same_bytes(tmp_path):
    document = json.loads((DATA / "calibrations" / "h100-sxm" / "calibration.json").read_text())
    (tmp_path / NAMES[0]).write_text(json.dumps(document))
    (tmp_path / NAMES[1]).write_bytes((DATA / "calibrations" / "h100-sxm" / NAMES[1]).read_bytes())
    scenario = load_scenario("longcat-flash-h800", ["calibration=h100-sxm", "cluster=h100-ib"])
    own, shipped = facts("mine", files_of(tmp_path), scenario), facts("h100-sxm", (), scenario)
    assert isinstance(own, Facts)
    assert own.id == shipped.id
    assert own.covered == pytest.approx(shipped.covered)
    assert own.name == "mine"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("evil.sh", b"")], "a calibration's files are"),
        ([("tables.npz", b"")], "a calibration is calibration.json"),
        ([(NAMES[0], b"{}"), (NAMES[0], b"{}")], "once"),
    ],
)
def test_other_files_are_refused(files, said):
    with pytest.raises(DataError, match=said):
        brought(files)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"format": 2}', b"\xff\xfe", b'{"format": 99}'])
def test_what_is_no_calibration_is_told_in_a_line(content):
    found = facts("mine", brought([(NAMES[0], content)]), load_scenario("longcat-flash-h800"))
    assert isinstance(found, Failed)
    assert "\n" not in found.text
    assert tempfile.gettempdir() not in found.text


def test_an_edited_one_is_refused():
    document = json.loads((SHIPPED.parent / "h100-sxm" / NAMES[0]).read_text())
    document["clock"]["repeat_log_std"] = 0.5
    files = brought([(NAMES[0], json.dumps(document).encode())])
    found = facts("mine", files, load_scenario("longcat-flash-h800"))
    assert isinstance(found, Failed)
    assert content_id(document) in found.text

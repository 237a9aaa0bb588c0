"""The dashboard in a real browser: its controls, files and address; test_dashboard_looks.py opens every page."""

import gzip
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from browser import PICTURES, browser
from patience import patient_s
from sessions import dashboard

from perfmodel.answers.step import answer_step
from perfmodel.load import load_scenario
from perfmodel.output.formats import significant, usd

pytestmark = pytest.mark.browser

SECONDS = 60.0
"""Ample for any wait on a quiet machine; see the page fixtures."""


@pytest.fixture(scope="module")
def server():
    """The dashboard's address, served as a user would start it."""
    with dashboard() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def chrome():
    with browser() as opened:
        yield opened


def patient_context(chrome, **settings):
    """A browser's context whose waits are as long as the machine is slow at this moment."""
    context = chrome.new_context(**settings)
    context.set_default_timeout(1e3 * patient_s(SECONDS))
    return context


@pytest.fixture
def page(chrome):
    context = patient_context(chrome, viewport={"width": 1400, "height": 1200}, accept_downloads=True)
    yield context.new_page()
    context.close()


def opened(page, address):
    """Go there and wait until nothing runs any more."""
    page.goto(address)
    page.wait_for_selector("[data-testid=stPlotlyChart] .main-svg")
    settled(page)


def settled(page):
    page.wait_for_timeout(150)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_timeout(150)


def metrics(page):
    """Label -> value of every figure on the page, once two looks show the same: they are drawn one after the other."""
    seen = None
    for _ in range(20):
        labels = page.locator("[data-testid=stMetricLabel]").all_inner_texts()
        values = page.locator("[data-testid=stMetricValue]").all_inner_texts()
        if (labels, values) == seen:
            break
        seen = (labels, values)
        page.wait_for_timeout(300)
    return dict(zip(labels, values, strict=True))


def downloaded(page, label):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=label, exact=True).click()
    return Path(waiting.value.path()).read_bytes()


def test_a_page_on_a_phone(server, chrome):
    context = patient_context(chrome, viewport={"width": 420, "height": 900})
    page = context.new_page()
    opened(page, f"{server}/what-if")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "dashboard-what-if-narrow.png")
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 420
    assert metrics(page)["Tokens/s per user"]
    context.close()


def test_numbers_are_perfmodels_and_a_reloaded_address_shows_them_again(page, server):
    opened(page, f"{server}/what-if")
    expected = answer_step(load_scenario("longcat-flash-h800")).values
    first = metrics(page)
    assert first["Tokens/s per user"] == significant(expected["tokens_per_s_per_user"])
    assert first["$ per M output tokens"] == usd(expected["usd_per_million_output_tokens"])
    page.locator(".st-key-ask-overlap").get_by_text("tbo", exact=True).click()
    settled(page)
    slider = page.locator(".st-key-ask-batch-slider input[type=range]")
    slider.focus()
    slider.press("ArrowLeft")
    settled(page)
    page.wait_for_function("location.search.includes('batch_per_gpu')")
    settled(page)
    batch = float(page.get_by_role("spinbutton", name="Batch per GPU").input_value())
    assert 64 < batch < 96  # the stop before
    changed = metrics(page)
    sets = ["deployment.overlap=tbo", f"deployment.batch_per_gpu={batch:g}"]
    values = answer_step(load_scenario("longcat-flash-h800", sets)).values
    assert changed["Tokens/s per user"] == significant(values["tokens_per_s_per_user"])
    assert changed["$ per M output tokens"] == usd(values["usd_per_million_output_tokens"])
    assert "overlap%3Dtbo" in page.url
    page.reload()
    settled(page)
    page.wait_for_selector("[data-testid=stMetricValue]")
    settled(page)
    assert metrics(page) == changed
    page.get_by_role("link", name="Compare").click()
    settled(page)
    assert f"batch_per_gpu%3D{batch:g}" in page.url


def test_files_can_be_taken_along_and_say_the_same(page, server, tmp_path):
    opened(page, f"{server}/?v=1&scenario=longcat-flash-h800&set=deployment.batch_per_gpu%3D64")
    rows = pd.read_csv(io.BytesIO(downloaded(page, "CSV")))
    again = pd.read_parquet(io.BytesIO(downloaded(page, "Parquet")))
    pd.testing.assert_frame_equal(rows, again, check_dtype=False)
    expected = answer_step(load_scenario("longcat-flash-h800", ["deployment.batch_per_gpu=64"])).values
    (asked,) = rows[rows.batch_per_gpu == 64].to_dict("records")
    assert asked["tpot_s"] == pytest.approx(expected["tpot_s"], rel=1e-6)
    scenario = tmp_path / "scenario.yaml"
    scenario.write_bytes(downloaded(page, "Scenario (YAML)"))
    assert load_scenario(scenario).hash == expected["provenance"]["scenario_hash"]
    trace = json.loads(gzip.decompress(downloaded(page, "Trace for Perfetto")))
    assert len(trace["traceEvents"]) > 1000
    assert b"<h1>" in downloaded(page, "Timeline (HTML)")


HOSTILE = """base: longcat-flash-h800
title: "<img src=x onerror=alert(1)> :red[x] $x$ [a](javascript:alert(1))"
deployment: {batch_per_gpu: 24}
"""


def test_an_upload_is_taken_and_a_bad_one_leaves_the_scenario_as_it_was(page, server, tmp_path):
    opened(page, f"{server}/what-if")
    before = metrics(page)
    alerts = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    title = page.locator("[data-testid=stExpander]", has_text="Your own scenario").locator("summary")
    title.focus()
    page.keyboard.press("Enter")  # what is in a section is drawn when it is opened
    page.wait_for_selector("input[type=file]", state="attached")
    assert title.evaluate("one => one === document.activeElement")
    bad = tmp_path / "<b>bad<b>.yaml"
    bad.write_text("base: longcat-flash-h800\ndeployment: {batch_per_gpu: '<script>alert(1)</script>'}\n")
    page.locator("input[type=file]").set_input_files(bad)
    page.wait_for_selector("[data-testid=stAlertContentError]")
    settled(page)
    said = page.locator("[data-testid=stAlertContentError]").inner_text()
    assert "batch_per_gpu = '<script>alert(1)</script>'" in said
    assert "The scenario is as it was" in said
    assert metrics(page) == before
    good = tmp_path / "mine.yaml"
    good.write_text(HOSTILE)
    page.locator("input[type=file]").set_input_files(good)
    page.wait_for_function("window.location.href.includes('yaml=')")
    settled(page)
    values = answer_step(load_scenario("longcat-flash-h800", ["deployment.batch_per_gpu=24"])).values
    assert metrics(page)["Tokens/s per user"] == significant(values["tokens_per_s_per_user"])
    for name in ("Compare", "Overlap"):
        page.get_by_role("link", name=name).click()
        settled(page)
    assert alerts == []
    assert page.locator("img[src=x]").count() == 0


def test_uploads_and_downloads_stay_with_their_server_where_there_are_several(chrome, tmp_path):
    """Two people at two servers: each upload arrives where the session is, and each file comes from there."""
    servers = set()
    with dashboard(command="perfmodel dashboard --workers 2") as port:
        people = [patient_context(chrome, viewport={"width": 1400, "height": 1200}) for _ in range(2)]
        pages = [person.new_page() for person in people]
        for number, (person, page) in enumerate(zip(people, pages, strict=True)):
            opened(page, f"http://127.0.0.1:{port}/what-if")
            servers |= {one["value"] for one in person.cookies() if one["name"].startswith("perfmodel_")}
            mine = tmp_path / f"mine{number}.yaml"
            mine.write_text(f"base: longcat-flash-h800\ndeployment: {{batch_per_gpu: {24 + number}}}\n")
            page.get_by_text("Your own scenario").click()
            page.locator("input[type=file]").set_input_files(mine)
            page.wait_for_function("window.location.href.includes('yaml=')")
            settled(page)
        for number, page in enumerate(pages):
            sets = [f"deployment.batch_per_gpu={24 + number}"]
            values = answer_step(load_scenario("longcat-flash-h800", sets)).values
            assert metrics(page)["Tokens/s per user"] == significant(values["tokens_per_s_per_user"])
            assert f"batch_per_gpu: {24 + number}".encode() in downloaded(page, "Scenario (YAML)")
        for person in people:
            person.close()
    assert servers == {"0", "1"}


def test_a_made_up_address_gives_a_message_and_the_default(page, server):
    opened(page, f"{server}/?v=1&scenario=longcat-flash-h800&set=deployment.ep%3D%3Cb%3E7")
    said = page.locator("[data-testid=stAlertContentError]").inner_text()
    assert "this link can't be read" in said
    assert "<b>7" in said
    expected = answer_step(load_scenario("longcat-flash-h800")).values
    assert metrics(page)["Tokens/s per user"] == significant(expected["tokens_per_s_per_user"])


def test_a_long_run_can_be_stopped_and_the_last_result_stays(page):
    # by the plain form of the serving core and of unlike lengths: the compiled one is done before anybody clicks
    lengths = "%7Bmin%3A%20100%2C%20max%3A%207000%7D"
    link = f"?v=1&scenario=deepseek-v3-gb200-pd&set=workload.output_tokens%3D{lengths}"
    with dashboard(PERFMODEL_CORE="plain") as port:
        opened(page, f"http://127.0.0.1:{port}/traffic{link}")
        before = metrics(page)
        requests = page.get_by_label("Requests", exact=True)
        requests.fill("50000")
        requests.press("Enter")
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped before the run had ended").wait_for()
        settled(page)
        assert metrics(page) == before
        assert not page.locator("[data-testid=stException]").count()


def test_the_report_of_a_comparison_says_how_to_repeat_it(page, server):
    link = "?v=1&scenario=longcat-flash-h800&set=workload.num_requests%3D100"
    opened(page, f"{server}/compare{link}")
    report = downloaded(page, "Cost report of both (HTML)").decode()
    assert "perfmodel report a.yaml b.yaml --out report.html" in report
    values = answer_step(load_scenario("longcat-flash-h800", ["deployment.overlap=sequential"])).values
    assert usd(values["usd_per_million_output_tokens"]) in report

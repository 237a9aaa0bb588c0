"""Every page as people meet it: wide and narrow, light and dark, by keyboard and screen reader, backwards too."""

from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from browser import PICTURES
from oracle_env import required
from test_dashboard_browser import chrome, opened, patient_context, server, settled  # noqa: F401

from dashboard.plan_asked import PlanAsked
from dashboard.plan_runs import planned
from perfmodel.explore.plan.question import Kind
from perfmodel.output.formats import duration, significant

pytestmark = pytest.mark.browser

SMALL = PlanAsked(models=("qwen3-30b-a3b",), clusters=("h200-ib",), amount=40.0, isl=1000.0, osl=100.0)
PLAN = "plan?" + urlencode({"plan": SMALL.text()})
PAGES = (PLAN, "what-if", "overlap", "experts", "traffic", "training", "compare", "calibration", "trust")


@pytest.fixture(scope="module")
def axe():
    """axe-core, as a package of its own brings it."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        if required("axe"):
            pytest.fail("no axe-playwright-python; PERFMODEL_REQUIRE demands it")
        pytest.skip("no axe-playwright-python")
    return Axe()


def complete(page):
    """Nothing runs, and a plan has all its stages."""
    page.wait_for_function("!document.querySelector('.st-key-plan-stop')")
    settled(page)
    page.wait_for_function("!document.querySelector('.st-key-plan-stop')")


CUT = """() => [...document.querySelectorAll(
    '[data-testid=stMain] button, [data-testid=stMain] input, [data-testid=stMain] label, [data-testid=stMetricValue],'
    + ' [data-testid=stMain] h1, [data-testid=stMain] h2, [data-testid=stMain] h3')]
    .filter(one => one.offsetWidth && one.getBoundingClientRect().right > innerWidth + 1
        && !one.closest('[data-testid=stDataFrame]'))
    .map(one => one.outerHTML.slice(0, 120))"""
"""Controls and headings that the window's edge cuts."""


SHORT = """() => [...document.querySelectorAll('[data-testid=stMain] [data-testid=stNumberInput] input')]
    .filter(one => one.offsetWidth && one.scrollWidth > one.clientWidth + 1).map(one => one.value)"""
"""Fields that don't show their whole number."""
ALONE = """() => [...document.querySelectorAll('[class*="st-key-tiles-"]')].filter(one => one.offsetWidth).map(one => {
    const columns = new Set([...one.children].filter(child => child.offsetWidth).map(child => child.offsetLeft)).size
    return [columns, one.children.length]
}).filter(([columns, count]) => columns > 2 && count > columns && count % columns === 1)"""
"""Rows of tiles with one left over, as columns and tiles."""
UNTOLD = """() => [...document.querySelectorAll('[data-testid=stMain] [data-testid=stPlotlyChart]')]
    .filter(one => ![one, ...one.querySelectorAll('*')].some(part =>
        (part.getAttribute('aria-label') || '').startsWith('Chart of ')))
    .map(one => one.outerHTML.slice(0, 200))"""
"""Charts that say nothing to who can't see them."""


class Shown(NamedTuple):
    """A page that somebody opened by its address."""

    page: Any
    name: str
    theme: str
    said: list[str]
    """Errors on the console."""
    outside: list[str]
    """What was asked of anybody but the server."""


@pytest.fixture(
    scope="module",
    params=product(("light", "dark"), PAGES),
    ids=lambda param: f"{param[0]}-{param[1].partition('?')[0]}",
)
def shown(request, server, chrome):  # noqa: F811
    """Opened once for all tests of it: to read and draw a page takes the browser five seconds of CPU."""
    theme, path = request.param
    context = patient_context(chrome, viewport={"width": 1440, "height": 1400}, color_scheme=theme)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    opened(page, f"{server}/{path}")
    complete(page)
    outside = [url for url in asked if "127.0.0.1" not in url and not url.startswith(("data:", "blob:"))]
    yield Shown(page, path.partition("?")[0], theme, said, outside)
    context.close()


def test_every_page_has_a_result_and_no_error(shown):
    page = shown.page
    assert page.locator("[data-testid=stMain] h2").first.inner_text()  # the answer
    assert not page.locator("[data-testid=stException]").count()
    assert not page.locator("[data-testid=stAlertContentError]").count()
    # Streamlit itself asks for its health below a page's address before it asks at the root
    assert [text for text in shown.said if "404" not in text] == []
    assert shown.outside == []


def test_axe_finds_no_violation(shown, axe):
    found = axe.run(shown.page)
    assert found.violations_count == 0, found.generate_report()


def test_nothing_is_cut_at_any_width(shown):
    page = shown.page
    PICTURES.mkdir(parents=True, exist_ok=True)
    for width in (1440, 1024, 420):
        page.set_viewport_size({"width": width, "height": 1400})
        page.wait_for_timeout(500)
        page.screenshot(path=PICTURES / f"looks-{shown.name}-{width}-{shown.theme}.png")
        assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= width
        assert page.evaluate(CUT) == []
        assert page.evaluate(SHORT) == []
        assert page.evaluate(ALONE) == []
    charts = page.locator("[data-testid=stMain] [data-testid=stPlotlyChart]")
    assert page.evaluate(UNTOLD) == []
    assert page.get_by_text("As a table", exact=True).count() == charts.count()
    assert not page.locator("[data-testid=stException]").count()
    assert [text for text in shown.said if "404" not in text] == []


def test_one_press_of_back_undoes_one_step_and_forward_does_it_again(server, chrome):  # noqa: F811
    """Pages chosen from the menu, a button group, and a field; each is one step of the browser's history."""
    context = patient_context(chrome, viewport={"width": 1440, "height": 1200})
    page = context.new_page()
    opened(page, f"{server}/overlap")

    def answer():
        settled(page)
        page.wait_for_timeout(500)
        settled(page)
        return page.locator("[data-testid=stMain] h2").first.inner_text()

    seen = [answer()]
    page.get_by_role("link", name="What-if").click()
    seen.append(answer())
    page.locator(".st-key-ask-overlap").get_by_text("tbo", exact=True).click()
    seen.append(answer())
    page.get_by_role("link", name="Experts").click()
    seen.append(answer())
    page.get_by_role("link", name="What-if").click()
    seen.append(answer())
    acceptance = page.get_by_role("spinbutton", name="Acceptance")
    acceptance.fill("0.5")
    acceptance.press("Enter")
    seen.append(answer())
    assert len(set(seen)) == 5
    assert seen[4] == seen[2]
    back = []
    for _ in range(5):
        page.go_back()
        back.append(answer())
    assert back == seen[-2::-1]
    for wanted in seen[1:]:
        page.go_forward()
        assert answer() == wanted
    context.close()


def test_the_planner_opens_and_a_link_of_a_scenario_is_answered(server, chrome):  # noqa: F811
    context = patient_context(chrome, viewport={"width": 420, "height": 900})
    page = context.new_page()
    for address, title in (
        ("", "Plan"),
        ("?v=1&scenario=deepseek-v3-h800", "What-if"),
        ("?v=1&scenario=deepseek-v3-h800&page=plan", "Plan"),
        ("plan", "Plan"),
        ("what-if", "What-if"),
    ):
        page.goto(f"{server}/{address}")
        page.get_by_role("heading", level=1, name=title).wait_for()
        assert not page.get_by_text("Page not found").count()
    # on a phone the menu covers the page, and closes once one is chosen
    page.get_by_test_id("stExpandSidebarButton").click()
    page.get_by_role("link", name="Plan").click()
    page.get_by_role("heading", level=1, name="Plan").wait_for()
    page.wait_for_function(
        "document.querySelector('[data-testid=stSidebar]').getBoundingClientRect().right <= 0"
    )
    context.close()


def test_the_planner_answers_with_the_figures_of_plan_and_a_click_takes_it(server, chrome):  # noqa: F811
    context = patient_context(chrome, viewport={"width": 1440, "height": 1600})
    page = context.new_page()
    opened(page, f"{server}/{PLAN}")
    complete(page)
    question = SMALL.question("qwen3-30b-a3b", "h200-ib")
    (kind,) = question.kinds
    found = planned(replace(question, kinds=(Kind(kind.cluster, 16, kind.engine),)), 6, False)
    best = found.values["candidates"][0]
    said = page.locator("[data-testid=stMain] h2").first.inner_text()
    assert f"{best['num_gpus']} x H200, InfiniBand" in said
    assert f"{significant(1 / best['tpot_at_s'])} tokens/s" in said
    assert f"within {duration(best['ttft_at_s'])}" in said
    point = page.locator("[data-testid=stPlotlyChart] .scatterlayer .trace .point").nth(1).bounding_box()
    page.mouse.click(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    settled(page)
    page.get_by_text("by the screen's approximation").wait_for()
    page.get_by_role("button", name="Take it: open in What-if").click()
    page.wait_for_function("!location.pathname.includes('plan') && location.search.includes('yaml=')")
    page.get_by_text("Taken from the plan").wait_for()
    assert "tokens/s per user" in page.locator("[data-testid=stMain] h2").first.inner_text()
    page.go_back()  # one press, and the question is there again; then the other way round
    page.get_by_text("What do I get for this budget?").click()
    page.get_by_role("spinbutton", name="$ a month").fill("4000")
    page.get_by_role("spinbutton", name="$ a month").press("Enter")
    page.get_by_role("heading", name="Most traffic").wait_for()
    context.close()


def test_a_refusal_is_mended_by_its_button(server, chrome):  # noqa: F811
    context = patient_context(chrome, viewport={"width": 1440, "height": 1200})
    page = context.new_page()
    page.goto(
        f"{server}/?"
        + urlencode({"v": 1, "scenario": "longcat-flash-h800", "set": "deployment.batch_per_gpu=500"})
    )
    button = page.get_by_role("button", name="Use the largest batch that fits")
    button.click()
    page.wait_for_selector("[data-testid=stMetricValue]")
    settled(page)
    assert not page.locator("[data-testid=stAlertContentError]").count()
    assert "batch_per_gpu%3D128" in page.url
    context.close()

"""Pages that commands write, in a real browser: axe-core in the light, the dark and in print, three widths, no error.

The report's own are in test_report_decision.py.
"""

import pytest
from browser import PICTURES, browser
from oracle_env import required
from typer.testing import CliRunner

from perfmodel.cli import app

pytestmark = pytest.mark.browser

PLAN = [
    "plan",
    "qwen3-30b-a3b",
    "--gpus",
    "2xh200",
    "--engine",
    "vllm",
    "--isl",
    "1000",
    "--osl",
    "200",
    "--users",
    "64",
]
FEW_BATCHES = ["--set", "training.global_batch_sequences=2240"]
COMMANDS = {
    "step": ["step", "longcat-flash-h800"],
    "plan": [*PLAN, "--tpot", "0.05", "--simulate", "3"],
    "train": ["train", "longcat-flash-train-h800", *FEW_BATCHES],
    "plan-train": [
        "plan-train",
        "deepseek-v3-train-h800",
        "--gpus",
        "1024",
        "--simulate",
        "2",
        "--space",
        "few.yaml",
    ],
    "validate": ["validate", "--suite", "longcat-theory"],
}
FEW_LAYOUTS = "space: {tp: [1], pp: [8], ep: [64], recompute: [full]}"
SWEEP = ["sweep", "longcat-flash-h800", "--over", "deployment.batch_per_gpu=8,16,32", "--workers", "1"]
SHOWN = ["--show", "deployment.batch_per_gpu,tokens_per_s_per_user"]


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


@pytest.fixture(scope="module")
def chrome():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=[*COMMANDS, "sweep"])
def page(request, chrome, tmp_path_factory):
    """The page of a command, opened once for all tests of it; its console's errors and what it asks of others."""
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "page.html"
    if request.param == "sweep":
        rows = str(folder / "rows")
        run(*SWEEP, "--out", rows)
        run("sweep", "--out", rows, *SHOWN, "--html", str(path))
    else:
        space = folder / "few.yaml"
        space.write_text(FEW_LAYOUTS)
        words = [str(space) if word == space.name else word for word in COMMANDS[request.param]]
        run(*words, "--html", str(path))
    context = chrome.new_context(viewport={"width": 1440, "height": 1200})
    opened = context.new_page()
    opened.name, opened.said, opened.asked = request.param, [], []
    opened.on(
        "console", lambda message: opened.said.append(message.text) if message.type == "error" else None
    )
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda asked: opened.asked.append(asked.url))
    opened.goto(path.as_uri())
    opened.wait_for_selector(".main-svg")
    yield opened
    context.close()


def run(*words):
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("media", "scheme", "width"),
    [("screen", "light", 1440), ("screen", "dark", 1440), ("screen", "light", 420), ("print", "light", 1024)],
)
def test_axe_finds_no_violation(page, axe, media, scheme, width):
    page.emulate_media(media=media, color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 1200})
    page.wait_for_timeout(300)
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_and_nothing_is_asked_of_anybody(page, scheme):
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.emulate_media(media="screen", color_scheme=scheme)
    for width in (1440, 1024, 420):
        page.set_viewport_size({"width": width, "height": 1200})
        page.wait_for_timeout(300)
        page.screenshot(path=PICTURES / f"page-{page.name}-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.said == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []

"""Screenshots for the README and docs/ (``make pictures``): the step's timeline, the dashboard, a cost report.

Needs chromium. The dashboard is started as a user starts it, timeline and report are made by the command line; a real
browser shows them.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from browser import browser  # noqa: E402
from sessions import dashboard  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from perfmodel.cli import app  # noqa: E402

PAGES = {
    "plan": "plan",
    "what-if": "what_if",
    "overlap": "overlap",
    "traffic": "traffic",
    "training": "training",
}
"""Page of the dashboard -> its picture, dashboard_NAME.png."""
HEIGHT = {"plan": 1240, "what-if": 1010, "overlap": 1240, "traffic": 1240, "training": 1240}
PLANNED_MS = 240_000
"""For a plan to be screened and simulated on each kind of GPU."""
SETTLED_MS = 1500


def main() -> None:
    """Take all of them."""
    with browser() as chrome:
        with dashboard() as port:
            for page, name in PAGES.items():
                _dashboard(
                    chrome, f"http://127.0.0.1:{port}/{page}", HERE / f"dashboard_{name}.png", HEIGHT[page]
                )
        _timeline(chrome, HERE / "timeline.png")
        _report(chrome, HERE / "report.png")
        _training(chrome)


def _timeline(chrome: Any, picture: Path) -> None:
    """One layer of the main job, as the page of ``perfmodel step --html`` draws it."""
    page = _made(chrome, ["step", "longcat-flash-h800", "--html"], width=1100, height=1400)
    page.locator("section", has=page.locator("#figure-layer")).screenshot(path=picture)
    page.context.close()


def _training(chrome: Any) -> None:
    """A V-shaped pipeline of 20 micro-batches, and memory over its step, as ``perfmodel train --html`` draws them."""
    few = ["--set", "training.global_batch_sequences=2240"]
    page = _made(chrome, ["train", "longcat-flash-train-h800", *few, "--html"], width=1100, height=1600)
    for name in ("pipeline", "memory"):
        page.locator(f"#figure-{name}").screenshot(path=HERE / f"train_{name}.png")
    page.context.close()


def _dashboard(chrome: Any, address: str, picture: Path, height: int) -> None:
    context = chrome.new_context(viewport={"width": 1360, "height": height}, color_scheme="light")
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("[data-testid=stPlotlyChart] .main-svg", timeout=PLANNED_MS)
    for _ in range(2):  # between two stages of a plan nothing runs, either
        page.wait_for_selector(
            "[data-testid=stApp][data-test-script-state=notRunning]:not(:has(.st-key-plan-stop))",
            timeout=PLANNED_MS,
        )
        page.wait_for_timeout(SETTLED_MS)
    page.screenshot(path=picture)
    context.close()


def _report(chrome: Any, picture: Path) -> None:
    day = ["--fleet-tokens-per-day", "5e8", "--fleet-peak-to-mean", "2", "--growth-pct", "0,3,8"]
    few = ["workload.num_requests=3000", "slo.ttft_ms=2000", "slo.tpot_ms=80"]
    sets = [word for key in few for word in ("--set", key)]
    page = _made(chrome, ["report", "longcat-flash-h800", *sets, *day, "--out"], width=1100, height=1180)
    page.screenshot(path=picture)
    page.context.close()


def _made(chrome: Any, words: list[str], *, width: int, height: int) -> Any:
    """The page that a command writes to the file after its ``words``, shown in the light."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "page.html"
        done = CliRunner().invoke(app, [*words, str(out)])
        assert done.exit_code == 0, done.output
        context = chrome.new_context(viewport={"width": width, "height": height}, color_scheme="light")
        page = context.new_page()
        page.goto(out.as_uri())
        page.wait_for_selector(".main-svg, svg.chart")
        page.wait_for_timeout(SETTLED_MS)
    return page


if __name__ == "__main__":
    main()

"""Screenshots of the dashboard and of a cost report for the README and docs/ (``make pictures``): needs chromium.

The dashboard is started as a user starts it, the report is made by the command line; both are shown by a real browser.
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

PAGES = {"": "what_if", "overlap": "overlap", "traffic": "traffic"}
"""Page of the dashboard -> its picture, dashboard_NAME.png."""
HEIGHT = {"": 1010, "overlap": 1240, "traffic": 1240}
SETTLED_MS = 1500


def main() -> None:
    """Take all of them."""
    with browser() as chrome:
        with dashboard() as port:
            for page, name in PAGES.items():
                _dashboard(
                    chrome, f"http://127.0.0.1:{port}/{page}", HERE / f"dashboard_{name}.png", HEIGHT[page]
                )
        _report(chrome, HERE / "report.png")


def _dashboard(chrome: Any, address: str, picture: Path, height: int) -> None:
    context = chrome.new_context(viewport={"width": 1360, "height": height}, color_scheme="light")
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("[data-testid=stPlotlyChart] .main-svg", timeout=60_000)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=60_000)
    page.wait_for_timeout(SETTLED_MS)
    page.screenshot(path=picture)
    context.close()


def _report(chrome: Any, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.html"
        words = ["report", "longcat-flash-h800", "--api-usd-per-million-output", "0.7", "--out", str(out)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        context = chrome.new_context(viewport={"width": 1100, "height": 1500}, color_scheme="light")
        page = context.new_page()
        page.goto(out.as_uri())
        page.wait_for_timeout(SETTLED_MS)
        page.screenshot(path=picture)
        context.close()


if __name__ == "__main__":
    main()

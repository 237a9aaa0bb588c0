"""A real browser for tests: Debian's chromium driven by Playwright, and where pictures of pages are kept."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from oracle_env import required

PICTURES = Path(__file__).resolve().parent.parent / "build" / "pictures"
"""Screenshots that tests leave, to be looked at."""


def chromium():
    """Path of the browser; without one the test is skipped, or fails where PERFMODEL_REQUIRE demands it."""
    found = shutil.which("chromium")
    if found is None:
        if required("browser"):
            pytest.fail("no chromium; PERFMODEL_REQUIRE demands it")
        pytest.skip("no chromium")
    return found


@contextmanager
def browser():
    """Chromium under Playwright."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield opened
        finally:
            opened.close()

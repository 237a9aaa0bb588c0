"""What all tests share: the order of files, and a main module that stays what it was."""

import sys

import pytest

MAIN = sys.modules["__main__"]

LONGEST = (
    "test_dashboard_looks.py",
    "test_docs.py",
    "test_dashboard_browser.py",
    "test_dashboard.py",
    "test_newcomer.py",
    "test_published.py",
    "test_report_decision.py",
    "test_dashboard_traffic.py",
    "test_balance.py",
    "test_engines.py",
    "test_calibrate_profile.py",
    "test_cli.py",
    "test_public_experts.py",
    "test_import_tables.py",
    "test_calibrate_fit.py",
    "test_html.py",
)
"""Files that take longest go first, so that two workers end at about the same time: about nothing but time."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def main_module():
    """Streamlit's AppTest leaves its script as ``__main__``, which a process that a later test spawns runs again."""
    yield
    sys.modules["__main__"] = MAIN

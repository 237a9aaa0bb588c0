"""Order of the test files: those that take longest first, so that two workers end at about the same time."""

LONGEST = (
    "test_dashboard_browser.py",
    "test_docs.py",
    "test_published.py",
    "test_dashboard.py",
    "test_balance.py",
    "test_engines.py",
    "test_calibrate_profile.py",
    "test_cli.py",
    "test_public_experts.py",
    "test_import_tables.py",
    "test_calibrate_fit.py",
    "test_html.py",
)
"""Only about time: every order gives the same results."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))

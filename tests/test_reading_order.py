"""The docs have an order, every page is in it once, and opens with what its reader will be able to do."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DEVELOPERS = {"log.md", "table7.md"}
"""Pages that nobody needs who uses perfmodel."""


def test_every_page_has_its_place():
    text = (DOCS / "index.md").read_text()
    linked = re.findall(r"\]\((\w[\w./]*\.md)\)", text)
    assert sorted(linked) == sorted(str(page.relative_to(DOCS)) for page in PAGES if page.name != "index.md")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[:5] == [
        "Start",
        "Ask",
        "Trust",
        "Calibrate",
        "Extend",
    ]
    users, _, developers = text.partition("## For developers")
    assert not any(f"({page})" in users for page in DEVELOPERS)
    assert all(f"({page})" in developers for page in DEVELOPERS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_opens_with_what_its_reader_will_be_able_to_do(page):
    head, _, opens = page.read_text().partition("\n\n")
    assert head.startswith("# ")
    assert opens.startswith("With this page you can ")


def test_links_lead_somewhere():
    for page in [*PAGES, DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

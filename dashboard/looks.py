"""What Streamlit's settings can't say of how pages look, as one style sheet."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import streamlit as st

STYLE = """
[data-testid="stMainBlockContainer"] { padding-top: 3.5rem; }
.st-key-answer h2 { font-size: 1.4rem; font-weight: 600; line-height: 1.35; padding: 0 0 0.25rem 0; }
[data-testid="stCaptionContainer"] { color: inherit; opacity: 0.82; }
@media (prefers-color-scheme: dark) { [data-testid="stMultiSelect"] span[title] { color: #101010; }
[data-testid="stBaseButton-primary"], [data-testid="stBaseButton-primary"] * { color: #101010; } }
@media (max-width: 1279.98px) {
.st-key-beside-when-wide [data-testid="stHorizontalBlock"]:has(> [data-testid="stColumn"]) { flex-direction: column; }
.st-key-beside-when-wide [data-testid="stColumn"] { width: 100%; } }
.st-key-menu a { padding: 0.2rem 0.5rem; }
[data-testid="stButtonGroup"] div:has(> button) { flex-wrap: wrap; max-width: 100%; }
[data-testid="stMetricValue"] > div, [data-testid="stMetricLabel"] p { white-space: normal; }
"""
"""No room above the title; the answer is a heading, but no larger than a title; captions, primary buttons and what was
chosen from a list have a contrast of 4.5:1; charts that need width stand beside each other in wide windows alone; a
figure is never cut.
"""
WIDE, MIDDLE = "(min-width: 1280px)", "(min-width: 640px) and (max-width: 1279.98px)"
"""Widths of the window at which a row of tiles has its columns; below it has two."""
MOST_TILES, MOST_IN_FIELDS, MOST_FIELDS = 20, 12, 3
"""Tiles together, fields together, and of these in a row of the middle width, where four would cut their numbers."""


def tiles(name: str) -> Any:
    """A container whose children, figures or fields, stand in equal columns: none is left over in a row of its own."""
    return st.container(key=f"tiles-{name}", horizontal=True, vertical_alignment="bottom")


def columns(count: int, most: int) -> int:
    """Of so many tiles, about ``most`` at most: as few rows as possible, the last one as full as possible, and never
    one tile in it alone.
    """
    best = -(-count // -(-count // most))
    return next(one for one in (best, best - 1, best + 1) if count <= one or count % one != 1)


def _grids() -> Iterator[str]:
    every = '[class*="st-key-tiles-"]'
    yield (
        f"{every} {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.8rem 1rem; }}"
        f"{every} > * {{ width: auto !important; max-width: none; min-width: 0; }}"
        f"{every} > * > * {{ width: 100% !important; }}"
        f"{every}:has([data-testid=stMetric]) {{ align-items: start; }}"
    )
    for media, most in ((WIDE, 6), (MIDDLE, 4)):
        own = "".join(
            f"{every}:has(> :nth-child({count}):last-child) "
            f"{{ grid-template-columns: repeat({columns(count, most)}, minmax(0, 1fr)); }}"
            for count in range(1, MOST_TILES + 1)
        )
        yield f"@media {media} {{ {own} }}"
    fields = f"{every}:has([data-testid=stNumberInput])"
    own = "".join(
        f"{fields}:has(> :nth-child({count}):last-child) "
        f"{{ grid-template-columns: repeat({columns(count, MOST_FIELDS)}, minmax(0, 1fr)); }}"
        for count in range(1, MOST_IN_FIELDS + 1)
    )
    yield f"@media {MIDDLE} {{ {own} }}"
    yield f"@media (max-width: 639.98px) {{ {every} > :last-child:nth-child(odd) {{ grid-column: span 2; }} }}"


@cache
def _sheet() -> str:
    return f"<style>{STYLE}{''.join(_grids())}</style>"


def style() -> None:
    """Put it on the page."""
    st.html(_sheet())

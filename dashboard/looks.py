"""What Streamlit's settings can't say of how pages look, as one style sheet."""

import streamlit as st

STYLE = """
[data-testid="stMainBlockContainer"] { padding-top: 3.5rem; }
.st-key-answer h2 { font-size: 1.4rem; font-weight: 600; line-height: 1.35; padding: 0 0 0.25rem 0; }
[data-testid="stCaptionContainer"] { color: inherit; opacity: 0.82; }
@media (prefers-color-scheme: dark) { [data-testid="stMultiSelect"] span[title] { color: #101010; } }
.st-key-menu a { padding: 0.2rem 0.5rem; }
[data-testid="stButtonGroup"] div:has(> button) { flex-wrap: wrap; max-width: 100%; }
[data-testid="stMetricValue"] > div, [data-testid="stMetricLabel"] p { white-space: normal; }
"""
"""No room above the title; the answer is a heading, but no larger than a title; captions, and what was chosen from a
list, have a contrast of 4.5:1; a figure is never cut.
"""


def style() -> None:
    """Put it on the page."""
    st.html(f"<style>{STYLE}</style>")

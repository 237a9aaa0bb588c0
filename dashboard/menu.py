"""The pages: which there are, which one opens, and the menu, whose links carry what is asked."""

from collections.abc import Mapping, Sequence
from typing import NoReturn
from urllib.parse import urlsplit

import streamlit as st

from dashboard import session
from dashboard.asked import asks

PAGES = (
    ("plan", "Plan", ":material/savings:"),
    ("what_if", "What-if", ":material/tune:"),
    ("overlap", "Overlap", ":material/layers:"),
    ("experts", "Experts", ":material/alt_route:"),
    ("traffic", "Traffic", ":material/swap_vert:"),
    ("training", "Training", ":material/model_training:"),
    ("compare", "Compare", ":material/compare_arrows:"),
    ("calibration", "Calibration", ":material/straighten:"),
    ("trust", "Trust", ":material/verified:"),
)
"""Module of dashboard.views, title, icon."""
ROOT = ("plan", "what_if")
"""What the bare address may show: the planner's page, or the answer that a link from elsewhere asks for."""
OPENS, SHOWN = "opens", "pages"
"""In the session's state: the page that the bare address shows, which has no other address; and all pages."""
COLLAPSE = """<script>
if (!window.perfmodelMenu) {
  window.perfmodelMenu = true
  document.addEventListener("click", (event) => {
    const chosen = event.target.closest(".st-key-menu a")
    const close = document.querySelector("[data-testid=stSidebarCollapseButton] button")
    if (chosen && close && innerWidth < 768) close.click()
  })
}
</script>"""
"""On a phone, where it covers the page, the sidebar closes once a page is chosen. Streamlit's own menu does so too, but
its links carry no question, so that Back would have to be pressed twice: to the bare page, and from there.
"""


def opens() -> str:
    """The page at the bare address, the same for the whole session."""
    if OPENS not in st.session_state:
        path = urlsplit(st.context.url or "").path
        query = {key: st.query_params.get_all(key) for key in st.query_params}
        st.session_state[OPENS] = at_root(path, query)
    found: str = st.session_state[OPENS]
    return found


def at_root(path: str, query: Mapping[str, Sequence[str]]) -> str:
    """The page that a session shows at the bare address, by the address that it starts with: the planner's, unless the
    address is bare and asks a scenario, or is the planner's own.
    """
    name = path.rstrip("/").rpartition("/")[2].replace("-", "_")
    if name in ROOT:
        return next(module for module in ROOT if module != name)  # so that the address is known
    if any(name == module for module, _, _ in PAGES):
        return ROOT[0]
    stated = (query.get(session.PAGE) or [""])[-1].replace("-", "_")
    if stated in ROOT:
        return stated
    return ROOT[1] if asks(query) else ROOT[0]


def link_to(module: str, asked: session.Query) -> session.Query:
    """What a page's address says behind the ``?``: all that is asked, and which page it is where a new session would
    show the other one.
    """
    query = dict(asked)
    if module == opens() != at_root("", {key: [""] for key in query}):
        query[session.PAGE] = module.replace("_", "-")
    return query


def menu(pages: Mapping[str, st.Page]) -> None:
    """Links to all pages, with what is asked."""
    st.session_state[SHOWN] = pages
    asked = session.link()
    with st.sidebar, st.container(key="menu", gap=None):
        for module, page in pages.items():
            st.page_link(page, query_params=link_to(module, asked), width="stretch")
        st.html(COLLAPSE, unsafe_allow_javascript=True)


def go_to(module: str) -> NoReturn:
    """Show a page, with what is asked."""
    st.switch_page(st.session_state[SHOWN][module], query_params=link_to(module, session.link()))

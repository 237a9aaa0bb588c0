"""The dashboard's first file: the address, the controls, and one of its pages. Run by ``perfmodel dashboard``."""

import os
import sys
import time
from collections.abc import Callable
from importlib import import_module

import streamlit as st

from dashboard import session
from dashboard.any_key import key_field, named_in
from dashboard.looks import style
from dashboard.menu import PAGES, link_to, menu, opens
from dashboard.show import plain
from dashboard.sidebar import sidebar
from dashboard.together import together
from perfmodel.errors import WorkerError

TIMES = "PERFMODEL_DASHBOARD_TIMES"  # set: every run of the script says how long it took

OWN_QUESTION = ("plan", "training")  # pages that are not about the sidebar's scenario


def main() -> None:
    """One run of the script."""
    with together():
        _run()


def _run() -> None:
    started = time.perf_counter()
    st.set_page_config(page_title="perfmodel", page_icon="📈", layout="wide")
    style()
    session.start()
    pages = {
        module: st.Page(
            _page(module),
            title=title,
            icon=icon,
            url_path=module.replace("_", "-"),
            default=module == opens(),
        )
        for module, title, icon in PAGES
    }
    page = st.navigation(list(pages.values()), position="hidden")
    here = next(module for module, one in pages.items() if one is page)
    menu(pages)
    if here not in OWN_QUESTION:
        sidebar(session.scenario())
    session.write_link(link_to(here, session.link()))
    st.title(page.title)
    errors, notes = session.said()
    for text in errors:
        st.error(plain(f"{text}. The scenario is as it was."), icon=":material/error:")
    if here not in OWN_QUESTION:
        for path in named_in(" ".join(errors)):
            key_field(session.scenario(), path, "said")
    for text in notes:
        st.info(plain(text), icon=":material/info:")
    try:
        page.run()
    except WorkerError as error:
        st.error(plain(str(error)), icon=":material/error:")
    if os.environ.get(TIMES):
        print(f"redrawn {page.title} in {time.perf_counter() - started:.4f} s", file=sys.stderr, flush=True)


def _page(module: str) -> Callable[[], None]:
    """A page's function, whose module is read when it is first opened."""

    def page() -> None:
        import_module(f"dashboard.views.{module}").render(session.scenario())

    page.__name__ = module
    return page


if __name__ == "__main__":
    main()

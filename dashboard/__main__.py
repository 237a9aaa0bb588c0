"""Serves the dashboard: ``python -m dashboard [--workers=N] [options]``; ``perfmodel dashboard`` runs this."""

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from dashboard.front import behind, end_with_front, serve

WORKERS = "--workers="
FRONT = ("server.address", "server.port", "server.headless")
"""Options that are the front's, where there are several servers."""


def main() -> None:
    """Serve by one server, or by several behind one address."""
    options = sys.argv[1:]
    count = int(next((one.removeprefix(WORKERS) for one in options if one.startswith(WORKERS)), "1"))
    options = [one for one in options if not one.startswith(WORKERS)]
    if count == 1:
        one_server(options)
        return
    named = dict(one.removeprefix("--").partition("=")[::2] for one in options)
    others = [one for one in options if one.removeprefix("--").partition("=")[0] not in FRONT]
    serve(count, {key: named[key] for key in FRONT if key in named}, others)


def one_server(options: Sequence[str]) -> None:
    """Start the processes that compute, and read the heavy libraries while the server starts and the browser opens."""
    from streamlit.web.cli import main as streamlit

    from dashboard.hosts import install
    from dashboard.pool import start_pool
    from perfmodel.workers.machine import cores

    front = behind()
    install(front)
    if front is not None:
        end_with_front()
    start_pool(cores() // front.count if front is not None else cores())
    Thread(target=_warm, daemon=True).start()
    streamlit(["run", str(Path(__file__).with_name("first.py")), *options], prog_name="streamlit")


def _warm() -> None:
    """What stays for good is not looked at by later collections, which stop every session's thread."""
    import plotly.io
    import plotly.tools  # noqa: F401 - what shows a chart

    from dashboard.warm import warm

    warm()
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()

"""Serves the dashboard: ``python -m dashboard [Streamlit's options]``; ``perfmodel dashboard`` runs this."""

import gc
import sys
from pathlib import Path
from threading import Thread

from dashboard.hosts import install
from dashboard.pool import start_pool
from dashboard.warm import warm


def main() -> None:
    """Start the processes that compute, and read the heavy libraries while the server starts and the browser opens."""
    from streamlit.web.cli import main as streamlit

    install()
    start_pool()
    Thread(target=_warm, daemon=True).start()
    streamlit(["run", str(Path(__file__).with_name("first.py")), *sys.argv[1:]], prog_name="streamlit")


def _warm() -> None:
    """What stays for good is not looked at by later collections, which stop every session's thread."""
    warm()
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()

"""Serves the dashboard: ``python -m dashboard [Streamlit's options]``; ``perfmodel dashboard`` runs this."""

import sys
from pathlib import Path
from threading import Thread

from dashboard.hosts import install
from dashboard.warm import warm


def main() -> None:
    """Read the heavy libraries while the server starts and the browser opens, then serve."""
    from streamlit.web.cli import main as streamlit

    install()
    Thread(target=warm, daemon=True).start()
    streamlit(["run", str(Path(__file__).with_name("app.py")), *sys.argv[1:]], prog_name="streamlit")


if __name__ == "__main__":
    main()

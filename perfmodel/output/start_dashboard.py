"""Starting the dashboard: Streamlit as a process of its own, on this machine only unless asked otherwise."""

import importlib.util
import os
import subprocess
import sys

from perfmodel.errors import DataError, SpecError
from perfmodel.output.colours import OP_CLASS_COLOURS
from perfmodel.programs.start import find_programs

CONTROLS = "#00619A"
"""The predictions' blue, darkened until it has a contrast of 4.5:1 on its own tint."""
OPTIONS = {
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "runner.magicEnabled": "false",
    "runner.postScriptGC": "false",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "1",
    "server.showEmailPrompt": "false",
    "theme.light.primaryColor": CONTROLS,
    "theme.dark.primaryColor": OP_CLASS_COLOURS["dense_ffn"],
}
"""Streamlit's settings: nothing is sent home, nobody is asked for an e-mail address, a defect shows no paths of this
machine, no collection of all garbage after every redraw (a third of its time, under the lock that all sessions share),
uploads are scenarios (MB), the charts' own colours."""

MOST_WORKERS = 64
"""Servers; each takes 0.4 GB and more."""


def check_installed() -> None:
    """Refuse to start what is not there.

    Raises:
        DataError: Streamlit or the dashboard is not installed.
    """
    find_programs()
    for package in ("streamlit", "dashboard"):
        if importlib.util.find_spec(package) is None:
            raise DataError(
                f"perfmodel dashboard: the package {package} is not installed; pip install 'perfmodel[dashboard]' "
                "(in a checkout: make dash)"
            )


def dashboard_command(port: int, *, address: str, headless: bool, workers: int = 1) -> list[str]:
    """The command that serves the dashboard.

    Raises:
        SpecError: a port or a number of servers out of range; DataError: something is not installed.
    """
    if not 0 < port < 2**16:
        raise SpecError(f"--port {port}: must be from 1 to {2**16 - 1}")
    if not 0 < workers <= MOST_WORKERS:
        raise SpecError(
            f"--workers {workers}: must be from 1 to {MOST_WORKERS}; give as many as there are cores"
        )
    check_installed()
    options = {
        **OPTIONS,
        "server.address": address,
        "server.port": str(port),
        "server.headless": str(headless).lower(),
    }
    words = [f"--{key}={value}" for key, value in options.items()]
    several = [f"--workers={workers}"] if workers > 1 else []
    return [sys.executable, "-m", "dashboard", *several, *words]


def run_dashboard(port: int, *, address: str, headless: bool, workers: int) -> int:
    """Serve until interrupted or ended; the process's exit code.

    The server takes this process's place where the system has that, so that whoever ends the command ends the server.
    """
    command = dashboard_command(port, address=address, headless=headless, workers=workers)
    if os.name == "posix":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(command[0], command)
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:
        return 0

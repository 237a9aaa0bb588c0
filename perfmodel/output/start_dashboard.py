"""Starting the dashboard: Streamlit as a process of its own, on this machine only unless asked otherwise."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from perfmodel.errors import DataError, SpecError

OPTIONS = {
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "runner.magicEnabled": "false",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "1",
}
"""Streamlit's settings: nothing is sent home, uploads are scenarios (MB)."""


def app_file() -> Path:
    """The dashboard's script.

    Raises:
        DataError: Streamlit or the dashboard is not installed.
    """
    for package in ("streamlit", "dashboard"):
        if importlib.util.find_spec(package) is None:
            raise DataError(
                f"perfmodel dashboard: the package {package} is not installed; pip install 'perfmodel[dashboard]' "
                "(in a checkout: make dash)"
            )
    found = importlib.util.find_spec("dashboard")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name("app.py")


def dashboard_command(port: int, *, address: str, headless: bool) -> list[str]:
    """The command that serves the dashboard.

    Raises:
        SpecError: a port out of range; DataError: something is not installed.
    """
    if not 0 < port < 2**16:
        raise SpecError(f"--port {port}: must be from 1 to {2**16 - 1}")
    options = {
        **OPTIONS,
        "server.address": address,
        "server.port": str(port),
        "server.headless": str(headless).lower(),
    }
    words = [f"--{key}={value}" for key, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(app_file()), *words]


def run_dashboard(port: int, *, address: str, headless: bool) -> int:
    """Serve until interrupted; the process's exit code."""
    command = dashboard_command(port, address=address, headless=headless)
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        return subprocess.call(command, env={**os.environ, "PYTHONPATH": path})
    except KeyboardInterrupt:
        return 0

"""A page as PDF, printed by Chromium."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from perfmodel.errors import DataError
from perfmodel.files import atomic_write

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""Programs that print, the first that is there."""
TIMEOUT_S = 120
PAGE_PIXELS = "704,1000"
"""Between an A4 page's margins, at 96 pixels per inch: charts are drawn as wide as they are printed."""


def chromium() -> str:
    """The browser's path.

    Raises:
        DataError: there is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise DataError(
            "--pdf: needs Chromium or Chrome to print, and none is on the PATH: install it (Debian: apt install "
            "chromium), or write HTML with --out and print it from a browser"
        )
    return found


def write_pdf(html: str, path: Path) -> None:
    """Print a page to ``path``, whole or not at all.

    Raises:
        DataError: no browser, one that fails, or a path that can't be written.
    """
    program = chromium()
    with tempfile.TemporaryDirectory(prefix="perfmodel-") as folder:
        source, printed = Path(folder) / "page.html", Path(folder) / "page.pdf"
        source.write_text(html, encoding="utf-8")
        flags = [
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-sync",
        ]
        flags += [
            f"--user-data-dir={folder}/profile",
            f"--window-size={PAGE_PIXELS}",
            "--virtual-time-budget=5000",
        ]
        flags += ["--no-pdf-header-footer", f"--print-to-pdf={printed}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium's sandbox refuses to run as root
        try:
            done = subprocess.run(
                [program, *flags, source.as_uri()], capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(f"--pdf {path}: {program} did not print: {error}") from error
        if done.returncode or not printed.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise DataError(f"--pdf {path}: {program} did not print ({said[-1] if said else 'no message'})")
        atomic_write(path, printed.read_bytes())

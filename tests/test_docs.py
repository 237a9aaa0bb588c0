"""Every `perfmodel` command in the README and in docs/ runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = sorted(
    {
        line.strip().removeprefix(".venv/bin/")
        for page in PAGES
        for block in re.findall(r"```\n(.*?)```", page.read_text(), flags=re.DOTALL)
        for line in block.splitlines()
        if line.strip().removeprefix(".venv/bin/").startswith("perfmodel ")
    }
)


def test_the_docs_have_commands():
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command, tmp_path):
    arguments = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "perfmodel", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

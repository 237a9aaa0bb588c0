"""A newcomer's walk: a clean clone, the README's commands in their order, a config.json of one's own, the dashboard.

What `make` installs stands in for itself: the clone's `.venv` runs the clone's code with the packages that are here, so
that no registry is asked. Each step's CPU time is printed (``pytest -s``).
"""

import os
import re
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from sessions import dashboard

ROOT = Path(__file__).resolve().parent.parent
MOST_CPU_S = 60.0
"""Of any step; plan's is the longest."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no repository to clone")
    folder = tmp_path_factory.mktemp("newcomer") / "perfmodel"
    subprocess.run(["git", "clone", "--quiet", "--no-local", str(ROOT), str(folder)], check=True, timeout=120)
    program = folder / ".venv" / "bin" / "perfmodel"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" -m perfmodel "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    mine = folder / "my-model"
    mine.mkdir()
    # somebody's own: a family that is known, a size that nobody published
    text = (folder / "perfmodel/data/models/qwen3-30b-a3b.json").read_text()
    assert '"num_hidden_layers": 48' in text
    (mine / "config.json").write_text(text.replace('"num_hidden_layers": 48', '"num_hidden_layers": 36'))
    # the Makefile does so while it installs: the simulator compiled, in the user's cache
    subprocess.run(
        [sys.executable, "-m", "perfmodel.serving.compiled"],
        cwd=folder,
        check=True,
        timeout=400,
        env=environment(folder),
    )
    return folder


def environment(folder):
    return {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(folder)}


def commands(folder):
    blocks = re.findall(r"```\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return [
        line for block in blocks for line in block.splitlines() if line.startswith((".venv/bin/", "make "))
    ]


def test_readme_from_top_to_bottom(clone, capfd):
    said = {}
    walked = commands(clone)
    assert walked[0].startswith("make demo")
    for line in walked:
        if line.startswith("make "):
            target = line.split()[1]
            assert re.search(rf"^{target}:.*## ", (clone / "Makefile").read_text(), re.MULTILINE), line
            continue
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=clone,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=environment(clone),
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        with capfd.disabled():
            print(f"\n{cpu:6.2f} CPU s  {line}", end="")
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout or "wrote" in done.stderr
        assert cpu < MOST_CPU_S, line
        said[line] = done.stdout
    served = next(text for line, text in said.items() if "serve deepseek-v3-16xh100.yaml" in line)
    answer = re.search(r"answers in seconds:\n\n```\n(.*?)```", (clone / "README.md").read_text(), re.DOTALL)[
        1
    ]
    lines = [" ".join(line.split()) for line in served.splitlines()]
    for line in answer.splitlines()[1:]:
        assert any(one.startswith(" ".join(line.split())) for one in lines), (
            line
        )  # what it shows is what it says
    page = (clone / "mine.html").read_text()
    assert "The decision" in page
    assert "GPUs" in page


def test_the_dashboard_of_the_clone(clone, capfd):
    """It starts and answers; what that takes is told like the other steps."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with dashboard(folder=clone, PYTHONPATH=str(clone)) as port, urlopen(f"http://127.0.0.1:{port}/") as page:
        assert page.status == 200
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with capfd.disabled():
        print(f"\n{cpu:6.2f} CPU s  make dash (its server, until it answers)", end="")
    assert 0.0 < cpu < MOST_CPU_S

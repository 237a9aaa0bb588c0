"""Every `perfmodel` and `calibrate` command in the README and in docs/ runs."""

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from command import run_here
from sessions import dashboard

from perfmodel.spec.scenario import Scenario

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = ("perfmodel ", "calibrate ", "python -m ")


def commands_of(page):
    lines = [
        line.strip().removeprefix(".venv/bin/")
        for language, block in re.findall(
            r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE
        )
        if not language
        for line in block.splitlines()
    ]
    return [line for line in lines if line.startswith(PROGRAMS)]


COMMANDS = {page.name: commands_of(page) for page in PAGES}
IN_TURN = ("README.md",)
"""Pages whose commands build on each other, from a clone on: test_newcomer.py walks through them."""
CALIBRATING = [name for name, own in COMMANDS.items() if any(c.startswith("calibrate ") for c in own)]
"""Pages whose commands build on each other, and time kernels: they run shortened."""
SINGLE = sorted(
    {
        c
        for name, own in COMMANDS.items()
        if name not in CALIBRATING and name not in IN_TURN
        for c in own
        if c.startswith("perfmodel ")
        and not c.startswith("perfmodel dashboard")  # serves until it is stopped
        and "--on ray" not in c  # test_sweep_ray.py has a cluster
    }
)
SHORT = {
    "--minutes": "0.08",
    "--model": "tiny",
    "--dtype": "fp32",
    "--device": "cpu",
    "--max-tokens": "64",
    "--max-context": "256",
    "--steps": "20",
}
"""Values that make a documented command short, and possible without a GPU; the options stay the documented ones."""


def run(words, folder):
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )


def shortened(command):
    words = shlex.split(command)
    for i, word in enumerate(words[:-1]):
        sparse = "lsa-" if words[i + 1].startswith("lsa-") else ""
        words[i + 1] = sparse + SHORT[word] if word in SHORT else words[i + 1]
    if words[:2] == ["calibrate", "check"]:
        words += ["--shapes", "1", "--steps", "6"]
    return shlex.join(words)


def test_the_docs_have_commands():
    assert len(SINGLE) >= 15
    assert "calibrate.md" in CALIBRATING


@pytest.mark.parametrize("command", SINGLE)
def test_command_runs(command, tmp_path):
    program, *arguments = shlex.split(command)
    done = run_here(program, *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


SERVING = sorted({c for own in COMMANDS.values() for c in own if c.startswith("perfmodel dashboard")})


@pytest.mark.parametrize("command", SERVING)
def test_dashboard_serves(command):
    with dashboard(command=command):  # on another port, without a browser
        pass


@pytest.mark.parametrize("page", CALIBRATING)
def test_commands_of_a_page_run_in_turn(page, tmp_path):
    """In one process, as one for each would import torch as often; test_calibrate_profile.py starts them for real."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("no torch: the commands of this page time its kernels")
    commands = COMMANDS[page]
    ran = run([Path(__file__).with_name("in_turn.py"), *map(shortened, commands)], tmp_path)
    assert ran.returncode == 0, ran.stderr
    for command, line in zip(commands, ran.stdout.splitlines(), strict=True):
        done = json.loads(line)
        # a calibration of seconds beside whatever runs here may miss its own claims: exit code 1 is an answer
        allowed = (0, 1) if command.startswith("calibrate check") else (0,)
        assert done["returncode"] in allowed, f"{command}\n{done['stderr']}"
        assert "Traceback" not in done["stderr"], f"{command}\n{done['stderr']}"
        assert done["stdout"] or done["stderr"]


@cache
def help_of(module):
    return run(["-m", module, "--help"], ROOT).stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_other_commands_name_modules_and_options_that_exist(page):
    for command in COMMANDS[page.name]:
        words = shlex.split(command)
        if words[0] != "python":
            continue
        assert importlib.util.find_spec(words[2]), command
        shown = help_of(words[2])
        for word in words[3:]:
            if word.startswith("--"):
                assert word in shown, f"{command}: {word}"


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def rows_of(page, heading):
    """The cells of the table under a heading."""
    text = (ROOT / "docs" / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]


def spec_at(path):
    """The part of a scenario's description at a key path, or the kind of value there; KeyError: no such key."""
    found = Scenario
    for key in path.split("."):
        found = found.model_fields[key].annotation
    return found


@pytest.mark.parametrize(
    "cells", rows_of("scenarios.md", "The engine, and what it does"), ids=lambda cells: cells[0][:30]
)
def test_keys_that_the_page_on_scenarios_names_exist(cells):
    """It once named a `tokens_per_s` of the front end, which no reader of it knew."""
    section = ""
    for path in re.findall(r"`([a-z_.]+)`", cells[0]):
        if path != "engine":  # the short form of deployment.engine
            spec_at(f"{section}{path}" if path.startswith(".") else path)
        section = path.rpartition(".")[0] if not path.startswith(".") else section
        if path in ("deployment.host", "serving.front_end"):
            inside = set(re.findall(r"`([a-z_]+)`", cells[1])) - {"graph", "eager"}
            assert inside <= set(spec_at(path).model_fields)
            assert len(inside) >= 5


def test_every_picture_of_the_docs_is_redrawn_by_a_target():
    """A picture that no target draws goes stale, as timeline.png did."""
    docs = ROOT / "docs"
    drawn = (docs / "pictures.py").read_text() + (docs / "screenshots.py").read_text()
    pages = re.search(r"^PAGES = (\{.*?\})$", drawn, flags=re.MULTILINE | re.DOTALL)[1]
    made = {
        *re.findall(r'"(\w+\.png)"', drawn),
        *(f"dashboard_{name}.png" for name in ast.literal_eval(pages).values()),
        *(f"train_{name}.png" for name in re.findall(r'"#?(pipeline|memory)"', drawn)),
    }
    experiments = {
        "calibration_check.png",
        "overlap_speedup.png",
    }  # make calibration-report, make overlap-experiment
    assert {path.name for path in docs.glob("*.png")} == made | experiments

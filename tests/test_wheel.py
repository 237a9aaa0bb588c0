"""What a wheel puts into site-packages: one name of ours, and the commands all the same.

The layout is that of pyproject.toml's table; building the wheel itself would ask a registry for its builder.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from sessions import dashboard

ROOT = Path(__file__).resolve().parent.parent
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Site-packages as the wheel would leave them."""
    folder = tmp_path_factory.mktemp("site")
    target = WHEEL["tool"]["hatch"]["build"]["targets"]["wheel"]
    moved = target["sources"]
    for package in target["packages"]:
        ignored = shutil.ignore_patterns("__pycache__", "calibrations")
        shutil.copytree(
            ROOT / package, folder / moved.get(package, package), dirs_exist_ok=True, ignore=ignored
        )
    return folder


def python(site, code):
    """As installed: nothing of this checkout on the path before it."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=site.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_name_at_top_level(site):
    assert [one.name for one in site.iterdir()] == ["perfmodel"]


def test_programs_are_found_within_it(site):
    code = (
        "from perfmodel.programs.start import find_programs; find_programs(); find_programs(); "
        "import calibrate, dashboard, reference_model, os; "
        "print(calibrate.__file__, dashboard.__file__, reference_model.__file__, os.environ['PYTHONPATH'], sep='\\n')"
    )
    *files, path = python(site, code).splitlines()
    assert all(str(site / "perfmodel" / "programs") in file for file in files)
    assert path.split(os.pathsep).count(str(site / "perfmodel" / "programs")) == 1


def test_the_calibrate_command(site):
    module, _, name = WHEEL["project"]["scripts"]["calibrate"].partition(":")
    code = f"import sys; sys.argv = ['calibrate', '--help']; from {module} import {name}; {name}()"
    assert "profile" in python(site, code)


def test_the_dashboard_starts_from_it(site):
    with dashboard(folder=site.parent, PYTHONPATH=str(site)) as port:
        assert port


def test_a_checkout_needs_nothing(monkeypatch):
    from perfmodel.programs.start import find_programs

    before = list(sys.path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    find_programs()
    assert sys.path == before
    assert "PYTHONPATH" not in os.environ

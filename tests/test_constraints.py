"""constraints.txt: one public version of everything that `make` installs, and every install keeps to it."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


PINS = {canonical(line.partition("==")[0]): line.partition("==")[2] for line in LINES}
NEEDED = [
    *PROJECT["project"]["dependencies"],
    *(one for extra in PROJECT["project"]["optional-dependencies"].values() for one in extra),
    *(one for group in PROJECT["dependency-groups"].values() for one in group),
]


def test_every_line_pins_one_public_version_and_nothing_twice():
    for line in LINES:  # no local build (torch's +cpu), no path, no address
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    assert len(PINS) == len(LINES)


@pytest.mark.parametrize("needed", sorted(set(NEEDED)))
def test_what_pyproject_names_is_pinned_within_its_bounds(needed):
    name, bound = re.match(r"([A-Za-z0-9._-]+)([^;]*)", needed).groups()
    pin = PINS[canonical(name)]
    for operator, least in re.findall(r"(>=|==)([0-9.]+)", bound):
        found, wanted = ([int(part) for part in re.findall(r"\d+", text)] for text in (pin, least))
        assert found >= wanted if operator == ">=" else found == wanted


def test_every_install_of_the_makefile_keeps_to_it_and_a_change_installs_again():
    makefile = (ROOT / "Makefile").read_text()
    assert "CONSTRAINTS ?= constraints.txt" in makefile
    assert f"TORCH ?= torch=={PINS['torch']}\n" in makefile
    assert re.search(r"^INSTALL = install .*-c \$\(CONSTRAINTS\)$", makefile, re.MULTILINE)
    assert re.search(r"^KEY = .*\$\(CONSTRAINTS\)", makefile, re.MULTILINE)
    installs = re.findall(r"pip (.*)", "\n".join(re.findall(r"^\t.*-m pip .*", makefile, re.MULTILINE)))
    assert len(installs) >= 9
    installs.remove(
        "install -q --disable-pip-version-check ai-dynamo-runtime==1.6.1"
    )  # wants an older pydantic
    assert all(line.startswith(("$(INSTALL) ", "$(FREEZE) ", "download ")) for line in installs)
    assert all(
        "==" in line for line in re.findall(r"^TABLES := (.*)", makefile, re.MULTILINE)
    )  # downloaded by version

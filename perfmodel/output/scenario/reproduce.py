"""The command that gives an answer again."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from perfmodel.errors import PerfModelError
from perfmodel.load import load_scenario
from perfmodel.spec import catalogue
from perfmodel.spec.scenario import Scenario

SECTIONS = {"model": "models", "cluster": "clusters", "prices": "prices"}
"""Sections that may be given as a catalogue name -> the catalogue's kind."""
LABELS = ("name", "title", "source", "date", "gpu", "term", "notes")
"""Fields that no prediction depends on."""


def step_command(scenario: Scenario) -> tuple[str, bool]:
    """A ``perfmodel step`` command for a scenario, and whether it was checked to give the same scenario.

    A catalogue scenario is compared field by field with what was asked; each difference becomes a ``--set``.
    """
    if scenario.name not in catalogue.names("scenarios"):
        return _command(f"{scenario.name}.yaml", []), False
    sets = _named_sections(scenario)
    try:
        # compared without the other model: what it does not allow may be among the differences
        base = load_scenario(scenario.name, [text for text in sets if not text.startswith("model=")])
        sets += _differences(base, scenario)
        same = load_scenario(scenario.name, sets).hash == scenario.hash
    except PerfModelError:
        same = False
    return _command(scenario.name, sets), same


def report_command(names: Iterable[str], sets: Iterable[str], options: Mapping[str, Any]) -> str:
    """A ``perfmodel report`` command as it was given; options that are None or False are left out, True is a flag."""
    words = ["perfmodel", "report", *names]
    words += [word for text in sets for word in ("--set", text)]
    for name, value in options.items():
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words += [
                name,
                f"{value:.17g}"
                if isinstance(value, float) and float(f"{value:g}") != value
                else _word(value),
            ]
    return shlex.join(words)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def scenario_title(scenario: Scenario) -> str:
    """The scenario's own title, unless overrides may have made it untrue."""
    if scenario.title and "--set" not in step_command(scenario)[0]:
        return scenario.title
    d = scenario.deployment
    return f"{scenario.model.name}: {d.phase} on {scenario.replica_words}"


def _named_sections(scenario: Scenario) -> list[str]:
    """Sections that another catalogue entry was chosen for."""
    base = load_scenario(scenario.name)
    sets = []
    for section, kind in SECTIONS.items():
        name = getattr(scenario, section).name
        if name != getattr(base, section).name and name in catalogue.names(kind):
            sets.append(f"{section}={name}")
    return sets


def _differences(base: Scenario, scenario: Scenario) -> list[str]:
    """Fields in which ``scenario`` differs from ``base``; a model's fields can't be set and are left out."""
    before = dict(_leaves(base.model_dump(mode="json", exclude={"model"})))
    after = dict(_leaves(scenario.model_dump(mode="json", exclude={"model"})))
    return [f"{path}={_yaml(value)}" for path, value in after.items() if before.get(path) != value]


def _leaves(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key not in LABELS:
            yield f"{prefix}{key}", value


def _yaml(value: Any) -> str:
    """A plain value as YAML reads it."""
    if value is None:
        return "null"
    if value == "":
        return "''"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _command(name: str, sets: list[str]) -> str:
    return " ".join(["perfmodel step", shlex.quote(name), *(f"--set {shlex.quote(text)}" for text in sets)])

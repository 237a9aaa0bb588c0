"""A scenario as a YAML file that gives it again."""

import io
from typing import Any

from perfmodel.errors import PerfModelError
from perfmodel.load import build_scenario
from perfmodel.spec import catalogue
from perfmodel.spec.documents import parse_yaml
from perfmodel.spec.scenario import Scenario

LONGEST_LINE = 10_000
"""Texts are not broken: what shows them breaks lines."""


def scenario_yaml(scenario: Scenario) -> tuple[str, bool]:
    """The scenario in full, and whether that text was read back and gave the same scenario (its ``hash``).

    Fields that are None are left out. A catalogue model is named; any other is described as perfmodel counts it, which
    is not a file to load: its config.json is.
    """
    document = scenario.model_dump(mode="json", exclude_none=True)
    known = scenario.model.name in catalogue.names("models")
    if known and catalogue.model(scenario.model.name) == scenario.model:
        document["model"] = scenario.model.name
    text = _yaml(document)
    try:
        same = build_scenario(parse_yaml(text, "scenario")).hash == scenario.hash
    except PerfModelError:
        same = False
    return text, same


def _yaml(document: dict[str, Any]) -> str:
    from ruamel.yaml import YAML  # deferred: slow to import

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = LONGEST_LINE
    out = io.StringIO()
    yaml.dump(_without_empty(document), out)
    return out.getvalue()


def _without_empty(value: Any) -> Any:
    """Mappings without the texts that say nothing."""
    if isinstance(value, dict):
        return {key: _without_empty(one) for key, one in value.items() if one != ""}
    return value

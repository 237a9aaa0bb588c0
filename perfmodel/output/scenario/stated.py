"""A scenario as the file that states it: what can be fed back to every command."""

import io
from collections.abc import Mapping
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.stated import BEFORE, document_of_file

FIRST = ("name", "title", "source", "model", "cluster")
"""Keys that stand first."""


def scenario_text(kind: str, name: str | None) -> str:
    """What a scenario of the catalogue, or of a file with its bases, states, in YAML.

    Raises:
        SpecError: of something else than a scenario, or no such one.
        DataError: a file that can't be read.
    """
    if kind != "scenarios" or name is None:
        raise SpecError("--yaml belongs to show scenarios NAME")
    document, _ = document_of_file(name)
    document.pop(BEFORE, None)
    ordered = {key: document[key] for key in FIRST if key in document}
    return yaml_text(ordered | document)


def yaml_text(document: Mapping[str, Any]) -> str:
    """A mapping in YAML 1.2, as ``spec.documents`` reads it."""
    from ruamel.yaml import YAML  # deferred: slow to import

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # what holds no mappings on one line
    yaml.width = 2**16  # a value is never broken over lines
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    yaml.dump(dict(document), text)
    return text.getvalue()

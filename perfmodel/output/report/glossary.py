"""The words of a report that a reader may not know, each explained once."""

import re
from collections.abc import Mapping
from typing import Any

from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document


def glossary_of(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(word, meaning) of those that the page's texts use, in order of the alphabet."""
    text = " ".join(_texts({key: value for key, value in shown.items() if key != "data"})) + _ALWAYS
    rows = read_document(DATA / "glossary.yaml")
    used = [(name, str(meaning)) for name, meaning in rows.items() if _is_used(str(name), text)]
    return sorted(used, key=lambda row: row[0].casefold())


_ALWAYS = " 80 % interval full batches critical path lever "
"""What the template itself says of every scenario."""


def _is_used(name: str, text: str) -> bool:
    words = re.sub(r" \(.*?\)", "", name).split(", ")
    return any(re.search(rf"(?<!\w){re.escape(word)}s?(?!\w)", text, re.IGNORECASE) for word in words)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [re.sub(r"<[^>]*>", " ", value)]
    if isinstance(value, Mapping):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in _texts(one)]
    own = getattr(value, "label", None)
    return [own, getattr(value, "note", "")] if isinstance(own, str) else []

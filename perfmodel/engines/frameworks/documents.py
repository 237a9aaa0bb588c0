"""What flags of training frameworks mean that set no key: ``data/engines/frameworks/NAME.yaml``."""

import re
from functools import cache
from typing import Any

from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document

FOLDER = DATA / "engines" / "frameworks"


@cache
def framework(name: str) -> dict[str, Any]:
    """``framework`` (its name and the release that was read), ``sources``, ``unmodelled`` and ``without_effect``."""
    document = read_document(FOLDER / f"{name}.yaml")
    for source in document["sources"].values():
        assert re.match("https://", source), f"{name}.yaml: {source}: a source is an address"
    return document

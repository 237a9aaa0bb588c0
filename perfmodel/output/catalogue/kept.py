"""What ``perfmodel show models`` lists, kept as it was counted: to read every config and family for it takes ten times
as long as to print it.

``data/model_rows.json`` has the rows and a hash of the files that they were counted from (``make model-rows`` writes
it, a test counts anew). Where any of those files is another one, nothing is kept and the rows are counted.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[2] / "data"
FILE = DATA / "model_rows.json"
SOURCES = ("models", "families")
"""Folders that the rows are counted from."""


def kept_rows() -> list[dict[str, Any]] | None:
    """The rows; None: they are of other files than those that are there, or can't be read."""
    try:
        kept = json.loads(FILE.read_bytes())
        return kept["rows"] if kept["of"] == sources_hash() else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def sources_hash() -> str:
    """SHA-256 of names and content of all files that the rows are counted from."""
    found = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((DATA / folder).iterdir()):
            content = path.read_bytes()
            found.update(f"{folder}/{path.name} {len(content)}\n".encode())
            found.update(content)
    return found.hexdigest()


if __name__ == "__main__":
    from perfmodel.output.catalogue.models import model_rows

    FILE.write_text(json.dumps({"of": sources_hash(), "rows": model_rows()}, indent=1) + "\n")

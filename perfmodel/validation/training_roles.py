"""Which published training rows may set a constant (``fit``) and which judge (``check``).

``data/published/training_roles.csv`` was committed before any constant was fitted; a test applies the rule again. A
row's group is ``model|system|precision|layout``, layout being TP, PP, CP, VP and EP as printed, or SimuMax's name of
the case; it is ``check`` if the first hex digit of its SHA-256 is 8 to f. DeepSeek-V3's own run, LongCat-Flash and
the A/B of overlapped exchanges are ``check`` by rule.
"""

import csv
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache

from perfmodel.spec.catalogue import DATA

FOLDER = DATA / "published"
ROLES = FOLDER / "training_roles.csv"
BRIDGE, MEASURED, SIMUMAX = "training.csv", "training_measurements.csv", "training_simumax_b200.csv"
ZOO = "training_zoo.csv"
FIELDS = ("file", "id", "group", "role", "why")
NAMED = ("DeepSeek-V3", "Qwen3-30B-A3B")

Record = Mapping[str, str]


def read(file: str) -> list[dict[str, str]]:
    """The records of a file of published rows, each with an ``id``: its place in the file, counted from 1."""
    with (FOLDER / file).open(newline="", encoding="utf-8") as stream:
        return [{**row, "id": f"{number}"} for number, row in enumerate(csv.DictReader(stream), 1)]


def role_of(file: str, record: Record) -> tuple[str, str, str]:
    """(group, role, why)."""
    if file == SIMUMAX:
        group = record["case"]
    else:
        layout = " ".join(f"{key.upper()}{record[key]}" for key in ("tp", "pp", "cp", "vp", "ep"))
        group = "|".join((record["model"], record["system"], record["precision"], layout))
        if record["model"] in NAMED:
            return group, "check", "named target"
    digit = hashlib.sha256(group.encode()).hexdigest()[0]
    return group, "check" if digit in "89abcdef" else "fit", f"sha256 begins with {digit}"


def assigned() -> Iterator[dict[str, str]]:
    """The roles file's rows, by the rule."""
    for file in (BRIDGE, MEASURED, SIMUMAX, ZOO):
        for record in read(file):
            group, role, why = role_of(file, record)
            yield dict(zip(FIELDS, (file, record["id"], group, role, why), strict=True))


@cache
def committed() -> dict[tuple[str, str], str]:
    """Role by (file, id)."""
    with ROLES.open(newline="", encoding="utf-8") as stream:
        return {(row["file"], row["id"]): row["role"] for row in csv.DictReader(stream)}


def main() -> None:
    """Write the roles file."""
    with ROLES.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(assigned())


if __name__ == "__main__":
    main()

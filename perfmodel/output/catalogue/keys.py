"""Every key of a scenario, as ``perfmodel show keys`` prints it and docs/scenarios.md lists it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from perfmodel.engines.profile import leaves, names, profile
from perfmodel.engines.versions import is_before
from perfmodel.errors import SpecError
from perfmodel.spec.keys import key_paths, unknown_key
from perfmodel.spec.reference import Key, keys

BEGIN, END = "<!-- keys: made by docs/keys_table.py -->", "<!-- end of keys -->"
LONG = 40
"""Characters of a value that a table shows."""
MOST_VALUES = 3
"""Values of one engine that a table shows; of more their ends."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What an engine sets a key to."""

    engine: str
    when: str
    """Conditions in words; empty: always."""
    value: Any
    source: str
    fitted: bool
    """Whether it is a constant fitted on published rows, which a refit changes."""


def key_rows(path: str = "") -> list[dict[str, Any]]:
    """The keys from a path on (empty: all), with each engine's default.

    Raises:
        SpecError: no key begins so; the message says which may be meant.
    """
    path = path.removeprefix("scenario.").rstrip(".")
    found = [key for key in keys() if not path or key.path == path or key.path.startswith(f"{path}.")]
    if not found:
        holder = _holder(path)
        if holder is None:
            raise SpecError(unknown_key(path))
        found = [holder]
    return [_row(key) for key in found]


def key_values(path: str) -> dict[str, Any]:
    """One key in full: an engine's defaults with when they hold and where that is documented; of a section its keys.

    Raises:
        SpecError: no such key.
    """
    first, *inside = key_rows(path)
    values = {key: value for key, value in first.items() if value not in ("", None)}
    values.pop("engines", None)
    rules = _rules().get(_as_told(first["key"]), [])
    if rules:
        values["engines"] = {
            ", ".join(filter(None, (one.engine, one.when))): f"{_shown(one.value)} ({one.source})"
            for one in rules
        }
    if inside:
        values["keys"] = {row["key"]: _short(row) for row in inside}
    return values


def keys_markdown() -> str:
    """The tables of docs/scenarios.md, a section's keys each."""
    lines = [BEGIN, ""]
    sections: dict[str, list[dict[str, Any]]] = {}
    for row in key_rows():
        head = row["key"].partition(".")[0]
        sections.setdefault(head if "." in row["key"] or row["type"].endswith("section") else "", []).append(
            row
        )
    for head, rows in sections.items():
        inside = [row for row in rows if row["key"] != head]
        told = next((row["meaning"] for row in rows if row["key"] == head), "Keys outside sections.")
        lines += [f"### `{head}`" if head else "### A scenario", "", told, ""]
        if not inside:
            continue
        engines = any(row["engines"] for row in inside)
        titles = ["key", "type", "unit", "default", *(["engines set"] if engines else []), "meaning"]
        lines += [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
        for row in inside:
            cells = [f"`{row['key']}`", row["type"], row["unit"], _code(row["default"])]
            cells += [row["engines"]] if engines else []
            lines.append(
                f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in [*cells, row['meaning']])} |"
            )
        lines.append("")
    return "\n".join([*lines, END])


def _row(key: Key) -> dict[str, Any]:
    return {
        "key": key.path,
        "type": key.type,
        "unit": key.unit,
        "default": key.default,
        "engines": _by_engine(key.path),
        "meaning": key.meaning,
    }


def _holder(path: str) -> Key | None:
    """The key that a path leads into, if a scenario has the path: of a distribution, or of a section like another."""
    if path not in key_paths():
        return None
    above = path.rpartition(".")[0]
    return next((key for key in keys() if key.path == above), _holder(above) if above else None)


def _short(row: Mapping[str, Any]) -> str:
    """A key in one line."""
    default = "" if row["default"] in ("-", "required") else f", default {row['default']}"
    engines = f", {row['engines']}" if row["engines"] else ""
    unit = f" ({row['unit']})" if row["unit"] else ""
    return f"{row['type']}{unit}{default}{engines}: {row['meaning']}"


def _code(text: str) -> str:
    return text if text in ("-", "required") else f"`{text}`"


@cache
def _rules() -> dict[str, list[Setting]]:
    """Key path -> what every engine, in the newest version that was read, sets it to."""
    found: dict[str, list[Setting]] = {}
    for name in names():
        engine = profile(name)
        for number, rule in enumerate(engine.rules):
            when = dict(rule.get("when") or {})
            since, before = when.pop("since", None), when.pop("before", None)
            if (since and is_before(engine.version, since)) or (
                before and not is_before(engine.version, before)
            ):
                continue
            words = ", ".join(f"{key} {_range(value)}" for key, value in when.items())
            for path, value in leaves(rule["set"]):
                fitted = number >= len(engine.rules) - engine.num_fitted
                found.setdefault(path, []).append(Setting(name, words, value, rule["source"], fitted))
    return found


def _range(value: Any) -> str:
    """A condition in words."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(one, int) for one in value):
        low, high = value
        return f"from {low}" if high >= 10**6 else f"{low} to {high}"
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def _as_told(path: str) -> str:
    """Where engines' rules name a key of prefill replicas."""
    for side in ("prefill.deployment.", "prefill.serving."):
        if path.startswith(side):
            return path.removeprefix("prefill.")
    return path


def _by_engine(path: str) -> str:
    """What engines set a key to, in a table's cell."""
    each: dict[str, list[str]] = {}
    for one in _rules().get(path, []):
        own, text = each.setdefault(one.engine, []), "fitted" if one.fitted else _shown(one.value)
        if text not in own:
            own.append(text)
    return "; ".join(
        f"{engine} {' or '.join(values) if len(values) <= MOST_VALUES else f'{values[0]} ... {values[-1]}'}"
        for engine, values in each.items()
    )


def _shown(value: Any) -> str:
    """A value in YAML, cut where it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return (
        text
        if len(text) <= LONG
        else f"{len(value)} values"
        if isinstance(value, list)
        else text[:LONG] + "..."
    )

"""Command lines in their plain form, read without typer, which takes longer to import than some answers take.

Plain are a command of :data:`COMMANDS`, its arguments, and whole long options, all of printable ASCII, with values
behind a space. Anything else is typer's: other commands and options, help, completion, and every mistake.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """Parameters of a command's function, by how they are written."""

    least: int  # arguments that must be there
    arguments: tuple[str, ...]
    flags: Mapping[str, str]  # option -> parameter
    texts: Mapping[str, str]  # repeatable option with a value -> parameter


COMMANDS = {
    "step": Command(1, ("scenario",), {"--json": "json", "--ops": "ops", "--why": "why"}, {"--set": "set_"}),
    "show": Command(1, ("kind", "name"), {"--json": "json", "--yaml": "yaml"}, {"--set": "set_"}),
}


def plainly_asked(words: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """The command and what its function is called with; None: typer has to read this."""
    if not words or words[0] not in COMMANDS or os.name == "nt":  # where typer expands names of files
        return None
    if "_PERFMODEL_COMPLETE" in os.environ or not all(map(_is_simple, words)):
        return None
    command = COMMANDS[words[0]]
    given: list[str] = []
    found: dict[str, Any] = {}
    rest = iter(words[1:])
    for word in rest:
        if word in command.flags:
            found[command.flags[word]] = True
        elif word in command.texts:
            value = next(rest, "-")
            if value.startswith("-"):
                return None
            found.setdefault(command.texts[word], []).append(value)
        elif word.startswith("-"):
            return None
        else:
            given.append(word)
    if not command.least <= len(given) <= len(command.arguments):
        return None
    return words[0], {**dict(zip(command.arguments, given, strict=False)), **found}


def _is_simple(word: str) -> bool:
    return bool(word) and word.isascii() and word.isprintable()

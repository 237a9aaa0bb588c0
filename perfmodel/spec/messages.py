"""Words of messages: a bad description's errors, one line each, and numbers of things."""

import re
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError


def describe(error: ValidationError, unknown_key: Callable[[str], str] | None = None) -> str:
    """A pydantic error in one line per problem: field, value, what is allowed; ``unknown_key`` says what of a key that
    there is not, where more is known than that.
    """
    lines: list[str] = []
    kinds: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False)[:3]:
        place = [str(part) for part in problem["loc"]]
        union = next((i for i, part in enumerate(place) if part.startswith(("literal[", "tuple["))), None)
        if union is not None:  # a word, or a list of words: one line for both
            field = ".".join(place[:union])
            allowed = ", ".join(re.findall(r"'([^']*)'", place[union]))
            kinds.setdefault(field, []).append(
                f"a list of {allowed}" if place[union].startswith("tuple[") else allowed
            )
            if len(kinds[field]) == 1:
                lines.append(f"{field} = {shown(problem['input'])}: must be ")
            continue
        field = ".".join(part for part in place if part not in ("mla", "gqa"))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error":
            lines.append(f"{field}: {message}" if field and not message.startswith(field) else message)
        elif problem["type"] == "extra_forbidden":
            keys = ".".join(part for part in problem["loc"] if isinstance(part, str))
            lines.append(unknown_key(keys) if unknown_key else f"{field}: unknown key")
        elif problem["type"] in ("model_type", "model_attributes_type"):
            lines.append(f"{field} = {shown(problem['input'])}: must be a mapping of keys to values")
        elif problem["type"] in ("tuple_type", "list_type"):
            lines.append(f"{field} = {shown(problem['input'])}: must be a list")
        elif problem["type"] == "missing":
            lines.append(f"{field}: missing, and has no default")
        else:
            lines.append(f"{field} = {shown(problem['input'])}: {message[:1].lower()}{message[1:]}")
    for field, allowed_kinds in kinds.items():
        said = " or ".join(dict.fromkeys(allowed_kinds))
        lines = [f"{line}{said}" if line.startswith(f"{field} = ") else line for line in lines]
    more = error.error_count() - len(lines) - sum(len(one) - 1 for one in kinds.values())
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def number_of(number: float, word: str) -> str:
    """A number of things: ``1 request``, ``0.5 requests``, ``1,000 requests``."""
    text = f"{number:,.0f}" if float(number).is_integer() else f"{number:,.6g}"
    return f"{text} {word}{'' if number == 1 else 's'}"


def shown(value: Any) -> str:
    """A value as an error quotes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Mistakes in words: a bad description's errors, one line each."""

from typing import Any

from pydantic import ValidationError


def describe(error: ValidationError) -> str:
    """A pydantic error in one line per problem: field, value, what is allowed."""
    lines = []
    for problem in error.errors(include_url=False)[:3]:
        field = ".".join(str(part) for part in problem["loc"] if part not in ("mla", "gqa"))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error":
            lines.append(f"{field}: {message}" if field and not message.startswith(field) else message)
        elif problem["type"] == "extra_forbidden":
            lines.append(f"{field}: unknown key (value {shown(problem['input'])}); see docs/scenarios.md")
        elif problem["type"] == "missing":
            lines.append(f"{field}: missing, and has no default")
        else:
            lines.append(f"{field} = {shown(problem['input'])}: {message[:1].lower()}{message[1:]}")
    more = error.error_count() - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def shown(value: Any) -> str:
    """A value as an error quotes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

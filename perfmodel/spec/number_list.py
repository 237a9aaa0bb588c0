"""Numbers with commas between, as an option of the command line takes them."""

import re
from collections.abc import Callable
from typing import TypeVar

from perfmodel.errors import SpecError
from perfmodel.spec.messages import shown

NumberT = TypeVar("NumberT", int, float)
MOST_NUMBERS = 64
MOST = 1e18
_PLAIN = re.compile(
    r"[+-]?(?:[0-9]{1,400}\.?[0-9]{0,400}|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?|[+-]?(?:nan|inf)"
)


def plain_number(text: str) -> float:
    """``float`` of what all programs read as one: not 5_0, not digits of other scripts.

    Raises:
        ValueError: it is none.
    """
    if not _PLAIN.fullmatch(text.strip()):
        raise ValueError(f"{shown(text)} is no number")
    return float(text)


def number_list(option: str, text: str, kind: Callable[[str], NumberT]) -> list[NumberT]:
    """``1,2,3`` as numbers.

    Raises:
        SpecError: something else, or more than MOST_NUMBERS.
    """
    parts = text.split(",")
    if len(parts) > MOST_NUMBERS:
        raise SpecError(f"{option}: {len(parts)} numbers; at most {MOST_NUMBERS}")
    found = []
    for part in parts:
        said = f"{option} {shown(text)}: {shown(part.strip())}"
        try:
            plain_number(part)
            number = kind(part.strip())
        except ValueError as error:
            what = "whole numbers" if kind is int else "numbers"
            raise SpecError(f"{said} must be {what} with commas between") from error
        if not abs(number) <= MOST:
            raise SpecError(f"{said} must be finite, and at most {MOST:g}")
        found.append(number)
    return found

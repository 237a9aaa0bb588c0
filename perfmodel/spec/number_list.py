"""Numbers with commas between, as an option of the command line takes them."""

import math
from collections.abc import Callable
from typing import TypeVar

from perfmodel.errors import SpecError

NumberT = TypeVar("NumberT", int, float)
MOST_NUMBERS = 64


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
        try:
            number = kind(part.strip())
        except ValueError as error:
            what = "whole numbers" if kind is int else "numbers"
            raise SpecError(
                f"{option} {text!r}: {part.strip()!r} must be {what} with commas between"
            ) from error
        if not math.isfinite(number):
            raise SpecError(f"{option} {text!r}: {part.strip()!r} must be finite")
        found.append(number)
    return found

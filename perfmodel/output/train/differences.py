"""A difference between two training tokens in parts, in a unit that can be read: dollars per million, billion or
trillion tokens, to a ten-thousandth of the whole.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfmodel.numeric import comparable

UNITS = (("million", 1.0), ("billion", 1e3), ("trillion", 1e6))
"""Tokens, and how many times a million they are."""
LEAST_USD = 10.0
"""Of the dearer token, in its unit."""
DIGITS = 4
"""Of the dearer token; parts have as many decimals."""


@dataclass(frozen=True, slots=True)
class Told:
    """A difference, ready to be printed."""

    unit: str
    """``$ per billion tokens``."""
    rows: tuple[tuple[str, str, str, str], ...]
    """(part, a, b, difference), parts that are nothing at these digits left out, the last one the whole."""


def told(why: Mapping[str, Any], most: int | None = None) -> Told:
    """A difference (``usd_a``, ``usd_b``, ``rows``: USD per million tokens) in words.

    Args:
        why: as :meth:`perfmodel.explore.train_difference.Difference.as_dict` has it.
        most: parts that are told apart; the others are one row. None: all.
    """
    dearer = max(abs(why["usd_a"]), abs(why["usd_b"]))
    tokens, times = next((one for one in UNITS if dearer * one[1] >= LEAST_USD), UNITS[-1])
    whole = math.floor(math.log10(dearer * times)) + 1 if dearer else 1
    decimals = max(0, DIGITS - whole)

    def amounts(one: Mapping[str, Any]) -> tuple[float, float, float]:
        a, b, change = (round(one[key] * times, decimals) + 0.0 for key in ("usd_a", "usd_b", "delta_usd"))
        return a, b, change

    def row(name: str, of: Sequence[float]) -> tuple[str, str, str, str]:
        a, b = (f"{'-' if value < 0 else ''}${abs(value):,.{decimals}f}" for value in of[:2])
        change = f"{'-' if of[2] < 0 else '+'}${abs(of[2]):,.{decimals}f}" if of[2] else "0"
        return name, a, b, change

    rows = list(why["rows"])
    rest = rows[most:] if most is not None else []
    found = [(one["component"].replace("_", " "), amounts(one)) for one in rows[: len(rows) - len(rest)]]
    if rest:
        sums = {key: sum(one[key] for one in rest) for key in ("usd_a", "usd_b", "delta_usd")}
        found.append((f"{len(rest)} others", amounts(sums)))
    same = comparable(why["usd_a"]) == comparable(why["usd_b"])  # but for the order in which parts were added
    change = 0.0 if same else why["usd_b"] - why["usd_a"]
    whole_row = amounts({"usd_a": why["usd_a"], "usd_b": why["usd_b"], "delta_usd": change})
    return Told(
        f"$ per {tokens} tokens",
        (*(row(name, of) for name, of in found if any(of)), row("all", whole_row)),
    )

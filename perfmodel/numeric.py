"""Arithmetic that works on one scenario and on a hundred thousand alike."""

import functools
from typing import Any, TypeAlias

import numpy as np

Num: TypeAlias = float
"""A float, or a numpy array with one value per scenario (or per rank): formulas work element by element.

Typed as float because that is how every formula reads; :func:`maximum` and friends accept both at run time.
"""


def maximum(first: Num, *others: Num) -> Num:
    """Element-wise maximum of floats or arrays; a float stays a float (numpy scalars are slow)."""
    values: tuple[Any, ...] = (first, *others)
    for value in values:
        if isinstance(value, np.ndarray):
            return functools.reduce(np.maximum, values)  # type: ignore[no-any-return]
    return max(first, *others)


def minimum(first: Num, *others: Num) -> Num:
    """Element-wise minimum of floats or arrays."""
    return -maximum(-first, *(-other for other in others))


def where(condition: Any, yes: Num, no: Num) -> Num:
    """``yes`` where ``condition`` holds, else ``no``; a plain bool stays a plain choice."""
    if isinstance(condition, (bool, np.bool_)):
        return yes if condition else no
    return np.where(condition, yes, no)  # type: ignore[return-value]


def some(value: Num) -> bool:
    """Whether a number, or any of an array's, is not 0; numpy's own answer takes thirty times as long for a number."""
    return value != 0.0 if isinstance(value, (float, int)) else bool(np.any(value))


def comparable(value: float) -> float:
    """A float to ten digits: for choices and orders that a processor's last digits must not decide."""
    return float(f"{value:.9e}")


def ceil_div(a: Num, b: Num) -> Num:
    """Smallest whole number not below a / b."""
    return -(-a // b)

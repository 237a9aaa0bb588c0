"""Code for one scenario, asked about several: what comes out is what each gets alone, in few questions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.numeric import maximum, where
from perfmodel.several import Differ, Several, alike

NUMBERS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 64)), min_size=1, max_size=30)


def priced(a, b):
    """A formula with everything that asks a question: if, max, int, float, round, a cache's key, a reduction."""
    total = a * b + 0.5 * b
    if a > 3 and b % 2:
        total = total * 3.0
    total = max(total, 10) + maximum(total, 20.0) + where(b > 8, 1.0, a)
    if a == 2:
        total += int(b) * math.log(float(b)) + sum(range(b))
    if a == 4:
        total += {b: 1.0}[b] + round(b / 3)
    if a == 5 and np.any(b > 30):
        total += np.mean(b) + np.size(b) + np.ndim(b)
    return total


@given(NUMBERS)
@settings(max_examples=60, deadline=None)
def test_each_gets_what_it_gets_alone(numbers):
    columns = np.array(numbers).T
    asked = []

    def ask(members):
        asked.append(members)
        return priced(*(Several.of(column[members]) for column in columns))

    found = np.full(len(numbers), np.nan)
    for members, value in alike(ask, np.arange(len(numbers))):
        found[members] = value
    assert found == pytest.approx([priced(a, b) for a, b in numbers], rel=1e-14)


def test_those_that_answer_alike_are_asked_once():
    numbers = np.arange(1, 101)
    asked = []

    def ask(members):
        asked.append(len(members))
        own = Several.of(numbers[members])
        return own * 2.0 if own > 50 else own * 3.0

    found = alike(ask, np.arange(100))
    assert sorted(len(members) for members, _ in found) == [50, 50]
    assert asked == [100, 50, 50]


def test_one_number_for_all_is_a_plain_one():
    assert Several.of([4, 4, 4]) == 4
    assert type(Several.of([4, 4, 4])) is int
    with pytest.raises(Differ) as differ:
        hash(Several.of([4, 5]))
    assert differ.value.answers.tolist() == [4, 5]


def test_what_derives_from_several_is_several():
    own = Several.of([1.0, 2.0])
    for derived in (own + 1, np.maximum(own, 1.5), np.where(own > 1.5, own, 0.0), own > 1.5):
        assert isinstance(derived, Several)

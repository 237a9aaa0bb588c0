"""Code written for one scenario, asked about several at once: arrays of numbers that answer as one where they agree.

A :class:`Several` goes through every formula element by element. Where the code asks a question of it (``if``, ``max``,
``int``) it answers for all, or raises :class:`Differ` with what each would have answered;
:func:`alike` then asks once more for those that answer alike. So nothing that is asked need know that it is asked about
several, and what comes out is what each would have got alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Found = TypeVar("Found")
Ints = NDArray[np.intp]


class Differ(Exception):  # no error: a question that has several answers
    """A question to which several scenarios answer differently."""

    def __init__(self, answers: Any) -> None:
        super().__init__("scenarios differ: ask through perfmodel.several.alike")
        self.answers = np.asarray(answers)
        """(scenarios,)."""


class Several(np.ndarray[Any, Any]):
    """(scenarios,): one number each."""

    @staticmethod
    def of(values: Any) -> Any:
        """Of a sequence of numbers; a plain one where all are the same."""
        found = np.asarray(values)
        return found.flat[0].item() if (found == found.flat[0]).all() else found.view(Several)

    def common(self) -> Any:
        """The number that all have.

        Raises:
            Differ: there are two.
        """
        values = np.asarray(self)
        first = values.flat[0]
        if (values != first).any():
            raise Differ(values)
        return first.item()

    def __bool__(self) -> bool:
        return bool(self.astype(bool).view(Several).common())

    def __int__(self) -> int:
        return int(self.common())

    def __index__(self) -> int:
        return int(self.common())

    def __float__(self) -> float:
        return float(self.common())

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.common(), digits)

    def __format__(self, how: str) -> str:
        """In words, of which nobody asks when several are asked about."""
        return "several"

    def __hash__(self) -> int:  # type: ignore[override]
        """Nothing that is kept is kept for several.

        Raises:
            Differ: always.
        """
        raise Differ(np.asarray(self))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in OF_ONE:
            return OF_ONE[func]
        if func in (np.any, np.all):
            return bool(args[0])
        if func in REDUCTIONS:
            return func(args[0].common(), *args[1:], **kwargs)
        found = super().__array_function__(func, types, args, kwargs)
        return found.view(Several) if type(found) is np.ndarray else found


OF_ONE: Mapping[Any, int] = {np.ndim: 0, np.size: 1}
REDUCTIONS = (np.mean, np.max, np.min, np.sum)
"""What reduces the numbers of one scenario to one is asked about the one that all have."""


def alike(ask: Callable[[Ints], Found], members: Ints) -> list[tuple[Ints, Found]]:
    """What ``ask`` finds for all members, in as few questions as have one answer each.

    Args:
        ask: takes some of the members; may raise :class:`Differ` with an answer for each of them.
        members: whom it is about.
    """
    left, found = [members], []
    while left:
        own = left.pop()
        try:
            found.append((own, ask(own)))
        except Differ as differ:
            answers = np.unique(differ.answers)
            if len(answers) == 1:  # alike, but asked where an array won't do
                left += np.split(own, len(own))
            else:
                left += [own[differ.answers == answer] for answer in answers]
    return found

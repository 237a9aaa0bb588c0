"""Lists of modules in quantization keys: which names they mean."""

import fnmatch
import re
from collections.abc import Sequence

from perfmodel.errors import SpecError
from perfmodel.spec.models.fields import show

_NUMBERS = re.compile(r"(?<=\.)\d+(?=\.)")
"""Parts of names that are numbers."""


class ModuleNames:
    """A list of modules: names (of a module, of what it is inside of, or of its last parts), shell patterns, and
    regular expressions after ``re:``.
    """

    def __init__(self, listed: Sequence[str]) -> None:
        self._plain: dict[str, list[str]] = {}
        self._of_layer: dict[str, list[re.Pattern[str]]] = {}
        for one in dict.fromkeys(listed):
            if "*" not in one and not one.startswith("re:"):
                self._plain.setdefault(_number(one), []).append(f".{one}.")
                continue
            number = re.search(r"\.(\d+)(?:\.|$)", one) if not one.startswith("re:") else None
            self._of_layer.setdefault(number[1] if number else "", []).append(_compiled(one))

    def holds_any(self, names: Sequence[str]) -> bool:
        """Whether the list means one of these modules, which are all of one layer; its number comes first in them."""
        inside = "".join(f"\n.{name}." for name in names)
        numbers = _NUMBERS.findall(inside)
        for number in dict.fromkeys(("", *numbers)):
            if any(one in inside for one in self._plain.get(number, ())):
                return True
        patterns = [*self._of_layer.get("", ()), *self._of_layer.get(numbers[0], ())]
        return any(pattern.match(name) for pattern in patterns for name in names)


def _number(name: str) -> str:
    """The first number among a name's parts, or nothing: what a name that holds it must have, too."""
    return next((part for part in name.split(".") if part.isdecimal()), "")


def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern that matches a module's name: a shell pattern means all inside of what it matches, too."""
    try:
        if pattern.startswith("re:"):
            return re.compile(pattern[3:])
        return re.compile(f"(?:{fnmatch.translate(pattern)[:-2]})(?:\\..*)?\\Z")
    except re.error as error:
        raise SpecError(f"quantization_config: {show(pattern)} is no pattern of names: {error}") from error

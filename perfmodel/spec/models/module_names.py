"""Lists of modules in quantization keys: which names they mean."""

import fnmatch
import re
from collections.abc import Sequence

from perfmodel.errors import SpecError
from perfmodel.spec.models.fields import show


class ModuleNames:
    """A list of modules: names (of a module, of what it is inside of, or of its last parts), shell patterns, and
    regular expressions after ``re:``.
    """

    def __init__(self, listed: Sequence[str]) -> None:
        self._plain = {one for one in listed if "*" not in one and not one.startswith("re:")}
        self._of_layer: dict[str, list[re.Pattern[str]]] = {}
        for one in listed:
            if one in self._plain:
                continue
            number = re.search(r"\.(\d+)(?:\.|$)", one) if not one.startswith("re:") else None
            self._of_layer.setdefault(number[1] if number else "", []).append(_compiled(one))

    def holds(self, name: str) -> bool:
        """Whether the list means a module."""
        parts = name.split(".")
        ends = range(1, len(parts) + 1)
        if self._plain and any(".".join(parts[i:j]) in self._plain for j in ends for i in range(j)):
            return True
        layer = next(part for part in parts if part.isdecimal())
        patterns = [*self._of_layer.get("", ()), *self._of_layer.get(layer, ())]
        return any(pattern.match(name) for pattern in patterns)


def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern that matches a module's name: a shell pattern means all inside of what it matches, too."""
    try:
        if pattern.startswith("re:"):
            return re.compile(pattern[3:])
        return re.compile(f"(?:{fnmatch.translate(pattern)[:-2]})(?:\\..*)?\\Z")
    except re.error as error:
        raise SpecError(f"quantization_config: {show(pattern)} is no pattern of names: {error}") from error

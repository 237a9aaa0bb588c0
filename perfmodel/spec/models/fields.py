"""Typed reading of a Hugging Face ``config.json``: one name per quantity, nothing overlooked.

Families call the same quantity differently (:data:`~perfmodel.spec.models.keys.ALIASES`). :class:`Fields` reads each by
whatever alias the config states, checks its type and range, and remembers what was read, so that a key which nobody
read and which looks like a change of architecture can be refused: an unknown switch must never be taken for its
default. A key with dots (``linear_attn_config.num_heads``) lies in a nested mapping.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from perfmodel.errors import SpecError, UnsupportedError
from perfmodel.spec.models.keys import ALIASES, HARMLESS, is_off, suspicious, tells

PER_LAYER: Final = "per_layer_config"
MAX_LAYERS: Final = 10_000
MAX_COUNT: Final = 10**6
MAX_TOKENS: Final = 10**9


def show(value: Any) -> str:
    """A value as an error message prints it, cut at 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list inside itself
        return f"<{type(value).__name__} too large to print>"
    return text if len(text) <= 60 else f"{text[:57]}..."


UNKNOWN = "a key that perfmodel does not know in this family"
"""By which the message is known."""


class Fields:
    """The keys of one config, read with types and ranges; errors name the key and the value."""

    def __init__(self, config: Mapping[str, Any], model_type: str) -> None:
        """Reads from ``config``; ``model_type`` is for messages."""
        self.config = config
        self.model_type = model_type
        self.counted_by = "the number of layers"
        """What says how long a list of layers is: for messages."""
        self._read: set[str] = set()

    def at_layer(self, index: int) -> "Fields":
        """The same keys with what ``per_layer_config`` (by number, with zeros before it) sets over them in one layer.

        Raises:
            SpecError: it is no mapping of mappings.
        """
        overrides = self.config.get(PER_LAYER)
        self._read.add(PER_LAYER)
        if not overrides:
            return self
        if not isinstance(overrides, Mapping) or not all(
            isinstance(one, Mapping) for one in overrides.values()
        ):
            raise self.wrong(PER_LAYER, overrides, "a mapping of a layer's number to keys")
        own: Mapping[str, Any] = next(
            (one for name, one in overrides.items() if (str(name).lstrip("0") or "0") == str(index)), {}
        )
        changed = Fields({**self.config, **own}, self.model_type)
        changed._read, changed.counted_by = self._read, self.counted_by
        return changed

    def has(self, key: str) -> bool:
        """Whether the config states ``key``, by any alias, as something else than null; marks it as read."""
        return bool(self._stated(key))

    def integer(self, key: str, *, low: int = 1, high: int = MAX_COUNT) -> int:
        """An integer in [low, high].

        Raises:
            SpecError: missing, of another type, out of range, or aliases that disagree.
        """
        found = self._stated(key)
        for alias, value in found:
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise self.wrong(alias, value, f"an integer from {low} to {high}")
        return int(self._agreed(key, found))

    def number(self, key: str, *, high: float) -> float:
        """A positive finite number up to ``high``.

        Raises:
            SpecError: missing, of another type, out of range, or aliases that disagree.
        """
        found = self._stated(key)
        for alias, value in found:
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            if not numeric or not 0 < value <= high:  # false for NaN
                raise self.wrong(alias, value, f"a number above 0 and up to {high:g}")
        return float(self._agreed(key, found))

    def flag(self, key: str) -> bool:
        """True or false.

        Raises:
            SpecError: missing, another type, or aliases that disagree.
        """
        found = self._stated(key)
        for alias, value in found:
            if not isinstance(value, bool):
                raise self.wrong(alias, value, "true or false")
        return bool(self._agreed(key, found))

    def scalar(self, key: str) -> bool | int | str | None:
        """A switch: true, false, an integer or a text as the config states it; None where it does not.

        Raises:
            SpecError: another type, or aliases that disagree.
        """
        found = self._stated(key)
        for alias, value in found:
            if not isinstance(value, bool | int | str):
                raise self.wrong(alias, value, "true, false, an integer or a word")
        return None if not found else self._agreed(key, found)

    def items(self, key: str, *, length: int | None = None) -> list[Any] | None:
        """A list, of ``length`` items where that is given; None where the config has none.

        Raises:
            SpecError: not a list, or not of that length.
        """
        for alias, value in self._stated(key):
            if not isinstance(value, list) or length not in (None, len(value)):
                many = "" if length is None else f" of {length} items, one per layer ({self.counted_by})"
                raise self.wrong(alias, value, f"a list{many}")
            return list(value)
        return None

    def text(self, key: str) -> str | None:
        """A text; None where the config has none.

        Raises:
            SpecError: another type.
        """
        for alias, value in self._stated(key):
            if not isinstance(value, str):
                raise self.wrong(alias, value, "a text")
            return value
        return None

    def alias(self, key: str) -> str:
        """The name by which the config states ``key``; the key itself where it does not."""
        found = self._stated(key)
        return found[0][0] if found else key

    def mark_read(self, keys: Sequence[str]) -> None:
        """Marks keys as known."""
        for key in keys:
            self._read.update(ALIASES.get(key, (key,)))

    def missing(self, key: str, *others: str) -> SpecError:
        """The error for a key that must be there, or one of others in its place."""
        names = " or ".join(ALIASES.get(key, (key,))[:3])
        beside = f", and so is {', '.join(others)}" if others else ""
        if (
            "ForConditionalGeneration" in str(self.config.get("architectures"))
            or "vision_config" in self.config
        ):
            beside += "; a multimodal config keeps it in text_config"
        return SpecError(f"model config ({self.model_type}): {names} is missing{beside}")

    def wrong(self, key: str, value: Any, allowed: str) -> SpecError:
        """The error for a value that is not allowed."""
        return SpecError(f"model config ({self.model_type}): {key} = {show(value)} must be {allowed}")

    def not_modelled(self, key: str, value: Any, allowed: str) -> UnsupportedError:
        """The error for a value that is right but not modelled."""
        return UnsupportedError(
            f"{key} = {show(value)} is not modelled for {self.model_type}; allowed: {allowed}"
        )

    def unread(self) -> dict[str, Any]:
        """What nobody has read and nobody needs to, by key (nested ones with dots): not null, false, zero or empty."""
        return dict(self._unread(self.config, ""))

    def refuse_unread(self) -> None:
        """Refuses what nobody has read and looks like another architecture.

        Raises:
            UnsupportedError: such a key is set to something else than null, false, zero or empty.
        """
        strange = [(tells(key), key, value) for key, value in self.unread().items() if suspicious(key)]
        if not strange:
            return
        (_, meaning), key, value = min(strange, key=lambda one: one[0][0])
        others = f" (beside {len(strange) - 1} more: {', '.join(one[1] for one in strange if one[1] != key)})"
        raise UnsupportedError(
            f"model config ({self.model_type}): {key} = {show(value)} is {UNKNOWN}: {meaning}"
            f"{others if len(strange) > 1 else ''}; remove it if it has no effect, else the family's "
            "file needs a rule for it (docs/models.md)"
        )

    def _unread(self, mapping: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        for key, value in mapping.items():
            name = f"{prefix}{key}"
            if name in self._read or key in HARMLESS or is_off(value):
                continue
            if isinstance(value, Mapping) and any(one.startswith(f"{name}.") for one in self._read):
                found += self._unread(value, f"{name}.")
            else:
                found.append((name, value))
        return found

    def _stated(self, key: str) -> list[tuple[str, Any]]:
        """Every alias of ``key`` that is not null, with its value; marks all as read."""
        aliases = ALIASES.get(key, (key,))
        self._read.update(aliases)
        values = ((alias, self._value(alias)) for alias in aliases)
        return [(alias, value) for alias, value in values if value is not None]

    def _value(self, key: str) -> Any:
        """What lies at a key; None: nothing."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping):
                raise SpecError(
                    f"model config ({self.model_type}): {key.rpartition('.')[0]} = {show(value)} must be a mapping"
                )
            value = value.get(part)
            if value is None:
                return None
        return value

    def _agreed(self, key: str, found: list[tuple[str, Any]]) -> Any:
        """The one value of several checked aliases."""
        if not found:
            raise self.missing(key)
        (first, value), *rest = found
        for alias, other in rest:
            if other != value:
                raise SpecError(
                    f"model config ({self.model_type}): {first} = {show(value)} and "
                    f"{alias} = {show(other)} state the same quantity and must agree"
                )
        return value

"""Breaking texts, bytes and documents at random."""

import random
from collections.abc import Iterator
from typing import Any

ODD_NUMBERS = (
    0, -1, 1, 2, 3, 7, 127, 128, 129, 2**31, 2**53, 2**53 + 1, 2**63, 10**30, -(10**30), 0.0, -0.0, 0.1, 0.5, 1.5,
    1e-308, 5e-324, 1e308, 1e18, 1e19, 3.7, True, False,
)  # fmt: skip
ODD_TEXTS = (
    "", " ", "a", "none", "null", "1", "1e5", "true", "NaN", "../../etc/passwd", "/dev/null", "/dev/zero", "a\0b",
    "\x1b[2J", "\ud800", "x" * 300, "x" * 70_000, "<script>", "=1+1", "{{7*7}}", "\u202e", "é" * 100, "\n\n", "%s%n",
    "a/b", ".", "..", "~",
)  # fmt: skip


def mutated_text(text: str, chance: random.Random) -> str:
    """A text with a few characters, lines or pieces changed."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text) + 1)
        kind = chance.randrange(7)
        if kind == 0:
            text = text[:at] + text[at + chance.randint(1, 20) :]
        elif kind == 1:
            text = (
                text[:at]
                + chance.choice("{}[],:\"'\\\n\t 0123456789.-+eEx#&*!|>%@\0\ufeff\u2028é")
                + text[at:]
            )
        elif kind == 2:
            text = text[:at] + str(chance.choice(ODD_NUMBERS)) + text[at:]
        elif kind == 3:
            text = text[:at] + chance.choice(ODD_TEXTS)[:500] + text[at:]
        elif kind == 4:
            lines = text.split("\n")
            chance.shuffle(lines)
            text = "\n".join(lines)
        elif kind == 5:
            lines = text.split("\n")
            lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
            text = "\n".join(lines)
        else:
            text = text[:at]
    return text


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, cut, doubled."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        if not found:
            break
        at, kind = chance.randrange(len(found)), chance.randrange(4)
        if kind == 0:
            found[at] = chance.randrange(256)
        elif kind == 1:
            del found[at : at + chance.randint(1, 64)]
        elif kind == 2:
            found[at:at] = found[max(0, at - chance.randint(1, 64)) : at]
        else:
            del found[at:]
    return bytes(found)


def mutated_value(value: Any, chance: random.Random) -> Any:
    """A document with one place changed."""
    places = list(_places(value))
    if not places:
        return chance.choice(ODD_NUMBERS)
    holder, key = chance.choice(places)
    kind = chance.randrange(12)
    if kind >= 8:
        holder[key] = nearby(holder[key], chance)
    elif kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1:
        holder[key] = chance.choice(ODD_TEXTS)
    elif kind == 2:
        holder[key] = [holder[key]] * chance.randint(0, 3)
    elif kind == 3:
        holder[key] = {str(chance.choice(ODD_TEXTS))[:50]: holder[key]}
    elif kind == 4 and isinstance(holder, dict):
        holder[chance.choice(["x", str(key) + "s", str(key).upper(), ""])] = holder.pop(key)
    elif kind == 5:
        holder[key] = None
    else:
        holder[key] = chance.choice(ODD_NUMBERS)
    return value


def nearby(value: Any, chance: random.Random) -> Any:
    """A value that may be as good: a number somewhat larger or smaller, the other truth, all else as it is."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice([value + 1, value - 1, value * 2, value // 2, value * 10, value * 3])
    if isinstance(value, float):
        return chance.choice([value * 2, value / 2, value * 0.9, value * 1.1, value * 10, value + 1])
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield value, key
            yield from _places(child)
    elif isinstance(value, list):
        for number, child in enumerate(value[:50]):
            yield value, number
            yield from _places(child)

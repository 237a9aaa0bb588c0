"""The YAML that people write in scenarios and catalogues, read fifty times as fast as the general reader does.

A subset of YAML 1.2 whose meaning leaves no doubt: block mappings and sequences, flow collections, quoted text on one
line, numbers, true, false, null and plain words, comments. Whatever else a text holds (anchors, tags, block scalars,
text over several lines, dates, odd numbers, duplicate keys, anything malformed) raises :class:`NotPlain`, and
:mod:`perfmodel.spec.documents` asks ruamel.yaml, which also has the words for what is wrong. A test mutates every
shipped file and holds this reader to "the same value or NotPlain".
"""

import re
from typing import Any

MAX_DEPTH = 50

_KEY = re.compile(r"""([A-Za-z_][A-Za-z0-9_.\-/]*(?: [A-Za-z0-9_.\-/]+)*|"[^"\\]*"|'[^']*') *:(?= |$)""")
_ITEM = re.compile(r"-( +|$)")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][-+]?[0-9]+)?\Z")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+[A-Za-z0-9.]*\Z")
_WORDS = re.compile(r"(?:[A-Za-z(/$^]|\.{1,2}/|[0-9]+-[A-Za-z]{2})[^\n]*\Z")
_CONSTANTS = {"true": True, "false": False, "null": None}
_RESERVED = frozenset({"true", "false", "null", "nan", "inf"})
"""Words that YAML 1.2 takes for something else, in any case of letters: left to the general reader unless plain."""

Line = tuple[int, str, int]
"""(indentation, text without it, number in the file)"""


class NotPlain(Exception):
    """The text is not in the subset."""


def parse_plain(text: str) -> Any:
    """The value of a text of the subset.

    Raises:
        NotPlain: anything else.
    """
    if not text.replace("\n", "").isprintable():  # tabs, controls, marks of byte order, other line separators
        raise NotPlain
    if ">-" in text and (" \n" in text or text.rstrip().rpartition("\n")[2].lstrip(" ").startswith("#")):
        raise NotPlain  # spaces at the end belong to a folded text, and so may a comment at the end of the file
    lines = [
        (len(line) - len(body), body.rstrip(" "), number)
        for number, line in enumerate(text.split("\n"))
        if (body := line.lstrip(" ")) and not body.startswith("#")
    ]
    if not lines or lines[0][0] or lines[0][1].startswith(("---", "...", "%")):
        raise NotPlain
    if not (_KEY.match(lines[0][1]) or _ITEM.match(lines[0][1])):
        return _one_value(lines)
    value, end = _block(lines, 0, 0, 0)
    if end != len(lines):
        raise NotPlain
    return value


def _one_value(lines: list[Line]) -> Any:
    value, end = _value(lines, 0, lines[0][1], -1, 0)
    if end != len(lines):
        raise NotPlain
    return value


def _block(lines: list[Line], at: int, indent: int, depth: int) -> tuple[Any, int]:
    """The mapping or sequence whose first line is ``at``, at ``indent``; and the line after it."""
    if depth > MAX_DEPTH:
        raise NotPlain
    return (_sequence if _ITEM.match(lines[at][1]) else _mapping)(lines, at, indent, depth)


def _mapping(lines: list[Line], at: int, indent: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while at < len(lines) and lines[at][0] == indent:
        key = _KEY.match(lines[at][1])
        if not key:
            break
        name = key[1]
        if name[0] in "\"'":
            name = name[1:-1]
        elif name.lower() in _RESERVED:
            raise NotPlain
        if name in found:
            raise NotPlain
        found[name], at = _value(
            lines, at, lines[at][1][key.end() :].lstrip(" "), indent, depth, in_mapping=True
        )
    if at < len(lines) and lines[at][0] > indent:
        raise NotPlain
    return found, at


def _sequence(lines: list[Line], at: int, indent: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while at < len(lines) and lines[at][0] == indent:
        item = _ITEM.match(lines[at][1])
        if not item:
            break
        inner = lines[at][1][item.end() :]
        if _ITEM.match(inner):
            raise NotPlain
        if _KEY.match(inner):  # a mapping that begins on the dash's line
            lines[at] = (indent + item.end(), inner, lines[at][2])
            value, at = _block(lines, at, indent + item.end(), depth + 1)
        else:
            value, at = _value(lines, at, inner, indent, depth)
        found.append(value)
    if at < len(lines) and lines[at][0] > indent:
        raise NotPlain
    return found, at


def _value(
    lines: list[Line], at: int, text: str, indent: int, depth: int, *, in_mapping: bool = False
) -> tuple[Any, int]:
    """The value that starts with ``text`` on line ``at``, and the line after it."""
    if not text or text.startswith("#"):
        following = at + 1
        if following < len(lines):
            deeper = lines[following][0] > indent
            beside = in_mapping and lines[following][0] == indent and _ITEM.match(lines[following][1])
            if deeper or beside:
                if deeper and lines[following][1][0] in "{[":
                    return _flow(lines, following, lines[following][1], indent, depth)
                if not (_KEY.match(lines[following][1]) or _ITEM.match(lines[following][1])):
                    raise NotPlain
                return _block(lines, following, lines[following][0], depth + 1)
        return None, following
    if text[0] in "{[":
        return _flow(lines, at, text, indent, depth)
    last = at + 1
    while last < len(lines) and lines[last][0] > indent:
        last += 1
    if text == ">-":
        return _folded(lines, at, last, same=True), last
    if last > at + 1:
        if text[0] not in "\"'" or (depth == 0 and not in_mapping):
            raise NotPlain  # plain words that go on
        text = f"{text} {_folded(lines, at, last, same=False)}"
    return _scalar(text), last


def _folded(lines: list[Line], at: int, last: int, *, same: bool) -> str:
    """The lines after ``at`` and before ``last`` as one; none blank, no comment between or right behind."""
    inside = lines[at + 1 : last]
    behind = lines[last][2] if last < len(lines) else None
    if (
        not inside
        or [number for _, _, number in lines[at:last]] != list(range(lines[at][2], lines[at][2] + last - at))
        or (
            same and (behind not in (None, inside[-1][2] + 1) or len({indent for indent, _, _ in inside}) > 1)
        )
    ):
        raise NotPlain
    return " ".join(line for _, line, _ in inside)


def _scalar(text: str) -> Any:
    """A quoted text, a number, a constant or plain words, with a comment behind."""
    quote = text[0]
    if quote in "\"'":
        end = text.find(quote, 1)
        while quote == "'" and end >= 0 and text[end + 1 : end + 2] == "'":
            end = text.find(quote, end + 2)
        if end < 0 or not _ends(text[end + 1 :]):
            raise NotPlain
        inner = text[1:end]
        if "\\" in inner and quote == '"':
            raise NotPlain
        return inner.replace("''", "'") if quote == "'" else inner
    comment = text.find(" #")
    plain = text[:comment].rstrip(" ") if comment >= 0 else text
    if ": " in plain or plain.endswith(":"):
        raise NotPlain
    return _resolved(plain)


def _ends(rest: str) -> bool:
    """Whether nothing but a comment follows."""
    return not rest or (rest[0] == " " and rest.lstrip(" ")[:1] in ("", "#"))


def _resolved(plain: str) -> Any:
    """What a plain scalar stands for."""
    if _WORDS.match(plain):
        if plain.lower() in _RESERVED:
            if plain in _CONSTANTS:
                return _CONSTANTS[plain]
            raise NotPlain
        return plain
    if _INT.match(plain):
        if len(plain) > 300:
            raise NotPlain
        return int(plain)
    if _FLOAT.match(plain):
        return float(plain)
    if _VERSION.match(plain):
        return plain
    raise NotPlain


def _flow(lines: list[Line], at: int, text: str, indent: int, depth: int) -> tuple[Any, int]:
    """A flow collection, over as many deeper lines as it takes."""
    last = at + 1
    while last < len(lines) and lines[last][0] > indent:
        last += 1
    joined = "\n".join([text, *(line for _, line, _ in lines[at + 1 : last])]) + "\n"
    value, end = _collection(joined, 0, depth + 1)
    rest = joined[end:-1]
    if "\n" in rest or not _ends(rest):
        raise NotPlain
    return value, last


def _collection(text: str, at: int, depth: int) -> tuple[Any, int]:
    """The collection whose bracket opens at ``at``, and where the text goes on."""
    if depth > MAX_DEPTH:
        raise NotPlain
    mapping, closing = text[at] == "{", "}" if text[at] == "{" else "]"
    at += 1
    found: Any = {} if mapping else []
    while True:
        at = _skipped(text, at)
        if text[at : at + 1] == closing:
            return found, at + 1
        if mapping:
            key = _KEY.match(text, at)
            if not key or text[key.end() : key.end() + 1] != " ":
                raise NotPlain
            name = key[1][1:-1] if key[1][0] in "\"'" else key[1]
            if name in found or (key[1][0] not in "\"'" and name.lower() in _RESERVED):
                raise NotPlain
            value, at = _flow_value(text, _skipped(text, key.end()), depth)
            found[name] = value
        else:
            value, at = _flow_value(text, at, depth)
            found.append(value)
        at = _skipped(text, at)
        if text[at : at + 1] == ",":
            at += 1
            if text[at : at + 1] not in (" ", "\n"):
                raise NotPlain
        elif text[at : at + 1] != closing:
            raise NotPlain


_BLANK = re.compile(r"(?: |\n(?:#[^\n]*)?| #[^\n]*)*")
_FLOW_WORD = re.compile(r"[^ \n{}\[\],\"'#&*!|>%@`?:][^\n{}\[\],#]*")


def _skipped(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _flow_value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """A value inside a flow collection."""
    first = text[at : at + 1]
    if first and first in "{[":
        return _collection(text, at, depth + 1)
    if first and first in "\"'":
        end = text.find(first, at + 1)
        inner = text[at + 1 : end]
        if (
            end < 0
            or "\n" in inner
            or "\\" in inner
            or text[end + 1 : end + 2] not in (",", "}", "]", " ", "\n")
        ):
            raise NotPlain
        return inner, end + 1
    word = _FLOW_WORD.match(text, at)
    if not word:
        raise NotPlain
    plain = word[0].rstrip(" ")
    if ":" in plain and (": " in plain or plain.endswith(":")):
        raise NotPlain
    following = _skipped(text, word.end())
    if text[following : following + 1] not in (",", "}", "]"):
        raise NotPlain  # words that go on on the next line
    return _resolved(plain), word.end()

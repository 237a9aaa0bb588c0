"""The small reader of plain YAML against ruamel.yaml: the same value, or it does not answer."""

import random

import pytest

from perfmodel.errors import DataError
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import _parse_any_yaml, parse_yaml
from perfmodel.spec.plain_yaml import NotPlain, parse_plain

SHIPPED = sorted(DATA.rglob("*.yaml"))
SLOW = {
    "silicon_setups.yaml",
    *(f"launch/{name}.yaml" for name in ("atom", "sglang", "trtllm", "vllm")),
    *(f"frameworks/{name}.yaml" for name in ("megatron", "torchtitan")),
}
"""What the small reader leaves alone (words that begin like dates or options, keys with commas); only validate, launch
lines and bring read them."""
PIECES = [
    *"{}[]:,-#'\"&*!|>%@`?~ \t\n\\0123456789.eE+_aTxyn=<", "- ", ": ", " #", "\n  ", "\n- ", "null", "true", "yes",
    "No", "1e5", "0x1f", "0o7", "1_000", ".5", "5.", "-.inf", ".nan", "2026-01-01", "1:30", "<<: ", "? ", "--- ",
    "...", "''", '""', ">-", "é", "\u2028", "\ufeff", "007", "+5", "-0", "12e03", "{a: 1}", "[1, 2]", "{a}", "[a: 1]",
    "a:", "key: value", "a: b: c", "- - a", "-1", "- a\n  b", "&a ", "*a", "!!python/name:os.system ",
]  # fmt: skip


def same(a, b):
    """Equal in value, type and order of keys."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_is_read_alike(path):
    text = path.read_text("utf-8")
    if {path.name, f"{path.parent.name}/{path.name}"} & SLOW:
        with pytest.raises(NotPlain):
            parse_plain(text)
    else:
        assert same(parse_plain(text), _parse_any_yaml(text, path.name))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64), ("-1.5e-3", -0.0015), ("true", True), ("null", None), ("vllm", "vllm"), ("0.5.9", "0.5.9"),
        ("[1, 2.0, a]", [1, 2.0, "a"]), ("{min: 200, max: 2000}", {"min": 200, "max": 2000}), ("''", ""),
        ("a: 'it''s'  # why", {"a": "it's"}), ("a:\n- 1\n-\n  - 2\nb:", {"a": [1, [2]], "b": None}),
        ("a: >-\n  one\n  two\nb: 1", {"a": "one two", "b": 1}), ("a: 'one\n  two'", {"a": "one two"}),
    ],
)  # fmt: skip
def test_what_is_plain(text, value):
    assert same(parse_plain(text), value)
    assert same(_parse_any_yaml(text, "x"), value)


@pytest.mark.parametrize(
    "text",
    [
        "", "a: 1\na: 2", "{a: 1, a: 2}", "a: &x 1", "a: *x", "a: !!int 1", "a: True", "a: 2026-01-01", "a: 1_000",
        "a: 0x1f", "a: 010", "a: .inf", "a: |\n  b", "a:\tb", "a: b: c", "- - 1", "--- a", "? a", "a: 'b", "a: [1",
        "a: [1] 2", "1: a", "true: a", "a: one\n  two", "\ufeffa: 1", "a: b\r\nc: d", "[" * 60 + "]" * 60, "'",
        "a: ''' b", "a: {b: 1,c: 2}",
    ],
)  # fmt: skip
def test_what_is_not(text):
    with pytest.raises(NotPlain):
        parse_plain(text)


def test_nothing_is_read_otherwise_than_by_ruamel():
    """Pieces of shipped files, broken at random: the small reader gives ruamel's value or none, and never one where
    ruamel refuses.
    """
    chance = random.Random(17)
    sources = []
    for path in SHIPPED:
        lines = path.read_text("utf-8").split("\n")
        sources += ["\n".join(lines[at : at + 14])[:900] for at in range(0, len(lines), 12)]
    answered = 0
    for _ in range(3000):
        text = chance.choice(sources)
        for _ in range(chance.randint(0, 3)):
            at, kind = chance.randrange(len(text) + 1), chance.random()
            if kind < 0.5:
                text = text[:at] + chance.choice(PIECES) + text[at:]
            elif kind < 0.8:
                text = text[:at] + text[at + chance.randint(1, 4) :]
            else:
                lines = text.split("\n")
                number = chance.randrange(len(lines))
                lines[number] = " " * chance.randint(0, 4) + lines[number].lstrip()
                text = "\n".join(lines)
        try:
            found = parse_plain(text)
        except NotPlain:
            continue
        answered += 1
        assert same(found, _parse_any_yaml(text, "x")), text
    assert answered > 200


def test_refusals_still_come_with_their_words():
    with pytest.raises(DataError, match="anchors and aliases are not allowed"):
        parse_yaml("a: &x [1]\nb: *x", "x")
    with pytest.raises(DataError, match=r"duplicate key|appears twice"):
        parse_yaml("a: 1\na: 2", "x")

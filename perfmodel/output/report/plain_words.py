"""Words in place of op ids: what a caveat lists in brackets is read by people who know no op."""

import re
from collections.abc import Iterable

from perfmodel.spec.scenario import Scenario

_LIST = re.compile(r"\(([^()]*)\)")
_ID = re.compile(r"[a-z][a-z_]*\d*(?:\.[a-z][a-z0-9_]*)+|[a-z]+_[a-z_]+\d+")
_MORE = re.compile(r" and (\d+) more$")
_SPELLED = {
    "q": "query",
    "qkv": "query, key and value",
    "a": "(first half)",
    "b": "(second half)",
    "o": "output",
    "kv": "key and value",
    "tp": "tensor-parallel",
    "ffn": "FFN",
    "mla": "MLA",
}


def in_words(text: str) -> str:
    """A caveat with the op ids of its brackets in words; keys of scenarios stay as they are."""
    return _LIST.sub(_listed, text)


def by_weight(texts: Iterable[str]) -> list[str]:
    """Caveats in the order of the share of time that each is about, the largest first; before them those about all of
    it, which name no share.
    """

    def share(text: str) -> float:
        found = _SHARE.search(text)
        if found is None:
            return _ALL
        return float(found[1]) if not found[0].startswith("under") else 0.0

    return sorted(texts, key=lambda text: -share(text))


_SHARE = re.compile(r"(?:under )?(\d+) ?% of the (?:step|run|kernels)")
_ALL = 101.0


def _listed(match: re.Match[str]) -> str:
    inner = match[1]
    more = _MORE.search(inner)
    items = re.split(r", | and ", inner[: more.start()] if more else inner)
    if not any(_is_op(item) for item in items):
        return match[0]
    words = list(dict.fromkeys(op_words(item) if _is_op(item) else item for item in items))
    return f"({', '.join(words)}{' and others' if more else ''})"


def _is_op(item: str) -> bool:
    return bool(_ID.fullmatch(item)) and item.partition(".")[0] not in _SECTIONS


_SECTIONS = frozenset(Scenario.model_fields) | {"config", "docs"}
"""What keys of a scenario begin with."""


def op_words(op_id: str) -> str:
    """``attention0.qkv_a`` -> ``attention query, key and value (first half)``."""
    parts = [part for part in re.split(r"[._]", re.sub(r"\d+", "", op_id)) if part]
    return " ".join(_SPELLED.get(part, part) for part in parts)

"""Caveats by weight, as a report lists them."""

import re
from collections.abc import Iterable


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

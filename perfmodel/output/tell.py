"""Words for people on stderr, beside what a command prints."""

import sys

from perfmodel.spec.paths import printable


def tell(text: str) -> None:
    """One message, without anything in it that a terminal would obey: a name in it may be anybody's."""
    print(printable(text), file=sys.stderr, flush=True)

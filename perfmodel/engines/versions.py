"""Versions of engines in the order of PEP 440 (https://peps.python.org/pep-0440/), as Python's packages have them.

``0.10`` is after ``0.9``, ``1.2.0rc6`` before ``1.2.0``, and a build (``0.11.0+cu128``) is its public version.
"""

from collections.abc import Iterable
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.spec.messages import shown


def public_version(value: Any, field: str) -> str:
    """A version as it is written in full, without its build; ``field`` and the value stand in the message.

    Raises:
        SpecError: no version, or a number, whose last zeros YAML has dropped (0.10 is read as 0.1).
    """
    from packaging.version import Version

    if isinstance(value, float):
        raise SpecError(f"{field} = {value!r}: a number (0.10 would be 0.1); put it in quotes, like '0.17'")
    try:
        return Version(str(value)).public
    except ValueError:  # InvalidVersion, or thousands of digits
        raise SpecError(
            f"{field} = {shown(value)}: no version; must be like 0.17.0, 1.2.0rc6 or 0.5.6.post2"
        ) from None


def is_version(text: str) -> bool:
    """Whether a text is a version."""
    try:
        public_version(text, "")
    except SpecError:
        return False
    return True


def in_order(versions: Iterable[str]) -> list[str]:
    """Versions, the oldest first."""
    from packaging.version import Version

    return sorted(versions, key=Version)


def is_before(version: str, other: str) -> bool:
    """Whether a version, whose build does not count, comes before another."""
    from packaging.version import Version

    return Version(Version(version).public) < Version(Version(other).public)

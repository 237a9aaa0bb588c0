"""A training layout in a framework's flags."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainLaunch:
    """Flags of a layout."""

    flags: tuple[str, ...]
    """One or a few that belong together in each."""
    cannot: tuple[str, ...]
    """What of the layout has no flag."""

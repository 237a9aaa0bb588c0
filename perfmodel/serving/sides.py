"""What a replica tells the other side where prompts are computed on one and decoded on another."""

from collections.abc import Iterable
from typing import Protocol

from perfmodel.serving.rank import Rank


class Sender(Protocol):
    """Where a replica's prompts go once they are computed."""

    def computing(self, request: int, tokens: int, seconds: float) -> None:
        """A step of ``seconds`` begins that computes ``tokens`` of a request's cache (those found are among them)."""
        ...

    def computed(self, request: int) -> None:
        """All of them are."""
        ...


class Receiver(Protocol):
    """Where a replica's requests have their prompts computed."""

    @property
    def shares(self) -> bool:
        """Whether caches come over a wire that steps use, too."""
        ...

    def computed_elsewhere(self, request: int) -> bool:
        """Whether the replica shall reserve blocks for a request, or compute its prompt itself."""
        ...

    def reserved(self, request: int) -> None:
        """It has."""
        ...

    def leaves_room(self, ranks: Iterable[Rank]) -> None:
        """Steps leave caches that come another share (the replica's ``room``) of these ranks' wires."""
        ...

"""The ranks of a replica, which step together: who decodes, who has prompts or a queue, who is fullest, who ends next.

Most ranks of a wide replica have nothing to do at most times, so they are kept by what they have; every change of a
rank's requests is told here (:meth:`Lockstep.file`).
"""

import heapq
import math
from collections.abc import Iterator
from typing import NamedTuple

from perfmodel.serving.rank import Rank, Running


class Decodes(NamedTuple):
    """Decode steps of all ranks together."""

    steps: int
    """In which none ends before the last one, all find blocks, and the same rank stays the fullest."""
    requests: int
    """Of the rank with most of them."""
    tokens: float
    """In the caches of the rank with most of them, at the first step."""
    growth: float
    """What they grow by from step to step."""
    even: float
    """Requests of the mean rank over those of the one with most."""


class Lockstep:
    """All ranks of one replica."""

    def __init__(self, ranks: list[Rank]) -> None:
        """Ranks that have nothing yet."""
        self.ranks = ranks
        self.decoding: dict[Rank, None] = {}
        """Ranks with running requests, in the order in which they got the first of them."""
        self.prompting: dict[Rank, None] = {}
        """Ranks with prompts that are being computed."""
        self.queued: dict[Rank, None] = {}
        """Ranks where requests wait."""
        self._finishes: list[tuple[int, int, int]] = []
        """(step, request, number of the rank): heap; entries of requests that left before are stale."""
        self._number = {rank: number for number, rank in enumerate(ranks)}

    def file(self, rank: Rank) -> None:
        """What a rank has may have changed."""
        for group, has in (
            (self.decoding, rank.running),
            (self.prompting, rank.prompts),
            (self.queued, rank.waiting),
        ):
            if not has:
                group.pop(rank, None)
            elif rank not in group:
                group[rank] = None

    def number(self, rank: Rank) -> int:
        """Which of the ranks it is."""
        return self._number[rank]

    def join(
        self, rank: Rank, request: int, tokens: int, step: int, steps: int, growth: float, *found: int
    ) -> None:
        """A request decodes on ``rank``: see :meth:`Rank.join`."""
        rank.join(request, tokens, step, steps, growth, *found)
        heapq.heappush(self._finishes, (step + steps, request, self._number[rank]))
        self.file(rank)

    def finished(self, step: int) -> Iterator[tuple[Rank, int, Running]]:
        """Requests that end at ``step``, taken out."""
        while self.decoding and self._next_finish() <= step:
            _, request, number = heapq.heappop(self._finishes)
            rank = self.ranks[number]
            one = rank.leave(request)
            self.file(rank)
            yield rank, request, one

    def _next_finish(self) -> int:
        """Step at which the next running request ends; some must run."""
        finishes, ranks = self._finishes, self.ranks
        while True:
            finish, request, number = finishes[0]
            one = ranks[number].running.get(request)
            if one is not None and one.finish == finish:
                return finish
            heapq.heappop(finishes)

    def decodes(self, step: int) -> Decodes:
        """What runs at ``step``, up to the next change; some must."""
        steps = self._next_finish() - step
        last = step + steps
        requests = total = 0
        tokens = growth = 0.0
        for rank in self.decoding:
            count = len(rank.running)
            total += count
            if count > requests:
                requests = count
            own = rank.tokens(step)
            if own > tokens or (own == tokens and rank.growth > growth):
                tokens, growth = own, rank.growth
            if last > rank.safe and not rank.fits(last):
                steps = min(steps, max(1, _until_full(rank, step, steps)))
        even = total / (len(self.ranks) * requests)
        if steps > 1 and len(self.decoding) > 1:  # caches grow along lines, which may cross
            for rank in self.decoding:
                if rank.growth > growth:
                    steps = min(steps, 1 + int((tokens - rank.tokens(step)) / (rank.growth - growth)))
        return Decodes(steps, requests, tokens, growth, even)


def _until_full(rank: Rank, step: int, steps: int) -> int:
    """Most steps, fewer than ``steps``, after which the rank's blocks suffice; 0: not even for one."""
    low, high = max(0, min(steps, math.floor(rank.safe) - step)), steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if rank.fits(step + middle) else (low, middle)
    return low

"""Replicas that do the same work, and the router before them."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import simpy

from perfmodel.ops.memory import NOTHING, Beside
from perfmodel.serving.batching import Batching
from perfmodel.serving.book import Book
from perfmodel.serving.prefix_cache import Checkpoints, PrefixCache
from perfmodel.serving.rank import Rank
from perfmodel.serving.replica import Replica
from perfmodel.serving.sides import Receiver, Sender
from perfmodel.serving.step_times import StepTimes
from perfmodel.serving.tiers import Below, Store

Router = Literal["central", "round-robin", "least-tokens", "prefix-aware"]
OUTSTANDING = attrgetter("outstanding")
CACHED_SHARE = 0.5
"""Share of a prompt that must be cached for a prefix-aware router to follow it (SGLang's router: cache_threshold)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Replicas, their ranks, and what one rank holds."""

    replicas: int = 1
    ranks: int = 1
    """Data-parallel attention ranks of a replica."""
    blocks: int = 1 << 40
    """KV blocks of one rank."""
    block_tokens: int = 64
    max_running: int = 1 << 30
    """Requests of one rank."""
    watermark: float = 0.0
    router: Router = "least-tokens"
    rank_router: Literal["round-robin", "least-tokens", "prefix-aware"] = "least-tokens"
    prefix_cache: bool = True
    """Whether ranks keep prompts that others share."""
    beside: Beside = NOTHING
    """What each request holds beside its tokens (states, windows), in blocks."""
    checkpoints: Checkpoints | None = None
    """How states are kept for later prompts; None: the model has none."""


class Pool:
    """Replicas, the requests they have, and those that wait before them."""

    def __init__(
        self,
        env: simpy.Environment,
        layout: Layout,
        batching: Batching,
        times: Callable[[int], StepTimes],
        book: Book,
        ended: Callable[[int], None],
        *,
        tokens: list[int],
        where: list[int],
        first_number: int = 0,
        sends: Sender | None = None,
        receives: Receiver | None = None,
    ) -> None:
        """``tokens`` (n,) say how much work each request is, ``where`` is told the number of the replica that has it;
        ``ended`` is told of requests that have their last token. See :class:`Replica` for the rest.
        """
        self.layout, self.book = layout, book
        self._tokens, self._where, self._ended = tokens, where, ended
        caches = layout.prefix_cache and book.paths is not None and receives is None
        tiers, stores = batching.tiers, dict[int, Store]()

        def cache_of(rank: int) -> PrefixCache:
            """Of one of all replicas' ranks."""
            below = None
            if tiers is not None:
                storage = None
                if tiers.storage_blocks:
                    storage = stores.setdefault(tiers.storage_of(rank), Store(tiers.storage_blocks))
                below = Below(tiers, storage, layout.checkpoints.blocks if layout.checkpoints else 0)
            return PrefixCache(layout.block_tokens, layout.checkpoints, below)

        self.replicas = [
            Replica(
                env,
                first_number + number,
                times(number),
                batching,
                [
                    Rank(
                        layout.blocks,
                        layout.block_tokens,
                        layout.max_running,
                        layout.watermark,
                        cache_of(number * layout.ranks + rank) if caches else None,
                        beside=layout.beside,
                    )
                    for rank in range(layout.ranks)
                ],
                book,
                self._done,
                self._refill,
                sends,
                receives,
            )
            for number in range(layout.replicas)
        ]
        self.place: dict[int, tuple[Replica, Rank]] = {}
        """Where each request is."""
        self._up = list(self.replicas)
        self._queue: deque[int] = deque()
        """Requests that no replica has yet."""
        self._turn = 0
        self._rank_turn = dict.fromkeys(self.replicas, 0)

    # --- requests -----------------------------------------------------------------------------------------------

    def submit(self, request: int) -> None:
        """A request comes: to a replica, or into the queue before them."""
        if not self._up:
            self._queue.append(request)
            return
        if self.layout.router == "central":
            self._queue.append(request)
            self._offer(self._up)
            return
        if "prefix-aware" in (self.layout.router, self.layout.rank_router):
            for replica in self._up:
                replica.settle()
        replica = self._choose(request)
        rank = self._choose_rank(replica, request)
        self._placed(request, replica, rank)
        replica.submit(request, rank, self._tokens[request])

    def release(self, request: int) -> None:
        """A request has ended, or has left this pool."""
        replica, rank = self.place.pop(request)
        replica.release(rank, self._tokens[request])

    def sent(self, request: int) -> None:
        """A request whose prompt was computed here has its cache elsewhere."""
        replica, rank = self.place.pop(request)
        replica.sent(request, rank, self._tokens[request])

    def deliver(self, request: int) -> None:
        """The cache of a request that blocks were reserved for has come."""
        replica, rank = self.place[request]
        replica.deliver(request, rank)

    def _done(self, request: int) -> None:
        self.release(request)
        self._ended(request)

    def _placed(self, request: int, replica: Replica, rank: Rank) -> None:
        self.place[request] = (replica, rank)
        self._where[request] = replica.number

    # --- routing ------------------------------------------------------------------------------------------------

    def _choose(self, request: int) -> Replica:
        replicas = self._up
        if len(replicas) == 1:
            return replicas[0]
        if self.layout.router == "round-robin":
            self._turn = (self._turn + 1) % len(replicas)
            return replicas[self._turn - 1]
        if self.layout.router == "prefix-aware":
            found = {one: max(self._found(rank, request) for rank in one.ranks) for one in replicas}
            best = max(replicas, key=lambda replica: found[replica])
            if found[best] > CACHED_SHARE * self.book.prompt[request]:
                return best
        return min(replicas, key=OUTSTANDING)

    def _found(self, rank: Rank, request: int) -> int:
        """Prompt tokens of a request that a rank's cache has, or its host's memory."""
        paths = self.book.paths
        return 0 if rank.cache is None or paths is None else rank.cache.known(paths[request])

    def _choose_rank(self, replica: Replica, request: int) -> Rank:
        ranks = replica.ranks
        if len(ranks) == 1:
            return ranks[0]
        if self.layout.rank_router == "round-robin":
            turn = self._rank_turn[replica]
            self._rank_turn[replica] = (turn + 1) % len(ranks)
            return ranks[turn]
        if self.layout.rank_router == "prefix-aware":
            best = max(ranks, key=lambda rank: self._found(rank, request))
            if self._found(best, request) > CACHED_SHARE * self.book.prompt[request]:
                return best
        return min(ranks, key=OUTSTANDING)

    def _refill(self, replica: Replica) -> None:
        """Central queue: a replica that looks for work takes what it has room for."""
        queue, book, taken = self._queue, self.book, 0
        while queue:
            free = replica.open_ranks(book.prompt[queue[0]])
            if not free:
                if taken:  # what comes first now may have room elsewhere
                    self._offer([one for one in self._up if one is not replica])
                return
            request, taken = queue.popleft(), taken + 1
            rank = min(free, key=OUTSTANDING)
            self._placed(request, replica, rank)
            replica.enqueue(request, rank, self._tokens[request])

    def _offer(self, replicas: list[Replica]) -> None:
        """Those that have room for the first of the queue shall look."""
        for replica in replicas:
            if replica.has_room(self.book.prompt[self._queue[0]]):
                replica.wake()

    # --- faults -------------------------------------------------------------------------------------------------

    def lose(self, number: int) -> list[int]:
        """A replica is lost with all that it has: the requests, which are in no replica now."""
        replica = self._down(number)
        lost = replica.lose()
        for request in lost:
            del self.place[request]
        return lost

    def drain(self, number: int) -> list[int]:
        """A replica takes no more requests: those that waited there, which are in no replica now."""
        replica = self._down(number)
        waiting = replica.without_blocks()
        for rank, request in waiting:
            replica.give_up(request, rank, self._tokens[request])
            del self.place[request]
        return [request for _, request in waiting]

    def recover(self, number: int) -> None:
        """A replica that was lost or drained takes requests again."""
        replica = self.replicas[number]
        replica.up = True
        self._up = [one for one in self.replicas if one.up]
        if self.layout.router == "central":
            replica.wake()
            return
        waiting, self._queue = list(self._queue), deque()
        for request in waiting:
            self.submit(request)

    def _down(self, number: int) -> Replica:
        replica = self.replicas[number]
        replica.up = False
        self._up = [one for one in self.replicas if one.up]
        return replica

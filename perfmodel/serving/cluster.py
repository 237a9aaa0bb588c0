"""Requests through a cluster: arrivals, the router before the replicas, and what is left of it all.

simpy keeps the clock. A request costs an event when it arrives and a few more when the replica that serves it changes
its batch; how many tokens it has costs nothing.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simpy

from perfmodel.errors import InfeasibleError
from perfmodel.serving.prefix_cache import PrefixCache, paths_of
from perfmodel.serving.rank import Rank
from perfmodel.serving.records import Load, Records, StepRuns
from perfmodel.serving.replica import Batching, Book, Replica
from perfmodel.serving.requests import Requests
from perfmodel.serving.step_times import StepTimes

Router = Literal["central", "round-robin", "least-tokens", "prefix-aware"]
Progress = Callable[[int, int], None]
"""Requests that have ended, and all."""
PROGRESS_EVERY = 256
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


def simulate(
    requests: Requests,
    times: Callable[[int], StepTimes],
    layout: Layout,
    batching: Batching,
    decode_steps: np.ndarray,
    *,
    progress: Progress | None = None,
) -> Records:
    """Serve every request and note when.

    Args:
        requests: what arrives when.
        times: step times of a replica, by its number.
        layout: replicas and their memory.
        batching: how they batch.
        decode_steps: steps that each request decodes after its first token (n,).
        progress: told now and then how far it is.

    Raises:
        InfeasibleError: a request is longer than one rank's cache.
    """
    _check_lengths(requests, layout)
    return _Cluster(requests, times, layout, batching, decode_steps, progress).run()


def _check_lengths(requests: Requests, layout: Layout) -> None:
    whole = -(-(requests.input_tokens + requests.output_tokens) // layout.block_tokens)
    for row in np.flatnonzero(whole > layout.blocks):
        raise InfeasibleError(
            f"request {row}: {requests.input_tokens[row]} + {requests.output_tokens[row]} tokens need {whole[row]} KV "
            f"blocks of {layout.block_tokens}, one rank has {layout.blocks}: shorten requests, or spread weights over "
            "more GPUs so that memory is left for the cache"
        )


class _Cluster:
    """One run: it owns its clock, its queues and its records."""

    def __init__(
        self,
        requests: Requests,
        times: Callable[[int], StepTimes],
        layout: Layout,
        batching: Batching,
        decode_steps: np.ndarray,
        progress: Progress | None,
    ) -> None:
        n = requests.num_requests
        self.env, self.requests, self.layout, self.progress = simpy.Environment(), requests, layout, progress
        self.child = requests.child.tolist()
        self.pause = requests.arrival_s.tolist()
        self.think = requests.think_s.tolist()
        self.tokens = (requests.input_tokens + requests.output_tokens).tolist()
        steps = np.asarray(decode_steps)
        more = np.maximum(requests.output_tokens - 1, 0)
        self.book = Book(
            prompt=requests.input_tokens.tolist(),
            steps=steps.tolist(),
            growth=np.divide(more, steps, out=np.ones(n), where=steps > 0).tolist(),
            scheduled_s=[-1.0] * n,
            first_token_s=[-1.0] * n,
            end_s=[-1.0] * n,
            preemptions=[0] * n,
            cached=[0] * n,
            paths=paths_of(requests) if layout.prefix_cache else None,
        )
        self.arrived_s = [-1.0] * n
        self.place: list[tuple[Replica, Rank] | None] = [None] * n
        self.replicas = [
            Replica(
                self.env,
                number,
                times(number),
                batching,
                [
                    Rank(
                        layout.blocks,
                        layout.block_tokens,
                        layout.max_running,
                        layout.watermark,
                        PrefixCache(layout.block_tokens) if self.book.paths is not None else None,
                    )
                    for _ in range(layout.ranks)
                ],
                self.book,
                self._ended,
                self._refill,
            )
            for number in range(layout.replicas)
        ]
        self.queue: deque[int] = deque()
        self.turn = 0
        self.rank_turn = [0] * layout.replicas
        self.roots = deque(requests.roots.tolist())
        self.ended = 0

    def run(self) -> Records:
        """Everything, from empty to empty."""
        cap = self.requests.max_concurrency
        if cap is None:
            self.env.process(self._open_loop())
        else:
            for _ in range(min(cap, len(self.roots))):
                self._slot_free()
        self.env.run()
        return self._records()

    # --- arrivals -----------------------------------------------------------------------------------------------

    def _open_loop(self) -> Generator[simpy.Event, None, None]:
        env, roots = self.env, self.roots
        while roots:
            root = roots.popleft()
            wait = self.pause[root] - env.now
            if wait > 0.0:
                yield env.timeout(wait)
            self._arrive(root)

    def _slot_free(self) -> None:
        """A slot of the closed loop sends the next session, when it has thought and the session is ready."""
        if self.roots:
            root = self.roots.popleft()
            self._later(max(self.think[root], self.pause[root] - self.env.now), root)

    def _later(self, seconds: float, request: int) -> None:
        event = self.env.timeout(max(0.0, seconds))
        event.callbacks.append(lambda _: self._arrive(request))

    def _arrive(self, request: int) -> None:
        self.arrived_s[request] = self.env.now
        if self.layout.router == "central":
            self.queue.append(request)
            for replica in self.replicas:
                if not self.queue:
                    break
                if replica.has_room(self.book.prompt[self.queue[0]]):
                    replica.wake()
            return
        if "prefix-aware" in (self.layout.router, self.layout.rank_router):
            for replica in self.replicas:
                replica.settle()
        self._submit(self._choose(request), request)

    def _choose(self, request: int) -> Replica:
        replicas = self.replicas
        if len(replicas) == 1:
            return replicas[0]
        if self.layout.router == "round-robin":
            self.turn = (self.turn + 1) % len(replicas)
            return replicas[self.turn - 1]
        if self.layout.router == "prefix-aware":
            found = {one: max(self._found(rank, request) for rank in one.ranks) for one in replicas}
            best = max(replicas, key=lambda replica: found[replica])
            if found[best] > CACHED_SHARE * self.book.prompt[request]:
                return best
        return min(replicas, key=lambda replica: replica.outstanding)

    def _found(self, rank: Rank, request: int) -> int:
        """Prompt tokens of a request that a rank's cache has."""
        paths = self.book.paths
        return 0 if rank.cache is None or paths is None else rank.cache.found(paths[request])[0]

    def _submit(self, replica: Replica, request: int) -> None:
        rank = self._choose_rank(replica, request)
        self.place[request] = (replica, rank)
        replica.submit(request, rank, self.tokens[request])

    def _choose_rank(self, replica: Replica, request: int) -> Rank:
        ranks = replica.ranks
        if len(ranks) == 1:
            return ranks[0]
        if self.layout.rank_router == "round-robin":
            turn = self.rank_turn[replica.number]
            self.rank_turn[replica.number] = (turn + 1) % len(ranks)
            return ranks[turn]
        if self.layout.rank_router == "prefix-aware":
            best = max(ranks, key=lambda rank: self._found(rank, request))
            if self._found(best, request) > CACHED_SHARE * self.book.prompt[request]:
                return best
        return min(ranks, key=lambda rank: rank.outstanding)

    def _refill(self, replica: Replica) -> None:
        """Central queue: a replica that looks for work takes what it has room for."""
        queue, book = self.queue, self.book
        while queue:
            tokens = book.prompt[queue[0]]
            free = replica.open_ranks(tokens)
            if not free:
                return
            request = queue.popleft()
            rank = min(free, key=lambda one: one.outstanding)
            self.place[request] = (replica, rank)
            replica.enqueue(request, rank, self.tokens[request])

    # --- ends ---------------------------------------------------------------------------------------------------

    def _ended(self, request: int) -> None:
        place = self.place[request]
        assert place is not None
        replica, rank = place
        replica.release(rank, self.tokens[request])
        self.ended += 1
        if self.progress is not None and self.ended % PROGRESS_EVERY == 0:
            self.progress(self.ended, self.requests.num_requests)
        child = self.child[request]
        if child >= 0:
            self._later(self.pause[child], child)
        elif self.requests.max_concurrency is not None:
            self._slot_free()

    def _records(self) -> Records:
        book, requests, replicas = self.book, self.requests, self.replicas
        if self.progress is not None:
            self.progress(self.ended, requests.num_requests)
        return Records(
            arrival_s=np.array(self.arrived_s),
            scheduled_s=np.array(book.scheduled_s),
            first_token_s=np.array(book.first_token_s),
            end_s=np.array(book.end_s),
            input_tokens=requests.input_tokens,
            output_tokens=requests.output_tokens,
            preemptions=np.array(book.preemptions),
            cached_tokens=np.array(book.cached),
            replica=np.array([place[0].number if place else -1 for place in self.place]),
            gap_s=np.array(book.gap_s),
            gap_count=np.array(book.gap_count, dtype=np.int64),
            load=Load(
                span_s=float(self.env.now),
                prefilled_tokens=sum(replica.prefilled_tokens for replica in replicas),
                runs=StepRuns.of(np.frombuffer(book.runs)),
            ),
        )

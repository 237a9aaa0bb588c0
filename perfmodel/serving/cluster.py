"""Requests through a cluster: arrivals, the pools of replicas that serve them, faults, and what is left of it all.

simpy keeps the clock. A request costs an event when it arrives and a few more when the replica that serves it changes
its batch; how many tokens it has costs nothing.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import simpy

from perfmodel.errors import InfeasibleError
from perfmodel.ops.memory import NOTHING
from perfmodel.serving.batching import Batching
from perfmodel.serving.book import book_of
from perfmodel.serving.changes import Change, stuck
from perfmodel.serving.handoff import Handoff, KvPath
from perfmodel.serving.pool import Layout, Pool
from perfmodel.serving.rank import ROUNDING
from perfmodel.serving.records import Load, Records, StepRuns
from perfmodel.serving.requests import Requests
from perfmodel.serving.step_times import StepTimes

Progress = Callable[[int, int], None]
"""Requests that have ended, and all."""
PROGRESS_EVERY = 256


@dataclass(frozen=True, slots=True)
class PrefillSide:
    """Replicas that compute prompts only, beside those that decode; their numbers follow the others'."""

    layout: Layout
    batching: Batching
    times: Callable[[int], StepTimes]
    path: KvPath


@dataclass(frozen=True, slots=True)
class FrontEndTimes:
    """What stands before the engines: a delay, and a server that takes requests one after the other."""

    latency_s: float = 0.0
    serial_s: float = 0.0
    """Per request; of several server processes, over their number."""

    @property
    def delays(self) -> bool:
        """Whether there is anything to wait for."""
        return self.latency_s > 0.0 or self.serial_s > 0.0


def simulate(
    requests: Requests,
    times: Callable[[int], StepTimes],
    layout: Layout,
    batching: Batching,
    decode_steps: np.ndarray,
    *,
    prefill: PrefillSide | None = None,
    changes: Iterable[Change] = (),
    progress: Progress | None = None,
    front_end: FrontEndTimes | None = None,
) -> Records:
    """Serve every request and note when.

    Args:
        requests: what arrives when.
        times: step times of a replica, by its number.
        layout: replicas and their memory.
        batching: how they batch.
        decode_steps: steps that each request decodes after its first token (n,).
        prefill: replicas that compute the prompts; None: those that decode do.
        changes: what happens to replicas meanwhile, in order of time.
        progress: told now and then how far it is.
        front_end: what a request spends in front of the engine; None: nothing.

    Raises:
        InfeasibleError: a request is longer than one rank's cache, or some wait for ever.
    """
    check_lengths(requests.input_tokens + requests.output_tokens, requests, layout)
    if prefill is not None:
        check_lengths(requests.input_tokens + 1, requests, prefill.layout)
    return _Cluster(
        requests, times, layout, batching, decode_steps, prefill, changes, progress, front_end
    ).run()


def check_lengths(tokens: np.ndarray, requests: Requests, layout: Layout, *, first: int = 0) -> None:
    """Refuses a request of so many ``tokens`` (n,) that one rank's cache can't hold; ``first`` is the first's number.

    Raises:
        InfeasibleError: there is one.
    """
    beside = np.ceil(layout.beside.of(tokens.astype(float)) - ROUNDING).astype(int)  # type: ignore[arg-type]
    whole = -(-tokens // layout.block_tokens) + beside
    for row in np.flatnonzero(whole > layout.blocks):
        fixed = ""
        if layout.beside != NOTHING:
            fixed = f" ({np.broadcast_to(beside, whole.shape)[row]} for states and windows)"
        raise InfeasibleError(
            f"request {first + row}: {requests.input_tokens[row]} + {requests.output_tokens[row]} tokens need "
            f"{whole[row]} KV blocks of {layout.block_tokens}{fixed}, one rank has {layout.blocks}: shorten requests, "
            "or spread "
            "weights over more GPUs so that memory is left for the cache"
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
        prefill: PrefillSide | None = None,
        changes: Iterable[Change] = (),
        progress: Progress | None = None,
        front_end: FrontEndTimes | None = None,
    ) -> None:
        self.front_end = front_end or FrontEndTimes()
        self._front_free_s = 0.0
        self.env, self.requests, self.progress = simpy.Environment(), requests, progress
        self.child = requests.child.tolist()
        self.pause = requests.arrival_s.tolist()
        self.think = requests.think_s.tolist()
        caching = (layout if prefill is None else prefill.layout).prefix_cache
        self.book = book = book_of(requests, decode_steps, prefix_cache=caching)
        self.handoff = Handoff(self.env, prefill.path, book) if prefill is not None else None
        self.decode = Pool(
            self.env,
            layout,
            batching,
            times,
            book,
            self._ended,
            tokens=book.tokens,
            where=book.replica,
            receives=self.handoff,
        )
        self.pools = [self.decode]
        self._take_in: Callable[[int], None] = self.decode.submit
        if prefill is not None and self.handoff is not None:
            pool = Pool(
                self.env,
                prefill.layout,
                prefill.batching,
                prefill.times,
                book,
                self._ended,
                tokens=requests.input_tokens.tolist(),
                where=book.prefill_replica,
                first_number=layout.replicas,
                sends=self.handoff,
            )
            self.handoff.prefill, self.handoff.decode = pool, self.decode
            self.pools.append(pool)
            self._take_in = self.handoff.start
        self.changes = iter(changes)
        self._next_change()
        self.roots = deque(requests.roots.tolist())
        self.ended = 0
        self.all_ended = self.env.event()

    def run(self) -> Records:
        """Everything, from empty to empty."""
        cap = self.requests.max_concurrency
        if cap is None:
            self.env.process(self._open_loop())
        else:
            for _ in range(min(cap, len(self.roots))):
                self._slot_free()
        try:
            self.env.run(until=self.all_ended)
        except RuntimeError as error:
            if self.all_ended.triggered:
                raise
            left = self.requests.num_requests - self.ended
            raise stuck(left, down=not all(one.up for pool in self.pools for one in pool.replicas)) from error
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
        self._at(max(0.0, seconds), partial(self._arrive, request))

    def _at(self, seconds: float, then: Callable[[], None]) -> None:
        event = self.env.timeout(seconds)
        event.callbacks.append(lambda _: then())

    def _arrive(self, request: int) -> None:
        self.book.arrived_s[request] = self.env.now
        if not self.front_end.delays:
            self._take_in(request)
            return
        self._front_free_s = max(self.env.now, self._front_free_s) + self.front_end.serial_s
        wait = self._front_free_s - self.env.now + self.front_end.latency_s
        self._at(wait, partial(self._take_in, request))

    # --- faults -------------------------------------------------------------------------------------------------

    def _next_change(self) -> None:
        """One at a time: there may be no end of them."""
        change = next(self.changes, None)
        if change is not None:
            self._at(max(0.0, change.at_s - self.env.now), partial(self._change, change))

    def _change(self, change: Change) -> None:
        """Something happens to a replica."""
        self._next_change()
        in_prefill = change.replica >= len(self.decode.replicas)
        pool = self.pools[1] if in_prefill else self.decode
        number = change.replica - (len(self.decode.replicas) if in_prefill else 0)
        replica = pool.replicas[number]
        if change.times is not None:
            replica.change(change.times)
        if change.link_bytes_per_s is not None and self.handoff is not None:
            self.handoff.slow(replica.ranks[0], change.link_bytes_per_s)
        if change.state == "up":
            pool.recover(number)
        elif change.state == "lost":
            for request in pool.lose(number):
                self.book.retries[request] += 1
                self._again(request, in_prefill=in_prefill)
        elif change.state == "draining":
            for request in pool.drain(number):
                if self.handoff is None or in_prefill:
                    pool.submit(request)
                else:
                    self.handoff.turned_away(request)

    def _again(self, request: int, *, in_prefill: bool) -> None:
        """A request whose replica was lost."""
        if self.handoff is None:
            self.decode.submit(request)
        elif in_prefill:
            self.handoff.prefill_lost(request)
        else:
            self.handoff.decode_lost(request)

    # --- ends ---------------------------------------------------------------------------------------------------

    def _ended(self, request: int) -> None:
        self.ended += 1
        if self.progress is not None and self.ended % PROGRESS_EVERY == 0:
            self.progress(self.ended, self.requests.num_requests)
        child = self.child[request]
        if child >= 0:
            self._later(self.pause[child], child)
        elif self.requests.max_concurrency is not None:
            self._slot_free()
        if self.ended == self.requests.num_requests:
            self.all_ended.succeed()

    def _records(self) -> Records:
        book, requests = self.book, self.requests
        if self.progress is not None:
            self.progress(self.ended, requests.num_requests)
        replica, prefill = np.array(book.replica), np.array(book.prefill_replica)
        return Records(
            arrival_s=np.array(book.arrived_s),
            scheduled_s=np.array(book.scheduled_s),
            prefilled_s=np.array(book.prefilled_s),
            first_token_s=np.array(book.first_token_s),
            end_s=np.array(book.end_s),
            input_tokens=requests.input_tokens,
            output_tokens=requests.output_tokens,
            preemptions=np.array(book.preemptions),
            retries=np.array(book.retries),
            cached_tokens=np.array(book.cached),
            host_tokens=np.array(book.host),
            storage_tokens=np.array(book.storage),
            replica=np.where(replica < 0, prefill, replica),
            prefill_replica=np.where(prefill < 0, replica, prefill),
            gap_s=np.array(book.gap_s),
            gap_count=np.array(book.gap_count, dtype=np.int64),
            load=Load(
                span_s=float(self.env.now),
                prefilled_tokens=sum(one.prefilled_tokens for pool in self.pools for one in pool.replicas),
                runs=StepRuns.of(np.frombuffer(book.runs)),
            ),
        )

"""One replica: continuous batching in steps of its engine, advanced together between events that change the batch.

At the end of a step (or of a run of steps) it takes waiting requests in, then runs either a step that carries prompts,
or decode steps up to the next event: a request ends, or KV blocks run out. A request that arrives meanwhile and
could be taken in cuts the run at the end of the step that is under way. Nothing in a run depends on how it was cut, so
runs and single steps give the same records.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import simpy

from perfmodel.errors import SpecError
from perfmodel.serving.gaps import Gaps
from perfmodel.serving.prefix_cache import Path
from perfmodel.serving.rank import Prompt, Rank
from perfmodel.serving.step_times import StepTimes

Policy = Literal["mixed", "prefill-first"]
AFTER_ALL: Any = 2
"""Of simpy's priorities: after whatever else happens at the same time (arrivals and timeouts are 1)."""


@dataclass(slots=True)
class Book:
    """What is known of every request, by number; filled in while they are served."""

    prompt: list[int]
    """Tokens to prefill (after a preemption those generated too)."""
    steps: list[int]
    """Decode steps still to come after the next prefill."""
    growth: list[float]
    """Output tokens per decode step."""
    scheduled_s: list[float]
    first_token_s: list[float]
    end_s: list[float]
    preemptions: list[int]
    cached: list[int]
    """Prompt tokens that were found in a prefix cache when the request was first taken in."""
    paths: list[Path] | None = None
    """What prompts share; None: nothing."""
    gap_s: list[float] = field(default_factory=list)
    gap_count: list[int] = field(default_factory=list)
    runs: "array[float]" = field(default_factory=lambda: array("d"))
    """Rows of :class:`perfmodel.serving.records.StepRuns`, one after the other."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How a replica batches."""

    policy: Policy
    max_batched_tokens: int
    tokens_per_decode: int
    """Tokens that a decoding request adds to a step: 1 and its drafts."""
    graph_batches: tuple[int, ...] = ()
    poll_steps: int = 1
    """Decode steps between two looks at requests that have come meanwhile."""
    hold_steps: int = 0
    """Prompts wait until every rank has one, at most so many decode steps (TensorRT-LLM's attention-DP balance); 0:
    they run as they come. No engine does both this and polling."""
    together: bool = True
    """Whether steps are advanced together; False: one by one, which gives the same and takes longer."""

    def __post_init__(self) -> None:
        if self.hold_steps and self.poll_steps > 1:
            raise SpecError(
                f"hold_steps = {self.hold_steps} beside poll_steps = {self.poll_steps}: an engine either holds prompts "
                "back or polls for them"
            )


@dataclass(slots=True)
class _Run:
    """Decode steps that are under way."""

    start_s: float
    steps: int
    requests: int
    tokens: float
    growth: float
    even: float
    waiting: int
    held: int


class Replica:
    """A replica in a simpy environment."""

    def __init__(
        self,
        env: simpy.Environment,
        number: int,
        times: StepTimes,
        batching: Batching,
        ranks: list[Rank],
        book: Book,
        done: Callable[[int], None],
        refill: Callable[["Replica"], None],
    ) -> None:
        """``done`` is told which request ended, ``refill`` is asked for requests whenever a step has ended."""
        self.env, self.number, self.times, self.batching = env, number, times, batching
        self.ranks, self.book = ranks, book
        self._done, self._refill = done, refill
        self._caches = book.paths is not None
        self.step = 0
        self.outstanding = 0
        self.prefilled_tokens = 0
        self._busy = False
        self._run: _Run | None = None
        self._plan = 0
        self._gaps = Gaps(book.gap_s, book.gap_count)
        self._waking = False
        self._held_at = -1
        """Decode step since which prompts are held back; -1: they are not."""
        self._present = self._taken = 0
        """Requests that are here, and those of them that are being prefilled or decode."""

    # --- requests come ------------------------------------------------------------------------------------------

    def submit(self, request: int, rank: Rank, tokens: int) -> None:
        """A request waits on ``rank``; ``tokens`` count as outstanding until it ends."""
        self.enqueue(request, rank, tokens)
        if not self._busy:
            self._soon()
        elif self._run is not None and self._first_has_room(rank):
            self._cut_unless_held()

    def _first_has_room(self, rank: Rank) -> bool:
        first = rank.waiting[0]
        return rank.has_room(self.book.prompt[first], self.step + 1, self._path(first))

    def _cut_unless_held(self) -> None:
        if self._held_at < 0 or all(self._has_work(one) for one in self.ranks):
            self._cut()

    def enqueue(self, request: int, rank: Rank, tokens: int) -> None:
        """A request waits on ``rank``; nothing is begun."""
        rank.wait(request, self.book.prompt[request])
        self._present += 1
        rank.outstanding += tokens
        self.outstanding += tokens

    def release(self, rank: Rank, tokens: int) -> None:
        """A request of ``rank`` has ended."""
        self._present -= 1
        self._taken -= 1
        rank.outstanding -= tokens
        self.outstanding -= tokens

    def has_room(self, tokens: int) -> bool:
        """Whether some rank could take a prompt in now."""
        return bool(self.open_ranks(tokens))

    def open_ranks(self, tokens: int) -> list[Rank]:
        """Ranks whose next step could begin a prompt of ``tokens``, behind what waits there already."""
        batching, after = self.batching, self.step + 1
        per_decode = batching.tokens_per_decode if batching.policy == "mixed" else 0
        return [
            rank
            for rank in self.ranks
            if rank.promised_tokens + per_decode * len(rank.running) < batching.max_batched_tokens
            and rank.has_room_behind_queue(tokens, after)
        ]

    def wake(self) -> None:
        """Requests may be had: look, or stop at the end of the step under way."""
        if not self._busy:
            self._soon()
        elif self._run is not None:
            self._cut()

    def _soon(self) -> None:
        """Plan a step once everything else of this instant has happened, so that requests that come together start
        together.
        """
        if self._waking:
            return
        self._waking = True
        event = self.env.event()
        event.callbacks.append(lambda _: self._wake_up())
        event._ok, event._value = True, None
        self.env.schedule(event, priority=AFTER_ALL)

    def _wake_up(self) -> None:
        self._waking = False
        if not self._busy:
            self._next()

    # --- steps --------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Plan what comes at a step's end."""
        self._refill(self)
        self._make_room()
        looks = self.step % self.batching.poll_steps == 0 or not any(rank.running for rank in self.ranks)
        taken: list[Prompt] = []
        if not (looks and self._holds()):
            taken = [
                one
                for rank in self.ranks
                if rank.prompts or (looks and rank.waiting)
                for one in self._take(rank, looks=looks)
            ]
        self._busy = bool(taken) or any(rank.running for rank in self.ranks)
        if not self._busy:
            return
        if taken:
            self._prompt_step(taken)
        else:
            self._decode_run()

    def _path(self, request: int) -> Path:
        paths = self.book.paths
        return paths[request] if paths is not None else ()

    def _holds(self) -> bool:
        """Whether prompts are held back until every rank has one."""
        most = self.batching.hold_steps
        if not most:
            return False
        have = sum(self._has_work(rank) for rank in self.ranks)
        decodes = any(rank.running for rank in self.ranks)
        if have == 0 or have == len(self.ranks) or not decodes:
            self._held_at = -1
            return False
        if self._held_at < 0:
            self._held_at = self.step
        if self.step - self._held_at >= most:
            self._held_at = -1
            return False
        return True

    def _has_work(self, rank: Rank) -> bool:
        """Whether a rank has a prompt that its next step could carry."""
        return bool(rank.prompts) or (bool(rank.waiting) and self._first_has_room(rank))

    def _make_room(self) -> None:
        """Preempt where the next step's tokens would not find blocks."""
        after = self.step + 1
        for rank in self.ranks:
            if rank.running:
                while len(rank.running) + len(rank.prompts) > 1 and not rank.fits(after):
                    if not rank.running:
                        break
                    self._preempt(rank)
            if self._caches:
                rank.trim(after)

    def _preempt(self, rank: Rank) -> None:
        request, was = rank.preempt()
        rank.keep(self._path(request), was.nodes, finished=False)
        book, ran = self.book, self.step - was.start
        book.preemptions[request] += 1
        book.prompt[request] = round(was.base + was.growth * ran) + 1
        book.steps[request] = was.finish - self.step - 1  # the prefill's end brings one output
        self._gaps.preempted(request)
        self._taken -= 1
        rank.wait(request, book.prompt[request], first=True)

    def _take(self, rank: Rank, *, looks: bool) -> list[Prompt]:
        """Prompts of one rank that the next step works on, their share of it noted; if it ``looks``, those that wait
        are taken in.
        """
        batching, book = self.batching, self.book
        budget = batching.max_batched_tokens
        if batching.policy == "mixed":
            budget -= len(rank.running) * batching.tokens_per_decode
        taken = []
        for prompt in rank.prompts:
            if budget <= 0:
                break
            prompt.now = min(budget, prompt.tokens - prompt.done)
            budget -= prompt.now
            taken.append(prompt)
        while looks and budget > 0 and rank.waiting:
            request = rank.waiting[0]
            path = self._path(request)
            if not rank.has_room(book.prompt[request], self.step + 1, path):
                break
            prompt = rank.admit(book.prompt[request], path)
            self._taken += 1
            if book.scheduled_s[request] < 0.0:
                book.scheduled_s[request] = self.env.now
                book.cached[request] = prompt.done
            prompt.now = min(budget, prompt.tokens - prompt.done)
            budget -= prompt.now
            taken.append(prompt)
        rank.trim(self.step + 1)
        return taken

    def _most(self) -> tuple[int, float, float]:
        """Decoding requests, their tokens now, and those tokens' growth per step: of the rank with most of each."""
        step, requests, tokens, growth = self.step, 0, 0.0, 0.0
        for rank in self.ranks:
            if rank.running:
                requests = max(requests, len(rank.running))
                own = rank.tokens(step)
                if own > tokens:
                    tokens, growth = own, rank.growth
        return requests, tokens, growth

    def _prompt_step(self, taken: list[Prompt]) -> None:
        """One step that carries prompts; the rank with most sets its time."""
        mixed = self.batching.policy == "mixed"
        prompt = attended = fullest = total = 0.0
        for rank in self.ranks:
            decodes = len(rank.running) * self.batching.tokens_per_decode if mixed else 0
            own = 0
            if rank.prompts:
                own = sum(one.now for one in rank.prompts)
                pairs = sum(one.now * (one.done + one.now / 2.0) for one in rank.prompts)
                prompt, attended = max(prompt, own), max(attended, pairs)
            total, fullest = total + own + decodes, max(fullest, own + decodes)
        requests, tokens, _ = self._most() if mixed else (0, 0.0, 0.0)
        even = total / (fullest * len(self.ranks))
        seconds = self.times.prompt_s(prompt, attended, requests, tokens, even)
        self.prefilled_tokens += sum(one.now for one in taken)
        row = (self.env.now, self.number, seconds, 1, self._present - self._taken, self._taken)
        work = (requests, tokens, prompt, attended, even)
        self._after(seconds, lambda: self._prompt_done((*row, *work)))

    def _prompt_done(self, row: tuple[float, ...]) -> None:
        """``row`` is what is kept of the step."""
        self.book.runs.extend(row)
        if row[6]:
            self._decoded(1, self.env.now)
            self._end_finished()
        for rank in self.ranks:
            for prompt in [one for one in rank.prompts if one.now]:
                prompt.done += prompt.now
                rank.promised_tokens -= prompt.now
                prompt.now = 0
                if prompt.done == prompt.tokens:
                    self._prefilled(rank, prompt)
        self._next()

    def _prefilled(self, rank: Rank, prompt: Prompt) -> None:
        """A prompt's end is its request's first output."""
        book, request, now = self.book, prompt.request, self.env.now
        path = self._path(request)
        found = rank.prefilled(prompt, path)
        if book.first_token_s[request] < 0.0:
            book.first_token_s[request] = now
        else:  # it was preempted: its next output comes now
            self._gaps.resumed(request, now)
        if book.steps[request] > 0:
            rank.join(request, prompt.tokens, self.step, book.steps[request], book.growth[request], found)
            self._gaps.joined(request, now)
        else:
            rank.keep(path, found[1], finished=True)
            book.end_s[request] = now
            self._done(request)

    def _decode_run(self) -> None:
        """Decode steps until a request ends, blocks run out, or another rank becomes the fullest."""
        ranks = [rank for rank in self.ranks if rank.running]
        steps = min(rank.next_finish() for rank in ranks) - self.step
        if not self.batching.together:
            steps = min(steps, self._polled(self.step + 1) - self.step)
        if self.batching.poll_steps > 1 and any(rank.waiting for rank in self.ranks):
            steps = min(steps, self._polled(self.step + 1) - self.step)  # until they are looked at
        if self._held_at >= 0:
            steps = min(steps, self._polled(self._held_at + self.batching.hold_steps) - self.step)
        for rank in ranks:
            if not rank.fits(self.step + steps):
                steps = max(1, self._until_full(rank, steps))
        requests, tokens, growth = self._most()
        # caches grow along lines: the one that is fullest at both ends of a run is fullest throughout
        while steps > 1 and len(ranks) > 1:
            fullest, last = max(ranks, key=lambda rank: rank.tokens(self.step)), self.step + steps - 1
            if max(rank.tokens(last) for rank in ranks) <= fullest.tokens(last):
                break
            steps = max(1, steps // 2)
        sizes = self.batching.graph_batches
        if sizes and requests <= sizes[-1]:
            requests = sizes[bisect_left(sizes, requests)]
        held = [len(rank.running) for rank in ranks]
        even = sum(held) / (len(self.ranks) * max(held))
        run = self._run = _Run(
            self.env.now, steps, requests, tokens, growth, even, self._present - self._taken, self._taken
        )
        self._after(self._seconds(run, steps), self._run_done)

    def _polled(self, step: int) -> int:
        """The first step, from ``step`` on, at whose end requests are looked at."""
        poll = self.batching.poll_steps
        return -(-step // poll) * poll

    def _until_full(self, rank: Rank, steps: int) -> int:
        """Most steps, fewer than ``steps``, after which the rank's blocks suffice; 0: not even for one."""
        low, high = 0, steps
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if rank.fits(self.step + middle) else (low, middle)
        return low

    def _seconds(self, run: _Run, steps: int) -> float:
        if steps == 1:
            return self.times.decode_s(run.requests, run.tokens, run.even)
        return self.times.decode_run_s(run.requests, run.tokens, run.growth, steps, run.even)

    def _cut(self) -> None:
        """End the run at the end of the step that is under way."""
        run = self._run
        assert run is not None
        if run.steps == 1:
            return
        passed = self.env.now - run.start_s
        steps = self._steps_after(run, passed)
        steps = self._polled(self.step + steps) - self.step
        if steps < run.steps:
            run.steps = steps
            self._after(max(0.0, self._seconds(run, steps) - passed), self._run_done)

    def _steps_after(self, run: _Run, passed: float) -> int:
        """Steps of a run until the first one that ends ``passed`` seconds after its start, or later; at least one."""
        steps = max(1, min(run.steps, int(passed / self._seconds(run, run.steps) * run.steps)))
        while steps < run.steps and self._seconds(run, steps) < passed:
            steps += 1
        while steps > 1 and self._seconds(run, steps - 1) >= passed:
            steps -= 1
        return steps

    def settle(self) -> None:
        """Evict what a run's steps up to now have pushed out of the caches, so that a router sees what there is."""
        if self._run is not None and self._run.steps > 1:
            done = self._steps_after(self._run, self.env.now - self._run.start_s) - 1
            for rank in self.ranks:
                rank.trim(self.step + done + 1)

    def _run_done(self) -> None:
        run = self._run
        assert run is not None
        self._run = None
        if self._caches:
            for rank in self.ranks:  # what the last step pushed out, before those that end now give room back
                rank.trim(self.step + run.steps)
        seconds = self._seconds(run, run.steps)
        first = self._seconds(run, 1)
        middle = run.tokens + run.growth * (run.steps - 1) / 2.0
        row = (run.start_s, self.number, seconds, run.steps, run.waiting, run.held)
        self.book.runs.extend((*row, run.requests, middle, 0.0, 0.0, run.even))
        self._decoded(run.steps, run.start_s + first)
        if run.steps > 1:
            self._gaps.ran(first, (seconds - first) / (run.steps - 1), run.steps - 1)
        self._end_finished()
        self._next()

    def _decoded(self, steps: int, first_end: float) -> None:
        """All running requests have decoded ``steps`` steps."""
        self._gaps.decoded(first_end, self.env.now)
        self.step += steps

    def _end_finished(self) -> None:
        """Take out requests whose last token has come."""
        now = self.env.now
        for rank in self.ranks:
            for request, was in rank.finished(self.step) if rank.running else ():
                self._gaps.left()
                rank.keep(self._path(request), was.nodes, finished=True)
                self.book.end_s[request] = now
                self._done(request)

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        """Call ``then`` later, unless something else is planned before."""
        self._plan += 1
        plan = self._plan
        event = self.env.timeout(seconds)
        event.callbacks.append(lambda _: then() if plan == self._plan else None)

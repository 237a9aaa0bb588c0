"""One replica: continuous batching in steps of its engine, advanced together between events that change the batch.

At the end of a step (or of a run of steps) it takes waiting requests in, then runs either a step that carries prompts,
or decode steps up to the next event: a request ends, or KV blocks run out. A request that arrives meanwhile and
could be taken in cuts the run at the end of the step that is under way. Nothing in a run depends on how it was cut, so
runs and single steps give the same records.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping

import simpy

from perfmodel.serving.batching import Batching
from perfmodel.serving.book import Book
from perfmodel.serving.decoding import DecodeRun
from perfmodel.serving.gaps import Gaps
from perfmodel.serving.instant import at_the_end_of_this_instant
from perfmodel.serving.lockstep import Lockstep
from perfmodel.serving.prefix_cache import Path
from perfmodel.serving.rank import Prompt, Rank
from perfmodel.serving.sharing import stretch_of
from perfmodel.serving.sides import Receiver, Sender
from perfmodel.serving.step_times import StepTimes
from perfmodel.serving.tiers import IN_HOST, IN_STORAGE, Tiers


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
        sends: Sender | None = None,
        receives: Receiver | None = None,
    ) -> None:
        """``done`` is told which request ended, ``refill`` is asked for requests whenever a step has ended. A replica
        that ``sends`` computes prompts only, one that ``receives`` has them computed elsewhere.
        """
        self.env, self.number, self.times, self.batching = env, number, times, batching
        self.ranks, self.book = ranks, book
        self._together = Lockstep(ranks)
        self.up = True
        """Whether it takes requests."""
        self._done, self._refill, self._sends, self._receives = done, refill, sends, receives
        self._caches = ranks[0].cache is not None
        self.step = 0
        self.outstanding = 0
        self.prefilled_tokens = 0
        self._busy = False
        self._run: DecodeRun | None = None
        self._plan = 0
        self._gaps = Gaps(book.gap_s, book.gap_count, book.last_output_s)
        self._waking = False
        self._held_at = -1
        """Decode step since which prompts are held back; -1: they are not."""
        self._present = self._taken = 0
        """Requests that are here, and those of them that hold blocks."""
        self._swapped: set[int] = set()
        """Requests that wait and whose caches are with the host."""
        self._copied = [0] * len(ranks)
        """Tokens of caches that each rank copies before the next step."""
        self._tiers = batching.tiers if self._caches else None
        self._from_host = [0] * len(ranks)
        """Tokens that each rank reads from the host's memory before or during the next step."""
        self._from_storage = [0.0] * len(ranks)
        """Seconds in which it reads from storage what is not here yet."""
        self._arrived: list[Rank] = []
        """Ranks to which caches have come since the last step."""
        self._shares = [0.0] * len(ranks)
        """What caches that come in take of each rank's wire."""
        self._stretch = 1.0
        self.room = 1.0
        """Share of a rank's wire that its steps leave to caches."""

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
        rank.wait(request, self.book.prompt[request], promised=self._promised(request))
        if self._tiers is not None:
            self.book.queued_s[request] = self.env.now
        self._together.file(rank)
        self._present += 1
        rank.outstanding += tokens
        self.outstanding += tokens

    def release(self, rank: Rank, tokens: int) -> None:
        """A request of ``rank`` has ended, or is elsewhere now."""
        self._present -= 1
        self._taken -= 1
        rank.outstanding -= tokens
        self.outstanding -= tokens

    def has_room(self, tokens: int) -> bool:
        """Whether some rank could take a prompt in now."""
        return bool(self.open_ranks(tokens))

    def open_ranks(self, tokens: int) -> list[Rank]:
        """Ranks whose next step could take a prompt of ``tokens`` in, behind what waits there already."""
        batching, after = self.batching, self.step + 1
        per_decode = batching.tokens_per_decode if batching.policy == "mixed" else 0
        return [
            rank
            for rank in self.ranks
            if rank.promised_tokens + per_decode * len(rank.running) < batching.max_batched_tokens
            and rank.has_room_behind_queue(tokens, after)
        ]

    def deliver(self, request: int, rank: Rank) -> None:
        """The cache of a request that ``rank`` reserved blocks for is here: its first output, and it decodes from the
        next step on.
        """
        rank.arrived[request] = self.env.now
        self._arrived.append(rank)
        self._output(request)
        self.wake()

    def sent(self, request: int, rank: Rank, tokens: int) -> None:
        """A request whose prompt was computed here has its cache elsewhere."""
        rank.sent(request, self._path(request))
        self.release(rank, tokens)
        self.wake()

    def caches_come(self, shares: Mapping[Rank, float]) -> None:
        """Caches take such shares of ranks' wires: all ranks wait for the one of which they take most."""
        for rank, share in shares.items():
            self._shares[self._together.number(rank)] = share
        stretch = stretch_of(max(self._shares))
        if stretch != self._stretch:
            if self._run is not None:
                self._plan_anew(self._run, stretch)
            self._stretch = stretch

    def _plan_anew(self, run: DecodeRun, stretch: float) -> None:
        """What is left of the step under way takes another time, and the run ends with it."""
        self._cut()
        run.cut = True
        run.stretched(self.env.now, self._stretch, stretch)
        self._after(max(0.0, run.end_s - self.env.now), self._run_done)

    def _leave_room(self, room: float) -> None:
        if room != self.room and self._receives is not None:
            self.room = room
            shared = [rank for rank, share in zip(self.ranks, self._shares, strict=True) if share > 0.0]
            if shared:
                self._receives.leaves_room(shared)

    def change(self, times: StepTimes) -> None:
        """From the next step on, steps take other times."""
        self.times = times
        if self._run is not None:
            self._cut()

    def lose(self) -> list[int]:
        """Everything that is here is lost, the step under way too; the requests, whose prompts have to be computed
        again with what they put out.
        """
        if self._run is not None:
            whole = self._run.steps_after(self.env.now - self._run.start_s) - 1
            if whole:
                self._run.steps, self._run.late_s = whole, 0.0
                self._keep_run(self._run)
        self._plan += 1
        self._run, self._busy = None, False
        self._join_arrived()
        for rank in self.ranks:
            for request, was in rank.running.items():
                cached = was.base + was.growth * (self.step - was.start)
                self._stop(request, cached, was.finish - self.step, kept=False)
        for request in self._swapped:
            self.book.prompt[request] += 1
            self.book.steps[request] -= 1
        self._swapped.clear()
        self._copied = [0] * len(self.ranks)
        self._from_host, self._from_storage = [0] * len(self.ranks), [0.0] * len(self.ranks)
        self._present = self._taken = self.outstanding = 0
        self._held_at = -1
        self._leave_room(1.0)
        lost = []
        for rank in self.ranks:
            rank.outstanding = 0
            lost += rank.clear()
            self._together.file(rank)
        return lost

    def without_blocks(self) -> list[tuple[Rank, int]]:
        """Requests that wait and have nothing here, each with its rank."""
        return [(rank, one) for rank in self.ranks for one in rank.waiting if one not in self._swapped]

    def give_up(self, request: int, rank: Rank, tokens: int) -> None:
        """One of them goes elsewhere."""
        rank.give_up(request, self.book.prompt[request], self._promised(request))
        self._together.file(rank)
        self._present -= 1
        rank.outstanding -= tokens
        self.outstanding -= tokens

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
        at_the_end_of_this_instant(self.env, self._wake_up)

    def _wake_up(self) -> None:
        self._waking = False
        if not self._busy:
            self._next()

    # --- steps --------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Plan what comes at a step's end."""
        if self.up:
            self._refill(self)
        self._join_arrived()
        self._make_room()
        together, looks = self._together, self.step % self.batching.poll_steps == 0
        looks = looks or not together.decoding
        taken: list[Prompt] = []
        if not (looks and self._holds()):
            ranks = {**together.prompting, **together.queued} if looks else dict(together.prompting)
            taken = [one for rank in ranks for one in self._take(rank, looks=looks)]
        self._busy = bool(taken or together.decoding)
        if not self._busy:
            self._leave_room(1.0)
            return
        if taken:
            self._prompt_step(taken)
        else:
            self._decode_run()

    def _join_arrived(self) -> None:
        """Requests whose caches have come begin to decode."""
        book = self.book
        for rank in self._arrived:
            for request, since in rank.arrived.items():
                rank.unreserve(request)
                self._join(rank, request, book.prompt[request])
                self._gaps.joined(request, since)
            rank.arrived.clear()
        self._arrived.clear()

    def _join(self, rank: Rank, request: int, tokens: int, *found: int) -> None:
        """A request with ``tokens`` in its cache decodes from now on."""
        steps, growth = self.book.steps[request], self.book.growth[request]
        self._together.join(rank, request, tokens, self.step, steps, growth, *found)

    def _path(self, request: int) -> Path:
        paths = self.book.paths
        return paths[request] if paths is not None and self._caches else ()

    def _holds(self) -> bool:
        """Whether prompts are held back until every rank has one."""
        most = self.batching.hold_steps
        if not most:
            return False
        have = sum(self._has_work(rank) for rank in self.ranks)
        if have == 0 or have == len(self.ranks) or not self._together.decoding:
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
        for rank in [one for one in self._together.decoding if after > one.safe]:
            while rank.running and rank.held > 1 and not rank.fits(after):
                self._preempt(rank)
        if self._caches:
            for rank in self.ranks:
                rank.trim(after)

    def _preempt(self, rank: Rank) -> None:
        """The youngest loses its blocks: its cache is computed again, or copied to the host and back."""
        request, was = rank.preempt()
        rank.keep(self._path(request), was.nodes, finished=False)
        swaps = self.batching.swap_s_per_token is not None
        self._stop(
            request, was.base + was.growth * (self.step - was.start), was.finish - self.step, kept=swaps
        )
        self.book.preemptions[request] += 1
        if swaps:
            self._swapped.add(request)
            self._copied[self._together.number(rank)] += self._swapped_tokens(rank, request)
        self._taken -= 1
        rank.wait(request, self.book.prompt[request], promised=self._promised(request), first=True)
        if self._tiers is not None:
            self.book.queued_s[request] = self.env.now
        self._together.file(rank)

    def _stop(self, request: int, cached: float, steps: int, *, kept: bool) -> None:
        """A request with ``cached`` tokens and ``steps`` to come decodes no more for now. Unless its cache is ``kept``
        it has to be computed again, with the last output's token, and that prefill's end brings one of its outputs.
        """
        book, again = self.book, 0 if kept else 1
        book.prompt[request] = round(cached) + again
        book.steps[request] = steps - again
        self._gaps.preempted(request)

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
        while looks and rank.waiting:
            request = rank.waiting[0]
            if self._holds_blocks_only(request):
                if not self._take_in(rank, request):
                    break
                continue
            path = self._path(request)
            if budget <= 0 or not rank.has_room(book.prompt[request], self.step + 1, path):
                break
            prompt = rank.admit(book.prompt[request], path)
            self._taken += 1
            if book.scheduled_s[request] < 0.0:
                book.scheduled_s[request] = self.env.now
                book.cached[request] = prompt.done
                book.host[request], book.storage[request] = prompt.host, prompt.storage
            if self._tiers is not None:
                self._reads(self._tiers, rank, prompt)
            prompt.now = min(budget, prompt.tokens - prompt.done)
            budget -= prompt.now
            taken.append(prompt)
        self._together.file(rank)
        rank.trim(self.step + 1)
        return taken

    def _holds_blocks_only(self, request: int) -> bool:
        """Whether a request that waits needs blocks and no computation here."""
        elsewhere = self._receives is not None and self._receives.computed_elsewhere(request)
        return elsewhere or request in self._swapped

    def _promised(self, request: int) -> int:
        """Tokens that are to be computed here for a request that waits."""
        return 0 if self._holds_blocks_only(request) else self.book.prompt[request]

    def _take_in(self, rank: Rank, request: int) -> bool:
        """Give such a request its blocks, if there are enough."""
        book, tokens = self.book, self.book.prompt[request]
        swapped = request in self._swapped
        more = math.ceil(book.growth[request]) - 1 if swapped else 0  # it decodes at once
        if not rank.has_room(tokens + more, self.step + 1):
            return False
        self._taken += 1
        if swapped:
            self._swapped.remove(request)
            rank.swap_in(tokens)
            self._join(rank, request, tokens)
            self._gaps.swapped_in(request)
            self._copied[self._together.number(rank)] += self._swapped_tokens(rank, request)
        else:
            assert self._receives is not None
            rank.reserve(tokens)
            self._receives.reserved(request)
        return True

    def _swapped_tokens(self, rank: Rank, request: int) -> int:
        """Tokens that a swapped request's cache counts as, with what it keeps beside them."""
        tokens = self.book.prompt[request]
        return tokens + rank.beside_blocks(tokens) * rank.block_tokens

    def _reads(self, tiers: Tiers, rank: Rank, prompt: Prompt) -> None:
        """A prompt that is taken in reads what lower memories have of it."""
        number = self._together.number(rank)
        host = prompt.host + (tiers.state_tokens if prompt.state == IN_HOST else 0)
        storage = prompt.storage + (tiers.state_tokens if prompt.state == IN_STORAGE else 0)
        self._from_host[number] += host
        if storage:
            seconds = tiers.latency_s + storage * tiers.storage_s
            if tiers.prefetch:
                seconds -= min(seconds, self.env.now - self.book.queued_s[prompt.request])
            self._from_storage[number] += seconds

    def _reading_s(self, tiers: Tiers) -> float:
        """Seconds in which lower memories are read for a step: the host's over each rank's own links and over what a
        node's ranks share, and storage, of the node that reads longest; asked once per step.
        """
        own = shared = storage = 0.0
        size = tiers.ranks_per_host
        for first in range(0, len(self.ranks), size):
            host = self._from_host[first : first + size]
            own = max(own, max(host) * tiers.host_s)
            shared = max(shared, sum(host) * tiers.node_s)
            seconds = 0.0
            for one in self._from_storage[first : first + size]:
                seconds += one
            storage = max(storage, seconds)
        self._from_host, self._from_storage = [0] * len(self.ranks), [0.0] * len(self.ranks)
        return max(own, shared) + storage

    def _copying_s(self) -> float:
        """Seconds in which caches are copied before a step, of the rank that copies most; asked once per step."""
        most = max(self._copied)
        if not most:
            return 0.0
        self._copied = [0] * len(self.ranks)
        return most * (self.batching.swap_s_per_token or 0.0)

    def _prompt_step(self, taken: list[Prompt]) -> None:
        """One step that carries prompts; the rank with most sets its time."""
        mixed, together, step = self.batching.policy == "mixed", self._together, self.step
        prompt = attended = fullest = total = tokens = 0.0
        requests = 0
        for rank in {**together.prompting, **together.decoding} if mixed else together.prompting:
            own = 0
            if rank.prompts:
                own = sum(one.now for one in rank.prompts)
                pairs = sum(one.now * (one.done + one.now / 2.0) for one in rank.prompts)
                prompt, attended = max(prompt, own), max(attended, pairs)
            if mixed and rank.running:
                count = len(rank.running)
                requests, tokens = max(requests, count), max(tokens, rank.tokens(step))
                own += count * self.batching.tokens_per_decode
            total, fullest = total + own, max(fullest, own)
        even = total / (fullest * len(self.ranks))
        seconds = self.times.prompt_s(prompt, attended, requests, tokens, even)
        if self._tiers is not None:
            reading = self._reading_s(self._tiers)
            seconds = max(seconds, reading) if self._tiers.overlapped else seconds + reading
        seconds += self._copying_s()
        if self._sends is not None:
            for one in taken:
                found = 0 if one.begun else one.done
                self._sends.computing(one.request, one.now + found, seconds)
                one.begun = True
        self.prefilled_tokens += sum(one.now for one in taken)
        row = (self.env.now, self.number, seconds, 1, self._present - self._taken, self._taken)
        work = (requests, tokens, prompt, attended, even)
        self._after(seconds, lambda: self._prompt_done((*row, *work)))

    def _prompt_done(self, row: tuple[float, ...]) -> None:
        """``row`` is what is kept of the step."""
        self.book.runs.extend(row)
        if row[6]:
            self._decoded(1, self.env.now, self.env.now)
            self._end_finished()
        for rank in list(self._together.prompting):
            for prompt in [one for one in rank.prompts if one.now]:
                prompt.done += prompt.now
                rank.promised_tokens -= prompt.now
                prompt.now = 0
                if prompt.done == prompt.tokens:
                    self._prefilled(rank, prompt)
        self._next()

    def _prefilled(self, rank: Rank, prompt: Prompt) -> None:
        """A prompt's end is its request's first output, or its cache leaves."""
        book, request = self.book, prompt.request
        path, ends = self._path(request), book.steps[request] == 0
        book.prefilled_s[request] = self.env.now
        if self._sends is not None and not ends:
            rank.hand_over(prompt, path)
            self._together.file(rank)
            self._sends.computed(request)
            return
        found = rank.prefilled(prompt, path)
        self._output(request)
        if not ends:
            self._join(rank, request, prompt.tokens, *found)
            self._gaps.joined(request, self.env.now)
        else:
            self._together.file(rank)
            rank.keep(path, found[1], finished=True)
            book.end_s[request] = self.env.now
            self._done(request)

    def _output(self, request: int) -> None:
        """A request has an output from its prefill."""
        book, now = self.book, self.env.now
        if book.first_token_s[request] < 0.0:
            book.first_token_s[request] = now
        else:  # it lost its blocks: its next output comes now
            self._gaps.resumed(request, now)

    def _decode_run(self) -> None:
        """Decode steps until a request ends, blocks run out, or another rank becomes the fullest."""
        steps, requests, tokens, growth, even = self._together.decodes(self.step)
        if not self.batching.together:
            steps = min(steps, self._polled(self.step + 1) - self.step)
        if self.batching.poll_steps > 1 and self._together.queued:
            steps = min(steps, self._polled(self.step + 1) - self.step)  # until they are looked at
        if self._held_at >= 0:
            steps = min(steps, self._polled(self._held_at + self.batching.hold_steps) - self.step)
        sizes = self.batching.graph_batches
        if sizes and requests <= sizes[-1]:
            requests = sizes[bisect_left(sizes, requests)]
        run = self._run = DecodeRun(
            self.env.now,
            self.times,
            self._copying_s(),
            steps,
            requests,
            tokens,
            growth,
            even,
            self._present - self._taken,
            self._taken,
            self._stretch,
        )
        if self._receives is not None and self._receives.shares:
            self._leave_room(self.times.room(requests, even))
        self._after(run.seconds(steps), self._run_done)

    def _polled(self, step: int) -> int:
        """The first step, from ``step`` on, at whose end requests are looked at."""
        poll = self.batching.poll_steps
        return -(-step // poll) * poll

    def _cut(self) -> None:
        """End the run at the end of the step that is under way."""
        run = self._run
        assert run is not None
        if run.steps == 1 or run.cut:
            return
        passed = self.env.now - run.start_s
        steps = run.steps_after(passed)
        steps = self._polled(self.step + steps) - self.step
        if steps < run.steps:
            run.steps = steps
            self._after(max(0.0, run.seconds(steps) - passed), self._run_done)

    def settle(self) -> None:
        """Evict what a run's steps up to now have pushed out of the caches, so that a router sees what there is."""
        if self._run is not None and self._run.steps > 1:
            done = self._run.steps_after(self.env.now - self._run.start_s) - 1
            for rank in self.ranks:
                rank.trim(self.step + done + 1)

    def _run_done(self) -> None:
        run = self._run
        assert run is not None
        self._run = None
        if self._caches:
            for rank in self.ranks:  # what the last step pushed out, before those that end now give room back
                rank.trim(self.step + run.steps)
        self._keep_run(run)
        self._end_finished()
        self._next()

    def _keep_run(self, run: DecodeRun) -> None:
        """A run's steps are done: what is kept of them."""
        seconds = run.seconds(run.steps)
        first = run.seconds(1)
        middle = run.tokens + run.growth * (run.steps - 1) / 2.0
        row = (run.start_s, self.number, seconds, run.steps, run.waiting, run.held)
        self.book.runs.extend((*row, run.requests, middle, 0.0, 0.0, run.even))
        self._decoded(run.steps, run.start_s + first, run.start_s + seconds)
        if run.steps > 1:
            self._gaps.ran(first, (seconds - first) / (run.steps - 1), run.steps - 1)

    def _decoded(self, steps: int, first_end: float, last_end: float) -> None:
        """All running requests have decoded ``steps`` steps."""
        self._gaps.decoded(first_end, last_end)
        self.step += steps

    def _end_finished(self) -> None:
        """Take out requests whose last token has come."""
        now = self.env.now
        for rank, request, was in self._together.finished(self.step):
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

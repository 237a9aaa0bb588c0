"""One data-parallel rank of a replica: its queue, what it runs, and its KV blocks.

A request in decode holds base + growth x (S - start) tokens at the replica's decode step S, so that sums over requests
are two numbers, whatever the number of steps between two events.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from perfmodel.ops.memory import NOTHING, Beside
from perfmodel.serving.prefix_cache import Path, PrefixCache, prompt_path
from perfmodel.serving.tiers import NOWHERE


@dataclass(slots=True)
class Prompt:
    """A request that is being prefilled."""

    request: int
    tokens: int
    """Of the whole prompt (with what was generated before a preemption)."""
    blocks: int
    """Reserved for what was not found in the prefix cache."""
    nodes: int = 0
    """Of the prefix cache, locked."""
    done: int = 0
    """Tokens that need not be computed any more."""
    now: int = 0
    """Tokens in the step that runs."""
    begun: bool = False
    """Whether some of it has been computed here, or is being."""
    host: int = 0
    """Tokens that the host's memory had of it."""
    storage: int = 0
    """Tokens that a storage had of it."""
    state: int = NOWHERE
    """Which of them had the state that it goes on from."""


@dataclass(slots=True)
class Running:
    """A request that decodes."""

    base: float
    """Tokens in its cache at step ``start``."""
    start: int
    growth: float
    """Tokens per step, in the mean over its steps."""
    finish: int
    """Step whose end is its last token's."""
    shared: int = 0
    """Of its tokens, those in blocks of the prefix cache."""
    nodes: int = 0
    """Of the prefix cache, locked."""
    beside: int = 0
    """Blocks' worth of what it holds beside its tokens; of windows as they are when it ends."""


ROUNDING = 1e-9
"""Blocks; a state that fills whole ones takes no more."""


@dataclass(slots=True, eq=False)
class Rank:
    """Queue, running requests and blocks of one rank."""

    blocks: int
    """KV blocks in all."""
    block_tokens: int
    max_running: int
    watermark: float
    cache: PrefixCache | None = None
    """What is kept of prompts; None: nothing is."""
    beside: Beside = NOTHING
    """What each request holds beside its tokens (states, windows), in blocks."""
    waiting: deque[int] = field(default_factory=deque)
    prompts: list[Prompt] = field(default_factory=list)
    running: dict[int, Running] = field(default_factory=dict)
    """In order of joining."""
    incoming: dict[int, int] = field(default_factory=dict)
    """Requests whose prompts are computed elsewhere -> blocks reserved for them here."""
    arrived: dict[int, float] = field(default_factory=dict)
    """Of them, those whose caches are here, since when: they decode from the next step on."""
    sending: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Requests whose prompts are computed and leave -> (blocks, nodes of the prefix cache) held until they have."""
    outstanding: int = 0
    """Tokens of requests that are here and not finished."""
    prompt_blocks: int = 0
    """Held by prompts that are being prefilled, by what comes and by what leaves."""
    waiting_blocks: int = 0
    """Wanted by those that wait."""
    promised_tokens: int = 0
    """Prompt tokens of those that wait or are being prefilled, still to be computed."""
    growth: float = 0.0
    """Tokens that the caches of running requests gain per step, together."""
    _constant: float = 0.0
    _shared: int = 0
    _beside: int = 0
    _safe: float | None = None

    @property
    def held(self) -> int:
        """Requests that hold blocks."""
        return len(self.running) + len(self.prompts) + len(self.incoming) + len(self.sending)

    def tokens(self, step: int) -> float:
        """Tokens in the caches of running requests at ``step``."""
        return self._constant + self.growth * step

    @property
    def safe(self) -> float:
        """A step up to which what is held surely fits; it may fit a while longer (:meth:`fits`)."""
        if self._safe is None:
            locked = self.cache.locked_blocks if self.cache is not None else 0
            least = self.prompt_blocks + locked + len(self.running) + self._beside
            room = (self.blocks - least) * self.block_tokens
            free = room + self._shared - self._constant
            self._safe = free / self.growth if self.growth else math.copysign(math.inf, free)
        return self._safe

    def used_blocks(self, step: int) -> int:
        """KV blocks that are held at ``step``: whole ones of every request, and those of the cache that are locked."""
        return self._private_blocks(step) + (self.cache.locked_blocks if self.cache else 0)

    def _private_blocks(self, step: int) -> int:
        size = self.block_tokens
        held = sum(
            math.ceil((one.base - one.shared + one.growth * (step - one.start)) / size)
            for one in self.running.values()
        )
        return held + self._beside + self.prompt_blocks

    def trim(self, step: int) -> None:
        """Let the prefix cache have no more than what requests leave at ``step``."""
        if self.cache is not None and self.cache.blocks:
            self.cache.shrink(self.blocks - self._private_blocks(step))

    def fits(self, step: int, more: int = 0, keep_free: float = 0.0) -> bool:
        """Whether what is held at ``step``, and ``more`` blocks, leave the share ``keep_free`` of all blocks."""
        room = self.blocks * (1.0 - keep_free)
        bound = (
            (self.tokens(step) - self._shared) / self.block_tokens
            + len(self.running)
            + self.prompt_blocks
            + self._beside
            + more
        )
        if self.cache is not None:
            bound += self.cache.locked_blocks
        if bound - len(self.running) > room:  # not even without what is unused of each request's last block
            return False
        return bound <= room or self.used_blocks(step) + more <= room

    def has_room(self, tokens: int, step: int, path: Path = ()) -> bool:
        """Whether a prompt of ``tokens``, the beginning of ``path``, may be taken in at ``step``."""
        held = self.held
        if held >= self.max_running:
            return False
        return held == 0 or self.fits(step, self._wanted(tokens, path), self.watermark)

    def _wanted(self, tokens: int, path: Path) -> int:
        """Blocks that a prompt takes: its own, and those of the cache that it alone locks."""
        if self.cache is None or not path:
            return self.blocks_of(tokens)
        found, unlocked = self.cache.found(path)
        return self.blocks_of(max(tokens - found, 0)) + unlocked

    def blocks_of(self, tokens: int) -> int:
        """Blocks of a request with a prompt, and its first output token."""
        return -(-(tokens + 1) // self.block_tokens) + self.beside_blocks(tokens)

    def beside_blocks(self, tokens: int) -> int:
        """Blocks' worth of what a request with so many tokens holds beside them."""
        if self.beside == NOTHING:
            return 0
        return math.ceil(self.beside.of(float(tokens)) - ROUNDING)

    def has_room_behind_queue(self, tokens: int, step: int) -> bool:
        """Whether a prompt may be taken in once all that wait here are."""
        held = self.held + len(self.waiting)
        if held >= self.max_running:
            return False
        return held == 0 or self.fits(step, self.waiting_blocks + self.blocks_of(tokens), self.watermark)

    def wait(self, request: int, tokens: int, *, promised: int, first: bool = False) -> None:
        """A request that needs blocks for ``tokens`` joins the queue; ``promised`` of them are to be computed here."""
        (self.waiting.appendleft if first else self.waiting.append)(request)
        self.waiting_blocks += self.blocks_of(tokens)
        self.promised_tokens += promised

    def give_up(self, request: int, tokens: int, promised: int) -> None:
        """A request leaves the queue, from wherever it stands; see :meth:`wait`."""
        self.waiting.remove(request)
        self.waiting_blocks -= self.blocks_of(tokens)
        self.promised_tokens -= promised

    def admit(self, tokens: int, path: Path = ()) -> Prompt:
        """The first of the queue, whose prompt has ``tokens``, leaves it and gets its blocks; at least its last token
        has to be computed, whatever the cache has of it.
        """
        request = self._first(tokens)
        shared, nodes = self.cache.lock(path) if self.cache is not None else (0, 0)
        host, storage, state = self.cache.load(path, nodes) if self.cache is not None else (0, 0, NOWHERE)
        blocks = self.blocks_of(max(tokens - shared, 0))
        done = min(shared + host + storage, tokens - 1)
        host = min(host, max(done - shared, 0))
        storage = min(storage, max(done - shared - host, 0))
        prompt = Prompt(request, tokens, blocks, nodes, done=done, host=host, storage=storage, state=state)
        self.promised_tokens -= prompt.done
        self.prompts.append(prompt)
        self.prompt_blocks += blocks
        self._safe = None
        return prompt

    def _first(self, tokens: int) -> int:
        """The first of the queue, whose prompt or cache has ``tokens``, leaves it."""
        self.waiting_blocks -= self.blocks_of(tokens)
        return self.waiting.popleft()

    def reserve(self, tokens: int) -> int:
        """The first of the queue gets blocks for a prompt that is computed elsewhere."""
        request = self._first(tokens)
        self.incoming[request] = blocks = self.blocks_of(tokens)
        self.prompt_blocks += blocks
        self._safe = None
        return request

    def unreserve(self, request: int) -> None:
        """What was reserved is free, or the request's own, as :meth:`join` counts it."""
        self.prompt_blocks -= self.incoming.pop(request)
        self._safe = None

    def swap_in(self, tokens: int) -> int:
        """The first of the queue decodes again, with ``tokens`` in its cache: :meth:`join` follows."""
        return self._first(tokens)

    def hand_over(self, prompt: Prompt, path: Path = ()) -> None:
        """A prompt is done and leaves: what it has is held until it is sent."""
        shared, nodes = self.prefilled(prompt, path)
        blocks = -(-(prompt.tokens - shared) // self.block_tokens) + self.beside_blocks(prompt.tokens)
        if self.cache is not None and self.cache.checkpoints:  # here it ends now
            self.cache.add(prompt_path(path, prompt.tokens))
        self.sending[prompt.request] = (blocks, nodes)
        self.prompt_blocks += blocks
        self._safe = None

    def sent(self, request: int, path: Path = ()) -> None:
        """A request that left has arrived elsewhere."""
        blocks, nodes = self.sending.pop(request)
        self.prompt_blocks -= blocks
        self._safe = None
        self.keep(path, nodes, finished=False)

    def prefilled(self, prompt: Prompt, path: Path = ()) -> tuple[int, int]:
        """A prompt is done: its blocks go to the running request, and what others may share of it to the cache, whose
        tokens and nodes are returned and stay locked.
        """
        self.prompts.remove(prompt)
        self.prompt_blocks -= prompt.blocks
        self._safe = None
        if self.cache is None:
            return 0, 0
        if (
            self.cache.checkpoints
        ):  # what it has computed can be shared once it ends, with the state that it has then
            return self.cache.tokens_of(path, prompt.nodes), prompt.nodes
        computed = prompt_path(path, prompt.tokens)
        self.cache.add(computed)
        found = self.cache.lock(computed)
        self.cache.unlock(path, prompt.nodes)
        return found

    def keep(self, path: Path, nodes: int, *, finished: bool) -> None:
        """A request leaves: what it held of the cache is free to go, and if it has ended its own turn is kept too."""
        if self.cache is not None:
            self._safe = None
            self.cache.unlock(path, nodes)
            if finished:
                self.cache.add(path)

    def join(
        self, request: int, tokens: int, step: int, steps: int, growth: float, shared: int = 0, nodes: int = 0
    ) -> None:
        """A request decodes from ``step`` on, for ``steps`` steps; ``shared`` and ``nodes`` are what :meth:`prefilled`
        gave.
        """
        beside = self.beside_blocks(tokens + math.ceil(growth * steps))
        self.running[request] = Running(float(tokens), step, growth, step + steps, shared, nodes, beside)
        self._shared += shared
        self._beside += beside
        self._constant += tokens - growth * step
        self.growth += growth
        self._safe = None

    def preempt(self) -> tuple[int, Running]:
        """The request that joined last loses its blocks."""
        request = next(reversed(self.running))
        return request, self.leave(request)

    def clear(self) -> list[int]:
        """Everything that is here is lost: the requests, those that ran first. The counts of tokens promised to this
        rank and of what it runs start anew.
        """
        prompts = [prompt.request for prompt in self.prompts]
        lost = [*self.running, *self.incoming, *prompts, *self.sending, *self.waiting]
        for queue in (self.waiting, self.prompts, self.running, self.incoming, self.arrived, self.sending):
            queue.clear()
        self.prompt_blocks = self.waiting_blocks = self.promised_tokens = self._shared = self._beside = 0
        self._constant = self.growth = 0.0
        self._safe = None
        if self.cache is not None:
            self.cache = self.cache.emptied()
        return lost

    def leave(self, request: int) -> Running:
        """A running request runs no more."""
        one = self.running.pop(request)
        self._shared -= one.shared
        self._beside -= one.beside
        self._safe = None
        if self.running:
            self._constant -= one.base - one.growth * one.start
            self.growth -= one.growth
        else:  # rounding of the sums ends with the last request
            self._constant = self.growth = 0.0
        return one

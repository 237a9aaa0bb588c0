"""One rank's queue, prompts, running requests and blocks: :class:`perfmodel.serving.rank.Rank` on arrays."""

import math

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled import tiers, tree
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.lists import (
    COUNT,
    FIRST,
    INCOMING,
    NEXT,
    PROMPTS,
    RUNNING,
    SENDING,
    push_back,
    push_front,
    remove,
)
from perfmodel.serving.compiled.state import NONE, State
from perfmodel.serving.tiers import NOWHERE

ROUNDING = 1e-9
"""See :data:`perfmodel.serving.rank.ROUNDING`."""


@compiled
def queued(s: State, g: int) -> int:
    """Requests that wait."""
    return m.lists(s)[g, COUNT]


@compiled
def prompts(s: State, g: int) -> int:
    """Requests that are being prefilled."""
    return m.lists(s)[PROMPTS * s.num_ranks + g, COUNT]


@compiled
def running(s: State, g: int) -> int:
    """Requests that decode."""
    return m.lists(s)[RUNNING * s.num_ranks + g, COUNT]


@compiled
def held(s: State, g: int) -> int:
    """Requests that hold blocks."""
    count = running(s, g) + prompts(s, g)
    if s.apart:
        count += m.lists(s)[INCOMING * s.num_ranks + g, COUNT] + m.lists(s)[SENDING * s.num_ranks + g, COUNT]
    return count


@compiled
def tokens_at(s: State, g: int, step: int) -> float:
    """Tokens in the caches of running requests at ``step``."""
    return m.ranks(s)[g].constant + m.ranks(s)[g].growth * step


@compiled
def safe(s: State, g: int) -> float:
    """A step up to which what is held surely fits."""
    k, pool = m.ranks(s)[g], m.pool_of(s, g)
    least = k.prompt_blocks + k.locked_blocks + running(s, g) + k.beside
    free = (pool.blocks - least) * pool.block_tokens + k.shared - k.constant
    if k.growth != 0.0:
        return free / k.growth
    return math.copysign(math.inf, free)


@compiled
def private_blocks(s: State, g: int, step: int) -> int:
    """Whole blocks of every request."""
    size, total = m.pool_of(s, g).block_tokens, 0
    i = m.lists(s)[RUNNING * s.num_ranks + g, FIRST]
    while i != NONE:
        one = m.rows(s)[i]
        total += math.ceil((one.base - one.shared + one.growth * (step - one.start)) / size)
        i = m.holds(s)[i, NEXT]
    return total + m.ranks(s)[g].prompt_blocks + m.ranks(s)[g].beside


@compiled
def trim(s: State, g: int, step: int) -> None:
    """Let the prefix cache have no more than what requests leave at ``step``."""
    k, pool = m.ranks(s)[g], m.pool_of(s, g)
    if pool.caches == 0 or k.cache_blocks == 0:
        return
    most = (tokens_at(s, g, step) - k.shared) / pool.block_tokens + running(s, g) + k.beside
    if most + k.prompt_blocks + k.cache_blocks + 1.0 <= pool.blocks:  # all requests' last blocks included
        return
    tree.shrink(s, g, pool.blocks - private_blocks(s, g, step))


@compiled
def fits(s: State, g: int, step: int, more: int, keep_free: float) -> bool:
    """Whether what is held at ``step``, and ``more`` blocks, leave the share ``keep_free`` of all blocks."""
    k, pool = m.ranks(s)[g], m.pool_of(s, g)
    room = pool.blocks * (1.0 - keep_free)
    count = running(s, g)
    bound = (tokens_at(s, g, step) - k.shared) / pool.block_tokens + count + k.prompt_blocks + k.beside + more
    bound += k.locked_blocks
    if bound - count > room:
        return False
    return bound <= room or private_blocks(s, g, step) + k.locked_blocks + more <= room


@compiled
def beside(s: State, fixed: float, begin: int, end: int, tokens: float) -> float:
    """What a request keeps beside its tokens: :class:`perfmodel.ops.memory.Beside`."""
    total = 0.0
    for at in range(begin, end):
        total += min(tokens, m.windows(s)[at, 0]) * m.windows(s)[at, 1]
    return fixed + total


@compiled
def beside_blocks(s: State, g: int, tokens: int) -> int:
    """Blocks' worth of what a request with so many tokens holds beside them."""
    pool = m.pool_of(s, g)
    if pool.beside == 0.0 and pool.windows == pool.last_window:
        return 0
    return math.ceil(beside(s, pool.beside, pool.windows, pool.last_window, float(tokens)) - ROUNDING)


@compiled
def blocks_of(s: State, g: int, tokens: int) -> int:
    """Blocks of a prompt and its first output token, and what a request takes besides."""
    return -(-(tokens + 1) // m.pool_of(s, g).block_tokens) + beside_blocks(s, g, tokens)


@compiled
def copied_tokens(s: State, g: int, i: int) -> int:
    """Tokens that a swapped request's cache counts as, with what it keeps beside them."""
    tokens = m.rows(s)[i].prompt
    return tokens + beside_blocks(s, g, tokens) * m.pool_of(s, g).block_tokens


@compiled
def has_room(s: State, g: int, tokens: int, step: int, i: int) -> bool:
    """Whether a prompt of ``tokens`` may be taken in at ``step``; ``i`` is the request whose path it begins, or -1."""
    count, pool = held(s, g), m.pool_of(s, g)
    if count >= pool.max_running:
        return False
    if count == 0:
        return True
    if pool.caches == 0 or i == NONE or m.rows(s)[i].path_length == 0:
        return fits(s, g, step, blocks_of(s, g, tokens), pool.watermark)
    known, unlocked = tree.found(s, g, i)
    return fits(s, g, step, blocks_of(s, g, max(tokens - known, 0)) + unlocked, pool.watermark)


@compiled
def has_room_behind_queue(s: State, g: int, tokens: int, step: int) -> bool:
    """Whether a prompt may be taken in once all that wait here are."""
    count, pool = held(s, g) + queued(s, g), m.pool_of(s, g)
    if count >= pool.max_running:
        return False
    more = m.ranks(s)[g].waiting_blocks + blocks_of(s, g, tokens)
    return count == 0 or fits(s, g, step, more, pool.watermark)


@compiled
def comes_from_elsewhere(s: State, i: int) -> bool:
    """Whether the prompt of a request that waits is computed in another pool."""
    return s.apart and i < s.n and m.flows(s)[i].on_its_way


@compiled
def promised_of(s: State, i: int) -> int:
    """Tokens that are to be computed here for a request that waits."""
    return 0 if m.rows(s)[i].swapped or comes_from_elsewhere(s, i) else m.rows(s)[i].prompt


@compiled
def wait(s: State, g: int, i: int, first: bool) -> None:
    """A request joins the queue."""
    if first:
        push_front(m.lists(s), g, m.waits(s), i)
    else:
        push_back(m.lists(s), g, m.waits(s), i)
    m.ranks(s)[g].waiting_blocks += blocks_of(s, g, m.rows(s)[i].prompt)
    m.ranks(s)[g].promised += promised_of(s, i)


@compiled
def give_up(s: State, g: int, i: int) -> None:
    """It leaves it, from wherever it stands."""
    remove(m.lists(s), g, m.waits(s), i)
    m.ranks(s)[g].waiting_blocks -= blocks_of(s, g, m.rows(s)[i].prompt)
    m.ranks(s)[g].promised -= promised_of(s, i)


@compiled
def first_out(s: State, g: int, i: int) -> None:
    """The first of the queue leaves it."""
    m.ranks(s)[g].waiting_blocks -= blocks_of(s, g, m.rows(s)[i].prompt)
    remove(m.lists(s), g, m.waits(s), i)


@compiled
def admit(s: State, g: int, i: int) -> tuple[int, int, int]:
    """The first of the queue gets its blocks: a prompt; tokens of it that come from the host and from storage, and
    where the state behind them comes from.
    """
    one, k = m.rows(s)[i], m.ranks(s)[g]
    first_out(s, g, i)
    shared, nodes, host, storage, state = 0, 0, 0, 0, NOWHERE
    if m.pool_of(s, g).caches:
        shared, nodes = tree.lock(s, g, i, one.path_length)
        if m.pool_of(s, g).tiers:
            host, storage, state = tiers.load(s, g, i, nodes)
    one.blocks = blocks_of(s, g, max(one.prompt - shared, 0))
    one.prompt_nodes = nodes
    one.done = min(shared + host + storage, one.prompt - 1)
    host = min(host, max(one.done - shared, 0))
    storage = min(storage, max(one.done - shared - host, 0))
    one.now, one.begun = 0, 0
    k.promised -= one.done
    k.prompt_blocks += one.blocks
    push_back(m.lists(s), PROMPTS * s.num_ranks + g, m.holds(s), i)
    return host, storage, state


@compiled
def reserve(s: State, g: int, i: int) -> None:
    """The first of the queue gets blocks for a prompt that is computed elsewhere."""
    one = m.rows(s)[i]
    first_out(s, g, i)
    one.blocks = blocks_of(s, g, one.prompt)
    m.ranks(s)[g].prompt_blocks += one.blocks
    push_back(m.lists(s), INCOMING * s.num_ranks + g, m.holds(s), i)


@compiled
def unreserve(s: State, g: int, i: int) -> None:
    """What was reserved is free, or the request's own, as :func:`join` counts it."""
    m.ranks(s)[g].prompt_blocks -= m.rows(s)[i].blocks
    remove(m.lists(s), INCOMING * s.num_ranks + g, m.holds(s), i)


@compiled
def hand_over(s: State, g: int, i: int) -> None:
    """A prompt is done and leaves: what it has is held until it is sent."""
    one, pool = m.rows(s)[i], m.pool_of(s, g)
    shared, nodes = prefilled(s, g, i)
    one.blocks = -(-(one.prompt - shared) // pool.block_tokens) + beside_blocks(s, g, one.prompt)
    one.nodes = nodes
    if pool.caches and pool.states:  # here it ends now
        tree.add(s, g, i, tree.inside(s, i, one.prompt))
    m.ranks(s)[g].prompt_blocks += one.blocks
    push_back(m.lists(s), SENDING * s.num_ranks + g, m.holds(s), i)


@compiled
def sent(s: State, g: int, i: int) -> None:
    """A request that left has arrived elsewhere."""
    one = m.rows(s)[i]
    remove(m.lists(s), SENDING * s.num_ranks + g, m.holds(s), i)
    m.ranks(s)[g].prompt_blocks -= one.blocks
    keep(s, g, i, one.nodes, False)


@compiled
def prefilled(s: State, g: int, i: int) -> tuple[int, int]:
    """A prompt is done: what others may share of it goes to the cache, and stays locked."""
    one, pool = m.rows(s)[i], m.pool_of(s, g)
    remove(m.lists(s), PROMPTS * s.num_ranks + g, m.holds(s), i)
    m.ranks(s)[g].prompt_blocks -= one.blocks
    if pool.caches == 0:
        return 0, 0
    if pool.states:  # what it has computed can be shared once it ends, with the state that it has then
        return tree.tokens_of(s, g, i, one.prompt_nodes), one.prompt_nodes
    computed = tree.inside(s, i, one.prompt)
    tree.add(s, g, i, computed)
    shared, nodes = tree.lock(s, g, i, computed)
    tree.unlock(s, g, i, one.prompt_nodes)
    return shared, nodes


@compiled
def keep(s: State, g: int, i: int, nodes: int, finished: bool) -> None:
    """A request leaves: what it held of the cache is free to go, and its own turn is kept if it has ended."""
    if m.pool_of(s, g).caches:
        tree.unlock(s, g, i, nodes)
        if finished:
            tree.add(s, g, i, m.rows(s)[i].path_length)


@compiled
def join(s: State, g: int, i: int, tokens: int, step: int, shared: int, nodes: int) -> None:
    """A request with ``tokens`` in its cache decodes from ``step`` on."""
    one, k = m.rows(s)[i], m.ranks(s)[g]
    one.base, one.start, one.finish = float(tokens), step, step + one.steps
    one.shared, one.nodes = shared, nodes
    one.beside = beside_blocks(s, g, tokens + math.ceil(one.growth * one.steps))
    push_back(m.lists(s), RUNNING * s.num_ranks + g, m.holds(s), i)
    k.shared += shared
    k.beside += one.beside
    k.constant += tokens - one.growth * step
    k.growth += one.growth


@compiled
def leave(s: State, g: int, i: int) -> None:
    """A running request runs no more."""
    one, k = m.rows(s)[i], m.ranks(s)[g]
    remove(m.lists(s), RUNNING * s.num_ranks + g, m.holds(s), i)
    k.shared -= one.shared
    k.beside -= one.beside
    if running(s, g):
        k.constant -= one.base - one.growth * one.start
        k.growth -= one.growth
    else:
        k.constant, k.growth = 0.0, 0.0

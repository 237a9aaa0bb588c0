"""One rank's queue, prompts, running requests and blocks: :class:`perfmodel.serving.rank.Rank` on arrays."""

import math

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled import tree
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.lists import COUNT, FIRST, NEXT, push_back, push_front, remove
from perfmodel.serving.compiled.state import NONE, State


@compiled
def queued(s: State, g: int) -> int:
    """Requests that wait."""
    return m.lists(s)[g, COUNT]


@compiled
def prompts(s: State, g: int) -> int:
    """Requests that are being prefilled."""
    return m.lists(s)[s.num_ranks + g, COUNT]


@compiled
def running(s: State, g: int) -> int:
    """Requests that decode."""
    return m.lists(s)[2 * s.num_ranks + g, COUNT]


@compiled
def held(s: State, g: int) -> int:
    """Requests that hold blocks."""
    return running(s, g) + prompts(s, g)


@compiled
def tokens_at(s: State, g: int, step: int) -> float:
    """Tokens in the caches of running requests at ``step``."""
    return m.ranks(s)[g].constant + m.ranks(s)[g].growth * step


@compiled
def safe(s: State, g: int) -> float:
    """A step up to which what is held surely fits."""
    k = m.ranks(s)[g]
    count = running(s, g) * (1 + s.request_blocks)
    room = (s.blocks - k.prompt_blocks - k.locked_blocks - count) * s.block_tokens
    free = room + k.shared - k.constant
    if k.growth != 0.0:
        return free / k.growth
    return math.copysign(math.inf, free)


@compiled
def private_blocks(s: State, g: int, step: int) -> int:
    """Whole blocks of every request."""
    size, total = s.block_tokens, 0
    i = m.lists(s)[2 * s.num_ranks + g, FIRST]
    while i != NONE:
        one = m.rows(s)[i]
        total += math.ceil((one.base - one.shared + one.growth * (step - one.start)) / size)
        i = m.holds(s)[i, NEXT]
    return total + m.ranks(s)[g].prompt_blocks + s.request_blocks * running(s, g)


@compiled
def trim(s: State, g: int, step: int) -> None:
    """Let the prefix cache have no more than what requests leave at ``step``."""
    k = m.ranks(s)[g]
    if s.caches == 0 or k.cache_blocks == 0:
        return
    most = (tokens_at(s, g, step) - k.shared) / s.block_tokens + running(s, g) * (1 + s.request_blocks)
    if most + k.prompt_blocks + k.cache_blocks + 1.0 <= s.blocks:  # all requests' last blocks included
        return
    tree.shrink(s, g, s.blocks - private_blocks(s, g, step))


@compiled
def fits(s: State, g: int, step: int, more: int, keep_free: float) -> bool:
    """Whether what is held at ``step``, and ``more`` blocks, leave the share ``keep_free`` of all blocks."""
    k = m.ranks(s)[g]
    room = s.blocks * (1.0 - keep_free)
    count = running(s, g)
    bound = (tokens_at(s, g, step) - k.shared) / s.block_tokens + count + k.prompt_blocks + more
    bound += s.request_blocks * count
    bound += k.locked_blocks
    if bound - count > room:
        return False
    return bound <= room or private_blocks(s, g, step) + k.locked_blocks + more <= room


@compiled
def blocks_of(s: State, tokens: int) -> int:
    """Blocks of a prompt and its first output token, and what a request takes besides."""
    return -(-(tokens + 1) // s.block_tokens) + s.request_blocks


@compiled
def has_room(s: State, g: int, tokens: int, step: int, i: int) -> bool:
    """Whether a prompt of ``tokens`` may be taken in at ``step``; ``i`` is the request whose path it begins, or -1."""
    count = held(s, g)
    if count >= s.max_running:
        return False
    if count == 0:
        return True
    if s.caches == 0 or i == NONE or m.rows(s)[i].path_length == 0:
        return fits(s, g, step, blocks_of(s, tokens), s.watermark)
    known, unlocked = tree.found(s, g, i)
    return fits(s, g, step, blocks_of(s, max(tokens - known, 0)) + unlocked, s.watermark)


@compiled
def has_room_behind_queue(s: State, g: int, tokens: int, step: int) -> bool:
    """Whether a prompt may be taken in once all that wait here are."""
    count = held(s, g) + queued(s, g)
    if count >= s.max_running:
        return False
    return count == 0 or fits(s, g, step, m.ranks(s)[g].waiting_blocks + blocks_of(s, tokens), s.watermark)


@compiled
def promised_of(s: State, i: int) -> int:
    """Tokens that are to be computed for a request that waits."""
    return 0 if m.rows(s)[i].swapped else m.rows(s)[i].prompt


@compiled
def wait(s: State, g: int, i: int, first: bool) -> None:
    """A request joins the queue."""
    if first:
        push_front(m.lists(s), g, m.waits(s), i)
    else:
        push_back(m.lists(s), g, m.waits(s), i)
    m.ranks(s)[g].waiting_blocks += blocks_of(s, m.rows(s)[i].prompt)
    m.ranks(s)[g].promised += promised_of(s, i)


@compiled
def give_up(s: State, g: int, i: int) -> None:
    """It leaves it, from wherever it stands."""
    remove(m.lists(s), g, m.waits(s), i)
    m.ranks(s)[g].waiting_blocks -= blocks_of(s, m.rows(s)[i].prompt)
    m.ranks(s)[g].promised -= promised_of(s, i)


@compiled
def first_out(s: State, g: int, i: int) -> None:
    """The first of the queue leaves it."""
    m.ranks(s)[g].waiting_blocks -= blocks_of(s, m.rows(s)[i].prompt)
    remove(m.lists(s), g, m.waits(s), i)


@compiled
def admit(s: State, g: int, i: int) -> None:
    """The first of the queue gets its blocks: a prompt."""
    one, k = m.rows(s)[i], m.ranks(s)[g]
    first_out(s, g, i)
    shared, nodes = 0, 0
    if s.caches:
        shared, nodes = tree.lock(s, g, i, one.path_length)
    one.blocks = blocks_of(s, max(one.prompt - shared, 0))
    one.prompt_nodes = nodes
    one.done = min(shared, one.prompt - 1)
    one.now = 0
    k.promised -= one.done
    k.prompt_blocks += one.blocks
    push_back(m.lists(s), s.num_ranks + g, m.holds(s), i)


@compiled
def prefilled(s: State, g: int, i: int) -> tuple[int, int]:
    """A prompt is done: what others may share of it goes to the cache, and stays locked."""
    one = m.rows(s)[i]
    remove(m.lists(s), s.num_ranks + g, m.holds(s), i)
    m.ranks(s)[g].prompt_blocks -= one.blocks
    if s.caches == 0:
        return 0, 0
    if s.states:  # what it has computed can be shared once it ends, with the state that it has then
        return tree.tokens_of(s, g, i, one.prompt_nodes), one.prompt_nodes
    computed = tree.inside(s, i, one.prompt)
    tree.add(s, g, i, computed)
    shared, nodes = tree.lock(s, g, i, computed)
    tree.unlock(s, g, i, one.prompt_nodes)
    return shared, nodes


@compiled
def keep(s: State, g: int, i: int, nodes: int, finished: bool) -> None:
    """A request leaves: what it held of the cache is free to go, and its own turn is kept if it has ended."""
    if s.caches:
        tree.unlock(s, g, i, nodes)
        if finished:
            tree.add(s, g, i, m.rows(s)[i].path_length)


@compiled
def join(s: State, g: int, i: int, tokens: int, step: int, shared: int, nodes: int) -> None:
    """A request with ``tokens`` in its cache decodes from ``step`` on."""
    one, k = m.rows(s)[i], m.ranks(s)[g]
    one.base, one.start, one.finish = float(tokens), step, step + one.steps
    one.shared, one.nodes = shared, nodes
    push_back(m.lists(s), 2 * s.num_ranks + g, m.holds(s), i)
    k.shared += shared
    k.constant += tokens - one.growth * step
    k.growth += one.growth


@compiled
def leave(s: State, g: int, i: int) -> None:
    """A running request runs no more."""
    one, k = m.rows(s)[i], m.ranks(s)[g]
    remove(m.lists(s), 2 * s.num_ranks + g, m.holds(s), i)
    k.shared -= one.shared
    if running(s, g):
        k.constant -= one.base - one.growth * one.start
        k.growth -= one.growth
    else:
        k.constant, k.growth = 0.0, 0.0

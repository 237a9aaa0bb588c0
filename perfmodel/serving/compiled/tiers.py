"""Memories below the GPU's: :mod:`perfmodel.serving.tiers` on arrays; each is a list of nodes by their last use."""

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled.hashed import free_node, new_node, node_of
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.state import NONE, State
from perfmodel.serving.compiled.used import link, unlink
from perfmodel.serving.tiers import IN_HOST, IN_STORAGE, NOWHERE

# --- one memory -----------------------------------------------------------------------------------------------------


@compiled
def _held(s: State, t: int, key: int) -> int:
    """Its node of a key; -1: none."""
    return node_of(s, s.num_ranks + t, key)


@compiled
def _touch(s: State, t: int, key: int) -> None:
    if t == NONE:
        return
    node = _held(s, t, key)
    if node != NONE and m.tiers(s)[t].newest != node:
        unlink(s, m.tiers(s)[t], node)
        link(s, m.tiers(s)[t], node)


@compiled
def _put(s: State, t: int, key: int, blocks: int, state: int) -> None:
    """It is here, used last; with a checkpoint of ``state`` blocks, or as it is (0)."""
    node = _held(s, t, key)
    if node == NONE:
        node = new_node(s, s.num_ranks + t, key)
        m.nodes(s)[node].blocks, m.nodes(s)[node].restarts = blocks, 0
        m.tiers(s)[t].blocks += blocks
        link(s, m.tiers(s)[t], node)
    elif m.tiers(s)[t].newest != node:
        unlink(s, m.tiers(s)[t], node)
        link(s, m.tiers(s)[t], node)
    one = m.nodes(s)[node]
    if state and not one.restarts:
        one.restarts = 1
        one.blocks += state
        m.tiers(s)[t].blocks += state


@compiled
def _restarts(s: State, t: int, key: int) -> bool:
    """Whether it has a checkpoint there."""
    return t != NONE and _held(s, t, key) != NONE and m.nodes(s)[_held(s, t, key)].restarts == 1


@compiled
def _go(s: State, t: int, node: int) -> None:
    """A node is here no more."""
    m.tiers(s)[t].blocks -= m.nodes(s)[node].blocks
    unlink(s, m.tiers(s)[t], node)
    free_node(s, node)


@compiled
def _drop(s: State, t: int, key: int) -> None:
    node = _held(s, t, key)
    if node != NONE:
        _go(s, t, node)


@compiled
def _shrink(s: State, t: int) -> None:
    """Let the least recently used go until the rest fits."""
    while m.tiers(s)[t].blocks > m.tiers(s)[t].room:
        _go(s, t, m.tiers(s)[t].oldest)


@compiled
def clear(s: State, t: int) -> None:
    """Everything is lost."""
    while m.tiers(s)[t].oldest != NONE:
        _go(s, t, m.tiers(s)[t].oldest)


# --- what lies below a rank -----------------------------------------------------------------------------------------


@compiled
def found(s: State, g: int, i: int, first: int) -> tuple[int, int, int, int]:
    """Of what follows behind the first nodes of a path, up to the last that a prompt can go on from: tokens that the
    host has, that storage has, how many nodes that are, and where the state is read from.
    """
    host, storage, nodes, upto = 0, 0, 0, 0
    usable = (0, 0, 0, NOWHERE)
    h, t, pool = m.ranks(s)[g].host, m.ranks(s)[g].storage, m.pool_of(s, g)
    unit = pool.interval if pool.states else pool.block_tokens
    begin = m.rows(s)[i].path
    for at in range(m.rows(s)[i].path_length):
        before, upto = upto, upto + m.path_tokens(s)[begin + at]
        if at < first:
            continue
        key, tokens = m.path_keys(s)[begin + at], (upto // unit - before // unit) * unit
        if h != NONE and _held(s, h, key) != NONE:
            host += tokens
        elif t != NONE and _held(s, t, key) != NONE:
            storage += tokens
        else:
            break
        nodes += 1
        if pool.states == 0:
            usable = (host, storage, nodes, NOWHERE)
        elif _restarts(s, h, key):
            usable = (host, storage, nodes, IN_HOST)
        elif _restarts(s, t, key):
            usable = (host, storage, nodes, IN_STORAGE)
    return usable


@compiled
def used(s: State, g: int, i: int, first: int, nodes: int) -> None:
    """A request goes on from its path's first nodes, of which ``nodes`` from ``first`` on come from here."""
    h, t, begin = m.ranks(s)[g].host, m.ranks(s)[g].storage, m.rows(s)[i].path
    for at in range(m.rows(s)[i].path_length - 1, -1, -1):
        _touch(s, h, m.path_keys(s)[begin + at])
        _touch(s, t, m.path_keys(s)[begin + at])
    if m.pool_of(s, g).write_back and h != NONE:  # they move up
        for at in range(first, first + nodes):
            _drop(s, h, m.path_keys(s)[begin + at])


@compiled
def load(s: State, g: int, i: int, nodes: int) -> tuple[int, int, int]:
    """Tokens behind the leading ``nodes`` of a path that come from the host's memory and from storage, and where the
    state behind them does.
    """
    if m.rows(s)[i].path_length == 0:
        return 0, 0, NOWHERE
    host, storage, loaded, state = found(s, g, i, nodes)
    used(s, g, i, nodes, loaded)
    return host, storage, state


@compiled
def written(s: State, g: int, i: int, length: int) -> None:
    """The first ``length`` nodes of a path have been computed, and are in the GPU's memory."""
    h, t, begin = m.ranks(s)[g].host, m.ranks(s)[g].storage, m.rows(s)[i].path
    if m.pool_of(s, g).write_back:
        if h != NONE:
            for at in range(length):
                _drop(s, h, m.path_keys(s)[begin + at])
        return
    if h != NONE:
        _write(s, g, h, begin, length)
    if t != NONE:
        _write(s, g, t, begin, length)


@compiled
def _write(s: State, g: int, t: int, begin: int, length: int) -> None:
    """A path's nodes into one memory, leaves first."""
    upto, size = 0, m.pool_of(s, g).block_tokens
    for at in range(begin, begin + length):
        upto += m.path_tokens(s)[at]
    for at in range(begin + length - 1, begin - 1, -1):
        before, key, state = upto - m.path_tokens(s)[at], m.path_keys(s)[at], 0
        if m.pool_of(s, g).states and m.nodes(s)[node_of(s, g, key)].restarts:
            state = m.pool_of(s, g).checkpoint_blocks
        _put(s, t, key, upto // size - before // size, state)
        upto = before
    _shrink(s, t)


@compiled
def evicted(s: State, g: int, key: int, blocks: int) -> None:
    """The GPU's memory has let a node go."""
    if m.pool_of(s, g).write_back == 0:
        return
    h, t = m.ranks(s)[g].host, m.ranks(s)[g].storage
    if h == NONE:
        if t != NONE:
            _put(s, t, key, blocks, 0)
            _shrink(s, t)
        return
    _put(s, h, key, blocks, 0)
    while m.tiers(s)[h].blocks > m.tiers(s)[h].room:
        node = m.tiers(s)[h].oldest
        key, blocks = m.nodes(s)[node].key, m.nodes(s)[node].blocks
        _go(s, h, node)
        if t != NONE:
            _put(s, t, key, blocks, 0)
            _shrink(s, t)


# --- reading --------------------------------------------------------------------------------------------------------


@compiled
def reads(s: State, g: int, i: int, host: int, storage: int, state: int) -> None:
    """A prompt that is taken in reads what lower memories have of it, and the state behind that."""
    k, pool = m.ranks(s)[g], m.pool_of(s, g)
    host += pool.state_tokens if state == IN_HOST else 0
    storage += pool.state_tokens if state == IN_STORAGE else 0
    k.from_host += host
    if storage:
        seconds = pool.storage_latency + storage * pool.storage_s
        if pool.prefetch:
            seconds -= min(seconds, s.now - m.rows(s)[i].queued)
        k.from_storage += seconds


@compiled
def reading_s(s: State, r: int) -> float:
    """Seconds in which lower memories are read for a step; asked once per step."""
    own, shared, storage = 0.0, 0.0, 0.0
    pool = m.pool_with(s, r)
    begin, end = m.rank_range(s, r)
    for first in range(begin, end, pool.per_host):
        most, total, seconds = 0, 0, 0.0
        for g in range(first, min(first + pool.per_host, end)):
            k = m.ranks(s)[g]
            most = max(most, k.from_host)
            total += k.from_host
            seconds += k.from_storage
            k.from_host, k.from_storage = 0, 0.0
        own = max(own, most * pool.host_s)
        shared = max(shared, total * pool.node_s)
        storage = max(storage, seconds)
    return max(own, shared) + storage

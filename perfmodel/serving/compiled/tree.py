"""What ranks keep of prompts: :class:`perfmodel.serving.prefix_cache.PrefixCache`, all trees in one table
(:mod:`perfmodel.serving.compiled.hashed`); the order of use is a list per rank.
"""

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled import tiers
from perfmodel.serving.compiled.hashed import free_node, new_node, node_of
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.state import NONE, State
from perfmodel.serving.compiled.used import link, unlink


@compiled
def _touch(s: State, g: int, i: int, length: int) -> None:
    begin = m.rows(s)[i].path
    for at in range(begin + length - 1, begin - 1, -1):
        node = node_of(s, g, m.path_keys(s)[at])
        if node != NONE and m.ranks(s)[g].newest != node:
            unlink(s, m.ranks(s)[m.nodes(s)[node].rank], node)
            link(s, m.ranks(s)[m.nodes(s)[node].rank], node)


@compiled
def found(s: State, g: int, i: int) -> tuple[int, int]:
    """Leading tokens of a request's path that are here, up to the last node that a prompt can go on from, and how many
    of their blocks nobody has locked.
    """
    tokens, unlocked, usable, free = 0, 0, 0, 0
    begin = m.rows(s)[i].path
    for at in range(begin, begin + m.rows(s)[i].path_length):
        node = node_of(s, g, m.path_keys(s)[at])
        if node == NONE:
            break
        one = m.nodes(s)[node]
        tokens += one.tokens
        if one.locks == 0:
            unlocked += one.blocks
        if one.restarts:
            usable, free = tokens, unlocked
    return usable, free


@compiled
def known(s: State, g: int, i: int) -> int:
    """Leading tokens of a request's path that are here or in the memory of this rank's host."""
    tokens = found(s, g, i)[0]
    if m.pool_of(s, g).tiers == 0:
        return tokens
    begin, nodes = m.rows(s)[i].path, 0
    for at in range(m.rows(s)[i].path_length):
        node = node_of(s, g, m.path_keys(s)[begin + at])
        if node == NONE:
            break
        if m.nodes(s)[node].restarts:
            nodes = at + 1
    return tokens + tiers.found(s, g, i, nodes)[0]


@compiled
def lock(s: State, g: int, i: int, length: int) -> tuple[int, int]:
    """Lock the nodes that :func:`found` counts, of a path's first ``length``: their tokens, and how many they are."""
    total, nodes = 0, 0
    begin = m.rows(s)[i].path
    for at in range(begin, begin + length):
        node = node_of(s, g, m.path_keys(s)[at])
        if node == NONE:
            break
        if m.nodes(s)[node].restarts:
            nodes = at - begin + 1
    for at in range(begin, begin + nodes):
        one = m.nodes(s)[node_of(s, g, m.path_keys(s)[at])]
        if one.locks == 0:
            m.ranks(s)[g].locked_blocks += one.blocks
        one.locks += 1
        total += one.tokens
    _touch(s, g, i, length)
    return total, nodes


@compiled
def unlock(s: State, g: int, i: int, nodes: int) -> None:
    """Undo a lock of so many nodes."""
    begin = m.rows(s)[i].path
    for at in range(begin, begin + nodes):
        one = m.nodes(s)[node_of(s, g, m.path_keys(s)[at])]
        one.locks -= 1
        if one.locks == 0:
            m.ranks(s)[g].locked_blocks -= one.blocks


@compiled
def _keep_state(s: State, node: int) -> None:
    """Keep a checkpoint at a node's end, if it has none."""
    one = m.nodes(s)[node]
    rank = m.ranks(s)[one.rank]
    pool = m.pools(s)[rank.pool]
    if pool.states == 0 or one.restarts:
        return
    one.restarts = 1
    rank.cache_blocks += pool.checkpoint_blocks


@compiled
def add(s: State, g: int, i: int, length: int) -> None:
    """Keep the first ``length`` nodes of a path; those that are here already stay as they are."""
    pool = m.pool_of(s, g)
    parent, upto, size = NONE, 0, pool.block_tokens
    unit = pool.interval if pool.states else size
    begin = m.rows(s)[i].path
    for at in range(begin, begin + length):
        first, upto = upto, upto + m.path_tokens(s)[at]
        node = node_of(s, g, m.path_keys(s)[at])
        if node == NONE:
            node = new_node(s, g, m.path_keys(s)[at])
            one = m.nodes(s)[node]
            one.blocks = upto // size - first // size
            one.tokens = (upto // unit - first // unit) * unit
            one.restarts = 0 if pool.states else 1
            one.locks, one.children, one.parent = 0, 0, parent
            link(s, m.ranks(s)[m.nodes(s)[node].rank], node)
            m.ranks(s)[g].cache_blocks += one.blocks
            if parent != NONE:
                m.nodes(s)[parent].children += 1
                if m.nodes(s)[parent].children > 1:
                    _keep_state(s, parent)
        parent = node
    if parent != NONE:
        _keep_state(s, parent)
    _touch(s, g, i, length)
    if pool.tiers:
        tiers.written(s, g, i, length)


@compiled
def _evict(s: State, node: int) -> None:
    one = m.nodes(s)[node]
    unlink(s, m.ranks(s)[m.nodes(s)[node].rank], node)
    m.ranks(s)[one.rank].cache_blocks -= one.blocks
    pool = m.pool_of(s, one.rank)
    if pool.states and one.restarts:
        m.ranks(s)[one.rank].cache_blocks -= pool.checkpoint_blocks
    if one.parent != NONE:
        m.nodes(s)[one.parent].children -= 1
    free_node(s, node)


@compiled
def shrink(s: State, g: int, room: int) -> None:
    """Evict until at most ``room`` blocks are held, or all that are left are locked."""
    node, below = m.ranks(s)[g].oldest, m.pool_of(s, g).tiers
    while m.ranks(s)[g].cache_blocks > room and node != NONE:
        one = m.nodes(s)[node]
        after = one.newer
        if one.locks == 0 and one.children == 0:
            key, blocks = one.key, one.blocks
            _evict(s, node)
            if below:
                tiers.evicted(s, g, key, blocks)
        node = after
    if m.pool_of(s, g).states:
        _drop_states(s, g, room)


@compiled
def _drop_states(s: State, g: int, room: int) -> None:
    """Let checkpoints go, too: who went on from there has a state of their own."""
    node = m.ranks(s)[g].oldest
    while m.ranks(s)[g].cache_blocks > room and node != NONE:
        one = m.nodes(s)[node]
        if one.restarts:
            one.restarts = 0
            m.ranks(s)[g].cache_blocks -= m.pool_of(s, g).checkpoint_blocks
        node = one.newer


@compiled
def tokens_of(s: State, g: int, i: int, nodes: int) -> int:
    """Tokens of the leading ``nodes`` of a path, which are there."""
    total, begin = 0, m.rows(s)[i].path
    for at in range(begin, begin + nodes):
        total += m.nodes(s)[node_of(s, g, m.path_keys(s)[at])].tokens
    return total


@compiled
def clear(s: State, g: int) -> None:
    """Everything is lost."""
    node = m.ranks(s)[g].newest
    while node != NONE:  # children before their parents or after: nobody looks at them any more
        after = m.nodes(s)[node].older
        _evict(s, node)
        node = after
    m.ranks(s)[g].cache_blocks = 0
    m.ranks(s)[g].locked_blocks = 0
    if m.pool_of(s, g).tiers and m.ranks(s)[g].host != NONE:
        tiers.clear(s, m.ranks(s)[g].host)


@compiled
def inside(s: State, i: int, tokens: int) -> int:
    """Nodes of a path that lie whole inside a prompt of ``tokens``: see ``prompt_path``."""
    total, begin = 0, m.rows(s)[i].path
    for count in range(m.rows(s)[i].path_length):
        total += m.path_tokens(s)[begin + count]
        if total > tokens:
            return count
    return m.rows(s)[i].path_length

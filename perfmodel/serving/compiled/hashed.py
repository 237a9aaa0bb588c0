"""Nodes of prefix trees and of the memories below them: one table, found by (rank, key) in a hash table with open
addressing. A memory counts as a rank behind all others.
"""

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.state import NONE, State


@compiled
def _hash(rank: int, key: int, mask: int) -> int:
    mixed = (key * 0x9E3779B1 + rank * 0x85EBCA77) & 0x7FFFFFFFFFFF
    mixed ^= mixed >> 17
    return ((mixed * 0x2C1B3C6D) >> 12) & mask


@compiled
def node_of(s: State, g: int, key: int) -> int:
    """The node of a key in a rank's tree; -1: none."""
    mask = s.num_slots - 1
    at = _hash(g, key, mask)
    while True:
        found = m.slots(s)[at]
        if found == NONE:
            return NONE
        one = m.nodes(s)[found]
        if one.key == key and one.rank == g:
            return found
        at = (at + 1) & mask


@compiled
def index_node(s: State, node: int) -> None:
    """The hash table learns of a node."""
    mask = s.num_slots - 1
    at = _hash(m.nodes(s)[node].rank, m.nodes(s)[node].key, mask)
    while m.slots(s)[at] != NONE:
        at = (at + 1) & mask
    m.slots(s)[at] = node


@compiled
def new_node(s: State, g: int, key: int) -> int:
    """A node of a rank and key, which both tables know of."""
    node = s.free_node
    one = m.nodes(s)[node]
    s.free_node = one.newer
    s.num_nodes += 1
    one.key, one.rank = key, g
    index_node(s, node)
    return node


@compiled
def free_node(s: State, node: int) -> None:
    """It is nobody's any more, and in no list."""
    _forget(s, node)
    m.nodes(s)[node].newer = s.free_node
    s.free_node = node
    s.num_nodes -= 1


@compiled
def _forget(s: State, node: int) -> None:
    """The hash table forgets one; what stands behind moves up, so that nothing is cut off."""
    mask = s.num_slots - 1
    at = _hash(m.nodes(s)[node].rank, m.nodes(s)[node].key, mask)
    while m.slots(s)[at] != node:
        at = (at + 1) & mask
    hole = at
    while True:
        at = (at + 1) & mask
        other = m.slots(s)[at]
        if other == NONE:
            break
        home = _hash(m.nodes(s)[other].rank, m.nodes(s)[other].key, mask)
        if ((at - home) & mask) >= ((at - hole) & mask):
            m.slots(s)[hole] = other
            hole = at
    m.slots(s)[hole] = NONE

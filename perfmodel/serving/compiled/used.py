"""Nodes by their last use: a list that a rank (a prefix tree's) or a memory below it has, the oldest first."""

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.state import NONE, Array, State


@compiled
def link(s: State, owner: Array, node: int) -> None:
    """Used last."""
    one = m.nodes(s)[node]
    one.older, one.newer = owner.newest, NONE
    if owner.newest == NONE:
        owner.oldest = node
    else:
        m.nodes(s)[owner.newest].newer = node
    owner.newest = node


@compiled
def unlink(s: State, owner: Array, node: int) -> None:
    """Out of the order."""
    one = m.nodes(s)[node]
    if one.older == NONE:
        owner.oldest = one.newer
    else:
        m.nodes(s)[one.older].newer = one.newer
    if one.newer == NONE:
        owner.newest = one.older
    else:
        m.nodes(s)[one.newer].older = one.older

"""What one rank keeps of prompts that it has computed: a tree of shared beginnings, the least recently used goes first.

A prompt is a path of nodes, each a stretch of tokens that is the same wherever its key is: a shared prefix, a turn of a
session (its new tokens and its answer), a block of a trace's hashes. Only whole KV blocks are kept, counted from the
prompt's first token: a node has those that end inside it, which may be none. Nodes on the path of a request that runs
are locked; the others are free room in waiting.

A state (of linear attention, of a state-space layer) cannot be cut at a token: a prompt can only go on from where a
checkpoint of it was kept. One is kept where a path that was added ends, and where paths part, once they do
(https://github.com/sgl-project/sglang/pull/14792: branching points), each at a multiple of an interval. What lies
behind the last checkpoint on a prompt's path is computed again, cached or not. A path is added when its request ends.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from perfmodel.serving.requests import Requests
from perfmodel.serving.tiers import NOWHERE, Below, Stretch

Path = tuple[tuple[int, int], ...]
"""Nodes from the prompt's first token on: (key, tokens)."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """How states are kept."""

    interval_tokens: int
    """Checkpoints lie at multiples of so many tokens of a prompt."""
    blocks: int
    """KV blocks' worth of one."""


@dataclass(slots=True)
class _Node:
    tokens: int
    blocks: int
    locks: int = 0
    children: int = 0
    parent: int | None = None
    restarts: bool = True
    """Whether a prompt can go on from its end."""


class PrefixCache:
    """The tree of one rank."""

    def __init__(
        self, block_tokens: int, checkpoints: Checkpoints | None = None, below: Below | None = None
    ) -> None:
        """An empty tree whose nodes are counted in blocks of ``block_tokens``; ``below`` keeps what it lets go."""
        self.block_tokens, self.checkpoints, self.below = block_tokens, checkpoints, below
        self.blocks = self.locked_blocks = 0
        self._nodes: OrderedDict[int, _Node] = OrderedDict()

    def found(self, path: Path) -> tuple[int, int]:
        """Leading tokens of a path that are here, and how many of their blocks nobody has locked."""
        tokens = unlocked = 0
        for node in self._leading(path):
            tokens += node.tokens
            unlocked += 0 if node.locks else node.blocks
        return tokens, unlocked

    def _leading(self, path: Path) -> list[_Node]:
        """The leading nodes of a path that are here, up to the last that a prompt can go on from."""
        nodes: list[_Node] = []
        usable = 0
        for key, _ in path:
            node = self._nodes.get(key)
            if node is None:
                break
            nodes.append(node)
            if node.restarts:
                usable = len(nodes)
        return nodes[:usable]

    def _stretches(self, path: Path) -> list[Stretch]:
        """A path's nodes as memories below count them."""
        found, upto, size = [], 0, self.block_tokens
        unit = self.checkpoints.interval_tokens if self.checkpoints else size
        for key, tokens in path:
            begin, upto = upto, upto + tokens
            kept = (upto // unit - begin // unit) * unit
            found.append((key, kept, upto // size - begin // size))
        return found

    def known(self, path: Path) -> int:
        """Leading tokens of a path that are here or in the memory of this rank's host."""
        tokens = self.found(path)[0]
        if self.below is None:
            return tokens
        return tokens + self.below.found(self._stretches(path)[len(self._leading(path)) :])[0]

    def load(self, path: Path, nodes: int) -> tuple[int, int, int]:
        """Tokens behind the leading ``nodes`` of a path that come from the host's memory and from storage, and where
        the state behind them does.
        """
        if self.below is None or not path:
            return 0, 0, NOWHERE
        stretches = self._stretches(path)
        host, storage, loaded, state = self.below.found(stretches[nodes:])
        self.below.used(stretches, nodes, loaded)
        return host, storage, state

    def tokens_of(self, path: Path, nodes: int) -> int:
        """Tokens of the leading ``nodes`` of a path."""
        return sum(self._nodes[key].tokens for key, _ in path[:nodes])

    def emptied(self) -> "PrefixCache":
        """A tree like this with nothing in it, nor in the host's memory below."""
        if self.below is not None and self.below.host is not None:
            self.below.host.clear()
        return PrefixCache(self.block_tokens, self.checkpoints, self.below)

    def lock(self, path: Path) -> tuple[int, int]:
        """Lock the leading nodes that are here: their tokens, and how many they are."""
        leading = self._leading(path)
        for node in leading:
            if node.locks == 0:
                self.locked_blocks += node.blocks
            node.locks += 1
        self._touch(path)
        return sum(node.tokens for node in leading), len(leading)

    def unlock(self, path: Path, nodes: int) -> None:
        """Undo a lock of so many nodes."""
        for key, _ in path[:nodes]:
            node = self._nodes[key]
            node.locks -= 1
            if node.locks == 0:
                self.locked_blocks -= node.blocks

    def add(self, path: Path) -> None:
        """Keep a path; nodes that are here already stay as they are."""
        parent: int | None = None
        upto, size = 0, self.block_tokens
        states = self.checkpoints is not None
        unit = self.checkpoints.interval_tokens if self.checkpoints else size
        for key, tokens in path:
            begin, upto = upto, upto + tokens
            node = self._nodes.get(key)
            if node is None:
                blocks = upto // size - begin // size
                kept = (upto // unit - begin // unit) * unit
                node = self._nodes[key] = _Node(kept, blocks, parent=parent, restarts=not states)
                self.blocks += blocks
                if parent is not None:
                    self._nodes[parent].children += 1
                    if self._nodes[parent].children > 1:
                        self._keep_state(self._nodes[parent])
            parent = key
        if parent is not None:
            self._keep_state(self._nodes[parent])
        self._touch(path)
        if self.below is not None:
            self.below.written(self._stretches(path), [self._nodes[key].restarts for key, _ in path])

    def _keep_state(self, node: _Node) -> None:
        """Keep a checkpoint at a node's end, if it has none."""
        if self.checkpoints is not None and not node.restarts:
            node.restarts = True
            self.blocks += self.checkpoints.blocks

    def _forget(self, node: _Node) -> None:
        """Let a node's blocks go, and its checkpoint."""
        self.blocks -= node.blocks
        if self.checkpoints is not None and node.restarts:
            self.blocks -= self.checkpoints.blocks

    def _touch(self, path: Path) -> None:
        """The path was used: a parent after its children, so that leaves are older than what they hang on."""
        for key, _ in reversed(path):
            if key in self._nodes:
                self._nodes.move_to_end(key)

    def shrink(self, room: int) -> None:
        """Evict until at most ``room`` blocks are held, or all that are left are locked. Nodes before checkpoints."""
        if self.blocks <= room:
            return
        for key in list(self._nodes):  # children are always older than their parents
            node = self._nodes[key]
            if node.locks or node.children:
                continue
            del self._nodes[key]
            self._forget(node)
            if node.parent is not None:
                self._nodes[node.parent].children -= 1
            if self.below is not None:
                self.below.evicted(key, node.blocks)
            if self.blocks <= room:
                return
        if self.checkpoints is None:
            return
        for node in self._nodes.values():
            if node.restarts and self.blocks > room:  # who went on from there has a state of their own
                node.restarts = False
                self.blocks -= self.checkpoints.blocks


def paths_of(requests: Requests) -> list[Path] | None:
    """Each request's path, its own turn last; None where no two prompts share a beginning."""
    hashed = requests.hash_ids is not None and requests.hash_offsets is not None
    shares = (requests.prefix >= 0).any() or (requests.parent >= 0).any()
    if not hashed and not shares:
        return None
    if hashed:
        return _hashed_paths(requests)
    n = requests.num_requests
    paths: list[Path] = []
    inputs, outputs = requests.input_tokens.tolist(), requests.output_tokens.tolist()
    history, parents = requests.history_tokens.tolist(), requests.parent.tolist()
    prefix, length = requests.prefix.tolist(), requests.prefix_tokens.tolist()
    for row in range(n):
        before: Path = paths[parents[row]] if parents[row] >= 0 else ()
        if not before and prefix[row] >= 0:
            before = ((n + prefix[row], length[row]),)
        known = history[row] if parents[row] >= 0 else sum(tokens for _, tokens in before)
        own = inputs[row] - known + outputs[row]
        paths.append((*before, (row, own)))
    return paths


def _hashed_paths(requests: Requests) -> list[Path]:
    ids, offsets = requests.hash_ids, requests.hash_offsets
    assert ids is not None
    assert offsets is not None
    tokens = requests.hash_block_tokens
    whole = np.minimum(requests.input_tokens // tokens, np.diff(offsets))
    return [
        tuple((int(key), tokens) for key in ids[start : start + count])
        for start, count in zip(offsets[:-1].tolist(), whole.tolist(), strict=True)
    ]


def prompt_path(path: Path, prompt_tokens: int) -> Path:
    """The part of a path that lies whole inside its prompt: what a prefill has computed when it ends."""
    total, kept = 0, []
    for node in path:
        total += node[1]
        if total > prompt_tokens:
            break
        kept.append(node)
    return tuple(kept)

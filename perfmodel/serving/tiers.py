"""Memories below the GPU's that keep what its prefix caches let go: the host's, one per rank, and a storage that ranks
share.

Each is a list of nodes of the prefix tree by when they were used; the least recently used goes first. A parent counts
as used after its children, so leaves go before what they hang on. Two ways to fill them: write-through (SGLang's
HiCache, LMCache: whatever is computed is copied at once, and stays below while it is above) and write-back (what a
memory lets go moves to the one below it; what is read from the host moves up again, while a storage keeps it).

Of a model with a state a node's checkpoint lies with its blocks, and a prompt goes on from the last node that has one:
it reads all tokens up to there and that one state. Filled write-through alone.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

Stretch = tuple[int, int, int]
"""A node of a path: (key, tokens that are kept, blocks)."""
NOWHERE, IN_HOST, IN_STORAGE = range(3)
"""Where a state is read from."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """Memories below the GPU's, and how they are filled and read."""

    host_blocks: int
    """KV blocks of one rank in the host's memory; 0: none."""
    storage_blocks: int = 0
    """Of one storage; 0: none."""
    ranks_per_host: int = 1
    """Ranks on one node, which share what it reads."""
    local: bool = False
    """Whether each node has a storage of its own; else all ranks share one."""
    write_back: bool = False
    """Whether a memory gets only what the one above it lets go; else whatever is computed."""
    host_s: float = 0.0
    """Seconds in which a token's cache comes from the host over a rank's own links."""
    node_s: float = 0.0
    """The same over what the node's ranks share."""
    storage_s: float = 0.0
    """Seconds in which it comes from storage, all ranks of a node together."""
    latency_s: float = 0.0
    """Of one reading from storage."""
    overlapped: bool = True
    """Whether a layer's cache is read while the layers before it compute; else the step begins when all is there."""
    prefetch: bool = False
    """Whether storage is read from when a request comes to its rank, not from when it is taken in."""
    state_tokens: int = 0
    """Tokens whose caches are as large as one checkpoint of the model's states; 0: it has none."""

    def storage_of(self, rank: int) -> int:
        """Number of the storage of a rank, counted over all replicas."""
        return rank // self.ranks_per_host if self.local else 0


class Store:
    """Nodes that one memory holds."""

    def __init__(self, blocks: int) -> None:
        """An empty memory of so many blocks."""
        self.room, self.blocks = blocks, 0
        self._nodes: OrderedDict[int, int] = OrderedDict()
        self._states: set[int] = set()
        """Nodes with a checkpoint."""

    def __contains__(self, key: int) -> bool:
        return key in self._nodes

    def touch(self, key: int) -> None:
        """It was used, if it is here."""
        if key in self._nodes:
            self._nodes.move_to_end(key)

    def put(self, key: int, blocks: int, state: int = 0) -> None:
        """It is here, used last; with a checkpoint of ``state`` blocks, or as it is (0)."""
        if key not in self._nodes:
            self._nodes[key] = blocks
            self.blocks += blocks
        if state and key not in self._states:
            self._states.add(key)
            self._nodes[key] += state
            self.blocks += state
        self._nodes.move_to_end(key)

    def restarts(self, key: int) -> bool:
        """Whether it has a checkpoint."""
        return key in self._states

    def drop(self, key: int) -> None:
        """It is not here."""
        self.blocks -= self._nodes.pop(key, 0)
        self._states.discard(key)

    def shrink(self) -> list[tuple[int, int]]:
        """Let the least recently used go until the rest fits: their keys and blocks, in order."""
        gone = []
        while self.blocks > self.room:
            key, blocks = self._nodes.popitem(last=False)
            self._states.discard(key)
            self.blocks -= blocks
            gone.append((key, blocks))
        return gone

    def clear(self) -> None:
        """Everything is lost."""
        self._nodes.clear()
        self._states.clear()
        self.blocks = 0


class Below:
    """What lies below one rank's GPU memory."""

    def __init__(self, tiers: Tiers, storage: Store | None, state_blocks: int = 0) -> None:
        """An empty host memory, over a storage that may be others' too; a checkpoint takes ``state_blocks``."""
        self.write_back, self.state_blocks = tiers.write_back, state_blocks
        self.host = Store(tiers.host_blocks) if tiers.host_blocks else None
        self.storage = storage

    def found(self, path: Iterable[Stretch]) -> tuple[int, int, int, int]:
        """Of what follows in a path, up to the last node that a prompt can go on from: tokens that the host has, that
        storage has, how many nodes that are, and where the state is read from.
        """
        host = storage = 0
        usable = (0, 0, 0, NOWHERE)
        for nodes, (key, tokens, _) in enumerate(path, 1):
            if self.host is not None and key in self.host:
                host += tokens
            elif self.storage is not None and key in self.storage:
                storage += tokens
            else:
                break
            if not self.state_blocks:
                usable = (host, storage, nodes, NOWHERE)
            elif self.host is not None and self.host.restarts(key):
                usable = (host, storage, nodes, IN_HOST)
            elif self.storage is not None and self.storage.restarts(key):
                usable = (host, storage, nodes, IN_STORAGE)
        return usable

    def used(self, path: list[Stretch], first: int, nodes: int) -> None:
        """A request goes on from a path's first nodes, of which those from ``first`` on come from here."""
        for key, _, _ in reversed(path):
            if self.host is not None:
                self.host.touch(key)
            if self.storage is not None:
                self.storage.touch(key)
        if self.write_back and self.host is not None:  # they move up
            for key, _, _ in path[first : first + nodes]:
                self.host.drop(key)

    def written(self, path: list[Stretch], restarts: list[bool]) -> None:
        """A path has been computed, and is in the GPU's memory; which of its nodes have a checkpoint there."""
        if self.write_back:
            for key, _, _ in path:
                if self.host is not None:
                    self.host.drop(key)
            return
        for store in (self.host, self.storage):
            if store is not None:
                for (key, _, blocks), has in zip(reversed(path), reversed(restarts), strict=True):
                    store.put(key, blocks, self.state_blocks if has else 0)
                store.shrink()

    def evicted(self, key: int, blocks: int) -> None:
        """The GPU's memory has let a node go."""
        if not self.write_back:
            return
        gone = [(key, blocks)]
        if self.host is not None:
            self.host.put(key, blocks)
            gone = self.host.shrink()
        if self.storage is not None:
            for one, size in gone:
                self.storage.put(one, size)
                self.storage.shrink()

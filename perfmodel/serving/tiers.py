"""Memories below the GPU's that keep what its prefix caches let go: the host's, one per rank, and a storage that ranks
share.

Each is a list of nodes of the prefix tree by when they were used; the least recently used goes first. A parent counts
as used after its children, so leaves go before what they hang on. Two ways to fill them: write-through (SGLang's
HiCache, LMCache: whatever is computed is copied at once, and stays below while it is above) and write-back (what a
memory lets go moves to the one below it; what is read from the host moves up again, while a storage keeps it).
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

Stretch = tuple[int, int, int]
"""A node of a path: (key, tokens that are kept, blocks)."""


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

    def storage_of(self, rank: int) -> int:
        """Number of the storage of a rank, counted over all replicas."""
        return rank // self.ranks_per_host if self.local else 0


class Store:
    """Nodes that one memory holds."""

    def __init__(self, blocks: int) -> None:
        """An empty memory of so many blocks."""
        self.room, self.blocks = blocks, 0
        self._nodes: OrderedDict[int, int] = OrderedDict()

    def __contains__(self, key: int) -> bool:
        return key in self._nodes

    def touch(self, key: int) -> None:
        """It was used, if it is here."""
        if key in self._nodes:
            self._nodes.move_to_end(key)

    def put(self, key: int, blocks: int) -> None:
        """It is here, used last."""
        if key not in self._nodes:
            self._nodes[key] = blocks
            self.blocks += blocks
        self._nodes.move_to_end(key)

    def drop(self, key: int) -> None:
        """It is not here."""
        self.blocks -= self._nodes.pop(key, 0)

    def shrink(self) -> list[tuple[int, int]]:
        """Let the least recently used go until the rest fits: their keys and blocks, in order."""
        gone = []
        while self.blocks > self.room:
            key, blocks = self._nodes.popitem(last=False)
            self.blocks -= blocks
            gone.append((key, blocks))
        return gone

    def clear(self) -> None:
        """Everything is lost."""
        self._nodes.clear()
        self.blocks = 0


class Below:
    """What lies below one rank's GPU memory."""

    def __init__(self, tiers: Tiers, storage: Store | None) -> None:
        """An empty host memory, over a storage that may be others' too."""
        self.write_back = tiers.write_back
        self.host = Store(tiers.host_blocks) if tiers.host_blocks else None
        self.storage = storage

    def found(self, path: Iterable[Stretch]) -> tuple[int, int, int]:
        """Of what follows in a path: tokens that the host has, that storage has, and how many nodes that are."""
        host = storage = nodes = 0
        for key, tokens, _ in path:
            if self.host is not None and key in self.host:
                host += tokens
            elif self.storage is not None and key in self.storage:
                storage += tokens
            else:
                break
            nodes += 1
        return host, storage, nodes

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

    def written(self, path: list[Stretch]) -> None:
        """A path has been computed, and is in the GPU's memory."""
        if self.write_back:
            for key, _, _ in path:
                if self.host is not None:
                    self.host.drop(key)
            return
        for store in (self.host, self.storage):
            if store is not None:
                for key, _, blocks in reversed(path):
                    store.put(key, blocks)
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

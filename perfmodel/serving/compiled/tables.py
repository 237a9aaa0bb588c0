"""From requests, a layout and step times to a :class:`~perfmodel.serving.compiled.state.State`, and larger tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from perfmodel.serving.batching import Batching
from perfmodel.serving.cluster import FrontEndTimes, PrefillSide
from perfmodel.serving.compiled.state import (
    CENTRAL,
    FLOW,
    LEAST_TOKENS,
    NEVER,
    NODE,
    NONE,
    OUT,
    PER_RANK,
    POOL,
    PREFIX_AWARE,
    RANK,
    REPLICA,
    ROUND_ROBIN,
    ROW,
    RUN_COLUMNS,
    TABLES,
    TIER,
    TIMED,
    WORLD,
    Array,
)
from perfmodel.serving.grid import Grid
from perfmodel.serving.notes import Ints
from perfmodel.serving.pieces import Pieces
from perfmodel.serving.pool import Layout
from perfmodel.serving.prefix_cache import Path, paths_of
from perfmodel.serving.requests import NONE as ROOT
from perfmodel.serving.requests import Requests
from perfmodel.serving.step_times import GridStepTimes
from perfmodel.serving.stream import RequestStream
from perfmodel.serving.stretch import Stretched
from perfmodel.serving.tiers import Tiers

ROUTERS = {
    "central": CENTRAL,
    "round-robin": ROUND_ROBIN,
    "least-tokens": LEAST_TOKENS,
    "prefix-aware": PREFIX_AWARE,
}
GRID_COLUMNS = 12
SLOTS_PER_NODE = 2
GAPS_PER_ROW, RUNS_PER_ROW = 4, 3
"""Of what is noted between two turns, so much room."""
LEAST_ROOM = 1 << 16
"""At least so many of each: prompts in a hundred chunks note a hundred steps per row, and a turn moves all rows."""

SIZES = {
    "gap_s": "most_gaps",
    "runs": "most_runs",
    "nodes": "most_nodes",
    "slots": "num_slots",
    "path_keys": "num_path",
    "grids": "num_times",
    "numbers": "num_numbers",
    "sizes": "num_sizes",
    "windows": "num_windows",
    "flows": "num_flows",
    "tiers": "num_tiers",
}
"""Where the length of a table that may grow is kept."""

Times = GridStepTimes | Stretched


class Tables:
    """The arrays of a run, and where compiled code finds them."""

    def __init__(self, world: Array, **arrays: Array) -> None:
        """``world`` (1,) gets the addresses; it and the arrays live as long as this."""
        self.world = world
        self._arrays: dict[str, Array] = {}
        self.put(**arrays)
        assert set(self._arrays) == set(TABLES.split())

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def put(self, **arrays: Array) -> None:
        """Other arrays in the place of some."""
        self._arrays |= arrays
        for name, array in arrays.items():
            assert array.flags.c_contiguous
            self.world[f"at_{name}"] = array.ctypes.data
            if name in SIZES:
                self.world[SIZES[name]] = len(array)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What comes, a portion at a time; the first request of each is nobody's follower."""

    total: int
    """Requests of all portions."""
    portions: Iterator[Array]
    """ROW records."""
    max_concurrency: int | None = None
    path_keys: Array = None
    """What prompts share: keys and tokens of all rows' paths; None: nothing."""
    path_tokens: Array = None
    longest_path: int = 0


def state_of(
    arrivals: Arrivals,
    layout: Layout,
    batching: Batching,
    times: Sequence[Times],
    front_end: FrontEndTimes,
    prefill: PrefillSide | None = None,
) -> Tables:
    """A run in which nothing has happened and nobody has come yet; replica r takes ``times[r]``, of which few are
    unlike. Replicas that compute prompts only follow those that decode.
    """
    sides = [(layout, batching)] + ([(prefill.layout, prefill.batching)] if prefill is not None else [])
    caches, pools = arrivals.path_keys is not None, _pools(sides)
    pools["caches"][-1] = caches
    sizes, windows = _of_pools(pools, sides)
    on_the_way = [] if prefill is None else prefill.path.beside.windows
    kinds = list(dict.fromkeys(times))
    grids, numbers, factors = flat_times(kinds, mixes=bool(pools["mixed"].any()))
    replicas, ranks = _empty(pools)
    replicas["times"] = [kinds.index(one) for one in times]
    if prefill is not None:
        ranks["link_bytes_per_s"] = np.where(
            ranks["pool"] == 0, prefill.path.receive_bytes_per_s, prefill.path.send_bytes_per_s
        )
    below = sides[-1][1].tiers if caches else None
    tiers = _memories(ranks, below)
    candidates = np.zeros(len(replicas) // 64 + 1, np.uint64)
    for r in range(len(replicas)):  # nobody is busy
        candidates[r >> 6] |= np.uint64(1) << np.uint64(r & 63)
    world = _world(arrivals, front_end, pools, prefill)
    if below is not None:  # a path may leave its nodes in each memory
        world["max_path"] *= 1 + bool(below.host_blocks) + bool(below.storage_blocks)
        pools["tiers"][-1] = 1
    world["path_windows"] = len(windows)
    nodes, slots = _nodes(1024 + 8 * arrivals.longest_path if caches else 0)
    nothing = np.zeros(1, np.int64)
    return Tables(
        world,
        pools=pools,
        replicas=replicas,
        ranks=ranks,
        rows=np.zeros(0, ROW),
        outstanding=np.zeros(len(replicas), np.int64),
        rank_outstanding=np.zeros(len(ranks), np.int64),
        lists=_lists(PER_RANK * len(ranks) + len(replicas) + len(pools) + 1),
        waits=_links(2),
        holds=_links(2),
        fresh=_links(2),
        rank_lists=_lists(4 * len(replicas) + 1),
        rank_links=np.full((5, len(ranks), 2), OUT, np.int32),
        ends=_links(3),
        plans=np.zeros(len(replicas), np.int32),
        wakes=np.zeros(len(replicas) + 1, np.int32),
        timed=np.zeros(0, TIMED),
        scratch=np.zeros(len(ranks), np.int32),
        nodes=nodes,
        slots=slots,
        path_keys=arrivals.path_keys if caches else nothing,
        path_tokens=arrivals.path_tokens if caches else nothing,
        grids=grids,
        numbers=numbers,
        factors=factors,
        sizes=np.array(sizes, np.int64),
        windows=np.array([*windows, *on_the_way], float).reshape(-1, 2),
        candidates=candidates,
        flows=flows_of(0),
        flow_links=np.full((3, 0, 2), OUT, np.int32),
        flow_plans=np.zeros(0, np.int32),
        tiers=tiers,
        **room_for_notes(0),
    )


def flows_of(count: int) -> Array:
    """So many requests whose caches are not on their way."""
    flows = np.zeros(count, FLOW)
    flows["place"], flows["plan_event"] = NONE, NEVER
    return flows


def room_for_notes(n: int) -> dict[str, Array]:
    """Tables for what is noted between two turns of a run that has ``n`` rows."""
    gaps, runs = GAPS_PER_ROW * n + 1024, RUNS_PER_ROW * n + 64
    gaps, runs = max(gaps, LEAST_ROOM), max(runs, LEAST_ROOM)
    return {
        "gap_s": np.empty(gaps),
        "gap_count": np.empty(gaps, np.int64),
        "runs": np.empty((runs, RUN_COLUMNS)),
    }


def _world(arrivals: Arrivals, front_end: FrontEndTimes, pools: Array, prefill: PrefillSide | None) -> Array:
    world, caches = np.zeros(1, WORLD), arrivals.path_keys is not None
    values: dict[str, float] = {
        "outside_time": np.inf,
        "front_latency": front_end.latency_s,
        "front_serial": front_end.serial_s,
        "total": arrivals.total,
        "root_event": NEVER,
        "outside_event": NEVER,
        "capped": arrivals.max_concurrency or 0,
        "first_root": NONE,
        "num_pools": len(pools),
        "num_replicas": pools["replicas"].sum(),
        "num_ranks": (pools["replicas"] * pools["per_replica"]).sum(),
        "caches": caches,
        "delays": front_end.delays,
        "free_node": 0 if caches else NONE,
        "max_path": arrivals.longest_path,
    }
    if prefill is not None:
        path = prefill.path
        values |= {
            "apart": 1,
            "layer_wise": path.layer_wise,
            "shared": bool(path.shared),
            "layers": path.layers,
            "bytes_per_token": path.bytes_per_token,
            "latency_s": path.latency_s,
            "beside_bytes": path.beside.fixed,
        }
    for name, value in values.items():
        world[name] = value
    return world


def _pools(sides: Sequence[tuple[Layout, Batching]]) -> Array:
    """(sides,) POOL, one after the other; of each the numbers that it has by itself."""
    pools = np.zeros(len(sides), POOL)
    first = first_rank = 0
    for pool, (layout, batching) in zip(pools, sides, strict=True):
        kept, swap_s = layout.checkpoints, batching.swap_s_per_token
        values = {
            "watermark": layout.watermark,
            "swap_s": -1.0 if swap_s is None else swap_s,
            "beside": layout.beside.fixed,
            "first": first,
            "replicas": layout.replicas,
            "first_rank": first_rank,
            "per_replica": layout.ranks,
            "blocks": layout.blocks,
            "block_tokens": layout.block_tokens,
            "max_running": layout.max_running,
            "router": ROUTERS[layout.router],
            "rank_router": ROUTERS[layout.rank_router],
            "up": layout.replicas,
            "mixed": batching.policy == "mixed",
            "budget": batching.max_batched_tokens,
            "per_decode": batching.tokens_per_decode,
            "poll": batching.poll_steps,
            "hold": batching.hold_steps,
            "states": kept is not None,
            "interval": kept.interval_tokens if kept else 0,
            "checkpoint_blocks": kept.blocks if kept else 0,
        }
        below = batching.tiers
        if below is not None:
            values |= {
                "host_s": below.host_s,
                "node_s": below.node_s,
                "storage_s": below.storage_s,
                "storage_latency": below.latency_s,
                "write_back": below.write_back,
                "overlapped": below.overlapped,
                "prefetch": below.prefetch,
                "per_host": below.ranks_per_host,
                "state_tokens": below.state_tokens,
            }
        for name, value in values.items():
            pool[name] = value
        first, first_rank = first + layout.replicas, first_rank + layout.replicas * layout.ranks
    return pools


def _of_pools(
    pools: Array, sides: Sequence[tuple[Layout, Batching]]
) -> tuple[list[int], list[tuple[int, float]]]:
    """Batches of captured graphs and windows of all pools; where each one's are is written into ``pools``."""
    sizes: list[int] = []
    windows: list[tuple[int, float]] = []
    for pool, (layout, batching) in zip(pools, sides, strict=True):
        pool["sizes"], pool["windows"] = len(sizes), len(windows)
        sizes += batching.graph_batches
        windows += layout.beside.windows
        pool["last_size"], pool["last_window"] = len(sizes), len(windows)
    return sizes, windows


def _empty(pools: Array) -> tuple[Array, Array]:
    """Replicas and ranks of all pools that have nothing yet."""
    numbers = np.arange(len(pools))
    replicas = np.zeros(int(pools["replicas"].sum()), REPLICA)
    for name in ("place", "root", "held_at"):
        replicas[name] = NONE
    replicas["up"], replicas["plan_event"] = 1, NEVER
    replicas["stretch"] = replicas["room"] = 1.0
    replicas["pool"] = np.repeat(numbers, pools["replicas"])
    ranks = np.zeros(int((pools["replicas"] * pools["per_replica"]).sum()), RANK)
    ranks["newest"] = ranks["oldest"] = NONE
    ranks["pool"] = np.repeat(numbers, pools["replicas"] * pools["per_replica"])
    return replicas, ranks


def _memories(ranks: Array, tiers: Tiers | None) -> Array:
    """TIER records: the host's memory of each of the last pool's ranks, then storages; written into ``ranks``."""
    ranks["host"] = ranks["storage"] = NONE
    if tiers is None:
        return np.zeros(0, TIER)
    own = np.flatnonzero(ranks["pool"] == ranks["pool"].max())
    rooms: list[int] = []
    if tiers.host_blocks:
        ranks["host"][own] = np.arange(len(own))
        rooms += [tiers.host_blocks] * len(own)
    if tiers.storage_blocks:
        which = [tiers.storage_of(number) for number in range(len(own))]
        ranks["storage"][own] = len(rooms) + np.array(which)
        rooms += [tiers.storage_blocks] * (max(which) + 1)
    found = np.zeros(len(rooms), TIER)
    found["room"], found["newest"], found["oldest"] = rooms, NONE, NONE
    return found


def arrivals_of(requests: Requests, decode_steps: np.ndarray, size: int, *, caches: bool) -> Arrivals:
    """All of them, at least ``size`` at a time; with ``caches``, what their prompts share."""
    paths = paths_of(requests) if caches else None
    lengths = np.array([len(path) for path in paths or ()], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths

    def portions() -> Iterator[Array]:
        for first, end in pairwise(_cuts(requests, size)):
            own = slice(first, end)
            rows = rows_of(requests, decode_steps, own)
            if paths is not None:
                rows["path"], rows["path_length"] = starts[own], lengths[own]
            yield rows

    keys, tokens = (None, None) if paths is None else _flat(paths)
    most = int(lengths.max(initial=0))
    return Arrivals(requests.num_requests, portions(), requests.max_concurrency, keys, tokens, most)


def arrivals_in_stream(stream: RequestStream, decode_steps: Iterator[Ints], size: int) -> Arrivals:
    """The same of requests that stand alone and are read while they are served."""
    steps = Pieces(decode_steps)

    def portions() -> Iterator[Array]:
        for portion in stream.portions(size):
            yield rows_of(portion, steps.take(portion.num_requests), slice(None))

    return Arrivals(stream.num_requests, portions(), stream.max_concurrency)


def _cuts(requests: Requests, size: int) -> list[int]:
    """Where portions of at least ``size`` rows begin and end: at roots."""
    roots, cuts = requests.roots, [0]
    while cuts[-1] < requests.num_requests:
        at = int(np.searchsorted(roots, cuts[-1] + size))
        cuts.append(int(roots[at]) if at < len(roots) else requests.num_requests)
    return cuts


def rows_of(requests: Requests, decode_steps: np.ndarray, own: slice) -> Array:
    """ROW records of some of the requests, whole sessions; a child's number is counted from the first of them."""
    steps, output = np.asarray(decode_steps)[own], requests.output_tokens[own]
    more = np.maximum(output - 1, 0)
    rows = np.zeros(len(steps), ROW)
    rows["prompt"], rows["steps"] = requests.input_tokens[own], steps
    rows["growth"] = np.divide(more, steps, out=np.ones(len(rows)), where=steps > 0)
    rows["tokens"] = rows["prompt"] + output
    for name in ("arrived", "scheduled", "prefilled", "first", "end", "replica", "rank"):
        rows[name] = NONE
    rows["pause"], rows["think"] = requests.arrival_s[own], requests.think_s[own]
    rows["root"] = root = requests.parent[own] == ROOT
    rows["child"] = np.where(np.append(root[1:], True), NONE, np.arange(1, len(rows) + 1))
    return rows


def _flat(paths: list[Path]) -> tuple[Array, Array]:
    """Keys and tokens of all paths one after the other, keys by their order."""
    flat = np.array([node for path in paths for node in path], dtype=np.int64).reshape(-1, 2)
    _, keys = np.unique(flat[:, 0], return_inverse=True)
    return keys.astype(np.int64), np.ascontiguousarray(flat[:, 1])


def flat_times(kinds: Sequence[Times], *, mixes: bool) -> tuple[Array, Array, Array]:
    """Grids of step times as three arrays, see :mod:`perfmodel.serving.compiled.memory`."""
    table = np.zeros((len(kinds), 5, GRID_COLUMNS), np.int64)
    factors, numbers, size = np.ones((len(kinds), 2)), [], 0
    for number, kind in enumerate(kinds):
        own = kind
        if isinstance(own, Stretched):
            factors[number] = own.decode, own.prompt
            own = own.grids
        grids: list[tuple[int, Grid]] = [(0, own.decode), (1, own.prompt)]
        grids += [(2, own.mixed())] if mixes else []
        grids += [(3, own.sharing.decode), (4, own.sharing.room)] if own.sharing else []
        for which, grid in grids:
            pieces = [*(np.asarray(axis, dtype=float) for axis in grid.axes), np.asarray(grid.values).ravel()]
            starts = size + np.cumsum([0, *(piece.size for piece in pieces)])
            lengths = [len(axis) for axis in grid.axes]
            table[number, which, :2] = starts[len(lengths)], len(lengths)
            table[number, which, 2 : 2 + len(lengths)] = starts[: len(lengths)]
            table[number, which, 7 : 7 + len(lengths)] = lengths
            numbers += pieces
            size = int(starts[-1])
    return table, np.concatenate(numbers), factors


def _lists(count: int) -> Array:
    lists = np.full((count, 3), NONE, np.int32)
    lists[:, 2] = 0
    return lists


def _links(columns: int) -> Array:
    """Of no request yet; lists have two columns, a heap has three."""
    return np.full((0, columns), OUT, np.int32)


def _nodes(count: int) -> tuple[Array, Array]:
    """So many nodes that are free, each pointing to the next, and a hash table for them."""
    nodes = np.zeros(count, NODE)
    nodes["newer"] = np.arange(1, count + 1)
    slots = 1 << max(1, (SLOTS_PER_NODE * count).bit_length())
    return nodes, np.full(slots, NONE, np.int32)


def most_at_once(s: Tables) -> int:
    """Requests that may be at one replica after the next event, and more."""
    w = s.world[0]
    return int(w["most_present"]) + int(s["lists"][-1 - int(w["num_pools"]) : -1, 2].sum())


def make_room(s: Tables) -> bool:
    """Room for what comes until the next turn; all notes have been handed over. Whether the hash table is new."""
    w, n = s.world[0], int(s.world["n"][0])
    w["num_gaps"] = w["num_runs"] = 0
    if s["gap_s"].size < GAPS_PER_ROW * n + 1024:
        s.put(**room_for_notes(n))
    w["most_present"] = s["replicas"]["present"].max()
    most = most_at_once(s) + 128
    needed, have = int(w["num_nodes"]) + most * int(w["max_path"]) + 1, s["nodes"].size
    if not w["caches"] or have >= 2 * needed:
        return False
    nodes, slots = _nodes(2 * needed)
    nodes[:have] = s["nodes"]
    last = _last_free(s)
    if last == NONE:
        w["free_node"] = have
    else:
        nodes["newer"][last] = have
    s.put(nodes=nodes, slots=slots)
    return True


def _last_free(s: Tables) -> int:
    """The free node that no other follows; -1: none is free."""
    after, node, last = s["nodes"]["newer"], int(s.world[0]["free_node"]), NONE
    while node < len(after):
        node, last = int(after[node]), node
    return last

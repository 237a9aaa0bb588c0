"""A run's tables, as compiled code sees them: through the addresses that its WORLD record holds.

Handing 30 arrays from function to function took numba minutes to compile and a third of the run's time. So Python
holds the arrays (:class:`perfmodel.serving.compiled.state.Tables`), and a function takes the one record ``s`` and asks
here for what it needs, which costs nothing. Nothing is checked: an index outside a table is memory lost.
"""

from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.state import (
    FLOW,
    NODE,
    PER_RANK,
    POOL,
    RANK,
    REPLICA,
    ROW,
    RUN_COLUMNS,
    TIER,
    TIMED,
    Array,
    State,
)

GRIDS = 12
"""Columns of a grid's description."""


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typing: Any, address: Any) -> Any:
    """An address as a pointer."""
    signature = types.voidptr(types.int64)

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return signature, generated


@intrinsic  # type: ignore[untyped-decorator]
def _cttz(typing: Any, word: Any) -> Any:
    """The place of the lowest bit of a word that has one."""
    signature = types.uint64(types.uint64)

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.true_bit)

    return signature, generated


@compiled
def trailing_zeros(word: int) -> int:
    """The place of the lowest bit of a word that has one."""
    return np.int64(_cttz(word))  # type: ignore[return-value]


@compiled
def pools(s: State) -> Array:
    """(pools,) POOL: those that decode, and those that compute prompts for them where these are others."""
    return numba.carray(_pointer(s.at_pools), s.num_pools, POOL)


@compiled
def replicas(s: State) -> Array:
    """(R,) REPLICA."""
    return numba.carray(_pointer(s.at_replicas), s.num_replicas, REPLICA)


@compiled
def ranks(s: State) -> Array:
    """(R x ranks,) RANK; those of a replica follow each other."""
    return numba.carray(_pointer(s.at_ranks), s.num_ranks, RANK)


@compiled
def pool_of(s: State, g: int) -> Any:
    """The pool of a rank."""
    return pools(s)[ranks(s)[g].pool]


@compiled
def pool_with(s: State, r: int) -> Any:
    """The pool of a replica."""
    return pools(s)[replicas(s)[r].pool]


@compiled
def rank_range(s: State, r: int) -> tuple[int, int]:
    """The first rank of a replica, and the one behind its last."""
    pool = pool_with(s, r)
    begin = pool.first_rank + (r - pool.first) * pool.per_replica
    return begin, begin + pool.per_replica


@compiled
def rows(s: State) -> Array:
    """(n,) ROW; (2 n,) where prompts are computed apart."""
    return numba.carray(_pointer(s.at_rows), s.num_rows, ROW)


@compiled
def request_of(s: State, i: int) -> int:
    """The row that has what is known of a request whichever pool it is in."""
    return i - s.n if i >= s.n else i


@compiled
def outstanding(s: State) -> Array:
    """(R,) tokens of requests that are there and not finished."""
    return numba.carray(_pointer(s.at_outstanding), s.num_replicas, np.int64)


@compiled
def rank_outstanding(s: State) -> Array:
    """(R x ranks,)."""
    return numba.carray(_pointer(s.at_rank_outstanding), s.num_ranks, np.int64)


@compiled
def lists(s: State) -> Array:
    """(lists of rows, 3): first, last, how many; see :mod:`perfmodel.serving.compiled.lists`."""
    return numba.carray(
        _pointer(s.at_lists), (PER_RANK * s.num_ranks + s.num_replicas + s.num_pools + 1, 3), np.int32
    )


@compiled
def waits(s: State) -> Array:
    """(rows, 2) next and previous in a rank's queue, in the one before all replicas, or among what has arrived."""
    return numba.carray(_pointer(s.at_waits), (s.num_rows, 2), np.int32)


@compiled
def holds(s: State) -> Array:
    """(rows, 2) among a rank's prompts, its running requests, what comes or what leaves."""
    return numba.carray(_pointer(s.at_holds), (s.num_rows, 2), np.int32)


@compiled
def fresh(s: State) -> Array:
    """(n, 2) among a replica's requests that have not decoded since their last prefill."""
    return numba.carray(_pointer(s.at_fresh), (s.n, 2), np.int32)


@compiled
def rank_lists(s: State) -> Array:
    """(4 R + 1, 3): first, last, how many of a replica's ranks that decode, have prompts, have a queue, to which caches
    have come; the last one is of ranks whose link is shared by others than before.
    """
    return numba.carray(_pointer(s.at_rank_lists), (4 * s.num_replicas + 1, 3), np.int32)


@compiled
def rank_links(s: State) -> Array:
    """(5, R x ranks, 2) next and previous in those."""
    return numba.carray(_pointer(s.at_rank_links), (5, s.num_ranks, 2), np.int32)


@compiled
def ends(s: State) -> Array:
    """(n, 3) child, next, previous in the heap of a replica's ends."""
    return numba.carray(_pointer(s.at_ends), (s.n, 3), np.int32)


@compiled
def plans(s: State) -> Array:
    """(R,) replicas by what they end next: a heap."""
    return numba.carray(_pointer(s.at_plans), s.num_replicas, np.int32)


@compiled
def wakes(s: State) -> Array:
    """(R + 1,) replicas that look for work at the end of this instant: a ring; R stands for flows to be planned."""
    return numba.carray(_pointer(s.at_wakes), s.num_replicas + 1, np.int32)


@compiled
def timed(s: State) -> Array:
    """(n,) TIMED: a heap."""
    return numba.carray(_pointer(s.at_timed), s.n, TIMED)


@compiled
def scratch(s: State) -> Array:
    """(max(n, R x ranks),) ranks, or rows that were lost."""
    return numba.carray(_pointer(s.at_scratch), max(s.n, s.num_ranks), np.int32)


@compiled
def nodes(s: State) -> Array:
    """(most,) NODE, of all caches."""
    return numba.carray(_pointer(s.at_nodes), s.most_nodes, NODE)


@compiled
def slots(s: State) -> Array:
    """Node of a (rank, key), by open addressing; a power of two of them."""
    return numba.carray(_pointer(s.at_slots), s.num_slots, np.int32)


@compiled
def path_keys(s: State) -> Array:
    """Of the paths of all rows, one after the other."""
    return numba.carray(_pointer(s.at_path_keys), s.num_path, np.int64)


@compiled
def path_tokens(s: State) -> Array:
    """Likewise."""
    return numba.carray(_pointer(s.at_path_tokens), s.num_path, np.int64)


@compiled
def grids(s: State) -> Array:
    """(times, 5, 12) where axes and values of decode, prompt and mixed steps, of stretched decode steps and of the room
    beside them are in ``numbers``.
    """
    return numba.carray(_pointer(s.at_grids), (s.num_times, 5, GRIDS), np.int64)


@compiled
def numbers(s: State) -> Array:
    """All axes and values."""
    return numba.carray(_pointer(s.at_numbers), s.num_numbers, np.float64)


@compiled
def factors(s: State) -> Array:
    """(times, 2) on decode steps and on those with prompts."""
    return numba.carray(_pointer(s.at_factors), (s.num_times, 2), np.float64)


@compiled
def sizes(s: State) -> Array:
    """Batches of captured graphs, of all pools."""
    return numba.carray(_pointer(s.at_sizes), s.num_sizes, np.int64)


@compiled
def windows(s: State) -> Array:
    """(windows, 2) of all pools: tokens, and blocks per token; then those of caches on their way, in bytes."""
    return numba.carray(_pointer(s.at_windows), (s.num_windows, 2), np.float64)


@compiled
def gap_s(s: State) -> Array:
    """(most,) gaps between outputs, s."""
    return numba.carray(_pointer(s.at_gap_s), s.most_gaps, np.float64)


@compiled
def gap_count(s: State) -> Array:
    """(most,) how many there were of each."""
    return numba.carray(_pointer(s.at_gap_count), s.most_gaps, np.int64)


@compiled
def runs(s: State) -> Array:
    """(most, 11) rows of steps."""
    return numba.carray(_pointer(s.at_runs), (s.most_runs, RUN_COLUMNS), np.float64)


@compiled
def candidates(s: State) -> Array:
    """(R / 64 + 1,) bits of replicas that would look for work if they were told of it."""
    return numba.carray(_pointer(s.at_candidates), s.num_replicas // 64 + 1, np.uint64)


@compiled
def flows(s: State) -> Array:
    """(n,) FLOW, where prompts are computed apart."""
    return numba.carray(_pointer(s.at_flows), s.num_flows, FLOW)


@compiled
def flow_links(s: State) -> Array:
    """(3, n, 2) next and previous among the flows of a sending rank, of a receiving one, and of those to be planned."""
    return numba.carray(_pointer(s.at_flow_links), (3, s.num_flows, 2), np.int32)


@compiled
def flow_plans(s: State) -> Array:
    """(n,) flows by what they end next: a heap."""
    return numba.carray(_pointer(s.at_flow_plans), s.num_flows, np.int32)


@compiled
def tiers(s: State) -> Array:
    """(tiers,) TIER: memories below the GPU's."""
    return numba.carray(_pointer(s.at_tiers), s.num_tiers, TIER)

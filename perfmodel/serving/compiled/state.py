"""What a run is, as arrays: one record per request, rank and replica, and the numbers of the whole.

Numbers instead of objects: ``i`` is a request (its row), ``g`` a rank among those of all replicas, ``r`` a replica,
``p`` a pool of replicas. -1 is none. Lists that requests are in are links between rows
(:mod:`perfmodel.serving.compiled.lists`). Where prompts are computed in a pool of their own a request may be in both
pools at once: its row is ``i`` where it is decoded and ``n + i`` where its prompt is computed.
"""

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
State: TypeAlias = Any
"""A WORLD record."""

NONE = -1
OUT = -2
"""In the place of the one before: not in this list."""

CENTRAL, ROUND_ROBIN, LEAST_TOKENS, PREFIX_AWARE = range(4)
NO_PLAN, PROMPT_DONE, RUN_DONE, EMPTIED, HERE = range(5)
"""What a replica ends next; or a flow of bytes: all that it has moved, or its last byte has arrived."""
DECODE, PREFILL = range(2)
"""Pools; the first one does both where there is no other."""
ARRIVES, TAKEN_IN = range(2)
"""What happens to a request at a time of its own."""
ALL_ENDED, PROGRESS, OUTSIDE, FULL, STUCK = range(5)
"""Why the core comes back: every request has ended; so many more have; something happens that is decided outside; a
table may be too small for what comes next, or has no more arrivals; nothing will ever happen again."""
LOST, DRAINING, UP, SLOWER = range(4)
"""What is done to a replica from outside."""
NEVER = 1 << 62
"""Number of an event that is not planned."""
PER_RANK = 7
"""Lists of rows that each rank has: see :mod:`perfmodel.serving.compiled.lists`."""
RUN_COLUMNS = 11
"""Of :class:`perfmodel.serving.records.StepRuns`."""


def _record(**fields: str) -> np.dtype[np.void]:
    columns = [(name, kind) for kind, names in fields.items() for name in names.split()]
    return np.dtype(columns, align=True)


TABLES = (
    "pools replicas ranks rows outstanding rank_outstanding lists waits holds fresh rank_lists rank_links ends plans "
    "wakes timed scratch nodes slots path_keys path_tokens grids numbers factors sizes windows gap_s gap_count runs "
    "candidates flows flow_links flow_plans tiers"
)
"""What a run consists of beside its WORLD: see :mod:`perfmodel.serving.compiled.memory`."""
WORLD = _record(
    f8="now root_time outside_time front_latency front_serial front_free bytes_per_token latency_s beside_bytes",
    i8="events n num_rows total more starved root_at roots_left root_event outside_event ended told progress capped "
    "first_root num_pools num_replicas num_ranks most_present caches delays apart layer_wise shared layers planning "
    "num_plans num_timed num_wakes first_wake num_gaps num_runs free_node num_nodes max_path num_lost num_flow_plans "
    "most_gaps most_runs most_nodes num_slots num_path num_times num_numbers num_sizes num_windows num_flows num_tiers "
    "path_windows " + " ".join(f"at_{name}" for name in TABLES.split()),
)
POOL = _record(
    f8="watermark swap_s beside host_s node_s storage_s storage_latency",
    i8="first replicas first_rank per_replica blocks block_tokens max_running router rank_router turn up "
    "mixed budget per_decode poll hold caches states interval checkpoint_blocks sizes last_size windows last_window "
    "tiers write_back overlapped prefetch per_host state_tokens",
)
"""Layout and policy of some replicas, from ``first`` on; ``sizes`` and ``windows`` are where theirs begin."""
REPLICA = _record(
    f8="steady_s plan_time start seconds prompt attended tokens growth even copying step_end stretch run_stretch room "
    "late",
    i8="step prefilled present taken steady held_at plan_event steps waiting held requests",
    i4="pool up busy waking running cut_short times run_times plan place root rank_turn",
)
RANK = _record(
    f8="growth constant link_bytes_per_s from_storage share",
    i8="prompt_blocks waiting_blocks promised shared beside cache_blocks locked_blocks copied from_host",
    i4="pool newest oldest host storage told",
)
ROW = _record(
    f8="growth base arrived scheduled prefilled first end last_output pause think queued",
    i8="prompt steps tokens finish start shared beside blocks done now path",
    i4="replica rank child root path_length nodes prompt_nodes preemptions retries cached swapped begun host storage",
)
NODE = _record(i8="key tokens blocks", i4="rank locks children parent restarts older newer")
TIER = _record(i8="room blocks", i4="newest oldest")
"""A memory below the GPU's."""
TIMED = _record(f8="time", i8="event", i4="row kind")
FLOW = _record(
    f8="cap left rate since owed plan_time",
    i8="plan_event",
    i4="on_its_way submitted computed asked reserved flowing source target closed plan place",
)
"""A request on its way from prefill to decode, and the bytes of its cache: see :mod:`perfmodel.serving.handoff` and
:mod:`perfmodel.serving.links`."""

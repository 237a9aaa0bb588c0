"""What a run is, as arrays: one record per request, rank and replica, and the numbers of the whole.

Numbers instead of objects: ``i`` is a request (its row), ``g`` a rank among those of all replicas, ``r`` a replica. -1
is none. Lists that requests are in are links between rows (:mod:`perfmodel.serving.compiled.lists`).
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
NO_PLAN, PROMPT_DONE, RUN_DONE = range(3)
ARRIVES, TAKEN_IN = range(2)
"""What happens to a request at a time of its own."""
ALL_ENDED, PROGRESS, OUTSIDE, FULL, STUCK = range(5)
"""Why the core comes back: every request has ended; so many more have; something happens that is decided outside; a
table may be too small for what comes next, or has no more arrivals; nothing will ever happen again."""
LOST, DRAINING, UP, SLOWER = range(4)
"""What is done to a replica from outside."""
NEVER = 1 << 62
"""Number of an event that is not planned."""
RUN_COLUMNS = 11
"""Of :class:`perfmodel.serving.records.StepRuns`."""


def _record(**fields: str) -> np.dtype[np.void]:
    columns = [(name, kind) for kind, names in fields.items() for name in names.split()]
    return np.dtype(columns, align=True)


TABLES = (
    "replicas ranks rows outstanding rank_outstanding lists waits holds fresh rank_lists rank_links ends plans wakes "
    "timed scratch nodes slots path_keys path_tokens grids numbers factors sizes gap_s gap_count runs"
)
"""What a run consists of beside its WORLD: see :mod:`perfmodel.serving.compiled.memory`."""
WORLD = _record(
    f8="now watermark swap_s root_time outside_time front_latency front_serial front_free",
    i8="events n total more starved root_at roots_left root_event outside_event ended told progress capped first_root "
    "num_replicas num_ranks per_replica blocks block_tokens request_blocks max_running router rank_router turn up "
    "mixed budget per_decode poll hold swap_tokens caches states interval checkpoint_blocks delays "
    "num_plans num_timed num_wakes first_wake num_gaps num_runs free_node num_nodes max_path num_lost "
    "most_gaps most_runs most_nodes num_slots num_path num_times num_numbers num_sizes "
    + " ".join(f"at_{name}" for name in TABLES.split()),
)
REPLICA = _record(
    f8="steady_s plan_time start seconds prompt attended tokens growth even copying step_end",
    i8="step prefilled present taken steady held_at plan_event steps waiting held requests",
    i4="up busy waking running cut_short times run_times plan place root rank_turn",
)
RANK = _record(
    f8="growth constant",
    i8="prompt_blocks waiting_blocks promised shared cache_blocks locked_blocks copied",
    i4="newest oldest",
)
ROW = _record(
    f8="growth base arrived scheduled prefilled first end last_output pause think",
    i8="prompt steps tokens finish start shared blocks done now path",
    i4="replica rank child root path_length nodes prompt_nodes preemptions retries cached swapped",
)
NODE = _record(i8="key tokens blocks", i4="rank locks children parent restarts older newer")
TIMED = _record(f8="time", i8="event", i4="row kind")

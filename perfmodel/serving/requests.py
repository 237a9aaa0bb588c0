"""A workload as columns: what arrives when, and how long it is. Plain data, in the hand of a simulator."""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError, SpecError
from perfmodel.serving import draws
from perfmodel.serving.draws import Floats, Ints, constant, draw_arrivals, draw_counts, draw_seconds, stream
from perfmodel.serving.window import check_left
from perfmodel.spec.traces.read import trace_of
from perfmodel.spec.traces.stated import MAX_TOKENS
from perfmodel.spec.traces.trace import HASH_BLOCK_TOKENS, Trace
from perfmodel.spec.workload import (
    DEFAULT_INPUT,
    DEFAULT_OUTPUT,
    DEFAULT_REQUESTS,
    MAX_PAUSE_S,
    MAX_TURNS,
    Workload,
    lowest,
)

Bools = NDArray[np.bool_]
Column = TypeVar("Column", Floats, Ints)

NONE = -1
"""No parent, no prefix."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Columns (n,) with a row per request; read-only arrays.

    Rows of one session follow each other, its first request (a root) in front; roots are in order of arrival.
    At equal times the row that stands first comes first. Slots of ``max_concurrency`` are held by sessions,
    from the first request's sending to the last one's end, pauses included, and are given to roots in the
    order of rows.
    """

    arrival_s: Floats
    """Roots: seconds from the start at which a request is ready (it may still wait for a slot). Others:
    seconds from the end of their parent to their own arrival."""
    input_tokens: Ints
    """Tokens of the whole prompt: prefix and history included."""
    output_tokens: Ints
    """Tokens of the output."""
    parent: Ints
    """The session's request before this one, always the row above; -1: a root."""
    prefix: Ints
    """Which shared prefix the prompt starts with; -1: none. A session keeps its root's."""
    prefix_tokens: Ints
    """Length of that prefix, tokens; 0 without one."""
    think_s: Floats
    """Closed loop: seconds that a slot waits, once it is free, before it sends this root; 0 for others."""
    max_concurrency: int | None = None
    """Sessions in flight at most; None: no cap."""
    hash_ids: Ints | None = None
    """As in :class:`perfmodel.spec.traces.trace.Trace`: ids of prompt blocks, of all rows one after the other."""
    hash_offsets: Ints | None = None
    """(n + 1,): row i has ``hash_ids[hash_offsets[i]:hash_offsets[i + 1]]``."""
    hash_block_tokens: int = HASH_BLOCK_TOKENS
    """Tokens that an id stands for."""
    notes: tuple[str, ...] = ()
    """What a trace lacks and what of it is not read, in words."""
    adapter: Ints | None = None
    """LoRA adapter (n,) of each request, which ``prefix`` and ``hash_ids`` then hold as well; None: there are none."""

    @property
    def num_requests(self) -> int:
        """Rows."""
        return len(self.arrival_s)

    @property
    def roots(self) -> Ints:
        """Rows of the sessions' first requests, in order of arrival."""
        return np.flatnonzero(self.parent == NONE)

    @property
    def child(self) -> Ints:
        """The session's next request after each row (n,); -1: none."""
        after = np.append(self.parent[1:], NONE)
        rows = np.arange(self.num_requests)
        return np.where(after == rows, rows + 1, NONE)

    @property
    def history_tokens(self) -> Ints:
        """Leading tokens (n,) of each prompt that are its parent's prompt and output, so may be cached; 0 for roots."""
        before = np.roll(self.input_tokens + self.output_tokens, 1)
        return np.where(self.parent == NONE, 0, before)


def requests_of(workload: Workload, seed: int, *, trace: Trace | None = None) -> Requests:
    """The requests of a workload: the same bytes for the same workload and seed. ``trace``: its trace, already read.

    Arrivals, prompts, outputs, prefixes, turns, turns' tokens, pauses and think times each have a stream of
    their own, so changing the lengths changes no arrival.

    Raises:
        SpecError: a negative seed, an unknown trace, requests that do not fit ``max_context_tokens`` or MAX_TOKENS, or
            a warm-up and cool-down of as many as there are.
        DataError: a trace that can't be read, or has no times where they are needed.
    """
    if workload.trace:
        return _from_trace(workload, seed, trace or trace_of(workload))
    n = workload.num_requests or DEFAULT_REQUESTS
    check_left(workload, n)
    inputs, outputs, parent = (
        _sessions(workload, n, seed) if workload.has_turns else _singles(workload, n, seed)
    )
    is_root = parent == NONE
    num_roots = int(is_root.sum())
    pauses = stream(seed, draws.TOOL_PAUSES)
    rate = workload.rate
    assert rate is not None  # only a trace has times of its own
    roots = draw_arrivals(rate, workload.burstiness, stream(seed, draws.ARRIVALS), num_roots)
    arrival = _spread(is_root, roots, draw_seconds(workload.tool_pause_s, pauses, n - num_roots, MAX_PAUSE_S))
    prefix = constant(n, NONE)
    if workload.prefix_tokens:
        own = stream(seed, draws.PREFIXES).integers(0, workload.num_prefixes, size=num_roots)
        prefix = own[np.cumsum(is_root) - 1]
    return _frozen(
        Requests(
            arrival_s=arrival,
            input_tokens=inputs,
            output_tokens=outputs,
            parent=parent,
            prefix=prefix,
            prefix_tokens=constant(n, workload.prefix_tokens),
            think_s=_think(workload, is_root, seed),
            max_concurrency=workload.max_concurrency,
        )
    )


def for_adapters(requests: Requests, adapters: int, seed: int) -> Requests:
    """The requests with an adapter each, all of a session the same one, equally likely: beginnings of prompts are alike
    only where the adapter is, since it changes what is computed of them (vLLM and SGLang hash it along). Requests that
    have their adapters stay as they are.
    """
    if not adapters or requests.adapter is not None:
        return requests
    is_root = requests.parent == NONE
    own = stream(seed, draws.ADAPTERS).integers(0, adapters, size=int(is_root.sum()))
    adapter = own[np.cumsum(is_root) - 1]
    hashed = requests.hash_ids
    if hashed is not None and requests.hash_offsets is not None:
        hashed = hashed * adapters + np.repeat(adapter, np.diff(requests.hash_offsets))
    prefix = np.where(requests.prefix == NONE, NONE, requests.prefix * adapters + adapter)
    return _frozen(replace(requests, prefix=prefix, hash_ids=hashed, adapter=adapter))


def _from_trace(w: Workload, seed: int, trace: Trace) -> Requests:
    n = trace.num_requests
    check_left(w, n)
    alone = constant(n, NONE)
    parent = alone if trace.parent is None else trace.parent
    own_pace = w.rate is None
    cap = trace.max_concurrency if own_pace and w.max_concurrency is None else w.max_concurrency
    return _frozen(
        Requests(
            arrival_s=_trace_arrivals(w, trace, parent == NONE, seed),
            input_tokens=trace.input_tokens,
            output_tokens=trace.output_tokens,
            parent=parent,
            prefix=alone,
            prefix_tokens=constant(n, 0),
            think_s=_think(w, parent == NONE, seed),
            max_concurrency=cap,
            hash_ids=trace.hash_ids,
            hash_offsets=trace.hash_offsets,
            hash_block_tokens=trace.hash_block_tokens,
            notes=(*trace.notes, *_taken(trace, cap if own_pace and w.max_concurrency is None else None)),
        )
    )


def _taken(trace: Trace, cap: int | None) -> tuple[str, ...]:
    """What of a benchmark's settings is taken over, in words."""
    if cap is None:
        return ()
    return (
        f"max_concurrency = {cap}, as in the run whose result it is; workload.max_concurrency states another",
    )


def _trace_arrivals(w: Workload, trace: Trace, is_root: Bools, seed: int) -> Floats:
    """The trace's own times, or generated ones for its lengths; of later turns the trace's pauses."""
    rate = trace.request_rate if w.rate is None and trace.arrival_s is None else w.rate
    if rate is not None:
        roots = draw_arrivals(rate, w.burstiness, stream(seed, draws.ARRIVALS), int(is_root.sum()))
    elif trace.arrival_s is None:
        raise DataError(without_times(w, trace.format))
    else:
        roots = trace.arrival_s[is_root] / w.time_scale
    pauses = np.zeros(len(is_root)) if trace.arrival_s is None else trace.arrival_s
    return _spread(is_root, roots, pauses[~is_root])


def without_times(w: Workload, trace_format: str) -> str:
    """Why a trace alone is not enough, in words."""
    return (
        f"workload.trace = {w.trace}: a {trace_format} file without times of arrival: give workload.request_rate "
        "(inf with max_concurrency: a closed loop)"
    )


def _singles(w: Workload, n: int, seed: int) -> tuple[Ints, Ints, Ints]:
    """Prompts, outputs and parents (n,) of requests that stand alone."""
    inputs = draw_counts(w.input_tokens or DEFAULT_INPUT, stream(seed, draws.INPUTS), n, MAX_TOKENS)
    outputs = draw_counts(w.output_tokens or DEFAULT_OUTPUT, stream(seed, draws.OUTPUTS), n, MAX_TOKENS)
    inputs = inputs + w.prefix_tokens if w.prefix_tokens else inputs
    return inputs, outputs, constant(n, NONE)


def _sessions(w: Workload, n: int, seed: int) -> tuple[Ints, Ints, Ints]:
    """Prompts, outputs and parents (n,) of whole sessions, the last one cut off where it reaches ``n`` requests.

    Sessions are drawn in rounds, because how many requests one has is known only once its lengths are: a
    session ends before the request that would exceed ``max_context_tokens``.
    """
    rngs = {
        source: stream(seed, source)
        for source in (draws.TURNS, draws.INPUTS, draws.TURN_TOKENS, draws.OUTPUTS)
    }
    output = w.output_tokens or DEFAULT_OUTPUT
    kept: list[tuple[Ints, Ints, Ints]] = []
    have, per_session = 0, 1.0
    while have < n:
        # as many sessions as are likely to be needed; one too many is cut off below
        turns = draw_counts(w.turns, rngs[draws.TURNS], int((n - have) / per_session) + 1, MAX_TURNS)
        turns = np.minimum(turns, _most_turns(w))
        turns = turns[: int(np.searchsorted(np.cumsum(turns), n)) + 1]
        first = np.repeat(np.cumsum(turns) - turns, turns)
        rows = np.arange(len(first))
        is_root = first == rows
        own = _spread(
            is_root,
            draw_counts(w.input_tokens or DEFAULT_INPUT, rngs[draws.INPUTS], len(turns), MAX_TOKENS)
            + w.prefix_tokens,
            draw_counts(
                w.turn_tokens or DEFAULT_INPUT, rngs[draws.TURN_TOKENS], len(rows) - len(turns), MAX_TOKENS
            ),
        )
        outputs = draw_counts(output, rngs[draws.OUTPUTS], len(rows), MAX_TOKENS)
        both = np.cumsum(own + outputs)  # all of the round before and with each row
        prompts = both - outputs - (both - own - outputs)[first]
        limit = min(w.max_context_tokens or MAX_TOKENS, MAX_TOKENS)
        fits = prompts + outputs <= limit
        if not fits[is_root].all() or (w.max_context_tokens is None and not fits.all()):
            worst = int((prompts + outputs)[is_root if w.max_context_tokens else slice(None)].max())
            name = "max_context_tokens" if w.max_context_tokens else "the most that perfmodel takes"
            raise SpecError(
                f"workload: a request of {worst:,} tokens (prompt and output) exceeds {name} = {limit:,}: "
                "lower max of input_tokens or output_tokens, or turns; or state a higher max_context_tokens"
            )
        kept.append((prompts[fits], outputs[fits], np.where(is_root, NONE, 0)[fits]))
        found = len(kept[-1][0])
        have += found
        per_session = found / len(turns)
    prompts, outputs, parent = (np.concatenate(column)[:n] for column in zip(*kept, strict=True))
    return prompts, outputs, np.where(parent == NONE, NONE, np.arange(n) - 1)


def _most_turns(w: Workload) -> int:
    """Turns beyond which no session fits its context, however short its requests are."""
    if w.max_context_tokens is None:
        return MAX_TURNS
    output = lowest(w.output_tokens or DEFAULT_OUTPUT, 1.0)
    room = w.max_context_tokens - w.prefix_tokens - lowest(w.input_tokens or DEFAULT_INPUT, 1.0) - output
    return 1 + int(room / (lowest(w.turn_tokens or DEFAULT_INPUT, 1.0) + output))


def _think(w: Workload, is_root: Bools, seed: int) -> Floats:
    """Think time of each root, 0 of others."""
    n, num_roots = len(is_root), int(is_root.sum())
    if w.think_time_s.value == 0.0:
        return np.broadcast_to(np.float64(0.0), (n,))
    roots = draw_seconds(w.think_time_s, stream(seed, draws.THINK_TIMES), num_roots, MAX_PAUSE_S)
    return _spread(is_root, roots, np.zeros(n - num_roots))


def _spread(is_root: Bools, roots: Column, others: Column) -> Column:
    """One column from the values of roots and of other rows."""
    column = np.empty(len(is_root), dtype=roots.dtype)
    column[is_root] = roots
    column[~is_root] = others
    return column


def _frozen(requests: Requests) -> Requests:
    """The same, with read-only arrays."""
    for name in requests.__slots__:
        column = getattr(requests, name)
        if isinstance(column, np.ndarray):
            column.setflags(write=False)
    return requests

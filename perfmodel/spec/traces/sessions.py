"""Requests of a conversation in a trace: which follows which, and how long after."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.spec.messages import number_of
from perfmodel.spec.traces.dialects import Columns
from perfmodel.spec.traces.stated import MAX_TOKENS, TurnInputs
from perfmodel.spec.traces.trace import Ints

if TYPE_CHECKING:
    from perfmodel.spec.traces.table import Rows

NONE = -1
LINKED_ELSEWHERE = "parent_chat_id"
"""Key by which Qwen-Bailian's rows name the request before; how long an answer took they don't say."""


def link_sessions(
    rows: "Rows",
    columns: Columns,
    turn_inputs: TurnInputs,
    path: Path,
    *,
    select: "Callable[[Rows, NDArray[np.intp]], Rows]",
) -> "tuple[Rows, Ints | None, list[str]]":
    """Rows with those of a session one below the other, each row's parent (None: all stand alone), and notes.

    A request waits for the answer before it where the file says how long it came after that answer's end: by a delay,
    or by times and how long the answer took (then the pause is the time between, at least 0). Else requests keep the
    file's times. A prompt holds all before it; one that is shorter (a context cut off) begins a session of its own.

    Raises:
        DataError: a request with neither a time nor a session's request before it, or one that is shorter than what
            came before and has no time; a prompt that grows beyond MAX_TOKENS.
    """
    notes: list[str] = []
    if LINKED_ELSEWHERE in columns.ignored:
        notes.append(
            f"{LINKED_ELSEWHERE}: turns come at the trace's own times, whatever the answers before took"
        )
    if rows.session is None:
        return rows, None, notes
    order = _grouped(rows.session)
    rows = select(rows, order)
    session = rows.session
    assert session is not None
    n = len(session)
    parent = np.full(n, NONE, dtype=np.int64)
    follows = (session[1:] == session[:-1]) & (session[1:] != NONE)
    parent[1:][follows] = np.flatnonzero(follows)
    turns = parent != NONE
    if not turns.any():
        return select(rows, np.argsort(order, kind="stable")), None, notes
    pause = np.full(n, np.nan) if rows.pause_s is None else rows.pause_s.copy()
    if rows.took_s is not None:
        since = rows.seconds - np.roll(rows.seconds + rows.took_s, 1)
        pause = np.where(np.isnan(pause), np.maximum(since, 0.0), pause)
    num_sessions = int((parent == NONE).sum())
    if (
        rows.pause_s is not None
        and np.isnan(rows.pause_s[turns]).any()
        and np.isfinite(rows.pause_s[turns]).any()
    ):
        raise DataError(
            f"{path}: some turns of sessions have {columns.delay}, others have none: give it in all"
        )
    if not np.isfinite(pause[turns]).all():
        notes.append(
            f"{columns.session}: {number_of(n, 'request')} of {number_of(num_sessions, 'session')} come at the trace's "
            "own times: how long an answer took, or a delay after it, is not in the file"
            + ("" if rows.hashes else "; nothing says what their prompts share")
        )
        return select(rows, np.argsort(order, kind="stable")), None, notes
    if turn_inputs == "new":
        rows = replace(rows, input=_accumulated(rows.input, rows.output, parent, path))
    short = turns & (rows.input < np.roll(rows.input + rows.output, 1))
    if short.any():
        if rows.pause_s is not None and np.isfinite(rows.pause_s[short]).any():
            first = int(np.flatnonzero(short)[0])
            raise DataError(
                f"{path}: a turn's {columns.input} = {rows.input[first]:,} is less than the prompt and answer before "
                f"it ({rows.input[first - 1] + rows.output[first - 1]:,}): if it counts new tokens alone, give "
                "workload.turn_inputs: new"
            )
        parent[short] = NONE
        notes.append(
            f"{number_of(int(short.sum()), 'turn')} shorter than what came before: each begins a session of its own"
        )
    # sessions by the arrival of their first request, rows of a session below it
    root = np.maximum.accumulate(np.where(parent == NONE, np.arange(n), 0))
    again = np.lexsort((np.arange(n), root, rows.seconds[root]))
    rows = select(replace(rows, pause_s=pause), again)
    parent = np.where(parent[again] == NONE, NONE, np.arange(n) - 1)
    notes.append(f"{columns.session}: a turn waits for the answer before it, and comes a pause after its end")
    return rows, parent, notes


def _grouped(session: Ints) -> NDArray[np.intp]:
    """The order in which rows of a session follow each other; otherwise, and within a session, as they stood."""
    rows = np.arange(len(session))
    first = np.full(int(session.max(initial=0)) + 1, len(session))
    np.minimum.at(first, session[session >= 0], rows[session >= 0])
    return np.lexsort((rows, np.where(session >= 0, first[np.maximum(session, 0)], rows)))


def _accumulated(new: Ints, output: Ints, parent: Ints, path: Path) -> Ints:
    """Whole prompts, where each row states its new tokens alone."""
    n = len(new)
    root = np.maximum.accumulate(np.where(parent == NONE, np.arange(n), 0))
    both = np.cumsum(new + output)
    prompts = both - output - (both - new - output)[root]
    if prompts.max() > MAX_TOKENS:
        raise DataError(
            f"{path}: a session's prompt grows to {prompts.max():,} tokens: at most {MAX_TOKENS:,}"
        )
    return prompts

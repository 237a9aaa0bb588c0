"""The two forms of the simulation, and which one a run takes.

``plain``: :mod:`perfmodel.serving.cluster` and what that uses, which defines what is computed. ``compiled``: the same
on arrays in machine code (:mod:`perfmodel.serving.compiled`), fifty times as fast, where numba is there. Their records
are equal, so which one ran matters to nobody but the clock; it is in an answer's provenance all the same.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

import numpy as np

from perfmodel.errors import SpecError
from perfmodel.serving import cluster
from perfmodel.serving.batching import Batching
from perfmodel.serving.changes import Change
from perfmodel.serving.cluster import FrontEndTimes, PrefillSide, Progress
from perfmodel.serving.compiled.jit import available, compiled_before
from perfmodel.serving.notes import Notes
from perfmodel.serving.pool import Layout
from perfmodel.serving.records import Records
from perfmodel.serving.requests import Requests
from perfmodel.serving.step_times import StepTimes
from perfmodel.serving.stream import RequestStream

Core = Literal["plain", "compiled"]

WORTH_LOADING, WORTH_COMPILING = 5_000, 500_000
"""Requests from which on a run is shorter with the compiled form, its loading (0.6 s) or its compiling (half a minute)
included."""
ENVIRONMENT = "PERFMODEL_CORE"
"""Names the form that all runs take which can."""


def chosen(num_requests: int) -> Core:
    """The form that so many requests are worth.

    Raises:
        SpecError: the environment names none.
    """
    named = os.environ.get(ENVIRONMENT)
    if named is not None and named not in get_args(Core):
        raise SpecError(f"{ENVIRONMENT} = {named}: must be one of {', '.join(get_args(Core))}")
    if named == "plain" or not available():
        return "plain"
    worth = num_requests >= (WORTH_LOADING if compiled_before() else WORTH_COMPILING)
    return "compiled" if named == "compiled" or worth else "plain"


def simulate(
    core: Core | None,
    requests: Requests,
    times: Callable[[int], StepTimes],
    layout: Layout,
    batching: Batching,
    decode_steps: np.ndarray,
    *,
    prefill: PrefillSide | None = None,
    changes: Iterable[Change] = (),
    progress: Progress | None = None,
    front_end: FrontEndTimes | None = None,
) -> tuple[Records, Core]:
    """As :func:`perfmodel.serving.cluster.simulate`, by the form that is asked for, or is worth it; and which one ran.

    Raises:
        InfeasibleError: a request is longer than one rank's cache, or some wait for ever.
        SpecError: the environment names no form.
    """
    core = chosen(requests.num_requests) if core is None else core
    together = batching.together and (prefill is None or prefill.batching.together)
    if core == "compiled" and together:
        from perfmodel.serving.compiled import drive

        found = drive.simulate(
            requests, times, layout, batching, decode_steps,
            prefill=prefill, changes=changes, progress=progress, front_end=front_end,
        )  # fmt: skip
        return found, "compiled"
    found = cluster.simulate(
        requests, times, layout, batching, decode_steps,
        prefill=prefill, changes=changes, progress=progress, front_end=front_end,
    )  # fmt: skip
    return found, "plain"


def stream_compiled(
    asked: Requests | RequestStream,
    times: Callable[[int], StepTimes],
    layout: Layout,
    batching: Batching,
    decode_steps: Iterator[np.ndarray],
    notes: Notes,
    *,
    changes: Iterable[Change] = (),
    progress: Progress | None = None,
    front_end: FrontEndTimes | None = None,
) -> None:
    """See :func:`perfmodel.serving.compiled.drive.stream`."""
    from perfmodel.serving.compiled import drive

    drive.stream(
        asked, times, layout, batching, decode_steps, notes,
        changes=changes, progress=progress, front_end=front_end,
    )  # fmt: skip

"""Serving runs of the Traffic page: kept for all sessions, made while somebody watches, and stopped when they say so.

A run is made in the pool; whoever watches it draws how far it is, and leaves when told to stop. A box per scenario
holds the run that has ended and the points of its curve as they come.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from dashboard.asked import Asked
from dashboard.cache import kept
from dashboard.pool import Progress, pooled
from dashboard.results import Failed
from perfmodel.answers.serve import ServeAnswer, answer_serve
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.explore.goodput import POINTS, GoodputPoint, goodput_points
from perfmodel.output.serve.requests import write_requests
from perfmodel.output.serve.trace import write_serve_trace
from perfmodel.output.serve.traffic_rows import latency_rows, load_rows
from perfmodel.serving.serve import Served
from perfmodel.spec.scenario import Scenario

FEWEST, MOST, QUICK = 100, 50_000, 2_000
"""Requests that the page serves: from, to, and where nothing is said."""
MOST_TOKENS = 2e8
"""Output tokens that it serves: 50,000 requests of 4,000."""


@dataclass(frozen=True)
class Run:
    """A run that has ended, with the rows that its charts show."""

    asked: Asked
    answer: ServeAnswer
    latency: pd.DataFrame
    load: pd.DataFrame


@dataclass
class Box:
    """Where a run's result is put, once; the points of its curve as they come."""

    run: Run | Failed | None = None
    points: tuple[GoodputPoint, ...] = ()
    refused: str = ""
    """Why there is no point more."""

    @property
    def complete(self) -> bool:
        """Whether the curve has all its points."""
        return len(self.points) >= POINTS or bool(self.refused)


@kept(16)
def box_of(scenario: Scenario) -> Box:
    """The scenario's box, the same one for all who ask."""
    return Box()


def served_by_page(asked: Asked) -> Asked:
    """What the page serves of what is asked: QUICK requests where it does not say how many, and at most MOST."""
    wanted = asked.scenario().workload.num_requests
    number = min(wanted or QUICK, MOST)
    return asked if number == wanted else asked.changed({"workload.num_requests": str(number)})


def at_most(asked: Asked) -> Asked:
    """What is asked, of MOST requests if it asks for more."""
    wanted = asked.scenario().workload.num_requests
    return asked.changed({"workload.num_requests": str(MOST)}) if wanted and wanted > MOST else asked


def fill(box: Box, asked: Asked, progress: Progress) -> Run | Failed:
    """Simulate, and put the result into the box."""
    found = _served(asked.scenario(), progress=progress)
    box.run = found if isinstance(found, Failed) else Run(asked, *found)
    return box.run


@pooled(16, slow=True)
def _served(
    scenario: Scenario, *, progress: Progress | None = None
) -> tuple[ServeAnswer, pd.DataFrame, pd.DataFrame] | Failed:
    """The answer, and the rows of its charts."""
    try:
        _refuse_long(scenario)
        answer = answer_serve(scenario, progress=progress)
    except PerfModelError as error:
        return Failed(str(error))
    return answer, latency_rows(answer.served), load_rows(answer.served)


def _refuse_long(scenario: Scenario) -> None:
    """Refuse a run that opening a link should not start: it would take minutes of everybody's time.

    Raises:
        SpecError: more output tokens than MOST_TOKENS, as far as the workload states their lengths.
    """
    workload = scenario.workload
    mean = workload.output_tokens.expected if workload.output_tokens is not None else 0.0
    tokens = mean * (workload.num_requests or QUICK)
    if tokens > MOST_TOKENS:
        raise SpecError(
            f"{tokens:.3g} output tokens (workload.num_requests x workload.output_tokens): this page simulates up to "
            f"{MOST_TOKENS:.0e}; ask for fewer or shorter requests, or use perfmodel serve"
        )


def add_points(box: Box, answer: ServeAnswer, progress: Progress, came: Callable[[], None]) -> None:
    """Simulate the points of the curve that are missing; each is in the box before ``came`` is called.

    Whoever else does so meanwhile finds the same ones: the box keeps those of whoever is ahead.
    """
    points = box.points
    while len(points) < POINTS:
        found = _next_points(answer.scenario, answer.served, points, progress=progress)
        if isinstance(found, Failed):
            box.refused = found.text
            return
        if not found:
            return
        points = (*points, *found)
        if len(points) > len(box.points):
            box.points = points
        came()


@pooled(128, slow=True, key=lambda scenario, _, points: (scenario, points))
def _next_points(
    scenario: Scenario,
    served: Served,
    points: tuple[GoodputPoint, ...],
    *,
    progress: Progress | None = None,
) -> tuple[GoodputPoint, ...] | Failed:
    """The point after those that are there."""
    try:
        return tuple(islice(goodput_points(served, points, progress=progress), 1))
    except PerfModelError as error:
        return Failed(str(error))


def written(answer: ServeAnswer, name: str) -> bytes:
    """A file as ``perfmodel serve`` writes it: requests (.csv, .parquet) or a trace (.json.gz)."""
    write: Callable[[ServeAnswer, Path], Any] = (
        write_serve_trace if name.endswith(".json.gz") else write_requests
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(answer, path)
        return path.read_bytes()

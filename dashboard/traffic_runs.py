"""Serving runs of the Traffic page: kept for all sessions, made while somebody watches, and stopped when they say so.

Streamlit stops a running script at its next call, which is one from ``progress``; so a run can't be inside a function
that Streamlit caches. What is cached is a box per scenario, and a run that has ended puts its result there.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dashboard.asked import Asked
from dashboard.cache import kept
from dashboard.results import Failed
from perfmodel.answers.serve import ServeAnswer, answer_serve
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.explore.goodput import POINTS, GoodputPoint, goodput_points
from perfmodel.output.serve.requests import write_requests
from perfmodel.output.serve.trace import write_serve_trace
from perfmodel.output.serve.traffic_rows import latency_rows, load_rows
from perfmodel.spec.scenario import Scenario

Progress = Callable[[int, int], None]

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
    try:
        _refuse_long(asked.scenario())
        answer = answer_serve(asked.scenario(), progress=progress)
        box.run = Run(asked, answer, latency_rows(answer.served), load_rows(answer.served))
    except PerfModelError as error:
        box.run = Failed(str(error))
    return box.run


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
    try:
        for point in goodput_points(answer.served, points, progress=progress):
            points = (*points, point)
            if len(points) > len(box.points):
                box.points = points
            came()
    except PerfModelError as error:
        box.refused = str(error)


def written(answer: ServeAnswer, name: str) -> bytes:
    """A file as ``perfmodel serve`` writes it: requests (.csv, .parquet) or a trace (.json.gz)."""
    write: Callable[[ServeAnswer, Path], Any] = (
        write_serve_trace if name.endswith(".json.gz") else write_requests
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(answer, path)
        return path.read_bytes()

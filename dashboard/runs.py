"""Serving runs that are simulated while somebody watches, and kept for all sessions once they are done.

What is kept is a slot per scenario, which a run fills when it ends. So a run itself is no cached call: it reports how
far it is, ends when its session asks for something else (Streamlit interrupts a script where it next draws), and nobody
waits for another session's.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dashboard.cache import kept
from dashboard.results import Failed
from perfmodel.answer_serve import ServeAnswer, answer_serve
from perfmodel.errors import PerfModelError
from perfmodel.explore.goodput import RatePoint, goodput_curve
from perfmodel.output.load_rows import batch_frame, load_frame
from perfmodel.output.requests import request_frame, write_requests
from perfmodel.output.serve_trace import write_serve_trace
from perfmodel.spec.scenario import Scenario

DRAW_EVERY_S = 0.1
"""How often progress is drawn, which is where a run can be interrupted."""

Draw = Callable[[int, int], None]


@dataclass(slots=True)
class Slot:
    """A run, filled once; runs are deterministic, so whoever fills it writes the same."""

    found: ServeAnswer | Failed | None = None


@dataclass(slots=True)
class Curve:
    """Goodput against rate as far as it is known; a longer tuple goes on from a shorter one."""

    points: tuple[RatePoint, ...] = ()
    ended: bool = False
    """No point is missing."""
    failed: str = ""
    """Why there is no curve."""


@kept(16)
def slot(scenario: Scenario) -> Slot:
    """Where the scenario's run is kept."""
    return Slot()


@kept(64)
def curve(scenario: Scenario) -> Curve:
    """Where the scenario's curve is kept."""
    return Curve()


def run(scenario: Scenario, draw: Draw) -> ServeAnswer | Failed:
    """Serve the scenario's traffic and keep the answer; ``draw`` is told how far it is and may interrupt."""
    found: ServeAnswer | Failed
    try:
        found = answer_serve(scenario, progress=now_and_then(draw))
    except PerfModelError as error:
        found = Failed(str(error))
    slot(scenario).found = found
    return found


def extend(answer: ServeAnswer, points: int, draw: Draw, shown: Callable[[Curve], None]) -> Curve:
    """Simulate what is missing of a run's curve, keeping every point; ``shown`` is called after each."""
    own = curve(answer.scenario)
    try:
        for point in goodput_curve(
            answer.served, known=own.points, points=points, progress=now_and_then(draw)
        ):
            own.points = (*own.points, point)
            shown(own)
        own.ended = True
    except PerfModelError as error:
        own.failed = str(error)
    return own


def now_and_then(draw: Draw) -> Draw:
    """Called as often as anybody likes, draws only every DRAW_EVERY_S and at the end."""
    last = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= DRAW_EVERY_S:
            last = time.monotonic()
            draw(done, total)

    return tell


# --- what a run's page shows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frames:
    """A run as tables."""

    requests: pd.DataFrame
    load: pd.DataFrame
    batch: pd.DataFrame


@kept(8)
def frames(scenario: Scenario, _answer: ServeAnswer) -> Frames:
    """Of the scenario's run; whoever changes them, copies them first."""
    return Frames(request_frame(_answer), load_frame(_answer.served), batch_frame(_answer.served))


def requests_file(answer: ServeAnswer, suffix: str) -> bytes:
    """A row per request, as ``perfmodel serve --requests`` writes it."""
    return _written(f"requests{suffix}", lambda path: write_requests(answer, path))


def trace_file(answer: ServeAnswer) -> bytes:
    """The run's Chrome trace, as ``perfmodel serve --trace`` writes it."""
    return _written("serve.json.gz", lambda path: write_serve_trace(answer, path))


def _written(name: str, write: Callable[[Path], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()

"""Schedules beside each other: one layer of each over one time axis, and how busy its streams are."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from perfmodel.answers.step import StepAnswer
from perfmodel.output.charts.timeline import timeline_chart
from perfmodel.output.step.spans import OpRun, op_runs
from perfmodel.output.step.windows import (
    LANES,
    Window,
    exposed_rows,
    lanes_of,
    layer_window,
    op_rows,
    stage_rows,
)
from perfmodel.overlap.analysis import slowest_rank
from perfmodel.spec.scenario import Scenario
from perfmodel.units import US

if TYPE_CHECKING:
    import pandas as pd

SEPARATOR = ": "
RATES = (
    "tokens_per_s_per_user",
    "input_tokens_per_s_per_gpu",
    "usd_per_million_output_tokens",
    "usd_per_million_input_tokens",
)
"""Of an answer, beside its times."""


def step_window(found: StepAnswer) -> Window:
    """The middle layer (where micro-batches carry over, two layers as the first one sees them)."""
    return layer_window(found.step.segments, op_runs(found.step, slowest_rank(found.step.timeline)))


def stacked_timeline(windows: Mapping[str, Window]) -> Any:
    """One layer of every schedule, from the top down, all from time 0 on one axis in microseconds."""
    rows: list[dict[str, Any]] = []
    strips: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    lanes: list[str] = []
    for name, window in windows.items():
        own = stage_rows(window, US)
        lanes += [_lane(name, lane) for lane in lanes_of(window, own)]
        strips += [_named(row, name) for row in own]
        rows += [_named(row, name) for row in op_rows(window, US, detailed=True)]
        marks += [_named(row, name) for row in exposed_rows(window, US)]
    end = max(window.seconds for window in windows.values()) / US
    figure = timeline_chart(rows, lanes=lanes, end=end, unit="µs", exposed=marks, strip=strips)
    figure.update_layout(margin={"l": 12 + 7 * max(len(lane) for lane in lanes)})
    return figure


class Told(Protocol):
    """What is read of an answer: the simulated step need not be at hand."""

    @property
    def scenario(self) -> Scenario:
        """What was asked."""

    @property
    def values(self) -> Mapping[str, Any]:
        """The keys of ``perfmodel step --json``."""


def schedule_rows(answers: Mapping[str, Told]) -> "pd.DataFrame":
    """One row per schedule: ``overlap``, step time, time per layer and what of it is exposed (s), hidden (%), and the
    rates that the phase has.
    """
    import pandas as pd

    rows = []
    for name, found in answers.items():
        layers = found.scenario.model.num_layers
        in_layers = sum(
            row["seconds"] for row in found.values["stages_s"] if row["segment"].startswith("layers")
        )
        rows.append(
            {
                "overlap": name,
                "step_time_s": found.values["step_time_s"],
                "layer_time_s": in_layers / layers,
                "exposed_communication_s": found.values["exposed_communication_s"],
                "overlap_pct": found.values["overlap_pct"],
                **{key: found.values[key] for key in RATES if found.values[key] is not None},
            }
        )
    return pd.DataFrame(rows)


def busy_rows(windows: Mapping[str, Window]) -> "pd.DataFrame":
    """How much of the layer's time each stream runs something: ``overlap``, ``stream``, ``share`` (of 1)."""
    import pandas as pd

    rows = [
        {"overlap": name, "stream": lane, "share": _busy(window.runs, stream) / window.seconds}
        for name, window in windows.items()
        for stream, lane in LANES.items()
        if any(run.launch.stream == stream for run in window.runs)
    ]
    return pd.DataFrame(rows, columns=["overlap", "stream", "share"])


def _busy(runs: Sequence[OpRun], stream: Any) -> float:
    """Seconds in which one stream runs something; a stream runs one op at a time."""
    return sum(run.seconds for run in runs if run.launch.stream == stream)


def _lane(name: str, lane: str) -> str:
    return f"{name}{SEPARATOR}{lane}"


def _named(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**row, "lane": _lane(name, row["lane"])}

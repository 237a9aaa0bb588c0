"""Rows of the timeline charts: which part of a step is shown, and what is said of each op in it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from textwrap import wrap
from typing import Any

from perfmodel.kernels.calibration import INSIDE
from perfmodel.ops.op import Stream
from perfmodel.output.formats import duration, percent, scaled
from perfmodel.output.step.spans import OpRun, exposed_intervals
from perfmodel.overlap.graph import Segment

LANES = {
    Stream.COMPUTE: "compute",
    Stream.EXPERTS: "experts",
    Stream.LINK: "NVLink",
    Stream.NETWORK: "network",
    Stream.HOST: "host",
}
"""Streams from the top down, and what a chart calls them."""

HOVER_WIDTH = 64

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a step, for one chart."""

    runs: tuple[OpRun, ...]
    """Ops in it, cut at its edges."""
    start_s: float
    end_s: float
    shown: frozenset[tuple[int, int]]
    """The iterations (segment, iteration) that it is about; ops of others are neighbours that reach into it."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end_s - self.start_s

    def neighbour(self, run: OpRun) -> bool:
        """Whether an op belongs to a layer that the window is not about."""
        return (run.segment, run.iteration) not in self.shown


def step_window(runs: Sequence[OpRun]) -> Window:
    """The whole step."""
    shown = frozenset((run.segment, run.iteration) for run in runs)
    return Window(tuple(runs), 0.0, max(run.end_s for run in runs), shown)


def layer_window(segments: Sequence[Segment], runs: Sequence[OpRun]) -> Window:
    """The middle layer of the longest run of equal layers; of several as long, of the middle one.

    Where layers carry over, two layers as the first micro-batch sees them, with what the others run meanwhile. From the
    first to the last op on the GPU: the host is seen with what it does then, for later layers too.
    """
    layers = [i for i, segment in enumerate(segments) if segment.name.startswith("layers")]
    candidates = layers or list(range(len(segments)))
    most = max(segments[i].repeat for i in candidates)
    longest = [i for i in candidates if segments[i].repeat == most]
    number = longest[(len(longest) - 1) // 2]
    segment = segments[number]
    middle = (segment.repeat - 1) // 2
    last = min(middle + 1, segment.repeat - 1) if segment.carries else middle
    shown = frozenset((number, iteration) for iteration in range(middle, last + 1))
    first_batch = [
        run
        for run in runs
        if (run.segment, run.iteration) in shown
        and not run.on_host
        and (not segment.carries or run.launch.micro_batch == 0)
    ]
    start_s, end_s = min(run.start_s for run in first_batch), max(run.end_s for run in first_batch)
    inside = tuple(
        replace(run, start_s=max(run.start_s, start_s), end_s=min(run.end_s, end_s))
        for run in runs
        if run.end_s > start_s and run.start_s < end_s
    )
    return Window(inside, start_s, end_s, shown)


def marks_text(window: Window) -> str:
    """What hatched and pale bars of the window are, in sentences; empty: it has neither."""
    told = []
    if any(run.launch.micro_batch % 2 for run in window.runs):
        told.append("The second micro-batch is hatched.")
    pale = [run for run in window.runs if window.neighbour(run)]
    if any(not run.on_host for run in pale):
        told.append("Pale bars belong to neighbouring layers.")
    if any(run.on_host for run in pale):
        told.append("Pale bars of the host are its launches for other layers: it runs ahead.")
    return " ".join(told)


def op_rows(window: Window, unit_s: float, *, detailed: bool) -> list[Row]:
    """Bars of the ops; hover text with everything known (``detailed``) or with name and time."""
    return [
        {
            "lane": LANES[run.launch.stream],
            **_extent(run.start_s, run.end_s, window, unit_s),
            "op_class": run.launch.op_class,
            "micro_batch": run.launch.micro_batch,
            "faded": window.neighbour(run),
            "label": run.launch.name.rpartition(".")[2],
            "hover": _hover(run, detailed=detailed),
        }
        for run in window.runs
    ]


def exposed_rows(window: Window, unit_s: float) -> list[Row]:
    """Marks under communication while nothing computes."""
    rows = []
    communication = [run for run in window.runs if run.is_communication]
    for start_s, end_s in exposed_intervals(window.runs):
        text = f"<b>exposed</b>: for {duration(end_s - start_s)} only communication runs"
        for run in communication:
            first, last = max(start_s, run.start_s), min(end_s, run.end_s)
            if first < last:
                lane = LANES[run.launch.stream]
                rows.append({"lane": lane, **_extent(first, last, window, unit_s), "hover": text})
    return rows


def stage_rows(window: Window, unit_s: float) -> list[Row]:
    """Strips that name the schedule's stages, from a stage's first op to its last op's end."""
    runs = [run for run in window.runs if not window.neighbour(run)]
    return _strips(window, runs, unit_s, name=lambda run: run.launch.stage, base="stages")


def layer_rows(window: Window, unit_s: float) -> list[Row]:
    """Strips that name layers and what surrounds them."""
    return _strips(window, window.runs, unit_s, name=lambda run: run.place, base="layers")


def lanes_of(window: Window, strips: Iterable[Row]) -> list[str]:
    """Lanes that are needed, from the top down."""
    used = {run.launch.stream for run in window.runs}
    strip_lanes = sorted(dict.fromkeys(row["lane"] for row in strips))
    return [*strip_lanes, *(lane for stream, lane in LANES.items() if stream in used)]


def _strips(window: Window, runs: Iterable[OpRun], unit_s: float, *, name: Any, base: str) -> list[Row]:
    extents: dict[tuple[int, int, int, str], tuple[float, float]] = {}
    for run in runs:
        if run.on_host:
            continue
        key = (run.launch.micro_batch, run.segment, run.iteration, name(run))
        start, end = extents.get(key, (run.start_s, run.end_s))
        extents[key] = (min(start, run.start_s), max(end, run.end_s))
    several = len({key[0] for key in extents}) > 1
    ends: dict[str, float] = {}
    rows = []
    for key, (start_s, end_s) in sorted(extents.items(), key=lambda item: item[1]):
        lane = f"batch {key[0]}" if several else base
        while ends.get(lane, 0.0) > start_s:  # a strip that overlaps the one before goes to a lane of its own
            lane += " "
        ends[lane] = end_s
        rows.append(
            {
                "lane": lane,
                **_extent(start_s, end_s, window, unit_s),
                "label": escape(key[3].removeprefix("layer ")),
                "hover": f"<b>{escape(key[3])}</b><br>{duration(end_s - start_s)}",
            }
        )
    return rows


def _extent(start_s: float, end_s: float, window: Window, unit_s: float) -> Row:
    """Start and duration, in the chart's unit, to a ten-thousandth of the window."""
    digits = 4
    return {
        "start": round((start_s - window.start_s) / unit_s, digits),
        "duration": round((end_s - start_s) / unit_s, digits),
    }


def _hover(run: OpRun, *, detailed: bool) -> str:
    op = run.launch
    batch = f", micro-batch {op.micro_batch}" if op.micro_batch else ""
    lines = [f"<b>{escape(op.name)}</b>, {run.place}{batch}"]
    stretched = run.seconds > op.alone_s * 1.005
    alone = f" ({duration(op.alone_s)} alone)" if stretched else ""
    lines.append(f"{duration(run.seconds)}{alone}")
    if detailed:
        lines += _details(run)
    return "<br>".join(lines)


def _details(run: OpRun) -> list[str]:
    op = run.launch
    work = [scaled(op.flops, "FLOP")] if op.flops else []
    moved = ((op.hbm_bytes, "HBM"), (op.link_bytes, "NVLink"), (op.network_bytes, "network"))
    work += [f"{scaled(size, 'B')} {where}" for size, where in moved if size]
    bound = f"bound by {op.bound}"
    if run.is_compute and not op.source.startswith(INSIDE):  # else its work is in another op's time
        bound += f", MFU {percent(op.peak_s / run.seconds)}, MBU {percent(op.stream_s / run.seconds)}"
    lines = [escape(op.stage), ", ".join(work), bound]
    source = wrap(f"source: {op.source}", HOVER_WIDTH)
    return [line for line in (*lines, *(escape(part) for part in source)) if line]

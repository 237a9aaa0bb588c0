"""A training run as a single HTML page that opens offline: results, the pipeline drawn, memory over the step, where
time goes.
"""

from pathlib import Path
from typing import Any

from perfmodel.answers.train import TrainAnswer
from perfmodel.files import atomic_write
from perfmodel.output.charts.pipeline import held_chart, pipeline_chart
from perfmodel.output.formats import count, duration, percent
from perfmodel.output.pages import embed, render
from perfmodel.output.train.table import (
    breakdown_rows,
    layout_words,
    result_rows,
    train_command,
    train_title,
)
from perfmodel.output.train.trace import NAMES
from perfmodel.units import GB, MS

TEMPLATE = Path(__file__).with_name("train.html.j2")
BUTTONS = [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]
MOST_BARS = 20_000
"""Actions that are drawn; of longer steps the first and last micro-batches, so that the page stays below a few
megabytes."""
MOST_LINES = 6
"""Ranks whose memory is drawn over time."""


def write_train_html(answer: TrainAnswer, path: Path) -> None:
    """Write the page.

    Raises:
        DataError: the path can't be written.
    """
    atomic_write(path, train_html(answer))


def train_html(answer: TrainAnswer) -> str:
    """The page as text."""
    values, scenario = answer.values, answer.step.scenario
    return render(
        TEMPLATE,
        {
            "title": train_title(scenario),
            "question": layout_words(answer),
            "headline": _headline(values),
            "results": result_rows(answer),
            "breakdown": [
                (name, f"{seconds / MS:,.0f}", percent(seconds / values["step_time_s"]))
                for name, seconds in breakdown_rows(values)
            ],
            "bubble": values["bubble_s"],
            "memory_classes": [name.replace("_", " ") for name in values["memory_bytes"]],
            "memory": [
                {
                    "rank": row["rank"],
                    "layers": "+".join(map(str, row["layers"])),
                    "cells": [f"{row[name] / GB:.1f}" for name in values["memory_bytes"]],
                    "total": f"{row['total'] / GB:.1f}",
                }
                for row in values["memory_by_stage"]
            ],
            "spares": (values["failures"] or {}).get("over_spares") or [],
            "stages": [
                (row["stage"], row["layers"], *(f"{row[name] / MS:,.1f}" for name in PHASES))
                for row in values["stage_times_s"]
            ],
            "dangers": values["dangers"],
            "notes": [text for text in values["warnings"] if text not in values["dangers"]],
            "caveats": values["caveats"],
            "provenance": values["provenance"],
            "command": train_command(scenario),
            "figures": {
                "pipeline": embed(pipeline_figure(answer), "pipeline", buttons=BUTTONS),
                "memory": embed(held_figure(answer), "memory", buttons=BUTTONS),
            },
        },
    )


PHASES = ("forward", "input_gradient", "weight_gradient")


def _headline(values: dict[str, Any]) -> list[dict[str, Any]]:
    cells = [
        ("step_time_s", duration(values["step_time_s"]), "step time"),
        ("tokens_per_s_per_gpu", count(round(values["tokens_per_s_per_gpu"])), "tokens/s per GPU"),
        ("mfu", percent(values["mfu"]), "MFU (causal mask, BF16 peak)"),
        ("bubble_fraction", percent(values["bubble_fraction"]), "bubble"),
    ]
    if values["days"] is not None:
        cells.append(("days", f"{values['days']:.1f}", "days"))
    return [{"key": key, "value": values[key], "text": text, "label": label} for key, text, label in cells]


def pipeline_figure(answer: TrainAnswer) -> Any:
    """What every rank does over the step."""
    step = answer.step
    total = sum(len(own) for own in step.run.spans)
    m = step.training.micro_batches
    shown = m if total <= MOST_BARS else max(4, m * MOST_BARS // total // 2)
    rows = []
    for rank, own in enumerate(step.run.spans):
        for span in own:
            if shown <= span.action.micro_batch < m - shown:
                continue
            kind = NAMES[span.action.kind]
            took = span.end_s - span.start_s
            rows.append(
                {
                    "rank": rank,
                    "start": span.start_s / MS,
                    "duration": took / MS,
                    "kind": kind,
                    "hover": f"rank {rank}: {span.action} ({kind}), {duration(took)}",
                }
            )
        tail = step.tails[rank]
        rows.append(
            {
                "rank": rank,
                "start": step.pipeline_s / MS,
                "duration": tail.seconds / MS,
                "kind": "gradients, optimizer, weights",
                "hover": f"rank {rank}: exposed gradients {duration(tail.gradients_exposed_s)}, optimizer "
                f"{duration(tail.optimizer_s)}, exposed weights {duration(tail.weights_exposed_s)}",
            }
        )
    return pipeline_chart(rows, ranks=step.run.schedule.ranks, end=step.step_time_s / MS, unit="ms")


def held_figure(answer: TrainAnswer) -> Any:
    """Memory over the step of some ranks: what stands, and activations on it."""
    memory = answer.step.memory
    every = range(len(memory.ranks))
    chosen = sorted({round(i * (len(every) - 1) / max(1, MOST_LINES - 1)) for i in range(MOST_LINES)})
    lines = []
    for rank in chosen:
        own, held = memory.ranks[rank], memory.held[rank]
        standing = own.total - own.activations
        lines.append(
            {
                "name": f"rank {rank}",
                "x": [0.0, *(at / MS for at in held.times_s)],
                "y": [standing / GB, *((standing + value) / GB for value in held.held_bytes)],
            }
        )
    device = answer.step.scenario.cluster.gpu.memory_bytes / GB
    return held_chart(lines, device=device, unit_x="ms", unit_y="GB")

"""A report of training runs as a page, Markdown, CSV and JSON: one set of figures in all of them."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel.files import atomic_write
from perfmodel.output.colours import (
    EXPOSED,
    MEMORY_COLOURS,
    OP_CLASS_COLOURS,
    SERIES,
    memory_name,
    op_class_name,
)
from perfmodel.output.formats import count, duration, percent, significant, usd
from perfmodel.output.pages import render
from perfmodel.output.report.as_csv import COLUMNS, leaf_rows
from perfmodel.output.report.decision_words import amount, large
from perfmodel.output.report.figure import Figure, figure_of
from perfmodel.output.report.glossary import glossary_of
from perfmodel.output.report.markdown import plain, table_of
from perfmodel.output.report.plain_words import by_weight
from perfmodel.output.svg import bars
from perfmodel.output.train.table import layout_words, result_rows, train_title
from perfmodel.report.training import TrainingPart, TrainingReport
from perfmodel.spec.messages import number_of
from perfmodel.units import GB

TEMPLATE = Path(__file__).with_name("training.html.j2")
Cell = dict[str, Any]
BUBBLE_COLOUR = OP_CLASS_COLOURS["waiting"]


def sentence(part: TrainingPart) -> str:
    """The decision in one sentence: tokens, days, GPUs and dollars."""
    if part.answer is None:
        return f"No answer: {part.values['reason']}"
    found, gpus = part.values["train"], part.values["gpus"]
    kind = f"{found['gpu']} {part.scenario.cluster.gpu.kind}"
    where = number_of(gpus["total"], kind) + (
        f", {count(gpus['spare'])} of them spare," if gpus["spare"] else ""
    )
    if found["days"] is None:
        return (
            f"A step of {large(found['tokens_per_step'])} tokens of {found['model']} takes "
            f"{duration(found['step_time_s'])} on "
            f"{where} at {percent(found['mfu'])} MFU; no tokens of a run are stated (training.tokens)."
        )
    training = part.answer.step.training
    low, high = found["intervals"]["days"]
    text = (
        f"Training {found['model']} on {large(training.tokens or 0.0)} tokens takes "
        f"{significant(found['days'])} days (80 % "
        f"interval: {significant(low)} to {significant(high)}) on {where}"
    )
    if found["usd"]:
        low, high = found["intervals"]["usd"]
        text += f" and costs {amount(found['usd'])} ({amount(low)} to {amount(high)})"
    return f"{text}, at {percent(found['mfu'])} MFU."


def training_values(report: TrainingReport) -> dict[str, Any]:
    """``perfmodel report --json``: the report's values with each run's decision in words."""
    scenarios = [{**part.values, "decision_answer": sentence(part)} for part in report.parts]
    return {**report.values, "scenarios": scenarios}


def training_json(report: TrainingReport) -> str:
    """One strict JSON object, SI units."""
    return json.dumps(training_values(report), allow_nan=False, indent=1) + "\n"


def training_html(report: TrainingReport) -> str:
    """The page as text; the same report gives the same bytes."""
    return render(TEMPLATE, page(report), has_plotly=False)


def page(report: TrainingReport) -> Cell:
    """What the template shows, numbers already in words."""
    parts = [_part(part, number) for number, part in enumerate(report.parts)]
    heads = list(dict.fromkeys(figure.label for part in parts for figure in part.get("tiles", ())))
    for part in parts:
        by_label = {figure.label: figure for figure in part.get("tiles", ())}
        part["cells"] = [by_label.get(label) for label in heads]
    answered = [part for part in report.parts if part.answer is not None]
    one = len(parts) == 1
    hashes = [part.values["train"]["provenance"]["scenario_hash"][:8] for part in answered]
    version = report.values["provenance"]["perfmodel"]
    shown: Cell = {
        "title": f"Training report: {train_title(answered[0].scenario) if one else f'{len(parts)} runs compared'}",
        "running": f"perfmodel {version}, scenario {', '.join(hashes[:3])}",
        "version": version,
        "parts": parts,
        "heads": heads,
        "not_included": report.values["not_included"],
        **_caveats(answered),
        "command": report.values["provenance"]["command"],
        "data": training_values(report),
    }
    return shown | {"glossary": glossary_of(shown)}


def _caveats(parts: Sequence[TrainingPart]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"dangers": [], "notes": [], "caveats": []}
    for part in parts:
        values = part.values["train"]
        dangers = values["dangers"]
        notes = [text for text in values["warnings"] if text not in dangers]
        own = {"dangers": dangers, "notes": notes, "caveats": values["caveats"]}
        for key, texts in own.items():
            found[key] += [text for text in texts if text not in found[key]]
    return {key: by_weight(texts) for key, texts in found.items()}


def _part(part: TrainingPart, number: int) -> Cell:
    at = f"scenarios.{number}"
    shown: Cell = {
        "number": number,
        "label": part.label,
        "sentence": sentence(part),
        "answered": part.answer is not None,
    }
    if part.answer is None:
        return shown
    values, found = part.values, part.values["train"]
    months = values["months"] or []
    return shown | {
        "layout": layout_words(part.answer),
        "tiles": _tiles(part, at),
        "risks": [_risk(row, f"{at}.risks.{n}") for n, row in enumerate(values["risks"])],
        "charts": {"time": _time(found, at), "memory": _memory(part, at)},
        "breakdown": [
            (
                _name(name),
                Figure(f"{at}.train.breakdown_s.{name}", "", seconds, duration(seconds)),
                percent(seconds / found["step_time_s"]),
            )
            for name, seconds in found["breakdown_s"].items()
        ],
        "months": [
            {
                "month": row["month"],
                "days": Figure(f"{at}.months.{n}.days", "", row["days"], significant(row["days"])),
                "usd": Figure(f"{at}.months.{n}.usd", "", row["usd"], amount(row["usd"])),
            }
            for n, row in enumerate(months)
        ],
        "terms": [
            _term(row, f"{at}.terms.{n}") for n, row in enumerate(values["terms"]) if row["usd"] is not None
        ],
        "results": result_rows(part.answer),
        "yaml": values["scenario_yaml"],
        "hashes": f"scenario hash {found['provenance']['scenario_hash']}, calibration "
        "{found['provenance']['calibration']}, "
        f"seed {found['provenance']['seed']}",
    }


def _tiles(part: TrainingPart, at: str) -> list[Figure]:
    found, gpus = part.values["train"], part.values["gpus"]
    bounds = found["intervals"]
    spares = f"{count(gpus['training'])} train, {count(gpus['spare'])} stand by"
    shown = [Figure(f"{at}.gpus.total", "GPUs", gpus["total"], count(gpus["total"]), note=spares)]
    rows: list[tuple[str, str, Callable[[Any], str]]] = [
        ("days", "days", significant),
        ("usd", "for the run", amount),
        ("gpu_hours", "GPU hours", large),
        ("mfu", "MFU, causal mask, BF16 peak", percent),
        ("step_time_s", "a step", duration),
    ]
    for key, label, text in rows:
        if found[key]:
            shown.append(figure_of(f"{at}.train.{key}", label, found[key], text, bounds.get(key)))
    return shown


def _risk(row: Mapping[str, Any], at: str) -> Cell:
    return {
        "what": row["what"],
        "days": Figure(f"{at}.days", "", row["days"], significant(row["days"])),
        "usd": Figure(f"{at}.usd", "", row["usd"], amount(row["usd"])),
        "more": Figure(f"{at}.more_usd", "", row["more_usd"], f"+{amount(row['more_usd'])}"),
        "why": row["why"],
    }


def _term(row: Mapping[str, Any], at: str) -> Cell:
    return {
        "term": row["term"],
        "is_own": row["is_own"],
        "hour": Figure(f"{at}.usd_per_gpu_hour", "", row["usd_per_gpu_hour"], usd(row["usd_per_gpu_hour"])),
        "usd": Figure(f"{at}.usd", "", row["usd"], amount(row["usd"])),
        "note": row["note"],
        "source": row["source"],
    }


def _name(part: str) -> str:
    return part if part.startswith("exposed") or part == "bubble" else op_class_name(part)


def _time(found: Mapping[str, Any], at: str) -> str:
    def colour(name: str) -> str:
        if name.startswith("exposed"):
            return EXPOSED
        return BUBBLE_COLOUR if name == "bubble" else OP_CLASS_COLOURS[name]

    parts = [
        bars.Part(_name(name), seconds, colour(name), f"{at}.train.breakdown_s.{name}")
        for name, seconds in found["breakdown_s"].items()
    ]
    return bars.share_chart(parts, title="time of a step", text=duration)


def _memory(part: TrainingPart, at: str) -> str:
    """The fullest rank's memory by class, and what is left of the device."""
    found = part.values["train"]["memory_bytes"]
    device = float(part.scenario.cluster.gpu.memory_bytes)
    more = iter(SERIES[::-1])
    parts = [
        bars.Part(
            memory_name(name),
            value,
            MEMORY_COLOURS.get(name) or next(more),
            f"{at}.train.memory_bytes.{name}",
        )
        for name, value in found.items()
    ]
    parts.append(bars.Part("free", max(device - sum(found.values()), 0.0), "#E4E7EB"))
    return bars.share_chart(
        parts, title="memory of the fullest GPU", text=lambda value: f"{value / GB:.1f} GB"
    )


def training_markdown(report: TrainingReport) -> str:
    """The tables of the page; what users' files say is escaped."""
    shown = page(report)
    blocks = [
        f"# {plain(shown['title'])}",
        f"Predictions by perfmodel {plain(shown['version'])}, a simulator.",
    ]
    for part in shown["parts"]:
        blocks += [f"## {plain(part['label'])}", f"**{plain(part['sentence'])}**"]
        if not part["answered"]:
            continue
        blocks += [plain(part["layout"]), table_of(("figure", "value", "interval"), part["results"])]
        rows = [[r["what"], r["days"].text, r["usd"].text, r["more"].text, r["why"]] for r in part["risks"]]
        if rows:
            blocks += ["### What could go wrong", table_of(("if", "days", "$", "more", "because"), rows)]
        rows = [[r["term"], r["hour"].text, r["usd"].text, r["note"], r["source"]] for r in part["terms"]]
        if rows:
            heads = ("term", "$ per GPU hour", "$ of the run", "what it is", "source")
            blocks += ["### By term", table_of(heads, rows)]
        rows = [[name, figure.text, share] for name, figure, share in part["breakdown"]]
        blocks += ["### Where a step's time goes", table_of(("part", "time", "share"), rows)]
    blocks.append(plain(f"Not included: {'; '.join(shown['not_included'])}."))
    texts = [*(f"danger: {text}" for text in shown["dangers"]), *shown["notes"], *shown["caveats"]]
    blocks += [
        "## What makes it less certain",
        "\n".join(f"- {plain(text)}" for text in texts) or "Nothing known.",
    ]
    blocks.append(f"`{shown['command'].replace('`', '')}`")
    return "\n\n".join(blocks) + "\n"


def training_csv(report: TrainingReport) -> str:
    """One row per figure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for part in report.values["scenarios"]:
        bounds = {
            f"train.{key}": pair for key, pair in (part.get("train") or {}).get("intervals", {}).items()
        }
        writer.writerows(leaf_rows(part["name"], part, bounds))
    return out.getvalue()


TRAINING_WRITERS: Mapping[str, Callable[[TrainingReport], str]] = {
    "html": training_html,
    "md": training_markdown,
    "csv": training_csv,
    "json": training_json,
}
"""Format -> the report as text."""


def write_training_report(report: TrainingReport, kind: str, path: Path) -> None:
    """The report in a file, whole or not at all."""
    atomic_write(path, TRAINING_WRITERS[kind](report))

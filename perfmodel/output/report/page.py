"""A report as one HTML page that opens offline and prints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel.output.charts.money import MINUS
from perfmodel.output.colours import OP_CLASS_COLOURS, op_class_name
from perfmodel.output.formats import count, duration, percent, significant, usd
from perfmodel.output.pages import embed, render
from perfmodel.output.report.charts import comparison_chart, difference_charts, scenario_charts
from perfmodel.output.report.decision_words import (
    amount,
    basis_words,
    break_even_words,
    growth_words,
    least,
    months,
    risks,
    sentence,
    terms,
    tiles,
)
from perfmodel.output.report.drawings import comparison_drawing, difference_drawings, scenario_drawings
from perfmodel.output.report.figure import Figure
from perfmodel.output.report.glossary import glossary_of
from perfmodel.output.report.plain_words import by_weight
from perfmodel.output.report.words import (
    answer,
    cost_figures,
    fleet_rows,
    fleet_title,
    latency_rows,
    report_values,
    step_figures,
    traffic_answer,
    traffic_figures,
)
from perfmodel.output.scenario.reproduce import scenario_title
from perfmodel.output.step.page import caveat_blocks, question
from perfmodel.report.content import Report
from perfmodel.report.part import Part

TEMPLATE = Path(__file__).with_name("report.html.j2")
Cell = dict[str, Any]


def report_html(report: Report, *, is_interactive: bool = False) -> str:
    """The page as text; the same report gives the same bytes. ``is_interactive``: charts by plotly, which is then
    in the page (5 MB), instead of SVG.
    """
    return render(TEMPLATE, page(report, is_interactive=is_interactive), has_plotly=is_interactive)


def page(report: Report, *, is_interactive: bool = False) -> dict[str, Any]:
    """What the template shows, numbers already in words."""
    values = report.values
    parts = [_part(part, number, is_interactive) for number, part in enumerate(report.parts)]
    shown: dict[str, Any] = {
        "title": _title(report),
        "parts": parts,
        "decided": _decided(report),
        "comparison": _comparison(values["comparison"], is_interactive),
        "interactive": is_interactive,
        "running": _running(report),
        "data": report_values(report),
        "validation": [_validation_row(line) for line in values["validation"]],
        "trust": values["trust"],
        **{key: by_weight(texts) for key, texts in caveat_blocks(values).items()},
        "command": values["provenance"]["command"],
        "version": values["provenance"]["perfmodel"],
        "hashes": [
            (
                label,
                f"scenario hash {found['scenario_hash']}, calibration {found['calibration']}, seed {found['seed']}",
            )
            for label, found in values["provenance"]["scenarios"].items()
            if found
        ],
    }
    return shown | {"glossary": glossary_of(shown)}


def _title(report: Report) -> str:
    if len(report.parts) == 1:
        return f"Cost report: {_name(report.parts[0])}"
    return f"Cost report: {len(report.parts)} scenarios compared"


def _running(report: Report) -> str:
    """What stands at the head of every printed page beside the title: version and scenarios' hashes."""
    hashes = [
        str(found["scenario_hash"])[:8]
        for found in report.values["provenance"]["scenarios"].values()
        if found
    ]
    return f"perfmodel {report.values['provenance']['perfmodel']}, scenario {', '.join(hashes[:3])}"


def _name(part: Part) -> str:
    return scenario_title(part.scenario)


MOST_ACROSS = 4
"""Scenarios beside each other in one table: more do not fit the width of a printed page."""


def _decided(report: Report) -> Cell | None:
    """Decisions below each other, where there are several."""
    rows: list[Cell] = [
        {
            "name": part.label,
            "reason": part.values["decision_reason"] or part.values["reason"] or "",
            "tiles": tiles(part, f"scenarios.{number}") if part.values["decision"] else [],
        }
        for number, part in enumerate(report.parts)
    ]
    known = [row["tiles"] for row in rows if row["tiles"]]
    if len(rows) < 2 or not known:
        return None
    # a scenario whose GPUs have no price, or whose requests have one token, lacks figures of the others
    heads = list(dict.fromkeys(figure.label for own in known for figure in own))
    for row in rows:
        by_label = {figure.label: figure for figure in row["tiles"]}
        row["cells"] = [by_label.get(label) for label in heads] if by_label else []
    return {"heads": heads, "rows": rows, "sentence": least(report.parts)}


def _part(part: Part, number: int, is_interactive: bool) -> Cell:
    at = f"scenarios.{number}"
    shown: Cell = {
        "number": number,
        "label": part.label,
        "title": _name(part),
        "question": question(part.scenario),
        "answer": answer(part),
        "answered": part.step is not None,
        "yaml": part.values["scenario_yaml"],
        "is_exact": part.values["scenario_yaml_is_exact"],
        "model": part.scenario.model.name,
    }
    if part.step is None:
        return shown
    figures = step_figures(part, at)
    costs = cost_figures(part, at)
    priced = part.values["money"]["usd_per_gpu_hour"] > 0.0
    charts = (
        {name: embed(chart, f"{number}-{name}") for name, chart in scenario_charts(part.values).items()}
        if is_interactive
        else {}
    )
    charts = scenario_drawings(part.values, at) | charts
    return shown | {
        "tiles": [*(costs if priced else []), *figures[:_TILES]],
        "facts": figures[_TILES:],
        "priced": priced,
        "basis": part.values["step"]["basis"]["text"],
        "traffic_basis": part.values["serve"]["basis"]["text"] if part.values["serve"] else "",
        "traffic_answer": traffic_answer(part, has_cost=part.values["decision"] is None),
        "serve_reason": part.values["serve_reason"],
        "latencies": latency_rows(part, at),
        "traffic": traffic_figures(part, at),
        "fleet_title": fleet_title(part) if fleet_rows(part, at) else "",
        "fleet": fleet_rows(part, at),
        "charts": charts,
        "decision": _decision(part, at),
        "decision_reason": part.values["decision_reason"],
        "breakdown": _breakdown(part, at),
        "levers": _levers(part, at),
        "left_out": list(part.values["sensitivity"]["left_out"].items()),
        "break_even": _break_even(part, at),
        "assumptions": _assumptions(part.values["assumptions"]),
    }


def _assumptions(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The rows; a source that stands above is named by its row."""
    first: dict[str, str] = {}
    shown: list[Mapping[str, str]] = []
    for row in rows:
        owner = first.setdefault(row["source"], row["what"])
        repeats = row["source"] and owner != row["what"]
        shown.append({**row, "source": f"as {owner}" if repeats else row["source"]})
    return shown


def _decision(part: Part, at: str) -> Cell | None:
    """Page 1, and what belongs to it."""
    found = part.values["decision"]
    if found is None:
        return None
    bridge = found["bridge"] or []
    return {
        "sentence": sentence(part),
        "basis": basis_words(part),
        "tiles": tiles(part, at),
        "risks": risks(part, at),
        "months": months(part, at),
        "growth": growth_words(part),
        "year": [
            "-" if usd_ is None else Figure(f"{at}.decision.year_usd.{course}", "", usd_, amount(usd_))
            for course, usd_ in found["year_usd"].items()
        ],
        "terms": terms(part, at),
        "not_included": found["not_included"],
        "break_even": break_even_words(part),
        "bridge": [
            (
                row["component"],
                Figure(
                    f"{at}.decision.bridge.{n}.usd",
                    "",
                    row["usd"],
                    _signed(row["usd"], usd) if n else usd(row["usd"]),
                ),
            )
            for n, row in enumerate(bridge)
        ],
        "total": Figure(
            f"{at}.decision.usd_per_million_tokens",
            "",
            found["usd_per_million_tokens"],
            usd(found["usd_per_million_tokens"]),
        ),
    }


_TILES = 3
"""Of the step's figures that stand beside the costs."""


def _breakdown(part: Part, at: str) -> list[Cell]:
    step, money = part.values["step"], part.values["money"]["usd_by_op_class"]
    return [
        {
            "name": op_class_name(name),
            "colour": OP_CLASS_COLOURS[name],
            "time": Figure(f"{at}.step.breakdown_s.{name}", "", seconds, duration(seconds)),
            "share": percent(seconds / step["step_time_s"]),
            "usd": Figure(f"{at}.money.usd_by_op_class.{name}", "", money[name], usd(money[name])),
        }
        for name, seconds in step["breakdown_s"].items()
    ]


def _levers(part: Part, at: str) -> list[Cell]:
    found = part.values["sensitivity"]
    priced = found["usd_per_million_tokens"] > 0.0
    key, text = ("usd_per_million_tokens", usd) if priced else ("tpot_s", duration)
    return [
        {
            "name": lever["lever"],
            "base": lever["base_label"],
            "ends": [
                (
                    lever[end]["label"],
                    Figure(
                        f"{at}.sensitivity.levers.{number}.{end}.{key}",
                        "",
                        lever[end][key],
                        text(lever[end][key]),
                    ),
                )
                for end in ("low", "high")
            ],
            "reason": lever["reason"],
            "source": lever["source"],
        }
        for number, lever in enumerate(found["levers"])
    ]


def _break_even(part: Part, at: str) -> Cell | None:
    found = part.values["break_even"]
    if found is None:
        return None
    bounds = found["interval_pct"]
    return {
        "api": usd(found["api_usd_per_million_output_tokens"]),
        "at": Figure(
            f"{at}.break_even.utilisation_pct",
            "",
            found["utilisation_pct"],
            f"{significant(found['utilisation_pct'])} %",
        ),
        "interval": f"{significant(bounds[0])} to {significant(bounds[1])} %" if bounds else "",
        "never": found["utilisation_pct"] > 100.0,
    }


def _comparison(rows: Sequence[Mapping[str, Any]], is_interactive: bool) -> Cell | None:
    if not rows:
        return None
    if is_interactive:
        figure = comparison_chart(rows)
        chart = embed(figure, "comparison") if figure is not None else ""
    else:
        chart = comparison_drawing(rows) or ""
    return {
        "names": [row["name"] for row in rows],
        "tables": [
            _compared_table(rows, range(start, min(start + MOST_ACROSS, len(rows))))
            for start in range(0, len(rows), MOST_ACROSS)
        ],
        "chart": chart,
        "differences": [
            _difference(row, number, is_interactive) for number, row in enumerate(rows) if number
        ],
    }


def _compared_table(rows: Sequence[Mapping[str, Any]], chosen: Sequence[int]) -> Cell:
    """Some of the scenarios, a column each."""
    return {
        "names": [rows[number]["name"] for number in chosen],
        "lines": [
            (label, [_compared(rows[number], number, key, text) for number in chosen])
            for key, label, text in _COMPARED
            if any(row[key] is not None for row in rows)
        ],
    }


def _compared(row: Mapping[str, Any], number: int, key: str, text: Any) -> Figure | str:
    value = row[key]
    if value is None or isinstance(value, str):
        return value or "-"
    bounds = row["intervals"].get(key)
    said = f"{text(bounds[0])} to {text(bounds[1])}" if bounds else ""
    return Figure(f"comparison.{number}.{key}", "", value, text(value), interval_text=said)


def _difference(row: Mapping[str, Any], number: int, is_interactive: bool) -> Cell:
    found = row["difference"]
    if found is None:
        return {"name": row["name"], "reason": row["difference_reason"]}
    at = f"comparison.{number}.difference"
    return {
        "name": row["name"],
        "first": found["name_a"],
        "reason": "",
        "is_same": not any(
            abs(part[key] or 0.0) > NOISE for part in found["rows"] for key in ("delta_usd", "delta_tpot_s")
        ),
        "charts": [
            embed(chart, f"difference-{number}-{key}") for key, chart in difference_charts(found).items()
        ]
        if is_interactive
        else list(difference_drawings(found, at).values()),
        "rows": [
            {
                "component": part["component"],
                "usd": Figure(
                    f"{at}.rows.{place}.delta_usd", "", part["delta_usd"], _signed(part["delta_usd"], usd)
                ),
                "tpot": None
                if part["delta_tpot_s"] is None
                else Figure(
                    f"{at}.rows.{place}.delta_tpot_s",
                    "",
                    part["delta_tpot_s"],
                    _signed(part["delta_tpot_s"], duration),
                ),
            }
            for place, part in enumerate(found["rows"])
            if part["component"] != "waiting" or part["delta_usd"] or part["delta_tpot_s"]
        ],
        "usd": _signed(found["usd_b"] - found["usd_a"], usd),
        "tpot": None
        if found["tpot_a_s"] is None
        else _signed(found["tpot_b_s"] - found["tpot_a_s"], duration),
    }


NOISE = 1e-12
"""Changes below it are rounding."""


def _signed(value: float, text: Any) -> str:
    if abs(value) < NOISE:
        return "0"
    return f"{'+' if value > 0 else MINUS}{text(abs(value))}"


def _validation_row(line: Mapping[str, Any]) -> Cell:
    median, coverage = line["median_abs_pct"], line["coverage_pct"]
    return {
        "suite": line["suite"],
        "quantity": _QUANTITIES.get(line["quantity"], line["quantity"]),
        "n": count(line["n"]),
        "median": "as printed" if median is None else f"{significant(median, 2)} %",
        "coverage": "" if coverage is None else f"{significant(coverage, 2)} %",
        "about": line["about"],
    }


_QUANTITIES = {
    "tpot_s": "TPOT",
    "ttft_s": "TTFT",
    "itl_s": "ITL",
    "output_tokens_per_s_per_gpu": "output tokens/s per GPU",
    "input_tokens_per_s_per_gpu": "input tokens/s per GPU",
    "usd_per_million_output_tokens": "$ per million output tokens",
}
_COMPARED = (
    ("model", "model", str),
    ("gpu", "GPU", str),
    ("num_gpus", "GPUs", count),
    ("phase", "phase", str),
    ("batch_per_gpu", "requests per GPU", count),
    ("context_tokens", "tokens of context", count),
    ("usd_per_gpu_hour", "$ per GPU hour", usd),
    ("usd_per_million_output_tokens", "$ per million output tokens", usd),
    ("usd_per_million_input_tokens", "$ per million input tokens", usd),
    ("tokens_per_s_per_user", "tokens/s per user", significant),
    ("output_tokens_per_s_per_gpu", "output tokens/s per GPU", significant),
    ("input_tokens_per_s_per_gpu", "input tokens/s per GPU", significant),
    ("step_time_s", "step time", duration),
    ("tpot_s", "TPOT", duration),
    ("ttft_s", "TTFT, queueing left out", duration),
    ("exposed_communication_s", "exposed communication per step", duration),
    ("mfu", "MFU", percent),
    ("mbu", "MBU", percent),
)
"""Lines of the comparison: key, label, how it is written."""

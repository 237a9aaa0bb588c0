"""A validation as a single HTML page that opens offline: summary, charts, filters, every row.

What comes from rows may be hostile (``--data`` reads any file). Jinja escapes what it writes; the rows go into the page
as JSON whose ``<`` are escaped, and its script only ever sets ``textContent``.
"""

import json
import random
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel.files import atomic_write
from perfmodel.output.charts import validation as charts
from perfmodel.output.charts.comparison import comparison_chart
from perfmodel.output.formats import count, with_unit
from perfmodel.output.pages import render
from perfmodel.output.validation.comparisons import INSIDE, STATISTICS, lines_of, title_of
from perfmodel.spec.messages import number_of
from perfmodel.validation.benchmarks import Comparison
from perfmodel.validation.ceilings import recorded
from perfmodel.validation.rows import Row, summarise, unanswered
from perfmodel.validation.suites import SUITES, Validation

TEMPLATE = Path(__file__).with_name("validation.html.j2")

MAX_ROWS = 5_000
"""A page that draws and lists more rows would be slow; the summary counts all of them all the same."""
MAX_LISTED = 200
"""Unanswered rows that are listed under one reason, and sources at the end."""

ROLES = {
    "fit": "may have set a constant",
    "check": "judges the result, set nothing",
    "theory": "a published calculation, not a measurement",
    "comparison": "shown beside a row, not meant to match it",
    "user": "your own measurement",
}
"""Role -> what a reader is told it is."""

QUANTITIES = {
    "tpot_s": "TPOT",
    "ttft_s": "TTFT",
    "itl_s": "ITL",
    "e2e_s": "E2E",
    "moe_s": "MoE",
    "mfu": "MFU",
    "mbu": "MBU",
    "usd_per_million_output_tokens": "$ per million output tokens",
    "usd_per_million_input_tokens": "$ per million input tokens",
    "output_tokens_per_s_per_gpu": "output tokens/s per GPU",
    "input_tokens_per_s_per_gpu": "input tokens/s per GPU",
    "tokens_per_s_per_user": "tokens/s per user",
}
"""Quantity -> name for people, where it is not the key without its unit."""

UNITS = {"s": ("time", " time"), "USD": ("US dollars", ", US dollars")}
"""Unit -> name, and how an axis title ends; other units speak for themselves."""

Cell = dict[str, Any]


def write_validation_html(result: Validation, path: Path) -> None:
    """Write the page.

    Raises:
        DataError: the path can't be written.
    """
    atomic_write(path, validation_html(result))


def validation_html(result: Validation) -> str:
    """The page as text; the same rows give the same bytes."""
    return render(TEMPLATE, page(result))


def page(result: Validation) -> dict[str, Any]:
    """What the template shows, numbers already in words."""
    import perfmodel

    rows = result.rows
    shown = _sample(rows)
    summary = [line for line in summarise(rows) if line["answered"]]  # the rest is listed with its reason
    return {
        "title": "perfmodel against "
        + ("your own measurements" if not result.suites else "published figures"),
        "sentence": sentence(result),
        "titles": [(name, SUITES[name].title) for name in result.suites if name in SUITES],
        "worse": result.above_ceiling,
        "summary": [_summary_line(line) for line in summary],
        "has": _has(rows, summary),
        "roles": [
            (charts.role_symbol(role)[1], role, ROLES.get(role, ""))
            for role in dict.fromkeys(row.role for row in shown)
        ],
        "legend": charts.legend_keys(shown),
        "runs": [_run(run) for run in result.runs],
        "inside": INSIDE,
        "statistics": STATISTICS,
        "unanswered": _unanswered(rows),
        "num_unanswered": sum(row.predicted is None for row in rows),
        "sources": list(dict.fromkeys(row.source for row in rows if row.source))[:MAX_LISTED],
        "calibrations": result.calibrations,
        "version": perfmodel.__version__,
        "command": _command(result),
        "sample": f"{count(len(shown))} of {count(len(rows))} rows" if len(shown) < len(rows) else "",
        "data": script_json(_script_data(shown) | {"runs": _run_figures(result.runs)}),
    }


def _run(run: Comparison) -> Cell:
    """A measured run beside its simulation; its figure is drawn by the page's script."""
    return {
        "title": title_of(run),
        "reason": "" if run.model else run.rows[0].reason,
        "lines": [line._asdict() for line in lines_of(run)],
        "suggests": [one._asdict() for one in run.differences],
        "assumed": run.assumed,
    }


def _run_figures(runs: Sequence[Comparison]) -> list[Any]:
    """A figure for each run that was simulated; None for others."""
    return [
        json.loads(
            comparison_chart(
                run.benchmark.figures, run.simulated, (run.benchmark.samples, run.samples)
            ).to_json()
        )
        if run.model
        else None
        for run in runs
    ]


def _sample(rows: Sequence[Row]) -> Sequence[Row]:
    """All rows, or as many as a page bears: drawn, since every n-th could be the same quantity of every measurement."""
    if len(rows) <= MAX_ROWS:
        return rows
    return [rows[number] for number in sorted(random.Random(0).sample(range(len(rows)), MAX_ROWS))]


def script_json(value: Any) -> str:
    """JSON that can't end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def quantity_name(quantity: str) -> str:
    """A quantity for people."""
    return QUANTITIES.get(quantity, quantity.removesuffix("_s").replace("_", " "))


def sentence(result: Validation) -> str:
    """What was validated, and on what the predictions rest."""
    rows = result.rows
    answered = sum(row.predicted is not None for row in rows)
    parts = []
    if result.suites:
        many = f"{len(result.suites)} suites" if len(result.suites) > 1 else "the suite"
        parts.append(f"{many} {', '.join(result.suites)}")
    if result.data is not None:
        parts.append(f"your file {result.data.name}")
    basis = f"calibration{'s' if len(result.calibrations) > 1 else ''} {', '.join(result.calibrations)}"
    return (
        f"{number_of(len(rows), 'figure')} of {' and '.join(parts) or 'no suite'}; perfmodel "
        f"answers {count(answered)} of them, resting on {basis if result.calibrations else 'no calibration'}."
    )


def _command(result: Validation) -> str:
    words = ["perfmodel", "validate"]
    if len(result.suites) == 1 and (len(SUITES) > 1 or result.data is not None):
        words += ["--suite", result.suites[0]]
    if result.data is not None:
        words += ["--data", result.data.name]
    if result.scenario is not None:
        words += ["--scenario", result.scenario]
        words += [word for text in result.overrides for word in ("--set", text)]
    return shlex.join(words)


def _has(rows: Sequence[Row], summary: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Which columns have anything in them."""
    ceilings = {key[0] for key in recorded()}
    return {
        "interval": any(row.low is not None for row in rows),
        "peer": any(row.peer_predicted is not None for row in rows),
        "printed": any(row.matches_printed is not None for row in rows),
        "ceiling": any(line["suite"] in ceilings for line in summary),
    }


def _summary_line(line: Mapping[str, Any]) -> Cell:
    ceiling = recorded().get((line["suite"], line["quantity"], line["role"]))
    limit = ""
    if ceiling is not None:
        limits = [f"{ceiling.median_abs_pct:g}%"] if ceiling.median_abs_pct is not None else []
        limit = " and ".join(limits + ["as printed"] * ceiling.as_printed) or "none"
        limit += f", {count(ceiling.answered_at_least)} answered"
    return {
        **line,
        "name": quantity_name(line["quantity"]),
        "n_text": count(line["n"]),
        "answered_text": count(line["answered"]),
        "median": _pct(line["median_abs_pct"]),
        "p90": _pct(line["p90_abs_pct"]),
        "mean": _pct(line["mean_abs_pct"]),
        "bias": charts.signed_pct(line["bias_pct"]),
        "coverage": _pct(line["coverage_pct"]),
        "width": _pct(line["mean_interval_width_pct"]),
        "peer": _pct(line["peer_median_abs_pct"]),
        "own": f"{_pct(line['median_abs_pct_beside_peer'])} ({count(line['peer_n'])})"
        if line["peer_n"]
        else "-",
        "ceiling": limit,
    }


def _pct(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}%"


def _unanswered(rows: Sequence[Row]) -> list[Cell]:
    """Rows without a prediction, by suite and reason."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.predicted is None:
            groups.setdefault((row.suite, row.reason or "no reason given"), []).append(row)
    return [
        {
            "suite": suite,
            "reason": reason,
            "n": count(number),
            "rows": [
                {"id": row.id, "model": row.model, "quantity": quantity_name(row.quantity)}
                for row in groups[suite, reason][:MAX_LISTED]
            ],
            "more": count(number - MAX_LISTED) if number > MAX_LISTED else "",
        }
        for suite, reason, number in unanswered(rows)
    ]


def _script_data(rows: Sequence[Row]) -> dict[str, Any]:
    """What the page's script draws and filters."""
    figures = {"scatter": charts.scatter_chart(rows), "errors": charts.error_chart(rows)}
    units = Counter(row.unit for row in rows if row.predicted is not None)
    return {
        "rows": [_row(row) for row in rows],
        "figures": {name: json.loads(figure.to_json()) for name, figure in figures.items()},
        "units": [_unit(unit) for unit, _ in units.most_common()],
        "few": charts.FEW,
    }


def _unit(unit: str) -> dict[str, str]:
    name = unit if unit not in ("", "1") else "ratio"
    label, axis = UNITS.get(unit, (name, f", {name}"))
    return {"unit": unit, "label": label, "axis": axis}


def _row(row: Row) -> Cell:
    """A row for the script: values to sort and filter by, and their texts."""
    return {
        "suite": row.suite,
        "id": row.id,
        "model": row.model,
        "quantity": row.quantity,
        "name": quantity_name(row.quantity),
        "unit": row.unit,
        "role": row.role,
        "reason": row.reason or "",
        "source": row.source,
        "printed": {None: "", True: "yes", False: "no"}[row.matches_printed],
        "measured": row.measured,
        "predicted": row.predicted,
        "inside": None if row.low is None or row.high is None else row.low <= row.measured <= row.high,
        "hover": charts.hover(row),
        "width": None if row.low is None or row.high is None else row.high - row.low,
        "error": row.error_pct,
        "peer": row.peer_error_pct,
        "texts": {
            "measured": with_unit(row.measured, row.unit),
            "predicted": with_unit(row.predicted, row.unit),
            "interval": charts.interval_text(row),
            "error": charts.signed_pct(row.error_pct),
            "peer": "" if row.peer_error_pct is None else charts.signed_pct(row.peer_error_pct),
        },
    }

"""Measured runs beside their simulations, percentile by percentile: cells that the terminal and the page both show."""

from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from perfmodel.output.formats import with_unit
from perfmodel.output.tables import table_of
from perfmodel.spec.messages import number_of
from perfmodel.validation.benchmarks import Comparison
from perfmodel.validation.figures import RUN_FIGURES
from perfmodel.validation.rows import Row

STATISTICS = ("mean", "p50", "p90", "p99")
TIMES = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "itl_s": "ITL",
    "e2e_s": "E2E",
    "tpot_incl_s": "E2E per token",
    "client_wait_s": "client's wait",
}
RATES = {
    "requests_per_s": "requests/s",
    "output_tokens_per_s": "output tokens/s",
    "output_tokens_per_s_per_gpu": "output tokens/s per GPU",
    "total_tokens_per_s_per_gpu": "all tokens/s per GPU",
}


class Line(NamedTuple):
    """One quantity: as measured, as simulated, and by how much they differ; a cell per statistic."""

    name: str
    measured: tuple[str, ...]
    simulated: tuple[str, ...]
    error: tuple[str, ...]


def lines_of(run: Comparison) -> Iterator[Line]:
    """A line per quantity that was measured; of a rate the first cell alone is filled."""
    rows = {row.quantity: row for row in run.rows}
    for keys, name in (
        *((tuple(f"{quantity}.{part}" for part in STATISTICS), name) for quantity, name in TIMES.items()),
        *(((rate,), name) for rate, name in RATES.items()),
    ):
        own = [rows.get(RUN_FIGURES[key].quantity) for key in keys]
        if any(own):
            padded = own + [None] * (len(STATISTICS) - len(own))
            yield Line(
                name, *(tuple(cell(row) for row in padded) for cell in (_measured, _simulated, _error))
            )


def _measured(row: Row | None) -> str:
    return "" if row is None else with_unit(row.measured, row.unit)


def _simulated(row: Row | None) -> str:
    if row is None or row.predicted is None:
        return ""
    return with_unit(row.predicted, row.unit)


def _error(row: Row | None) -> str:
    if row is None or row.error_pct is None:
        return ""
    inside = row.low is not None and row.high is not None and row.low <= row.measured <= row.high
    return f"{row.error_pct:+.1f} %{' *' if inside else ''}"


INSIDE = "*: the measured figure lies within the simulation's 80 % interval"


def title_of(run: Comparison) -> str:
    """What was measured, and on what it was simulated."""
    told = f"{run.benchmark.writer}; {run.benchmark.label}" if run.benchmark.label else run.benchmark.writer
    if not run.model:
        return f"{run.id} ({told})"
    on = f"{run.model} on {run.num_gpus} GPUs, {number_of(run.requests, 'request')}"
    return f"{run.id} ({told}): {on}"


def print_comparisons(out: Console, runs: tuple[Comparison, ...]) -> None:
    """Print each run's table, what the difference suggests, and what was assumed; a run without an answer says why."""
    for run in runs:
        out.print(Text(title_of(run), style="bold"))
        if not run.model:
            out.print(Text(f"not simulated: {run.rows[0].reason}"))
            continue
        table = table_of("Measured, and simulated minus measured", "quantity", "", *STATISTICS)
        for line in lines_of(run):
            table.add_row(line.name, "measured", *map(Text, line.measured))
            table.add_row("", "simulated", *map(Text, line.simulated))
            table.add_row("", "difference", *(Text(cell, style="dim") for cell in line.error))
        table.caption = INSIDE
        out.print(table)
        for one in run.differences:
            out.print(Text(f"{one.cause}: {one.text}" if one.cause != "none" else one.text))
        for text in run.assumed:
            out.print(Text(f"assumed: {text}", style="dim"))

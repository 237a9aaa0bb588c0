"""GuideLLM's table (``benchmarks.csv``): three rows of headings, then a benchmark per row.

A row is turned into the shape that the JSON report has.

A distribution is Mean, Median, Std Dev and Percentiles, a list
[guidellm src/guidellm/benchmark/outputs/csv.py].
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel.errors import DataError

HEAD = b"Run Info,Run Info,"
"""How the file begins."""
HEADINGS = 3
PLACES = ("min", "p001", "p01", "p05", "p10", "p25", "p75", "p90", "p95", "p99", "max")
"""What the list under Percentiles holds; the median has a column of its own."""

DISTRIBUTIONS = {
    ("Request Latency", "Successful Sec"): "request_latency",
    ("Time to First Token", "Successful ms"): "time_to_first_token_ms",
    ("Time per Output Token", "Successful ms"): "time_per_output_token_ms",
    ("Inter Token Latency", "Successful ms"): "inter_token_latency_ms",
    ("Server Throughput", "Successful Requests/Sec"): "requests_per_second",
    ("Token Metrics", "Successful Input Tokens"): "prompt_token_count",
    ("Token Metrics", "Successful Output Tokens"): "output_token_count",
    ("Token Throughput", "Successful Output Tokens/Sec"): "output_tokens_per_second",
}
COUNTS = {"Successful": "successful", "Errored": "errored", "Incomplete": "incomplete", "Total": "total"}


def runs_of(text: str, path: Path) -> list[dict[str, Any]]:
    """A run per row, as :func:`perfmodel.spec.benchmarks.guidellm.read` takes it.

    Raises:
        DataError: cut off, or a cell that is no number or list; the message names its column and row.
    """
    try:
        rows = list(csv.reader(text.splitlines()))
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file: {error}") from error
    if len(rows) <= HEADINGS:
        raise DataError(
            f"{path}: GuideLLM's table without a benchmark: below its three rows of headings is nothing"
        )
    columns = list(zip(*rows[:HEADINGS], strict=False))
    found = []
    for number, row in enumerate(rows[HEADINGS:], start=HEADINGS + 1):
        if len(row) != len(columns):
            raise DataError(
                f"{path}: row {number} has {len(row):,} cells, the headings {len(columns):,}: the file is cut off"
            )
        found.append(_run(dict(zip(columns, row, strict=True)), f"{path}: row {number}"))
    return found


def _run(cells: Mapping[tuple[str, ...], str], where: str) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for (group, name), key in DISTRIBUTIONS.items():
        parts = {column[2]: text for column, text in cells.items() if column[:2] == (group, name) and text}
        found: dict[str, Any] = {}
        for ours, theirs in (("mean", "Mean"), ("median", "Median")):
            if theirs in parts:
                found[ours] = _value(parts[theirs], f"{where}: {group}, {name}, {theirs}")
        if "Percentiles" in parts:
            values = _value(parts["Percentiles"], f"{where}: {group}, {name}, Percentiles")
            if not isinstance(values, Sequence) or len(values) != len(PLACES):
                raise DataError(
                    f"{where}: {group}, {name}, Percentiles: must be a list of {len(PLACES)} ({', '.join(PLACES)})"
                )
            found["percentiles"] = dict(zip(PLACES, values, strict=True))
        metrics[key] = {"successful": found}
    counts = {
        key: _value(cells[("Request Counts", name, "")], f"{where}: Request Counts, {name}")
        for name, key in COUNTS.items()
        if cells.get(("Request Counts", name, ""))
    }
    return {
        "config": {"strategy": _strategy(cells.get(("Benchmark", "Strategy", ""), ""), where)},
        "metrics": {**metrics, "request_totals": counts},
    }


def _strategy(text: str, where: str) -> dict[str, Any]:
    """``concurrent@2``, ``throughput@2`` are streams, ``poisson@1.5``, ``constant@1.5`` a rate; others neither."""
    kind, _, figure = text.partition("@")
    key = {"concurrent": "streams", "throughput": "streams", "poisson": "rate", "constant": "rate"}.get(kind)
    if key is None or figure in ("", "unlimited"):
        return {"type_": kind}
    return {"type_": kind, key: _value(figure, f"{where}: Strategy")}


def _value(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} = {text[:40]}: must be a number or a list of numbers") from error

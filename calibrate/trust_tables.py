"""Tables of docs/trust.md on served set-ups: by load, how often intervals hold, and with every constant at zero."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from perfmodel.units import PERCENT
from perfmodel.validation import roles
from perfmodel.validation.duplicates import repeat_floor
from perfmodel.validation.rows import Row

SERVED = ("silicon", "silicon-field", "silicon-2026")
"""Suites of clean rows of one instance."""
SET_BY_CONSTANTS = (*SERVED, "deepseek", "longcat-measured", "serving-2026")
"""Suites whose figures engines' constants move, in the order of the table."""
LOADS = ((1, 1), (2, 4), (5, 32), (33, 128), (129, 10**6))
"""Requests in flight, least and most of a class."""
STACK = ("model", "system", "backend", "backend_version")
"""Columns of what a bootstrap draws whole: two rows of one stack err alike."""
DRAWS, SEED = 4_000, 1
"""Of the bootstrap."""
WANTED = 0.8
"""Share of measurements that an interval claims to hold."""


def loads_markdown(rows: Sequence[Row]) -> str:
    """Errors of SERVED by requests in flight and role."""
    published = _published()
    in_flight = {
        name: int(float(row["concurrency"])) for name, row in published.items() if row["concurrency"]
    }
    lines = [
        "| quantity | in flight | role | n | median error | bias | below / above the 80 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for quantity in ("tpot_s", "ttft_s"):
        for least, most in LOADS:
            words = (
                f"{least}" if most == least else f"{least} to {most}" if most < 10**6 else f"{least} and more"
            )
            for role in ("check", "fit"):
                own = _answered(rows, SERVED, quantity, role)
                own = [row for row in own if least <= in_flight.get(row.id, 0) <= most]
                if own:
                    lines.append(_load_line(quantity, words, own))
    return "\n".join(lines) + f"\n\nTwo measurements of one set-up differ by (median) {_floors()}.\n"


def _floors() -> str:
    found = []
    for file in roles.SILICON:
        tpot, ttft = (repeat_floor(file)[quantity] for quantity in ("tpot_s", "ttft_s"))
        if tpot.pairs and ttft.pairs:
            shares = [f"{PERCENT * one.median_abs_log:.1f} %" for one in (tpot, ttft)]
            found.append(
                f"{shares[0]} in TPOT and {shares[1]} in TTFT ({tpot.pairs} and {ttft.pairs} pairs of {file})"
            )
    return "; ".join(found)


def _load_line(quantity: str, loads: str, rows: Sequence[Row]) -> str:
    errors = [row.error_pct for row in rows if row.error_pct is not None]
    below, above, ranged = _misses(rows)
    shown = f"{below} / {above} of {ranged}" if ranged else ""
    middle, bias = statistics.median(map(abs, errors)), statistics.fmean(errors)
    return (
        f"| {quantity} | {loads} | {rows[0].role} | {len(rows)} | {middle:.1f} % | {bias:+.1f} % | {shown} |"
    )


def intervals_markdown(rows: Sequence[Row]) -> str:
    """How often TPOT's 80 % intervals hold the measurement on check rows of SERVED, by engine."""
    published = _published()
    own = [row for row in _answered(rows, SERVED, "tpot_s", "check") if row.low is not None]
    lines = [
        "| engine | n | stacks | inside | 90 % band of that | measured below / above | chance of that, if centred |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("all", *sorted({row.engine for row in own})):
        some = [row for row in own if name in ("all", row.engine)]
        stacks = [tuple(published[row.id][column] for column in STACK) for row in some]
        inside = np.array([_inside(row) for row in some])
        low, high = coverage_band(inside, stacks)
        below, above, count = _misses(some)
        lines.append(
            f"| {name} | {count} | {len(set(stacks))} | {PERCENT * inside.mean():.0f} % | "
            f"{PERCENT * low:.0f} to {PERCENT * high:.0f} % | {below} / {above} | {centred(below, above):.2f} |"
        )
    return "\n".join(lines) + "\n"


def coverage_band(
    inside: "np.ndarray[tuple[int], np.dtype[np.bool_]]", stacks: Sequence[object]
) -> tuple[float, float]:
    """90 % band of the share of ``inside`` by a bootstrap that draws whole stacks."""
    names = list(dict.fromkeys(stacks))
    held = np.array(
        [sum(bool(x) for x, s in zip(inside, stacks, strict=True) if s == name) for name in names]
    )
    count = np.array([sum(s == name for s in stacks) for name in names])
    drawn = np.random.default_rng(SEED).integers(len(names), size=(DRAWS, len(names)))
    low, high = np.quantile(held[drawn].sum(axis=1) / count[drawn].sum(axis=1), (0.05, 0.95))
    return float(low), float(high)


def centred(below: int, above: int) -> float:
    """Two-sided binomial probability of so uneven a split of misses, were both sides as likely."""
    count, least = below + above, min(below, above)
    tail = sum(math.comb(count, k) for k in range(least + 1)) / 2.0**count
    return min(1.0, 2.0 * tail)


def constants_markdown(rows: Sequence[Row], without: Sequence[Row]) -> str:
    """Median |error| of SET_BY_CONSTANTS with every constant at zero, and as it is; the same rows in both."""
    lines = ["| suite | quantity | role | n | all constants zero | as it is |", "|---|---|---|---|---|---|"]
    zero = {(row.suite, row.id, row.quantity): row for row in without if row.error_pct is not None}
    groups: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in rows:
        other = zero.get((row.suite, row.id, row.quantity))
        if row.error_pct is not None and other is not None and other.error_pct is not None:
            pair = (abs(other.error_pct), abs(row.error_pct))
            groups.setdefault((row.suite, row.quantity, row.role), []).append(pair)
    for (suite, quantity, role), pairs in groups.items():
        before, now = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        lines.append(f"| {suite} | {quantity} | {role} | {len(pairs)} | {before:.1f} % | {now:.1f} % |")
    return "\n".join(lines) + "\n"


def _answered(rows: Sequence[Row], suites: Sequence[str], quantity: str, role: str) -> list[Row]:
    return [
        row
        for row in rows
        if row.suite in suites and (row.quantity, row.role) == (quantity, role) and row.error_pct is not None
    ]


def _inside(row: Row) -> bool:
    return (row.low or 0.0) <= row.measured <= (row.high or 0.0)


def _misses(rows: Sequence[Row]) -> tuple[int, int, int]:
    """(measured below the interval, above it, rows that have one)."""
    ranged = [row for row in rows if row.low is not None and row.high is not None]
    below = sum(row.measured < (row.low or 0.0) for row in ranged)
    return below, sum(row.measured > (row.high or 0.0) for row in ranged), len(ranged)


def _published() -> Mapping[str, Mapping[str, str]]:
    return dict(_records())


def _records() -> Iterator[tuple[str, Mapping[str, str]]]:
    for file in roles.SILICON:
        for record in roles.read_published(file):
            yield record["id"], record

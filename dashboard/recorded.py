"""Predictions against published figures, as recorded: filters, summary, charts, and every row to take along."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from dashboard.cache import kept
from dashboard.show import chart, downloads, plain
from dashboard.words import HELP, TRUST
from perfmodel.output.charts import validation as charts
from perfmodel.output.formats import count
from perfmodel.output.validation.page import UNITS, quantity_name
from perfmodel.spec.messages import number_of
from perfmodel.validation.recorded import Recorded, recorded_results
from perfmodel.validation.rows import Row, summarise, unanswered

MOST_DRAWN = 300
"""Rows of a suite that the charts draw."""

PERCENTAGES = {
    "median_abs_pct": ("median error", "median"),
    "p90_abs_pct": ("p90", "nine"),
    "mean_abs_pct": ("mean error", "mean"),
    "bias_pct": ("bias", "bias"),
    "coverage_pct": ("inside 80 %", "coverage"),
    "mean_interval_width_pct": ("interval width", "width"),
    "peer_median_abs_pct": ("peer's median", "peer"),
    "median_abs_pct_beside_peer": ("ours there", "ours"),
}
"""Key of a summary -> column, and its tooltip."""


class Filter(NamedTuple):
    """Which rows are asked for; what is empty lets all pass."""

    suites: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    quantities: tuple[str, ...] = ()


@st.fragment
def validation(record: Recorded) -> None:
    """Everything on record."""
    st.subheader("Predicted against published", help=TRUST["published"])
    about = (
        f"{count(len(record.rows))} published figures of kernels, steps and requests, and what perfmodel "
        f"{record.version} predicted on {record.date}. perfmodel validate computes all of it anew, in "
        "two minutes; a test fails when predictions no longer agree with this record."
    )
    st.caption(plain(about))
    chosen = _filter(record)
    rows = _chosen(*chosen)
    if any(row.predicted is not None for row in rows):
        show_summary(summary_table(summarise(rows)))
        _charts(chosen, [row for row in rows if row.predicted is not None])
    else:
        st.info("No row with a prediction passes these filters.", icon=":material/filter_alt_off:")
    if rows:
        _take_away(chosen, rows)
    _unanswered(rows)


def _filter(record: Recorded) -> Filter:
    """The three filters; their options never change, so that a choice never vanishes."""

    def options(name: str) -> list[str]:
        return list(dict.fromkeys(getattr(row, name) for row in record.rows if row.predicted is not None))

    asked: list[tuple[str, Any]] = [("suite", str), ("role", str), ("quantity", quantity_name)]
    found = []
    for column, (name, text) in zip(st.columns(3), asked, strict=True):
        with column:
            plural = "quantities" if name == "quantity" else f"{name}s"
            found.append(
                st.multiselect(
                    name.capitalize(),
                    options(name),
                    format_func=text,
                    placeholder=f"all {plural}",
                    help=TRUST[name],
                    key=f"trust-{name}",
                )
            )
    return Filter(*map(tuple, found))


@kept(32)
def _chosen(suites: tuple[str, ...], roles: tuple[str, ...], quantities: tuple[str, ...]) -> tuple[Row, ...]:
    """Rows that pass the filters."""
    return tuple(
        row
        for row in recorded_results().rows
        if (not suites or row.suite in suites)
        and (not roles or row.role in roles)
        and (not quantities or row.quantity in quantities)
    )


# --- charts ----------------------------------------------------------------------------------------------------------


def _charts(chosen: Filter, answered: Sequence[Row]) -> None:
    with st.container(key="beside-when-wide"):
        left, right = st.columns(2)
    with left:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("**Predicted against measured**", help=TRUST["scatter"], width="content")
            unit = _unit(answered)
        chart(_drawn(*chosen, unit), "trust-scatter", zooms=True)
    with right:
        st.markdown("**Errors by suite**", help=TRUST["errors"])
        chart(_drawn(*chosen, None), "trust-errors", zooms=True)
    st.html(_legend(answered))
    signs = [f"{charts.role_symbol(role)[1]} {role}" for role in dict.fromkeys(row.role for row in answered)]
    drawn = len(charts.sample(answered, MOST_DRAWN))
    some = (
        f" Drawn: {count(drawn)} of {count(len(answered))} rows, at most {MOST_DRAWN} of a suite, by chance."
        if drawn < len(answered)
        else ""
    )
    marks = f"{', '.join(signs)}. Line: exact; bands: ±10% and ±25%."
    st.caption(plain(f"{marks}{some} Tables count every row."))


def _legend(answered: Sequence[Row]) -> str:
    """Which colour is which suite, for both charts: with so many, plotly's own legend would cover them."""
    colours = charts.suite_colours(recorded_results().rows)
    keys = (
        f'<span style="white-space:nowrap"><span style="color:{colour}">&#9679;</span> {escape(suite)}</span>'
        for suite, colour in charts.legend_keys(answered, colours)
    )
    return f'<p style="font-size:0.875rem">{" &ensp; ".join(keys)}</p>'


def _unit(answered: Sequence[Row]) -> str:
    """The unit of the rows that the scatter shows: rows of one unit share its axes."""
    units = sorted(
        {row.unit for row in answered}, key=lambda unit: -sum(row.unit == unit for row in answered)
    )
    if len(units) == 1:
        return units[0]
    picked = st.segmented_control(
        "Unit",
        units,
        default=units[0],
        required=True,
        format_func=lambda unit: UNITS.get(unit, (unit, ""))[0],
        key=f"trust-unit-{'-'.join(units)}",
        label_visibility="collapsed",
    )
    return picked or units[0]


@kept(32)
def _drawn(
    suites: tuple[str, ...], roles: tuple[str, ...], quantities: tuple[str, ...], unit: str | None
) -> Any:
    """The scatter of one unit's rows, or without a unit the errors of all."""
    answered = [row for row in _chosen(suites, roles, quantities) if row.predicted is not None]
    colours = charts.suite_colours(recorded_results().rows)
    if unit is None:
        return charts.whole_errors(charts.sample(answered, MOST_DRAWN), colours)
    own = [row for row in answered if row.unit == unit]
    return charts.whole_scatter(charts.sample(own, MOST_DRAWN), colours)


# --- tables ----------------------------------------------------------------------------------------------------------


def summary_table(lines: Sequence[Mapping[str, Any]], first: tuple[str, ...] = ()) -> pd.DataFrame:
    """The answered lines of a summary; columns that are empty throughout are left out."""
    rows = [
        {
            **{key: line[key] for key in (*first, "suite")},
            "quantity": quantity_name(line["quantity"]),
            "role": line["role"],
            "answered": line["answered"],
            "of": line["n"],
            **{key: line[key] for key in PERCENTAGES},
        }
        for line in lines
        if line["answered"]
    ]
    table = pd.DataFrame(rows)
    return table.drop(columns=[key for key in PERCENTAGES if table[key].isna().all()])


def show_summary(table: pd.DataFrame) -> None:
    """Show a :func:`summary_table`, and what its columns mean."""
    names = ("alike", "suite", "quantity", "role")
    columns: dict[str, Any] = {name: st.column_config.TextColumn(help=TRUST[name]) for name in names}
    for name in ("answered", "of"):
        columns[name] = st.column_config.NumberColumn(format="localized", help=TRUST["rows"])
    columns |= {key: number_column(name, TRUST[term]) for key, (name, term) in PERCENTAGES.items()}
    st.dataframe(table, hide_index=True, width="stretch", column_config=columns, placeholder="")


def number_column(name: str, text: str, digits: int = 1) -> Any:
    """A column of percentages."""
    return st.column_config.NumberColumn(name, format=f"%.{digits}f%%", help=text)


def _take_away(chosen: Filter, rows: Sequence[Row]) -> None:
    table = _frame(*chosen)
    if st.toggle(f"List the {number_of(len(rows), 'row')}", key="trust-list"):
        figures = ("measured", "predicted", "low", "high", "peer_predicted")
        columns: dict[str, Any] = {
            name: st.column_config.NumberColumn(format="%.4g", help=TRUST["si"]) for name in figures
        }
        columns |= {"role": st.column_config.TextColumn(help=TRUST["role"])}
        columns |= {"error_pct": number_column("error", TRUST["signed"])}
        columns |= {
            name: st.column_config.NumberColumn(format="%.4g", help=HELP["interval"])
            for name in ("low", "high")
        }
        st.dataframe(table, hide_index=True, width="stretch", column_config=columns, placeholder="")
    downloads(table, "validation")


@kept(8)
def _frame(suites: tuple[str, ...], roles: tuple[str, ...], quantities: tuple[str, ...]) -> pd.DataFrame:
    """The chosen rows with the keys of ``perfmodel validate --json``."""
    rows = _chosen(suites, roles, quantities)
    names = [*(field.name for field in fields(Row)), "error_pct"]
    return pd.DataFrame({name: [getattr(row, name) for row in rows] for name in names})


def _unanswered(rows: Sequence[Row]) -> None:
    missing = unanswered(rows)
    if missing:
        with st.expander(f"{number_of(sum(n for _, _, n in missing), 'row')} without a prediction, and why"):
            table = pd.DataFrame(
                [(n, suite, reason) for suite, reason, n in missing], columns=["rows", "suite", "reason"]
            )
            st.dataframe(table, hide_index=True, width="stretch")

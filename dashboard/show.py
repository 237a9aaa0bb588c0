"""What all pages show in the same way: charts, figures with their intervals, tables with downloads."""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import streamlit as st
from plotly.basedatatypes import BaseFigure

from dashboard.chart_table import table_of, words_of
from perfmodel.answers.caveats import condition as condition_of
from perfmodel.output.colours import BAND, PREDICTED, PUBLISHED
from perfmodel.output.report.as_csv import safe
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import Scenario

ON_DARK = {PREDICTED: "#A9B8DC", BAND: "rgba(169,184,220,0.25)", PUBLISHED: "#EDEDED"}
"""A line's colour -> the same on a dark page."""
AXES = ("xaxis", "yaxis", "xaxis2", "yaxis2")
BUTTONS = [["toImage", "zoom2d", "pan2d", "resetScale2d"]]


def chart(figure: Any, key: str, *, zooms: bool = False, on_select: Callable[[], None] | None = None) -> None:
    """A figure as wide as the page, in the theme's colours, and its points as a table where that is asked for;
    ``on_select`` is called when a point is clicked.
    """
    if st.context.theme.type == "dark":
        figure = on_dark(figure)
    figure = with_thousands(figure)
    config = {"displaylogo": False, "displayModeBar": "hover" if zooms else False, "modeBarButtons": BUTTONS}
    clicks: dict[str, Any] = {"on_select": on_select, "selection_mode": "points"} if on_select else {}
    st.plotly_chart(
        _Unchecked(figure),
        width="stretch",
        theme="streamlit",
        key=f"chart-{key}",
        config=config,
        alt=words_of(figure),
        **clicks,
    )
    if st.toggle("As a table", key=f"table-of-{key}", help="The chart's points in figures."):
        st.dataframe(table_of(figure), hide_index=True, width="stretch")


class _Unchecked(BaseFigure):  # type: ignore[misc]
    """A plain figure that Streamlit passes on as it is: a dict it has plotly check piece by piece, which with making
    such figures took a third of a redraw.
    """

    def __init__(self, figure: dict[str, Any]) -> None:
        object.__setattr__(self, "plain", figure)

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = object.__getattribute__(self, "plain")
        return found


def with_thousands(figure: Any) -> dict[str, Any]:
    """The figure, plain, with separated thousands on its axes."""
    found = dict(figure if isinstance(figure, dict) else figure.to_dict())
    shape = found["layout"]
    axes = {axis: {"separatethousands": True, **shape[axis]} for axis in AXES if axis in shape}
    found["layout"] = {**shape, **axes}
    return found


def on_dark(figure: Any) -> Any:
    """The figure with lines and marks of the predictions' blue light enough for a dark page (4.5:1); bars, which carry
    their names, stay.
    """
    found = dict(figure if isinstance(figure, dict) else figure.to_dict())
    found["data"] = [
        {
            name: _lighter(value) if name in ("line", "marker", "fillcolor") else value
            for name, value in one.items()
        }
        if one.get("type", "scatter") == "scatter"
        else one
        for one in found["data"]
    ]
    return found


def _lighter(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _lighter(one) for name, one in value.items()}
    return ON_DARK.get(value, value) if isinstance(value, str) else value


def headline(text: str) -> None:
    """The page's answer in a sentence, as its heading."""
    with st.container(key="answer"):
        st.markdown(f"## {plain(text)}")


def under(scenario: Scenario) -> str:
    """Under what a headline holds, as the end of its sentence; empty: nothing is assumed of the router."""
    even = condition_of(scenario)
    return f", {even}" if even else ""


def downloads(rows: pd.DataFrame | Mapping[str, Any], name: str) -> None:
    """The rows of a result, or its columns, as CSV and as Parquet, written when somebody asks for them."""
    with st.container(horizontal=True):
        st.download_button(
            "CSV",
            lambda: csv_of(pd.DataFrame(rows)),
            f"{name}.csv",
            "text/csv",
            on_click="ignore",
            key=f"csv-{name}",
        )
        st.download_button(
            "Parquet",
            lambda: _parquet(pd.DataFrame(rows)),
            f"{name}.parquet",
            "application/vnd.apache.parquet",
            on_click="ignore",
            key=f"parquet-{name}",
        )


def csv_of(rows: pd.DataFrame) -> str:
    """The rows as CSV in which no spreadsheet finds a formula: names may be anybody's."""
    plain = rows.map(lambda value: safe(value) if isinstance(value, str) else value)
    return str(plain.rename(columns=lambda name: safe(str(name))).to_csv(index=False))


def _parquet(rows: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    rows.to_parquet(out, index=False)
    return out.getvalue()


def condition(scenario: Scenario, name: str = "") -> None:
    """Under what the figures below hold, where nothing is known of the model's router; ``name`` says whose they are,
    where the page shows several.
    """
    even = condition_of(scenario)
    if even:
        own = f"{name}: " if name else ""
        st.markdown(plain(f"{own}{even if own else even.capitalize()}:"))


def caveats(values: Mapping[str, Any], name: str = "") -> None:
    """What the page's figures rest on and what makes them less certain: dangers in sight, notes and standing caveats
    folded. ``name`` says whose they are, where the page shows several.
    """
    own = f"{name}: " if name else ""
    if "basis" in values:
        st.caption(plain(f"{own}{values['basis']['text']}"))
    dangers = list(values["dangers"])
    for text in dangers:
        st.warning(plain(f"{own}{text}"), icon=":material/warning:")
    notes = [text for text in values["warnings"] if text not in dangers]
    for texts, word in ((notes, "note"), (values["caveats"], "standing caveat")):
        if texts:
            with st.expander(f"{own}{number_of(len(texts), word)} about these figures"):
                for text in texts:
                    st.text(text)  # as text: it may quote what somebody uploaded


_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~<>$:^&])")


def plain(text: str) -> str:
    """Text as Streamlit's Markdown shows it letter by letter: links, maths, colours and icons included."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))

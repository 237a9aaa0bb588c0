"""Calibration: how old it is, how far off by kernel class, what it covers of the scenario; two beside each other."""

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import session
from dashboard.calibration_facts import Facts, Files, brought, facts
from dashboard.looks import tiles
from dashboard.names import model_title
from dashboard.results import Failed
from dashboard.show import chart, downloads, headline, plain
from dashboard.trusted import pct
from dashboard.words import CALIBRATION, TRUST
from perfmodel.errors import PerfModelError
from perfmodel.output.charts.calibrations import errors_chart
from perfmodel.output.formats import count, percent
from perfmodel.spec import catalogue
from perfmodel.spec.scenario import Scenario

FILES = "calibration-files"
"""The calibration that somebody brought, in the session's state."""
OWN, NONE = "your own", "nothing"
MOST_CLASSES = 16
PARTS = {
    "timed": "timed on this GPU",
    "other_gpu": "timed on another GPU",
    "other_engine": "timed with another engine",
    "derived": "derived from timings",
    "convention": "by convention",
    "engine": "an engine's constants",
    "given": "given by the scenario",
}
"""What a share of a step rests on -> in words."""


def render(scenario: Scenario) -> None:
    """The page."""
    title = st.container()
    names = [name for name, _ in _choices(scenario)]
    found = [facts(name if name != OWN else OWN, _files(name), scenario) for name in names]
    sides = [one for one in found if isinstance(one, Facts)]
    for name, one in zip(names, found, strict=True):
        if isinstance(one, Failed):
            st.error(plain(f"{name}: {one.text}"), icon=":material/block:")
    if not sides:
        return
    with title:
        headline(_answer(sides, scenario))
    for column, side in zip(st.columns(len(sides)), sides, strict=True):
        with column:
            _at_a_glance(side)
    st.subheader("Errors by kernel class", help=plain(CALIBRATION["classes"]))
    chart(
        errors_chart([(side.name, side.classes.head(MOST_CLASSES)) for side in sides]), "calibration-errors"
    )
    st.subheader(
        f"What it covers of a step of {model_title(scenario.model.name)}", help=plain(CALIBRATION["covers"])
    )
    st.dataframe(_coverage(sides), hide_index=True, width="stretch")
    for side in sides:
        with st.expander(f"Every kernel of {plain(side.name)} ({len(side.rows)})"):
            st.dataframe(side.rows, hide_index=True, width="stretch", column_config=_COLUMNS)
            downloads(side.rows, f"calibration-{side.name}")


def _choices(scenario: Scenario) -> list[tuple[str, bool]]:
    """What is looked at, and beside what."""
    names = [*([OWN] if st.session_state.get(FILES) else []), *catalogue.names("calibrations")]
    own = scenario.calibration if scenario.calibration in names else names[0]
    left, right = st.columns(2)
    with left:
        first = st.selectbox(
            "Calibration", names, index=names.index(OWN if OWN in names else own), key="calibration-a",
            filter_mode="contains", help=plain(CALIBRATION["which"]),
        )  # fmt: skip
    with right:
        other = st.selectbox(
            "Beside",
            [NONE, *names],
            key="calibration-b",
            filter_mode="contains",
            help=plain(CALIBRATION["beside"]),
        )
    with st.expander("Load one of your own", icon=":material/upload_file:"):
        st.file_uploader(
            "calibration.json, and tables.npz where there is one",
            type=["json", "npz"],
            accept_multiple_files=True,
            key="calibration-upload",
            on_change=_taken,
            help=plain(CALIBRATION["upload"]),
        )
    return [(first, True), *([(other, False)] if other not in (NONE, first) else [])]


def _taken() -> None:
    files = st.session_state["calibration-upload"]
    if not files:
        st.session_state[FILES] = None
        return
    try:
        st.session_state[FILES] = brought([(file.name, file.getvalue()) for file in files])
        st.session_state.pop("calibration-a", None)  # shows it
    except PerfModelError as error:
        session.complain(str(error))


def _files(name: str) -> Files:
    return st.session_state.get(FILES) or () if name == OWN else ()


def _answer(sides: list[Facts], scenario: Scenario) -> str:
    """The headline."""
    parts = []
    for side in sides:
        covers = (
            "gives this scenario no answer"
            if side.covered is None
            else f"times {percent(side.covered)} of this scenario's step on its own GPU"
        )
        parts.append(f"{side.name} is {side.age} old and {covers}")
    return "; ".join(parts) + "."


def _at_a_glance(side: Facts) -> None:
    st.markdown(f"**{plain(side.name)}** ({plain(side.id)}), {plain(side.device)}")
    if side.source:
        st.caption(plain(side.source))
    shapes = int(side.rows["timed shapes"].sum())
    with tiles(f"calibration-{side.id}"):
        st.metric("Age", side.age, help=plain(TRUST["age"]))
        st.metric("Timed shapes", count(shapes), help=plain(TRUST["timed"]))
        median = pd.to_numeric(side.classes["median error"]).median()
        st.metric("Median class", pct(float(median)), help=plain(CALIBRATION["median"]))
        if side.covered is not None:
            st.metric("Covers", percent(side.covered), help=plain(CALIBRATION["covers"]))
    if side.why:
        st.warning(
            plain(f"{side.name}: no answer for this scenario with it: {side.why}"), icon=":material/warning:"
        )


def _coverage(sides: list[Facts]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for key, words in PARTS.items():
        shares = {side.name: (side.fractions or {}).get(key) for side in sides}
        if any(shares.values()):
            rows.append(
                {"Time of the step": words} | {n: percent(v) if v else "-" for n, v in shares.items()}
            )
    return pd.DataFrame(rows)


_COLUMNS = {
    "timed shapes": st.column_config.NumberColumn(format="localized", help=TRUST["timed"]),
    "median error": st.column_config.NumberColumn(format="%.1f%%", help=TRUST["left_out"]),
    "90th percentile": st.column_config.NumberColumn(format="%.1f%%", help=TRUST["p90"]),
}

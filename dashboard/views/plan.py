"""Plan: what traffic needs in GPUs and dollars a month, or what a budget carries; screened first, then simulated."""

from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import session
from dashboard.plan_asked import MORE, PlanAsked, command, space_text
from dashboard.plan_controls import controls
from dashboard.plan_lines import Line, chart_lines, heading, line_of, rank, rows_of
from dashboard.plan_runs import Planned, fill
from dashboard.plan_take import selected_card
from dashboard.results import Failed
from dashboard.show import chart, downloads, headline, plain
from perfmodel.explore.plan.offers import Need
from perfmodel.output.charts.offers import offers_chart
from perfmodel.spec.scenario import Scenario

STOPPED = "plan-stopped"
"""The question that was stopped, in the session's state."""
PICKED = "plan-picked"


def render(_: Scenario) -> None:
    """The page."""
    asked = session.plan()
    title = st.container()
    controls(asked)
    if not asked.lines:
        st.info("Choose at least one model and one kind of GPU.", icon=":material/info:")
        return
    lines = [line_of(asked, model, cluster) for model, cluster in asked.lines]
    place = st.empty()
    with title:
        headline(heading(asked, lines))
    _refusals(asked, lines)
    shown = [line for line in lines if line.offers]
    if shown:
        _chart(asked, shown)
        _table(asked, lines)
        selected_card(lines, st.session_state.get(PICKED))
    _how(asked, lines)
    _go_on(asked, lines, place)


def _go_on(asked: PlanAsked, lines: list[Line], place: Any) -> None:
    """The next stage of a line that lacks one: all are screened before any is simulated, the cheapest first, which is
    what the heading says.
    """
    order = {"screened": 0, "planned": 1, "sure": 2}
    waiting = [
        (order[lack], rank(line), number)
        for number, line in enumerate(lines)
        if (lack := line.lacks) in order
    ]
    if not waiting:
        return
    if st.session_state.get(STOPPED) == asked:
        with place.container(horizontal=True, vertical_alignment="center"):
            st.button("Go on", key="plan-go", on_click=_stop, args=(None,), icon=":material/play_arrow:")
            st.caption("Stopped: figures that are there are kept.")
        return
    stage, _, number = min(waiting)
    line = lines[number]
    words = ("Looking at every layout", "Simulating the best", "How sure is it")[stage]
    done = 3 * len(lines) - sum(3 - order[line.lacks] for line in lines if line.lacks in order)
    share = done / (3 * len(lines))
    with place.container(horizontal=True, vertical_alignment="center"):
        st.button("Stop", key="plan-stop", on_click=_stop, args=(asked,), icon=":material/stop_circle:")
        text = f"{words}: {line.name}"
        bar = st.progress(share, plain(text))

    def progress(at: int, of: int) -> None:
        bar.progress(
            min(1.0, share + at / of / (3 * len(lines))), plain(f"{text} ({at} of {of})" if at else text)
        )

    assert line.question is not None
    fill(line.box, line.question, asked.mode, int(asked.simulate), progress)
    st.rerun()


def _stop(asked: PlanAsked | None) -> None:
    st.session_state[STOPPED] = asked


def _refusals(asked: PlanAsked, lines: list[Line]) -> None:
    """Lines without an answer, and what would mend them."""
    for line in lines:
        if line.refused:
            st.warning(plain(f"{line.name}: {line.refused}"), icon=":material/block:")
    if any(line.refused for line in lines):
        _mend(lines, asked)
    missed = [line for line in lines if isinstance(line.box.planned, Planned) and line.box.planned.miss]
    for line in missed:
        assert isinstance(line.box.planned, Planned)
        st.warning(
            plain(
                f"{line.name}: the simulation of the screen's {line.box.planned.simulate} best misses a limit: "
                f"{line.box.planned.miss}"
            ),
            icon=":material/block:",
        )
    if missed and asked.simulate < MORE:
        st.button(
            f"Simulate {MORE} of each",
            key="plan-more",
            icon=":material/search:",
            on_click=session.ask_plan,
            args=(lambda now: _with(now, simulate=float(MORE)),),
        )
    elif missed:
        _mend(lines, asked)


def _mend(lines: list[Line], asked: PlanAsked) -> None:
    """Buttons that loosen a limit, to what can be had."""
    speeds = [
        line.box.screened.nearest.tokens_per_s_per_user
        for line in lines
        if isinstance(line.box.screened, Need) and line.box.screened.nearest is not None
    ]
    speed = float(f"{0.95 * min(speeds):.2g}") if speeds and min(speeds) < asked.speed else asked.speed / 2.0
    with st.container(horizontal=True):
        for name, value, words in (
            ("speed", speed, f"Ask for {speed:g} tokens/s per user"),
            ("ttft_s", asked.ttft_s * 2.0, f"Allow {asked.ttft_s * 2.0:g} s to the first token"),
        ):
            st.button(
                words,
                key=f"plan-mend-{name}",
                icon=":material/build:",
                on_click=session.ask_plan,
                args=(lambda now, name=name, value=value: _with(now, **{name: value}),),
            )


def _with(asked: PlanAsked, **changes: Any) -> PlanAsked:
    return replace(asked, **changes)


def _chart(asked: PlanAsked, lines: list[Line]) -> None:
    money = asked.mode == "need"
    st.subheader(
        "What users get, what it costs" if money else "What users get, how many of them",
        help="Along a line no deployment is both cheaper and faster: by the screen's approximation, all within the "
        "limit of the first token. Click a point to see it and to take it along."
        if money
        else "The more traffic the same GPUs carry, the slower for each user. Click a point to see it.",
    )
    figure = offers_chart(
        chart_lines(asked, lines),
        asked=asked.speed,
        y="usd_per_month" if money else "traffic",
        title="$ a month" if money else ("users at once" if asked.unit == "users" else "requests per second"),
        prefix="$" if money else "",
        steps=money,
    )
    chart(figure, "plan", on_select=_picked)


def _picked() -> None:
    points = st.session_state["chart-plan"]["selection"]["points"]
    if points:
        st.session_state[PICKED] = points[0]["customdata"][0]


def _table(asked: PlanAsked, lines: list[Line]) -> None:
    rows = pd.DataFrame(rows_of(asked, lines))
    table = st.dataframe(
        rows.drop(columns="id"),
        hide_index=True,
        width="stretch",
        on_select="rerun",
        selection_mode="single-row",
        key="plan-table",
        column_config=_COLUMNS,
    )
    chosen = table["selection"]["rows"]
    before = st.session_state.get("plan-table-row")
    if chosen and chosen != before:
        st.session_state[PICKED] = rows["id"][chosen[0]]
    st.session_state["plan-table-row"] = chosen
    st.caption(
        "In brackets 80 % intervals: GPUs and $ as the screen chooses with slow and fast kernels, speed and first "
        "token as simulated under drawn kernels. Rented around the clock; no spare, no staff, no storage."
    )
    downloads(rows.drop(columns="id"), "plan")


_text = st.column_config.TextColumn
_COLUMNS = {
    "GPUs of": _text(width=250),
    "GPUs": _text(width=110),
    "$ a month": _text(width=220),
    "Tokens/s per user": _text(width=150),
    "First token": _text(width=190),
    "$ per M output": _text(width=110),
    "How": _text(
        width=90, help="screened: by an approximation; simulated: request by request, as perfmodel plan does"
    ),
}


def _how(asked: PlanAsked, lines: list[Line]) -> None:
    """The commands that answer the same."""
    with st.expander("The same on the command line", icon=":material/terminal:"):
        for line in lines:
            question = line.box.question or line.question
            if question is None or isinstance(line.box.screened, Failed):
                continue
            st.caption(plain(line.name))
            st.code(command(question, int(asked.simulate)), language="bash", wrap_lines=True)
            text = space_text(question)
            if text:
                st.caption("with space.yaml:")
                st.code(text, language="yaml")

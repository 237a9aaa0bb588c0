"""Compare: the scenario (B) against another (A), and which parts make the difference."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import results, session
from dashboard.asked import Asked
from dashboard.looks import tiles
from dashboard.presets import presets
from dashboard.refusal import refuse
from dashboard.results import Answered, Failed
from dashboard.show import caveats, chart, condition, downloads, headline, plain, under
from dashboard.traffic_runs import at_most
from dashboard.words import HELP, NAMES
from perfmodel.answers.caveats import condition as condition_of
from perfmodel.explore.difference import Difference
from perfmodel.ops.limits import batch_of
from perfmodel.output.charts.curve import trade_offs_chart
from perfmodel.output.charts.money import waterfall_chart
from perfmodel.output.formats import count, duration, percent, significant, usd
from perfmodel.output.step.page import question
from perfmodel.spec.scenario import Scenario
from perfmodel.units import PERCENT

SAME = "the same without overlap"
UNCHANGED = "the same without the sidebar's changes"
NO_CHANGE = 5e-4
"""Share below which two figures are said to be the same."""
PINNED = "a scenario that was pinned"

ROWS: tuple[tuple[str, Callable[[Any], str], bool], ...] = (
    ("tokens_per_s_per_user", significant, True),
    ("output_tokens_per_s_per_gpu", significant, True),
    ("input_tokens_per_s_per_gpu", significant, True),
    ("usd_per_million_output_tokens", usd, False),
    ("usd_per_million_input_tokens", usd, False),
    ("tpot_s", duration, False),
    ("ttft_s", duration, False),
    ("step_time_s", duration, False),
    ("exposed_communication_s", duration, False),
    ("mfu", percent, True),
    ("max_batch_per_gpu", count, True),
)
"""Key, how it is written, and whether more is better."""


def render(scenario: Scenario) -> None:
    """The page."""
    asked_a, title = _choose()
    asked_b = session.asked()  # read here: a download is made where there is no session
    a = replace_seed(asked_a.scenario(), scenario)
    left, right = st.columns(2)
    for column, name, side in ((left, "A", a), (right, "B", scenario)):
        with column:
            st.markdown(f"**{name}**, {'the one in the sidebar' if name == 'B' else plain(title)}")
            st.caption(plain(question(side)))
    found = [results.answer(one) for one in (a, scenario)]
    for name, one in zip("AB", found, strict=True):
        if isinstance(one, Failed) and name == "A":
            st.error(plain(f"{name}: {one.text}"), icon=":material/block:")
            if st.session_state[session.BASELINE] is not None:
                st.button(
                    f"Compare with {SAME if _overlaps() else UNCHANGED}",
                    key="compare-mend",
                    icon=":material/undo:",
                    on_click=session.compare_with,
                    args=(None,),
                )
        elif isinstance(one, Failed):
            refuse(scenario, one, name)
    first, second = found
    if isinstance(first, Failed) or isinstance(second, Failed):
        return
    headline(
        _answer(first, second) + (under(scenario) if condition_of(a) == condition_of(scenario) else "") + "."
    )
    if condition_of(a) != condition_of(scenario):
        for name, side in (("A", a), ("B", scenario)):
            condition(side, name)
    _metrics(first, second)
    _why(a, scenario)
    _curves(a, scenario)
    rows = _table(first, second)
    with st.expander("All figures side by side"):
        st.dataframe(_in_words(rows), hide_index=True, width="stretch", column_config=_COLUMNS)
    downloads(rows, "comparison")
    st.download_button(
        "Cost report of both (HTML)",
        lambda: _report(asked_a, asked_b),
        "report.html",
        "text/html",
        on_click="ignore",
        key="compare-report",
        help="Takes some seconds. It holds both scenarios as YAML: saved as a.yaml and b.yaml, its command repeats it.",
    )
    for name, one in (("A", first), ("B", second)):
        caveats(one.values, name)


def _answer(a: Answered, b: Answered) -> str:
    """The headline."""
    parts = []
    for key, words in (
        ("usd_per_million_output_tokens", "{} {} per output token"),
        ("usd_per_million_input_tokens", "{} {} per prompt token"),
        ("tokens_per_s_per_user", "{} {} for each user"),
    ):
        one, other = a.values[key], b.values[key]
        if one and other:
            change = other / one - 1.0
            if abs(change) < NO_CHANGE:
                continue
            kinds = ("dearer", "cheaper") if key.startswith("usd") else ("faster", "slower")
            parts.append(words.format(percent(abs(change)), kinds[change < 0.0]))
    return f"B is {' and '.join(parts)} than A" if parts else "B costs what A costs and is as fast"


def _report(asked_a: Asked, asked_b: Asked) -> str:
    """The cost report of both, of no more requests than the Traffic page serves: nobody can stop a download."""
    a, b = at_most(asked_a), at_most(asked_b)
    scenarios = [replace_seed(a.scenario(), b.scenario()), b.scenario()]
    return results.report(scenarios, "perfmodel report a.yaml b.yaml --out report.html")


def replace_seed(a: Scenario, b: Scenario) -> Scenario:
    """A under B's seed: chance must not make the difference."""
    return a.model_copy(update={"seed": b.seed})


def _choose() -> tuple[Asked, str]:
    """A, and what it is called."""
    known = presets()
    pinned: Asked | None = st.session_state[session.BASELINE]
    titles = [preset.title for preset in known]
    same = SAME if _overlaps() else UNCHANGED
    options = [
        same,
        *titles,
        *([PINNED] if pinned is not None and not any(p.is_asked_by(pinned) for p in known) else []),
    ]
    now = same if pinned is None else next((p.title for p in known if p.is_asked_by(pinned)), PINNED)
    st.session_state["compare-with"] = now

    def chosen() -> None:
        picked = st.session_state["compare-with"]
        if picked == same:
            session.compare_with(None)
        elif picked != PINNED:
            session.compare_with(next(p.asked for p in known if p.title == picked))

    def pin() -> None:
        session.compare_with(session.asked())

    def swap() -> None:
        new = _baseline()
        session.compare_with(session.asked())
        session.ask(new)

    st.selectbox(
        "Compare with (A)",
        options,
        key="compare-with",
        on_change=chosen,
        help="The scenario in the sidebar is B. Both use B's seed, so that chance makes no difference.",
    )
    with st.container(horizontal=True):
        st.button("Pin the sidebar's scenario as A", on_click=pin, icon=":material/push_pin:")
        st.button("Swap A and B", on_click=swap, icon=":material/swap_horiz:")
    return _baseline(), now


def _baseline() -> Asked:
    """What is compared with: pinned, or the scenario itself without overlap; if it has none, without changes."""
    pinned: Asked | None = st.session_state[session.BASELINE]
    if pinned is not None:
        return pinned
    now = session.asked()
    if not _overlaps():
        return replace(now, sets=())
    return now.changed({"deployment.overlap": "sequential"})


def _overlaps() -> bool:
    """Whether the sidebar's scenario has an overlap that could be left out."""
    return session.scenario().deployment.overlap not in ("sequential", "tbo-report")


def _metrics(a: Answered, b: Answered) -> None:
    """B's figures with the change from A."""
    with tiles("compare"):
        for key, text, more_is_better in ROWS[:8]:
            one, other = a.values[key], b.values[key]
            if other is None:
                continue
            change = None if not one else f"{PERCENT * (other / one - 1.0):+.1f}%"
            st.metric(
                NAMES[key],
                text(other),
                change,
                delta_color="normal" if more_is_better else "inverse",
                help=f"{HELP[key]} Below: against A's {text(one) if one is not None else '-'}.",
            )


def _why(a: Scenario, b: Scenario) -> None:
    """The waterfall."""
    found = results.difference(a, b)
    if isinstance(found, Failed):
        st.info(plain(found.text), icon=":material/info:")
        return
    kinds = ["$"] if found.tpot_a_s is None else ["$", "TPOT"]
    title, switch = st.columns([3, 1], vertical_alignment="bottom")
    with title:
        st.subheader(
            "What makes the difference",
            help="Time per token, cut into what the step waits for. compute: something computes. exposed: "
            "only communication does. imbalance: beyond what the same step takes with every rank equally loaded. host: "
            "the engine's gap between steps. price: the same seconds at the other price. Parts add up exactly; where "
            "seconds and price both differ their product's change is split evenly.",
        )
    with switch:
        kind = st.segmented_control(
            "In", kinds, default="$", required=True, key="compare-kind", label_visibility="collapsed"
        )
    chart(_waterfall(found, is_money=kind != "TPOT"), "waterfall")
    downloads(pd.DataFrame(found.rows), "difference")


def _waterfall(found: Difference, *, is_money: bool) -> Any:
    """From A's figure to B's, in money or in time per output token."""
    column = "delta_usd" if is_money else "delta_tpot_s"
    token = "prompt" if found.phase == "prefill" else "output"
    start, end = (found.usd_a, found.usd_b) if is_money else (found.tpot_a_s or 0.0, found.tpot_b_s or 0.0)
    return waterfall_chart(
        pd.DataFrame(
            {
                "component": [row["component"] for row in found.rows],
                "delta": [row[column] for row in found.rows],
            }
        ),
        start=start,
        end=end,
        start_label="A",
        end_label="B",
        title=f"USD per million {token} tokens" if is_money else "time per output token (TPOT)",
        is_money=is_money,
    )


def _curves(a: Scenario, b: Scenario) -> None:
    """Both trade-off curves."""
    phases = {one.deployment.phase == "prefill" for one in (a, b)}
    if len(phases) > 1:
        return
    x, y = (
        ("ttft_s", "usd_per_million_input_tokens")
        if True in phases
        else (
            "tokens_per_s_per_user",
            "usd_per_million_output_tokens",
        )
    )
    st.subheader("Speed and cost over the batch", help=HELP["batch"])
    curves = {"A": (results.curve(a), batch_of(a)), "B": (results.curve(b), batch_of(b))}
    chart(trade_offs_chart(curves, x=x, y=y), "compare-curves", zooms=True)


def _in_words(rows: pd.DataFrame) -> pd.DataFrame:
    """The figures as people read them: names, and values in their units; the files keep keys and SI units."""
    text = {key: text for key, text, _ in ROWS}
    columns: dict[str, Any] = {"figure": [NAMES[key] for key in rows.figure]}
    for side in ("A", "B"):
        columns[side] = [
            text[key](None if pd.isna(value) else value)
            for key, value in zip(rows.figure, rows[side], strict=True)
        ]
    return pd.DataFrame(columns | {"change_pct": rows.change_pct})


_COLUMNS = {
    "figure": st.column_config.TextColumn("Figure"),
    "change_pct": st.column_config.NumberColumn("Change", format="%+.1f%%"),
}


def _table(a: Answered, b: Answered) -> pd.DataFrame:
    """All figures in SI units, with the change in percent."""
    keys = [key for key, _, _ in ROWS if a.values[key] is not None or b.values[key] is not None]
    rows = pd.DataFrame(
        {"figure": keys, "A": [a.values[key] for key in keys], "B": [b.values[key] for key in keys]}
    )
    rows["change_pct"] = [
        PERCENT * (other / one - 1.0) if one and other is not None else None
        for one, other in zip(rows.A, rows.B, strict=True)
    ]
    return rows

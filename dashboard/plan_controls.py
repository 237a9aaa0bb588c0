"""The planner's question as controls: models and GPUs, traffic or a budget, what users are to get."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import streamlit as st

from dashboard import session
from dashboard.looks import tiles
from dashboard.names import cluster_title, engine_title, model_title
from dashboard.plan_asked import (
    ENGINES,
    FORMATS,
    RANGES,
    UNITS,
    PlanAsked,
    catalogue_price,
    own_format,
)
from dashboard.show import plain
from dashboard.words import PLAN
from perfmodel.spec import catalogue

MODES = {"need": "What do I need for this traffic?", "carry": "What do I get for this budget?"}


def controls(asked: PlanAsked) -> None:
    """All of them, as they were asked."""
    _choice("mode", "Question", tuple(MODES), asked.mode, MODES.__getitem__)
    with st.container(key="beside-when-wide"):
        left, right = st.columns(2)
    with left:
        _several("models", "Models", _models(), asked.models, model_title)
    with right:
        _several("clusters", "GPUs", catalogue.names("clusters"), asked.clusters, cluster_title)
    with tiles("plan-traffic"):
        if asked.mode == "need":
            _pick("unit", "Traffic in", tuple(UNITS), asked.unit, UNITS.__getitem__)
            _number("amount", UNITS[asked.unit].capitalize(), asked.amount, step=_step(asked.amount))
            if asked.unit == "day":
                _number("peak", "Peak over mean", asked.peak, step=0.5)
        else:
            _pick(
                "have", "Given", ("usd", "gpus"), asked.have, {"usd": "a budget", "gpus": "GPUs"}.__getitem__
            )
            if asked.have == "usd":
                _number("budget", "$ a month", asked.budget, step=_step(asked.budget))
            else:
                _number("gpus", "GPUs", asked.gpus, step=1.0)
            unit = "users" if asked.unit == "users" else "rate"
            _pick("unit", "Carried, in", ("users", "rate"), unit, UNITS.__getitem__)
        _number("isl", "Prompt, tokens", asked.isl, step=100.0)
        _number("osl", "Answer, tokens", asked.osl, step=100.0)
        _number("speed", "Tokens/s per user", asked.speed, step=5.0)
        _number("ttft_s", "First token, s", asked.ttft_s, step=0.5)
    _more(asked)


def _more(asked: PlanAsked) -> None:
    with st.expander(
        "Engine, formats, drafts and prices", icon=":material/tune:", expanded=bool(_unpriced(asked))
    ):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            _choice("engine", "Engine", ENGINES, asked.engine, engine_title)
            named = asked.weights or (own_format(asked.models[0]) if asked.models else "bf16")
            _choice(
                "weights", "Weights in", FORMATS, named, lambda name: "any format" if name == "any" else name
            )
            _number("percentile", "Limits hold for, % of requests", asked.percentile, step=1.0)
            _number("acceptance", "Drafts accepted, share", asked.acceptance, step=0.1)
        with tiles("plan-prices"):
            for cluster in asked.clusters:
                _price(asked, cluster)
        for cluster in _unpriced(asked):
            st.caption(plain(f"The catalogue has no price for {cluster_title(cluster)}: state one here."))


def _unpriced(asked: PlanAsked) -> list[str]:
    return [cluster for cluster in asked.clusters if asked.price_of(cluster) is None]


@cache
def _models() -> tuple[str, ...]:
    return tuple(name for name in catalogue.names("models") if not catalogue.model(name).unmodelled)


def _step(value: float) -> float:
    """A step of about a tenth."""
    digits = len(f"{max(value, 1.0):.0f}") - 1
    return float(10 ** max(digits - 1, 0))


def _shown(name: str, value: Any) -> str:
    """The control's key, set to what is asked."""
    key = f"plan-{name}"
    if st.session_state.get(key) != value or key not in st.session_state:
        st.session_state[key] = value
    return key


def _changed(name: str, kind: Callable[[Any], Any]) -> None:
    value = st.session_state[f"plan-{name}"]
    if value is not None:
        session.ask_plan(lambda asked: replace(asked, **{name: kind(value)}))


def _number(name: str, label: str, value: float, *, step: float) -> None:
    low, high = RANGES[name]
    st.number_input(
        label,
        min_value=low,
        max_value=high,
        step=step,
        format="%g" if value < 1e6 else "%.10g",
        key=_shown(name, float(value)),
        on_change=_changed,
        args=(name, float),
        help=plain(PLAN[name]),
    )


def _choice(name: str, label: str, options: tuple[str, ...], value: str, words: Callable[[str], str]) -> None:
    st.segmented_control(
        label,
        options,
        key=_shown(name, value),
        on_change=_changed,
        args=(name, str),
        format_func=words,
        help=plain(PLAN[name]),
    )


def _pick(name: str, label: str, options: tuple[str, ...], value: str, words: Callable[[str], str]) -> None:
    """As a list: for words too long to stand beside each other on a phone."""
    st.selectbox(
        label,
        options,
        key=_shown(name, value),
        on_change=_changed,
        args=(name, str),
        format_func=words,
        help=plain(PLAN[name]),
    )


def _several(
    name: str, label: str, options: tuple[str, ...], value: tuple[str, ...], words: Callable[[str], str]
) -> None:
    st.multiselect(
        label,
        options,
        key=_shown(name, list(value)),
        on_change=_changed,
        args=(name, tuple),
        format_func=words,
        help=plain(PLAN[name]),
    )


def _price(asked: PlanAsked, cluster: str) -> None:
    key, now = f"price-{cluster}", asked.price_of(cluster)

    def changed() -> None:
        value = st.session_state[f"plan-{key}"]
        kept = tuple(one for one in asked.prices if one[0] != cluster)
        if value is not None and value != catalogue_price(cluster):
            kept = (*kept, (cluster, float(value)))
        session.ask_plan(lambda asked: replace(asked, prices=kept))

    st.number_input(
        f"$ per GPU hour, {cluster_title(cluster)}",
        min_value=0.01,
        max_value=1e4,
        step=0.1,
        value=None,
        format="%g",
        key=_shown(key, now),
        on_change=changed,
        placeholder="no price known",
        help=plain(PLAN["prices"]),
    )

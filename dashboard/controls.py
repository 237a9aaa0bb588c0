"""One control of the sidebar: it shows what the scenario says, and asks for another value when it is moved."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import streamlit as st

from dashboard import session
from dashboard.asked import MOST_NUMBER
from dashboard.words import HELP

STOPS = 25
"""Of a slider, about."""
SEARCHED = 8
"""Choices from which on one can type to find one."""


def key_of(name: str) -> str:
    """Key of a control in the session's state."""
    return f"ask-{name}"


def value_of(name: str) -> Any:
    """What a control was moved to."""
    return st.session_state[key_of(name)]


def showing(name: str, value: Any) -> str:
    """The control's key, after it was set to the scenario's value, whatever it showed before."""
    key = key_of(name)
    if st.session_state.get(key) != value:
        st.session_state[key] = value
    return key


def select(
    label: str, name: str, options: Sequence[Any], value: Any, changed: Callable[[], None], **more: Any
) -> None:
    """A choice that always has the scenario's own value among it."""
    shown = list(options) if value in options else [value, *options]
    st.selectbox(
        label,
        shown,
        key=showing(name, value),
        on_change=changed,
        help=HELP.get(name),
        filter_mode="contains" if len(shown) > SEARCHED else None,
        **more,
    )


@contextmanager
def section(label: str, name: str, icon: str) -> Iterator[bool]:
    """A section that can be opened; whether it is open. Its controls are drawn then alone: closed ones would be half of
    the sidebar, written and sent with every redraw. Its label must stay what it is, by which Streamlit knows it.
    """
    box = st.expander(label, key=f"section-{name}", icon=icon, on_change="rerun")
    with box:
        yield bool(box.open)


def field(label: str, name: str, path: str, value: float, *, low: float, high: float, step: float) -> None:
    """A field for the number at ``path``, whole where its steps are."""
    whole = float(step).is_integer()
    st.number_input(label, **_numeric(name, path, value, low, high, step, whole=whole))


def slider(
    label: str,
    name: str,
    path: str,
    value: float,
    *,
    low: float,
    high: float,
    step: float,
    stops: int = STOPS,
) -> None:
    """A slider for the number at ``path`` with logarithmic steps up to ``high``, and a field beside it, which takes any
    number. Whole where its steps and its value are.
    """
    whole = float(step).is_integer() and float(value).is_integer()
    kind: Callable[[float], Any] = int if whole else float
    chosen = tuple(map(kind, logarithmic(low, high, step, value, stops)))
    left, right = st.columns([5, 3], vertical_alignment="bottom")
    with left:
        st.select_slider(
            label,
            chosen,
            key=showing(f"{name}-slider", kind(value)),
            on_change=_ask,
            args=(f"{name}-slider", path),
            format_func=lambda one: f"{one:,.10g}",
            help=HELP.get(name),
        )
    with right:
        st.number_input(
            f"{label}, as a number",
            min_value=kind(min(low, value)),
            max_value=kind(MOST_NUMBER) if whole else float(MOST_NUMBER),
            step=kind(step),
            format="%d" if whole else "%.6g",
            key=showing(name, kind(value)),
            on_change=_ask,
            args=(name, path),
            label_visibility="collapsed",
        )


def logarithmic(low: float, high: float, step: float, value: float, stops: int = STOPS) -> tuple[float, ...]:
    """About ``stops`` multiples of ``step`` from ``low`` to ``high``, each so many times the one before, to two digits;
    ends and ``value`` are exactly among them.
    """
    first, last = max(low, step), max(high, value)
    found = {low, high, value}
    for number in range(stops):
        raw = first * (last / first) ** (number / (stops - 1))
        digits = 10.0 ** (math.floor(math.log10(raw)) - 1)
        found.add(round(round(round(raw / digits) * digits / step) * step, 10))
    return tuple(sorted(one for one in found if low <= one <= high or one == value))


def _numeric(
    name: str, path: str, value: float, low: float, high: float, step: float, *, whole: bool
) -> dict[str, Any]:
    """What both have in common; the range is widened to the scenario's value."""
    kind: Callable[[float], Any] = int if whole else float
    return {
        "min_value": kind(min(low, value)),
        "max_value": kind(max(high, value)),
        "step": kind(step),
        "key": showing(name, kind(value)),
        "on_change": _ask,
        "args": (name, path),
        "help": HELP.get(name),
    }


def _ask(name: str, path: str) -> None:
    value = value_of(name)
    if value is not None:
        session.change({path: f"{value:.12g}"})

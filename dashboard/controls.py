"""One control of the sidebar: it shows what the scenario says, and asks for another value when it is moved."""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from dashboard import session
from dashboard.words import HELP

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


def field(label: str, name: str, path: str, value: float, *, low: float, high: float, step: float) -> None:
    """A field for the number at ``path``, whole where its steps are."""
    whole = float(step).is_integer()
    st.number_input(label, **_numeric(name, path, value, low, high, step, whole=whole))


def slider(label: str, name: str, path: str, value: float, *, low: float, high: float, step: float) -> None:
    """A slider for the number at ``path``, whole where its value and its steps are."""
    whole = float(step).is_integer() and float(value).is_integer()
    st.slider(label, **_numeric(name, path, value, low, high, step, whole=whole))


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

"""A control for any key of a scenario, by its path: what no other control shows, and what a message names."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import streamlit as st

from dashboard import session
from dashboard.asked import SHOWN, Asked
from dashboard.controls import section
from dashboard.show import plain
from perfmodel.spec.keys import key_paths
from perfmodel.spec.scenario import Scenario

SECTIONS = SHOWN | {"seed", "calibration", "engine", "costs", "power", "training"}
"""Whose keys can be set; a model's and a cluster's are a file's matter."""
PICK = "any-key"


@cache
def settable() -> tuple[str, ...]:
    """Key paths that a value can be given."""
    every = key_paths()
    inner = {path.rpartition(".")[0] for path in every}
    return tuple(path for path in every if path.partition(".")[0] in SECTIONS and path not in inner)


def any_key(scenario: Scenario) -> None:
    """A list of all keys, and a field for the one that is chosen."""
    with section("Any other setting", "any", ":material/key:") as is_open:
        if not is_open:
            return
        path = st.selectbox(
            "Key",
            [path for path in settable() if not path.startswith("training.")],
            index=None,
            key=PICK,
            placeholder="type to search, e.g. max_running",
            filter_mode="contains",
            help="Every key of a scenario, as --set takes them; perfmodel show keys says what each means.",
        )
        if path is not None:
            key_field(scenario, path, "any")


def named_in(text: str) -> Iterator[str]:
    """Keys that a message names, each once."""
    known = settable()
    seen = set()
    for path in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", text):
        if path in known and path not in seen:
            seen.add(path)
            yield path


Change = Callable[[Mapping[str, str | None]], object]


def key_field(
    scenario: Scenario, path: str, where: str, asked: Asked | None = None, change: Change = session.change
) -> None:
    """A field with a key's value; what is entered is asked, as YAML, and nothing at all takes the change back.

    ``asked`` and ``change``: where it is not the sidebar's scenario.
    """
    now = (asked or session.asked()).value(path)
    shown = now if now is not None else _written(_value(scenario, path))
    key = f"{where}-{path}"
    if st.session_state.get(key) != shown:
        st.session_state[key] = shown

    def changed() -> None:
        text = st.session_state[key].strip()
        if text != shown:  # else nobody typed: the browser still sends a field that its message took along
            change({path: text or None})

    st.text_input(
        path,
        key=key,
        on_change=changed,
        help=plain(f"--set {path}=VALUE. Empty: as the scenario has it."),
    )


def _value(scenario: Scenario, path: str) -> Any:
    found: Any = scenario
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _written(value: Any) -> str:
    """As YAML would have it; what is no single value is left to be written."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f"{value:.12g}" if isinstance(value, float) else str(value) if isinstance(value, (int, str)) else ""
    )

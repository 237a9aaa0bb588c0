"""Results shared by all sessions, by what a scenario says and with a bound on how many are kept."""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import streamlit as st

from perfmodel.spec.scenario import Scenario

F = TypeVar("F", bound=Callable[..., Any])

MOST_KEPT = 64


def key_of(scenario: Scenario) -> str:
    """Everything that a scenario says; its ``hash`` leaves out names, which pages show."""
    return hashlib.sha256(scenario.model_dump_json().encode()).hexdigest()


def kept(most: int = MOST_KEPT) -> Callable[[F], F]:
    """A function of scenarios (and plain values) whose last ``most`` results are kept for all sessions.

    Results are handed out as they are, not copied: they must be frozen, and nobody may change what is in them.
    """

    def decorate(function: F) -> F:
        cached: Any = st.cache_resource(max_entries=most, show_spinner=False, hash_funcs={Scenario: key_of})(
            function
        )
        return cast(F, cached)

    return decorate

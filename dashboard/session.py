"""What a session has asked and how it may change: every change is tried first, and a bad one leaves all as it was."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import streamlit as st

from dashboard import plan_asked
from dashboard.asked import Asked, from_query, link_warning
from dashboard.plan_asked import PlanAsked
from dashboard.presets import OPENS
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.spec.scenario import Scenario

ASKED, BASELINE, MESSAGES, NOTES, PLAN, TRAINING, LINK, SAID = (
    "asked",
    "baseline",
    "messages",
    "notes",
    "plan",
    "training",
    "link",
    "said",
)
CHANGED = "changed"
"""Keys of the session's state."""
TRAINED = Asked("longcat-flash-train-h800")
"""What the Training page opens with."""
Query = dict[str, str | list[str]]
PAGE, HASH = "page", "hash"
"""Keys of a link by which nothing is asked: which page a bare address shows, and of which scenario."""


def start() -> None:
    """On a session's first run, and when the browser's Back or Forward has changed the address, take what is asked from
    the link (nothing: what a session opens with); a bad link leaves the default and says why.
    """
    query = {key: st.query_params.get_all(key) for key in st.query_params}
    said = _without_marks(query)
    if ASKED in st.session_state:
        if st.session_state.pop(CHANGED, False) or said == st.session_state.get(LINK, said):
            return  # a control was moved (the address may lag behind it), or nothing has changed
    else:
        st.session_state[MESSAGES], st.session_state[NOTES] = [], []
    st.session_state[ASKED] = OPENS
    st.session_state[BASELINE] = None
    st.session_state[PLAN] = PlanAsked()
    st.session_state[TRAINING] = TRAINED
    try:
        found = from_query(query)
        if found is not None:
            st.session_state[ASKED] = found
            warning = link_warning(found, query)
            if warning:
                note(warning)
        if query.get("plan"):
            st.session_state[PLAN] = plan_asked.from_text(query["plan"][-1])
        if query.get("train"):
            other = parse_qs(query["train"][-1], keep_blank_values=True)
            st.session_state[TRAINING] = _with_training(from_query(other))
        if query.get("vs"):
            other = parse_qs(query["vs"][-1], keep_blank_values=True)
            st.session_state[BASELINE] = baseline = from_query(other)
            if baseline is not None and link_warning(baseline, other):
                note(f"of what is compared with: {link_warning(baseline, other)}")
    except PerfModelError as error:
        complain(f"this link can't be read, so it was left out: {error}")
        st.session_state[SAID] = None
    else:
        st.session_state[SAID] = _all_asked()
    st.session_state[LINK] = said


def asked() -> Asked:
    """What the session asks now."""
    found: Asked = st.session_state[ASKED]
    return found


def scenario() -> Scenario:
    """The scenario of :func:`asked`; it has been tried."""
    return asked().scenario()


def ask(new: Asked) -> bool:
    """Ask something else; False, with a message on the page, where that is no scenario."""
    try:
        new.scenario()
    except PerfModelError as error:
        complain(str(error))
        return False
    st.session_state[ASKED] = new
    st.session_state[CHANGED] = True
    return True


def try_asking(make: Callable[[], Asked]) -> None:
    """Ask what ``make`` gives, where it gives a scenario."""
    try:
        new = make()
    except PerfModelError as error:
        complain(str(error))
    else:
        ask(new)


def plan() -> PlanAsked:
    """What the planner's page asks."""
    found: PlanAsked = st.session_state[PLAN]
    return found


def ask_plan(change: Callable[[PlanAsked], PlanAsked]) -> None:
    """Ask the planner's page something else; a bad value leaves it as it was, with a message."""
    try:
        st.session_state[PLAN] = plan_asked.checked(change(plan()))
        st.session_state[CHANGED] = True
    except PerfModelError as error:
        complain(str(error))


def training() -> Asked:
    """What the Training page asks: a scenario of its own, with a training section."""
    found: Asked = st.session_state[TRAINING]
    return found


def ask_training(change: Callable[[Asked], Asked]) -> None:
    """Ask the Training page something else; what is no scenario leaves it as it was, with a message."""
    try:
        st.session_state[TRAINING] = _with_training(change(training()))
        st.session_state[CHANGED] = True
    except PerfModelError as error:
        complain(str(error))


def _with_training(asked: Asked | None) -> Asked:
    """What is asked, if there is training in it.

    Raises:
        SpecError: there is none.
        PerfModelError: it is no scenario.
    """
    if asked is None or asked.scenario().training is None:
        raise SpecError("the Training page needs a scenario with a training section, e.g. " + TRAINED.name)
    return asked


def compare_with(other: Asked | None) -> None:
    """What Compare compares with; None: what it proposes."""
    st.session_state[BASELINE] = other
    st.session_state[CHANGED] = True


def start_again(new: Asked) -> None:
    """Ask something else, as a button's callback."""
    ask(new)


def change(changes: Mapping[str, str | None]) -> bool:
    """Change some overrides; False, with a message on the page, where that is no scenario."""
    return ask(asked().changed(changes))


def apply(changes: Mapping[str, str | None]) -> None:
    """Change some overrides, as a button's callback."""
    change(changes)


def complain(text: str) -> None:
    """An error for the top of the page, shown once."""
    st.session_state[MESSAGES].append(text)


def note(text: str) -> None:
    """A remark for the top of the page, shown once."""
    st.session_state[NOTES].append(text)


def said() -> tuple[list[str], list[str]]:
    """Errors and remarks that have not been shown yet."""
    found = st.session_state[MESSAGES], st.session_state[NOTES]
    st.session_state[MESSAGES], st.session_state[NOTES] = [], []
    return found


def link() -> Query:
    """All that is asked as the query of an address; nothing where it is what a session opens with."""
    from urllib.parse import urlencode

    baseline: Asked | None = st.session_state[BASELINE]
    query: Query = {} if asked() == OPENS and baseline is None else asked().query()
    if baseline is not None:
        query["vs"] = urlencode(baseline.query(), doseq=True)
    if plan().text():
        query["plan"] = plan().text()
    if training() != TRAINED:
        query["train"] = urlencode(training().query(), doseq=True)
    return query


def write_link(query: Query) -> None:
    """Put what is asked into the page's address, a step for Back, where the address does not ask it already."""
    now = _all_asked()
    if now != st.session_state.get(SAID):
        st.query_params.from_dict(query)
        wanted = {key: [value] if isinstance(value, str) else list(value) for key, value in query.items()}
        st.session_state[LINK], st.session_state[SAID] = _without_marks(wanted), now


def _all_asked() -> tuple[Any, ...]:
    return tuple(st.session_state[key] for key in (ASKED, BASELINE, PLAN, TRAINING))


def _without_marks(query: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """What a link asks."""
    return {key: value for key, value in query.items() if key not in (PAGE, HASH)}


def change_with(
    function: Callable[..., tuple[Mapping[str, str | None], str]], *args: Any, **kwargs: Any
) -> None:
    """Change what ``function`` says follows from its arguments, and say what else it changed."""
    try:
        changes, said_of_it = function(asked(), *args, **kwargs)
    except PerfModelError as error:
        complain(str(error))
        return
    if change(changes) and said_of_it:
        note(said_of_it)

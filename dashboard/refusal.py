"""What a page shows where a scenario has no answer, with a way out."""

from dataclasses import replace

import streamlit as st

from dashboard import session
from dashboard.adapt import usual_layout
from dashboard.any_key import key_field, named_in
from dashboard.names import model_title
from dashboard.results import Failed
from dashboard.show import plain
from perfmodel.errors import PerfModelError
from perfmodel.ops.limits import batch_key, batch_of, limits
from perfmodel.output.formats import count
from perfmodel.spec.scenario import Scenario


def refuse(scenario: Scenario, found: Failed, name: str = "") -> None:
    """The reason, and a button for the largest batch that fits if it is the batch that does not; else one that leaves
    the sidebar's changes out, where there are any; and a field for every key that the reason names. ``name`` says whose
    reason it is, where the page shows several.
    """
    st.error(plain(f"{name}: {found.text}" if name else found.text), icon=":material/block:")
    most = fits(scenario)
    if 0 < most < batch_of(scenario):
        st.button(
            f"Use the largest batch that fits: {count(most)} per GPU",
            key="refusal-batch",
            icon=":material/compress:",
            on_click=session.apply,
            args=({batch_key(scenario): f"{most:.12g}"},),
        )
    elif session.asked().sets:
        st.button(
            "Leave the sidebar's changes out",
            key="refusal-unchanged",
            icon=":material/undo:",
            on_click=session.start_again,
            args=(replace(session.asked(), sets=()),),
        )
    if session.asked().value("model") is not None:
        usual_layout_button(scenario, "refusal")
    for path in named_in(found.text):
        key_field(scenario, path, f"refusal{name}")


def usual_layout_button(scenario: Scenario, where: str) -> None:
    """A way to another model's own layout, after that of the one before was kept."""
    st.button(
        f"Use {model_title(scenario.model.name)}'s usual layout",
        key=f"{where}-usual",
        icon=":material/grid_view:",
        type="secondary" if where == "refusal" else "tertiary",
        on_click=session.change_with,
        args=(usual_layout,),
        help="As perfmodel init lays it out on as many GPUs: the smallest replica that fits, in the model's own "
        "number formats, with a batch that fits.",
    )


def fits(scenario: Scenario) -> float:
    """The largest batch that fits; 0: none does, or nothing says."""
    try:
        return limits(scenario).fits
    except PerfModelError:
        return 0

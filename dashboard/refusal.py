"""What a page shows where a scenario has no answer, with the way out where there is one."""

import streamlit as st

from dashboard import session
from dashboard.results import Failed
from dashboard.show import plain
from perfmodel.errors import PerfModelError
from perfmodel.ops.limits import batch_key, batch_of, limits
from perfmodel.output.formats import count
from perfmodel.spec.scenario import Scenario


def refuse(scenario: Scenario, found: Failed) -> None:
    """The reason, and a button for the largest batch that fits if it is the batch that does not."""
    st.error(plain(found.text), icon=":material/block:")
    try:
        most = limits(scenario).fits
    except PerfModelError:
        return
    if 0 < most < batch_of(scenario):
        st.button(
            f"Use the largest batch that fits: {count(most)} per GPU",
            key="refusal-batch",
            icon=":material/compress:",
            on_click=session.apply,
            args=({batch_key(scenario): f"{most:.12g}"},),
        )

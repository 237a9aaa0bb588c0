"""A deployment of the planner's page that was clicked: what it is, and the way to the other pages with it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from dashboard import session
from dashboard.asked import Asked
from dashboard.menu import go_to
from dashboard.names import cluster_title, model_title
from dashboard.plan_lines import Line, layout_of, month_of, rank
from dashboard.plan_runs import Planned
from dashboard.show import plain
from perfmodel.errors import PerfModelError
from perfmodel.explore.plan.offers import Carried, Offer, scenario_document
from perfmodel.explore.plan.question import Question
from perfmodel.output.formats import duration, significant
from perfmodel.output.plan.files import scenario_text
from perfmodel.output.report.figure import dollars
from perfmodel.report.money import HOURS_PER_MONTH


def selected_card(lines: Sequence[Line], picked: str | None) -> None:
    """What was clicked, else the cheapest."""
    known = [line for line in lines if line.best is not None]
    if not known:
        return
    line, offer, question = _found(known, picked) or _first(known)
    simulated = offer is None
    best = offer or line.best
    assert best is not None
    planned = line.box.planned
    winner = line.winner
    gpus = int(winner["num_gpus"]) if simulated and winner else best.gpus
    month = month_of(line) if simulated and winner else best.usd_per_hour * HOURS_PER_MONTH
    layout = str(winner["layout"]) if simulated and winner else layout_of(best)
    tpot = float(winner["tpot_at_s"]) if simulated and winner else best.tpot_at_s
    ttft = float(winner["ttft_at_s"]) if simulated and winner else best.ttft_at_s
    title = f"{model_title(line.model)} on {gpus} x {cluster_title(line.cluster)}"
    with st.container(border=True):
        how = "simulated" if simulated and winner else "by the screen's approximation"
        st.markdown(
            f"**{plain(title)}**: {plain(dollars(month))} a month, {significant(1.0 / tpot)} tokens/s per user, first "
            f"token within {plain(duration(ttft))}, {how}"
        )
        st.caption(plain(layout))
        if st.button(
            "Take it: open in What-if",
            key="plan-take",
            type="primary",
            icon=":material/arrow_forward:",
            help="The other pages then show this deployment under this traffic; the sidebar changes it.",
        ):
            document = planned.document if simulated and winner and isinstance(planned, Planned) else None
            _take(title, document, question, best)


def _first(known: Sequence[Line]) -> tuple[Line, Offer | None, Question]:
    best = min(known, key=rank)
    assert best.box.question is not None
    return best, None, best.box.question


def _found(known: Sequence[Line], picked: str | None) -> tuple[Line, Offer | None, Question] | None:
    """The line, the screened point (None: the line's answer), and the question that it answers."""
    model, _, rest = (picked or "").partition("|")
    cluster, _, place = rest.partition("|")
    for line in known:
        question = line.box.question
        if (line.model, line.cluster) == (model, cluster) and question is not None:
            if not place.isdigit() or int(place) >= len(line.offers):
                return line, None, question
            offer, found = line.offers[int(place)], line.box.screened
            if isinstance(found, Carried) and line.question is not None:
                times = found.front[int(place)][0]
                question = replace(question, traffic=line.question.traffic.times(times))
            return line, offer, question
    return None


def _take(title: str, document: Mapping[str, Any] | None, question: Question, offer: Offer) -> None:
    """Ask for it, and go to What-if."""
    try:
        found = dict(document) if document is not None else scenario_document(question, offer)
        text = scenario_text(
            {"title": f"Planned: {title}"} | {k: v for k, v in found.items() if k != "title"}
        )
        taken = session.ask(Asked(name="planned", text=text))
    except PerfModelError as error:
        session.complain(str(error))
        taken = False
    if taken:
        session.note(f"Taken from the plan: {title}. Its traffic is on the Traffic page.")
        go_to("what_if")
    st.rerun()

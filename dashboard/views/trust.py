"""Trust: how far the scenario's figures can be believed, and how far off predictions of published figures were."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import results
from dashboard.looks import tiles
from dashboard.recorded import number_column, show_summary, summary_table, validation
from dashboard.refusal import refuse
from dashboard.results import Answered, Failed
from dashboard.show import caveats, downloads, headline, plain
from dashboard.trusted import (
    Basis,
    Nearest,
    days,
    kernel_row,
    nearest_of,
    pct,
    sentences,
    tested,
)
from dashboard.words import TRUST
from perfmodel.kernels.calibration import Calibration
from perfmodel.output.formats import percent
from perfmodel.output.validation.page import quantity_name
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import Scenario
from perfmodel.validation.evidence import Evidence, closest
from perfmodel.validation.recorded import Recorded, recorded_results


def render(scenario: Scenario) -> None:
    """The page."""
    found, record = results.answer(scenario), recorded_results()
    if isinstance(found, Failed):
        headline("This scenario has no answer.")
        refuse(scenario, found)
        st.caption("So there is no figure to trust. Below: how far off others were.")
    else:
        _scenario(scenario, found, record)
    validation(record)


def _scenario(scenario: Scenario, found: Answered, record: Recorded) -> None:
    """What supports this scenario's figures."""
    basis, evidence = results.basis(scenario), closest(scenario, record)
    assert isinstance(basis, Basis)  # an answered scenario has one
    nearest = nearest_of(scenario, evidence)
    timed = found.values["basis"]["fractions"]["timed"]
    headline(_answer(nearest))
    _at_a_glance(basis, nearest, timed, scenario.cluster.gpu.kind)
    told = sentences(scenario, found, basis, nearest, record)
    st.markdown("\n".join(f"- **{topic}:** {plain(text)}" for topic, text in told.items()))
    caveats(found.values)
    if nearest is not None:
        _evidence(evidence)
    if basis.calibration is not None:
        _kernels(basis, basis.calibration)


def _answer(nearest: Nearest | None) -> str:
    """The headline."""
    if nearest is None:
        return "No published measurement is like this scenario."
    line = nearest.line
    return (
        f"On the published measurements most like this scenario, half of the predictions of "
        f"{quantity_name(line['quantity'])} were off by less than {pct(line['median_abs_pct'])}."
    )


def _at_a_glance(basis: Basis, nearest: Nearest | None, timed: float, device: str) -> None:
    """The sentences' numbers; ``device``: GPU or CPU."""
    with tiles("trust"):
        if nearest is not None:
            line = nearest.line
            st.metric(
                "Nearest measurements",
                pct(line["median_abs_pct"]),
                f"{number_of(line['answered'], 'figure')} of {quantity_name(line['quantity'])}",
                delta_color="off",
                delta_arrow="off",
                help=TRUST["nearest"],
            )
        if basis.calibration is None:
            return
        if len(basis.kernels):
            error = float(basis.kernels["median error"].median())
            st.metric("Kernels", pct(error), "on shapes left out", delta_color="off", delta_arrow="off",
                      help=TRUST["kernels"])  # fmt: skip
        st.metric(f"Timed on this {device}", percent(timed), help=TRUST["timed_share"])
        st.metric("Calibration's age", days(basis.calibration.created), help=TRUST["age"])


def _evidence(evidence: Sequence[Evidence]) -> None:
    with st.expander("Published measurements most like this scenario"):
        lines = [{"alike": one.words, **line} for one in evidence for line in one.summary]
        table = summary_table(lines, first=("alike",))
        show_summary(table)


def _kernels(basis: Basis, calibration: Calibration) -> None:
    """The calibration's own error table, and its check against steps where there is one."""
    with st.expander(f"Calibration {plain(calibration.name)}: how far off each kernel is"):
        every = st.toggle("All its kernels, not only this step's", key="trust-every-kernel")
        rows = pd.DataFrame(map(kernel_row, calibration.all_curves)) if every else basis.kernels
        columns = {
            "timed shapes": st.column_config.NumberColumn(format="localized", help=TRUST["timed"]),
            "median error": number_column("median error", TRUST["left_out"]),
            "90th percentile": number_column("90th percentile", TRUST["p90"]),
            "ops": st.column_config.TextColumn(help=TRUST["ops"]),
        }
        st.dataframe(rows, hide_index=True, width="stretch", column_config=columns)
        downloads(rows, "kernels")
        _harder(calibration)


def _harder(calibration: Calibration) -> None:
    """Harder tests than random shapes: whole slices left out, and steps timed anew on the device."""
    values = tested(calibration)
    if values is None:
        return
    if "slices_left_out" in values:
        above = values["slices_above_their_aim"]
        st.caption(
            "Whole slices (a range of batches, a family of widths) were left out of fits too: "
            f"{values['slices_left_out']} of them, and {len(above)} missed their aim{':' if above else '.'}"
        )
        if above:
            st.text("\n".join(above))
    check = values["check"]
    if check:
        st.caption(
            plain(f"Timed anew on {str(check['date'])[:10]} (calibrate check), kernels and whole steps:")
        )
        lines = [{"what": kind, **line} for kind, line in check.items() if isinstance(line, Mapping)]
        columns: dict[str, Any] = {
            "median_abs_pct": number_column("median error", TRUST["median"]),
            "p90_abs_pct": number_column("90th percentile", TRUST["p90"]),
            "repeat_median_pct": number_column("repeats differ", TRUST["repeat"]),
            "coverage_pct": number_column("inside 80 %", TRUST["coverage"], digits=0),
        }
        st.dataframe(pd.DataFrame(lines), hide_index=True, width="stretch", column_config=columns)

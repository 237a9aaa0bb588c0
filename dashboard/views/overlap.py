"""Overlap: one layer under each schedule over one time axis, what stays exposed, and how busy the streams are."""

import pandas as pd
import streamlit as st

from dashboard import results
from dashboard.pool import begin
from dashboard.refusal import refuse
from dashboard.results import Failed, Layer
from dashboard.show import caveats, chart, downloads, headline, plain, under
from dashboard.words import HELP
from perfmodel.output.charts.usage import busy_chart
from perfmodel.output.formats import duration, significant
from perfmodel.output.step.page import SCHEDULES
from perfmodel.output.step.schedules import busy_rows, schedule_rows, stacked_timeline
from perfmodel.output.step.windows import marks_text
from perfmodel.overlap.schedules import STAGES
from perfmodel.spec.scenario import Scenario
from perfmodel.units import MS, US


def render(scenario: Scenario) -> None:
    """The page."""
    options = _schedules(scenario)
    first = [name for name in ("sequential", "tbo", "sbo") if name in options] or options
    picked = st.segmented_control(
        "Schedules",
        options,
        selection_mode="multi",
        default=list(dict.fromkeys((*first, *([scenario.deployment.overlap] if not first else [])))),
        key=f"overlap-schedules-{'-'.join(options)}",
        help=HELP["overlap"],
    )
    layers: dict[str, Layer] = {}
    failed: dict[str, Failed] = {}
    names = [name for name in options if name in picked] or [scenario.deployment.overlap]
    for name in names:
        begin(results.layer, _under(scenario, name))
    for name in names:
        found = results.layer(_under(scenario, name))
        if isinstance(found, Failed):
            failed[name] = found
        else:
            layers[name] = found
    answers = {name: one.answer for name, one in layers.items()}
    for name, why in failed.items():
        if name == scenario.deployment.overlap:
            refuse(scenario, why, name)
        else:
            st.error(plain(f"{name}: {why.text}"), icon=":material/block:")
    if not answers:
        return
    rows = schedule_rows(answers)
    headline(_sentence(rows) + under(scenario) + ".")
    windows = {name: one.window for name, one in layers.items()}
    st.subheader(
        "One layer",
        help="From the middle of the model, the same work under each schedule, from time 0. Ops are bars on the stream "
        "that runs them. A line in red below communication marks where nothing computes meanwhile: exposed. "
        "Under tbo two layers are shown as the first micro-batch sees them.",
    )
    chart(stacked_timeline(windows), "timeline", zooms=True)
    for name, window in windows.items():
        two = "Two layers as the first micro-batch sees them." if len(window.shown) > 1 else ""
        text = " ".join(filter(None, (two, marks_text(window))))
        if text:
            st.caption(plain(f"{name}: {text}"))
    if "sbo" in answers:
        st.caption("; ".join(STAGES.values()) + " (LongCat-Flash technical report, figure 9).")
    st.subheader(
        "How busy each stream is", help="Share of the layer's time in which the stream runs something."
    )
    chart(busy_chart(busy_rows(windows)), "busy")
    st.subheader("The whole step, by schedule")
    st.dataframe(_table(rows), hide_index=True, width="stretch", column_config=_COLUMNS)
    downloads(rows, "schedules")
    chosen = answers.get(scenario.deployment.overlap)
    if chosen is not None:
        caveats(chosen.values)


def _schedules(scenario: Scenario) -> list[str]:
    """Schedules that the model can run under."""
    if scenario.costs == "report" or scenario.deployment.ffn_gpus:
        return [scenario.deployment.overlap]
    if scenario.model.moe is None:
        return ["sequential"]
    return (
        ["sequential", "tbo", "sbo", "sbo-engine"] if scenario.model.has_shortcut else ["sequential", "tbo"]
    )


def _under(scenario: Scenario, overlap: str) -> Scenario:
    deployment = scenario.deployment.model_copy(update={"overlap": overlap})
    return scenario.model_copy(update={"deployment": deployment})


def _sentence(rows: pd.DataFrame) -> str:
    """Which schedule is fastest, and against what."""
    best, worst = rows.loc[rows.step_time_s.idxmin()], rows.loc[rows.step_time_s.idxmax()]
    if len(rows) == 1:
        return f"A step takes {duration(best.step_time_s)} under {SCHEDULES[best.overlap]}"
    gain = worst.step_time_s / best.step_time_s
    return (
        f"A step takes {duration(best.step_time_s)} under {SCHEDULES[best.overlap]} and "
        f"{duration(worst.step_time_s)} under {worst.overlap}: {significant(gain)} times as fast"
    )


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """In the units of the columns below."""
    return rows.assign(
        step_time_s=rows.step_time_s / MS,
        layer_time_s=rows.layer_time_s / US,
        exposed_communication_s=rows.exposed_communication_s / MS,
    )


_COLUMNS = {
    "overlap": st.column_config.TextColumn("Schedule", help=HELP["overlap"]),
    "step_time_s": st.column_config.NumberColumn("Step, ms", format="%.2f", help=HELP["step_time_s"]),
    "layer_time_s": st.column_config.NumberColumn(
        "Per layer, µs", format="%.0f", help="Time on the critical path inside the layers, over their number."
    ),
    "exposed_communication_s": st.column_config.NumberColumn(
        "Exposed, ms", format="%.2f", help=HELP["exposed_communication_s"]
    ),
    "overlap_pct": st.column_config.NumberColumn("Hidden, %", format="%.1f", help=HELP["overlap_pct"]),
    "tokens_per_s_per_user": st.column_config.NumberColumn(
        "Tokens/s per user", format="%.1f", help=HELP["tokens_per_s_per_user"]
    ),
    "input_tokens_per_s_per_gpu": st.column_config.NumberColumn(
        "Input tokens/s per GPU", format="%.0f", help=HELP["input_tokens_per_s_per_gpu"]
    ),
    "usd_per_million_output_tokens": st.column_config.NumberColumn(
        "$ per M output", format="%.3f", help=HELP["usd_per_million_output_tokens"]
    ),
    "usd_per_million_input_tokens": st.column_config.NumberColumn(
        "$ per M input", format="%.3f", help=HELP["usd_per_million_input_tokens"]
    ),
}

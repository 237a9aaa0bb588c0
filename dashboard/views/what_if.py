"""What-if: one step of the scenario, the trade-off over the batch, where time goes and what fills memory."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import streamlit as st

from dashboard import results, session
from dashboard.asked import Asked, yaml_of
from dashboard.looks import tiles
from dashboard.refusal import fits, refuse
from dashboard.results import Failed
from dashboard.show import caveats, chart, downloads, headline, plain, under
from dashboard.traffic_runs import at_most
from dashboard.words import HELP, NAMES
from perfmodel.ops.limits import batch_of
from perfmodel.ops.memory import usable_bytes
from perfmodel.output.charts.curve import trade_off_chart
from perfmodel.output.charts.shares import breakdown_chart, memory_chart
from perfmodel.output.formats import count, duration, percent, significant, usd
from perfmodel.output.step.page import question
from perfmodel.spec.scenario import Scenario
from perfmodel.units import GB, MS, PERCENT

HEADLINES: tuple[tuple[str, Any], ...] = (
    ("tokens_per_s_per_user", significant),
    ("output_tokens_per_s_per_gpu", significant),
    ("input_tokens_per_s_per_gpu", significant),
    ("usd_per_million_output_tokens", usd),
    ("usd_per_million_input_tokens", usd),
    ("tpot_s", duration),
    ("ttft_s", duration),
    ("step_time_s", duration),
)
FACTS: tuple[tuple[str, Any], ...] = (
    ("exposed_communication_s", duration),
    ("overlap_pct", lambda value: percent(value / PERCENT)),
    ("mfu", percent),
    ("mbu", percent),
    ("max_batch_per_gpu", count),
)


def render(scenario: Scenario) -> None:
    """The page."""
    results.start(scenario)
    found = results.answer(scenario)
    if isinstance(found, Failed):
        st.markdown(plain(question(scenario)))
        refuse(scenario, found)
        if 0.0 < fits(scenario) < batch_of(scenario):
            _trade_off(scenario)  # of the batches that do fit
        return
    headline(_answer(scenario, found.values))
    st.markdown(plain(question(scenario)))
    _figures(scenario, found.values, HEADLINES)
    curve = st.container()  # filled last: what is there already is shown meanwhile
    left, right = st.columns(2)
    with left:
        st.subheader(
            "Where the time goes", help="Every moment of the step is given to the op that the step waits for."
        )
        chart(breakdown_chart(found.values["breakdown_s"], unit="ms", scale=MS), "breakdown")
    with right:
        st.subheader("What fills a GPU's memory", help="Per GPU; 1 GB = 1e9 bytes.")
        chart(
            memory_chart(
                found.values["memory_bytes"],
                usable=float(usable_bytes(scenario)),
                device=float(scenario.cluster.gpu.memory_bytes),
                unit="GB",
                scale=GB,
            ),
            "memory",
        )
    _figures(scenario, found.values, FACTS)
    caveats(found.values)
    with curve:
        _trade_off(scenario)
    _take_away(scenario)


def _answer(scenario: Scenario, values: Mapping[str, Any]) -> str:
    """The headline."""
    if values["tokens_per_s_per_user"] is not None:
        speed = f"{significant(values['tokens_per_s_per_user'])} tokens/s per user"
    else:
        speed = f"The first token after {duration(values['ttft_s'])} without a queue"
    output, prompts = (values[f"usd_per_million_{kind}_tokens"] for kind in ("output", "input"))
    money = f"{usd(output)} per million output tokens" if output is not None else ""
    money = money or f"{usd(prompts)} per million prompt tokens"
    return f"{speed}, {money}{under(scenario)}."


def _figures(scenario: Scenario, values: Mapping[str, Any], wanted: tuple[tuple[str, Any], ...]) -> None:
    """Figures with their intervals; those that the phase does not have are left out."""
    with tiles(f"step-{wanted[0][0]}"):
        for key, text in wanted:
            if values[key] is None:
                continue
            bounds = values.get("intervals", {}).get(key)
            below = f"{text(bounds[0])} to {text(bounds[1])}" if bounds else None
            if key == "max_batch_per_gpu":
                below = f"limit: {values['max_batch_bound_by']}"
            st.metric(
                NAMES[key],
                text(values[key]),
                below,
                delta_color="off",
                delta_arrow="off",
                help=HELP[key] + (f" Below: {HELP['interval']}" if bounds else ""),
            )


@st.fragment
def _trade_off(scenario: Scenario) -> None:
    """The curve, by throughput or by cost; the switch redraws nothing else."""
    prefill = scenario.deployment.phase == "prefill"
    x = "ttft_s" if prefill else "tokens_per_s_per_user"
    kind = "input" if prefill else "output"
    by = {"throughput": f"{kind}_tokens_per_s_per_gpu", "cost": f"usd_per_million_{kind}_tokens"}
    title, switch = st.columns([2, 1], vertical_alignment="bottom")
    with title:
        st.subheader(
            "What each user gets, what each GPU gives",
            help="One point per batch size, up to what fits. Band: " + HELP["interval"],
        )
    with switch:
        picked = st.segmented_control(
            "Against",
            list(by),
            default="throughput",
            required=True,
            key="what-if-by",
            label_visibility="collapsed",
        )
    rows = results.curve(scenario)
    chart(
        trade_off_chart(
            rows,
            x=x,
            y=by[picked or "throughput"],
            here=batch_of(scenario),
            published=results.published(scenario),
        ),
        "trade-off",
        zooms=True,
    )
    if len(results.published(scenario)):
        st.caption(
            "Diamonds are measured and published (LongCat-Flash technical report, arXiv 2509.01322, Table 6) at "
            "contexts and formats of their own; hover to see which."
        )


def _take_away(scenario: Scenario) -> None:
    """Everything to take along."""
    st.subheader("Take it along")
    asked = session.asked()
    st.code(asked.command(), language="bash", wrap_lines=True)
    if asked.text:
        st.caption("The command needs the scenario's file: download it here.")
    downloads(results.curve(scenario), "trade-off")
    with st.container(horizontal=True):
        st.download_button(
            "Scenario (YAML)",
            partial(yaml_of, asked),
            "scenario.yaml",
            "application/yaml",
            on_click="ignore",
            key="download-scenario",
        )
        st.download_button(
            "Trace for Perfetto",
            lambda: results.trace(scenario),
            "step.json.gz",
            "application/gzip",
            on_click="ignore",
            key="download-trace",
        )
        st.download_button(
            "Timeline (HTML)",
            lambda: results.html(scenario),
            "step.html",
            "text/html",
            on_click="ignore",
            key="download-html",
        )
        st.download_button(
            "Cost report (HTML)",
            lambda: _report(asked),
            "report.html",
            "text/html",
            on_click="ignore",
            key="download-report",
            help="To hand on: the answer in a sentence, assumptions, traffic, sensitivity. Takes some seconds.",
        )


def _report(asked: Asked) -> str:
    """The cost report, of no more requests than the Traffic page serves: nobody can stop a download."""
    asked = at_most(asked)
    return results.report([asked.scenario()], asked.command("report", "--out report.html"))

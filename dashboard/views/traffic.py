"""Traffic: the scenario's requests through its replicas, latencies and cost, and goodput against rate."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import results, session
from dashboard.asked import Asked, yaml_of
from dashboard.cache import key_of
from dashboard.looks import tiles
from dashboard.pool import Progress
from dashboard.refusal import refuse
from dashboard.results import Failed
from dashboard.show import caveats, chart, downloads, headline, plain, under
from dashboard.traffic_controls import controls
from dashboard.traffic_runs import Box, Run, add_points, box_of, fill, served_by_page, written
from dashboard.words import TRAFFIC
from perfmodel.economics.bridge import bridge
from perfmodel.explore.goodput import POINTS, largest_good
from perfmodel.explore.speeds import drawn_rate, fixed_rate
from perfmodel.output.charts.money import waterfall_chart
from perfmodel.output.charts.traffic import goodput_chart, latency_chart, load_chart
from perfmodel.output.formats import count, duration, percent, significant, usd
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.slo import Slo
from perfmodel.units import MS, PERCENT

STOPPED, CURVE, LAST = "traffic-stopped", "traffic-curve", "traffic-last"
"""Keys of the session's state: settings whose run was stopped, those whose curve is wanted, the run shown last."""


def render(scenario: Scenario) -> None:
    """The page."""
    controls(scenario)
    found = _run(served_by_page(session.asked()))
    if isinstance(found, Failed):
        refuse(scenario, found)
        return
    if found is None:
        return
    st.session_state[LAST] = found
    headline(_answer(found))
    _sentence(found)
    _figures(found)
    _bridge(found)
    left, right = st.columns(2)
    with left:
        st.subheader("How long requests take", help=TRAFFIC["latency"])
        chart(latency_chart(found.latency, _slo_s(found)), "latency", zooms=True)
    with right:
        st.subheader("Queue and batch over time", help=TRAFFIC["load"])
        chart(load_chart(found.load), "load", zooms=True)
    curve = st.container()  # simulated last, so that everything else is there meanwhile
    caveats(found.answer.values)
    _take_away(found)
    with curve:
        _goodput(found)


# --- the run ---------------------------------------------------------------------------------------------------------


def _run(asked: Asked) -> Run | Failed | None:
    """The run of the settings, simulated now if need be; after a stop the last one, with a note."""
    box, key = box_of(asked.scenario()), key_of(asked.scenario())
    place = st.empty()
    if isinstance(box.run, Run):
        return replace(box.run, asked=asked)  # its command and file, not those of whoever ran it
    if box.run is not None:
        return box.run
    if st.session_state.get(STOPPED) == key:
        last: Run | None = st.session_state.get(LAST)
        with place.container():
            _stopped_note(last, asked)
        return last
    with place.container():
        found = fill(box, asked, _watched("traffic-stop", _stop_run, key, "Setting up step times"))
    place.empty()
    return found


def _watched(button: str, stop: Callable[..., None], argument: str, first: str) -> Progress:
    """A Stop button and a bar; the function that moves the bar, at which Streamlit can stop the script."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Stop", key=button, on_click=stop, args=(argument,), icon=":material/stop_circle:")
        bar = st.progress(0.0, first)

    def progress(done: int, total: int) -> None:
        bar.progress(done / total, f"{done:,} of {total:,} requests served")

    return progress


def _stop_run(key: str) -> None:
    st.session_state[STOPPED] = key


def _run_again() -> None:
    st.session_state[STOPPED] = None


def _stopped_note(last: Run | None, asked: Asked) -> None:
    """What is shown after a stop, and how to go on."""
    text = "Stopped before the run had ended."
    if last is None:
        text += " Nothing has been served yet: run it, or ask for fewer requests."
    elif last.asked != asked:
        text += " What follows belongs to earlier settings, those of the command at the end of the page."
    st.info(plain(text), icon=":material/pause_circle:")
    st.button("Run", key="traffic-run", on_click=_run_again, icon=":material/play_arrow:")


# --- what it says ----------------------------------------------------------------------------------------------------


def _slo_s(run: Run) -> dict[str, float]:
    """Objectives that are stated, seconds."""
    slo = run.answer.scenario.slo
    stated = {"TTFT": slo.ttft_ms, "TPOT": slo.tpot_ms, "E2E": slo.e2e_ms}
    return {name: limit * MS for name, limit in stated.items() if limit is not None}


def _sentence(run: Run) -> None:
    """Who was served by what."""
    answer, values = run.answer, run.answer.values
    scenario, requests = answer.scenario, answer.served.requests
    workload = scenario.workload
    what = number_of(requests.num_requests, "request") + (f" of {workload.trace}" if workload.trace else "")
    arrive = (
        "" if fixed_rate(answer.served) else f", {significant(drawn_rate(requests))} arriving per second,"
    )
    if requests.max_concurrency is not None:
        arrive = f", at most {requests.max_concurrency:,} in flight,"
    by = (
        f"{number_of(scenario.serving.replicas, 'replica')} of {scenario.deployment.num_gpus} {values['gpu']}"
    )
    if values["prefill"] is not None:
        apart = values["prefill"]
        by += f" for decode and {apart['replicas']} of {apart['num_gpus'] // apart['replicas']} for prefill"
    left = f", {values['left_out_requests']:,} left out" if values["left_out_requests"] else ""
    st.markdown(
        plain(
            f"{what}{arrive} served by {by} in {duration(values['duration_s'])} "
            f"(policy {values['policy']}, seed {scenario.seed}{left})."
        )
    )
    if workload.trace and workload.num_requests and requests.num_requests < workload.num_requests:
        st.caption(plain(f"{workload.trace} has no more than {number_of(requests.num_requests, 'request')}."))


def _answer(run: Run) -> str:
    """The headline."""
    values = run.answer.values
    text = (
        f"{usd(values['usd_per_million_output_tokens'])} per million output tokens and a first token within "
        f"{duration(values['ttft_s']['p99'])} for 99 of 100 requests"
    )
    used = values["capacity_used_pct"]
    carried = "" if used is None else f"; the GPUs do {percent(used / PERCENT)} of what they could"
    return f"{text}{under(run.answer.scenario)}{carried}."


def _bridge(run: Run) -> None:
    """From the price at full batches to this traffic's."""
    scenario = run.answer.scenario
    step = results.answer(scenario)
    full = None if isinstance(step, Failed) else step.values["output_tokens_per_s_per_gpu"]
    found = bridge(run.answer.values, full or 0.0, scenario)
    if found is None:
        return
    st.subheader("From full batches to this traffic", help=plain(TRAFFIC["bridge"]))
    chart(
        waterfall_chart(
            pd.DataFrame(found.rows),
            start=found.full,
            end=found.served,
            start_label="at full batches",
            end_label="this traffic",
            title="USD per million output tokens",
        ),
        "bridge",
    )


def _figures(run: Run) -> None:
    """Latencies, rates and money."""
    values = run.answer.values
    stated = run.answer.scenario.slo != Slo()
    used = values["capacity_used_pct"]
    fill = [] if used is None else [("Load", percent(used / PERCENT), "fill", "of capacity")]
    figures: list[tuple[str, str, str, str | None]] = []
    for name, key in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("E2E", "e2e_s")):
        found = values[key]
        figures += [
            (f"{name} {part}", duration(found and found[part]), key.removesuffix("_s"), None)
            for part in ("p50", "p99")
        ]
    figures += [
        ("Queue p99", duration(values["queue_s"]["p99"]), "queue", None),
        ("Requests/s", significant(values["requests_per_s"]), "per_s", None),
        *(_goodput_tile(values) if stated else ()),
        (
            "Tokens/s per GPU",
            significant(values["output_tokens_per_s_per_gpu"]),
            "output_per_gpu",
            None,
        ),
        ("$ per M output tokens", usd(values["usd_per_million_output_tokens"]), "usd_output", None),
        ("$ per M tokens in all", usd(values["usd_per_million_total_tokens"]), "usd_total", None),
        ("GPUs", count(values["num_gpus"]), "gpus", None),
        *fill,
        ("Time with a step running", percent(values["busy_pct"] / PERCENT), "busy", "however full it is"),
        ("Preemptions", count(values["preemptions"]), "preemptions", None),
    ]
    if values["energy_j_per_output_token"] is not None:
        power = f"{values['power_w_per_gpu']:,.0f} W per GPU"
        joules = f"{significant(values['energy_j_per_output_token'])} J"
        figures.append(("Energy, output token", joules, "energy", power))
    if values["cache_hit_pct"]:
        figures.append(("Prompt tokens cached", percent(values["cache_hit_pct"] / PERCENT), "cached", None))
    with tiles("traffic"):
        for label, text, term, below in figures:
            st.metric(label, text, below, delta_color="off", delta_arrow="off", help=plain(TRAFFIC[term]))


def _goodput_tile(values: Mapping[str, Any]) -> list[tuple[str, str, str, str | None]]:
    """Only with an objective: without one nothing is good or bad."""
    good = values["goodput_requests_per_s"] / values["requests_per_s"]
    rate = significant(values["goodput_requests_per_s"])
    return [("Goodput, requests/s", rate, "goodput", f"{percent(good)} good")]


# --- goodput against rate --------------------------------------------------------------------------------------------


def _goodput(run: Run) -> None:
    """The curve: asked for with a button, since it takes eight runs."""
    what = "Goodput" if run.answer.scenario.slo != Slo() else "Latency"
    st.subheader(f"{what} against rate", help=plain(TRAFFIC["curve"]))
    why = fixed_rate(run.answer.served)
    if why:
        st.caption(plain(f"This traffic has no rate to change: {why}."))
        return
    box, key = box_of(run.answer.scenario), key_of(run.answer.scenario)
    place, shown = st.empty(), st.empty()
    running = st.session_state.get(CURVE) == key and not box.complete
    _show_points(box, run, shown, table=not running)
    if box.complete:
        return
    if not running:
        with place.container():
            st.button(
                f"Go on ({len(box.points)} of {POINTS} rates)"
                if box.points
                else f"Find {what.lower()} against rate",
                key="traffic-find",
                on_click=_want_curve,
                args=(key,),
                icon=":material/query_stats:",
                help=f"Serves the same requests at {POINTS} rates.",
            )
        return
    with place.container():
        progress = _watched("traffic-stop-curve", _stop_curve, key, f"{len(box.points)} of {POINTS} rates")
        add_points(box, run.answer, progress, lambda: _show_points(box, run, shown, table=box.complete))
    place.empty()


def _want_curve(key: str) -> None:
    st.session_state[CURVE] = key


def _stop_curve(key: str) -> None:
    st.session_state[CURVE] = None


def _show_points(box: Box, run: Run, place: Any, *, table: bool) -> None:
    """Chart, table and files of the points that are there."""
    if box.refused:
        place.error(plain(box.refused))
        return
    if not box.points:
        return
    rows = pd.DataFrame([asdict(point) for point in box.points]).sort_values(
        "requests_per_s", ignore_index=True
    )
    with place.container():
        st.markdown(_found(box, run))
        chart(goodput_chart(rows, _slo_s(run)), f"goodput-{len(rows)}", zooms=True)
        if table:
            _table(rows)
            downloads(rows, "goodput")


def _found(box: Box, run: Run) -> str:
    """The largest rate that holds, in words."""
    best = largest_good(box.points)
    if best is None:
        fail = (
            "replicas fall behind"
            if run.answer.scenario.slo == Slo()
            else "fewer than 99% of the requests keep the SLO"
        )
        return plain(f"At each of these rates {fail}.")
    if best.good_pct is None:
        kept = "replicas keep up (no SLO is stated, so there is no goodput)"
    else:
        kept = f"{best.good_pct:.3g}% of the requests keep the SLO"
    beyond = [point for point in box.points if point.speed > best.speed]
    text = (
        f"Up to {significant(best.requests_per_s)} requests/s, {significant(best.speed)} times this run's rate, "
        f"{kept}, at {usd(best.usd_per_million_output_tokens)} per million output tokens"
    )
    return plain(text + ("." if beyond else "; no larger rate has been tried."))


def _table(rows: pd.DataFrame) -> None:
    shown = rows.assign(ttft_p99_s=rows.ttft_p99_s / MS, tpot_p99_s=pd.to_numeric(rows.tpot_p99_s) / MS)
    shown = shown.drop(columns="speed").dropna(axis="columns", how="all")  # without an SLO nothing is good
    st.dataframe(shown, hide_index=True, width="stretch", column_config=_COLUMNS)


_number = st.column_config.NumberColumn
_COLUMNS = {
    "requests_per_s": _number("Requests/s arriving", format="%.2f"),
    "goodput_requests_per_s": _number("Goodput, requests/s", format="%.2f", help=TRAFFIC["curve"]),
    "good_pct": _number("Good, %", format="%.1f"),
    "served_requests_per_s": _number("Served, requests/s", format="%.2f", help=TRAFFIC["served"]),
    "ttft_p99_s": _number("TTFT p99, ms", format="%.0f", help=TRAFFIC["ttft"]),
    "tpot_p99_s": _number("TPOT p99, ms", format="%.1f", help=TRAFFIC["tpot"]),
    "usd_per_million_output_tokens": _number("$ per M output", format="%.2f", help=TRAFFIC["usd_output"]),
    "keeps_up": st.column_config.CheckboxColumn("Keeps up", help="The queue does not grow."),
}


# --- to take along ---------------------------------------------------------------------------------------------------


def _take_away(run: Run) -> None:
    """The command, the requests, the trace."""
    st.subheader("Take it along")
    st.code(run.asked.command("serve"), language="bash", wrap_lines=True)
    if run.asked.text:
        st.caption("The command needs the scenario's file: download it here.")
    with st.container(horizontal=True):
        for label, name, kind in (
            ("Requests (CSV)", "requests.csv", "text/csv"),
            ("Requests (Parquet)", "requests.parquet", "application/vnd.apache.parquet"),
            ("Trace for Perfetto", "serve-trace.json.gz", "application/gzip"),
        ):
            st.download_button(
                label,
                _file(run, name),
                name,
                kind,
                on_click="ignore",
                key=f"traffic-{name}",
                help=TRAFFIC["trace"] if name.startswith("serve") else None,
            )
        if run.asked.text:
            st.download_button(
                "Scenario (YAML)",
                partial(yaml_of, run.asked),
                "scenario.yaml",
                "application/yaml",
                on_click="ignore",
                key="traffic-scenario",
            )


def _file(run: Run, name: str) -> Callable[[], bytes]:
    return lambda: written(run.answer, name)

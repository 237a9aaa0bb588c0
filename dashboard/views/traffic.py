"""Traffic: requests through the scenario's replicas, how long each takes, and how many a second stay good."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import runs, session
from dashboard.cache import key_of
from dashboard.offered import (
    DRAWN,
    LEAST_REQUESTS,
    MOST_REQUESTS,
    OWN,
    Offered,
    at_first,
    offer,
    overrides,
    paced,
    traffics,
)
from dashboard.results import Failed
from dashboard.runs import Curve
from dashboard.show import chart, downloads, plain, warnings
from dashboard.words import TRAFFIC
from perfmodel.answer_serve import ServeAnswer
from perfmodel.errors import PerfModelError
from perfmodel.explore.goodput import POINTS
from perfmodel.output.charts.traffic import (
    batch_chart,
    goodput_chart,
    latency_chart,
    load_chart,
    rate_latency_chart,
)
from perfmodel.output.formats import duration, percent, significant, usd, with_unit
from perfmodel.spec.scenario import Scenario
from perfmodel.units import MS

LIVE = 5_000
"""Up to so many requests a run starts by itself."""
SHOWN, WANTED, STOPPED, SWEEP = "traffic-shown", "traffic-wanted", "traffic-stopped", "traffic-sweep"
"""Keys of the session's state: the last answer; the runs (by key) that were asked for and stopped; the curve."""
PACE = {
    "time_scale": "Speed, times the trace's",
    "request_rate": "Requests per second",
    "max_concurrency": "Requests in flight",
}


def render(scenario: Scenario) -> None:
    """The page."""
    st.markdown(plain(_question(scenario)))
    offered = _controls(scenario)
    try:
        asked = offer(scenario, offered)
    except PerfModelError as error:
        st.error(plain(str(error)), icon=":material/block:")
        return
    found = _found(asked)
    if isinstance(found, Failed):
        st.error(plain(found.text), icon=":material/block:")
        st.caption(_after_failure(scenario))
        return
    if found is None:
        return
    _figures(found)
    _latencies(found)
    _over_time(found)
    _goodput(found)
    warnings(found.values["warnings"])
    _take_away(scenario, offered, found, current=found.scenario == asked)


def _question(scenario: Scenario) -> str:
    return (
        f"{scenario.model.name} on {scenario.fleet_gpus:,} {scenario.cluster.gpu.name}: what do users see, and "
        "what does a token cost, when requests come as they do in reality? Every request is simulated, from its "
        "arrival to its last token."
    )


def _after_failure(scenario: Scenario) -> str:
    if scenario.costs == "report":
        return "This preset counts one step as a published table does. Choose another one, e.g. longcat-flash-h800."
    return "Nothing could be simulated; the message says what to change. The What-if page shows single steps."


# --- controls --------------------------------------------------------------------------------------------------------


def _controls(scenario: Scenario) -> Offered:
    """The page's own controls; they start anew where a scenario brings other traffic, and outlive other pages."""
    stated = (scenario.workload.model_dump_json(), scenario.slo.model_dump_json(), str(scenario.seed))
    place = hashlib.sha256("".join(stated).encode()).hexdigest()[:8]
    state = f"traffic-offered-{place}"
    now: Offered = st.session_state.get(state) or at_first(scenario)

    def key(name: str) -> str:
        return f"traffic-{name}-{place}"

    with st.container(horizontal=True, vertical_alignment="bottom"):
        traffic = st.selectbox(
            "Traffic",
            options := traffics(scenario),
            index=options.index(now.traffic) if now.traffic in options else 0,
            format_func=lambda name: _traffic_name(scenario, name),
            key=key("kind"),
            help=TRAFFIC["traffic"],
            filter_mode=None,
            width=230,
        )
        if traffic != now.traffic:
            now = replace(now, traffic=traffic, pace=paced(scenario, traffic)[1])
        number = st.number_input(
            "Requests",
            LEAST_REQUESTS,
            MOST_REQUESTS,
            value=now.num_requests,
            step=1_000,
            key=key("requests"),
            help=TRAFFIC["num_requests"],
            width=130,
        )
        pace = _pace(scenario, now, key(f"pace-{traffic}"))
        lengths = {}
        if traffic == DRAWN:
            for name, label, most in (
                ("input_tokens", "Prompt, tokens", 32_768),
                ("output_tokens", "Output, tokens", 8_192),
            ):
                lengths[name] = st.number_input(
                    label,
                    1,
                    most,
                    value=getattr(now, name),
                    step=64,
                    key=key(name),
                    help=TRAFFIC[name],
                    width=130,
                )
        limits = {}
        for name, label in (("ttft_ms", "TTFT limit, ms"), ("tpot_ms", "TPOT limit, ms")):
            limits[name] = st.number_input(
                label,
                min_value=0.1,
                max_value=1e7,
                value=getattr(now, name),
                step=100.0 if name == "ttft_ms" else 10.0,
                format="%g",
                placeholder="none",
                key=key(name),
                help=TRAFFIC[name],
                width=130,
            )
        seed = st.number_input(
            "Seed", 0, 2**31, value=now.seed, step=1, key=key("seed"), help=TRAFFIC["seed"], width=110
        )
    now = replace(now, num_requests=int(number), pace=pace, seed=int(seed), **limits, **lengths)
    st.session_state[state] = now
    return now


def _traffic_name(scenario: Scenario, name: str) -> str:
    if name == DRAWN:
        return "drawn: Poisson"
    if name != OWN:
        return f"trace {name}"
    workload = scenario.workload
    if workload.trace:
        return f"trace {workload.trace}"
    return "the scenario's" + (
        " (all at once)" if workload.rate == float("inf") and not workload.max_concurrency else ""
    )


def _pace(scenario: Scenario, now: Offered, key: str) -> float | None:
    name, first = paced(scenario, now.traffic)
    if not name or first is None:
        return None
    whole = name == "max_concurrency"
    value = now.pace if now.pace is not None else first
    return float(
        st.number_input(
            PACE[name],
            min_value=1.0 if whole else 0.001,
            max_value=100_000.0,
            value=min(max(value, 1.0 if whole else 0.001), 100_000.0),
            step=1.0,
            format="%.0f" if whole else "%g",
            key=key,
            help=TRAFFIC[name],
            width=180,
        )
    )


# --- running ---------------------------------------------------------------------------------------------------------


def _found(asked: Scenario) -> ServeAnswer | Failed | None:
    """The answer to what is asked: kept, simulated now, or the last one there was, with words about that."""
    key, place = key_of(asked), st.empty()
    found = runs.slot(asked).found
    if found is None and _starts(asked, key):
        found = _run(asked, key, place)
    if isinstance(found, ServeAnswer):
        st.session_state[SHOWN] = found
    if found is not None:
        place.container()
        return found
    last: ServeAnswer | None = st.session_state.get(SHOWN)
    with place.container():
        stopped = st.session_state.get(STOPPED) == key
        said = "Stopped. " if stopped else ""
        said += (
            "What is shown below belongs to earlier settings."
            if last is not None
            else "There is no earlier result to show: run it."
        )
        st.info(said, icon=":material/history:")
        st.button(
            f"Run {asked.workload.num_requests:,} requests",
            on_click=_want,
            args=(WANTED, key),
            type="primary",
            icon=":material/play_arrow:",
            key="traffic-run",
        )
    return last


def _starts(asked: Scenario, key: str) -> bool:
    """Whether the run starts: it was asked for, or it is short and nobody has stopped it."""
    if st.session_state.get(WANTED) == key:
        return True
    return (asked.workload.num_requests or 0) <= LIVE and st.session_state.get(STOPPED) != key


def _want(what: str, key: str) -> None:
    """A button's callback: start."""
    st.session_state[what], st.session_state[STOPPED] = key, None


def _stop(what: str, key: str) -> None:
    """A button's callback; the click has interrupted the run already."""
    st.session_state[what], st.session_state[STOPPED] = None, key


def _run(asked: Scenario, key: str, place: Any) -> ServeAnswer | Failed:
    with place.container():
        tell = _progress("Setting up step times", WANTED, key)
        found = runs.run(
            asked, lambda done, total: tell(f"{done:,} of {total:,} requests served", done / total)
        )
    place.empty()
    return found


def _progress(text: str, what: str, key: str) -> Any:
    """A progress bar and a button that stops; call it with a text and a share."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Stop", on_click=_stop, args=(what, key), icon=":material/stop:", key=f"{what}-stop")
        bar = st.progress(0.0, text=text)
    return lambda text, share: bar.progress(min(share, 1.0), text=text)


# --- what it shows ---------------------------------------------------------------------------------------------------


def _figures(answer: ServeAnswer) -> None:
    """Headlines."""
    values = answer.values
    good = values["goodput_requests_per_s"] / values["requests_per_s"]
    _counted(answer)
    with st.container(horizontal=True):
        for name, key in (("TTFT", "ttft_s"), ("TPOT", "tpot_s")):
            spread = values[key]
            if spread is not None:
                _metric(
                    f"{name}, median", duration(spread["p50"]), f"p99 {duration(spread['p99'])}",
                    f"{TRAFFIC[key]} {TRAFFIC['percentiles']}",
                )  # fmt: skip
        _metric(
            "Goodput", f"{significant(values['goodput_requests_per_s'])} req/s",
            f"{percent(good)} of {significant(values['requests_per_s'])} req/s", TRAFFIC["goodput_requests_per_s"],
        )  # fmt: skip
        _metric(
            "Output tokens/s per GPU", significant(values["output_tokens_per_s_per_gpu"]),
            f"busy {values['busy_pct']:.0f} % of the time",
            f"{TRAFFIC['output_tokens_per_s_per_gpu']} Busy: {TRAFFIC['busy_pct']}",
        )  # fmt: skip
        _metric(
            "$ per M output tokens", usd(values["usd_per_million_output_tokens"]),
            f"{usd(values['usd_per_million_total_tokens'])} per M in and out",
            f"{TRAFFIC['usd_per_million_output_tokens']} Below: {TRAFFIC['usd_per_million_total_tokens']}",
        )  # fmt: skip
        if values["energy_j"] is not None and values["energy_j_per_output_token"] is not None:
            _metric(
                "Energy per output token", with_unit(values["energy_j_per_output_token"], "J"),
                f"{significant(values['power_w_per_gpu'])} W per GPU",
                f"{TRAFFIC['energy_j_per_output_token']} Below: {TRAFFIC['power_w_per_gpu']}",
            )  # fmt: skip


def _metric(name: str, value: str, below: str, help_text: str) -> None:
    """A figure with a line below."""
    told = help_text.replace("$", "\\$")
    st.metric(name, value, below, delta_color="off", delta_arrow="off", help=told, width=185)


def _counted(answer: ServeAnswer) -> None:
    values = answer.values
    asked = answer.scenario.workload.num_requests
    served = values["requests"] + values["left_out_requests"]
    text = f"{served:,} requests over {duration(values['duration_s'])} on {values['num_gpus']:,} GPUs"
    if asked is not None and served < asked:
        text += f" (the trace has no more; {asked:,} were asked for)"
    if values["left_out_requests"]:
        text += f"; {values['left_out_requests']:,} of them, the first and the last, are not judged"
    hits = values["cache_hit_pct"]
    text += f"; {values['preemptions']:,} preemptions" if values["preemptions"] else ""
    text += f"; {hits:.1f} % of prompt tokens from caches" if hits else ""
    st.caption(plain(text))


def _latencies(answer: ServeAnswer) -> None:
    """Distributions, and a table of everything that has one."""
    st.subheader("How long requests take", help=f"{TRAFFIC['latency']} {TRAFFIC['percentiles']}")
    rows, slo = runs.frames(answer.scenario, answer).requests, answer.scenario.slo
    judged = rows[rows.counted]
    limits = {"ttft_s": slo.ttft_ms, "tpot_s": slo.tpot_ms, "e2e_s": slo.e2e_ms}
    for column, (quantity, limit_ms) in zip(st.columns(3), limits.items(), strict=True):
        with column:
            limit = None if limit_ms is None else limit_ms * MS
            chart(latency_chart(judged, quantity, limit), f"latency-{quantity}")
    with st.expander("As a table"):
        st.dataframe(
            latency_table(answer.values),
            hide_index=True,
            width="stretch",
            column_config={
                name: st.column_config.TextColumn(help=TRAFFIC["percentiles"])
                for name in ("p50", "p90", "p99")
            },
        )


def latency_table(values: Mapping[str, Any]) -> pd.DataFrame:
    """Mean and percentiles of everything that a request waits for, with what each is."""
    rows = [
        {
            "latency": name,
            **{part: duration(values[key][part]) for part in ("mean", "p50", "p90", "p99")},
            "what it is": TRAFFIC[key],
        }
        for name, key in (
            ("TTFT", "ttft_s"),
            ("of it: queue", "queue_s"),
            ("of it: transfer", "transfer_s"),
            ("TPOT", "tpot_s"),
            ("ITL", "itl_s"),
            ("E2E", "e2e_s"),
        )
        if values[key] is not None
    ]
    return pd.DataFrame(rows)


def _over_time(answer: ServeAnswer) -> None:
    """Queue and batch."""
    tables = runs.frames(answer.scenario, answer)
    left, right = st.columns(2)
    with left:
        st.subheader("Requests in the system", help=TRAFFIC["load"])
        chart(load_chart(tables.load), "load", zooms=True)
    with right:
        st.subheader("Batch of the fullest rank", help=TRAFFIC["batch"])
        chart(batch_chart(tables.batch), "batch", zooms=True)


# --- goodput against rate --------------------------------------------------------------------------------------------


def _goodput(answer: ServeAnswer) -> None:
    """The curve as far as it is known, and the button that finds more of it."""
    key, own = key_of(answer.scenario), runs.curve(answer.scenario)
    st.subheader("Goodput against rate", help=f"{TRAFFIC['goodput']} {TRAFFIC['goodput_requests_per_s']}")
    place, body = st.empty(), st.empty()
    _curve(answer, own, body)
    if own.failed:
        place.info(plain(own.failed), icon=":material/info:")
        return
    if own.ended:
        return
    if st.session_state.get(SWEEP) == key:
        with place.container():
            tell = _progress("One rate after the other", SWEEP, key)

            def draw(done: int, total: int) -> None:
                text = f"rate {len(own.points) + 1} of {POINTS}: {done:,} of {total:,} requests served"
                tell(text, (len(own.points) + done / total) / POINTS)

            own = runs.extend(answer, POINTS, draw, lambda found: _curve(answer, found, body))
        place.empty()
        st.session_state[SWEEP] = None
        _curve(answer, own, body, turn="last")
        if own.failed:
            place.info(plain(own.failed), icon=":material/info:")
        return
    with place.container():
        st.button(
            "Find goodput against rate"
            if not own.points
            else f"Go on: {len(own.points)} of {POINTS} rates are known",
            on_click=_want_curve,
            args=(key,),
            icon=":material/play_arrow:",
            key="traffic-find",
            help=f"Simulates the same requests at up to {POINTS} rates; every one is kept, so you can stop any time.",
        )


def _want_curve(key: str) -> None:
    st.session_state[SWEEP] = key


def _curve(answer: ServeAnswer, own: Curve, body: Any, turn: str = "") -> None:
    """Charts and table of the points that are known; ``turn`` tells apart two drawings of as many in one run."""
    if not own.points:
        return
    rows = pd.DataFrame([asdict(point) for point in own.points]).sort_values(
        "requests_per_s", ignore_index=True
    )
    slo, number = answer.scenario.slo, f"{len(own.points)}{turn}"
    with body.container():
        left, middle, right = st.columns(3)
        with left:
            chart(goodput_chart(rows), f"goodput-{number}")
        limits = {"ttft": slo.ttft_ms, "tpot": slo.tpot_ms}
        for column, (quantity, limit) in zip((middle, right), limits.items(), strict=True):
            with column:
                chart(
                    rate_latency_chart(rows, quantity, None if limit is None else limit * MS),
                    f"rate-{quantity}-{number}",
                )
        st.markdown(plain(curve_words(own)))
        if own.ended:
            with st.expander("As a table"):
                st.dataframe(
                    rate_table(rows), hide_index=True, width="stretch", column_config=_rate_columns()
                )
                downloads(rows, "goodput")


def curve_words(own: Curve) -> str:
    """What the points say, in a sentence."""
    good = [point for point in own.points if point.holds]
    if not good:
        return "At none of these rates nine of ten requests keep the limits."
    best = max(good, key=lambda point: point.requests_per_s)
    return (
        f"Up to about {significant(best.requests_per_s)} requests/s nine of ten keep the limits and no queue grows; "
        f"there a million output tokens cost {usd(best.usd_per_million_output_tokens)}. Short runs are kind: a queue "
        "takes time to grow, so raise the number of requests to be sure."
    )


def rate_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The points for people."""
    return pd.DataFrame(
        {
            "requests/s": rows.requests_per_s,
            "good requests/s": rows.goodput_requests_per_s,
            "good, %": rows.good_pct,
            "keeps up": rows.keeps_up,
            "TTFT p99, ms": rows.ttft_p99_s / MS,
            "TPOT p99, ms": rows.tpot_p99_s / MS,
            "$ per M output tokens": rows.usd_per_million_output_tokens,
        }
    )


def _rate_columns() -> dict[str, Any]:
    number = st.column_config.NumberColumn
    return {
        "requests/s": number(format="%.3g", help=TRAFFIC["request_rate"]),
        "good requests/s": number(format="%.3g", help=TRAFFIC["goodput_requests_per_s"]),
        "good, %": number(format="%.1f", help=TRAFFIC["good_pct"]),
        "keeps up": st.column_config.CheckboxColumn(help=TRAFFIC["held"]),
        "TTFT p99, ms": number(format="%.0f", help=TRAFFIC["ttft_s"]),
        "TPOT p99, ms": number(format="%.1f", help=TRAFFIC["tpot_s"]),
        "$ per M output tokens": number(format="%.3g", help=TRAFFIC["usd_per_million_output_tokens"]),
    }


# --- files -----------------------------------------------------------------------------------------------------------


def _take_away(scenario: Scenario, offered: Offered, answer: ServeAnswer, *, current: bool) -> None:
    """The run's files, and the command that makes them."""
    st.subheader("Take it along")
    if current and session.ASKED in st.session_state:
        asked = session.asked().changed(overrides(scenario, offered))
        st.code(asked.command("serve"), language="bash", wrap_lines=True)
    with st.container(horizontal=True):
        for label, suffix, mime in (
            ("Requests (CSV)", ".csv", "text/csv"),
            ("Requests (Parquet)", ".parquet", "application/vnd.apache.parquet"),
        ):
            st.download_button(
                label,
                partial(runs.requests_file, answer, suffix),
                f"requests{suffix}",
                mime,
                on_click="ignore",
                key=f"traffic-download{suffix}",
                help="A row per request: when it came, waited, began and ended, in seconds, and its lengths in tokens.",
            )
        st.download_button(
            "Trace for Perfetto",
            partial(runs.trace_file, answer),
            "serve.json.gz",
            "application/gzip",
            on_click="ignore",
            key="traffic-download-trace",
            help="Every step and every request as spans, for ui.perfetto.dev.",
        )

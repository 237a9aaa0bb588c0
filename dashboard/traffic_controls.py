"""What the Traffic page asks of a scenario's workload and objectives: as overrides, so that links carry them."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from dashboard import session
from dashboard.show import plain
from dashboard.traffic_runs import FEWEST, MOST, QUICK
from dashboard.words import TRAFFIC
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.workload import MAX_RATE, Workload

MOST_MS = 1e7
MOST_SPEED = 1e6


def controls(scenario: Scenario) -> None:
    """A row of four."""
    workload = scenario.workload
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _number(
            "Requests",
            "workload.num_requests",
            min(workload.num_requests or QUICK, MOST),
            help=TRAFFIC["requests"],
            min_value=min(FEWEST, workload.num_requests or FEWEST),
            max_value=MOST,
            step=100,
        )
        _speed(workload)
        for name, value in (("ttft", scenario.slo.ttft_ms), ("tpot", scenario.slo.tpot_ms)):
            _number(
                f"SLO {name.upper()}, ms",
                f"slo.{name}_ms",
                value,
                help=TRAFFIC[f"slo_{name}"],
                min_value=0.001,
                max_value=MOST_MS,
                placeholder="no limit",
                step=100.0 if name == "ttft" else 10.0,
                format="%g",
            )
    asked = workload.num_requests
    if asked is not None and asked > MOST:
        st.caption(
            f"{asked:,} requests are asked for; this page serves the first {MOST:,}, the command line all."
        )


def _speed(workload: Workload) -> None:
    """How fast requests come, in the words of the workload."""
    if workload.rate is None:
        _number(
            "Speed, times the trace's",
            "workload.time_scale",
            workload.time_scale,
            help=TRAFFIC["time_scale"],
            min_value=1e-3,
            max_value=MOST_SPEED,
            step=0.5,
            format="%g",
        )
    elif workload.ramp is None and workload.max_concurrency is None:
        rate = float(workload.rate) if isinstance(workload.rate, float) else None
        _number(
            "Sessions per second" if workload.has_turns else "Requests per second",
            "workload.request_rate",
            None if rate == float("inf") else rate,
            help=TRAFFIC["request_rate"],
            min_value=1e-6,
            max_value=MAX_RATE,
            step=1.0,
            format="%g",
            placeholder="all at once",
        )


def _number(label: str, path: str, value: float | None, *, help: str, **more: Any) -> None:
    """A number that shows what the scenario says, and asks for another one at ``path`` when it is changed."""
    key = f"traffic-{path}"
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value
    st.number_input(
        label, value=None, key=key, on_change=_asked(key, path), help=plain(help), width=190, **more
    )


def _asked(key: str, path: str) -> Callable[[], None]:
    def changed() -> None:
        value = st.session_state[key]
        if value is not None:
            session.change({path: f"{value:.12g}"})
        elif session.change({path: None}) and _stated(session.scenario(), path):
            session.change({path: "null"})  # the catalogue's scenario states one itself

    return changed


def _stated(scenario: Scenario, path: str) -> bool:
    section, name = path.split(".")
    return getattr(getattr(scenario, section), name) is not None

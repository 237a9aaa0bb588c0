"""What the Traffic page asks of a scenario's workload and objectives: as overrides, so that links carry them."""

from typing import Any

import streamlit as st

from dashboard import session
from dashboard.looks import tiles
from dashboard.show import plain
from dashboard.traffic_runs import FEWEST, MOST, QUICK
from dashboard.words import TRAFFIC
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.workload import MAX_RATE, Workload

MOST_MS = 1e7
MOST_SPEED = 1e6
OPTIONAL = ("workload.num_requests", "workload.request_rate", "slo.ttft_ms", "slo.tpot_ms")
"""What a scenario may leave out."""


def controls(scenario: Scenario) -> None:
    """A row of four."""
    workload = scenario.workload
    with tiles("traffic-asked"):
        _number(
            "Requests",
            "workload.num_requests",
            min(workload.num_requests or QUICK, MOST),
            help=TRAFFIC["requests"],
            low=FEWEST,
            high=MOST,
            step=100,
        )
        _speed(workload)
        for name, value in (("ttft", scenario.slo.ttft_ms), ("tpot", scenario.slo.tpot_ms)):
            _number(
                f"SLO {name.upper()}, ms",
                f"slo.{name}_ms",
                value,
                help=TRAFFIC[f"slo_{name}"],
                low=0.001,
                high=MOST_MS,
                placeholder="no limit",
                step=100.0 if name == "ttft" else 10.0,
                format="%g",
            )
    asked = workload.num_requests
    if asked is not None and asked > MOST:
        st.caption(
            f"{asked:,} requests are asked for; this page serves {MOST:,} of them, the command line all."
        )


def _speed(workload: Workload) -> None:
    """How fast requests come, in the words of the workload."""
    if workload.rate is None:
        _number(
            "Speed, times the trace's",
            "workload.time_scale",
            workload.time_scale,
            help=TRAFFIC["time_scale"],
            low=1e-3,
            high=MOST_SPEED,
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
            low=1e-6,
            high=MAX_RATE,
            step=1.0,
            format="%g",
            placeholder="all at once",
        )


def _number(
    label: str, path: str, value: float | None, *, low: float, high: float, help: str, **more: Any
) -> None:
    """A number that shows what the scenario says, and asks for another one at ``path`` when it is changed."""
    key = f"traffic-{path}"
    if st.session_state.get(key) != value or key not in st.session_state:
        st.session_state[key] = value
    st.number_input(
        label,
        min_value=low if value is None else min(low, value),
        max_value=high if value is None else max(high, value),
        value=None,
        key=key,
        on_change=_changed,
        args=(key, path),
        help=plain(help),
        **more,
    )


def _changed(key: str, path: str) -> None:
    """A number was changed; one that was taken away is dropped, or null where the catalogue's scenario states it."""
    value = st.session_state[key]
    if value is not None:
        session.change({path: f"{value:.12g}"})
    elif session.change({path: None}) and path in OPTIONAL and _stated(session.scenario(), path):
        session.change({path: "null"})


def _stated(scenario: Scenario, path: str) -> bool:
    section, name = path.split(".")
    return getattr(getattr(scenario, section), name) is not None

"""Experts: how many a token wakes, who is busy, and what skew, placement and zero-computation experts change."""

import pandas as pd
import streamlit as st

from dashboard import results
from dashboard.looks import tiles
from dashboard.refusal import refuse
from dashboard.results import Answered, Failed
from dashboard.show import caveats, chart, downloads, headline, plain, under
from dashboard.words import HELP
from perfmodel.output.charts.experts import active_chart, rank_load_chart, skew_chart, variants_chart
from perfmodel.output.formats import duration, percent, significant, usd
from perfmodel.spec.scenario import Scenario
from perfmodel.units import GIGA


def render(scenario: Scenario) -> None:
    """The page."""
    found = results.answer(scenario)
    if isinstance(found, Failed):
        refuse(scenario, found)
        return
    if scenario.model.moe is None:
        parameters = found.values["active_parameters"]
        st.info(
            plain(
                f"{scenario.model.name} has no experts: every token uses all of its weights. Choose a "
                "mixture-of-experts model in the sidebar to see how routing moves its load, time and cost."
            ),
            icon=":material/info:",
        )
        assert parameters is None
        return
    headline(_answer(scenario, found))
    _figures(scenario, found)
    left, right = st.columns(2)
    with left:
        _activation(scenario, found)
    with right:
        _loads(scenario)
    _zero_experts(scenario)
    _skew(scenario)
    caveats(found.values)


def _answer(scenario: Scenario, found: Answered) -> str:
    """The headline."""
    active, real = found.values["active_parameters"], found.values["real_experts"]
    text = f"A token wakes {real['mean']:.2f} real experts and uses {active['mean'] / GIGA:.1f} B weights"
    if scenario.deployment.ep > 1:
        busiest = float(results.rank_loads(scenario)["mean"].iloc[0])
        text += f"; the busiest rank has {significant(busiest)} times the mean load"
    return f"{text}{under(scenario)}."


def _figures(scenario: Scenario, found: Answered) -> None:
    active, real = found.values["active_parameters"], found.values["real_experts"]
    loads = results.rank_loads(scenario)
    with tiles("experts"):
        st.metric(
            "Active parameters",
            f"{active['mean'] / GIGA:.1f} B",
            f"{active['least'] / GIGA:.1f} to {active['most'] / GIGA:.1f} B",
            delta_color="off",
            delta_arrow="off",
            help="Weights that a token uses, in the mean over tokens, without the embedding. Below: with the fewest "
            "and the most real experts in every layer.",
        )
        st.metric(
            "Real experts per token",
            f"{real['mean']:.2f}",
            f"± {real['std']:.2f}",
            delta_color="off",
            delta_arrow="off",
            help=HELP["real_experts"] + " Below: standard deviation over tokens.",
        )
        if scenario.deployment.ep > 1:
            st.metric(
                "Busiest rank",
                f"{significant(float(loads['mean'].iloc[0]))} times",
                help="Load of the busiest expert-parallel rank over the mean rank's: all others wait for it in every "
                "layer. From popularity, chance, and what the engine's published runs leave unexplained.",
            )


def _activation(scenario: Scenario, found: Answered) -> None:
    moe = scenario.model.moe
    assert moe is not None
    st.subheader(
        "How many experts a token wakes",
        help="Of its picks only real experts compute; zero-computation experts return their input. The mean is "
        "published, the shape (beta-binomial of the published spread) is assumed.",
    )
    if not moe.num_zero_experts:
        st.caption(
            plain(
                f"{scenario.model.name} has no zero-computation experts: always {moe.top_k} of {moe.top_k}."
            )
        )
    else:
        active, routing = found.values["active_parameters"], scenario.routing
        st.caption(
            f"Over all layers a token uses {active['mean'] / GIGA:.1f} B ± {active['std'] / GIGA:.1f} B parameters, if "
            f"its numbers in two layers correlate by {routing.layer_correlation:g} (nothing is published)."
        )
    chart(active_chart(results.active_rows(scenario), mean=found.values["real_experts"]["mean"]), "active")


def _loads(scenario: Scenario) -> None:
    st.subheader(
        "How busy each rank is",
        help="Tokens that a rank's experts get in one layer, over the mean rank's: 128 drawn layers, sorted in each.",
    )
    if not scenario.routing.popularity and scenario.routing.rank_loads is None:
        st.caption(
            "Popularity is not modelled here (sidebar, Routing): all ranks but the busiest are taken as alike."
        )
    chart(rank_load_chart(results.rank_loads(scenario)), "loads")


def _zero_experts(scenario: Scenario) -> None:
    st.subheader(
        "What zero-computation experts buy",
        help="The same model and layout with other numbers of them, all experts alike to the router. Their effect on "
        "quality is not known here: this is cost.",
    )
    found = results.zero_experts(scenario)
    if isinstance(found, Failed):
        st.info(plain(found.text), icon=":material/info:")
        return
    moe = scenario.model.moe
    assert moe is not None
    first, own = found.iloc[0], found[found.zero_experts == moe.num_zero_experts]
    if len(own) and moe.num_zero_experts:
        row = own.iloc[0]
        saved = 1.0 - row.step_time_s / first.step_time_s  # the same tokens per step: money's share too
        st.markdown(
            plain(
                f"With {moe.num_zero_experts} zero-computation experts a step takes {duration(row.step_time_s)} "
                f"instead of {duration(first.step_time_s)} without any: "
                f"{percent(abs(saved))} {'less' if saved >= 0.0 else 'more'} per token."
            )
        )
    chart(variants_chart(found, own=moe.num_zero_experts), "zero-experts")
    downloads(found, "zero-experts")


def _skew(scenario: Scenario) -> None:
    st.subheader(
        "What skew costs, and what placement saves",
        help="The same step if some experts are liked more (a power law), with experts in order, placed by load "
        "(EPLB), and with hot experts copied: one more expert per rank. The sidebar's popularity is replaced here.",
    )
    cases = results.skew_cases(scenario)
    if isinstance(cases, Failed):
        st.info(plain(cases.text), icon=":material/info:")
        return
    asked = st.session_state.get("experts-skew") == scenario.hash
    if not asked:
        if not st.button(
            f"Work it out: {len(cases)} steps, some seconds",
            key="experts-start",
            icon=":material/play_arrow:",
        ):
            return
        st.session_state["experts-skew"] = scenario.hash
    bar = st.progress(0.0, "placing experts")
    rows = []
    for number, (placed, exponent) in enumerate(cases, start=1):
        rows.append(results.skew_row(scenario, placed, exponent))
        bar.progress(number / len(cases), f"{placed.name}, exponent {exponent:g}")
    bar.empty()
    table = pd.DataFrame(rows)
    worst, best = table.loc[table.step_time_s.idxmax()], table[table.exponent == table.exponent.max()]
    helped = best.loc[best.step_time_s.idxmin()]
    st.markdown(
        plain(
            f"At an exponent of {worst.exponent:g} a step takes {duration(worst.step_time_s)} with experts "
            f"{worst.placement} ({usd(worst.usd_per_million_tokens)} per million tokens), and "
            f"{duration(helped.step_time_s)} with {helped.placement} ({usd(helped.usd_per_million_tokens)})."
        )
    )
    chart(skew_chart(table), "skew")
    st.caption(
        "Placement is worked out from the very popularity that is then served: real traffic drifts, and keeps part of "
        "the imbalance (routing.drift)."
    )
    downloads(table, "skew")

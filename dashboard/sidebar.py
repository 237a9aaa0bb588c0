"""The scenario's controls. Each shows what the scenario says; a change that makes no scenario is taken back."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import streamlit as st

from dashboard import session
from dashboard.adapt import (
    cluster_changes,
    engine_changes,
    layout_changes,
    model_changes,
    own_model,
    prices_of,
)
from dashboard.any_key import any_key
from dashboard.asked import uploaded, yaml_of
from dashboard.controls import field, key_of, section, select, showing, slider, value_of
from dashboard.names import cluster_title, engine_title, model_title
from dashboard.presets import OBJECTIVES_SOURCE, presets
from dashboard.refusal import usual_layout_button
from dashboard.results import limits_of, longest_of
from dashboard.show import plain
from dashboard.words import HELP
from perfmodel.engines.profile import names
from perfmodel.spec import catalogue
from perfmodel.spec.scenario import Scenario

OWN = "your own"
"""A price, model or cluster that is not the catalogue's."""
SHORTEST = 1024
"""Tokens: where a slider of contexts ends at least."""


def sidebar(scenario: Scenario) -> None:
    """All controls."""
    with st.sidebar:
        _presets()
        _model_and_cluster(scenario)
        _step(scenario)
        _schedule(scenario)
        if scenario.model.moe is not None:
            _routing(scenario)
        _layout(scenario)
        _prices(scenario)
        _numbers(scenario)
        any_key(scenario)
        _upload()


def _upload() -> None:
    """A scenario file of the user's own."""
    with section("Your own scenario", "upload", ":material/upload_file:") as is_open:
        if not is_open:
            return

        def taken() -> None:
            file = value_of("upload")
            if file is not None:
                name = file.name.rsplit(".", 1)[0]
                session.try_asking(lambda: uploaded(file.getvalue(), name))

        st.file_uploader(
            "Scenario (YAML)",
            type=["yaml", "yml"],
            key=key_of("upload"),
            on_change=taken,
            help="As perfmodel step takes it, e.g. what the What-if page downloads; it may name the catalogue, but no "
            "files.",
        )
        st.download_button(
            "Download this scenario",
            partial(yaml_of, session.asked()),
            "scenario.yaml",
            "application/yaml",
            on_click="ignore",
            key="sidebar-yaml",
        )


def _presets() -> None:
    known = presets()
    now = session.asked()
    fitting = [number for number, preset in enumerate(known) if preset.is_asked_by(now)]
    same_base = [n for n, preset in enumerate(known) if preset.scenario.name == now.name and not now.text]
    number = next(iter((*fitting, *same_base)), None)
    title = f"upload: {now.name}" if now.text else None

    def chosen() -> None:
        picked = value_of("preset")
        if picked is not None:
            session.ask(known[picked].asked)

    st.selectbox(
        "Start from",
        range(len(known)),
        key=showing("preset", number),
        index=None,
        placeholder=title or "a preset",
        format_func=lambda n: known[n].title,
        on_change=chosen,
        help="Scenarios of the catalogue. Choosing one replaces all settings below.",
    )
    if number is not None:
        changed = len(set(now.sets) - set(known[number].asked.sets)) if not fitting else 0
        if fitting:
            brings = f". {OBJECTIVES_SOURCE}" if known[number].asked == now and known[number].brings else ""
            st.caption(plain(f"{known[number].citation}{brings}"))
        else:
            st.button(
                f"Back to the preset ({max(changed, 1)} changed)",
                on_click=session.start_again,
                args=(known[number].asked,),
                type="tertiary",
                icon=":material/undo:",
            )


@cache
def _models() -> tuple[str, ...]:
    """Models of the catalogue whose steps can be timed."""
    return tuple(name for name in catalogue.names("models") if not catalogue.model(name).unmodelled)


def _model_and_cluster(scenario: Scenario) -> None:
    def model() -> None:
        name = value_of("model")
        if name == replace(session.asked(), sets=()).scenario().model.name:
            session.change_with(own_model)
        else:
            session.change_with(model_changes, name)

    def cluster() -> None:
        session.change_with(cluster_changes, value_of("cluster"))

    select("Model", "model", _models(), scenario.model.name, model, format_func=model_title)
    if session.asked().value("model") is not None:
        usual_layout_button(scenario, "sidebar")
    clusters = catalogue.names("clusters")
    own = scenario.cluster.name or OWN
    gpus = f"GPUs ({scenario.deployment.num_gpus:,} in a replica)"
    select(gpus, "cluster", clusters, own, cluster, format_func=cluster_title)


def _step(scenario: Scenario) -> None:
    d, found = scenario.deployment, limits_of(scenario)
    one = 1.0 / found.gpus  # a request that an attention group shares
    most, longest = max(found.fits, 2 * one), max(longest_of(scenario), SHORTEST)
    if d.phase == "prefill":
        slider(
            "Prompts per GPU",
            "prompts",
            "deployment.prefill_requests_per_gpu",
            float(d.prefill_requests_per_gpu),
            low=one,
            high=most,
            step=one,
        )
        slider(
            "Tokens per prompt",
            "prompt_tokens",
            "deployment.prefill_tokens",
            float(d.prefill_tokens),
            low=128,
            high=longest,
            step=1,
        )
        return
    slider(
        "Batch per GPU",
        "batch",
        "deployment.batch_per_gpu",
        float(d.batch_per_gpu),
        low=one,
        high=most,
        step=one,
    )
    slider(
        "Context, tokens",
        "context",
        "deployment.context_tokens",
        float(d.context_tokens),
        low=0,
        high=longest,
        step=1,
    )


def _schedule(scenario: Scenario) -> None:
    d = scenario.deployment
    if scenario.costs == "report":
        options = [d.overlap]
    elif scenario.model.has_shortcut:
        options = ["sequential", "tbo", "sbo", "sbo-engine"]
    else:
        options = ["sequential", "tbo"]

    def overlap() -> None:
        picked = value_of("overlap")
        if picked is not None:
            session.change({"deployment.overlap": picked})

    st.segmented_control(
        "Overlap schedule",
        options,
        key=showing("overlap", d.overlap),
        on_change=overlap,
        help=HELP["overlap"],
    )
    if d.phase != "prefill" and (scenario.model.mtp is not None or scenario.costs == "report"):
        left, right = st.columns(2)
        with left:
            field(
                "Draft tokens (MTP)",
                "drafts",
                "deployment.mtp.draft_tokens",
                d.mtp.draft_tokens,
                low=0,
                high=8,
                step=1,
            )
        with right:
            field(
                "Acceptance",
                "acceptance",
                "deployment.mtp.acceptance",
                d.mtp.acceptance,
                low=0.0,
                high=1.0,
                step=0.05,
            )


def _routing(scenario: Scenario) -> None:
    moe, routing = scenario.model.moe, scenario.routing
    assert moe is not None
    with section("Routing: which experts tokens wake", "routing", ":material/alt_route:") as is_open:
        if not is_open:
            return
        stated = routing.activation or routing.layer_means
        if moe.num_zero_experts and not stated:
            slider(
                f"Real experts, of {moe.top_k} picks",
                "real_experts",
                "routing.mean_real_experts",
                round(scenario.mean_real_experts, 4),
                low=0.1,
                high=float(moe.top_k),
                step=0.1,
            )

        def popularity() -> None:
            picked = value_of("popularity")
            changes: dict[str, str | None] = {"routing.popularity": picked or '""', "routing.skew": "null"}
            stated = [key for key in ("histogram", "rank_loads") if getattr(routing, key) is not None]
            changes |= {f"routing.{key}": "null" for key in stated}  # they would contradict it, or hide it
            if picked == "power-law":
                changes["routing.skew"] = "0.53"
            if not picked:
                changes |= {"routing.placement": "contiguous", "routing.drift": "0.0"}
            session.change(changes)

        select(
            "Popularity of experts",
            "popularity",
            ("", "uniform", "power-law"),
            routing.popularity,
            popularity,
            format_func=lambda name: name or "not modelled",
        )
        if routing.popularity in ("power-law", "dirichlet"):
            field(
                "Skew",
                "skew",
                "routing.skew",
                float(routing.skew or 0.5),
                low=0.05,
                high=2.0,
                step=0.05,
            )
        if routing.popularity:

            def placement() -> None:
                session.change({"routing.placement": value_of("placement")})

            select("Placement", "placement", ("contiguous", "eplb"), routing.placement, placement)
        field(
            "Redundant experts",
            "redundant",
            "deployment.redundant_experts",
            scenario.deployment.redundant_experts,
            low=0,
            high=4096,
            step=max(scenario.deployment.ep, 1),
        )
        st.caption("How much each of these changes a step: page Experts.")


def _layout(scenario: Scenario) -> None:
    d = scenario.deployment

    def layout(*moved: str) -> None:
        names = ("gpus", "attention_tp", "moe_tp", *(("ffn_gpus",) if d.ffn_gpus else ()), *moved)
        read = {name: int(value_of(name)) for name in names}
        session.change_with(layout_changes, **read)

    with section("Layout: how GPUs share the work", "layout", ":material/grid_view:") as is_open:
        if not is_open:
            return
        powers = (1, 2, 4, 8, 16, 32, 64)
        counts = (1, 2, 4, 8, 16, 32, 64, 96, 128, 144, 256, 512)
        select(
            "GPUs of attention" if d.ffn_gpus else "GPUs per replica", "gpus", counts, d.stage_gpus, layout
        )
        if d.ffn_gpus:
            select("GPUs of FFNs", "ffn_gpus", counts, d.ffn_gpus, layout)
        left, right = st.columns(2)
        with left:
            select("Attention TP", "attention_tp", powers, d.attention_tp, layout)
            select("Expert TP", "moe_tp", powers, d.moe_tp, layout)
        with right:
            select("Dense TP", "dense_tp", powers, d.dense_tp, partial(layout, "dense_tp"))
            field("Pipeline stages", "pp", "deployment.pp", d.pp, low=1, high=32, step=1)
        st.caption(f"Attention DP {d.attention_dp}, experts EP {d.ep}, {d.num_gpus:,} GPUs in all.")


def _prices(scenario: Scenario) -> None:
    prices = scenario.prices

    def catalogued() -> None:
        picked = value_of("prices")
        if picked != OWN:
            session.change({"prices": picked})

    stated = scenario.prices.name
    entry = catalogue.entry("prices", stated) if stated in catalogue.names("prices") else {}
    own_price = prices.usd_per_gpu_hour != entry.get("usd_per_gpu_hour")
    with st.expander(f"Price: \\${prices.usd_per_gpu_hour:g} per GPU hour", icon=":material/payments:"):
        options = (*prices_of(scenario.cluster.gpu.name), OWN)
        select(
            "Price of the catalogue",
            "prices",
            options,
            OWN if own_price or stated not in options else stated,
            catalogued,
        )
        field(
            "$ per GPU hour",
            "price",
            "prices.usd_per_gpu_hour",
            float(prices.usd_per_gpu_hour),
            low=0.0,
            high=100.0,
            step=0.1,
        )
        if prices.source and not own_price:
            st.caption(plain(f"{prices.term}, {prices.date}: {prices.source}"))


def _numbers(scenario: Scenario) -> None:
    """Kernels and number formats."""
    d = scenario.deployment

    def text(name: str, path: str) -> Callable[[], None]:
        def changed() -> None:
            session.change({path: value_of(name) or '""'})

        return changed

    with section("Engine, kernels and formats", "engine", ":material/tune:") as is_open:
        if not is_open:
            return
        select(
            "Phase",
            "phase",
            ("decode", "prefill"),
            d.phase,
            text("phase", "deployment.phase"),
        )
        select(
            "Engine",
            "engine",
            ("", *names()),
            d.engine,
            lambda: session.change_with(engine_changes, value_of("engine") or ""),
            format_func=engine_title,
        )
        select(
            "Calibration",
            "calibration",
            ("", *catalogue.names("calibrations")),
            scenario.calibration,
            text("calibration", "calibration"),
            format_func=lambda name: name or "none: roofline",
        )
        left, right = st.columns(2)
        with left:
            select(
                "Attention core",
                "attention_dtype",
                ("bf16", "fp8"),
                d.precision.attention,
                text("attention_dtype", "deployment.precision.attention"),
            )
        with right:
            select(
                "KV cache",
                "kv_dtype",
                ("bf16", "fp8"),
                d.precision.kv_cache,
                text("kv_dtype", "deployment.precision.kv_cache"),
            )
        field("Seed", "seed", "seed", scenario.seed, low=0, high=10**9, step=1)

"""Training: days and dollars of a run, where a step's time goes, the pipeline drawn, memory of every stage."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import pandas as pd
import streamlit as st

from dashboard import session
from dashboard.any_key import key_field, named_in
from dashboard.asked import Asked, yaml_of
from dashboard.looks import tiles
from dashboard.names import cluster_title, gpu_title, model_title
from dashboard.results import Failed
from dashboard.show import caveats, chart, downloads, headline, plain
from dashboard.train_runs import Trained, page_of, trace_of, trained
from dashboard.words import TRAINING
from perfmodel.output.charts.shares import share_chart
from perfmodel.output.colours import EXPOSED, OP_CLASS_COLOURS, op_class_name
from perfmodel.output.formats import count, duration, percent, significant
from perfmodel.output.report.figure import dollars
from perfmodel.spec import catalogue
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import PipelineSchedule
from perfmodel.units import GB, GIGA, MEGA, MS, TERA

BUBBLE = OP_CLASS_COLOURS["waiting"]
OVERLAPS = {
    "none": "nothing hidden",
    "two-chunks": "two token chunks",
    "forward-backward": "a forward beside a backward",
}


def render(_: Scenario) -> None:
    """The page."""
    asked = session.training()
    scenario = asked.scenario()
    title = st.container()
    _controls(asked, scenario)
    found = trained(scenario)
    if isinstance(found, Failed):
        _refuse(found)
        return
    with title:
        headline(_heading(found))
        st.caption(plain(found.layout))
    _tiles(found)
    st.subheader(
        "Where a step's time goes", help="Mean over pipeline ranks. Orange: communication that nothing hides."
    )
    chart(_shares(found), "train-shares")
    st.subheader("The pipeline", help=TRAINING["pipeline"])
    chart(found.pipeline, "train-pipeline", zooms=True)
    st.subheader("Memory over a step", help="Per GPU, of some pipeline ranks; dotted: what the GPU has.")
    chart(found.memory, "train-memory", zooms=True)
    _tables(found)
    caveats(found.values)
    _take_away(asked, found)


def _heading(found: Trained) -> str:
    """The answer in a sentence."""
    values, training = found.values, found.scenario.training
    assert training is not None
    gpus = f"{values['num_gpus']:,} x {gpu_title(values['gpu'])}"
    name = model_title(found.scenario.model.name)
    if values["days"] is None:
        rate = significant(values["tokens_per_s"])
        return f"{name} on {gpus}: {rate} tokens/s, a step in {duration(values['step_time_s'])}."
    low, high = values["intervals"]["days"]
    cheap, dear = values["intervals"]["usd"]
    return (
        f"{name}, {_tokens(training.tokens)} tokens on {gpus}: {values['days']:.1f} days and {_dollars(values['usd'])} "
        f"(80 %: {low:.1f} to {high:.1f} days, {_dollars(cheap)} to {_dollars(dear)})."
    )


def _dollars(value: float) -> str:
    """Of a run: millions with as many digits as are known."""
    return f"${significant(value / MEGA)} M" if value >= MEGA else dollars(value)


def _tokens(value: float | None) -> str:
    assert value is not None
    return f"{value / TERA:g} T" if value >= TERA else f"{value / GIGA:g} G"


# --- controls --------------------------------------------------------------------------------------------------------


def _controls(asked: Asked, scenario: Scenario) -> None:
    training = scenario.training
    assert training is not None
    left, middle, right = st.columns(3)
    with left:
        _start(asked)
    with middle:
        _select("Model", "model", _models(), scenario.model.name, model_title)
    with right:
        _select("GPUs", "cluster", catalogue.names("clusters"), scenario.cluster.name, cluster_title)
    with tiles("train-run"):
        tokens = None if training.tokens is None else float(training.tokens)
        _number("Tokens of the run, T", "training.tokens", tokens, low=1e-6, step=1.0, scale=TERA)
        _whole("Sequences per step", "training.global_batch_sequences", training.global_batch_sequences)
        _whole("Tokens per sequence", "training.sequence_tokens", training.sequence_tokens, step=1024)
        price = float(scenario.prices.usd_per_gpu_hour)
        _number("$ per GPU hour", "prices.usd_per_gpu_hour", price, low=0.0, step=0.1)
        _select(
            "Products in",
            "training.precision",
            ("bf16", "fp8", "mxfp8", "nvfp4"),
            training.precision,
            str,
        )
    with st.expander("Layout: how GPUs share a step", icon=":material/grid_view:", expanded=True):
        with tiles("train-layout"):
            for label, key in (("Data", "dp"), ("Pipeline", "pp"), ("Tensor", "tp"), ("Context", "cp")):
                _whole(f"{label} parallelism", f"training.{key}", getattr(training, key))
            if scenario.model.moe is not None:
                _whole("Expert parallelism", "training.ep", training.ep)
        with tiles("train-order"):
            _select(
                "Order of micro-batches",
                "training.schedule",
                get_args(PipelineSchedule),
                training.schedule,
                str,
            )
            _whole("Chunks per rank", "training.virtual_stages", training.virtual_stages)
            _select(
                "Dispatch and combine", "training.moe_overlap", tuple(OVERLAPS), training.moe_overlap,
                OVERLAPS.__getitem__,
            )  # fmt: skip
            recompute = training.recompute if isinstance(training.recompute, str) else "some parts"
            _select("Computed again", "training.recompute", ("none", "full"), recompute, str)
            _select("Divided (ZeRO)", "training.zero", (0, 1, 2, 3), training.zero, str)
    f, c = training.failures, training.checkpoints
    with (
        st.expander("Failures and checkpoints", icon=":material/heart_broken:"),
        tiles("train-failures"),
    ):
        _number(
            "Failures per 1,000 GPU days",
            "training.failures.per_gpu_day",
            f.per_gpu_day,
            low=0.0,
            step=0.1,
            scale=1e-3,
        )
        _number("Restart, s", "training.failures.restart_s", f.restart_s, low=0.0, step=60.0)
        _number("A checkpoint stalls, s", "training.checkpoints.stall_s", c.stall_s, low=0.0, step=1.0)
        _whole("Spare nodes", "training.failures.spare_nodes", f.spare_nodes, low=0)


def _scenarios() -> tuple[str, ...]:
    return tuple(
        name for name in catalogue.names("scenarios") if "training" in catalogue.entry("scenarios", name)
    )


def _models() -> tuple[str, ...]:
    return tuple(name for name in catalogue.names("models") if not catalogue.model(name).unmodelled)


def _start(asked: Asked) -> None:
    names = _scenarios()

    def chosen() -> None:
        picked = st.session_state["train-start"]
        if picked is not None:
            session.ask_training(lambda _: Asked(picked))

    now = asked.name if asked.name in names and not asked.text else None
    st.session_state["train-start"] = now
    st.selectbox(
        "Start from",
        names,
        index=None,
        key="train-start",
        on_change=chosen,
        placeholder="your own",
        format_func=lambda name: str(catalogue.entry("scenarios", name).get("title", name)),
        help=plain(TRAINING["start"]),
    )
    if asked.sets:
        st.button(
            f"Back to it ({len(asked.sets)} changed)",
            key="train-back",
            type="tertiary",
            icon=":material/undo:",
            on_click=session.ask_training,
            args=(lambda now: replace(now, sets=()),),
        )


def _shown(path: str, value: Any) -> str:
    key = f"train-{path}"
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value
    return key


def _changed(path: str, scale: float | None) -> None:
    value = st.session_state[f"train-{path}"]
    if value is None:
        return
    text = str(value) if scale is None else _written(float(f"{value * scale:.12g}"))
    changes: dict[str, str | None] = {path: text}
    if path == "cluster":
        changes |= {"calibration": None, "prices": None}
    if path in ("training.pp", "training.virtual_stages", "model"):
        changes["training.stage_layers"] = "null"
    session.ask_training(lambda asked: asked.changed(changes))


def _written(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.12g}"


def _select(label: str, path: str, options: Sequence[Any], value: Any, words: Any) -> None:
    shown = list(options) if value in options else [value, *options]
    st.selectbox(
        label,
        shown,
        key=_shown(path, value),
        on_change=_changed,
        args=(path, None),
        format_func=words,
        help=plain(TRAINING.get(path.rpartition(".")[2], "")) or None,
    )


def _whole(label: str, path: str, value: int | None, *, step: int = 1, low: int = 1) -> None:
    st.number_input(
        label,
        min_value=low,
        max_value=10**9,
        value=None,
        step=step,
        key=_shown(path, value),
        on_change=_changed,
        args=(path, 1.0),
        placeholder="as needed",
        help=plain(TRAINING.get(path.rpartition(".")[2], "")) or None,
    )


def _number(
    label: str, path: str, value: float | None, *, low: float, step: float, scale: float = 1.0
) -> None:
    st.number_input(
        label,
        min_value=low,
        value=None,
        step=step,
        format="%g",
        key=_shown(path, None if value is None else float(f"{value / scale:.12g}")),
        on_change=_changed,
        args=(path, scale),
        placeholder="only a step",
        help=plain(TRAINING.get(path.rpartition(".")[2], "")) or None,
    )


MENDS = {
    ("training.recompute", "full"): "Compute everything again in the backward",
    ("training.zero", "2"): "Divide gradients too (ZeRO 2)",
    ("training.zero", "3"): "Divide weights too (ZeRO 3)",
}
"""Key and value that a refusal names -> what its button says."""


def _refuse(found: Failed) -> None:
    """The reason, with a button for what makes it fit, if the reason names that."""
    st.error(plain(found.text), icon=":material/block:")
    asked = session.training()
    way = re.search(r"with (training\.\S+?)(?: and (training\.\S+))? it would need", found.text)
    keys = [] if way is None else [key.partition("=") for key in way.groups() if key]
    with st.container(horizontal=True):
        if keys:
            st.button(
                " and ".join(MENDS[key, value] for key, _, value in keys),
                key="train-mend",
                icon=":material/build:",
                on_click=session.ask_training,
                args=(lambda now: now.changed({key: value for key, _, value in keys}),),
            )
        if asked.sets:
            st.button(
                "Leave the changes out",
                key="train-unchanged",
                icon=":material/undo:",
                on_click=session.ask_training,
                args=(lambda now: replace(now, sets=()),),
            )
    for path in named_in(found.text):
        key_field(asked.scenario(), path, "train-refusal", asked, _change)


def _change(changes: Mapping[str, str | None]) -> None:
    session.ask_training(lambda now: now.changed(changes))


# --- what it says ----------------------------------------------------------------------------------------------------

TILES = {
    "step time",
    "tokens/s per GPU",
    "MFU",
    "bubble",
    "exposed communication",
    "days",
    "$",
    "availability",
}


def _tiles(found: Trained) -> None:
    with tiles("train"):
        for what, value, _ in found.results:
            if what in TILES:
                bounds = {
                    "step time": ("step_time_s", duration),
                    "tokens/s per GPU": ("tokens_per_s_per_gpu", lambda one: count(round(one))),
                }.get(what)
                own = found.values["intervals"].get(bounds[0]) if bounds else None
                label = "$ in all" if what == "$" else what[0].upper() + what[1:]
                st.metric(
                    label,
                    f"${value}" if what == "$" and not value.startswith("$") else value,
                    f"{bounds[1](own[0])} to {bounds[1](own[1])}" if bounds and own else None,
                    delta_color="off",
                    delta_arrow="off",
                    help=plain(TRAINING[what]),
                )


def _shares(found: Trained) -> Any:
    total = found.values["step_time_s"]
    rows = []
    for name, seconds in found.values["breakdown_s"].items():
        exposed = name.startswith("exposed")
        label = name if exposed or name == "bubble" else op_class_name(name)
        label = label.replace(" dp", " DP").replace(" pp", " PP").replace(" tp", " TP").replace(" cp", " CP")
        colour = EXPOSED if exposed else BUBBLE if name == "bubble" else OP_CLASS_COLOURS.get(name, BUBBLE)
        words = f"{label}: {duration(seconds)}, {percent(seconds / total)} of the step"
        rows.append({"label": label, "value": seconds / MS, "colour": colour, "hover": words})
    return share_chart(rows, unit="time of a step, ms")


def _tables(found: Trained) -> None:
    values = found.values
    classes = list(values["memory_bytes"])
    memory = pd.DataFrame(
        [
            {
                "Rank": row["rank"],
                "Layers": "+".join(map(str, row["layers"])),
                **{name.replace("_", " ").capitalize(): row[name] / GB for name in classes},
                "Total": row["total"] / GB,
            }
            for row in values["memory_by_stage"]
        ]
    )
    with st.expander("Memory of every pipeline rank, GB"):
        st.dataframe(memory.round(1), hide_index=True, width="stretch")
    spares = (values["failures"] or {}).get("over_spares") if values["failures"] else None
    if spares:
        with st.expander("What spare nodes buy"):
            rows = pd.DataFrame(spares).rename(
                columns={"spare_nodes": "Spare nodes", "days": "Days", "availability": "Availability"}
            )
            st.dataframe(rows, hide_index=True, width="stretch")
    with st.expander("All figures"):
        rows = pd.DataFrame(found.results, columns=["Figure", "Value", "Interval or note"])
        st.dataframe(rows, hide_index=True, width="stretch")
        parts = pd.DataFrame(
            [
                {
                    "Part of a step": name,
                    "ms": seconds / MS,
                    "Share": percent(seconds / values["step_time_s"]),
                }
                for name, seconds in found.breakdown
            ]
        )
        st.dataframe(parts, hide_index=True, width="stretch")


def _take_away(asked: Asked, found: Trained) -> None:
    st.subheader("Take it along")
    st.code(asked.command("train"), language="bash", wrap_lines=True)
    downloads(pd.DataFrame(found.values["memory_by_stage"]), "training-memory")
    with st.container(horizontal=True):
        st.download_button(
            "Scenario (YAML)",
            partial(yaml_of, asked),
            "training.yaml",
            "application/yaml",
            on_click="ignore",
            key="train-yaml",
        )
        st.download_button(
            "Page (HTML)",
            lambda: page_of(found.scenario),
            "training.html",
            "text/html",
            on_click="ignore",
            key="train-html",
        )
        st.download_button(
            "Trace for Perfetto",
            lambda: trace_of(found.scenario),
            "training.json",
            "application/json",
            on_click="ignore",
            key="train-trace",
        )

"""Draws the pictures of docs/routing.md and docs/between_kernels.md with today's model (``make pictures``).

Needs Debian's chromium.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from calibrate.engines import skew
from perfmodel.engines.known_routing import fitted_skew
from perfmodel.load import load_scenario
from perfmodel.output.colours import OP_CLASS_COLOURS, op_class_name
from perfmodel.output.step.spans import op_runs
from perfmodel.routing.activation import activation
from perfmodel.routing.controller import ToyRouter, simulate
from perfmodel.routing.stability import linearise
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import predict_steps, simulate_step
from perfmodel.units import MS

HERE = Path(__file__).parent
SCENARIO = "longcat-flash-h800"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
"""Okabe and Ito's, told apart by colour-blind eyes."""
DASHES = ("solid", "dash", "dot", "dashdot")


def routing() -> go.Figure:
    """Real experts per token; EPLB's gain by skew; step time by skew and placement."""
    figure = make_subplots(
        cols=3,
        subplot_titles=(
            "Real experts of a LongCat-Flash token",
            "What EPLB gains, DeepSeek-V3 on H100",
            "A LongCat-Flash step, batch 96",
        ),
        horizontal_spacing=0.075,
    )
    for number, workload in enumerate(("gsm8k", "", "mmlu")):
        scenario = load_scenario(SCENARIO, [f"routing.workload={workload}"] if workload else [])
        assert scenario.model.moe is not None
        mean = scenario.mean_real_experts
        pmf = activation(scenario.model.moe, scenario.routing, mean)
        _line(figure, 1, number, list(range(len(pmf))), pmf, f"{workload or 'K_e'}: mean {mean:.2f}")
    exponents = np.arange(0.3, 1.21, 0.1)
    rows = skew.curve([float(one) for one in exponents])
    for number, (column, phase, measured) in enumerate(((1, "prefill", 1.49), (2, "decode", 2.54))):
        _line(figure, 2, number, exponents, [row[column] for row in rows], phase)
        figure.add_trace(
            go.Scatter(
                x=[fitted_skew("deepseek-v3")],
                y=[measured],
                mode="markers+text",
                text=[f"published {measured}"],
                textposition="top left" if number else "bottom right",
                marker={"color": COLOURS[number], "size": 11, "symbol": "x"},
                showlegend=False,
            ),
            row=1,
            col=2,
        )
    placements = {
        "in order": [],
        "EPLB": ["routing.placement=eplb"],
        "EPLB, 128 redundant": ["routing.placement=eplb", "deployment.redundant_experts=128"],
        "the same, 20 % drifted": [
            "routing.placement=eplb",
            "deployment.redundant_experts=128",
            "routing.drift=0.2",
        ],
    }
    points = np.arange(0.1, 1.01, 0.1)
    for number, (name, change) in enumerate(placements.items()):
        times = [
            float(
                predict_steps(
                    load_scenario(
                        SCENARIO, ["routing.popularity=power-law", f"routing.skew={one:.2f}", *change]
                    )
                ).step_time_s[0]
            )
            for one in points
        ]
        _line(figure, 3, number, points, np.array(times) / MS, name)
    _axes(figure, 1, "real experts", "share of tokens")
    _axes(figure, 2, "exponent of the power law", "throughput with EPLB / without")
    _axes(figure, 3, "exponent of the power law", "step time, ms")
    return figure


def controller() -> go.Figure:
    """The mean and the busiest expert over training steps, by gain; preferences shift half way."""
    router, steps, shift = ToyRouter(), 300, 150
    bound = linearise(router).critical_mu
    figure = make_subplots(
        cols=2,
        subplot_titles=(
            "Real experts per token, mean of a batch (K_e = 8)",
            "Load of a batch's busiest expert over the mean",
        ),
        horizontal_spacing=0.09,
    )
    for number, share in enumerate((0.0, 0.25, 0.5, 2.0)):
        history = simulate(router, mu=share * bound, steps=steps, shift_at=shift)
        name = "no controller" if not share else f"mu = {share:g} x the bound"
        for column, values in ((1, history.mean_real), (2, history.busiest)):
            _line(figure, column, number, list(range(steps)), values, name if column == 1 else "")
    for column in (1, 2):
        figure.add_vline(shift, line={"color": "#888", "dash": "dot"}, row=1, col=column)
    _axes(figure, 1, "batch; half of the preferences shift at 150", "real experts")
    _axes(figure, 2, "batch", "busiest / mean (log)")
    figure.update_yaxes(type="log", tickvals=[2, 5, 10, 20, 40], row=1, col=2)
    return figure


NODE = (
    "cluster=h200-ib", "calibration=h200-sxm", "deployment.engine=sglang", "deployment.attention_dp=1",
    "deployment.attention_tp=8", "deployment.dense_tp=8", "deployment.ep=8", "deployment.overlap=sequential",
    "deployment.redundant_experts=0", "deployment.mtp.draft_tokens=0", "deployment.prefill_requests_per_gpu=0.125",
    "deployment.batch_per_gpu=1", "deployment.host={launch_us: 20, uncounted_us: 0, node_us: 0, prepare_us: 1000}",
)  # fmt: skip
"""DeepSeek-V3 on one node, TP8; a host that takes 20 us per launch and 1 ms to prepare a step: round figures."""
PROMPT = "deployment.phase=prefill"
STEPS = {
    "A prompt of 128 tokens, eager": (
        PROMPT,
        "deployment.prefill_tokens=128",
        "deployment.host.prompts=eager",
    ),
    "The same from a graph": (PROMPT, "deployment.prefill_tokens=128", "deployment.host.prompts=graph"),
    "A decode step, batch 8, from a graph": ("deployment.host.decode=graph",),
}
SHOWN_MS = 3.0
"""How much of each step is drawn, from its start."""


def between_kernels() -> go.Figure:
    """The first milliseconds of three steps on host and GPU; step time by prompt length, eager and from a graph."""
    figure = make_subplots(
        rows=len(STEPS),
        cols=2,
        specs=[[{}, {"rowspan": len(STEPS)} if row == 0 else None] for row in range(len(STEPS))],
        column_widths=[0.63, 0.37],
        horizontal_spacing=0.07,
        vertical_spacing=0.13,
        subplot_titles=(next(iter(STEPS)), "One prompt, DeepSeek-V3 on 8 H200 (TP8)", *list(STEPS)[1:]),
    )
    named: set[str] = set()
    for row, changes in enumerate(STEPS.values(), start=1):
        runs = op_runs(simulate_step(load_scenario("deepseek-v3-h800", [*NODE, *changes])), 0)
        for run in (one for one in runs if one.start_s / MS < SHOWN_MS):
            name = op_class_name(run.launch.op_class)
            figure.add_trace(
                go.Bar(
                    x=[min(run.end_s / MS, SHOWN_MS) - run.start_s / MS],
                    base=[run.start_s / MS],
                    y=["host" if run.on_host else "GPU"],
                    orientation="h",
                    name=name,
                    legendgroup=name,
                    showlegend=name not in named,
                    marker={
                        "color": OP_CLASS_COLOURS[run.launch.op_class],
                        "line": {"color": "white", "width": 0.4},
                    },
                ),
                row=row,
                col=1,
            )
            named.add(name)
        figure.update_xaxes(range=[0, SHOWN_MS], title="ms" if row == len(STEPS) else None, row=row, col=1)
        figure.update_yaxes(categoryorder="array", categoryarray=["GPU", "host"], row=row, col=1)
    prompts = np.geomspace(16, 16384, 41)
    for number, (name, mode) in enumerate((("eager", "eager"), ("from a graph", "graph"))):
        swept = with_arrays(
            load_scenario("deepseek-v3-h800", [*NODE, PROMPT, f"deployment.host.prompts={mode}"]),
            {"deployment.prefill_tokens": prompts},
        )
        _line(figure, 2, number, prompts, predict_steps(swept).step_time_s / MS, name)
    figure.update_xaxes(
        type="log", tickvals=[16, 64, 256, 1024, 4096, 16384], title="prompt tokens", row=1, col=2
    )
    figure.update_yaxes(type="log", tickvals=[10, 20, 50, 100, 200, 500], title="step time, ms", row=1, col=2)
    figure.update_layout(barmode="overlay", bargap=0.25, legend={"orientation": "h"})
    return figure


def _line(figure: go.Figure, column: int, number: int, x: Any, y: Any, name: str) -> None:
    figure.add_trace(
        go.Scatter(
            x=list(x),
            y=list(y),
            name=name,
            legend=f"legend{column}" if column > 1 else "legend",
            showlegend=bool(name),
            mode="lines",
            line={"color": COLOURS[number], "dash": DASHES[number], "width": 2.2},
        ),
        row=1,
        col=column,
    )


def _axes(figure: go.Figure, column: int, x: str, y: str) -> None:
    figure.update_xaxes(title=x, row=1, col=column)
    figure.update_yaxes(title=y, row=1, col=column, rangemode="tozero")


def _save(figure: go.Figure, name: str, width: int, height: int, legends: list[tuple[float, float]]) -> None:
    """A picture of a figure; ``legends`` are the places of its panels' legends, in shares of the figure."""
    placed = {
        f"legend{number + 1}" if number else "legend": {
            "x": x, "y": y, "bgcolor": "rgba(255,255,255,0.8)", "font": {"size": 12},
        }
        for number, (x, y) in enumerate(legends)
    }  # fmt: skip
    figure.update_layout(
        template="plotly_white",
        width=width,
        height=height,
        margin={"l": 60, "r": 20, "t": 50, "b": 55},
        **placed,
    )
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        figure.write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
        subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--virtual-time-budget=5000", f"--window-size={width + 16},{height + 16}",
                f"--screenshot={HERE / name}", page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip


def main() -> None:
    """Draw them."""
    _save(routing(), "routing.png", 1400, 430, [(0.01, 0.98), (0.37, 0.98), (0.715, 0.98)])
    _save(controller(), "controller.png", 1200, 400, [(0.3, 0.35), (0.8, 0.98)])
    _save(between_kernels(), "between_kernels.png", 1400, 520, [(0.0, -0.1), (0.66, 0.98)])


if __name__ == "__main__":
    main()

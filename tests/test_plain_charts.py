"""Charts that are plain dicts: plotly checks them here, once, instead of at every redraw, and has nothing to change."""

import json

import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest

from dashboard.show import _Unchecked, on_dark, with_thousands
from perfmodel.explore.curve import batch_curve
from perfmodel.load import load_scenario
from perfmodel.output.charts.calibrations import errors_chart
from perfmodel.output.charts.curve import trade_off_chart, trade_offs_chart
from perfmodel.output.charts.money import money_chart
from perfmodel.output.charts.shares import breakdown_chart, memory_chart
from perfmodel.validation.published_points import published_points

PARTS = {"attention": 0.02, "dispatch": 0.03}


@pytest.fixture(scope="module")
def charts():
    scenario = load_scenario("longcat-flash-h800")
    curve = batch_curve(scenario)
    points = published_points(scenario)
    users, gpus = "tokens_per_s_per_user", "output_tokens_per_s_per_gpu"
    dollars = "usd_per_million_output_tokens"
    errors = pd.DataFrame(
        {"kernel": ["gemm"], "timed shapes": [9], "median error": [4.0], "90th percentile": [9.0]}
    )
    return {
        "throughput": trade_off_chart(curve, x=users, y=gpus, here=96, published=points),
        "cost": trade_off_chart(curve, x=users, y=dollars, here=96, published=points),
        "two": trade_offs_chart({"a": (curve, 96.0), "b": (curve, 8.0)}, x=users, y=dollars),
        "time": breakdown_chart(PARTS, unit="ms", scale=1e-3),
        "memory": memory_chart(
            {"weights": 3e10, "kv_cache": 2e10}, usable=7e10, device=8e10, unit="GB", scale=1e9
        ),
        "money": money_chart(PARTS),
        "errors": errors_chart([("one", errors), ("two", errors)]),
    }


def plain(figure):
    """As plotly.js reads it."""
    return json.loads(plotly.io.to_json(figure, validate=False))


NAMES = ("throughput", "cost", "two", "time", "memory", "money", "errors")


@pytest.mark.parametrize("name", NAMES)
def test_plotly_takes_them_as_they_are(charts, name):
    """It raises for a key or a value that it does not know, and drops or completes nothing."""
    assert set(charts) == set(NAMES)
    ours = plain(charts[name])
    assert ours == plain(go.Figure(charts[name]))
    assert ours["data"]
    assert plain(go.Figure(layout={"template": "none"}))["layout"]["template"] == ours["layout"]["template"]


@pytest.mark.parametrize("name", NAMES)
def test_streamlit_gets_what_is_drawn(charts, name):
    import plotly.tools

    figure = with_thousands(on_dark(charts[name]))
    given = plotly.tools.return_figure_from_figure_or_data(_Unchecked(figure), validate_figure=True)
    assert given is figure
    assert given["layout"]["xaxis"]["separatethousands"]
    assert (
        "separatethousands" not in charts[name]["layout"]["xaxis"]
    )  # charts may be kept: nobody changes them

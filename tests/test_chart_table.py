"""Every chart of the dashboard as a table: its own points, whichever way plotly has them."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from dashboard.chart_table import MOST_ROWS, table_of
from perfmodel.output.charts.offers import offers_chart
from perfmodel.output.charts.shares import breakdown_chart


def test_points_are_the_charts_under_the_names_of_its_axes():
    lines = [
        {
            "name": f"line {k}",
            "points": [{"speed": 10.0 * k + i, "usd": 1000.0 + i, "hover": "", "id": i} for i in range(3)],
        }
        for k in range(2)
    ]
    rows = table_of(offers_chart(lines, asked=12.0, y="usd", title="$ a month"))
    assert list(rows) == ["series", "tokens/s per user, at least", "$ a month"]
    assert list(rows["$ a month"]) == [1000.0, 1001.0, 1002.0] * 2
    assert list(rows.series) == ["line 0"] * 3 + ["line 1"] * 3


def test_parts_of_a_bar_have_their_names():
    rows = table_of(breakdown_chart({"attention": 0.02, "experts": 0.03}, unit="ms", scale=1e-3))
    assert list(rows.series) == ["attention", "experts"]
    assert [float(value) for value in rows.iloc[:, 1]] == pytest.approx([20.0, 30.0])


@pytest.mark.parametrize("as_dict", [False, True])
def test_arrays_are_read_as_plotly_packs_them(as_dict):
    figure = go.Figure(go.Scatter(x=np.arange(3.0), y=np.array([1.5, 2.5, 3.5])))
    rows = table_of(figure.to_dict() if as_dict else figure)
    assert list(rows["y"]) == [1.5, 2.5, 3.5]


def test_long_charts_are_cut_and_empty_ones_are_empty():
    assert len(table_of(go.Figure(go.Scatter(x=np.arange(9999), y=np.arange(9999))))) == MOST_ROWS
    assert isinstance(table_of(go.Figure()), pd.DataFrame)

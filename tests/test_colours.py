"""One colour, one meaning: what charts tell apart by colour, over all of them."""

from collections import defaultdict

import pandas as pd
import pytest

from perfmodel.output import colours
from perfmodel.output.charts.money import tornado_chart

MEANINGS = {
    "op class": colours.OP_CLASS_COLOURS,
    "stream": colours.STREAM_COLOURS,
    "memory class": colours.MEMORY_COLOURS,
    "latency": colours.LATENCY_COLOURS,
    "against the rate": colours.RATE_COLOURS,
    "load": colours.LOAD_COLOURS,
    "pass": colours.PASS_COLOURS,
    "mark": {
        name: getattr(colours, name)
        for name in (
            "EXPOSED",
            "PREDICTED",
            "HERE",
            "PUBLISHED",
            "INCREASE",
            "DECREASE",
            "API_PRICE",
            "TOTAL",
        )
    },
}
SAME = {
    frozenset({"host"}),  # as op class and as stream
    frozenset({"waiting", "waiting, decode"}),  # requests that wait, of one pool or of two
    frozenset({"in progress", "in progress, decode"}),
}


def test_no_colour_has_two_meanings():
    found = defaultdict(set)
    for own in MEANINGS.values():
        for name, colour in own.items():
            found[colour.upper()].add(str(getattr(name, "value", name)))
    assert {colour: names for colour, names in found.items() if len(names) > 1 and names not in SAME} == {}


@pytest.mark.parametrize(
    ("is_money", "less", "more"), [(True, "cheaper", "dearer"), (False, "faster", "slower")]
)
def test_a_tornado_says_by_colour_what_costs_more(is_money, less, more):
    """A lever whose high value is cheaper has the colours the other way round."""
    frame = pd.DataFrame(
        {
            "name": ["price", "batch"],
            "low": [0.8, 1.3],
            "high": [1.2, 0.7],
            "low_label": "low",
            "high_label": "high",
        }
    )
    low, high, *legend = tornado_chart(frame, base=1.0, title="cost", is_money=is_money).data
    assert list(low.marker.color) == [colours.DECREASE, colours.INCREASE]
    assert list(high.marker.color) == [colours.INCREASE, colours.DECREASE]
    assert {one.name: one.marker.color for one in legend} == {less: colours.DECREASE, more: colours.INCREASE}

"""What each colour means in charts: one thing (a test holds it), told apart with any kind of colour vision.

From Okabe and Ito's palette (https://jfly.uni-koeln.de/color/) and, for the rarer classes, Paul Tol's "muted" one
(https://personal.sron.nl/~pault/); what is no op class has tones beside theirs. Charts never rely on colour
alone: rows, labels and hover text say the same. Things of one kind beside each other, whose number and names
are a user's (models, clusters, suites), have SERIES.
"""

from perfmodel.ops.op import OpClass

OP_CLASS_COLOURS: dict[str, str] = {
    OpClass.ATTENTION: "#0072B2",
    OpClass.INDEXER: "#CC6677",
    OpClass.DENSE_FFN: "#56B4E9",
    OpClass.ROUTER: "#F0E442",
    OpClass.EXPERTS: "#E69F00",
    OpClass.DISPATCH: "#009E73",
    OpClass.COMBINE: "#CC79A7",
    OpClass.TP_COMMUNICATION: "#999933",
    OpClass.PIPELINE: "#8C564B",
    OpClass.HYPER_CONNECTIONS: "#882255",
    OpClass.NORM: "#9A9A9A",
    OpClass.EMBEDDING: "#DDCC77",
    OpClass.HEAD: "#AA4499",
    OpClass.DRAFT: "#7A6FD0",
    OpClass.CONTEXT_PARALLEL: "#44AA99",
    OpClass.DATA_PARALLEL: "#332288",
    OpClass.OPTIMIZER: "#117733",
    OpClass.HOST: "#6E6E6E",
    OpClass.WAITING: "#C8C8C8",
}
"""Op class -> colour."""

EXPOSED = "#D55E00"
"""Signal colour: communication that nothing hides."""

STREAM_COLOURS: dict[str, str] = {
    "compute": "#4477AA",
    "experts": "#CCBB44",
    "NVLink": "#228833",
    "network": "#EE6677",
    "host": "#6E6E6E",
}
"""Stream, as charts name it -> colour."""

SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6FD0")
"""Things of one kind beside each other, in order; lines are told apart by DASHES, too."""
SCENARIO_COLOURS = ("#8A8A8A", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6FD0")
"""Scenarios beside each other, in order; the first is what the others are compared with."""
DASHES = ("dash", "solid", "dot", "dashdot", "longdash", "solid", "dot", "dash")
"""Their lines, so that colour alone never tells them apart."""

PREDICTED = "#5B6FA3"
"""What perfmodel says."""
BAND = "rgba(91,111,163,0.18)"
"""Its 80 % interval."""
BAND_COLOUR = PREDICTED
"""The same where opacity is said apart, as in SVG."""
HERE = "#D81B60"
"""The scenario that is asked, among others."""
PUBLISHED = "#2B2B2B"
"""What somebody measured."""

OP_CLASS_NAMES: dict[str, str] = {
    OpClass.INDEXER: "indexer",
    OpClass.HYPER_CONNECTIONS: "hyper-connections",
    OpClass.DENSE_FFN: "dense FFN",
    OpClass.TP_COMMUNICATION: "TP communication",
    OpClass.PIPELINE: "pipeline communication",
    OpClass.CONTEXT_PARALLEL: "CP communication",
    OpClass.DATA_PARALLEL: "DP communication",
    OpClass.NORM: "norm",
}
"""Op class -> name for people, where it differs from the class's own."""

MEMORY_COLOURS: dict[str, str] = {
    "weights": "#6699CC",
    "kv_cache": "#EECC66",
    "activations": "#EE99AA",
    "communication_buffers": "#994455",
    "runtime": "#997700",
    "states": "#004488",
}
"""Memory class -> colour."""

MEMORY_NAMES: dict[str, str] = {"kv_cache": "KV cache", "communication_buffers": "communication buffers"}
"""Memory class -> name for people, where it differs from the class's own."""

STRIP = "#6B7280"
"""Bars that carry a label (stages, layers): grey, readable with white text on both themes."""

INCREASE, DECREASE, TOTAL = "#CC3311", "#009988", "#7F8894"
"""What adds to a figure (dearer, slower), what takes from it (cheaper, faster), and the figure itself."""
OWN_COST, API_PRICE = PREDICTED, "#AA6600"
"""One's own GPUs, and what somebody else asks."""
INTERVAL = "rgba(127,127,127,0.22)"
"""An 80 % interval behind other marks."""
INTERVAL_COLOUR = "#7F7F7F"
"""The same where opacity is said apart, as in SVG."""

LATENCY_COLOURS: dict[str, str] = {"TTFT": "#3366CC", "TPOT": "#DD7711", "E2E": "#2E8B57"}
"""Latency of a request -> colour."""
RATE_COLOURS: dict[str, str] = {"answered": "#6A5ACD", "cost": "#D37295"}
"""Against the rate, beside latencies: requests that are served (the good ones, where there are objectives), and what
their tokens cost -> colour.
"""
LOAD_COLOURS: dict[str, str] = {
    "waiting": "#B5533C",
    "in progress": "#5B7DB1",
    "decode batch": "#A0699F",
    "waiting, decode": "#B5533C",
    "in progress, decode": "#5B7DB1",
    "waiting, prefill": "#D9A441",
    "in progress, prefill": "#59A14F",
}
"""What a replica has to do -> colour."""
PASS_COLOURS: dict[str, str] = {
    "forward": "#88AADD",
    "backward": "#DDAA33",
    "input gradient": "#66AA88",
    "weight gradient": "#BB7799",
    "forward beside backward": "#9988CC",
    "gradients, optimizer, weights": "#555555",
}
"""What a rank of a training pipeline does -> colour."""
IDEAL = "#8A8A8A"
"""What would be if every request were good."""


def op_class_name(op_class: str) -> str:
    """An op class for people."""
    return OP_CLASS_NAMES.get(op_class, op_class.replace("_", " "))


def memory_name(memory_class: str) -> str:
    """A memory class for people."""
    return MEMORY_NAMES.get(memory_class, memory_class.replace("_", " "))


def text_on(colour: str) -> str:
    """Black or white, whichever contrasts more with ``#RRGGBB`` (relative luminance of WCAG 2.1)."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#FFFFFF"

"""Colours of op classes and memory classes, told apart with any kind of colour vision, on light and on dark.

From Okabe and Ito's palette (https://jfly.uni-koeln.de/color/) and, for the rarer classes, Paul Tol's "muted" one
(https://personal.sron.nl/~pault/). Charts never rely on colour alone: rows, labels and hover text say the same.
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
    "compute": "#0072B2",
    "experts": "#E69F00",
    "NVLink": "#009E73",
    "network": "#CC79A7",
    "host": "#6E6E6E",
}
"""Stream, as charts name it -> colour."""

SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6FD0")
"""Things of one kind beside each other, in order; lines are told apart by DASHES, too."""
SCENARIO_COLOURS = ("#8A8A8A", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6FD0")
"""Scenarios beside each other, in order; the first is what the others are compared with."""
DASHES = ("dash", "solid", "dot", "dashdot", "longdash", "solid", "dot", "dash")
"""Their lines, so that colour alone never tells them apart."""

PREDICTED = "#0072B2"
"""What perfmodel says."""
BAND = "rgba(0,114,178,0.18)"
"""Its 80 % interval."""
BAND_COLOUR = PREDICTED
"""The same where opacity is said apart, as in SVG."""
HERE = "#D55E00"
"""The scenario that is asked, among others."""
PUBLISHED = "#009E73"
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
    "weights": "#0072B2",
    "kv_cache": "#E69F00",
    "activations": "#009E73",
    "communication_buffers": "#CC79A7",
    "runtime": "#56B4E9",
    "states": "#AA4499",
}
"""Memory class -> colour."""

MEMORY_NAMES: dict[str, str] = {"kv_cache": "KV cache", "communication_buffers": "communication buffers"}
"""Memory class -> name for people, where it differs from the class's own."""

STRIP = "#6B7280"
"""Bars that carry a label (stages, layers): grey, readable with white text on both themes."""

LOW_END, HIGH_END = "#56B4E9", "#E69F00"
"""The two ends of a lever's range."""
INCREASE, DECREASE, TOTAL = "#D55E00", "#0072B2", "#7F8894"
"""What adds to a figure, what takes from it, and the figure itself."""
OWN_COST, API_PRICE = "#0072B2", "#D55E00"
"""One's own GPUs, and what somebody else asks."""
INTERVAL = "rgba(127,127,127,0.22)"
"""An 80 % interval behind other marks."""
INTERVAL_COLOUR = "#7F7F7F"
"""The same where opacity is said apart, as in SVG."""

LATENCY_COLOURS: dict[str, str] = {"TTFT": "#0072B2", "TPOT": "#E69F00", "E2E": "#009E73"}
"""Latency of a request -> colour."""
RATE_COLOURS: dict[str, str] = {"answered": "#7A6FD0", "cost": "#CC79A7"}
"""Against the rate, beside latencies: requests that are served (the good ones, where there are objectives), and what
their tokens cost -> colour.
"""
LOAD_COLOURS: dict[str, str] = {
    "waiting": "#D55E00",
    "in progress": "#0072B2",
    "decode batch": "#CC79A7",
    "waiting, decode": "#D55E00",
    "in progress, decode": "#0072B2",
    "waiting, prefill": "#E69F00",
    "in progress, prefill": "#009E73",
}
"""What a replica has to do -> colour."""
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

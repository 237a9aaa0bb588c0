"""Hyper-connections: what several residual streams cost around every part of a layer. Counts per GPU.

Before a part a product with all streams gives weights; the streams are summed with some of them. Behind it others mix
the streams and add the part's output to each (mHC, arXiv 2512.24880; weights in FP32, as in transformers' deepseek_v4).
"""

from perfmodel.numeric import Num
from perfmodel.ops.build import memory_bound
from perfmodel.ops.op import Op, OpClass
from perfmodel.spec.deployment import Precision
from perfmodel.spec.model import HyperConnections

WEIGHT_BYTES = 4.0


def before(streams: HyperConnections, prefix: str, *, rows: Num, hidden: int, precision: Precision) -> Op:
    """Weights from all streams, and their sum: reads the streams and its weights, writes one stream."""
    n = streams.num_streams
    moved = (
        precision.activation_bytes * rows * (n + 1.0) * hidden + WEIGHT_BYTES * outputs(streams) * n * hidden
    )
    return memory_bound(
        f"{prefix}.streams_in",
        OpClass.HYPER_CONNECTIONS,
        "mhc_pre",
        hbm_bytes=moved,
        dtype=precision.activations,
        shape={"rows": rows, "width": hidden, "streams": n},
        flops=2.0 * rows * n * hidden * (outputs(streams) + 1.0),
    )


def behind(streams: HyperConnections, prefix: str, *, rows: Num, hidden: int, precision: Precision) -> Op:
    """The streams' mixture and the addition of the part's output: reads both, writes the streams."""
    n = streams.num_streams
    per_element = 2.0 * n * (n if streams.mixes_streams else 1) + 2.0 * n
    return memory_bound(
        f"{prefix}.streams_out",
        OpClass.HYPER_CONNECTIONS,
        "mhc_post",
        hbm_bytes=precision.activation_bytes * rows * (2.0 * n + 1.0) * hidden,
        dtype=precision.activations,
        shape={"rows": rows, "width": hidden, "streams": n},
        flops=rows * hidden * per_element,
    )


def outputs(streams: HyperConnections) -> int:
    """Weights per token and part: one per stream before and behind, and the mixture's matrix."""
    n = streams.num_streams
    return (2 + n) * n if streams.mixes_streams else 2 * n


def site_parameters(streams: HyperConnections, hidden: int) -> int:
    """Weights around one part: the projection, its biases, and a scale per kind of weight."""
    kinds = 3 if streams.mixes_streams else 2
    return outputs(streams) * (streams.num_streams * hidden + 1) + kinds


def head_parameters(streams: HyperConnections, hidden: int) -> int:
    """Weights of the gate that sums the streams before the final norm."""
    n = streams.num_streams
    return n * n * hidden + n + 1 if streams.head else 0

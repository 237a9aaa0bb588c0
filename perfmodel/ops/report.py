"""A layer as the report's Table 7 counts it (``costs: report``)."""

from collections.abc import Sequence
from dataclasses import replace

from perfmodel.numeric import Num
from perfmodel.ops.layer import LayerOps
from perfmodel.ops.moe import MoeOps
from perfmodel.ops.op import OpClass


def report_layer(layer: LayerOps) -> LayerOps:
    """The layer with router, shared and routed experts fused into one op, at the experts' peak.

    The table's MoE row is the FLOPs of routed and shared experts and of the router over the FP8 peak (derived from all
    three columns: docs/table7.md). A dense layer is its attention alone: that is how DeepSeek-V3's three
    reproduce the printed TPOT.
    """
    moe = layer.moe
    if moe is None:
        return replace(layer, ffns=())
    parts = (*moe.router, *moe.shared, *moe.experts)
    gemm = next(op for op in moe.experts if op.kernel == "grouped_gemm")
    fused = replace(
        gemm,
        name="experts.moe",
        op_class=OpClass.EXPERTS,
        flops=_total([op.flops for op in parts]),
        hbm_bytes=_total([op.hbm_bytes for op in parts]),
    )
    return replace(layer, moe=MoeOps((), moe.dispatch, (), (fused,), moe.combine, moe.holds_sms))


def _total(values: Sequence[Num]) -> Num:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total

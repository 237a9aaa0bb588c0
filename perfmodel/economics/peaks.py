"""Work over peaks: what MFU and MBU are sums of."""

from collections.abc import Callable

from perfmodel.numeric import Num
from perfmodel.ops.apart import on_ffns
from perfmodel.ops.op import Op, OpClass
from perfmodel.spec.hardware import Gpu
from perfmodel.spec.scenario import Scenario


def gpus_of_ops(scenario: Scenario) -> Callable[[Op], Gpu]:
    """The GPU that each op of a scenario's step runs on."""
    own, ffns = scenario.cluster.gpu, scenario.ffn_cluster.gpu
    return lambda op: ffns if on_ffns(op) else own


def peak_seconds(op: Op, gpu: Gpu) -> Num:
    """FLOPs over the peak of the op's dtype, s; their sum over time is MFU."""
    if op.op_class == OpClass.HOST or op.is_communication:
        return 0.0
    return op.flops / gpu.peak_flops(op.dtype)


def hbm_seconds(op: Op, gpu: Gpu) -> Num:
    """HBM bytes over the peak bandwidth, s; their sum over time is MBU."""
    return op.hbm_bytes / gpu.hbm_bytes_per_s

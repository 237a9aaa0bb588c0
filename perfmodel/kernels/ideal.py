"""How long an op would take at its device's peaks: what utilisation is measured against."""

from perfmodel.numeric import Num
from perfmodel.ops.op import Op, OpClass
from perfmodel.spec.hardware import Gpu


def peak_seconds(op: Op, gpu: Gpu) -> Num:
    """FLOPs over the peak of the op's type; communication and host compute nothing."""
    if op.op_class == OpClass.HOST or op.is_communication:
        return 0.0
    return op.flops / gpu.peak_flops(op.dtype)


def memory_seconds(op: Op, gpu: Gpu) -> Num:
    """Bytes of device memory over its bandwidth."""
    return op.hbm_bytes / gpu.hbm_bytes_per_s

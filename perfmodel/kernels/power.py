"""What a GPU draws in a kernel, and how far its clock falls under a power cap.

Dynamic power is C V^2 f, and voltage falls with the clock, so above idle power a kernel draws as the cube of its clock
[the usual law of dynamic voltage and frequency scaling; near the lowest voltage power falls less]. A kernel that would
draw more than the cap runs at the clock at which it draws just that; the time of its arithmetic grows with 1 / clock,
bytes take as long as before. Kernel by kernel: a controller that averages over more of them slows the hungriest less.
"""

from dataclasses import replace

from perfmodel.kernels.timing import Timing
from perfmodel.ops.op import Op, OpClass
from perfmodel.spec.hardware import Gpu
from perfmodel.spec.power import KernelPower, Power

EXPONENT = 3.0
"""Of the clock in dynamic power."""
LIKE = {
    "bmm": "gemm",
    "mla_prefill": "gqa_prefill",
    "mla_sparse_decode": "mla_decode",
    "mla_sparse_prefill": "gqa_prefill",
}
"""Kernel class -> the one whose watts stand for it."""
NEAREST = {"mxfp4": "fp4", "mxfp8": "fp8", "int8": "fp8-tensor", "int4": "bf16", "fp32": "bf16"}
"""Number format -> the one whose watts stand for it."""


def kernel_power(op: Op, power: Power) -> KernelPower | None:
    """What is known of a kernel's watts: of its class and number format, or of its class."""
    kernel = LIKE.get(op.kernel, op.kernel)
    names = (f"{kernel} {op.dtype}", f"{kernel} {NEAREST.get(op.dtype, op.dtype)}", kernel)
    return next((power.kernels[name] for name in names if name in power.kernels), None)


def kernel_watts(op: Op, timing: Timing, gpu: Gpu, power: Power) -> float:
    """What a kernel draws at full clocks, beyond its latency, W; numbers, no arrays. ``gpu`` states its limits."""
    assert gpu.tdp_w is not None, "checked with the scenario"
    compute, memory = float(timing.compute_s), float(timing.memory_s)
    seconds = max(compute, memory)
    if op.op_class == OpClass.HOST or op.is_communication or seconds == 0.0:
        return 0.0
    own = kernel_power(op, power)
    if own is None:
        return gpu.tdp_w * (power.compute if compute > memory else power.memory)
    peak_s = float(op.flops) / gpu.peak_flops(op.dtype)
    hbm_s = float(op.hbm_bytes) / gpu.hbm_bytes_per_s
    joules = own.floor_w * seconds + own.compute_w * peak_s + own.memory_w * hbm_s
    return min(joules / seconds, gpu.tdp_w)


def clock_under(cap_w: float, watts: float, idle_w: float) -> float:
    """Share of its clock at which a kernel of so many watts keeps a cap above idle power."""
    if watts <= cap_w:
        return 1.0
    share: float = ((cap_w - idle_w) / (watts - idle_w)) ** (1.0 / EXPONENT)
    return share


def capped(op: Op, timing: Timing, gpu: Gpu, power: Power, cap_w: float) -> Timing:
    """The kernel's time where its GPU draws at most ``cap_w``, above idle power."""
    assert gpu.idle_w is not None, "checked with the scenario"
    clock = clock_under(cap_w, kernel_watts(op, timing, gpu, power), gpu.idle_w)
    return timing if clock == 1.0 else replace(timing, compute_s=timing.compute_s / clock)

"""What the update of one pipeline rank's weights takes, on the GPU and on its host."""

from collections.abc import Callable
from dataclasses import dataclass

from perfmodel.kernels.power import capped
from perfmodel.kernels.timing import Timing
from perfmodel.numeric import Num, maximum
from perfmodel.ops.build import gemm
from perfmodel.ops.op import Op, OpClass
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training.offload import host_update_s
from perfmodel.training.parameters import Parameters
from perfmodel.training.traffic import muon_flops, optimizer_ops


@dataclass(frozen=True, slots=True)
class Update:
    """Seconds of one update."""

    device_s: Num
    host_s: Num
    """What the host takes beyond the GPU's part, which it works beside."""


def update_s(
    parameters: Parameters, training: Training, scenario: Scenario, alone: Callable[[Op], Num]
) -> Update:
    """The update of ``parameters``, numbers or arrays (ranks,); ``alone`` costs an op.

    The norm comes first: nothing is updated before it. Then the GPU and the host update their parts beside each other.
    """
    ops = optimizer_ops(parameters, training)
    device: Num = sum(alone(op) for op in ops)
    if training.optimizer.kind == "muon":
        device = device + _iterations_s(parameters, training, scenario)
    if not training.offload.optimizer_fraction:
        return Update(device, 0.0 * device)
    return Update(device, maximum(host_update_s(parameters, training, scenario) - alone(ops[-1]), 0.0))


def _iterations_s(parameters: Parameters, training: Training, scenario: Scenario) -> Num:
    """Muon's matrix iterations at the BF16 peak, at the clock that a power cap leaves."""
    gpu, width = scenario.cluster.gpu, scenario.model.hidden_size
    seconds: Num = muon_flops(parameters, training, width) / gpu.peak_flops("bf16")
    if training.power_cap_w is None or scenario.power is None:
        return seconds
    product = gemm("muon", OpClass.OPTIMIZER, m=width, n=width, k=width, dtype="bf16")
    alone = Timing(compute_s=product.flops / gpu.peak_flops("bf16"))
    slower = capped(product, alone, gpu, scenario.power, training.power_cap_w).seconds / alone.seconds
    return seconds * slower

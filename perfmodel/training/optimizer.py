"""What the update of one pipeline rank's weights takes, on the GPU and on its host."""

from collections.abc import Callable
from dataclasses import dataclass

from perfmodel.numeric import Num, maximum
from perfmodel.ops.op import Op
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
        width = scenario.model.hidden_size
        device = device + muon_flops(parameters, training, width) / scenario.cluster.gpu.peak_flops("bf16")
    if not training.offload.optimizer_fraction:
        return Update(device, 0.0 * device)
    return Update(device, maximum(host_update_s(parameters, training, scenario) - alone(ops[-1]), 0.0))

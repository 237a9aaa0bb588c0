"""What lies in the host's memory: optimizer state that the host updates, and activations that wait there for their
backward.

Transfers take PCIe's (or C2C's) bandwidth, ``cluster.gpu.host_gb_per_s``, one way each; up and down run beside each
other. The host's update is bound by its main memory, of which each GPU of a node has an equal part.
"""

from functools import cache
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.numeric import Num, maximum
from perfmodel.spec import catalogue
from perfmodel.spec.documents import read_document
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training.parameters import Parameters
from perfmodel.training.traffic import WEIGHT_BYTES, state_bytes_per_parameter, update_bytes, updated
from perfmodel.units import GB

HOST_SHARE = 0.46
"""Share of a host's peak memory bandwidth that an update in its processors reaches: median over the five sizes of
DeepSpeed's CPU-Adam (arXiv 2101.06840, table 4: 1, 2, 4, 8 and 10 billion weights in 0.22, 0.51, 1.03, 2.41 and 2.57
s) on a DGX-2, two Xeon 8168 with six channels of DDR4-2666 each, 256 GB/s, at 30 bytes per weight (FP32 weight and
moments read and written, gradient read, FP16 weight written): 0.39 to 0.53. The table is quoted from memory: the paper
could not be fetched when this was written."""


def transfer_bytes_per_s(scenario: Scenario) -> float:
    """Bandwidth between one GPU and its host in one direction, bytes/s.

    Raises:
        SpecError: the GPU does not state it.
    """
    gpu = scenario.cluster.gpu
    if gpu.host_gb_per_s is None:
        raise SpecError(
            f"training.offload needs cluster.gpu.host_gb_per_s, which {gpu.name} does not state; e.g. "
            "--set cluster.gpu.host_gb_per_s=64 for PCIe 5.0 x16"
        )
    return gpu.host_gb_per_s * GB


def host_bytes_per_s(scenario: Scenario, training: Training) -> float:
    """One GPU's part of its host's memory bandwidth, at its peak, bytes/s.

    Raises:
        SpecError: neither stated nor known for the GPU.
    """
    stated = training.offload.host_memory_gb_per_s
    if stated is not None:
        return stated * GB / scenario.cluster.node.num_gpus
    for host in hosts().values():
        if scenario.cluster.gpu.name in host["gpus"]:
            own: float = host["gb_per_s"] * GB / host["node_gpus"]
            return own
    raise SpecError(
        f"training.offload.host_memory_gb_per_s: missing, and no server of {scenario.cluster.gpu.name} is known; state "
        "the bandwidth of a node's main memory, e.g. 614.4 for two sockets of eight channels of DDR5-4800"
    )


@cache
def hosts() -> dict[str, dict[str, Any]]:
    """Servers whose main memory is known."""
    return read_document(catalogue.DATA / "hosts.yaml")


def host_update_s(parameters: Parameters, training: Training, scenario: Scenario) -> Num:
    """What the host's part of an update takes, s: gradients down, the update, weights up; one after the other, or the
    longest of them where they overlap.
    """
    offload, optimizer = training.offload, training.optimizer
    own = offload.optimizer_fraction * updated(parameters, training)
    if not offload.optimizer_fraction:
        return 0.0
    wire = transfer_bytes_per_s(scenario)
    down = BYTES_PER_ELEMENT[optimizer.gradients] * own / wire
    up = WEIGHT_BYTES * own / wire
    update = update_bytes(optimizer) * own / (HOST_SHARE * host_bytes_per_s(scenario, training))
    return maximum(maximum(down, up), update) if offload.overlap else down + update + up


def host_state_bytes(parameters: Parameters, training: Training) -> Num:
    """Optimizer state and gradients that the host holds for one GPU, bytes."""
    size = state_bytes_per_parameter(training.optimizer) + BYTES_PER_ELEMENT[training.optimizer.gradients]
    return training.offload.optimizer_fraction * size * updated(parameters, training)


def activations_copy_s(saved: Num, training: Training, scenario: Scenario) -> Num:
    """Time in which a stage's offloaded activations of one micro-batch travel, one way, s; ``saved``: bytes that its
    layers keep.
    """
    fraction = training.offload.activations_fraction
    return fraction * saved / transfer_bytes_per_s(scenario) if fraction else 0.0 * saved

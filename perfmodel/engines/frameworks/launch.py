"""How a training layout is started: the whole command of each framework."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from perfmodel.engines.frameworks.documents import framework
from perfmodel.engines.frameworks.flags import TrainLaunch
from perfmodel.engines.frameworks.megatron_launch import megatron_launch
from perfmodel.engines.frameworks.torchtitan_launch import torchtitan_launch
from perfmodel.spec.model import Model
from perfmodel.spec.training import Training

WRITERS: Mapping[str, Callable[[Training, Model, Sequence[int]], TrainLaunch]] = {
    "megatron": megatron_launch,
    "torchtitan": torchtitan_launch,
}
"""Frameworks whose commands are written."""


@dataclass(frozen=True, slots=True)
class TrainCommand:
    """A layout as the command that starts it on every node."""

    framework: str
    """With its release."""
    command: str
    """On lines that continue."""
    cannot: tuple[str, ...]
    """What of the layout it does not say."""
    sources: tuple[str, ...]
    """Where its flags were read."""


def train_command(
    name: str, training: Training, model: Model, stages: Sequence[int], gpus_per_node: int
) -> TrainCommand:
    """A layout's command.

    Args:
        name: megatron or torchtitan.
        training: the layout.
        model: what is trained.
        stages: layers of each pipeline stage.
        gpus_per_node: of the cluster.
    """
    document = framework(name)
    found = WRITERS[name](training, model, stages)
    per_node = min(gpus_per_node, training.num_gpus)
    start = f"torchrun --nproc_per_node {per_node} --nnodes {-(-training.num_gpus // per_node)}"
    program = "pretrain_gpt.py" if name == "megatron" else "-m torchtitan.train"
    # Megatron-LM asks for it on GPUs before Blackwell (validate_args), but where FSDP or pairs want more queues
    queues = name == "megatron" and max(training.tp, training.cp) > 1 and training.zero < 2
    before = "CUDA_DEVICE_MAX_CONNECTIONS=1 " if queues and training.moe_overlap == "none" else ""
    return TrainCommand(
        document["framework"],
        " \\\n  ".join((f"{before}{start} {program}", *found.flags)),
        found.cannot,
        tuple(document["sources"].values()),
    )

"""The command that starts a training step that was simulated."""

from dataclasses import asdict
from typing import Any

from perfmodel.engines.frameworks.launch import WRITERS, train_command
from perfmodel.errors import SpecError
from perfmodel.training.layout import stage_layers
from perfmodel.training.step import TrainingStep


def check_framework(name: str) -> None:
    """Refuses a framework whose commands are not written.

    Raises:
        SpecError: as said.
    """
    if name not in ("", *WRITERS):
        raise SpecError(f"--launch {name[:40]}: must be one of {', '.join(WRITERS)}")


def launch_of(step: TrainingStep, framework: str) -> dict[str, Any]:
    """``framework`` with its release, ``command``, ``cannot`` (what of the layout it does not say) and ``sources``."""
    model = step.scenario.model
    stages = [len(layers) for layers in stage_layers(model, step.training)]
    node = step.scenario.cluster.node.num_gpus
    return asdict(train_command(framework, step.training, model, stages, node))


def launches_of(step: TrainingStep) -> dict[str, dict[str, Any]]:
    """The same of every framework, by its name."""
    return {name: launch_of(step, name) for name in WRITERS}

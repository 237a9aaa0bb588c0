"""A command that starts a training run: whose it is, its flags, how many processes it starts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfmodel.engines.frameworks import bridge, megatron, torchtitan
from perfmodel.engines.frameworks.documents import framework
from perfmodel.engines.frameworks.line import Trainer, commands_of, flags_of, launched
from perfmodel.spec.model import Model

KINDS = (
    "torchrun ... pretrain_gpt.py --tensor-model-parallel-size ... (Megatron-LM)",
    "torchrun ... run_recipe.py --recipe NAME -tp ... (Megatron-Bridge)",
    "CONFIG_FILE=FILE.toml ./run_train.sh --parallelism.tensor_parallel_degree=... (torchtitan)",
)
"""What is read, in words."""


@dataclass(frozen=True, slots=True)
class Command:
    """What starts a training run."""

    framework: str
    """megatron, bridge or torchtitan."""
    flags: Mapping[str, tuple[str, ...]]
    """Name without dashes -> values; of torchtitan's file, too."""
    gpus: int | None
    """Processes that it starts; None: it does not say, or by variables."""
    stem: str = ""
    """Of Megatron-Bridge: the model in the recipe's name."""
    own_file: bool = False
    """Of torchtitan: whether settings are also those of the file that its script takes where none is named."""

    def stated_model(self) -> tuple[str | dict[str, Any], list[str]]:
        """The model that the command says, as a scenario states it, and notes on it.

        Raises:
            SpecError: it says none that is known here.
        """
        if self.framework == "megatron":
            return megatron.stated_model(self.flags)
        if self.framework == "bridge":
            return bridge.stated_model(self.stem), []
        return torchtitan.stated_model(self.flags), []

    def read(self, gpus: int, model: Model, *, named: bool) -> Trainer:
        """Its flags as keys of ``training``.

        Args:
            gpus: of the run.
            model: what is trained.
            named: whether the model was given beside the command.

        Raises:
            SpecError: flags that contradict each other, products that do not divide, values that mean nothing.
        """
        if self.framework == "megatron":
            return megatron.read_megatron(self.flags, gpus, model, named=named)
        if self.framework == "bridge":
            trainer = megatron.read_megatron(self.flags, gpus, model, named=True)
            trainer.framework = framework("bridge")["framework"]
            trainer.notes.insert(0, bridge.NOTE)
            return trainer
        trainer = torchtitan.read_torchtitan(self.flags, gpus, model, named=named)
        if self.own_file:
            trainer.notes.insert(0, torchtitan.OWN_FILE)
        return trainer


def training_command(text: str) -> Command | None:
    """The training run that a command starts; None: it starts none that is known.

    Raises:
        SpecError: a quotation that does not end, a variable of the shell where flags must stand.
        DataError: a file of settings that can't be read.
    """
    for words in commands_of(text):
        found = _started(words)
        if found is not None:
            return found
    return None


def _started(words: list[str]) -> Command | None:
    """The training run that one command starts, itself or by a shell that it starts (``srun bash -c "..."``)."""
    variables = {}
    while words and (match := re.match(r"([A-Za-z_]\w*)=(.*)", words[0], flags=re.DOTALL)):
        variables[match[1]] = match[2]
        words = words[1:]
    program = _place(words, megatron.PROGRAM)
    if program is not None:
        flags = flags_of(words[program + 1 :])
        flags = {name.replace("_", "-"): values for name, values in flags.items()}
        return Command("megatron", flags, launched(words[:program], variables))
    program = _place(words, bridge.PROGRAM)
    if program is not None:
        flags, stem, gpus = bridge.megatron_flags(words[program + 1 :])
        return Command("bridge", flags, launched(words[:program], variables) or gpus, stem)
    program = _place(words, torchtitan.PROGRAM)
    if program is not None:
        given, script = flags_of(words[program + 1 :]), words[program].endswith(".sh")
        flags = torchtitan.all_flags(given, variables, script=script)
        own_file = script and not torchtitan.names_file(given, variables)
        return Command("torchtitan", flags, _of_script(words, program, variables), own_file=own_file)
    if "-c" in words[:-1] and (inner := words[words.index("-c") + 1]) and len(inner) < len(" ".join(words)):
        found = training_command(inner)
        if found is not None:
            return replace(found, gpus=found.gpus or launched(words[: words.index("-c")], variables))
    return None


def _place(words: Sequence[str], program: re.Pattern[str]) -> int | None:
    return next((i for i, word in enumerate(words) if program.search(word)), None)


def _of_script(words: Sequence[str], program: int, variables: Mapping[str, str]) -> int | None:
    """Processes of torchtitan: those of its script's ``NGPU``, or of torchrun."""
    if words[program].endswith(".sh"):
        number = variables.get("NGPU", "")
        return int(number) if number.isdigit() and 0 < int(number) < 10**6 else None
    return launched(words[:program], variables)

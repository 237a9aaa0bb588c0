"""A first training scenario from the line that starts the run: its layout, batches, formats and overlaps as keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.engines.frameworks.command import Command
from perfmodel.engines.frameworks.line import Trainer
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.explore.first import NO_PRICE, model_named, parse_gpus
from perfmodel.load import build_scenario
from perfmodel.spec import catalogue
from perfmodel.spec.model import Model
from perfmodel.spec.scenario import Scenario
from perfmodel.training.layout import stage_layers, training_of
from perfmodel.training.supported import check_model

MOST_GPUS = 131_072
ORDER = ("tokens", "sequence_tokens", "global_batch_sequences", "batch_ramp", "micro_batch_sequences", "tp", "cp", "dp",
         "pp", "ep", "etp")  # fmt: skip
"""Keys of ``training`` that come first in a file."""


@dataclass(frozen=True, slots=True)
class TrainAsk:
    """What somebody knows of a run."""

    command: Command
    text: str
    """The command as it was given."""
    gpus: str
    """``256xh100``: how many, and a GPU or cluster of the catalogue."""
    model: str = ""
    """A catalogue name or the path of a config, where the command does not say it."""
    usd_per_gpu_hour: float | None = None


@dataclass(frozen=True, slots=True)
class FirstTraining:
    """A scenario that ``perfmodel train`` takes."""

    document: dict[str, Any]
    """What its file states."""
    scenario: Scenario
    trainer: Trainer
    """Which flag says what, and what no key says."""
    notes: tuple[str, ...]
    """What a user should know or decide."""


def first_training(ask: TrainAsk) -> FirstTraining:
    """The scenario of a training run's command.

    Raises:
        SpecError: an unknown name, a model that nothing says, flags that contradict each other, products that do not
            divide.
        DataError, UnsupportedError: a model that can't be read or whose backward is not modelled.
    """
    count, cluster = parse_gpus(ask.gpus, most=MOST_GPUS)
    if ask.command.gpus is not None and ask.command.gpus != count:
        raise SpecError(
            f"--gpus {ask.gpus}: the command starts {ask.command.gpus:,} processes, one per GPU: give as many"
        )
    notes: list[str] = []
    stated: str | dict[str, Any]
    if ask.model:
        stated = model_named(ask.model)
    else:
        stated, notes = ask.command.stated_model()
    base: dict[str, Any] = {"model": stated, "cluster": cluster}
    gpu = str(catalogue.entry("clusters", cluster)["gpu"])
    priced = any(
        gpu in catalogue.entry("prices", one).get("default_for", ()) for one in catalogue.names("prices")
    )
    if ask.usd_per_gpu_hour is not None or not priced:
        base["prices"] = {"usd_per_gpu_hour": ask.usd_per_gpu_hour or NO_PRICE}
    model = build_scenario(base).model
    known = None if ask.model or isinstance(stated, str) else _of_catalogue(stated, model)
    if known:
        base["model"] = known
        notes = [f"the sizes are those of {known}, of the catalogue, whose vocabulary is taken"]
        model = build_scenario(base).model
    check_model(model)
    trainer = ask.command.read(count, model, named=bool(ask.model))
    document = {**base, "training": _nested(trainer.keys)}
    scenario = build_scenario(document)
    stage_layers(model, training_of(scenario))
    told = [*trainer.notes, *notes]
    if ask.usd_per_gpu_hour is None and not priced:
        told.append(
            f"the catalogue has no price for {gpu}: costs are GPU hours until prices.usd_per_gpu_hour is yours"
        )
    if not scenario.calibration:
        told.append(f"no calibration ships for {gpu}: kernels are costed by roofline")
    if "tokens" not in trainer.keys:
        told.append(
            "the tokens of the run are not on the line: only a step is answered until training.tokens is stated"
        )
    return FirstTraining(document, scenario, trainer, tuple(told))


def _nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys by dotted path as a mapping, the sizes of the run first."""
    found: dict[str, Any] = {}
    for path in (*(key for key in ORDER if key in keys), *(key for key in keys if key not in ORDER)):
        section = found
        *heads, last = path.split(".")
        for head in heads:
            section = section.setdefault(head, {})
        section[last] = keys[path]
    return found


def _of_catalogue(stated: Mapping[str, Any], model: Model) -> str | None:
    """The catalogue's model of the same layers, or None."""
    for name in catalogue.names("models"):
        config = catalogue.model_config(name)
        if config.get("hidden_size") != stated["hidden_size"]:
            continue
        try:
            known = catalogue.model(name)
        except PerfModelError:
            continue
        same = known.layers == model.layers and known.tied_embeddings == model.tied_embeddings
        if same and ("vocab_size" not in stated or abs(known.vocab_size - model.vocab_size) < 16_384):
            return name
    return None

"""A training run's first scenario as a commented file: each key with the flag that says it."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perfmodel.errors import DataError
from perfmodel.explore.first_training import FirstTraining, TrainAsk
from perfmodel.files import atomic_write, check_writable
from perfmodel.output.scenario.first import line, scalar
from perfmodel.spec.paths import kind_of, quoted

MOST = 110
"""Characters of a comment; longer ones are cut."""


def place_of(first: FirstTraining, gpus: str) -> Path:
    """Where the scenario is written unless something else is said: in the working directory."""
    name = first.scenario.model.name
    return Path(re.sub(r"[^\w.-]+", "-", f"{Path(name).stem or 'model'}-train-{gpus}".lower()) + ".yaml")


def init_command(ask: TrainAsk, out: Path | None) -> str:
    """The command that writes the file again."""
    words = ["perfmodel", "init", *([ask.model] if ask.model else []), "--gpus", ask.gpus]
    words += ["--from-command", re.sub(r"\s+", " ", ask.text.replace("\\\n", " ")).strip()]
    for option, value in (("--usd-per-gpu-hour", ask.usd_per_gpu_hour), ("--out", out)):
        words += [option, str(value)] if value is not None else []
    return shlex.join(words)


def write_first(first: FirstTraining, out: Path, command: str) -> None:
    """Writes the file; a file that is there stays.

    Raises:
        DataError: there is one, or it can't be written.
    """
    check_writable(out)
    if kind_of(out) != "missing":
        raise DataError(f"--out {quoted(out)}: is there already; give another name, or remove it")
    atomic_write(out, first_text(first, command, str(out)))


def first_text(first: FirstTraining, command: str, file: str = "FILE.yaml") -> str:
    """The scenario in YAML, with the flag that says each key and what no key says."""
    scenario, document, trainer = first.scenario, first.document, first.trainer
    gpu = scenario.cluster.gpu.name
    training = scenario.training
    assert training is not None
    like = isinstance(document["model"], Mapping)
    of = scenario.model
    name = f"A model like {of.name}, {of.num_layers} layers of {of.hidden_size:,}," if like else of.name
    title = f"{name} trained on {training.num_gpus:,} {gpu}"
    lines = [
        f"# {title}, as {trainer.framework} runs it, by",
        f"#   {command}",
        f"# Time, memory, dollars:  perfmodel train {file}",
        f"# The best layout:        perfmodel plan-train {file}",
        "# Every key, with its unit and default: perfmodel show keys",
        *(f"# Note: {note}" for note in first.notes),
        "",
        f"title: {scalar(title)}",
    ]
    model = document["model"]
    if isinstance(model, Mapping):
        lines.append("model:")
        lines += [line("  ", key, value, "") for key, value in model.items()]
    else:
        lines.append(line("", "model", model, f"{scenario.model.num_layers} layers"))
    lines.append(
        line(
            "", "cluster", document["cluster"], f"brings calibration {scenario.calibration or '(none)'} along"
        )
    )
    if "prices" in document:
        lines += ["prices:", line("  ", "usd_per_gpu_hour", document["prices"]["usd_per_gpu_hour"], "yours")]
    else:
        price = scenario.prices
        lines.append(
            f"# prices: {{usd_per_gpu_hour: {price.usd_per_gpu_hour:g}}}   the catalogue's: {price.name}, {price.term}"
        )
    lines.append("training:")
    lines += _keys(document["training"], trainer.why)
    return "\n".join(lines) + "\n"


def _keys(training: Mapping[str, Any], why: Mapping[str, str]) -> Iterator[str]:
    for key, value in training.items():
        whole = why.get(key)
        parts = [f"{one.partition('.')[2]}: {said}" for one, said in why.items() if one.startswith(f"{key}.")]
        text = whole if whole is not None else "; ".join(parts)
        yield line("  ", key, value, text if len(text) <= MOST else f"{text[:MOST]}...")

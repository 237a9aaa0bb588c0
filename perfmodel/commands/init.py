"""``perfmodel init --from-command`` with a training run's command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from perfmodel.commands.process import print_json
from perfmodel.engines.frameworks.command import Command
from perfmodel.errors import SpecError
from perfmodel.output.tell import tell
from perfmodel.spec.paths import printable


def init_training(
    command: Command,
    text: str,
    model: str,
    gpus: str,
    served: Mapping[str, Any],
    usd_per_gpu_hour: float | None,
    out: Path | None,
    *,
    json: bool,
) -> None:
    """Writes the scenario of a training run and says what each flag did.

    Args:
        command: the command, read.
        text: as it was given.
        model: given beside it, or empty.
        gpus: ``256xh100``.
        served: options of servers' scenarios, which say nothing of a training run.
        usd_per_gpu_hour: price, or None: the catalogue's.
        out: where to write.
        json: whether to print an object instead of words.

    Raises:
        SpecError: an option of a server's scenario, or as :func:`first_training`.
    """
    from perfmodel.explore.first_training import TrainAsk, first_training
    from perfmodel.output.scenario.first_training import init_command, place_of, write_first

    odd = next((option for option, value in served.items() if value), None)
    if odd:
        raise SpecError(
            f"{odd}: is of a server's scenario, and the command of --from-command starts a training run: leave it out"
        )
    ask = TrainAsk(command, text, gpus, model, usd_per_gpu_hour)
    first = first_training(ask)
    file = out or place_of(first, gpus)
    write_first(first, file, init_command(ask, out))
    if json:
        said = {key: {"value": first.trainer.keys[key], "why": why} for key, why in first.trainer.why.items()}
        print_json({"file": str(file), "notes": list(first.notes), "said": said, "scenario": first.document})
        return
    for note in first.notes:
        tell(f"note: {note}")
    typer.echo(printable(f"wrote {file}; next: perfmodel train {file}"))

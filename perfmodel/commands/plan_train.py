"""``perfmodel plan-train``: the best layouts for a training run."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.commands.options import AsJson
from perfmodel.commands.process import print_json
from perfmodel.output.tell import tell


def plan_train(
    scenario: Annotated[
        str,
        typer.Argument(
            help="A scenario with a training section: its tokens, batch, formats and optimizer stay as they are."
        ),
    ],
    gpus: Annotated[
        str,
        typer.Option(
            "--gpus",
            metavar="N or NxGPU,..",
            help="GPUs of the run, e.g. 1024 or 1024xh100,512xb200; default: the scenario's.",
        ),
    ] = "",
    objective: Annotated[
        str, typer.Option(metavar="NAME", help="usd per token, gpu (tokens/s per GPU) or time (tokens/s).")
    ] = "usd",
    space: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Keys to narrow, widen or add (docs/train_plan.md)."),
    ] = None,
    simulate: Annotated[int, typer.Option(metavar="N", help="Layouts that are simulated at most.")] = 24,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A field that all layouts have. Repeatable."),
    ] = None,
    launch: Annotated[
        str,
        typer.Option(metavar="NAME", help="Print the command that starts the best: megatron or torchtitan."),
    ] = "",
    json: AsJson = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Write the best as a scenario for train.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Write a page: every layout, the best's pipeline, why, flags."
        ),
    ] = None,
) -> None:
    """The best layout for a training run: all that multiply are screened, those that fit ranked, the best simulated."""
    from perfmodel.errors import SpecError
    from perfmodel.explore.plan_training.answer import plan_training
    from perfmodel.explore.plan_training.question import Question, kinds_of, objective_of
    from perfmodel.explore.space import read_space
    from perfmodel.explore.train_launch import check_framework
    from perfmodel.files import check_writable
    from perfmodel.output.inputs import check_outputs
    from perfmodel.output.progress import report_progress

    check_framework(launch)
    if not 1 <= simulate <= 1000:
        raise SpecError(f"--simulate {simulate}: must be from 1 to 1,000 layouts")
    for file in filter(None, (out, html)):  # before any work
        check_writable(file)
    question = Question(
        scenario,
        kinds_of(gpus),
        objective_of(objective),
        {} if space is None else read_space(space),
        tuple(set_ or ()),
    )
    check_outputs({"--out": out, "--html": html}, [scenario], set_ or (), others={"--space": space})
    with report_progress() as progress:
        found = plan_training(question, simulate=simulate, progress=progress)
    if out is not None:
        from perfmodel.output.plan_training.files import write_scenario

        write_scenario(found, out)
    if html is not None:
        from perfmodel.output.plan_training.page import write_plan_html

        write_plan_html(found, html)
    if json:
        print_json(found.values)
    else:
        from perfmodel.output.plan_training.table import print_plan

        print_plan(found, launch)
    for file in filter(None, (out, html)):
        tell(f"wrote {file}")

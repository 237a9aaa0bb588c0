"""``perfmodel sweep``: a scenario over key paths, as a dataset."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.commands.options import AsJson
from perfmodel.commands.process import print_json
from perfmodel.output.tell import tell


def sweep(
    scenario: Annotated[
        str, typer.Argument(help="A catalogue name (perfmodel show scenarios) or a YAML file.")
    ] = "",
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=DOMAIN",
            help="1:256:log, 16:64:16, 0.5:0.9:n5, or a,b,c. Repeatable: all combinations.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of the dataset; a sweep that was stopped there goes on."),
    ] = None,
    command: Annotated[str, typer.Option("--of", metavar="COMMAND", help="step, serve or plan.")] = "step",
    design: Annotated[str, typer.Option(metavar="NAME", help="grid, lhs or sobol.")] = "grid",
    points: Annotated[int | None, typer.Option(metavar="N", help="Of lhs and sobol.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of lhs and sobol.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A field of every point. Repeatable."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processes (default: the machine's cores); the dataset is the same."),
    ] = None,
    on: Annotated[
        str,
        typer.Option(metavar="ENGINE", help="local (this machine) or ray (a cluster): the same dataset."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Of the Ray cluster's head (default: the one that runs here)."
        ),
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(metavar="X,Y[,COLOUR]", help="Draw any two or three columns of the dataset in --out."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Where --show draws.")] = None,
    json: AsJson = False,
) -> None:
    """A scenario over key paths, resumable, as a Parquet dataset: a row per point, columns in SI units."""
    from perfmodel.errors import SpecError
    from perfmodel.explore.sweep.design import plan_of
    from perfmodel.explore.sweep.run import PIECE, Sweep, check_sweep, run_sweep
    from perfmodel.files import check_writable
    from perfmodel.output.inputs import check_outputs
    from perfmodel.output.progress import report_progress, with_rate
    from perfmodel.output.sweep.picture import print_dataset, write_picture
    from perfmodel.workers import engine

    if out is None:
        raise SpecError("--out FOLDER: give the folder of the dataset")
    if (show is None) != (html is None):
        raise SpecError(
            "--show and --html belong together: which columns, and the file that they are drawn in"
        )
    if html is not None:
        check_writable(html)
        check_outputs({"--html": html}, [scenario] if scenario else [], set_ or (), others={"--out": out})
    values: dict[str, object] = {}
    if scenario or over:
        if not scenario:
            raise SpecError("SCENARIO: missing; give the one that --over varies")
        if command not in PIECE:
            raise SpecError(f"--of {command}: must be one of {', '.join(PIECE)}")
        asked = Sweep(
            scenario,
            tuple(set_ or ()),
            plan_of(over or (), design=design, points=points, seed=seed),
            command,
        )
        check_sweep(asked)  # before a cluster is joined
        with report_progress() as progress, engine(on, workers=workers, address=address) as executor:
            count = None if progress is None else with_rate(progress)
            found = run_sweep(asked, out, executor=executor, progress=count)
        values = {
            "points": found.points,
            "done": found.done,
            "failed": found.failed,
            "dataset": str(found.dataset),
        }
    elif show is None:
        raise SpecError("nothing to do: give SCENARIO with --over, or --show of a dataset")
    if show is not None and html is not None:
        write_picture(out, show, html)
        tell(f"wrote {html}")
    if json:
        print_json(values)
    elif values:
        print_dataset(values, out)

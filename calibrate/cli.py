"""The command line: times kernels on a device, and makes a calibration of the timings.

Results go to files and stdout; progress, warnings and errors to stderr. Exit codes: 0 done or out of time, 1 a
calibration that is worse than it claims, 2 bad input, 128 + n ended by signal n. Heavy imports happen inside the
commands, so that ``--help`` is quick.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfmodel.output.tell import tell

if TYPE_CHECKING:
    from calibrate.device.profile import Outcome

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Times the kernels of a model on a device, and turns the timings into a calibration for perfmodel.",
)


MOST_SEED = 2**63 - 1
"""That a random generator of torch takes."""


@app.callback()
def top() -> None:
    """Options that come before a command: none."""


@app.command()
def profile(
    out: Annotated[
        Path, typer.Option(help="Folder of the timings; a run that ended early goes on where it was.")
    ],
    minutes: Annotated[float, typer.Option(help="How long to time. Any time gives a usable set.")] = 10.0,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A catalogue name, a config.json, or a size of the reference model (small by default). Repeatable."
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most new tokens of a step.")] = 1024,
    max_context: Annotated[int, typer.Option(min=1, help="Longest context of a request.")] = 4096,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp32,bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads within an op, on a CPU.")] = 1,
    ranks: Annotated[int, typer.Option(min=1, help="Processes; from 2 on communication is timed too.")] = 1,
    training: Annotated[
        bool,
        typer.Option(
            "--training",
            help="Kernels of a training step instead: forwards, and gradients one way at a time.",
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Of the choice of shapes and the operands' values.")
    ] = 0,
) -> None:
    """Time the kernels that the models need, over the shapes that they can have."""
    from calibrate.device.case import parse_dtypes
    from calibrate.device.design import design_cases
    from calibrate.device.profile import profile as run
    from calibrate.device.timing import Bench

    models, dtypes = model or ["small"], parse_dtypes(dtype)
    asked: dict[str, Any] = {
        "max_tokens": max_tokens,
        "max_context": max_context,
        "ranks": ranks,
        "seed": seed,
        **({"training": True} if training else {}),
    }
    cases = design_cases(models, dtypes=dtypes, **asked)
    requested = {"models": models, "dtypes": dtypes, **asked}
    bench = Bench(device, threads, seed)
    _report(run(cases, out, minutes=minutes, bench=bench, ranks=ranks, requested=requested), out)


@app.command()
def fit(
    folder: Annotated[Path, typer.Argument(help="Folder of timings, as calibrate profile --out made it.")],
) -> None:
    """Fit a monotone curve of time to each kernel class, and write calibration.json beside the timings."""
    from calibrate.device.assemble import fit_folder
    from calibrate.device.report import print_fit

    print_fit(fit_folder(folder))
    tell(f"use it: perfmodel step SCENARIO --set calibration={folder.absolute()}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of a calibration, as calibrate fit made it.")],
    shapes: Annotated[int, typer.Option(min=1, help="Held-out shapes of each kernel class.")] = 12,
    steps: Annotated[int, typer.Option(min=0, help="Blocks and steps of the reference model.")] = 48,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MOST_SEED, help="Of the choice of shapes and steps; another draws others."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Measure shapes, blocks and steps that were not fitted, and compare with the calibration's predictions.

    Exit code 1 if the calibration is worse than it claims.
    """
    from calibrate.device.check import RESULT, SEED
    from calibrate.device.check import check as run
    from calibrate.device.report import print_check, write_plot
    from calibrate.device.timing import Bench
    from perfmodel.errors import DataError
    from perfmodel.files import check_writable
    from perfmodel.kernels.calibration_file import FILE_NAME, load_calibration
    from perfmodel.spec.paths import is_file, quoted

    if not is_file(folder / FILE_NAME):
        raise DataError(
            f"{quoted(folder)}: must be the folder of a calibration, with its {FILE_NAME}: run calibrate fit"
        )
    check_writable(folder / RESULT)
    environment = load_calibration(str(folder.absolute())).document["environment"]
    bench = Bench(environment["device"], environment["threads"], seed=1)
    with _progress() as show:
        result = run(
            folder,
            bench=bench,
            shapes_per_class=shapes,
            steps=steps,
            seed=SEED if seed is None else seed,
            progress=show,
        )
    plot = write_plot(folder, result, f"{folder.resolve().name}: predicted against measured")
    if json:
        typer.echo((folder / RESULT).read_text())
    else:
        print_check(result)
    tell(f"wrote {folder / RESULT}, {plot}")
    if result.failures:
        raise typer.Exit(1)


@app.command("import-tables")
def import_tables(
    tables: Annotated[
        list[Path] | None,
        typer.Option(
            help="Wheel of aiconfigurator-core or of a pre-release of aisimulate, or the folder that it was unpacked "
            "to. Given twice: parts from the second (sparse and linear attention, experts in MXFP4). Left "
            "out: the installed package. Of AMD's GPUs: the folder aiter/configs of a copy of ROCm/aiter."
        ),
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(help="A catalogue GPU, e.g. h100-sxm. Repeatable; left out: all there are."),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this part of each calibration: mixers, modules, formats or racks. Repeatable."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the calibrations; each goes to a folder of its GPU's name.")
    ] = Path("calibrations"),
) -> None:
    """Make a calibration of each GPU from public measured tables of kernels.

    GPUs that nobody timed (h20-sxm, h20-141g-sxm, a800-sxm, mi325x) are derived from the shipped calibration of
    another. AMD's (mi300x, mi355x) are made of aiter's tuning files.
    """
    from calibrate.public import amd, derived
    from calibrate.public.build import PART_READERS, available, build, build_part, part_named, system_of
    from calibrate.public.report import missed, print_errors
    from calibrate.public.source import Source
    from perfmodel.errors import DataError

    asked = list(system or [])
    for name in [name for name in asked if name in amd.TIMED]:
        if not tables:
            raise DataError(f"--system {name}: needs --tables FOLDER, aiter/configs of a copy of ROCm/aiter")
        own = amd.build(tables[0], name, out / name)
        print_errors(own)
        tell(f"wrote {own.folder} ({own.num_curves} curves)")
    names = [system_of(name) for name in asked if name not in amd.TIMED]
    if asked and not names:
        return
    only = [part_named(name) for name in part or []]
    alone = bool(names) and all(name in derived.RULES for name in names)
    sources = [] if alone else [Source.find(place) for place in tables] if tables else [Source.find()]
    for name in dict.fromkeys(names or (available(sources[0]) if sources else [])):
        if name in derived.RULES:
            tell(f"wrote {derived.build(name, out / name)} (derived)")
            continue
        made = [] if only else [build(sources[0], name, out / name)]
        for one in only or PART_READERS:
            built = build_part(sources[-1], name, one, out / name / one)
            made += [built] if built else []
        for built in made:
            print_errors(built)
            for text in (*built.left_out, *missed(built)):
                tell(f"{name}: warning: {text}")
            tell(f"wrote {built.folder} ({built.num_curves} curves)")


def main() -> None:
    """Run the command line."""
    from perfmodel.cli import run_program

    run_program(app, "calibrate")


@contextmanager
def _progress() -> "Iterator[Callable[[str, int, int], None]]":
    """A bar on stderr, drawn between measurements only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task("", total=None)

        def show(label: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=label)
            bar.refresh()

        yield show


def _report(outcome: "Outcome", out: Path) -> None:
    """What was done, on stderr, and the exit code of a run that a signal ended."""
    import signal

    for reason in outcome.skipped:
        tell(f"skipped: {reason}")
    text = f"timed {outcome.timed} of {outcome.total} kernels ({outcome.before} were there); wrote {out}"
    if outcome.left:
        text += f"; {outcome.left} are left: run it again to go on"
    tell(text)
    if outcome.stopped.startswith("SIG"):
        raise typer.Exit(128 + signal.Signals[outcome.stopped])

"""The command line. Each command loads a scenario, asks :mod:`perfmodel.answers`, and hands the answer to an output.

Results go to stdout; warnings and errors to stderr. Exit codes: 0 done, 1 ``validate --check`` found worse, 2 bad
input, 3 a scenario that can't run. Heavy imports happen inside the commands, so that ``--help`` is quick.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from perfmodel.commands.experts import experts
from perfmodel.commands.options import (
    AsJson,
    Overrides,
    ScenarioName,
    Why,
)
from perfmodel.commands.plan import plan
from perfmodel.commands.plan_train import plan_train
from perfmodel.commands.process import print_json, run_guarded, say
from perfmodel.commands.report import report
from perfmodel.commands.serve import serve
from perfmodel.commands.show import run_show
from perfmodel.commands.step import run_step
from perfmodel.commands.sweep import sweep
from perfmodel.commands.train import train
from perfmodel.commands.validate import validate
from perfmodel.output.tell import tell
from perfmodel.spec.paths import printable

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes longer to import than everything else that help needs
    context_settings={"help_option_names": ["-h", "--help"]},
    help="How fast a mixture-of-experts model runs on a cluster, what it costs, and how sure that is.",
)


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Options that come before a command."""
    if version:
        import perfmodel

        typer.echo(f"perfmodel {perfmodel.__version__}")
        raise typer.Exit


@app.command()
def init(
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            help="A catalogue name (perfmodel show models), a config.json, or its folder; may be left out with "
            "--from-command."
        ),
    ] = None,
    gpus: Annotated[
        str, typer.Option(metavar="NUMBERxGPU", help="E.g. 16xh100; GPUs: perfmodel show clusters.")
    ],
    engine: Annotated[
        str, typer.Option(help="vllm, sglang or trtllm, with a version or without: vllm==0.15.1.")
    ] = "",
    isl: Annotated[int, typer.Option(metavar="TOKENS", help="Tokens of a prompt.")] = 1024,
    osl: Annotated[int, typer.Option(metavar="TOKENS", help="Tokens of an answer.")] = 1024,
    users: Annotated[
        int | None,
        typer.Option(metavar="N", help="Requests in flight; without --rate 8 per GPU, as far as they fit."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="R", help="Requests per second, instead of --users.")
    ] = None,
    slo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=MS", help="What a request must keep: ttft_ms, tpot_ms or e2e_ms. Repeatable."
        ),
    ] = None,
    from_command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="The command that starts a server of vLLM, SGLang, TensorRT-LLM or ATOM, or a training run of "
            "Megatron-LM "
            "or torchtitan, in quotes: its flags decide layout and limits, and each is told.",
        ),
    ] = None,
    usd_per_gpu_hour: Annotated[
        float | None, typer.Option(metavar="USD", help="Your price; without it the catalogue's for the GPU.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Where to write; without it, MODEL-GPUS.yaml here."),
    ] = None,
    json: AsJson = False,
) -> None:
    """A first scenario for a model on GPUs: a commented file that step and serve answer, or train."""
    from perfmodel.errors import SpecError
    from perfmodel.explore.first import Ask, first_scenario
    from perfmodel.output.scenario.first import init_command, parse_slo, place_of, write_first

    server = None
    if from_command is not None:
        from perfmodel.commands.init import init_training
        from perfmodel.engines.frameworks.command import training_command
        from perfmodel.engines.server_flags import read_command

        trained = training_command(from_command)
        if trained is not None:
            served = {"--engine": engine, "--users": users, "--rate": rate, "--slo": slo}
            init_training(trained, from_command, model or "", gpus, served, usd_per_gpu_hour, out, json=json)
            return
        server = read_command(from_command)
    name = model or (server.model if server else "")
    if not name:
        raise SpecError("MODEL: missing; give a catalogue name, a config.json or --from-command with a model")
    ask = Ask(
        name,
        gpus,
        engine or (server.engine if server else ""),
        isl,
        osl,
        users,
        rate,
        parse_slo(slo or ()),
        usd_per_gpu_hour,
        server,
        from_command or "",
    )
    first = first_scenario(ask)
    file = out or place_of(ask)
    write_first(first, file, init_command(ask, out))
    if json:
        print_json({"file": str(file), "notes": list(first.notes), "scenario": first.document})
        return
    for note in first.notes:
        tell(f"note: {note}")
    typer.echo(printable(f"wrote {file}; next: perfmodel step {file}, perfmodel serve {file}"))


@app.command()
def step(
    scenario: ScenarioName,
    set_: Overrides = None,
    json: AsJson = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write a Chrome/Perfetto trace (Kineto dialect): a file (.gz allowed) or a folder, one file per rank."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write an HTML timeline that opens offline.")] = None,
    ops: Annotated[bool, typer.Option("--ops", help="List every op with what bounds it.")] = False,
    why: Why = False,
) -> None:
    """One step of a batch: time, where it goes, what is hidden, memory, and what a million tokens cost."""
    run_step(scenario, set_, json=json, trace=trace, html=html, ops=ops, why=why)


app.command()(serve)
app.command()(train)
app.command()(report)
app.command()(plan)
app.command("plan-train")(plan_train)
app.command()(sweep)
app.command()(experts)


@app.command()
def show(
    kind: Annotated[
        str,
        typer.Argument(
            help="models, families, gpus, clusters, prices, scenarios, calibrations, traces, engines, drafters, "
            "acceptance or keys"
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            help="One entry (a model, calibration or trace may be a path, keys a key or section); without it, all."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="How a trace's file is read, e.g. workload.columns.time=ts. Repeatable.",
        ),
    ] = None,
    json: AsJson = False,
    yaml: Annotated[
        bool,
        typer.Option("--yaml", help="Of a scenario: what it states, as a file that step and serve take."),
    ] = False,
) -> None:
    """The catalogue, with counts, sources and dates."""
    run_show(kind, name, set_, json=json, yaml=yaml)


app.command()(validate)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(help="Port of this machine.")] = 8501,
    address: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 shows the dashboard to the whole network.")
    ] = "127.0.0.1",
    headless: Annotated[bool, typer.Option("--headless", help="Don't open a browser.")] = False,
    workers: Annotated[
        int, typer.Option(help="Servers behind the address, where many people change things together.")
    ] = 1,
) -> None:
    """What-if in a browser: sliders, curves, timelines, traffic; on this machine only unless told otherwise."""
    from perfmodel.output.start_dashboard import run_dashboard

    raise typer.Exit(run_dashboard(port, address=address, headless=headless, workers=workers))


UsageError: Any = typer.BadParameter.__bases__[0]
"""What typer raises for options and commands that there are none of; it has had two homes, and no public name."""


def main() -> None:
    """Run the command line by typer alone, which :func:`perfmodel.main.main` asks where a line is not plain."""
    run_program(app, "perfmodel")


def run_program(application: typer.Typer, program: str) -> None:
    """Run a command line of ours; a user's mistake becomes one or two lines on stderr, with the program's name."""
    run_guarded(lambda: by_typer(application, program), program)


def by_typer(application: typer.Typer, program: str) -> Any:
    """The exit code of a command line that typer reads; its own errors are told here."""
    try:
        return application(standalone_mode=False)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # no command at all: the help is what there is to say
            error.show()
        else:
            asked = error.ctx.command_path if error.ctx else program
            say(
                program,
                f"{error.format_message().rstrip('.?')}; see {asked} --help",
                "usage",
                error.exit_code,
            )
        return error.exit_code
    except typer.Abort:
        say(program, "stopped", exit_code=1)
        return 1

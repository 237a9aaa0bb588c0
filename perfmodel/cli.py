"""The command line. Each command loads a scenario, asks :mod:`perfmodel.answers`, and hands the answer to an output.

Results go to stdout; warnings and errors to stderr. Exit codes: 0 done, 1 ``validate --check`` found worse, 2 bad
input, 3 a scenario that can't run. Heavy imports happen inside the commands, so that ``--help`` is quick.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from perfmodel.commands.options import (
    AsJson,
    FleetGood,
    FleetPeak,
    FleetRequests,
    FleetTokens,
    Overrides,
    Why,
    Workers,
)
from perfmodel.commands.plan import plan
from perfmodel.commands.plan_train import plan_train
from perfmodel.commands.process import print_json, run_guarded, say
from perfmodel.commands.report import report
from perfmodel.commands.several import answer_several, lists_values
from perfmodel.commands.show import run_show
from perfmodel.commands.step import run_step
from perfmodel.commands.sweep import sweep
from perfmodel.output.tell import tell
from perfmodel.spec.paths import printable
from perfmodel.validation.names_of_suites import TITLES

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes longer to import than everything else that help needs
    context_settings={"help_option_names": ["-h", "--help"]},
    help="How fast a mixture-of-experts model runs on a cluster, what it costs, and how sure that is.",
)


def _scenarios(incomplete: str) -> list[str]:
    """Names of the catalogue that begin so, for a shell's completion."""
    from perfmodel.spec import catalogue

    return [name for name in catalogue.names("scenarios") if name.startswith(incomplete)]


def _suites(incomplete: str) -> list[str]:
    return [name for name, _ in TITLES if name.startswith(incomplete)]


ScenarioName = Annotated[
    str,
    typer.Argument(
        help="A catalogue name (perfmodel show scenarios) or a YAML file.", autocompletion=_scenarios
    ),
]


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
            help="The command that starts a server of vLLM, SGLang or TensorRT-LLM, in quotes: its flags decide layout "
            "and limits, and each is told.",
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
    """A first scenario for a model on GPUs: a commented file that step and serve answer."""
    from perfmodel.errors import SpecError
    from perfmodel.explore.first import Ask, first_scenario
    from perfmodel.output.scenario.first import init_command, parse_slo, place_of, write_first

    server = None
    if from_command is not None:
        from perfmodel.engines.server_flags import read_command

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


@app.command()
def serve(
    scenario: ScenarioName,
    set_: Overrides = None,
    json: AsJson = False,
    requests: Annotated[
        Path | None,
        typer.Option(metavar="FILE.parquet", help="Write a row per request (.parquet or .csv)."),
    ] = None,
    result: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Write a result as `vllm bench serve --save-result --save-detailed` does, or as --result-format says.",
        ),
    ] = None,
    result_format: Annotated[
        str,
        typer.Option(
            metavar="TOOL",
            help="Whose shape --result has: vllm, aiperf (with profile_export.jsonl beside it) or guidellm.",
        ),
    ] = "vllm",
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Write engine steps and requests as a Chrome trace for Perfetto (.json or .json.gz); the trace that "
            "is served is workload.trace.",
        ),
    ] = None,
    intervals: Annotated[
        bool,
        typer.Option(
            "--intervals",
            help="80 % intervals of the figures: the run is repeated with step times drawn from the model's spread.",
        ),
    ] = False,
    repeats: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many repeats --intervals takes, a power of two (default 16)."),
    ] = None,
    workers: Workers = None,
    fleet_requests_per_day: FleetRequests = None,
    fleet_tokens_per_day: FleetTokens = None,
    fleet_peak_to_mean: FleetPeak = None,
    fleet_good_pct: FleetGood = None,
    why: Why = False,
) -> None:
    """Traffic through the cluster: latency percentiles, goodput, throughput, and what a million tokens cost."""
    if lists_values(set_ or ()):
        files = {"--requests": requests, "--result": result, "--trace": trace}
        answer_several(scenario, set_ or (), "serve", json=json, files=files)
        return
    from perfmodel.errors import SpecError
    from perfmodel.load import load_scenario

    if requests is not None:  # before any work
        from perfmodel.output.serve.requests import check_requests_file

        check_requests_file(requests)
    results: dict[str, Path] = {}
    if result is not None:
        from perfmodel.output.export.result import check_result_files

        results = check_result_files(result, result_format)
    elif result_format != "vllm":
        raise SpecError(f"--result-format {result_format}: belongs to --result FILE.json, give it too")
    if trace is not None:
        from perfmodel.output.serve.trace import check_trace_file

        check_trace_file(trace)
    if repeats is not None and not intervals:
        raise SpecError(f"--repeats {repeats}: belongs to --intervals, give it too")
    if workers is not None and not intervals:
        raise SpecError(
            f"--workers {workers}: belongs to --intervals, whose repeats it shares out; give it too"
        )
    asked = load_scenario(scenario, set_ or ())
    outputs = {"--requests": requests, **results, "--trace": trace}
    if any(outputs.values()):
        from perfmodel.output.inputs import check_outputs

        check_outputs(outputs, [scenario], set_ or ())

    from perfmodel.answers.serve import answer_serve
    from perfmodel.answers.serve_intervals import REPEATS
    from perfmodel.answers.serve_stream import Long, answer_stream, check_parts, traffic_of
    from perfmodel.explore.fleet import daily_traffic, with_fleet
    from perfmodel.output.progress import request_progress
    from perfmodel.output.serve.requests import requests_while_served
    from perfmodel.workers import processes

    traffic = daily_traffic(fleet_requests_per_day, fleet_tokens_per_day, fleet_peak_to_mean, fleet_good_pct)
    wanted = (repeats or REPEATS) if intervals else None
    served = traffic_of(asked)
    if isinstance(served, Long):
        all_of = {"--result": result, "--trace": trace, "--intervals": wanted, "--fleet-...": traffic}
        check_parts(served, [name for name, value in all_of.items() if value is not None])
    with request_progress() as progress, processes(workers if intervals else 1) as executor:
        if isinstance(served, Long):
            with requests_while_served(requests, asked, served) as write:
                answer = answer_stream(asked, served, write=write, progress=progress)
        else:
            answer = answer_serve(
                asked, requests=served, progress=progress, repeats=wanted, executor=executor
            )
        if traffic is not None:
            answer = with_fleet(answer, traffic, progress=progress, executor=executor)
    if requests is not None and not isinstance(served, Long):
        from perfmodel.output.serve.requests import write_requests

        write_requests(answer, requests)
    if result is not None:
        from perfmodel.output.export.result import write_result

        write_result(answer, result, result_format)
    if trace is not None:
        from perfmodel.output.serve.trace import write_serve_trace

        left_out = write_serve_trace(answer, trace)
        if left_out:
            tell(f"{trace}: {left_out}")
    if json:
        print_json(answer.values)
    else:
        from perfmodel.output.caveats import print_basis, print_warnings
        from perfmodel.output.serve.table import print_serve

        print_serve(answer)
        print_basis(answer.values, answer.rest, why=why)
        print_warnings(answer.values)
    for path in (requests, *results.values(), trace):
        if path is not None:
            tell(f"wrote {path}")


@app.command()
def train(
    scenario: ScenarioName,
    set_: Overrides = None,
    json: AsJson = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Write the pipeline as a Chrome trace, one track per rank, for Perfetto (.json or .json.gz).",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page with the pipeline drawn; opens offline.")
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            metavar="SCENARIO", help="Another run, and why a token costs more or less in it, part by part."
        ),
    ] = "",
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="What moves a token's cost: one lever at a time, and why so far."),
    ] = False,
    why: Annotated[bool, typer.Option("--why", help="The standing caveats, folded away otherwise.")] = False,
) -> None:
    """A training run: step time, MFU, bubble, exposed communication, memory by pipeline rank, days and dollars."""
    from perfmodel.answers.train import answer_train
    from perfmodel.files import check_writable
    from perfmodel.load import load_scenario
    from perfmodel.output.inputs import check_outputs

    if html is not None:  # before any work
        check_writable(html)
    if trace is not None:
        from perfmodel.output.train.trace import check_trace_file

        check_trace_file(trace)
    asked = load_scenario(scenario, set_ or ())
    other = load_scenario(against) if against else None
    check_outputs({"--trace": trace, "--html": html}, [scenario, *([against] if against else [])], set_ or ())
    answer = answer_train(asked)
    if other is not None:
        from perfmodel.explore.train_difference import train_difference

        answer.values["difference"] = train_difference(answer, answer_train(other)).as_dict()
    if sensitivity:
        from perfmodel.explore.train_sensitivity import train_sensitivity

        answer.values["sensitivity"] = train_sensitivity(answer).as_dict()
    if trace is not None:
        from perfmodel.output.train.trace import write_train_trace

        write_train_trace(answer, trace)
    if html is not None:
        from perfmodel.output.train.html import write_train_html

        write_train_html(answer, html)
    if json:
        print_json(answer.values)
    else:
        from perfmodel.output.caveats import print_warnings
        from perfmodel.output.train.table import print_caveats, print_train

        print_train(answer)
        print_caveats(answer.values, why=why)
        print_warnings(answer.values)
    for path in (trace, html):
        if path is not None:
            tell(f"wrote {path}")


app.command()(report)
app.command()(plan)
app.command("plan-train")(plan_train)
app.command()(sweep)


@app.command()
def experts(
    scenario: ScenarioName,
    set_: Overrides = None,
    zero: Annotated[
        str | None,
        typer.Option(metavar="N,N,..", help="Numbers of zero-computation experts (default 0,128,256,384)."),
    ] = None,
    real: Annotated[
        str | None,
        typer.Option(
            metavar="K,K,..", help="Instead: mean numbers of real experts per token, with the model as it is."
        ),
    ] = None,
    json: AsJson = False,
    why: Why = False,
) -> None:
    """What zero-computation experts buy: the same step with other numbers of them. Cost, not quality."""
    from perfmodel.errors import SpecError
    from perfmodel.explore import zero_experts
    from perfmodel.load import load_scenario
    from perfmodel.spec.number_list import number_list

    if zero is not None and real is not None:
        raise SpecError("--zero and --real: vary one of them at a time")
    asked = load_scenario(scenario, set_ or ())
    if real is not None:
        variants = zero_experts.vary_real_experts(asked, number_list("--real", real, float))
    else:
        numbers = zero_experts.ZERO_EXPERTS if zero is None else number_list("--zero", zero, int)
        variants = zero_experts.vary_zero_experts(asked, numbers)
    values = zero_experts.as_values(asked, variants)
    if json:
        print_json(values)
    else:
        from perfmodel.output.caveats import print_basis, print_warnings
        from perfmodel.output.experts import print_variants

        print_variants(asked, variants)
        print_basis(values, why=why)
        print_warnings(values)


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


@app.command()
def validate(
    suite: Annotated[
        str | None,
        typer.Option(
            help=f"One suite; without it, all of them. Suites: {', '.join(name for name, _ in TITLES)}.",
            autocompletion=_suites,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your own measurements, alone or beside --suite: a CSV file (docs/validate.md), or with --scenario a "
            "result of vLLM's, SGLang's, GuideLLM's, AIPerf's or another benchmark (docs/bring_your_own.md).",
        ),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What --data measured: a catalogue name or a YAML file. Its traffic gives way to the file's.",
            autocompletion=_scenarios,
        ),
    ] = None,
    set_: Overrides = None,
    json: AsJson = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write an HTML page with charts, filters and every row; opens offline."),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables as Markdown, as docs/trust.md shows them.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a result is worse than its recorded ceiling.")
    ] = False,
    workers: Workers = None,
) -> None:
    """Published figures, or your own measurements, against predictions: how wrong perfmodel is."""
    if html is not None:  # before minutes of work
        from perfmodel.files import check_writable
        from perfmodel.output.inputs import check_outputs

        check_writable(html)
        check_outputs({"--html": html}, [scenario] if scenario else [], set_ or (), data=data)
    from perfmodel.output.progress import suite_progress
    from perfmodel.validation.suites import run_suites
    from perfmodel.workers import processes

    with suite_progress() as progress, processes(workers) as executor:
        result = run_suites(
            suite, data=data, scenario=scenario, overrides=set_ or (), progress=progress, executor=executor
        )
    if html is not None:
        from perfmodel.output.validation.page import write_validation_html

        write_validation_html(result, html)
    if json:
        print_json(result.values)
    elif markdown:
        from perfmodel.output.validation.markdown import validation_markdown

        typer.echo(validation_markdown(result), nl=False)
    else:
        from perfmodel.output.validation.table import print_validation

        print_validation(result)
    if html is not None:
        tell(f"wrote {html}")
    if check and result.above_ceiling:
        for text in result.above_ceiling:
            tell(f"worse than recorded: {text}")
        raise typer.Exit(1)


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

"""``perfmodel report``: a cost report to hand on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perfmodel.commands.options import (
    AsJson,
    FleetGood,
    FleetPeak,
    FleetRequests,
    FleetTokens,
    Overrides,
    Workers,
)
from perfmodel.commands.process import print_json
from perfmodel.output.tell import tell
from perfmodel.spec.paths import printable

if TYPE_CHECKING:
    from perfmodel.report.terms import Ownership
    from perfmodel.spec.scenario import Scenario


def report(
    scenarios: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO...",
            help="Catalogue names or YAML files; the others are compared with the first.",
        ),
    ],
    set_: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the report: .html (opens offline), .md, .csv or .json."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="html, md, csv or json; without it, by --out's suffix."
        ),
    ] = None,
    pdf: Annotated[
        Path | None, typer.Option(metavar="FILE.pdf", help="Print the HTML report; needs Chromium.")
    ] = None,
    json: AsJson = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Charts to hover and zoom in the HTML: 5 MB more.")
    ] = False,
    no_serve: Annotated[bool, typer.Option("--no-serve", help="Leave the traffic out: steps alone.")] = False,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="80 % intervals of the traffic's figures, by 16 more runs.")
    ] = False,
    api_usd_per_million_output: Annotated[
        float | None,
        typer.Option(metavar="USD", help="What an API asks for a million output tokens: break-even with it."),
    ] = None,
    workers: Workers = None,
    fleet_requests_per_day: FleetRequests = None,
    fleet_tokens_per_day: FleetTokens = None,
    fleet_peak_to_mean: FleetPeak = None,
    fleet_good_pct: FleetGood = None,
    growth_pct: Annotated[
        str | None,
        typer.Option(
            metavar="PCT|LOW,EXPECTED,PEAK",
            help="The day's traffic grows by so much from month to month (0).",
        ),
    ] = None,
    spare_nodes: Annotated[
        int | None,
        typer.Option(metavar="N", help="Nodes that stand by; without it, what published failures ask for."),
    ] = None,
    plan_gpus: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Let plan choose the layout for the day's busiest time, on up to so many GPUs (docs/plan.md).",
        ),
    ] = None,
    own_usd_per_gpu: Annotated[
        float | None,
        typer.Option(metavar="USD", help="What a GPU costs to buy, with its share of server and network."),
    ] = None,
    own_years: Annotated[
        float | None, typer.Option(metavar="YEARS", help="Over which it is written off (5).")
    ] = None,
    usd_per_kwh: Annotated[
        float | None, typer.Option(metavar="USD", help="What electricity costs (0.0872, docs/report.md).")
    ] = None,
    pue: Annotated[
        float | None, typer.Option(metavar="F", help="The building's power over the servers' (1.54).")
    ] = None,
) -> None:
    """A cost report to hand on: speed, cost and its causes, what would move it, how sure, how to repeat it."""
    from perfmodel.answers.serve_intervals import REPEATS
    from perfmodel.errors import SpecError
    from perfmodel.explore.fleet import daily_traffic
    from perfmodel.files import check_writable
    from perfmodel.load import load_scenario
    from perfmodel.output.inputs import check_outputs
    from perfmodel.output.progress import report_progress
    from perfmodel.output.report.decision_words import sentence
    from perfmodel.output.report.files import WRITERS, report_format, write_report
    from perfmodel.output.report.words import answer, report_values
    from perfmodel.output.scenario.reproduce import report_command
    from perfmodel.report.content import build_report
    from perfmodel.report.decision import Outlook, growth_of
    from perfmodel.report.part import Options, check_api_price
    from perfmodel.report.terms import Ownership
    from perfmodel.workers import processes

    if out is None and pdf is None and format_ is None and not json:
        raise SpecError("nowhere to write: give --out FILE.html, --pdf FILE.pdf, --format or --json")
    if json and format_ is not None and out is None:
        raise SpecError(
            f"--json prints JSON: give --out for the report as {format_}, or leave one of the two out"
        )
    if workers is not None and not intervals:
        raise SpecError(
            f"--workers {workers}: belongs to --intervals, whose repeats it shares out; give it too"
        )
    kind = report_format(format_, out)
    if pdf is not None:  # before any work
        from perfmodel.output.pdf import chromium

        check_writable(pdf)
        chromium()
    check_api_price(api_usd_per_million_output)
    if no_serve and (intervals or fleet_requests_per_day or fleet_tokens_per_day):
        raise SpecError("--no-serve leaves the traffic out: give no --intervals and no --fleet-... beside it")
    traffic = daily_traffic(fleet_requests_per_day, fleet_tokens_per_day, fleet_peak_to_mean, fleet_good_pct)
    asked = [load_scenario(name, set_ or ()) for name in scenarios]
    months = {
        "--growth-pct": growth_pct,
        "--spare-nodes": spare_nodes,
        "--plan-gpus": plan_gpus,
        "--own-usd-per-gpu": own_usd_per_gpu,
        "--own-years": own_years,
        "--usd-per-kwh": usd_per_kwh,
        "--pue": pue,
    }
    if traffic is None:
        for name, value in months.items():
            if value is not None and not (name in OWNERSHIP and any(one.training for one in asked)):
                raise SpecError(
                    f"{name} {value}: belongs to a day of traffic: give --fleet-requests-per-day or "
                    "--fleet-tokens-per-day, too"
                )
    ownership = Ownership(own_usd_per_gpu, own_years, usd_per_kwh, pue)
    outlook = Outlook(growth_of(growth_pct), spare_nodes, ownership)
    check_outputs({"--out": out, "--pdf": pdf}, scenarios, set_ or ())
    is_training = _trains(asked, others=(traffic, intervals, api_usd_per_million_output, interactive))
    command = report_command(
        scenarios,
        set_ or (),
        {
            "--no-serve": no_serve,
            "--intervals": intervals,
            "--api-usd-per-million-output": api_usd_per_million_output,
            "--fleet-requests-per-day": fleet_requests_per_day,
            "--fleet-tokens-per-day": fleet_tokens_per_day,
            "--fleet-peak-to-mean": fleet_peak_to_mean,
            "--fleet-good-pct": fleet_good_pct,
            **months,
            "--interactive": interactive,
            "--format": format_,
            "--out": out,
            "--pdf": pdf,
            "--json": json,
        },
    )
    if is_training:
        _tell_training(asked, ownership, command, kind, out, pdf, json)
        return
    options = Options(
        serves=not no_serve,
        repeats=REPEATS if intervals else None,
        traffic=traffic,
        api_usd_per_million_output_tokens=api_usd_per_million_output,
        outlook=outlook,
    )
    with report_progress() as progress, processes(workers if intervals else 1) as executor:
        if traffic is not None and plan_gpus is not None:
            from perfmodel.report.planned import planned

            asked = [planned(one, plan_gpus, traffic, progress=progress) for one in asked]
        found = build_report(asked, options, command=command, progress=progress, executor=executor)
    if out is not None:
        write_report(found, kind, out, is_interactive=interactive)
    if pdf is not None:
        from perfmodel.output.pdf import write_pdf
        from perfmodel.output.report.page import report_html

        write_pdf(report_html(found), pdf)
    if json:
        print_json(report_values(found))
    elif out is None and pdf is None:
        typer.echo(WRITERS[kind](found), nl=False)
    else:
        for part in found.parts:
            typer.echo(printable(f"{part.label}: {sentence(part) or answer(part)}"))
    for path in (out, pdf):
        if path is not None:
            tell(f"wrote {path}")


OWNERSHIP = ("--own-usd-per-gpu", "--own-years", "--usd-per-kwh", "--pue")


def _trains(asked: "Sequence[Scenario]", *, others: tuple[object, ...]) -> bool:
    """Whether the report is of training runs.

    Raises:
        SpecError: some train and some serve, or an option that a training run has no use for.
    """
    from perfmodel.errors import SpecError

    training = [one.training is not None for one in asked]
    if not any(training):
        return False
    if not all(training):
        raise SpecError(
            "a report is of training runs or of serving, not of both: some scenarios have training, some not"
        )
    if any(others):
        raise SpecError(
            "a report of training runs takes no --fleet-..., --intervals, "
            "--api-usd-per-million-output and --interactive"
        )
    return True


def _tell_training(
    asked: "Sequence[Scenario]",
    ownership: "Ownership",
    command: str,
    kind: str,
    out: Path | None,
    pdf: Path | None,
    json: bool,
) -> None:
    """Answer and write a report of training runs."""
    from perfmodel.output.progress import report_progress
    from perfmodel.output.report.training import (
        TRAINING_WRITERS,
        sentence,
        training_html,
        training_values,
        write_training_report,
    )
    from perfmodel.report.content import labels_of
    from perfmodel.report.training import build_training_report

    with report_progress() as progress:
        labelled = list(zip(labels_of(asked), asked, strict=True))
        found = build_training_report(labelled, ownership, command=command, progress=progress)
    if out is not None:
        write_training_report(found, kind, out)
    if pdf is not None:
        from perfmodel.output.pdf import write_pdf

        write_pdf(training_html(found), pdf)
    if json:
        print_json(training_values(found))
    elif out is None and pdf is None:
        typer.echo(TRAINING_WRITERS[kind](found), nl=False)
    else:
        for part in found.parts:
            typer.echo(printable(f"{part.label}: {sentence(part)}"))
    for path in (out, pdf):
        if path is not None:
            tell(f"wrote {path}")

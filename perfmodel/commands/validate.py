"""``perfmodel validate``: how wrong perfmodel is."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.commands.options import AsJson, Overrides, Workers, complete_scenario
from perfmodel.commands.process import print_json
from perfmodel.output.tell import tell
from perfmodel.validation.names_of_suites import TITLES


def _suites(incomplete: str) -> list[str]:
    return [name for name, _ in TITLES if name.startswith(incomplete)]


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
            autocompletion=complete_scenario,
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

"""``perfmodel train``: a training run."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.commands.options import AsJson, Overrides, ScenarioName
from perfmodel.commands.process import print_json
from perfmodel.output.tell import tell


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
    launch: Annotated[
        str,
        typer.Option(metavar="NAME", help="Print the command that starts the run: megatron or torchtitan."),
    ] = "",
    why: Annotated[bool, typer.Option("--why", help="The standing caveats, folded away otherwise.")] = False,
) -> None:
    """A training run: step time, MFU, bubble, exposed communication, memory by pipeline rank, days and dollars."""
    from perfmodel.answers.train import answer_train
    from perfmodel.files import check_writable
    from perfmodel.load import load_scenario
    from perfmodel.output.inputs import check_outputs

    if launch:
        from perfmodel.explore.train_launch import check_framework, launch_of

        check_framework(launch)
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
    if launch:
        answer.values["launch"] = {launch: launch_of(answer.step, launch)}
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
        if launch:
            from perfmodel.output.train.launch import print_launch

            print_launch(answer.values["launch"][launch], "The run")
        print_caveats(answer.values, why=why)
        print_warnings(answer.values)
    for path in (trace, html):
        if path is not None:
            tell(f"wrote {path}")

"""Options that several commands have, described once."""

from typing import Annotated

import typer


def complete_scenario(incomplete: str) -> list[str]:
    """Names of the catalogue that begin so, for a shell's completion."""
    from perfmodel.spec import catalogue

    return [name for name in catalogue.names("scenarios") if name.startswith(incomplete)]


ScenarioName = Annotated[
    str,
    typer.Argument(
        help="A catalogue name (perfmodel show scenarios) or a YAML file.", autocompletion=complete_scenario
    ),
]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a field, e.g. deployment.batch_per_gpu=64. Repeatable."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Processes that share the work out (default: the machine's cores); what is answered is the same.",
    ),
]
Why = Annotated[
    bool,
    typer.Option(
        "--why",
        help="What the time rests on, op by op, and the standing caveats that are folded away otherwise.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, SI units, and nothing else.")]
FleetRequests = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="How many replicas a day of so many requests takes, and what they cost: by this run's throughput, and "
        "by simulation where slo is stated. Needs --fleet-peak-to-mean.",
    ),
]
FleetTokens = Annotated[
    float | None,
    typer.Option(metavar="N", help="The same for so many tokens, prompts and outputs together."),
]
FleetPeak = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        help="Requests per second in the day's busiest stretch (as long as the run) over the day's mean, e.g. 2.5.",
    ),
]
FleetGood = Annotated[
    float | None,
    typer.Option(metavar="PCT", help="Share of requests that must keep the slo (default 99)."),
]

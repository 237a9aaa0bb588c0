"""``perfmodel plan``: the best deployments for a model, GPUs, traffic and limits."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.commands.options import AsJson
from perfmodel.commands.process import print_json
from perfmodel.output.tell import tell


def plan(
    model: Annotated[
        str, typer.Argument(help="A model of the catalogue (perfmodel show models) or a config.json.")
    ],
    gpus: Annotated[
        str,
        typer.Option(
            "--gpus", metavar="NxGPU,..", help="Most GPUs of a kind, e.g. 64xh200 or 64xh200,32xb200."
        ),
    ],
    engine: Annotated[
        str,
        typer.Option(
            metavar="E,..", help="sglang, vllm, trtllm, or several; their defaults, limits and flags."
        ),
    ] = "sglang",
    isl: Annotated[float | None, typer.Option(metavar="N", help="Tokens of a prompt, on average.")] = None,
    osl: Annotated[float | None, typer.Option(metavar="N", help="Tokens of an output, on average.")] = None,
    users: Annotated[
        int | None,
        typer.Option(metavar="N", help="Requests in flight: each that ends is followed by another."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="R", help="Or: requests per second, as they come.")
    ] = None,
    trace: Annotated[
        str, typer.Option(metavar="TRACE", help="Or: a trace (perfmodel show traces), its lengths and times.")
    ] = "",
    ttft: Annotated[
        float | None, typer.Option(metavar="S", help="Limit of time to first token, seconds.")
    ] = None,
    tpot: Annotated[
        float | None, typer.Option(metavar="S", help="Limit of time per output token, seconds.")
    ] = None,
    percentile: Annotated[
        float, typer.Option(metavar="PCT", help="Of requests that must keep each limit.")
    ] = 99.0,
    space: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Keys to narrow, widen or add (docs/plan.md).")
    ] = None,
    objective: Annotated[
        str, typer.Option(metavar="NAME", help="usd, gpus, goodput (per GPU), ttft or tpot.")
    ] = "usd",
    simulate: Annotated[int, typer.Option(metavar="N", help="Candidates that are simulated at most.")] = 32,
    seconds: Annotated[
        float, typer.Option(metavar="S", help="Time for simulating them, and as much again for draws.")
    ] = 60.0,
    length_spread: Annotated[
        float,
        typer.Option(metavar="F", help="Lengths are uniform within this share of their mean; 0: all equal."),
    ] = 0.5,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A field that all candidates have. Repeatable."),
    ] = None,
    json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Write the winner as a scenario for step, serve, report."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page with every candidate; opens offline."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the traffic.")] = 0,
) -> None:
    """The best deployment for traffic under limits: all of them screened, the best simulated, one chosen."""
    from perfmodel.errors import SpecError
    from perfmodel.explore.plan import question as asked
    from perfmodel.explore.plan.answer import nearest_miss
    from perfmodel.explore.plan.answer import plan as answer_plan
    from perfmodel.explore.space import read_space
    from perfmodel.files import check_writable
    from perfmodel.output.inputs import check_outputs
    from perfmodel.output.progress import report_progress

    if not 1 <= simulate <= 10_000:
        raise SpecError(f"--simulate {simulate}: must be from 1 to 10,000 candidates")
    if not 0.0 < seconds <= 1e6:
        raise SpecError(f"--seconds {seconds:g}: must be above 0 and up to 1,000,000")
    if not 0 <= seed < 2**63:
        raise SpecError(f"--seed {seed}: must be a whole number from 0")
    for path in (out, html):
        if path is not None:  # before any work
            check_writable(path)
    question = asked.Question(
        model=asked.model_path(model),
        kinds=asked.kinds_of(gpus, [name.strip() for name in engine.split(",")]),
        traffic=asked.traffic_of(
            isl=isl, osl=osl, users=users, rate=rate, trace=trace, length_spread=length_spread
        ),
        limits=asked.limits_of(ttft, tpot, percentile),
        objective=asked.objective_of(objective),
        space={} if space is None else read_space(space),
        overrides=tuple(set_ or ()),
        seed=seed,
    )
    documents = [question.document(kind) for kind in question.kinds[:1]]
    check_outputs({"--out": out, "--html": html}, [], documents=documents, others={"--space": space})
    with report_progress() as progress:
        found = answer_plan(question, simulate=simulate, seconds=seconds, progress=progress)
    if found.winner is None:
        if json:
            print_json(found.values)
        raise nearest_miss(found)
    if out is not None:
        from perfmodel.output.plan.files import write_scenario

        write_scenario(found, out)
    if html is not None:
        from perfmodel.output.plan.page import write_plan_html

        write_plan_html(found, html)
    if json:
        print_json(found.values)
    else:
        from perfmodel.output.plan.table import print_plan

        print_plan(found)
    for path in (out, html):
        if path is not None:
            tell(f"wrote {path}")

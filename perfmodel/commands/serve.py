"""``perfmodel serve``: traffic through the cluster."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.commands.options import (
    AsJson,
    FleetGood,
    FleetPeak,
    FleetRequests,
    FleetTokens,
    Overrides,
    ScenarioName,
    Why,
    Workers,
)
from perfmodel.commands.process import print_json
from perfmodel.commands.several import answer_several, lists_values
from perfmodel.output.tell import tell


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

"""A serving run as a Chrome trace (Perfetto): what every engine did, and what became of every request.

A process per replica has its steps on one row (steps that were advanced together are one span) and counters of the
requests that wait and that hold blocks. A process of its own has requests as spans: queued, prefill, transfer where
prefill is apart, decode. Times are microseconds from the start.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.answers.serve import ServeAnswer
from perfmodel.errors import DataError
from perfmodel.files import atomic_write, check_writable
from perfmodel.serving.records import Ints, StepRuns
from perfmodel.serving.serve import Served
from perfmodel.units import US

SUFFIXES = (".json", ".json.gz")
MOST_EVENTS = 200_000
"""Of steps, their counters and requests together: what a browser opens without complaint."""
EVENTS_PER_STEP = 2
"""A span and a counter."""
EVENTS_PER_REQUEST = 8
"""At most: begin and end of the whole, of queued, prefill and decode."""
EVENTS_PER_TRANSFER = 2
REQUESTS_PROCESS = 1_000_000

Event = dict[str, Any]


def check_trace_file(path: Path) -> None:
    """Refuses a place that can't be written to, or another suffix.

    Raises:
        DataError: either.
    """
    if not path.name.endswith(SUFFIXES):
        raise DataError(
            f"--trace {path}: must end in {' or '.join(SUFFIXES)} (the trace that is served is workload.trace)"
        )
    check_writable(path)


def write_serve_trace(answer: ServeAnswer, path: Path) -> str:
    """Writes the file, whole or not at all; what was left out of it, in words, or nothing.

    Raises:
        DataError: it can't be written.
    """
    served = answer.served
    runs = served.records.load.runs
    steps, requests, note = _kept(served)
    head = {
        "displayTimeUnit": "ms",
        "scenario": served.scenario.name,
        "provenance": answer.values["provenance"],
        "note": note,
    }
    events = [
        *_names(served),
        *_steps(runs.where(steps)),
        *_requests(served, requests),
    ]
    lines = ",\n".join(json.dumps(event, allow_nan=False, separators=(",", ":")) for event in events)
    text = f'{json.dumps(head, allow_nan=False)[:-1]}, "traceEvents": [\n{lines}\n]}}\n'
    atomic_write(path, gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text)
    return note


def replica_name(served: Served, number: int) -> str:
    """``replica 0``; ``decode 0`` and ``prefill 0`` where prefill is apart."""
    decode = served.pool.layout.replicas
    if served.prefill is None:
        return f"replica {number}"
    return f"decode {number}" if number < decode else f"prefill {number - decode}"


def _kept(served: Served) -> tuple[Ints, Ints, str]:
    """(rows of runs, rows of requests, what is left out), each in the order of beginning, all up to one instant."""
    records = served.records
    per_request = EVENTS_PER_REQUEST + (EVENTS_PER_TRANSFER if served.prefill else 0)
    starts = np.concatenate([records.load.runs.start_s, records.arrival_s])
    steps, requests = len(records.load.runs.start_s), len(records.arrival_s)
    order = np.argsort(starts, kind="stable")
    events = np.where(order < steps, EVENTS_PER_STEP, per_request).cumsum()
    kept, left = np.split(order, [int(np.searchsorted(events, MOST_EVENTS, side="right"))])
    rows, arrived = kept[kept < steps], kept[kept >= steps] - steps
    if not left.size:
        return rows, arrived, ""
    return (
        rows,
        arrived,
        f"left out, what begins from {starts[left[0]]:,.1f} s on: {steps - len(rows):,} of {steps:,} runs of steps "
        f"and {requests - len(arrived):,} of {requests:,} requests",
    )


def _names(served: Served) -> Iterator[Event]:
    pools = (served.pool, *([served.prefill] if served.prefill else []))
    for number in range(sum(pool.layout.replicas for pool in pools)):
        name = replica_name(served, number)
        yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_name", "pid": number, "tid": 0, "args": {"name": "steps"}}
    yield {"ph": "M", "name": "process_name", "pid": REQUESTS_PROCESS, "args": {"name": "requests"}}


def _steps(runs: StepRuns) -> Iterator[Event]:
    columns = {name: getattr(runs, name).tolist() for name in StepRuns.__slots__}
    for row in zip(*columns.values(), strict=True):
        run = dict(zip(columns, row, strict=True))
        start, pid = run["start_s"] / US, int(run["replica"])
        yield {
            "ph": "X",
            "name": _step_name(run),
            "cat": "prompt" if run["prompt"] else "decode",
            "pid": pid,
            "tid": 0,
            "ts": start,
            "dur": run["seconds"] / US,
            "args": {
                "steps": int(run["steps"]),
                "decoding requests of the fullest rank": int(run["requests"]),
                "tokens in their caches": round(run["tokens"]),
                "prompt tokens of the fullest rank": round(run["prompt"]),
                "pairs its prompts attend to": round(run["attended"]),
                "mean rank over the fullest": round(run["even"], 4),
            },
        }
        yield {
            "ph": "C",
            "name": "requests",
            "pid": pid,
            "ts": start,
            "args": {"waiting": int(run["waiting"]), "holding blocks": int(run["held"])},
        }


def _step_name(run: dict[str, float]) -> str:
    """``decode x 37``, ``prompt 4,096 tokens``, ``prompt 512 tokens + 8 decodes``."""
    if not run["prompt"]:
        return "decode" if run["steps"] == 1 else f"decode x {run['steps']:.0f}"
    beside = f" + {run['requests']:.0f} decodes" if run["requests"] else ""
    return f"prompt {run['prompt']:,.0f} tokens{beside}"


def _requests(served: Served, rows: Ints) -> Iterator[Event]:
    """Nested spans on a track per request, which Perfetto packs (async events)."""
    records = served.records
    times = (
        records.arrival_s,
        records.scheduled_s,
        records.prefilled_s,
        records.first_token_s,
        records.end_s,
    )
    apart = records.prefill_replica != records.replica
    for row in rows.tolist():
        arrival, scheduled, prefilled, first, end = (float(column[row]) for column in times)
        again = records.retries[row] or records.preemptions[row]
        prefilled = min(prefilled, first) if apart[row] and not again else first
        common = {"cat": "request", "id": row, "pid": REQUESTS_PROCESS, "tid": 0}
        args = {
            "input_tokens": int(records.input_tokens[row]),
            "output_tokens": int(records.output_tokens[row]),
            "cached_tokens": int(records.cached_tokens[row]),
            "preemptions": int(records.preemptions[row]),
            "retries": int(records.retries[row]),
            "prompt on": replica_name(served, int(records.prefill_replica[row])),
            "decoded on": replica_name(served, int(records.replica[row])),
        }
        spans = [("queued", arrival, scheduled), ("prefill", scheduled, prefilled)]
        spans += [("transfer", prefilled, first)] if prefilled < first else []
        spans += [("decode", first, end)] if first < end else []
        name = f"request {row}"
        yield {"ph": "b", "name": name, "ts": arrival / US, "args": args, **common}
        for name_of, begin, stop in spans:
            yield {"ph": "b", "name": name_of, "ts": begin / US, **common}
            yield {"ph": "e", "name": name_of, "ts": stop / US, **common}
        yield {"ph": "e", "name": name, "ts": end / US, **common}

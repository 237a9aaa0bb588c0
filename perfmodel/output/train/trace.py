"""A training step as a Chrome trace: one track per pipeline rank, transfers as arrows; opens in Perfetto."""

import gzip
import json
from pathlib import Path
from typing import Any

from perfmodel.answers.train import TrainAnswer
from perfmodel.errors import DataError
from perfmodel.files import atomic_write, check_writable
from perfmodel.training.pipeline.actions import Kind
from perfmodel.training.pipeline.simulate import Span
from perfmodel.units import US

SUFFIXES = (".json", ".json.gz")
NAMES = {
    Kind.FORWARD: "forward",
    Kind.INPUT: "input gradient",
    Kind.WEIGHT: "weight gradient",
    Kind.BACKWARD: "backward",
    Kind.PAIR: "forward beside backward",
}
"""Kind of action -> what people are told it is."""


def check_trace_file(path: Path) -> None:
    """Refuse a path that is no trace's.

    Raises:
        DataError: another suffix, or a folder that is not there.
    """
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: a trace's name ends in .json or .json.gz")
    check_writable(path)


def write_train_trace(answer: TrainAnswer, path: Path) -> None:
    """Write the trace.

    Raises:
        DataError: the path can't be written.
    """
    data = trace_text(answer).encode()
    atomic_write(path, gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)


def trace_text(answer: TrainAnswer) -> str:
    """The trace as JSON, an event per line."""
    step = answer.step
    events: list[dict[str, Any]] = [_named("process_name", 0, f"{step.scenario.name}: one training step")]
    for rank, own in enumerate(step.run.spans):
        stages = ", ".join(str(stage) for stage in step.run.schedule.stages_of(rank))
        events.append(_named("thread_name", rank, f"pipeline rank {rank} (stages {stages})"))
        events += [_event(span) for span in own]
        events += _tail(answer, rank)
    lines = ",\n".join(json.dumps(event, allow_nan=False) for event in events)
    return f'{{"displayTimeUnit": "ms", "traceEvents": [\n{lines}\n]}}\n'


def _named(name: str, thread: int, text: str) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": 0, "tid": thread, "args": {"name": text}}


def _event(span: Span) -> dict[str, Any]:
    action = span.action
    own = {"stage": action.stage, "micro_batch": action.micro_batch}
    if action.kind is Kind.PAIR:
        own |= {"backward_stage": action.other_stage, "backward_micro_batch": action.other_micro_batch}
    return {
        "ph": "X",
        "name": str(action),
        "cat": NAMES[action.kind],
        "pid": 0,
        "tid": span.rank,
        "ts": span.start_s / US,
        "dur": (span.end_s - span.start_s) / US,
        "args": {"what": NAMES[action.kind], **own},
    }


def _tail(answer: TrainAnswer, rank: int) -> list[dict[str, Any]]:
    """What comes after the pipeline: exposed gradients, the update, exposed weights."""
    at, tail = answer.step.pipeline_s, answer.step.tails[rank]
    events = []
    for name, seconds in (
        ("gradients, exposed", tail.gradients_exposed_s),
        ("optimizer", tail.optimizer_s),
        ("weights, exposed", tail.weights_exposed_s),
    ):
        if seconds > 0.0:
            own = {"ts": at / US, "dur": seconds / US}
            events.append({"ph": "X", "name": name, "cat": "step", "pid": 0, "tid": rank, **own})
        at += seconds
    return events

"""Answers of the Training page, worked out in the pool and kept for all sessions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.pool import pooled
from dashboard.results import Failed
from perfmodel.answers.train import answer_train
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.output.train.html import held_figure, pipeline_figure, train_html
from perfmodel.output.train.table import breakdown_rows, layout_words, result_rows
from perfmodel.output.train.trace import trace_text
from perfmodel.spec.scenario import Scenario

MOST_ACTIONS = 200_000
"""Forwards and backwards of a step that a page simulates: seconds."""
MOST_GPUS = 131_072


@dataclass(frozen=True)
class Trained:
    """What the page shows of a training run; the simulated step stays where it was simulated."""

    scenario: Scenario
    values: Mapping[str, Any]
    """The keys of ``perfmodel train --json``, SI units."""
    layout: str
    """In words."""
    results: Sequence[tuple[str, str, str]]
    """(what, value, interval) of the headline figures."""
    breakdown: Sequence[tuple[str, float]]
    """(part, seconds) of a step."""
    pipeline: Mapping[str, Any]
    memory: Mapping[str, Any]
    """Charts."""


@pooled(32)
def trained(scenario: Scenario) -> Trained | Failed:
    """The run's answer, or why there is none."""
    try:
        _refuse_long(scenario)
        found = answer_train(scenario)
    except PerfModelError as error:
        return Failed(str(error))
    return Trained(
        scenario,
        found.values,
        layout_words(found),
        result_rows(found),
        breakdown_rows(found.values),
        pipeline_figure(found).to_dict(),
        held_figure(found).to_dict(),
    )


@pooled(8)
def page_of(scenario: Scenario) -> str:
    """The run as ``perfmodel train --html`` writes it."""
    return train_html(answer_train(scenario))


@pooled(8)
def trace_of(scenario: Scenario) -> str:
    """The run as ``perfmodel train --trace`` writes it."""
    return trace_text(answer_train(scenario))


def _refuse_long(scenario: Scenario) -> None:
    """Refuse what nobody should wait for on a page.

    Raises:
        SpecError: more actions or GPUs than a page simulates.
    """
    training = scenario.training
    if training is None:
        return
    actions = 3 * training.pp * training.virtual_stages * training.micro_batches
    if actions > MOST_ACTIONS:
        raise SpecError(
            f"training: {actions:,} forwards and backwards in a step: this page simulates up to {MOST_ACTIONS:,}; use "
            "fewer micro-batches (a smaller training.global_batch_sequences, a larger training.dp), or perfmodel train"
        )
    if training.num_gpus > MOST_GPUS:
        raise SpecError(
            f"training: {training.num_gpus:,} GPUs: this page answers up to {MOST_GPUS:,}; use perfmodel train"
        )

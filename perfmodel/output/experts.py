"""The table of `perfmodel experts`, for a terminal. Values come in SI and are scaled here."""

from collections.abc import Callable, Sequence

from rich.text import Text

from perfmodel.explore.zero_experts import Variant
from perfmodel.output.console import console
from perfmodel.output.formats import count, significant
from perfmodel.output.scenario.reproduce import scenario_title
from perfmodel.output.tables import table_of
from perfmodel.spec.scenario import Scenario
from perfmodel.units import GB, GIGA, MS


def print_variants(scenario: Scenario, variants: Sequence[Variant]) -> None:
    """Print the comparison of numbers of zero-computation experts, one column per variant."""
    out = console()
    out.print(Text(scenario_title(scenario), style="bold"))
    names = [f"{one.zero_experts}" for one in variants]
    table = table_of("Zero-computation experts: what they change", "per GPU and step", *names)
    for label, cell in _VARIANT_ROWS:
        cells = [cell(one) for one in variants]
        if any(cells):
            table.add_row(label, *(Text(text) for text in cells))
    out.print(table)
    out.print("[dim]Cost only: what it does to the model's quality is not known here. --json: SI units[/]")


_VARIANT_ROWS: tuple[tuple[str, Callable[[Variant], str]], ...] = (
    ("real experts per token", lambda v: f"{v.mean_real_experts:.3g} ± {v.std_real_experts:.3g}"),
    ("active parameters (B)", lambda v: f"{v.active_parameters_mean / GIGA:.1f}"),
    (
        "of a token, least to most",
        lambda v: f"{v.active_parameters_least / GIGA:.1f} to {v.active_parameters_most / GIGA:.1f}",
    ),
    ("step time (ms)", lambda v: f"{v.step_time_s / MS:.1f}"),
    ("its p99 (ms)", lambda v: "" if v.step_time_p99_s is None else f"{v.step_time_p99_s / MS:.1f}"),
    ("TPOT (ms)", lambda v: "" if v.tpot_s is None else f"{v.tpot_s / MS:.1f}"),
    ("dispatch and combine (GB)", lambda v: significant(v.exchanged_bytes / GB)),
    ("exposed communication (ms)", lambda v: f"{v.exposed_communication_s / MS:.1f}"),
    ("memory (GB)", lambda v: f"{v.memory_bytes / GB:.1f}"),
    ("largest batch that fits", lambda v: count(v.max_batch_per_gpu)),
    ("tokens/s", lambda v: f"{v.tokens_per_s_per_gpu:,.0f}"),
    ("$ per million tokens", lambda v: significant(v.usd_per_million_tokens)),
)
"""Rows of the comparison: label, and a variant's cell."""

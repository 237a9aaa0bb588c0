"""What a run's client may have measured: columns in ms and tokens/s, and their keys in ``serve --json``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from perfmodel.units import MS

TIMES = ("ttft", "tpot", "itl", "e2e")
"""From arrival to the first token; per further token of a request; every gap between outputs; to the last token."""
PERCENTILES = {"p50": "median", "p90": "p90", "p99": "p99"}
"""Percentile in a column's name -> in a quantity's."""


class Figure(NamedTuple):
    """One measured column."""

    quantity: str
    unit: str
    key: str
    """Key of ``serve --json``."""
    statistic: str = ""
    """Which of the key's statistics; empty: it is one number."""

    def predicted(self, metrics: Mapping[str, Any]) -> float | None:
        """The figure of a simulated run (SI units); None where it has none, e.g. the TPOT of one token."""
        found = metrics[self.key]
        return found if not self.statistic else found[self.statistic] if found else None

    def measured(self, text: str, record: Mapping[str, str]) -> float:
        """The cell of a row in SI units; a rate over the run's GPUs."""
        return float(text) * MS if self.statistic else float(text) / float(record["gpus"])


RATE = "output_tok_s"
FIGURES: Mapping[str, Figure] = {
    **{f"{time}_ms": Figure(f"{time}_s", "s", f"{time}_s", "mean") for time in TIMES},
    **{
        f"{time}_{column}_ms": Figure(f"{time}_{name}_s", "s", f"{time}_s", column)
        for time in TIMES
        for column, name in PERCENTILES.items()
    },
    RATE: Figure("output_tokens_per_s_per_gpu", "tokens/s", "output_tokens_per_s_per_gpu"),
}
"""Columns of what was measured."""


class RunFigure(NamedTuple):
    """One figure of a whole run."""

    quantity: str
    unit: str


RUN_FIGURES: Mapping[str, RunFigure] = {
    **{
        f"{key}.{statistic}": RunFigure(f"{key.removesuffix('_s')}{'_' + name if name else ''}_s", "s")
        for key in (*(f"{time}_s" for time in TIMES), "tpot_incl_s", "client_wait_s")
        for statistic, name in {"mean": "", **PERCENTILES}.items()
    },
    **{
        key: RunFigure(key, unit)
        for key, unit in (
            ("requests_per_s", "requests/s"),
            ("output_tokens_per_s", "tokens/s"),
            ("output_tokens_per_s_per_gpu", "tokens/s"),
            ("total_tokens_per_s_per_gpu", "tokens/s"),
        )
    },
}
"""Key of a measured run's figure (:class:`perfmodel.spec.benchmarks.measured.Benchmark`) -> quantity of its row."""

"""Suite ``longcat-theory``: every cell of the report's Table 7, reproduced from ops, bytes and a schedule.

The table's scenarios (``table7-*`` in the catalogue) run through the timeline like any other. Beside each row for
TPOT and cost the suite prints what real two-batch overlap (``tbo``, half batches) gives:
docs/table7.md explains the difference.
"""

import csv
from typing import Any

from perfmodel.answers.step import answer_step
from perfmodel.load import load_scenario
from perfmodel.spec.catalogue import DATA
from perfmodel.units import MS, US
from perfmodel.validation.rows import Row, matches_printed

NAME = "longcat-theory"
SCENARIOS = {
    "DeepSeek-V3": "table7-deepseek-v3",
    "Qwen3-235B-A22B": "table7-qwen3-235b",
    "LongCat-Flash": "table7-longcat-flash",
}
COLUMNS = {
    "dispatch_us": ("dispatch_s", "s", US),
    "moe_us": ("moe_s", "s", US),
    "combine_us": ("combine_s", "s", US),
    "tpot_ms": ("tpot_s", "s", MS),
    "usd_per_million_output_tokens": ("usd_per_million_output_tokens", "USD", 1.0),
}
"""Table column -> (quantity, unit, SI per printed unit)."""


def rows() -> list[Row]:
    """The suite's rows."""
    with (DATA / "published" / "longcat_table7_theory.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return [row for published in table for row in _model_rows(published)]


def _model_rows(published: dict[str, str]) -> list[Row]:
    name = SCENARIOS[published["model"]]
    gpu = load_scenario(name).cluster.gpu.name
    own, tbo = _quantities(name), _quantities(name, "deployment.overlap=tbo")
    found = []
    for column, (quantity, unit, scale) in COLUMNS.items():
        common: dict[str, Any] = {
            "suite": NAME,
            "model": published["model"],
            "quantity": quantity,
            "unit": unit,
            "measured": float(published[column]) * scale,
            "source": published["source"],
            "system": gpu,
        }
        printed = matches_printed(own[quantity] / scale, published[column])
        found.append(Row(id=name, predicted=own[quantity], role="theory", matches_printed=printed, **common))
        if quantity in ("tpot_s", "usd_per_million_output_tokens"):
            found.append(
                Row(
                    id=f"{name} with tbo",
                    predicted=tbo[quantity],
                    role="comparison",
                    reason="real two-batch overlap of half batches, not what the table counts",
                    **common,
                )
            )
    return found


def _quantities(name: str, *overrides: str) -> dict[str, float]:
    """The table's quantities for one scenario; communication and experts as the time of one layer's ops."""
    values = answer_step(load_scenario(name, overrides)).values
    alone: dict[str, float] = {}
    for op in values["ops"]:
        alone[op["op_class"]] = alone.get(op["op_class"], 0.0) + op["time_s"]
    return {
        "dispatch_s": alone["dispatch"],
        "moe_s": alone["experts"],
        "combine_s": alone["combine"],
        "tpot_s": values["tpot_s"],
        "usd_per_million_output_tokens": values["usd_per_million_output_tokens"],
    }

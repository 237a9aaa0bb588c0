"""What one worker does: the points of a piece, answered, as the bytes of a Parquet file."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import perfmodel
from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step
from perfmodel.errors import PerfModelError
from perfmodel.explore.sweep.carried import NOTHING, Carried
from perfmodel.explore.sweep.design import overrides_of
from perfmodel.load import build_scenario
from perfmodel.stated import with_overrides
from perfmodel.workers import Shared

Command = Literal["step", "serve", "plan"]


@dataclass(frozen=True, slots=True)
class Material:
    """What all points share; on a cluster it travels to each node once."""

    document: dict[str, Any]
    folder: Path
    """That the document's paths are relative to."""
    command: Command
    carried: Carried = NOTHING
    """Files that a worker on another machine needs."""
    texts: frozenset[str] = frozenset()
    """Swept keys whose values are not all numbers, or not all true and false: in every piece a column of texts."""


def work(material: Shared[Material], first: int, points: Sequence[Mapping[str, Any]]) -> bytes:
    """Answer all points of a piece, the first of which has number ``first``: its rows as a Parquet file. The same
    bytes wherever they are made.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = material.get()
    rows = []
    for place, values in enumerate(points):
        swept = {key: _cell(one, text=key in own.texts) for key, one in values.items()}
        row: dict[str, Any] = {"point": first + place, **swept}
        rows.append({**row, **answered(own, values)})
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = own.texts.union(WORDS)
    columns = {name: _column(name, [row.get(name) for row in rows], name in texts) for name in names}
    table = pa.table(columns).replace_schema_metadata({"perfmodel": perfmodel.__version__})
    written = io.BytesIO()
    pq.write_table(table, written, compression="zstd")
    return written.getvalue()


WORDS = ("scenario_hash", "error", "best.layout", "best.kind", "best.scenario")


def _column(name: str, values: list[Any], text: bool) -> Any:
    """Values with a type that does not depend on which of them are known: a dataset's pieces have one schema."""
    import pyarrow as pa

    if name == "point":
        return pa.array(values, pa.int64())
    if text or any(isinstance(value, str) for value in values):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if any(isinstance(value, bool) for value in values):
        return pa.array(values, pa.bool_())
    return pa.array(values, pa.float64())


def answered(material: Material, values: Mapping[str, Any]) -> dict[str, Any]:
    """A point's figures, or why it has none."""
    here = material.carried.here()
    try:
        document = with_overrides(here.moved(material.document), overrides_of(here.moved(values)))
        if material.command == "plan":
            from perfmodel.explore.sweep.plans import plan_figures

            return {"scenario_hash": None, "error": None, **_flat(plan_figures(document, material.folder))}
        scenario = build_scenario(document, folder=material.folder)
        found = (
            answer_step(scenario, over_steps=False, ops=False)
            if material.command == "step"
            else answer_serve(scenario)
        )
    except PerfModelError as error:
        return {"scenario_hash": None, "error": here.back(str(error))}
    return {"scenario_hash": scenario.hash, "error": None, **_flat(found.values)}


LEFT_OUT = frozenset(
    {"ops", "stages_s", "basis", "provenance", "warnings", "real_experts", "notes", "over_steps"}
)
"""Of an answer: lists and words, which no column holds."""


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Figures as columns, ``ttft_s.p99`` and the like; texts that say which scenario it is are kept, too."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if not prefix and key in LEFT_OUT:
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        elif isinstance(value, list):
            if len(value) == 2 and all(isinstance(one, float) for one in value):
                found |= {f"{name}.low": value[0], f"{name}.high": value[1]}
        elif isinstance(value, bool | str):
            found[name] = value
        elif value is None:
            found[name] = None
        else:
            found[name] = float(value)
    return found


def _cell(value: Any, *, text: bool) -> Any:
    """A swept value as a cell: numbers and texts as they are, all else as JSON."""
    if value is None or isinstance(value, str) or (isinstance(value, bool) and not text):
        return value
    return json.dumps(value, sort_keys=True) if text else float(value)


def texts_of(swept: Mapping[str, Sequence[Any]]) -> frozenset[str]:
    """Keys whose values need a column of texts."""

    def kind(value: Any) -> str:
        return "truth" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "text"

    kinds = {key: {kind(one) for one in values if one is not None} for key, values in swept.items()}
    return frozenset(key for key, own in kinds.items() if "text" in own or len(own) > 1)

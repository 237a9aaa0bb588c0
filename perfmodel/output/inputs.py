"""The files that a command reads, so that none of its outputs replaces one of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.files import check_distinct
from perfmodel.spec import catalogue
from perfmodel.spec.documents import read_document
from perfmodel.spec.paths import is_folder, names_file
from perfmodel.spec.routing import FROM_FILES
from perfmodel.spec.traces.read import trace_path
from perfmodel.stated import MAX_BASES, apply_override, document_of_file

RANKS = "rank_*.json"
"""What a folder of a step's trace holds."""


def check_outputs(
    outputs: Mapping[str, Path | None],
    scenarios: Sequence[str],
    overrides: Iterable[str] = (),
    *,
    data: Path | None = None,
    documents: Iterable[Mapping[str, Any]] = (),
    others: Mapping[str, Path | None] | None = None,
) -> None:
    """Refuse an output that is a file which the command reads, or another output's; before anything is written.

    Args:
        outputs: option -> where it writes; a folder stands for the ranks that it holds.
        scenarios: catalogue names or files, as given.
        overrides: as given.
        data: a user's own measurements.
        documents: of scenarios that no file states; what they name is read.
        others: further files that are read, by option; a folder stands for all that is in it.

    Raises:
        DataError: as said, with the names of both.
        SpecError: a scenario that can't be read.
    """
    if not any(outputs.values()):
        return
    sets = tuple(overrides)
    inputs: dict[str, Path | None] = {"--data": data}
    for name in scenarios:
        for key, path in _files_of(name, sets):
            inputs[f"{key} of {name}" if len(scenarios) > 1 else key] = path
    for document in documents:
        inputs |= dict(_files_named(document, Path()))
    for option, other in (others or {}).items():
        if other is not None and is_folder(other):
            inputs |= {f"{option} ({one})": one for one in sorted(other.rglob("*"))}
        else:
            inputs[option] = other
    if data is not None:
        inputs |= dict(_files_of_rows(data, of_scenario=bool(scenarios)))
    written: dict[str, Path | None] = {}
    for option, output in outputs.items():
        if output is not None and is_folder(output):
            written |= {f"{option} ({rank.name})": rank for rank in sorted(output.glob(RANKS))}
        else:
            written[option] = output
    check_distinct(written, inputs)


def _files_of(name: str, overrides: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """What a scenario is read from: key and file."""
    yield "the scenario", Path(name)
    for number, base in enumerate(_files_of_bases(name)):
        yield f"base {number + 1}", base
    document, folder = document_of_file(name, overrides)
    yield from _files_named(document, folder)


def _files_of_bases(name: str) -> list[Path]:
    """The files that a scenario's bases are read from, the nearest first; of a catalogue name none."""
    found: list[Path] = []
    while names_file(name) and len(found) <= MAX_BASES:
        folder = Path(name).parent
        base = read_document(Path(name)).get("base")
        if not isinstance(base, str) or not names_file(base):
            break
        name = str(folder / base)
        found.append(Path(name))
    return found


def _files_named(document: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    """Files that a document's sections name."""
    model = document.get("model")
    base = model.get("base") if isinstance(model, Mapping) else model
    if isinstance(base, str) and (base.endswith(".json") or "/" in base):
        own = folder / base
        yield "model", own / "config.json" if is_folder(own) else own
    for section in (document, document.get("prefill"), document.get("ffns")):
        calibration = section.get("calibration") if isinstance(section, Mapping) else None
        if isinstance(calibration, str) and calibration:
            for file in sorted(catalogue.calibration_path(calibration).parent.glob("*")):
                yield f"calibration ({file.name})", file
    workload, routing = document.get("workload"), document.get("routing")
    trace = workload.get("trace") if isinstance(workload, Mapping) else None
    if isinstance(trace, str) and trace:
        with suppress(SpecError):  # no such trace, which only serve reads and refuses
            yield "workload.trace", trace_path(trace)
    for key in FROM_FILES:
        if isinstance(routing, Mapping) and isinstance(routing.get(key), str):
            yield f"routing.{key}", Path(routing[key])


def _files_of_rows(data: Path, *, of_scenario: bool) -> Iterator[tuple[str, Path]]:
    """What a user's measurements name: scenarios, models, and files in ``set``."""
    from perfmodel.spec.benchmarks.read import holds_benchmark
    from perfmodel.validation.runs import model_of
    from perfmodel.validation.user_data import RUNS_OF_SCENARIO, own_records, read_measurements, settings_in

    if holds_benchmark(data):
        return
    own = read_measurements(data, runs=of_scenario)
    if own.layout == RUNS_OF_SCENARIO:
        for name in {record["scenario"] for record in own.records if record["scenario"]}:
            place = str(data.parent / name) if names_file(name) else name
            yield from ((f"{key} of {name}", file) for key, file in _files_of(place, ()))
        return
    for record in own_records(data, own):
        document: dict[str, Any] = {"model": model_of(record)}
        for path, value in settings_in(record.get("set") or "").items():
            document = apply_override(document, f"{path}={value}")
        yield from ((f"{key} of row {record['id']}", file) for key, file in _files_named(document, Path()))

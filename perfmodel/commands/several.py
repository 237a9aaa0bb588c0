"""``--set KEY=A,B,C`` of ``step`` and ``serve``: the short form of a sweep, answered on the spot."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.commands.process import print_json
from perfmodel.errors import SpecError

WORDS = ("name", "title", "source")
"""Keys whose text may have commas."""


def lists_values(overrides: Sequence[str]) -> bool:
    """Whether an override lists several values: commas that no bracket and no quote holds."""
    return any(_is_list(text) for text in overrides)


def _is_list(text: str) -> bool:
    key, _, raw = text.partition("=")
    raw = raw.strip()
    return "," in raw and raw[:1] not in "[{\"'" and key.strip().rpartition(".")[2] not in WORDS


def answer_several(
    scenario: str, overrides: Sequence[str], command: str, *, json: bool, files: Mapping[str, object]
) -> None:
    """Print an answer per combination: a table, or JSON with ``points``, each with ``set`` and its figures.

    ``files``: options that name a file, and what they name; none may, since a file holds one answer.

    Raises:
        SpecError: a file named, an unknown key, or a scenario that is none at every point.
    """
    given = [name for name, path in files.items() if path is not None]
    if given:
        raise SpecError(f"{given[0]}: holds one answer, and --set lists values: leave one of the two out")
    from perfmodel.explore.sweep.design import plan_of
    from perfmodel.explore.sweep.piece import Material, answered
    from perfmodel.stated import document_of_file

    plan = plan_of(text for text in overrides if _is_list(text))
    document, folder = document_of_file(scenario, [text for text in overrides if not _is_list(text)])
    material = Material(document, folder, command)  # type: ignore[arg-type]
    points = plan.values()
    rows = [{**values, **answered(material, values)} for values in points]
    if json:
        found: list[dict[str, Any]] = [
            {"set": values, **{key: value for key, value in row.items() if key not in values}}
            for values, row in zip(points, rows, strict=True)
        ]
        print_json({"points": found})
    else:
        from perfmodel.output.sweep.picture import print_rows

        print_rows(rows, [domain.key for domain in plan.domains])

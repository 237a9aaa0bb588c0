"""What ``perfmodel show`` does; :mod:`perfmodel.cli` describes its options."""

from collections.abc import Sequence

from perfmodel.commands.process import print_json


def run_show(
    kind: str,
    name: str | None = None,
    set_: Sequence[str] | None = None,
    *,
    json: bool = False,
    yaml: bool = False,
) -> None:
    """Print a kind of the catalogue, or one entry.

    Raises:
        PerfModelError: no such kind or entry, or one that can't be read.
    """
    if yaml:
        from perfmodel.output.scenario.stated import scenario_text

        print(scenario_text(kind, name), end="", flush=True)
        return
    from perfmodel.output.catalogue.table import entry_values, list_values, print_entry, print_list

    if name is None:
        rows = list_values(kind)
        print_json({kind: rows}) if json else print_list(kind, rows)
    else:
        values = entry_values(kind, name, set_ or ())
        print_json(values) if json else print_entry(values)

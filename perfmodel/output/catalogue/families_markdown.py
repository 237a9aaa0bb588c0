"""The tables of model families in docs/models.md: ``python -m perfmodel.output.catalogue.families_markdown``.

Prints the first table, or with a path writes both between the markers of that page.
"""

import sys
from pathlib import Path

from perfmodel.files import atomic_write
from perfmodel.spec.models import families
from perfmodel.spec.models.families import Family
from perfmodel.spec.models.patterns import names_in

REFUSED = "<!-- refused: begin -->", "<!-- refused: end -->"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"


def table() -> str:
    """One row per family that reads model types of its own."""
    lines = [
        "| models | `model_type` | attention and mixers | experts | read after |",
        "|---|---|---|---|---|",
    ]
    for name in families.listed():
        own = families.family(name)
        types = ", ".join(f"`{one}`" for one in own.model_types)
        lines.append(f"| {own.title} | {types} | {_mixers(own)} | {_experts(own)} | {own.source} |")
    return "\n".join(lines)


def refused_table() -> str:
    """One row per model type that is known and not modelled."""
    lines = ["| models | `model_type` | has | would need |", "|---|---|---|---|"]
    for name, own in families.refused().items():
        lines.append(
            f"| {own['title']} | `{name.replace(' with ', '` with `')}` | {own['has']} | {own['needs']} |"
        )
    return "\n".join(lines)


def _mixers(family: Family) -> str:
    """Kinds of a family's layers, with what is particular to each."""
    found: dict[str, None] = {}
    for name in dict.fromkeys(names_in(family.attention_of_layer)):
        rules = family.attentions.get(name, {"kind": "none"})
        kind = str(rules["kind"])
        if kind == "none":
            continue
        marks = [
            word for word in ("sliding_window", "chunked", "indexer", "sinks", "output_gate") if word in rules
        ]
        found[f"{kind} ({', '.join(marks)})" if marks else kind] = None
    return "; ".join(found)


def _experts(family: Family) -> str:
    """What is particular to a family's experts."""
    parts = [family.ffns.get(name, {}) for name in dict.fromkeys(names_in(family.ffn_of_layer))]
    moes = [rules["moe"] for rules in parts if "moe" in rules]
    if not moes:
        return "none"
    marks = {
        "shared": "shared_ffn_size",
        "groups": "num_groups",
        "zero-computation": "num_zero_experts",
        "latent": "latent_size",
        "selection bias": "correction_bias",
    }
    found = [
        word for word, key in marks.items() if any(moe.get(key) not in (None, 0, 1, False) for moe in moes)
    ]
    return ", ".join(found) or "plain"


def with_table(page: str) -> str:
    """A page with the tables between their markers."""
    for (begin, end), rows in (((BEGIN, END), table()), (REFUSED, refused_table())):
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{rows}\n{end}{rest.split(end)[1]}"
    return page


def main() -> None:
    """Prints the table, or writes it into a page."""
    if len(sys.argv) == 1:
        print(table())
        return
    path = Path(sys.argv[1])
    atomic_write(path, with_table(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()

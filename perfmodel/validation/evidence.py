"""Which published measurements say how far a scenario can be trusted: the rows that are most like it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from perfmodel.spec.scenario import Scenario
from perfmodel.validation.recorded import Recorded, printed_names
from perfmodel.validation.rows import Row, summarise

OTHERS = ("kernels", "collectives", "planning")
"""Suites of what a step is made of and of choices; the others are about steps and requests."""
APART = ("-noted", "-cold", "-repeated")
"""Parts of suites that are summed up apart: stacks that their authors call old or broken, starts without a warm-up,
runs that were counted already. They say nothing of a scenario as it is predicted."""
FEATURES = ("model", "GPU", "engine")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows that are alike in the same way, with how far predictions were off."""

    alike: tuple[str, ...]
    """What they share with the scenario, of model, GPU and engine."""
    summary: tuple[dict[str, Any], ...]
    """Per suite and quantity, as ``perfmodel validate`` has it."""

    @property
    def words(self) -> str:
        """What they share, and what not: ``same GPU and engine, another model``."""
        others = [name for name in FEATURES if name not in self.alike]
        same = f"same {_listed(self.alike)}"
        return same + (f", another {_listed(others)}" if others else "")


def closest(scenario: Scenario, recorded: Recorded) -> list[Evidence]:
    """Answered rows that set no constant (role ``check``), most alike first; those that share nothing are left out.

    Rows that stand apart (APART) are no evidence. A row stands with what is most like it, once. A GPU counts more than
    an engine where they share as much, a model more than either.
    """
    names = printed_names(scenario.model.name)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in recorded.rows:
        judges = row.suite not in OTHERS and not row.suite.endswith(APART)
        if row.role == "check" and row.predicted is not None and judges:
            groups.setdefault(_alike(row, scenario, names), []).append(row)
    found = [Evidence(alike, tuple(summarise(rows))) for alike, rows in groups.items() if alike]
    return sorted(found, key=lambda one: (-len(one.alike), [FEATURES.index(name) for name in one.alike]))


def _alike(row: Row, scenario: Scenario, names: Collection[str]) -> tuple[str, ...]:
    engine = scenario.deployment.engine
    shared = (
        row.model in names,
        row.system == scenario.cluster.gpu.name,
        bool(engine) and row.engine == engine,
    )
    return tuple(name for name, own in zip(FEATURES, shared, strict=True) if own)


def _listed(names: Collection[str]) -> str:
    first, *rest = names
    return " and ".join(filter(None, (", ".join([first, *rest[:-1]]), *rest[-1:])))

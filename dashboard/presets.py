"""Scenarios to start from, each with what it rests on."""

from dataclasses import dataclass, replace
from functools import cache

from dashboard.asked import DEFAULT, Asked, Sets
from perfmodel.load import load_scenario
from perfmodel.spec import catalogue
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.slo import USUAL, USUAL_SOURCE, Slo

TABLE_6 = (
    "LongCat-Flash technical report, arXiv 2509.01322, Table 6: {measured}. Requests per GPU are its throughput over "
    "its speed per user; one draft token, accepted in about 90 % of steps"
)


OBJECTIVES = (("slo.tpot_ms", f"{USUAL.tpot_ms:g}"), ("slo.ttft_ms", f"{USUAL.ttft_ms:g}"))
OBJECTIVES_SOURCE = f"Objectives: {USUAL_SOURCE}"
"""What presets without objectives of their own bring, so that there is a goodput."""


@dataclass(frozen=True)
class Preset:
    """A scenario of the catalogue, perhaps with overrides, and with objectives for its traffic."""

    title: str
    scenario: Asked
    citation: str
    brings: Sets = ()

    @property
    def asked(self) -> Asked:
        """What choosing it asks."""
        return replace(self.scenario, sets=(*self.scenario.sets, *self.brings))

    def is_asked_by(self, asked: Asked) -> bool:
        """With its objectives or without."""
        return asked in (self.asked, self.scenario)


OPENS = Asked(DEFAULT, sets=OBJECTIVES)
"""What a session opens with."""


@cache
def presets() -> tuple[Preset, ...]:
    """The catalogue's scenarios, and settings that published figures were measured at."""
    own = {name: load_scenario(name) for name in catalogue.names("scenarios")}
    named = {
        name: Preset(found.title or name, Asked(name), found.source or "no source stated", _brings(found))
        for name, found in own.items()
    }
    fast = Preset(
        "The headline: over 100 tokens/s per user at $0.70",
        Asked(DEFAULT, sets=(("deployment.batch_per_gpu", "8"),)),
        TABLE_6.format(measured="804 tokens/s per GPU at 100.5 per user, $2 per GPU hour"),
        OBJECTIVES,
    )
    middle = Preset(
        "LongCat-Flash at 69 tokens/s per user",
        Asked(DEFAULT, sets=(("deployment.batch_per_gpu", "32"),)),
        TABLE_6.format(measured="2,205 tokens/s per GPU at 68.9 per user"),
        OBJECTIVES,
    )
    first = named.pop(DEFAULT)
    return (first, fast, middle, *named.values())


def _brings(scenario: Scenario) -> Sets:
    """Objectives, where a scenario serves traffic and states none."""
    serves = scenario.training is None and scenario.costs != "report" and scenario.slo == Slo()
    return OBJECTIVES if serves else ()

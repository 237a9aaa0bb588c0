"""Scenarios to start from, each with what it rests on."""

from dataclasses import dataclass
from functools import cache

from dashboard.asked import DEFAULT, Asked
from perfmodel.load import load_scenario
from perfmodel.spec import catalogue

TABLE_6 = (
    "LongCat-Flash technical report, arXiv 2509.01322, Table 6: {measured}. Requests per GPU are its throughput over "
    "its speed per user; one draft token, accepted in about 90 % of steps"
)


@dataclass(frozen=True)
class Preset:
    """A scenario of the catalogue, perhaps with overrides."""

    title: str
    asked: Asked
    citation: str


@cache
def presets() -> tuple[Preset, ...]:
    """The catalogue's scenarios, and settings that published figures were measured at."""
    own = {name: load_scenario(name) for name in catalogue.names("scenarios")}
    named = {
        name: Preset(found.title or name, Asked(name), found.source or "no source stated")
        for name, found in own.items()
    }
    fast = Preset(
        "The headline: over 100 tokens/s per user at $0.70",
        Asked(DEFAULT, sets=(("deployment.batch_per_gpu", "8"),)),
        TABLE_6.format(measured="804 tokens/s per GPU at 100.5 per user, $2 per GPU hour"),
    )
    middle = Preset(
        "LongCat-Flash at 69 tokens/s per user",
        Asked(DEFAULT, sets=(("deployment.batch_per_gpu", "32"),)),
        TABLE_6.format(measured="2,205 tokens/s per GPU at 68.9 per user"),
    )
    first = named.pop(DEFAULT)
    return (first, fast, middle, *named.values())

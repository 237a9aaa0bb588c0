"""The same GPUs by term: rented on demand, reserved, leased as published, or owned with their power."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.spec import catalogue
from perfmodel.spec.scenario import Scenario
from perfmodel.units import KILO

HOURS_PER_YEAR = 24.0 * 365.0
HOURS_PER_MONTH = HOURS_PER_YEAR / 12.0

NOT_INCLUDED = (
    "people who run it, support contracts and software licences",
    "front ends, gateways, storage and traffic to and from the internet",
    "building, cooling plant and finance of owned GPUs (their electricity is included)",
    "taxes, discounts and what a provider asks for fewer than all hours of a month",
    "tests, staging, experiments, and a second site",
)
"""What no amount of a report holds."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """What a user states of owning; None: the catalogue's."""

    usd_per_gpu: float | None = None
    """With its share of servers and network."""
    years: float | None = None
    """Over which it is written off, to nothing."""
    usd_per_kwh: float | None = None
    pue: float | None = None
    """Power of the building over that of the servers."""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("--own-usd-per-gpu", self.usd_per_gpu, 0.0, 1e7),
            ("--own-years", self.years, 0.0, 50.0),
            ("--usd-per-kwh", self.usd_per_kwh, 0.0, 100.0),
            ("--pue", self.pue, 0.99, 10.0),
        ):
            if value is not None and not low < value <= high:
                raise SpecError(f"{name} {value:g}: must be above {low:g} and at most {high:g}")


def terms(scenario: Scenario, gpus: int, ownership: Ownership) -> list[dict[str, Any]]:
    """A row per term, the scenario's own price first: ``term``, ``usd_per_gpu_hour``, ``usd_per_month`` for all GPUs,
    ``is_own`` (the report's price), ``source``, ``note``, and where owned ``payback_months`` (purchase over what
    renting
    at the report's price costs more than power; None: never).
    """
    own = scenario.prices
    rows: list[dict[str, Any]] = [
        {
            "term": own.term or "as the scenario states",
            "usd_per_gpu_hour": scenario.fleet_usd_per_gpu_hour,
            "is_own": True,
            "source": _joined(own.source, own.date) or "the scenario",
            "note": "",
        }
    ]
    family = _family(scenario)
    if any(one is not None and one.prices is not None for one in (scenario.prefill, scenario.ffns)):
        rows[0]["note"] = "the mean of two clusters, each at its own price: other terms are not compared"
        return [_monthly(row, gpus) for row in rows]
    stand_in = catalogue.entry("ownership", "stand_in").get(family)
    rows += list(_quoted(family, own.name, ""))
    if len(rows) == 1 and stand_in:
        rows += list(
            _quoted(stand_in["family"], own.name, f"quoted for {stand_in['family']}: {stand_in['reason']}")
        )
    owned = _owned(scenario, family, stand_in, ownership)
    rows += [owned] if owned else []
    return [_monthly(row, gpus) for row in rows]


def _monthly(row: dict[str, Any], gpus: int) -> dict[str, Any]:
    return {"payback_months": None, **row, "usd_per_month": gpus * row["usd_per_gpu_hour"] * HOURS_PER_MONTH}


def _quoted(family: str, own: str, note: str) -> Iterator[dict[str, Any]]:
    """The catalogue's other prices of a family, the cheapest first."""
    found = [(name, catalogue.entry("prices", name)) for name in catalogue.names("prices") if name != own]
    for _, row in sorted(found, key=lambda pair: float(pair[1]["usd_per_gpu_hour"])):
        if str(row.get("gpu", "")).upper() == family:
            yield {
                "term": str(row.get("term", "")),
                "usd_per_gpu_hour": float(row["usd_per_gpu_hour"]),
                "is_own": False,
                "source": _joined(str(row.get("source", "")), str(row.get("date", ""))),
                "note": note,
            }


def _owned(
    scenario: Scenario, family: str, stand_in: Mapping[str, str] | None, stated: Ownership
) -> dict[str, Any] | None:
    """Written off evenly over the years, with electricity at the server's most; None where no "
    "purchase price is known.
    """
    rows = {kind: catalogue.entry("ownership", kind) for kind in ("servers", "power")}
    plain = {kind: catalogue.entry("ownership", kind) for kind in ("years", "electricity", "pue")}
    of = family if family in rows["servers"] or not stand_in else stand_in["family"]
    known = rows["servers"].get(of)
    price = stated.usd_per_gpu if stated.usd_per_gpu is not None else (known or {}).get("usd_per_gpu")
    if price is None:
        return None
    years = stated.years or float(plain["years"]["value"])
    per_kwh = stated.usd_per_kwh or float(plain["electricity"]["usd_per_kwh"])
    pue = stated.pue or float(plain["pue"]["value"])
    watts, of_watts = _watts(scenario, rows["power"], of)
    capital = float(price) / (years * HOURS_PER_YEAR)
    power = watts / KILO * pue * per_kwh
    saved = (scenario.prices.usd_per_gpu_hour - power) * HOURS_PER_MONTH
    notes = [
        f"${price:,.0f} per GPU over {years:g} years, {watts:,.0f} W x PUE {pue:g} at ${per_kwh:.4g} per kWh"
    ]
    notes += [of_watts] if of_watts else []
    if stated.usd_per_gpu is None and known:
        notes.append(str(known["note"]))
        notes += [f"of {of}: {stand_in['reason']}"] if stand_in and of != family else []
    return {
        "term": "owned, with its power",
        "usd_per_gpu_hour": capital + power,
        "is_own": False,
        "source": _joined(
            *(
                []
                if stated.usd_per_gpu is not None or not known
                else [f"{known['source']} ({known['date']})"]
            ),
            *([] if stated.years else [f"{plain['years']['source']} ({plain['years']['date']})"]),
            *(
                []
                if stated.usd_per_kwh
                else [f"{plain['electricity']['source']} ({plain['electricity']['note']})"]
            ),
            *([] if stated.pue else [f"{plain['pue']['source']} ({plain['pue']['note']})"]),
        )
        or "as stated",
        "note": "; ".join(notes),
        "payback_months": float(price) / saved if saved > 0.0 else None,
    }


def _watts(scenario: Scenario, rows: Mapping[str, Any], of: str) -> tuple[float, str]:
    """A GPU's share of its server at most, and how that was found; the board alone where no server is known."""
    known = rows.get(of)
    if known:
        return float(known["watts_per_gpu"]), f"power: {known['note']}"
    board = scenario.cluster.gpu.tdp_w
    if board is None:
        return 0.0, "power left out: the GPU states no limit (cluster.gpu.tdp_w)"
    return float(board), "the board's limit alone, its server left out"


def _family(scenario: Scenario) -> str:
    """``H800`` of h800-sxm."""
    return scenario.cluster.gpu.name.partition("-")[0].upper()


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)

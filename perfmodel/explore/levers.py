"""The levers of :mod:`perfmodel.explore.sensitivity`: what may be otherwise, how far, and who says so."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from perfmodel.engines.known_routing import SKEW_FILE
from perfmodel.explore.difference import balanced
from perfmodel.spec import catalogue
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document
from perfmodel.spec.routing import Routing
from perfmodel.spec.scenario import Scenario
from perfmodel.units import PERCENT

WHAT_IF_PCT = 20.0
"""Half range of a lever for which nothing is published."""
WHAT_IF = f"a what-if: {WHAT_IF_PCT:g} % less and more, no published range"
WHAT_IF_ACCEPTANCE = 0.1
TABLE6 = "longcat_table6_setup.yaml"


@dataclass(frozen=True, slots=True)
class Setting:
    """One end of a range."""

    value: float
    label: str
    """The value for people."""
    scenario: Scenario | None = None
    """What is simulated; None: the scenario as it is."""
    utilisation_pct: float | None = None
    """Share of the time in which GPUs do full steps; None: all of it."""
    reason: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Why a scenario does not have a lever."""

    reason: str


Ends = tuple[Setting, Setting]


class Lever(NamedTuple):
    """Something that may be otherwise."""

    name: str
    unit: str
    base: Callable[[Scenario], str]
    """The scenario's own value, for people."""
    settings: Callable[[Scenario, float | None], Ends | LeftOut]
    """Low and high end, from a scenario and its traffic's peak over mean."""


# --- money ----------------------------------------------------------------------------------------------------------


def price_lever(scenario: Scenario, _: float | None) -> Ends | LeftOut:
    """The cheapest and the dearest price of the catalogue for the GPU, else a what-if."""
    prices = scenario.prices
    if not prices.usd_per_gpu_hour:
        return LeftOut("the scenario's GPUs have no price")
    family = _family(scenario)
    quoted = sorted(
        (float(row["usd_per_gpu_hour"]), name, row)
        for name, row in ((name, catalogue.entry("prices", name)) for name in catalogue.names("prices"))
        if row.get("gpu", "").upper() == family
    )
    if len({usd for usd, _, _ in quoted}) < 2:
        return scaled(scenario, "prices.usd_per_gpu_hour", usd_text, f"{WHAT_IF} for {family}")
    return tuple(  # type: ignore[return-value]
        Setting(
            usd,
            usd_text(usd),
            with_value(scenario, "prices.usd_per_gpu_hour", usd),
            reason=f"{which} {family} price of the catalogue: {name}",
            source=f"{row.get('term', '')}, {row.get('date', '')}: {row.get('source', '')}",
        )
        for which, (usd, name, row) in (("cheapest", quoted[0]), ("dearest", quoted[-1]))
    )


def _utilisation(scenario: Scenario, peak_to_mean: float | None) -> Ends | LeftOut:
    if not scenario.prices.usd_per_gpu_hour:
        return LeftOut("the scenario's GPUs have no price")
    if peak_to_mean is not None:
        share = PERCENT / peak_to_mean
        reason = f"GPUs rented all day for a peak of {peak_to_mean:g} times the mean, as stated"
        source = ""
    else:
        (mean, source), (peak, _) = _published("ds_prod_nodes_mean"), _published("ds_prod_nodes_peak")
        share = PERCENT * mean / peak
        reason = f"DeepSeek's day: {mean:g} nodes on average, {peak:g} at its peak; rented for the peak"
    low = Setting(share, f"{share:.0f} %", utilisation_pct=share, reason=reason, source=source)
    return low, Setting(PERCENT, "100 %", utilisation_pct=PERCENT)


# --- hardware -------------------------------------------------------------------------------------------------------


OWN_BANDWIDTHS = LeftOut("costs = report counts with bandwidths of its own, whatever the hardware says")


def _hbm(scenario: Scenario, _: float | None) -> Ends | LeftOut:
    if scenario.costs == "report":
        return OWN_BANDWIDTHS
    return scaled(scenario, "cluster.gpu.hbm_gb_per_s", gb_per_s_text)


def _network(scenario: Scenario, _: float | None) -> Ends | LeftOut:
    if scenario.costs == "report":
        return OWN_BANDWIDTHS
    if scenario.two_clusters:  # one fabric joins them, at the slower end's pace
        return scaled(scenario, "cluster.network.gb_per_s_per_gpu", gb_per_s_text, also=FFN_NETWORK)
    if scenario.deployment.num_gpus <= scenario.cluster.node.link_domain_gpus:
        return LeftOut("all GPUs of a replica are in one link domain: nothing crosses the network")
    return scaled(scenario, "cluster.network.gb_per_s_per_gpu", gb_per_s_text)


def _link(scenario: Scenario, _: float | None) -> Ends | LeftOut:
    if scenario.costs == "report":
        return OWN_BANDWIDTHS
    if scenario.deployment.num_gpus == 1:
        return LeftOut("one GPU: nothing crosses a link")
    return scaled(scenario, "cluster.node.link_gb_per_s", gb_per_s_text)


# --- model ----------------------------------------------------------------------------------------------------------


def _acceptance_words(scenario: Scenario) -> str:
    mtp = scenario.deployment.mtp
    return mtp.words if mtp.listed else f"{mtp.acceptance:g}"


def _acceptance(scenario: Scenario, _: float | None) -> Ends | LeftOut:
    mtp = scenario.deployment.mtp
    if not mtp.draft_tokens or scenario.deployment.phase == "prefill":
        return LeftOut("no draft tokens (deployment.mtp)")
    if mtp.listed:
        return LeftOut("drafts have acceptances of their own, as measured")
    if scenario.model.name.startswith("longcat-flash") and scenario.model.name != "longcat-flash-lite":
        setup = read_document(DATA / "published" / TABLE6)
        low, high = setup["acceptance_interval"]
        reason = "published for LongCat-Flash: Table 7 counts with 0.8, Table 5 has 92.1 % on MT-Bench"
        source = setup["source"]
    else:
        low, high = (
            max(mtp.acceptance - WHAT_IF_ACCEPTANCE, 0.0),
            min(mtp.acceptance + WHAT_IF_ACCEPTANCE, 1.0),
        )
        reason, source = f"a what-if: {WHAT_IF_ACCEPTANCE:g} less and more, no published range", ""
    return tuple(  # type: ignore[return-value]
        Setting(
            value,
            f"{value:g}",
            with_value(scenario, "deployment.mtp.acceptance", value),
            reason=reason,
            source=source,
        )
        for value in (float(low), float(high))
    )


def _skew(scenario: Scenario, _: float | None) -> Ends | LeftOut:
    moe, routing = scenario.model.moe, scenario.routing
    if moe is None:
        return LeftOut(f"model {scenario.model.name} has no experts")
    if scenario.deployment.ep == 1:
        return LeftOut("deployment.ep = 1: every GPU has all experts, so none is busier for them")
    even = Setting(
        0.0,
        "every rank alike",
        balanced(scenario),
        reason="at best the mean load on every rank, whatever the engine",
    )
    if routing.rank_loads is not None or routing.popularity in ("histogram", "dirichlet"):
        return even, Setting(1.0, routing.load_words, reason="as it is, against perfect balance")
    model, record = next(iter(read_document(SKEW_FILE).items()))
    exponent = max(float(record["skew"]), float(routing.skew or 0.0))
    changed = {"popularity": "power-law", "skew": exponent}
    skewed = scenario.model_copy(update={"routing": routing.model_copy(update=changed)})
    return even, Setting(
        exponent,
        Routing(popularity="power-law", skew=exponent).load_words,
        skewed,
        reason=f"at worst the power law that was fitted for {model}"
        if exponent == float(record["skew"])
        else "at worst the power law as stated",
        source=record["source"],
    )


def _real_experts(scenario: Scenario, _: float | None) -> Ends | LeftOut:
    moe, routing = scenario.model.moe, scenario.routing
    if moe is None or not moe.num_zero_experts:
        return LeftOut(f"model {scenario.model.name} has no zero-computation experts")
    for name in ("activation", "layer_means", "std_real_experts"):
        if getattr(routing, name) is not None:
            return LeftOut(f"routing.{name} states the number of real experts")
    known = moe.real_experts_by_workload
    if known:
        ends = [(mean, name) for name, mean in sorted(known.items(), key=lambda item: item[1])]
        low, high = ends[0], ends[-1]
        reason = "lowest and highest published mean of a workload"
        source = _activation_source(scenario.model.name)
    else:
        own = scenario.mean_real_experts
        share = WHAT_IF_PCT / PERCENT
        low, high = (own * (1.0 - share), ""), (min(own * (1.0 + share), float(moe.top_k)), "")
        reason, source = WHAT_IF, ""
    return tuple(  # type: ignore[return-value]
        Setting(
            mean,
            f"{mean:.3g}" + (f" ({name})" if name else ""),
            scenario.model_copy(
                update={"routing": routing.model_copy(update={"mean_real_experts": mean, "workload": ""})}
            ),
            reason=reason,
            source=source,
        )
        for mean, name in (low, high)
    )


# --- helpers --------------------------------------------------------------------------------------------------------


def scaled(
    scenario: Scenario,
    path: str,
    text: Callable[[float], str],
    reason: str = WHAT_IF,
    also: str = "",
) -> Ends:
    """The field at ``path``, and that at ``also``, lower and higher by WHAT_IF_PCT; told in figures of the first."""

    def end(sign: float, why: str) -> Setting:
        factor, changed = 1.0 + sign * WHAT_IF_PCT / PERCENT, scenario
        for one in filter(None, (path, also)):
            changed = with_value(changed, one, float(_at(scenario, one)) * factor)
        value = float(_at(changed, path))
        return Setting(value, text(value), changed, reason=why)

    return end(-1.0, reason), end(1.0, "")


def _at(spec: Any, path: str) -> Any:
    for key in path.split("."):
        spec = getattr(spec, key)
    return spec


def with_value(spec: Any, path: str, value: Any) -> Any:
    """A spec with the field at ``path`` replaced, unvalidated."""
    head, _, rest = path.partition(".")
    child = with_value(getattr(spec, head), rest, value) if rest else value
    return spec.model_copy(update={head: child})


def _family(scenario: Scenario) -> str:
    """``H800`` of h800-sxm: what the catalogue's prices are quoted for."""
    return scenario.cluster.gpu.name.partition("-")[0].upper()


def usd_text(value: float) -> str:
    """A price for people."""
    return f"${value:.3g}"


def gb_per_s_text(value: float) -> str:
    """A bandwidth for people."""
    return f"{value:,.4g} GB/s"


@cache
def _published(row_id: str) -> tuple[float, str]:
    """(value, source) of a row of ``data/published/serving.csv``."""
    with (DATA / "published" / "serving.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["id"] == row_id)
    return float(row["value"]), row["source"]


def _activation_source(model: str) -> str:
    known = model in catalogue.names("models")
    return str(catalogue.entry("models", model).get("activation", {}).get("source", "")) if known else ""


def _mean_text(scenario: Scenario) -> str:
    return f"{scenario.mean_real_experts:.3g}"


def _skew_text(scenario: Scenario) -> str:
    return scenario.routing.load_words


LEVERS = (
    Lever("GPU price", "USD per GPU hour", lambda s: usd_text(s.prices.usd_per_gpu_hour), price_lever),
    Lever("utilisation", "% of the time in full steps", lambda _: "100 %", _utilisation),
    Lever("expert load", "exponent", _skew_text, _skew),
    Lever("real experts per token", "experts", _mean_text, _real_experts),
    Lever("draft acceptance", "probability", _acceptance_words, _acceptance),
    Lever("HBM bandwidth", "GB/s", lambda s: gb_per_s_text(s.cluster.gpu.hbm_gb_per_s), _hbm),
    Lever(
        "network bandwidth",
        "GB/s per GPU",
        lambda s: gb_per_s_text(s.cluster.network.gb_per_s_per_gpu),
        _network,
    ),
    Lever("link bandwidth", "GB/s per GPU", lambda s: gb_per_s_text(s.cluster.node.link_gb_per_s), _link),
)
"""In the order in which they are asked."""


# --- FFNs on other GPUs ---------------------------------------------------------------------------------------------

FFN_NETWORK = "ffns.cluster.network.gb_per_s_per_gpu"
FFN_PRICE_LEVER = "GPU price of FFNs"
FFN_HBM, FFN_PRICE = "ffns.cluster.gpu.hbm_gb_per_s", "ffns.prices.usd_per_gpu_hour"


def _ffn_price(scenario: Scenario, _: float | None) -> Ends | LeftOut:
    if not scenario.ffn_side.prices.usd_per_gpu_hour:
        return LeftOut("the GPUs of FFNs have no price")
    return scaled(scenario, FFN_PRICE, usd_text)


FFN_LEVERS = (
    Lever(FFN_PRICE_LEVER, "USD per GPU hour", lambda s: usd_text(_at(s, FFN_PRICE)), _ffn_price),
    Lever(
        "HBM bandwidth of FFNs",
        "GB/s",
        lambda s: gb_per_s_text(_at(s, FFN_HBM)),
        lambda s, _: scaled(s, FFN_HBM, gb_per_s_text),
    ),
)


PRICES = {"GPU price": "prices.usd_per_gpu_hour", FFN_PRICE_LEVER: FFN_PRICE}
"""Levers that change what a GPU costs, and no step -> the key that they change."""


def levers_of(scenario: Scenario) -> tuple[Lever, ...]:
    """Those that are asked of a scenario: other GPUs for FFNs have their own."""
    return (*LEVERS, *(FFN_LEVERS if scenario.two_clusters else ()))

"""A measured run as the scenario that its user would write: model, cluster, engine, layout, lengths, and what was set.

Everything else is the engine's defaults, filled in as they are for everybody (:mod:`perfmodel.engines`): what
``validate`` measures is what a user gets.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.engines.profile import profile
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.load import apply_override, build_scenario
from perfmodel.spec import catalogue
from perfmodel.spec.scenario import Scenario
from perfmodel.validation.names import MODELS, SYSTEMS
from perfmodel.validation.setups import Setup, setup_of

MODES = ("agg", "disagg")
PRECISIONS = ("fp4", "mxfp4", "fp8", "int4", "bf16")
ENGINES = ("sglang", "trtllm", "vllm")
MANY, WAVES_OF_MANY = 1000, 3
"""Disaggregated rows with more slots than this have so many prompts per slot: the largest has 8,192 slots."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Parallelism of one instance, and how many of it there are."""

    attention_tp: int
    attention_dp: int
    moe_tp: int
    ep: int
    instances: int = 1

    @property
    def gpus(self) -> int:
        """Of one instance."""
        return self.attention_tp * self.attention_dp

    @property
    def section(self) -> dict[str, int]:
        """As keys of a deployment."""
        return {
            "attention_tp": self.attention_tp,
            "attention_dp": self.attention_dp,
            "moe_tp": self.moe_tp,
            "ep": self.ep,
        }


def unknown(record: Mapping[str, str]) -> str:
    """What the row does not state or the catalogue does not have; empty: nothing is missing."""
    if not record["concurrency"]:
        return record.get("note") or "the row states no concurrency"
    if model_of(record) is None:
        return f"model {record['model']} is not in the catalogue"
    if cluster_of(record) is None:
        return f"system {record['system']}: no calibration"
    if record["mode"] not in MODES:
        return f"mode {record['mode']!r}: must be {' or '.join(MODES)}"
    if record["precision"] not in PRECISIONS:
        return f"precision {record['precision']!r}: must be one of {', '.join(PRECISIONS)}"
    if record["backend"] not in ENGINES:
        return f"backend {record['backend']!r}: must be one of {', '.join(ENGINES)}"
    return ""


def model_of(record: Mapping[str, str]) -> str | None:
    """Catalogue name, or the path of a config, of a row's model; None: not known."""
    stated = record["model"]
    if stated in MODELS:
        return MODELS[stated]
    return stated if stated in catalogue.names("models") or stated.endswith(".json") else None


def cluster_of(record: Mapping[str, str]) -> str | None:
    """Catalogue cluster of a row's system (as printed, or its own name); None: not known, or not calibrated."""
    stated = SYSTEMS.get(record["system"], record["system"])
    if stated not in catalogue.names("clusters"):
        return None
    return stated if gpu_of(record) in catalogue.names("calibrations") else None


def gpu_of(record: Mapping[str, str]) -> str:
    """Catalogue GPU of a row's system; empty: the catalogue has none."""
    stated = SYSTEMS.get(record["system"], record["system"])
    return gpu_in(stated) if stated in catalogue.names("clusters") else ""


def gpu_in(cluster: str) -> str:
    """Catalogue GPU of a catalogue cluster."""
    return str(catalogue.entry("clusters", cluster)["gpu"])


def stated_version(record: Mapping[str, str]) -> str:
    """The version of the engine where the row names a release; empty: it names none (a nightly, an image)."""
    found = re.match(r"~?(\d+\.\d+[\w.]*)$", record.get("backend_version") or "")
    if not found or (
        found[1].startswith("0.") and record["backend"] == "trtllm"
    ):  # Dynamo's image, not the engine
        return ""
    return found[1]


def overrides_of(record: Mapping[str, str], setup: Setup | None = None) -> dict[str, Any]:
    """What was set beyond engine, layout and lengths: key paths and values, from rules and the row's own ``set``.

    Raises:
        SpecError: ``set`` is not of the form ``key.path=value; key.path=value``.
    """
    setup = setup or setup_of(record)
    found = setup.overrides(float(record["concurrency"] or 1), float(record["isl"]))
    for text in filter(None, (part.strip() for part in (record.get("set") or "").split(";"))):
        key, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"set = {text!r}: must be key.path=value, with ; between")
        found[key.strip()] = value.strip()
    return found


def scenario_of(record: Mapping[str, str], constants: Mapping[str, Any] | None = None) -> Scenario:
    """The scenario of a run in the columns of ``silicon_serving.csv``.

    ``constants``: key paths and values over those of the engine's data, for fits.

    Raises:
        PerfModelError: a layout that can't be read or that the model does not allow, or a bad value.
    """
    setup = setup_of(record)
    document = document_of(record, setup)
    for path, value in {**overrides_of(record, setup), **(constants or {})}.items():
        for one in _everywhere(path, document):
            document = apply_override(document, f"{one}={value}")
    return build_scenario(document)


def document_of(record: Mapping[str, str], setup: Setup) -> dict[str, Any]:
    """The scenario's document: what the columns say, and nothing else."""
    apart = record["mode"] == "disagg"
    first = parse_layout(record["parallel_or_prefill"])
    if not apart:
        first = corrected(first, setup)
        if record["gpus"] and float(record["gpus"]) != first.gpus:
            raise PerfModelError(
                f"gpus = {record['gpus']}: the layout {record['parallel_or_prefill']!r} has {first.gpus}"
            )
    own = parse_layout(record["decode"]) if apart else first
    version = stated_version(record)
    document: dict[str, Any] = {
        "name": record["id"],
        "model": model_of(record),
        "cluster": cluster_of(record),
        "engine": {"name": record["backend"], **({"version": version} if version else {})},
        "deployment": own.section,
        "serving": {"replicas": own.instances} if own.instances > 1 else {},
        "workload": workload_of(record, setup),
    }
    if apart:
        document["prefill"] = {"deployment": first.section, "serving": {"replicas": first.instances}}
    return document


def workload_of(record: Mapping[str, str], setup: Setup) -> dict[str, Any]:
    """The closed loop as the row's client drives it."""
    slots = int(float(record["concurrency"]))
    return {
        "max_concurrency": slots,
        "num_requests": max(1, round(waves_of(record, setup) * slots)),
        "input_tokens": _lengths(float(record["isl"]), setup),
        "output_tokens": _lengths(max(1.0, float(record["osl"])), setup),
    }


def waves_of(record: Mapping[str, str], setup: Setup) -> float:
    """Prompts per slot that are simulated."""
    many = record["mode"] == "disagg" and float(record["concurrency"]) > MANY
    return min(setup.prompts_per_slot, WAVES_OF_MANY) if many else setup.prompts_per_slot


def _lengths(stated: float, setup: Setup) -> Any:
    """All alike, or uniform between the client's bounds."""
    low, high = (max(1, round(stated * r)) for r in (setup.lowest_length_ratio, setup.highest_length_ratio))
    return high if low >= high else {"min": low, "max": high}


def _everywhere(path: str, document: Mapping[str, Any]) -> tuple[str, ...]:
    """Where a setting goes: prefill replicas are started with the same flags as those that decode."""
    shared = path.split(".")[0] in ("deployment", "serving") and "prefill" in document
    return (path, f"prefill.{path}") if shared else (path,)


LAYOUT = re.compile(
    r"(?:[PD] (?P<instances>\d+)x\()?tp(?P<tp>\d+) dp(?P<dp>\d*)(?: moe_tp(?P<moe_tp>\d+))? ep(?P<ep>\d+)\)?$"
)


def parse_layout(text: str) -> Layout:
    """``tp8 dp1 moe_tp8 ep1`` or ``P 2x(tp1 dp8 ep8)``; ``dp`` without a number means attention DP 1, and where
    ``moe_tp`` is missing it follows from moe_tp x ep = tp x dp.

    Raises:
        PerfModelError: not of that form.
    """
    match = LAYOUT.match(text)
    if match is None:
        raise PerfModelError(
            f"parallel = {text!r}: must be like 'tp8 dp1 moe_tp8 ep1' or 'P 2x(tp1 dp8 ep8)'"
        )
    tp, dp, ep = int(match["tp"]), int(match["dp"] or 1), int(match["ep"])
    if 0 in (tp, dp, ep, int(match["instances"] or 1)):
        raise PerfModelError(f"parallel = {text!r}: every size must be above 0")
    moe_tp = int(match["moe_tp"] or tp * dp // ep)
    return Layout(tp, dp, moe_tp, ep, int(match["instances"] or 1))


def corrected(layout: Layout, setup: Setup) -> Layout:
    """The layout as the launch script says where it differs from the CSV's columns."""
    gpus = layout.gpus
    if setup.attention_dp:
        layout = Layout(1, gpus, layout.moe_tp, layout.ep, layout.instances)
    if setup.expert_parallel is None:
        return layout
    ep = gpus if setup.expert_parallel else 1
    return Layout(layout.attention_tp, layout.attention_dp, gpus // ep, ep, layout.instances)


def engine_name(record: Mapping[str, str]) -> str:
    """Engine and version in words."""
    own = profile(record["backend"], stated_version(record))
    return f"{own.title} {own.version}"

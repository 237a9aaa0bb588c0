"""A measured run as the scenario that its user would write: model, cluster, engine, layout, traffic, and what was set.

Everything else is the engine's defaults, filled in as they are for everybody (:mod:`perfmodel.engines`): what
``validate`` measures is what a user gets. Published rows have the columns of ``silicon_serving.csv``, a user's may have
more of them (``docs/validate.md``).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.engines import profile as engines
from perfmodel.engines.versions import is_version
from perfmodel.errors import PerfModelError
from perfmodel.load import CALIBRATED, build_scenario
from perfmodel.spec import catalogue
from perfmodel.spec.published_drafts import acceptance_of
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.workload import DEFAULT_REQUESTS
from perfmodel.stated import with_overrides
from perfmodel.validation.names import MODELS, cluster_named, gpu_named
from perfmodel.validation.setups import Setup, setup_of
from perfmodel.validation.user_data import FOLDER, settings_in

MODES = ("agg", "disagg")
PRECISIONS = ("fp4", "mxfp4", "fp8", "int4", "bf16")
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
    if not record["concurrency"] and not record.get("request_rate"):
        return record.get("note") or "the row states no concurrency and no request_rate"
    if model_of(record) is None:
        return f"model {record['model']} is not in the catalogue{_or_a_config(record)}"
    if not gpu_named(record["system"]):
        return (
            f"system {record['system']}: no calibration, and not in the catalogue (perfmodel show clusters)"
        )
    if record["mode"] not in ("", *MODES):
        return f"mode {record['mode']!r}: must be {' or '.join(MODES)}"
    if record["precision"] not in ("", *PRECISIONS):
        return f"precision {record['precision']!r}: must be one of {', '.join(PRECISIONS)}"
    if record["backend"] not in ("", *engines.names()):
        return f"backend {record['backend']!r}: must be one of {', '.join(engines.names())}"
    return ""


def is_own(record: Mapping[str, str]) -> bool:
    """Whether the row is a user's: nothing is known of it but what it states."""
    return FOLDER in record


def _or_a_config(record: Mapping[str, str]) -> str:
    return ", and no config.json is there" if is_own(record) else ""


def model_of(record: Mapping[str, str]) -> str | None:
    """Catalogue name of a row's model, or the path of a config.json or its folder (in a user's row, from the folder of
    the file); None: not known.
    """
    stated = record["model"]
    if stated in MODELS:
        return MODELS[stated]
    if stated in catalogue.names("models"):
        return stated
    path = os.path.abspath(os.path.join(record[FOLDER], stated)) if is_own(record) else ""
    if path and os.path.isdir(path):
        path = os.path.join(path, "config.json")
    return path if os.path.isfile(path) else None


def apart(record: Mapping[str, str]) -> bool:
    """Whether prompts are computed by replicas of their own."""
    return record["mode"] == "disagg"


def remarks(record: Mapping[str, str]) -> str:
    """What of a user's row was answered otherwise than a reader would expect; empty: nothing."""
    if not is_own(record):
        return ""
    found, gpu, version = [], gpu_named(record["system"]), record.get("backend_version") or ""
    if gpu not in catalogue.names("calibrations") and "calibration" not in settings_in(
        record.get("set") or ""
    ):
        found.append(f"no calibration for {gpu}: kernels by roofline")
    if version and not stated_version(record):
        found.append(f"backend_version {version} names no release: answered as {engine_name(record)}")
    return "; ".join(found)


def stated_version(record: Mapping[str, str]) -> str:
    """The version of the engine where the row names a release; empty: it names none (a nightly, an image)."""
    found = re.match(r"~?(v?\d+\.\d+[\w.+]*)$", record.get("backend_version") or "")
    if not found or not is_version(found[1]):
        return ""
    image = record["backend"] == "trtllm" and not is_own(
        record
    )  # 0.x is that of Dynamo's image, not the engine's
    return "" if image and found[1].startswith("0.") else found[1]


def overrides_of(record: Mapping[str, str], setup: Setup | None = None) -> dict[str, Any]:
    """What was set beyond engine, layout and traffic: key paths and values, from rules, drafts and the row's ``set``.

    Raises:
        SpecError: ``set`` is not of the form ``key.path=value; key.path=value``, or no acceptance gives the length.
    """
    setup = setup or setup_of(record)
    found = setup.overrides(float(record["concurrency"] or 1), float(record["isl"] or 0))
    return found | drafts_of(record) | settings_in(record.get("set") or "")


def settings_of(record: Mapping[str, str]) -> str:
    """What a row's output lists, as a user would set it: its traffic as it is sent, and what was set beyond engine and
    layout. ``key.path=value``, with ; between.
    """
    setup = setup_of(record)
    traffic = {f"workload.{name}": value for name, value in workload_of(record, setup).items()}
    return "; ".join(
        f"{path}={_as_set(value)}" for path, value in (traffic | overrides_of(record, setup)).items()
    )


def _as_set(value: Any) -> str:
    """A value as YAML on one line."""
    if not isinstance(value, Mapping):
        return str(value)
    return "{" + ", ".join(f"{key}: {one}" for key, one in value.items()) + "}"


def drafts_of(record: Mapping[str, str]) -> dict[str, Any]:
    """Speculative decoding as a row states it: ``mtp`` drafts with an acceptance, or the tokens accepted per step."""
    drafts = int(float(record.get("mtp") or 0))
    if not drafts:
        return {}
    stated, length = record.get("acceptance"), record.get("accepted_length")
    acceptance = float(stated) if stated else acceptance_of(drafts, float(length or 0))
    plain = f"{acceptance:.9f}".rstrip("0")  # YAML reads 1e-05 as a word
    return {
        "deployment.mtp.draft_tokens": drafts,
        "deployment.mtp.acceptance": plain + "0" if plain[-1] == "." else plain,
    }


def scenario_of(record: Mapping[str, str], constants: Mapping[str, Any] | None = None) -> Scenario:
    """The scenario of a run in the columns of ``silicon_serving.csv``.

    ``constants``: key paths and values over those of the engine's data, for fits.

    Raises:
        PerfModelError: a layout that can't be read or that the model does not allow, or a bad value.
    """
    setup = setup_of(record)
    document = document_of(record, setup)
    overrides = [
        f"{one}={value}"
        for path, value in {**overrides_of(record, setup), **(constants or {})}.items()
        for one in _everywhere(path, document)
    ]
    return build_scenario(with_overrides(document, overrides))


def document_of(record: Mapping[str, str], setup: Setup) -> dict[str, Any]:
    """The scenario's document: what the columns say, and nothing else."""
    first = parse_layout(record["parallel_or_prefill"])
    if not apart(record):
        first = corrected(first, setup)
    own = parse_layout(record["decode"]) if apart(record) else first
    layouts = (first, own) if apart(record) else (own,)
    gpus = sum(one.gpus * one.instances for one in layouts)
    if record["gpus"] and not setup.layout and float(record["gpus"]) != gpus:
        stated = " and ".join(filter(None, (record["parallel_or_prefill"], record["decode"])))
        raise PerfModelError(f"gpus = {record['gpus']}: the layout {stated!r} has {gpus}")
    version = stated_version(record)
    document: dict[str, Any] = {
        "name": record["id"],
        "model": model_of(record),
        **place_of(record["system"]),
        "deployment": own.section,
        "serving": {"replicas": own.instances} if own.instances > 1 else {},
        "workload": workload_of(record, setup),
    }
    if record["backend"]:
        document["engine"] = {"name": record["backend"], **({"version": version} if version else {})}
    if apart(record):
        document["prefill"] = {"deployment": first.section, "serving": {"replicas": first.instances}}
    return document


def place_of(system: str) -> dict[str, Any]:
    """The cluster of a system; of a device that a calibration alone describes, that one. A figure of time needs no
    price, so what has none in the catalogue gets one.
    """
    cluster, gpu = cluster_named(system), gpu_named(system)
    priced = any(
        gpu in catalogue.entry("prices", name).get("default_for", ()) for name in catalogue.names("prices")
    )
    prices = {} if priced else {"prices": {"usd_per_gpu_hour": 1.0}}
    return {**({"cluster": cluster} if cluster else {"cluster": CALIBRATED, "calibration": system}), **prices}


def workload_of(record: Mapping[str, str], setup: Setup) -> dict[str, Any]:
    """The traffic as the row's client sends it: a closed loop, a rate (with or without a cap), or all at once."""
    found: dict[str, Any] = {}
    if record["concurrency"]:
        found["max_concurrency"] = int(float(record["concurrency"]))
    for name in ("request_rate", "burstiness"):
        text = record.get(name)
        if text:
            found[name] = text if text == "inf" else float(text)
    warm_up = int(float(record.get("warm_up_requests") or 0))
    if warm_up:
        found["warm_up_requests"] = warm_up
    return found | {
        "num_requests": prompts_of(record, setup) + warm_up,
        "input_tokens": _lengths("isl", record, setup),
        "output_tokens": _lengths("osl", record, setup),
    }


def prompts_of(record: Mapping[str, str], setup: Setup) -> int:
    """Requests that are judged: as stated, or so many per slot, or as many as a scenario has."""
    if record.get("num_prompts"):
        return int(float(record["num_prompts"]))
    if not record["concurrency"]:
        return DEFAULT_REQUESTS
    return max(1, round(waves_of(record, setup) * int(float(record["concurrency"]))))


def waves_of(record: Mapping[str, str], setup: Setup) -> float:
    """Prompts per slot that are simulated."""
    many = apart(record) and float(record["concurrency"]) > MANY
    return min(setup.prompts_per_slot, WAVES_OF_MANY) if many else setup.prompts_per_slot


def _lengths(name: str, record: Mapping[str, str], setup: Setup) -> Any:
    """All alike, or uniform between the bounds that the row states, or the client's."""
    if record.get(f"{name}_min"):
        low, high = (int(float(record[f"{name}_{bound}"])) for bound in ("min", "max"))
    else:
        stated = max(1.0, float(record[name]))
        ratios = (setup.lowest_length_ratio, setup.highest_length_ratio)
        low, high = (max(1, round(stated * ratio)) for ratio in ratios)
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
    if setup.layout:
        layout = parse_layout(setup.layout)
    gpus = layout.gpus
    if setup.attention_dp:
        layout = Layout(1, gpus, layout.moe_tp, layout.ep, layout.instances)
    if setup.expert_parallel is None:
        return layout
    ep = gpus if setup.expert_parallel else 1
    return Layout(layout.attention_tp, layout.attention_dp, gpus // ep, ep, layout.instances)


def engine_name(record: Mapping[str, str]) -> str:
    """Engine and version in words."""
    if not record["backend"]:
        return "no engine"
    own = engines.profile(record["backend"], stated_version(record))
    return f"{own.title} {own.version}"

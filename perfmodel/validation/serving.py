"""Rows in the columns of ``serving.csv``: steps of a stated size on a stated number of GPUs, and ratios between two.

What a row leaves out is never guessed: a row that states no batch, or a total over a day of traffic, is listed with the
reason.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfmodel.engines.profile import names as engines
from perfmodel.engines.versions import is_version
from perfmodel.errors import PerfModelError
from perfmodel.load import build_scenario
from perfmodel.ops.work import tokens_per_step
from perfmodel.spec.published_drafts import acceptance_of
from perfmodel.spec.scenario import Scenario
from perfmodel.stated import with_overrides
from perfmodel.step import common_log_std, drawable, has_contention, predict_steps
from perfmodel.uncertainty import drawn_step_times
from perfmodel.units import MS, US
from perfmodel.validation.names import gpu_named
from perfmodel.validation.rows import Row
from perfmodel.validation.runs import PRECISIONS, is_own, model_of, place_of, remarks
from perfmodel.validation.setups import setup_of
from perfmodel.validation.steps import StepPrediction, bounds, predict_step
from perfmodel.validation.suites import Progress
from perfmodel.validation.user_data import settings_in

ENGINES = {"in-house": "deepseek", "SGLang": "sglang", "vLLM": "vllm", "TensorRT-LLM": "trtllm"}
"""Framework as printed (its first words) -> engine."""
METRICS = {
    "output_tok_s_per_node": ("output_tokens_per_s_per_gpu", "tokens/s"),
    "output_tok_s_per_gpu": ("output_tokens_per_s_per_gpu", "tokens/s"),
    "input_tok_s_per_node": ("input_tokens_per_s_per_gpu", "tokens/s"),
    "input_tok_s_per_gpu": ("input_tokens_per_s_per_gpu", "tokens/s"),
    "output_tok_s_per_user": ("output_tokens_per_s_per_user", "tokens/s"),
    "inter_token_latency": ("itl_s", "s"),
    "dispatch_time_per_layer": ("dispatch_s", "s"),
    "dispatch_time_per_layer_in_situ": ("dispatch_s", "s"),
    "dispatch_time_unit_test": ("dispatch_s", "s"),
}
"""Metric as printed -> (quantity, SI unit)."""
SCALES = {"ms": MS, "us": US}


@dataclass(frozen=True, slots=True)
class Gain:
    """A published ratio of throughputs: the same step with and without something."""

    base: Mapping[str, str]
    """Cells of the row that it is about."""
    without: Mapping[str, str]
    """What differs in the denominator."""
    note: str


def predict_rows(
    records: Sequence[Mapping[str, str]],
    *,
    suite: str,
    role: Callable[[Mapping[str, str]], str],
    gains: Mapping[str, Gain] | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Predictions for records in the columns of ``serving.csv``; ``gains`` says what the ratios compare."""
    found: list[Row] = []
    for number, record in enumerate(records):
        if progress is not None:
            progress(suite, number, len(records))
        found.append(_row_of(record, suite, role(record), (gains or {}).get(record["id"])))
    return found


def _row_of(record: Mapping[str, str], suite: str, role: str, gain: Gain | None) -> Row:
    quantity, unit = METRICS.get(record["metric"], (record["metric"], record["unit"]))
    common: dict[str, Any] = {
        "suite": suite,
        "id": record["id"],
        "model": record["model"],
        "quantity": quantity,
        "unit": unit,
        "measured": float(record["value"]) * scale(record),
        "role": role,
        "source": record.get("source", ""),
        "system": gpu_named(record["system"]),
        "engine": known_engine(record["framework"]),
    }
    try:
        if gain is not None:
            predicted, low, high = _gain(record, gain)
            return Row(predicted=predicted, low=low, high=high, reason=gain.note, **common)
        reason = missing(record)
        if reason:
            return Row(predicted=None, reason=reason, **common)
        predicted, low, high = quantity_of(predict_step(scenario_of(record)), quantity)
    except PerfModelError as error:
        return Row(predicted=None, reason=str(error), **common)
    told: dict[str, Any] = {"reason": remarks(record) or None, "settings": _listed(record)}
    return Row(predicted=predicted, low=low, high=high, **common, **told)


def _listed(record: Mapping[str, str]) -> str:
    return "; ".join(f"{path}={value}" for path, value in settings_of(record).items())


def scale(record: Mapping[str, str]) -> float:
    """SI per printed unit; a node's tokens are divided over its GPUs."""
    if record["unit"] == "tok/s/node":
        return 1.0 / float(record["gpus_per_unit"] or 8)
    return SCALES.get(record["unit"], 1.0)


def answerable(record: Mapping[str, str]) -> bool:
    """Whether the row describes a step whose throughput is known."""
    return not missing(record) and record["metric"].split("_tok")[0] in ("input", "output")


def throughput(record: Mapping[str, str], constants: Mapping[str, Any] | None = None) -> tuple[float, float]:
    """(measured, predicted) tokens/s and GPU of an answerable row."""
    scenario = scenario_of(record, constants)
    quantity, _ = METRICS[record["metric"]]
    seconds = float(predict_steps(scenario).step_time_s[0])
    return float(record["value"]) * scale(record), float(_value(scenario, seconds, quantity))


def missing(record: Mapping[str, str]) -> str:
    """Why the row can't be predicted; empty: it can."""
    if record["phase"] == "fleet" or (
        "production traffic" in record["routing"] and record["phase"] == "prefill"
    ):
        return "an average over a day of traffic: suite deepseek-fleet"
    if record["phase"] == "ablation":
        return f"{record['metric']}: the row states neither layout nor batch of what it compares"
    if record["metric"] not in METRICS:
        return f"metric {record['metric']}: not a quantity of one step"
    if model_of(record) is None:
        return f"model {record['model']} is not in the catalogue"
    if not gpu_named(record["system"]):
        return (
            f"system {record['system']}: no calibration, and not in the catalogue (perfmodel show clusters)"
        )
    if record["mtp"] not in ("", "no") and is_own(record) and not _mtp(record):
        return f"mtp {record['mtp']!r}: must be like '2 draft tokens, accepted length 1.8' (or acceptance 0.6), or no"
    if record["mtp"].startswith("yes") and "model has" not in record["mtp"]:
        return "MTP with an acceptance that the row does not state"
    if record["metric"].startswith("dispatch") and not record["batch_per_gpu"]:
        return "the row states no batch"
    if is_own(record) and record["phase"] not in ("decode", "prefill"):
        return f"phase {record['phase']!r}: must be decode or prefill"
    if record["phase"] not in ("decode", "prefill"):
        return "the row states no batch: it was run at the largest load that fits"
    if not record["batch_per_gpu"]:
        return "the row states no batch"
    if not record["isl_or_kv"]:
        return "the row states no context"
    return ""


def scenario_of(record: Mapping[str, str], constants: Mapping[str, Any] | None = None) -> Scenario:
    """The step that a row describes; ``constants`` (key paths and values) replace the engine's own.

    A published row runs sequentially unless it says otherwise, with attention and cache in BF16; a user's has its
    engine's defaults, and what it states.

    Raises:
        PerfModelError: a cell that can't be read, or a layout that the model does not allow.
    """
    deployment = {"phase": record["phase"], **_layout(record), **_work(record), **_engine(record)}
    document: dict[str, Any] = {
        "name": record["id"],
        "model": model_of(record),
        **place_of(record["system"]),
        "deployment": deployment,
        "routing": _routing(record, deployment),
    }
    overrides = [f"{path}={value}" for path, value in {**settings_of(record), **(constants or {})}.items()]
    return build_scenario(with_overrides(document, overrides))


def settings_of(record: Mapping[str, str]) -> dict[str, Any]:
    """What a user's row sets: its number formats (``precision`` as in the other kind of file), and its ``set``."""
    if not is_own(record):
        return {}
    precision = record["precision"].lower()
    formats = setup_of({**record, "precision": precision}).settings if precision in PRECISIONS else {}
    return {**formats, **settings_in(record["set"])}


def _layout(record: Mapping[str, str]) -> dict[str, Any]:
    """Parallelism as stated; of a user's row what it leaves open is its engine's."""
    sizes = {name: _number(name, record["attn_parallel"]) for name in ("DP", "TP")}
    ep = _number("EP", record["moe_parallel"])
    if is_own(record) and not ep and any(sizes.values()):
        stated = {"attention_dp": sizes["DP"], "attention_tp": sizes["TP"]}
        return {name: size for name, size in stated.items() if size}
    dp, tp = sizes["DP"] or ep, sizes["TP"] or 1
    if not dp or not ep:
        raise PerfModelError(f"layout {record['attn_parallel']!r}, {record['moe_parallel']!r}: no DP and EP")
    stated_copies = re.search(r"\(\+?(\d+) redundant", record["moe_parallel"])
    experts = 256 if model_of(record) == "deepseek-v3" and not is_own(record) else 0
    return {
        "attention_dp": dp,
        "attention_tp": tp,
        "ep": ep,
        "moe_tp": max(dp * tp // ep, 1),
        "redundant_experts": int(stated_copies[1]) if stated_copies else -experts % ep if experts else 0,
    }


def _engine(record: Mapping[str, str]) -> dict[str, Any]:
    """Engine, schedule and number formats."""
    if not is_own(record):
        return {
            "engine": engine_of(record["framework"]),
            "overlap": "tbo" if _two_batches(record) else "sequential",
            "precision": {"kv_cache": "bf16", "attention": "bf16", **_formats(record["precision"])},
        }
    found: dict[str, Any] = {"engine": engine_of(record["framework"])} if record["framework"] else {}
    version = engine_version_of(record)
    if version:
        found["engine_version"] = version
    if "TBO" in record["moe_parallel"]:
        found["overlap"] = "tbo" if _two_batches(record) else "sequential"
    if record["precision"].lower() not in PRECISIONS:
        found["precision"] = _formats(record["precision"])
    return found


def engine_version_of(record: Mapping[str, str]) -> str:
    """The version in the row's framework cell; empty where it names none."""
    version = re.search(r"\s~?(v?\d+\.\d+[\w.+]*)$", record["framework"])
    return version[1] if version and is_version(version[1]) else ""


def _work(record: Mapping[str, str]) -> dict[str, Any]:
    """Requests of the step, and drafts."""
    if record["phase"] == "decode":
        return {
            "batch_per_gpu": _float("batch_per_gpu", record["batch_per_gpu"]),
            "context_tokens": _context(record),
            **_mtp(record),
        }
    length = float(record["isl_or_kv"])
    return {"prefill_tokens": length, "prefill_requests_per_gpu": _prefill_tokens(record) / length}


def _routing(record: Mapping[str, str], deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Where experts lie, or that all ranks have the same load."""
    if "perfect" in record["routing"]:
        return {"rank_loads": [1.0] * deployment["ep"]} if "ep" in deployment else {}
    redundant = deployment.get("redundant_experts", 0)
    if is_own(record) and not redundant and "EPLB" not in record["moe_parallel"]:
        return {}
    skew = {"popularity": "power-law", "skew": float(record["skew"])} if record.get("skew") else {}
    return {"placement": "eplb" if _has_eplb(record, redundant) else "contiguous", **skew}


def _has_eplb(record: Mapping[str, str], redundant: int) -> bool:
    """Whether experts were balanced: redundant ones are there for that, unless the row says otherwise."""
    return (redundant > 0 or "EPLB" in record["moe_parallel"]) and "no EPLB" not in record["moe_parallel"]


def _formats(text: str) -> dict[str, str]:
    """Number formats of a cell like ``FP8/BF16``, ``FP8 GEMM BF16 attn`` or ``NVFP4 MoE, FP8 KV``: experts in FP4 where
    it is named, all products in BF16 where nothing narrower is; empty and FP8 are the default.
    """
    upper = text.upper()
    found: dict[str, str] = {}
    if "FP4" in upper:
        found["experts"] = "fp4"
    if "FP8 KV" in upper:
        found["kv_cache"] = "fp8"
    if upper and "FP8" not in upper and "FP4" not in upper:
        found |= {"linear": "bf16", "experts": "bf16"}
    return found


def _float(name: str, text: str) -> float:
    """A cell that must be a number.

    Raises:
        PerfModelError: it is not.
    """
    try:
        return float(text)
    except ValueError as error:
        raise PerfModelError(f"{name} = {text!r}: must be a number") from error


def _prefill_tokens(record: Mapping[str, str]) -> float:
    """Prompt tokens per GPU of a prefill batch: ``16384 tok``; a plain number is requests.

    Raises:
        PerfModelError: neither.
    """
    match = re.fullmatch(r"([\d,]+)\s*tok(?:ens)?", record["batch_per_gpu"].strip())
    if match:
        return float(match[1].replace(",", ""))
    return _float("batch_per_gpu", record["batch_per_gpu"]) * _float("isl_or_kv", record["isl_or_kv"])


def _context(record: Mapping[str, str]) -> float:
    """Mean tokens in the cache: the stated context, and half of what is generated where an output length is stated."""
    return float(record["isl_or_kv"]) + float(record["osl"] or 0) / 2.0


def _mtp(record: Mapping[str, str]) -> dict[str, Any]:
    """Draft tokens and their acceptance: one with the stated one, 60 % where the row says "simulated" alone, as its
    twin does; or as many as stated, with the acceptance that gives the accepted length.
    """
    stated = re.fullmatch(
        r"(\d{1,2}) draft tokens?, (accepted length|acceptance) (\d+(?:\.\d+)?)", record["mtp"]
    )
    if stated:
        drafts, value = int(stated[1]), float(stated[3])
        acceptance = value if stated[2] == "acceptance" else acceptance_of(drafts, value)
        return {"mtp": {"draft_tokens": drafts, "acceptance": acceptance}}
    match = re.search(r"(\d+)\s*% accept", record["mtp"])
    if not record["mtp"].startswith("simulated"):
        return {}
    return {"mtp": {"draft_tokens": 1, "acceptance": int(match[1]) / 100.0 if match else 0.6}}


def _two_batches(record: Mapping[str, str]) -> bool:
    text = record["moe_parallel"]
    stated = "TBO" in text and "no TBO" not in text
    return stated or "2 micro-batches" in text or record["framework"] == "in-house"


def engine_of(framework: str) -> str:
    """The engine of a framework as printed, or by its own name.

    Raises:
        PerfModelError: none of those that are known.
    """
    engine = known_engine(framework)
    if not engine:
        raise PerfModelError(f"framework {framework!r}: must be one of {', '.join((*ENGINES, *engines()))}")
    return engine


def known_engine(framework: str) -> str:
    """The same; empty for a framework that is not known."""
    own = framework.partition(" ")[0]
    return next(
        (engine for name, engine in ENGINES.items() if framework.startswith(name)),
        own if own in engines() else "",
    )


def _number(prefix: str, text: str) -> int:
    match = re.search(rf"{prefix}(\d+)", text)
    return int(match[1]) if match else 0


def quantity_of(step: StepPrediction, quantity: str) -> tuple[float, float | None, float | None]:
    """(predicted, low, high) of one quantity of a step."""
    if quantity == "dispatch_s":
        return step.timings["dispatch"], None, None
    low, high = (None, None) if step.draws is None else bounds(_value(step.scenario, step.draws, quantity))
    return float(_value(step.scenario, step.seconds, quantity)), low, high


def _value(scenario: Scenario, seconds: Any, quantity: str) -> Any:
    """A quantity of a step that takes ``seconds``."""
    deployment = scenario.deployment
    if quantity == "itl_s":
        return seconds
    if quantity == "output_tokens_per_s_per_gpu":
        return deployment.batch_per_gpu * tokens_per_step(deployment) / seconds
    if quantity == "output_tokens_per_s_per_user":
        return tokens_per_step(deployment) / seconds
    return deployment.prefill_requests_per_gpu * deployment.prefill_tokens / seconds


def _gain(record: Mapping[str, str], gain: Gain) -> tuple[float, float | None, float | None]:
    """The ratio of the two steps' throughputs; both are drawn alike, so what they share cancels."""
    on = scenario_of({**record, **gain.base})
    off = scenario_of({**record, **gain.base, **gain.without})
    ratio = float(predict_steps(off).step_time_s[0] / predict_steps(on).step_time_s[0])
    drawn = drawn_step_times(
        [drawable(on), drawable(off)],
        common_log_std=common_log_std(on),
        contention=[has_contention(on), has_contention(off)],
    )
    return (ratio, None, None) if drawn is None else (ratio, *bounds(drawn[1] / drawn[0]))

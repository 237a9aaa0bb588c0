"""Entries of the catalogue by kind: a row of a list, and everything that is known of one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from perfmodel.engines.profile import leaves, profile
from perfmodel.engines.profile import names as profile_names
from perfmodel.errors import SpecError
from perfmodel.kernels.sums import check_sum
from perfmodel.spec import catalogue
from perfmodel.spec.documents import read_document
from perfmodel.spec.messages import describe
from perfmodel.spec.paths import is_file
from perfmodel.spec.workload import Workload
from perfmodel.units import GIGA, TERA


def rows(kind: str) -> list[dict[str, Any]]:
    """One short row per entry of a kind that is neither models, families nor keys."""
    names = profile_names() if kind == "engines" else catalogue.names(kind)
    return [_SUMMARIES[kind](name) for name in names]


def values(kind: str, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Everything about one entry of such a kind.

    Raises:
        SpecError: no such name, or overrides of something else than a trace.
    """
    if kind == "scenarios":
        from perfmodel.load import load_scenario

        scenario = load_scenario(name)
        return {
            "name": name,
            "scenario_hash": scenario.hash,
            **scenario.model_dump(mode="json", exclude={"name"}),
        }
    if kind == "calibrations":
        return calibration_values(name)
    if kind == "traces":
        return trace_values(name, overrides)
    if kind == "engines":
        return engine_values(name)
    return {"name": name, **catalogue.entry(kind, name)}


def engine_values(name: str) -> dict[str, Any]:
    """What an engine does: its rules in order, each with when it holds and its source; later ones win.

    Raises:
        SpecError: no such engine.
    """
    engine = profile(name)
    return {
        "name": name,
        "title": engine.title,
        "version": engine.version,
        "versions_read": list(engine.read),
        "experts": engine.experts,
        "rules": [
            {"when": dict(rule.get("when") or {}), "set": dict(leaves(rule["set"])), "source": rule["source"]}
            for rule in engine.rules
        ],
    }


def calibration_values(name: str) -> dict[str, Any]:
    """A calibration of the catalogue, or of a path: device, date, environment, and the error of each curve.

    Raises:
        SpecError: no such name.
        DataError: unreadable or damaged.
    """
    from perfmodel.kernels.calibration_file import load_calibration

    calibration = load_calibration(name)
    document = calibration.document
    curves = {
        " ".join(filter(None, (curve.kernel, curve.dtype, curve.backend, curve.engine))): {
            "rows": curve.num_rows,
            "leave_out_median_pct": curve.median_error_pct,
            "leave_out_p90_pct": curve.p90_error_pct,
        }
        for curve in calibration.whole()
    }
    held = [part for part in map(calibration.part, calibration.parts) if part]
    kept = (
        "derived",
        "created",
        "perfmodel",
        "clock",
        "contention",
        "environment",
        "timings",
        "source",
        "left_out",
    )
    return {
        "name": calibration.name,
        "id": calibration.id,
        "device": calibration.gpu,
        **({"parts": {part.name: part.id for part in held}} if held else {}),
        **{key: document[key] for key in kept if key in document},
        "curves": curves,
        **_slices([error for one in (calibration, *held) for error in one.document.get("errors", ())]),
        "check": _check_result(name, calibration.id),
    }


def trace_values(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A trace of the catalogue, or of a path: counts, rate, lengths, and for one of the catalogue where it comes from.

    Args:
        name: of the catalogue, or a path.
        overrides: keys of ``workload`` that say how the file is read, as ``workload.columns.time=ts``.

    Raises:
        SpecError: no such name, or an override that is no key of a workload.
        DataError: unreadable, or not a trace.
    """
    from perfmodel.spec.traces.read import trace_of
    from perfmodel.spec.traces.trace import summary

    trace = trace_of(_workload(name, overrides))
    card = catalogue.entry("traces", name) if name in catalogue.names("traces") else {}
    kept = ("title", "source", "publisher", "licence", "licence_url", "attribution", "retrieved", "note")
    return {
        "name": name,
        "id": trace.id,
        "format": trace.format,
        **summary(trace),
        **{key: card[key] for key in kept if key in card},
        **({"max_concurrency": trace.max_concurrency} if trace.max_concurrency else {}),
        **({"hash_block_tokens": trace.hash_block_tokens} if trace.hash_ids is not None else {}),
        **({"notes": list(trace.notes)} if trace.notes else {}),
    }


def _workload(trace: str, overrides: Sequence[str]) -> Workload:
    """The workload of a trace and its overrides."""
    from pydantic import ValidationError

    from perfmodel.spec.keys import unknown_key
    from perfmodel.stated import apply_override

    document: dict[str, Any] = {"workload": {"trace": trace}}
    for text in overrides:
        document = apply_override(document, text)
    for key in document.keys() - {"workload"}:
        raise SpecError(
            f"--set {key}: show traces takes keys of workload alone, e.g. workload.columns.time=ts"
        )
    try:
        return Workload.model_validate(document["workload"])
    except ValidationError as error:
        raise SpecError(describe(error, lambda path: unknown_key(f"workload.{path}"))) from error


def _slices(every: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Whole slices that were left out of fits of public tables: how many met their aim, and those that did not."""
    errors = [error for error in every if error["left_out"] != "random 20 %"]
    if not errors:
        return {}
    above = [
        f"{' '.join(filter(None, (e['kernel'], e['dtype'], e['backend'], e['engine'])))}: {e['left_out']}: "
        f"{e['median_pct']:.0f} % (aim {e['target_pct']:g} %)"
        for e in errors
        if e["median_pct"] > e["target_pct"]
    ]
    return {"slices_left_out": len(errors), "slices_above_their_aim": above}


def _check_result(name: str, calibration_id: str) -> dict[str, Any] | None:
    """What ``calibrate check`` found for this very calibration, by kind; None: not checked."""
    path = catalogue.calibration_path(name).with_name("check.json")
    if not is_file(path):
        return None
    check_sum(path)
    found = read_document(path)
    if found.get("calibration") != calibration_id:
        return None
    keys = ("n", "median_abs_pct", "p90_abs_pct", "repeat_median_pct", "coverage_pct")
    lines = {line["kind"]: {key: line[key] for key in keys} for line in found["summary"]}
    return {"date": found["date"], "failures": len(found["failures"]), **lines}


def _gpu_row(name: str) -> dict[str, Any]:
    gpu = catalogue.gpu(name)
    return {
        "name": name,
        "BF16 TFLOP/s": gpu.bf16_tflops or 0.0,
        "FP8 TFLOP/s": gpu.peak_flops("fp8") / TERA if gpu.fp8_tflops else 0.0,
        "HBM GB/s": gpu.hbm_gb_per_s,
        "memory GB": gpu.memory_bytes / GIGA,
        "date": gpu.date,
    }


def _cluster_row(name: str) -> dict[str, Any]:
    entry = catalogue.entry("clusters", name)
    node, network = entry["node"], entry["network"]
    return {
        "name": name,
        "gpu": entry["gpu"],
        "link GB/s": float(node["link_gb_per_s"]),
        "link domain": str(node["link_domain_gpus"]),
        "network GB/s": float(network["gb_per_s_per_gpu"]),
        "date": str(entry["date"]),
    }


def _price_row(name: str) -> dict[str, Any]:
    entry = catalogue.entry("prices", name)
    return {
        "name": name,
        "USD per GPU hour": float(entry["usd_per_gpu_hour"]),
        "term": entry["term"],
        "date": str(entry["date"]),
    }


def _scenario_row(name: str) -> dict[str, Any]:
    entry = catalogue.entry("scenarios", name)
    return {"name": name, "title": entry["title"]}


def _calibration_row(name: str) -> dict[str, Any]:
    from perfmodel.kernels.calibration_file import load_calibration

    calibration = load_calibration(name)
    curves = calibration.whole()
    errors = sorted(curve.median_error_pct for curve in curves)
    return {
        "name": name,
        "id": calibration.id,
        "device": calibration.gpu,
        "curves": str(len(curves)),
        "timed shapes": f"{sum(curve.num_rows for curve in curves):,}",
        "median |error| of left-out shapes (%)": errors[len(errors) // 2],
        "date": calibration.created[:10],
    }


def _trace_row(name: str) -> dict[str, Any]:
    values = trace_values(name)

    def lengths(key: str) -> str:
        return " / ".join(f"{values[key][part]:,.0f}" for part in ("mean", "p50", "p99"))

    return {
        "name": name,
        "requests": values["requests"],
        "span (s)": values["span_s"],
        "requests/s": values["requests_per_s"],
        "input mean / p50 / p99": lengths("input_tokens"),
        "output mean / p50 / p99": lengths("output_tokens"),
        "source": values["publisher"],
        "licence": values["licence"],
    }


def _engine_row(name: str) -> dict[str, Any]:
    engine = profile(name)
    return {
        "name": name,
        "title": engine.title,
        "version": engine.version,
        "versions read": ", ".join(engine.read),
        "rules": len(engine.rules),
    }


def _drafter_row(name: str) -> dict[str, Any]:
    entry = catalogue.entry("drafters", name)
    return {"name": name, "title": entry["title"], "for": entry["for"], "date": str(entry["date"])}


def _acceptance_row(name: str) -> dict[str, Any]:
    entry = catalogue.entry("acceptance", name)
    lengths = entry.get("accepted_lengths")
    with_one = entry.get("drafts")
    tokens = ", ".join(f"{one:g}" for one in lengths) if lengths else f"{entry['accepted_length']:.4g}"
    return {
        "name": name,
        "model and drafter": entry["model"],
        "workload": entry["workload"],
        "drafts": f"1 to {len(lengths)}" if lengths else str(with_one),
        "tokens per step": tokens,
        "date": str(entry["date"]),
    }


_SUMMARIES: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "gpus": _gpu_row,
    "clusters": _cluster_row,
    "prices": _price_row,
    "scenarios": _scenario_row,
    "calibrations": _calibration_row,
    "traces": _trace_row,
    "engines": _engine_row,
    "drafters": _drafter_row,
    "acceptance": _acceptance_row,
}

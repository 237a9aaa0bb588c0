"""Suite ``silicon``: measured TTFT and TPOT at a fixed concurrency, in 399 published rows; and any rows in its columns.

TPOT is the closed loop's mean step (:mod:`perfmodel.serving.closed_loop`), on which the engines' constants were fitted;
TTFT, whose causes are queues, is that of the same loop simulated request by request
(:mod:`perfmodel.validation.silicon_loop`). How a row was run is in :mod:`perfmodel.validation.setups`; a measurement
that stands in two rows is judged once (:mod:`perfmodel.validation.duplicates`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from perfmodel.errors import PerfModelError
from perfmodel.serving.closed_loop import ClosedLoop, MeanStep, Steps, mean_step, tpot_draws
from perfmodel.serving.records import Records
from perfmodel.spec.load import build_scenario
from perfmodel.spec.scenario import Scenario
from perfmodel.step import common_log_std
from perfmodel.units import MS
from perfmodel.validation import duplicates, roles
from perfmodel.validation.measured import identities
from perfmodel.validation.names import MODELS, SYSTEMS
from perfmodel.validation.popularity import routing_of
from perfmodel.validation.rows import Row
from perfmodel.validation.setups import Setup, setup_of
from perfmodel.validation.silicon_loop import simulated, waves_of
from perfmodel.validation.steps import bounds

NAME = "silicon"
FILE = "silicon_serving.csv"
MODES = ("agg", "disagg")
PRECISIONS = ("fp4", "mxfp4", "fp8", "int4", "bf16")
ENGINES = ("sglang", "trtllm", "vllm")
REPEATED = "repeats the measurement of another row, which is judged"
Progress = Callable[[str, int, int], None]


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


def calibrations() -> tuple[str, ...]:
    """Ids of the calibrations that predictions rest on."""
    return identities(calibration for _, calibration in SYSTEMS.values())


def rows(progress: Progress | None = None) -> list[Row]:
    """The suite's rows: one for TPOT and one for TTFT per measurement."""
    return published_rows(NAME, FILE, progress)


def published_rows(suite: str, file: str, progress: Progress | None = None) -> list[Row]:
    """A suite's rows, of a published file with the columns of ``silicon_serving.csv``."""
    committed = roles.committed()
    return predict_rows(
        roles.read_published(file),
        suite=suite,
        role=lambda record: committed[file, record["id"]],
        file=file,
        progress=progress,
    )


def predict_rows(
    records: Sequence[Mapping[str, str]],
    *,
    suite: str,
    role: Callable[[Mapping[str, str]], str],
    file: str = "",
    progress: Progress | None = None,
) -> list[Row]:
    """Predictions for records in the columns of ``silicon_serving.csv``; ``file``: the published one they are from."""
    found: list[Row] = []
    for number, record in enumerate(records):
        if progress is not None:
            progress(suite, number, len(records))
        found += _rows_of(record, suite, role(record), file)
    return found


def _rows_of(record: Mapping[str, str], suite: str, role: str, file: str) -> list[Row]:
    kind = _kind(record, file) if file else ""
    common: dict[str, Any] = {
        "id": record["id"],
        "model": record["model"],
        "unit": "s",
        "role": role,
        "source": record.get("source", ""),
        "system": SYSTEMS.get(record["system"], ("", ""))[1],
        "engine": record["backend"] if record["backend"] in ENGINES else "",
    }
    predicted, reason = (None, REPEATED) if kind == "-repeated" else predict(record)
    low, high = _interval(record, predicted) if predicted else (None, None)
    peers = _peers() if file == FILE else {}
    found = []
    if record.get("tpot_ms"):
        found.append(
            Row(
                suite=suite + kind,
                quantity="tpot_s",
                measured=float(record["tpot_ms"]) * MS,
                predicted=predicted.tpot_s if predicted else None,
                low=low,
                high=high,
                reason=reason,
                peer_predicted=peers.get((record["id"], "tpot_ms")),
                **common,
            )
        )
    if record.get("ttft_ms"):
        measured = float(record["ttft_ms"]) * MS
        ttft, why = _ttft(record, answered=predicted is not None)
        cold = bool(file) and not kind and setup_of(record).cold
        if cold and ttft is not None:
            why = _start_up(measured - ttft, record)
        found.append(
            Row(
                suite=suite + kind + ("-cold" if cold else ""),
                quantity="ttft_s",
                measured=measured,
                predicted=ttft,
                reason=why or reason,
                peer_predicted=peers.get((record["id"], "ttft_ms")),
                **common,
            )
        )
    return found


def _kind(record: Mapping[str, str], file: str) -> str:
    """What is summed up apart from the clean aggregated rows: repetitions, rows with a remark, models that no fit sees,
    disaggregated ones.
    """
    if (file, record["id"]) in duplicates.repeated():
        return "-repeated"
    if record.get("note"):
        return "-noted"
    if roles.is_transfer(record):
        return "-transfer"
    return "-disaggregated" if record["mode"] == "disagg" else ""


def _start_up(missing_s: float, record: Mapping[str, str]) -> str:
    """What the first wave of a run without warm-up must have waited for, if all of the error is that: the mean over its
    waves is the settled TTFT and a share of the start-up.
    """
    return f"no warm-up: start-up of {missing_s * waves_of(record, setup_of(record)):.1f} s implied"


def predict(record: Mapping[str, str], **constants: float) -> tuple[MeanStep | None, str | None]:
    """The mean step of a record, or None and the reason; ``constants`` replace the engine's fitted ones."""
    setup = setup_of(record)
    reason = setup.not_predicted or _unknown(record)
    if reason:
        return None, reason
    try:
        steps = steps_of(record, setup, **constants)
        return mean_step(steps, load_of(record, setup, steps)), record.get("note") or setup.stand_in or None
    except PerfModelError as error:
        return None, str(error)


def served(record: Mapping[str, str], setup: Setup) -> Records:
    """The row's loop, request by request.

    Raises:
        PerfModelError: the row can't be predicted, and why.
    """
    reason = setup.not_predicted or _unknown(record)
    if reason:
        raise PerfModelError(reason)
    return simulated(record, setup, steps_of(record, setup))


def _ttft(record: Mapping[str, str], *, answered: bool) -> tuple[float | None, str | None]:
    """The mean TTFT of the row's loop, or None and why."""
    if not answered:
        return None, None
    try:
        records = served(record, setup_of(record))
    except PerfModelError as error:
        return None, str(error)
    return float((records.first_token_s - records.arrival_s).mean()), None


def _interval(record: Mapping[str, str], mean: MeanStep) -> tuple[float | None, float | None]:
    """The 80 % interval of a predicted TPOT."""
    setup = setup_of(record)
    steps = steps_of(record, setup)
    draws = tpot_draws(
        steps, load_of(record, setup, steps), mean, common_log_std=common_log_std(steps.decode)
    )
    return (None, None) if draws is None else bounds(draws)


def _unknown(record: Mapping[str, str]) -> str:
    """What the row does not state or the catalogue does not have; empty: nothing is missing."""
    if not record["concurrency"]:
        return record.get("note") or "the row states no concurrency"
    if record["model"] not in MODELS:
        return f"model {record['model']} is not in the catalogue"
    if record["system"] not in SYSTEMS:
        return f"system {record['system']}: no calibration"
    if record["mode"] not in MODES:
        return f"mode {record['mode']!r}: must be {' or '.join(MODES)}"
    if record["precision"] not in PRECISIONS:
        return f"precision {record['precision']!r}: must be one of {', '.join(PRECISIONS)}"
    if record["backend"] not in ENGINES:
        return f"backend {record['backend']!r}: must be one of {', '.join(ENGINES)}"
    return ""


def load_of(record: Mapping[str, str], setup: Setup, steps: Steps) -> ClosedLoop:
    """The row's closed loop."""
    concurrency, isl = float(record["concurrency"]), float(record["isl"])
    disaggregated = record["mode"] == "disagg"
    return ClosedLoop(
        concurrency=concurrency,
        input_tokens=isl * setup.length_ratio,
        output_tokens=max(2.0, float(record["osl"]) * setup.length_ratio),
        policy="disaggregated" if disaggregated else setup.policy,
        chunk_tokens=setup.budget(concurrency, isl),
        max_running=setup.max_running * steps.decode_instances,
        poll_steps=setup.poll_steps,
        ranks_together=steps.decode.deployment.attention_dp if setup.balanced_prefill else 1,
    )


def steps_of(record: Mapping[str, str], setup: Setup, **constants: float) -> Steps:
    """Scenarios of the row's decode and prefill steps.

    Raises:
        PerfModelError: a layout that can't be read, or that the model does not allow.
    """
    first = parse_layout(record["parallel_or_prefill"])
    if record["mode"] != "disagg":
        first = corrected(first, setup)
        if record["gpus"] and float(record["gpus"]) != first.gpus:
            raise PerfModelError(
                f"gpus = {record['gpus']}: the layout {record['parallel_or_prefill']!r} has {first.gpus}"
            )
        scenario = scenario_of(record, setup, first, **constants)
        return Steps(_in_phase(scenario, "decode"), _in_phase(scenario, "prefill"))
    decode = parse_layout(record["decode"])
    return Steps(
        _in_phase(scenario_of(record, setup, decode, **constants), "decode"),
        _in_phase(scenario_of(record, setup, first, **constants), "prefill"),
        decode.instances,
        first.instances,
    )


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


def scenario_of(record: Mapping[str, str], setup: Setup, layout: Layout, **constants: float) -> Scenario:
    """One instance as a scenario; phase and work are set later."""
    cluster, calibration = SYSTEMS[record["system"]]
    inside = layout.gpus <= 8 or cluster == "gb200-nvl72"
    deployment: dict[str, Any] = {
        "attention_tp": layout.attention_tp,
        "attention_dp": layout.attention_dp,
        "dense_tp": layout.attention_tp,
        "moe_tp": layout.moe_tp,
        "ep": layout.ep,
        "engine": record["backend"],
        "fused_norms": setup.fused_norms,
        "shared_experts": setup.shared_experts,
        "expert_kernel": setup.expert_kernel,
        "all_to_all": "auto" if not inside or layout.moe_tp > 1 else _exchange(record, layout),
        "memory_utilization": 1.0,
        "precision": {
            "linear": setup.linear,
            "attention_output": setup.attention_output,
            "dense": setup.dense,
            "experts": setup.experts,
            "shared": setup.shared,
            "kv_cache": setup.kv_cache,
            "attention": "bf16",
        },
        **{name: value for name, value in constants.items() if name != "imbalance"},
    }
    return build_scenario(
        {
            "name": record["id"],
            "model": MODELS[record["model"]],
            "cluster": cluster,
            "calibration": calibration,
            "prices": "h800-deepseek-lease",
            "deployment": deployment,
            "routing": {
                **routing_of(MODELS[record["model"]], layout.ep, eplb=False),
                **{name: value for name, value in constants.items() if name == "imbalance"},
            },
        }
    )


def _exchange(record: Mapping[str, str], layout: Layout) -> str:
    """How tokens reach experts in data-parallel layouts: gathers on one HGX node; over a rack's links TensorRT-LLM's
    and vLLM's one-sided all-to-all, SGLang's DeepEP (its recipes: docs/engines.md).
    """
    if SYSTEMS[record["system"]][0] == "gb200-nvl72" and layout.ep > 8:
        return "auto" if record["backend"] == "sglang" else "trtllm-one-sided"
    return "all-gather"


def _in_phase(scenario: Scenario, phase: str) -> Scenario:
    return scenario.model_copy(update={"deployment": scenario.deployment.model_copy(update={"phase": phase})})


@cache
def _peers() -> dict[tuple[str, str], float]:
    """(id, column) -> what aiconfigurator 0.12.0 predicts, s."""
    found = {}
    for record in roles.read_published("silicon_peer_predictions.csv"):
        for column in ("ttft_ms", "tpot_ms"):
            if record[column]:
                found[record["id"], column] = float(record[column]) * MS
    return found

"""What a scenario's answer assumes, each with its source: rows ``what``, ``value``, ``source``."""

from collections.abc import Iterator
from typing import Any

from perfmodel.answers.constants import engine_constants
from perfmodel.answers.serve import ServeAnswer
from perfmodel.answers.step import StepAnswer
from perfmodel.engines.profile import profile
from perfmodel.ops.parameters import parameter_counts
from perfmodel.spec import catalogue
from perfmodel.spec.drafts import Drafter
from perfmodel.spec.hardware import Cluster, Gpu, Network, Node
from perfmodel.spec.messages import number_of
from perfmodel.spec.prices import Prices
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.slo import USUAL, USUAL_SOURCE
from perfmodel.units import GB, GIGA

CHANGED = "changed from the catalogue's entry, which its source does not cover"
SCENARIO = "the scenario"
Row = dict[str, str]


def assumptions(step: StepAnswer, serve: ServeAnswer | None) -> list[Row]:
    """The rows, from the model to the traffic."""
    scenario = step.scenario
    rows = [
        *_model(step),
        *_hardware(scenario.cluster),
        *((f"{what} of FFNs", text, source) for what, text, source in _ffn_hardware(scenario)),
        _price(scenario),
        *_layout(scenario),
        *_timing(step),
        *_routing(step),
        *_traffic(scenario, serve),
    ]
    return [{"what": what, "value": value, "source": source} for what, value, source in rows]


Told = tuple[str, str, str]


def _model(step: StepAnswer) -> Iterator[Told]:
    model = step.scenario.model
    known = model.name in catalogue.names("models")
    source = catalogue.entry("models", model.name)["source"] if known else "a config.json of the user's"
    active = step.values["active_parameters"]
    total = parameter_counts(model).total / GIGA
    text = f"{model.name}: {total:,.4g} B parameters"
    if active:
        text += f", {active['mean'] / GIGA:,.3g} B active per token (mean)"
    yield "model", text, source


def _ffn_hardware(scenario: Scenario) -> Iterator[Told]:
    if scenario.two_clusters:
        yield from _hardware(scenario.ffn_cluster)


def _hardware(cluster: Cluster) -> Iterator[Told]:
    gpu = cluster.gpu
    peaks = [("BF16", gpu.bf16_tflops), ("FP8", gpu.fp8_tflops), ("FP4", gpu.fp4_tflops)]
    figures = [f"{gpu.memory_bytes / GB:,.4g} GB", f"{gpu.hbm_gb_per_s:,.4g} GB/s HBM"]
    figures += [f"{peak:,.4g} TFLOP/s {name}" for name, peak in peaks if peak]
    yield "GPU", f"{gpu.name}: {', '.join(figures)}", _sourced(gpu, "gpus", gpu.source, gpu.date)
    node, network = cluster.node, cluster.network
    text = (
        f"{cluster.name or 'unnamed'}: {number_of(node.num_gpus, 'GPU')} per node, link {node.link_gb_per_s:,.4g} GB/s "
        f"per GPU within {node.link_domain_gpus}, network {network.gb_per_s_per_gpu:,.4g} GB/s per GPU"
    )
    yield "cluster", text, _joined(cluster.source, cluster.date, CHANGED if _is_rewired(cluster) else "")


def _is_rewired(cluster: Cluster) -> bool:
    """Whether node or network differ from the catalogue's cluster of that name."""
    if cluster.name not in catalogue.names("clusters"):
        return False
    entry = catalogue.entry("clusters", cluster.name)
    return bool(cluster.node != Node(**entry["node"]) or cluster.network != Network(**entry["network"]))


def _price(scenario: Scenario) -> Told:
    prices = scenario.prices
    text = f"${prices.usd_per_gpu_hour:,.4g} per GPU hour"
    if prices.term:
        text += f", {prices.term}"
    if prices.gpu and not scenario.cluster.gpu.name.upper().startswith(prices.gpu.upper()):
        text += f" (quoted for {prices.gpu})"
    if scenario.ffns is not None and scenario.ffns.prices is not None:
        text += f"; ${scenario.ffns.prices.usd_per_gpu_hour:,.4g} for {scenario.ffn_cluster.gpu.name} of FFNs"
    side = scenario.prefill_side
    if side is not None and side.prices != prices:
        text += f"; ${side.prices.usd_per_gpu_hour:,.4g} for {side.cluster.gpu.name} that compute prompts"
    return "price", text, _sourced(prices, "prices", prices.source, prices.date) or SCENARIO


def _sourced(section: Gpu | Prices, kind: str, source: str, date: str) -> str:
    """A section's source and date, and whether its figures are still those of the catalogue."""
    changed = False
    if section.name in catalogue.names(kind):
        entry = type(section)(**{**catalogue.entry(kind, section.name), "name": section.name})
        changed = section.model_dump(exclude=_LABELS) != entry.model_dump(exclude=_LABELS)
    return _joined(source, date, CHANGED if changed else "")


_LABELS = {"name", "source", "date", "term", "gpu"}


def _layout(scenario: Scenario) -> Iterator[Told]:
    d, p = scenario.deployment, scenario.deployment.precision
    source = scenario.source or SCENARIO
    parts = [f"attention DP{d.attention_dp} TP{d.attention_tp}", f"dense TP{d.dense_tp}", f"EP{d.ep}"]
    parts += [f"expert TP{d.moe_tp}"] * (d.moe_tp > 1) + [f"PP{d.pp}"] * (d.pp > 1) + d.division_words
    if d.redundant_experts:
        parts.append(f"{d.redundant_experts} redundant experts")
    yield "layout", f"{_gpus(d.num_gpus)}: {', '.join(parts)}; overlap {d.overlap}; {d.backend}", source
    work = []
    if d.phase != "prefill":
        work.append(
            f"{number_of(d.batch_per_gpu, 'request')} per {d.batch_gpu}, "
            f"{number_of(d.context_tokens, 'token')} of context each"
        )
    if d.phase != "decode":
        work.append(
            f"{d.prefill_requests_per_gpu:,g} x {number_of(d.prefill_tokens, 'prompt token')} per {d.batch_gpu}"
        )
    yield "work of a step", f"{d.phase}: {'; '.join(work)}", source
    formats = f"linear {p.linear}, experts {p.experts}, attention {p.attention}, KV cache {p.kv_cache}"
    yield "number formats", f"{formats}; dispatch {p.dispatch}, combine {p.combine}", source
    if d.lora_adapters:
        where = ", ".join(d.lora_targets)
        yield (
            "LoRA",
            f"{number_of(d.lora_adapters, 'adapter')} of rank {d.lora_rank} on {where}, evenly used",
            source,
        )
    if d.mtp.draft_tokens and d.phase != "prefill":
        yield (
            "drafts",
            f"{number_of(d.mtp.draft_tokens, 'token')} per step, {d.mtp.words}{_drafter(d.mtp.drafter)}",
            d.mtp.acceptance_source or source,
        )


def _drafter(drafter: Drafter | None) -> str:
    return "" if drafter is None else f"; by a model of their own: {drafter.name or drafter.model.name}"


def _timing(step: StepAnswer) -> Iterator[Told]:
    scenario, found = step.scenario, step.values["provenance"]
    used = step.step.calibration
    if len(step.step.places) > 1:
        yield "calibration of FFNs", found["ffns"]["calibration"], ""
    if used is not None:
        text = (
            f"{found['calibration']}: times of {found['calibrated_ops']} of {number_of(found['ops'], 'op')}"
        )
        yield "calibration", text, _joined(str(used.document.get("source", "")), used.created[:10])
    else:
        yield "kernel times", f"{found['calibration']}: no calibration of timed kernels", "docs/calibrate.md"
    yield _engine(scenario)
    if scenario.given.attention_us is not None:
        yield "attention", f"{scenario.given.attention_us:g} us, given", scenario.source or SCENARIO


def _engine(scenario: Scenario) -> Told:
    """The engine whose defaults were filled in, and all that it adds around the kernels."""
    deployment = scenario.deployment
    if not deployment.engine:
        return "engine", f"none named: {'; '.join(engine_constants(scenario))}", SCENARIO
    own = profile(deployment.engine, deployment.engine_version)
    text = f"{own.title} {own.version}: {'; '.join(engine_constants(scenario))}"
    if deployment.step_log_std:
        text += f"; unexplained spread {deployment.step_log_std:.3g} in the logarithm"
    return "engine", text, f"perfmodel show engines {own.name}"


def _routing(step: StepAnswer) -> Iterator[Told]:
    scenario, real = step.scenario, step.values["real_experts"]
    moe, routing = scenario.model.moe, scenario.routing
    if moe is None or real is None:
        return
    text = f"{real['mean']:.3g} of {moe.top_k} picks per token compute"
    if real["std"]:
        text += f" (standard deviation {real['std']:.3g})"
    known = scenario.model.name in catalogue.names("models")
    published = catalogue.entry("models", scenario.model.name).get("activation", {}) if known else {}
    stated = routing.source or ("" if routing.mean_real_experts is None else SCENARIO)
    yield "real experts", text, stated or str(published.get("source", "")) or "the model's configuration"
    load = routing.load_words
    if routing.popularity and routing.rank_loads is None:
        load += f", {routing.placement_words}"
    yield "expert load", load, routing.source or scenario.source or SCENARIO


def _traffic(scenario: Scenario, serve: ServeAnswer | None) -> Iterator[Told]:
    if serve is None:
        return
    w, values = scenario.workload, serve.values
    known = w.trace in catalogue.names("traces")
    card: dict[str, Any] = catalogue.entry("traces", w.trace) if known else {}
    text = f"{number_of(values['requests'], 'request')} over {values['duration_s']:,.4g} s"
    if w.trace:
        text = f"{values['provenance']['trace']}: {text}"
        text += f", {w.time_scale:g} times as fast as recorded" if w.time_scale != 1.0 else ""
    elif w.rate == float("inf"):
        text += ", all at once" if w.max_concurrency is None else f", {w.max_concurrency:,} in flight"
    elif isinstance(w.rate, float):
        text += f", {w.rate:g} per second"
    source = _joined(
        str(card.get("source", "")), str(card.get("licence", "")), str(card.get("publisher", ""))
    )
    yield "traffic", text, source or scenario.source or SCENARIO
    replicas = f"{values['replicas']} x {_gpus(scenario.deployment.num_gpus)}, {values['policy']}"
    if values["prefill"]:
        replicas += (
            f"; prefill apart: {values['prefill']['replicas']} on {_gpus(values['prefill']['num_gpus'])}"
        )
    yield "replicas", replicas, scenario.source or SCENARIO
    slo = [f"{name} {limit:g} ms" for name, limit in _limits(scenario) if limit is not None]
    if slo:
        yield "objectives", ", ".join(slo), USUAL_SOURCE if scenario.slo == USUAL else SCENARIO


def _limits(scenario: Scenario) -> tuple[tuple[str, float | None], ...]:
    slo = scenario.slo
    return ("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("E2E", slo.e2e_ms)


def _gpus(number: int) -> str:
    return number_of(number, "GPU")


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)

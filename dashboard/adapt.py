"""Changes that bring others with them: another model, cluster or layout must stay a scenario that can be run."""

from math import gcd

from dashboard.asked import Asked
from dashboard.names import engine_title, model_title
from perfmodel.engines.profile import profile
from perfmodel.errors import SpecError
from perfmodel.explore.first import Ask, first_scenario
from perfmodel.ops.limits import batch_of, limits
from perfmodel.spec import catalogue
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import Scenario

Changes = dict[str, str | None]

OF_EXPERTS = ("activation", "layer_means", "layer_stds", "histogram")
"""Fields of routing that describe one model's experts."""
LAYOUT = ("attention_tp", "attention_dp", "moe_tp", "ep", "pp", "dense_tp")
"""Fields of a deployment that say how GPUs share the work."""


def model_changes(asked: Asked, name: str) -> tuple[Changes, str]:
    """Another model, with what it can't do taken back, and words about that."""
    scenario = asked.scenario()
    model = catalogue.model(name)
    changes: Changes = {
        "model": name,
        "routing.mean_real_experts": "null",
        "routing.workload": '""',
        "routing.std_real_experts": "null",
    }
    said = []
    sides = {"deployment": scenario.deployment}
    if scenario.prefill is not None:
        sides["prefill.deployment"] = scenario.prefill.deployment
    for path, d in sides.items():
        where = "" if path == "deployment" else " on the prefill replicas"
        if d.overlap in ("sbo", "sbo-engine") and not model.has_shortcut:
            overlap = "tbo" if model.moe else "sequential"
            changes[f"{path}.overlap"] = overlap
            said.append(
                f"no shortcut in {name}, so nothing for sbo to hide behind: overlap is {overlap}{where}"
            )
        if d.mtp.draft_tokens and model.mtp is None and d.mtp.drafter is None:
            changes[f"{path}.mtp.draft_tokens"] = "0"
            said.append(f"{name} has no draft layer (MTP): draft tokens are 0{where}")
        redundant = redundant_experts(model.moe.num_experts if model.moe else 0, d.ep)
        if redundant != d.redundant_experts:
            changes[f"{path}.redundant_experts"] = str(redundant)
            said.append(f"redundant experts are {redundant}, so that {d.ep} ranks hold equally many{where}")
    routing = scenario.routing
    stated = [key for key in OF_EXPERTS if getattr(routing, key) is not None]
    if model.moe is None and (routing.popularity or stated):
        changes["routing"] = "{}"
        said.append(f"{name} has no experts: routing is left out")
    elif stated:
        changes |= {f"routing.{key}": "null" for key in stated}
        if routing.histogram is not None:
            changes["routing.popularity"] = '""'
        said.append(f"what was stated of {scenario.model.name}'s experts is left out: {', '.join(stated)}")
    said.append(f"kept: {kept_layout(scenario)}")
    return changes, "; ".join(said)


def kept_layout(scenario: Scenario) -> str:
    """What another model takes over, in words."""
    d = scenario.deployment
    batch = f"{batch_of(scenario):g} {'prompts' if d.phase == 'prefill' else 'requests'} per GPU"
    return f"{layout_words(scenario)}, {batch}{f', {engine_title(d.engine)}' if d.engine else ''}"


def layout_words(scenario: Scenario) -> str:
    """``128 GPUs as attention TP1 x DP128, experts EP128``."""
    d = scenario.deployment
    experts = f", experts EP{d.ep}{f' x TP{d.moe_tp}' if d.moe_tp > 1 else ''}" if scenario.model.moe else ""
    stages = f", {d.pp} stages" if d.pp > 1 else ""
    return f"{number_of(d.num_gpus, 'GPU')} as attention TP{d.attention_tp} x DP{d.attention_dp}{experts}{stages}"


def usual_layout(asked: Asked) -> tuple[Changes, str]:
    """The layout that ``perfmodel init`` gives the model on as many GPUs, with its formats and a batch that fits.

    Raises:
        PerfModelError: there is none.
    """
    scenario = asked.scenario()
    d, model, cluster = scenario.deployment, scenario.model.name, scenario.cluster.name
    if model not in catalogue.names("models") or cluster not in catalogue.names("clusters"):
        raise SpecError(f"{model} on {cluster or 'this cluster'}: only the catalogue's have a usual layout")
    tokens = int(min(max(float(d.context_tokens), 2.0), scenario.model.max_context_tokens - 1.0))
    gpus = scenario.deployment.num_gpus * scenario.serving.replicas
    first = first_scenario(Ask(model, f"{gpus}x{cluster}", d.engine, input_tokens=tokens, output_tokens=1))
    new = first.scenario.deployment
    changes: Changes = {f"deployment.{key}": str(getattr(new, key)) for key in (*LAYOUT, "redundant_experts")}
    changes["serving.replicas"] = str(first.scenario.serving.replicas)
    if d.ffn_gpus:  # all GPUs do both again
        changes |= {"deployment.attention_gpus": "0", "deployment.ffn_gpus": "0"}
        changes |= {"ffns": "null"} if scenario.ffns else {}
    changes |= {
        f"deployment.precision.{key}": "null" if value is None else value
        for key, value in new.precision.model_dump().items()
        if value != getattr(d.precision, key)
    }
    batch = min(float(new.batch_per_gpu), limits(asked.changed(changes).scenario()).fits)
    changes["deployment.batch_per_gpu"] = f"{batch:.12g}"
    replicas = first.scenario.serving.replicas
    said = f"{model_title(model)}'s usual layout: {layout_words(first.scenario)}, {batch:g} requests per GPU"
    return changes, said + (f"; {replicas} replicas take the {gpus:,} GPUs" if replicas > 1 else "")


def own_model(asked: Asked) -> tuple[Changes, str]:
    """The scenario's own model again, with what other models took back."""
    paths = ("overlap", "mtp.draft_tokens", "redundant_experts", "precision", *LAYOUT)
    changes: Changes = {"model": None, "routing": None, "serving.replicas": None}
    changes |= {path: None for path, _ in asked.sets if path.startswith("deployment.precision.")}
    changes |= {f"{side}.{path}": None for side in ("deployment", "prefill.deployment") for path in paths}
    return (
        changes,
        "schedule, drafts, layout, formats, redundant experts and routing are the scenario's own again",
    )


def cluster_changes(asked: Asked, name: str) -> tuple[Changes, str]:
    """Another cluster: the scenario is read anew, with the calibration, the price and the engine's defaults that belong
    to its GPU (``perfmodel.load``).
    """
    changes: Changes = {"cluster": name, "calibration": None, "prices": None}
    before, after = asked.scenario(), asked.changed(changes).scenario()
    gpu = after.cluster.gpu.name
    said = [
        f"kernels as calibrated on {after.calibration}"
        if after.calibration
        else f"no calibration ships for {gpu}: kernels by roofline with fitted fractions"
    ]
    if after.prices.name != before.prices.name:
        said.append(f"price {after.prices.name}")
    elif not prices_of(gpu):
        said.append(f"the catalogue has no price for {gpu}: $ {after.prices.usd_per_gpu_hour:g} is kept")
    return changes, "; ".join(said)


def engine_changes(asked: Asked, name: str) -> tuple[Changes, str]:
    """Another engine, of the version that was read at last; what the scenario leaves open is as that one does it."""
    path = "engine" if asked.states("engine") else "deployment.engine"
    changes: Changes = {path: name or '""'}
    if asked.states("deployment.engine_version"):
        changes["deployment.engine_version"] = '""'
    after = asked.changed(changes).scenario().deployment
    what = f"{profile(name).title} {after.engine_version}" if name else "no engine in particular"
    return changes, f"{what}: what the scenario leaves open follows"


def layout_changes(
    asked: Asked,
    *,
    gpus: int,
    attention_tp: int,
    moe_tp: int,
    dense_tp: int | None = None,
    ffn_gpus: int | None = None,
) -> tuple[Changes, str]:
    """Another layout of one pipeline stage: data parallelism, expert parallelism and redundant experts follow.

    ``dense_tp``: None where nobody asks for another one: it stays as stated, else it follows attention's. Where FFNs
    have GPUs of their own (``ffn_gpus``), ``gpus`` are attention's.
    """
    scenario = asked.scenario()
    moe = scenario.model.moe
    said = []
    stated = dense_tp is not None or asked.states("deployment.dense_tp")
    dense_tp = (dense_tp or scenario.deployment.dense_tp) if stated else None
    of_ffns = ffn_gpus or gpus
    if dense_tp and of_ffns % dense_tp:
        dense_tp = gcd(of_ffns, dense_tp)
        said.append(f"dense TP is {dense_tp}, which divides {of_ffns} GPUs")
    ep = max(of_ffns // moe_tp, 1)
    redundant = redundant_experts(moe.num_experts if moe else 0, ep)
    changes: Changes = {
        "deployment.attention_dp": str(max(gpus // attention_tp, 1)),
        "deployment.attention_tp": str(attention_tp),
        "deployment.moe_tp": str(moe_tp),
        "deployment.ep": str(ep),
        "deployment.redundant_experts": str(redundant),
    }
    if dense_tp:
        changes["deployment.dense_tp"] = str(dense_tp)
    if ffn_gpus:
        changes |= {"deployment.attention_gpus": str(gpus), "deployment.ffn_gpus": str(ffn_gpus)}
    if redundant:
        said.append(f"{redundant} redundant experts, so that {ep} ranks hold equally many")
    return changes, "; ".join(said)


def redundant_experts(num_experts: int, ep: int) -> int:
    """Fewest copies with which every rank holds equally many experts."""
    return -num_experts % ep if num_experts else 0


def prices_of(gpu: str) -> tuple[str, ...]:
    """Prices of the catalogue for a GPU: those that name its family."""
    family = gpu.partition("-")[0].upper()
    return tuple(
        name for name in catalogue.names("prices") if catalogue.entry("prices", name).get("gpu") == family
    )

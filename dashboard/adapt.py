"""Changes that bring others with them: another model, cluster or layout must stay a scenario that can be run."""

from math import gcd

from dashboard.asked import Asked
from perfmodel.engines.profile import profile
from perfmodel.spec import catalogue

Changes = dict[str, str | None]

OF_EXPERTS = ("activation", "layer_means", "layer_stds", "histogram")
"""Fields of routing that describe one model's experts."""


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
    return changes, "; ".join(said)


def own_model() -> tuple[Changes, str]:
    """The scenario's own model again, with what other models took back."""
    paths = ("overlap", "mtp.draft_tokens", "redundant_experts")
    changes: Changes = {"model": None, "routing": None}
    changes |= {f"{side}.{path}": None for side in ("deployment", "prefill.deployment") for path in paths}
    return changes, "schedule, drafts, redundant experts and routing are the scenario's own again"


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
    asked: Asked, *, gpus: int, attention_tp: int, moe_tp: int, dense_tp: int | None = None
) -> tuple[Changes, str]:
    """Another layout of one pipeline stage: data parallelism, expert parallelism and redundant experts follow.

    ``dense_tp``: None where nobody asks for another one: it stays as stated, else it follows attention's.
    """
    scenario = asked.scenario()
    moe = scenario.model.moe
    said = []
    stated = dense_tp is not None or asked.states("deployment.dense_tp")
    dense_tp = (dense_tp or scenario.deployment.dense_tp) if stated else None
    if dense_tp and gpus % dense_tp:
        dense_tp = gcd(gpus, dense_tp)
        said.append(f"dense TP is {dense_tp}, which divides {gpus} GPUs")
    ep = max(gpus // moe_tp, 1)
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

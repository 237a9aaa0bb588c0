"""What zero-computation experts buy: the same model with other numbers of them, or with another mean of real experts.

A token picks top_k of N real and Z zero-computation experts. If all are alike in the router's eyes, K_e = top_k N /
(N + Z) of its picks are real: with Z the work per token falls, and where nothing but Z changes that is the comparison.
The spread keeps the beta distribution's concentration (:mod:`perfmodel.routing.activation`). Without any, every pick is
real. What it does to a model's quality is not known here: this states cost.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perfmodel.answers.step import StepAnswer, answer_step
from perfmodel.errors import SpecError
from perfmodel.ops.op import OpClass
from perfmodel.routing.activation import beta_binomial, moments
from perfmodel.spec.model import Model, Moe
from perfmodel.spec.routing import theta_of
from perfmodel.spec.scenario import Scenario

ZERO_EXPERTS = (0, 128, 256, 384)
REAL_EXPERTS = (4.0, 6.0, 8.0, 10.0, 12.0)
"""Asked for where nothing is stated."""
MOST_ZERO_EXPERTS = 65_536


@dataclass(frozen=True, slots=True)
class Variant:
    """One model in the comparison; SI units, per GPU; None where the scenario has no such quantity."""

    zero_experts: int
    mean_real_experts: float
    std_real_experts: float
    active_parameters_mean: float
    active_parameters_least: float
    active_parameters_most: float
    step_time_s: float
    step_time_p99_s: float | None
    """Over drawn steps; known where routing states a popularity."""
    tpot_s: float | None
    exchanged_bytes: float
    """Dispatch and combine of one step, on the link and the network."""
    exposed_communication_s: float
    memory_bytes: int
    max_batch_per_gpu: float
    tokens_per_s_per_gpu: float
    """Output tokens, or prompt tokens in prefill."""
    usd_per_million_tokens: float
    """Likewise."""


def vary_zero_experts(scenario: Scenario, numbers: Sequence[int] = ZERO_EXPERTS) -> list[Variant]:
    """The scenario with each number of zero-computation experts, K_e following from it.

    Raises:
        SpecError: no experts, a number out of range, or routing that states how many real experts there are.
    """
    moe = _moe(scenario)
    for number in numbers:
        if not 0 <= number <= MOST_ZERO_EXPERTS:
            raise SpecError(
                f"zero experts = {number}: must be a whole number from 0 to {MOST_ZERO_EXPERTS}, e.g. 256"
            )
        if moe.top_k > moe.num_experts + number:
            raise SpecError(
                f"zero experts = {number}: a token picks {moe.top_k} experts, and there would be only "
                f"{moe.num_experts + number}"
            )
    return [_variant(_with_moe(scenario, with_zero_experts(moe, number))) for number in numbers]


def vary_real_experts(scenario: Scenario, means: Sequence[float] = REAL_EXPERTS) -> list[Variant]:
    """The scenario with each mean number of real experts per token, its zero-computation experts as they are.

    Raises:
        SpecError: no zero-computation experts, a mean out of range, or routing that states one.
    """
    moe = _moe(scenario)
    if not moe.num_zero_experts:
        raise SpecError(
            f"model {scenario.model.name} has no zero-computation experts: its tokens always wake {moe.top_k}; vary "
            "--zero instead"
        )
    for mean in means:
        if not 0 <= mean <= moe.top_k:
            raise SpecError(f"real experts = {mean:g}: must be from 0 to the model's top_k = {moe.top_k}")
    return [_variant(_with_mean(scenario, mean)) for mean in means]


def with_zero_experts(moe: Moe, number: int) -> Moe:
    """The same experts beside ``number`` that compute nothing; K_e and its spread follow."""
    mean = moe.top_k * moe.num_experts / (moe.num_experts + number)
    std = None
    if number and moe.std_real_experts is not None:
        theta = theta_of(moe.top_k, moe.mean_real_experts, moe.std_real_experts)
        std = float(moments(beta_binomial(moe.top_k, mean, theta))[1])
    changed = {"num_zero_experts": number, "expected_real_experts": mean, "std_real_experts": std}
    return Moe.model_validate({**moe.model_dump(), **changed, "real_experts_by_workload": {}})


def _moe(scenario: Scenario) -> Moe:
    """The model's mixture of experts, with routing that leaves its number of real experts open."""
    if scenario.model.moe is None:
        raise SpecError(f"model {scenario.model.name} has no experts")
    routing = scenario.routing
    for name in ("activation", "layer_means", "workload", "mean_real_experts", "std_real_experts"):
        if getattr(routing, name) not in (None, ""):
            raise SpecError(
                f"routing.{name} states the number of real experts, which is varied here: leave it out"
            )
    return scenario.model.moe


def _with_moe(scenario: Scenario, moe: Moe) -> Scenario:
    layers = tuple(
        layer.model_copy(update={"moe": moe}) if layer.moe else layer for layer in scenario.model.layers
    )
    mtp = scenario.model.mtp
    if mtp is not None and mtp.layer.moe:
        mtp = mtp.model_copy(update={"layer": mtp.layer.model_copy(update={"moe": moe})})
    model: Model = scenario.model.model_copy(update={"layers": layers, "mtp": mtp})
    return scenario.model_copy(update={"model": model})


def _with_mean(scenario: Scenario, mean: float) -> Scenario:
    routing = scenario.routing.model_copy(update={"mean_real_experts": float(mean)})
    return scenario.model_copy(update={"routing": routing})


def _variant(scenario: Scenario) -> Variant:
    answer: StepAnswer = answer_step(scenario)
    values: dict[str, Any] = answer.values
    moe = scenario.model.moe
    assert moe is not None
    active, tails = values["active_parameters"], values["over_steps"]
    decodes = scenario.deployment.phase != "prefill"
    exchanges = [
        row for row in values["ops"] if row["op_class"] in (str(OpClass.DISPATCH), str(OpClass.COMBINE))
    ]
    memory = values["memory_bytes"]
    return Variant(
        zero_experts=moe.num_zero_experts,
        mean_real_experts=values["real_experts"]["mean"],
        std_real_experts=values["real_experts"]["std"],
        active_parameters_mean=active["mean"],
        active_parameters_least=active["least"],
        active_parameters_most=active["most"],
        step_time_s=values["step_time_s"],
        step_time_p99_s=tails["step_time_s"]["p99"] if tails else None,
        tpot_s=values["tpot_s"],
        exchanged_bytes=sum(row["count"] * (row["link_bytes"] + row["network_bytes"]) for row in exchanges),
        exposed_communication_s=values["exposed_communication_s"],
        memory_bytes=memory["total"] if "total" in memory else sum(memory.values()),
        max_batch_per_gpu=values["max_batch_per_gpu"],
        tokens_per_s_per_gpu=values[
            "output_tokens_per_s_per_gpu" if decodes else "input_tokens_per_s_per_gpu"
        ],
        usd_per_million_tokens=values[
            "usd_per_million_output_tokens" if decodes else "usd_per_million_input_tokens"
        ],
    )


def as_values(scenario: Scenario, variants: Sequence[Variant]) -> dict[str, Any]:
    """The keys of ``perfmodel experts --json``."""
    as_it_is = answer_step(scenario)
    return {
        "scenario": scenario.name,
        "model": scenario.model.name,
        "phase": scenario.deployment.phase,
        "variants": [asdict(variant) for variant in variants],
        **{key: as_it_is.values[key] for key in ("basis", "dangers", "warnings", "caveats")},
        "provenance": as_it_is.values["provenance"],
    }

"""What tokens and months cost: a step at full batches, a prefill step on the same GPUs, and the traffic as it came."""

from typing import Any

from perfmodel.answers.serve import ServeAnswer
from perfmodel.answers.step import StepAnswer, answer_step
from perfmodel.errors import PerfModelError
from perfmodel.spec.scenario import Scenario
from perfmodel.units import PERCENT

OUTPUT, INPUT = "usd_per_million_output_tokens", "usd_per_million_input_tokens"
HOURS_PER_MONTH = 24.0 * 365.0 / 12.0


def money(step: StepAnswer, serve: ServeAnswer | None) -> dict[str, Any]:
    """The keys of ``money`` in ``perfmodel report --json``, USD; None where nothing is known.

    ``usd_per_million_*`` are of full batches: output of the step itself, input of a prefill step
    (``input_basis`` says which). ``served`` is the traffic: all GPUs are paid for the whole run, and each of its three
    costs charges everything to those tokens. ``usd_by_op_class`` cuts the step's cost in proportion to seconds on the
    critical path, since a GPU second costs the same whatever runs.
    """
    scenario, values = step.scenario, step.values
    price = scenario.replica_usd_per_gpu_hour
    input_usd, input_interval, basis = _input_cost(step)
    output_usd = values["usd_per_million_output_tokens"]
    usd = output_usd if output_usd is not None else input_usd
    gpus = scenario.fleet_gpus
    return {
        "usd_per_gpu_hour": price,
        "usd_per_million_output_tokens": output_usd,
        "usd_per_million_input_tokens": input_usd,
        "input_basis": basis,
        "intervals": {
            key: bounds
            for key, bounds in (
                (OUTPUT, values.get("intervals", {}).get(OUTPUT)),
                (INPUT, input_interval),
            )
            if bounds
        },
        "usd_by_op_class": {
            name: usd * seconds / values["step_time_s"] for name, seconds in values["breakdown_s"].items()
        },
        "num_gpus": gpus,
        "usd_per_month": gpus * scenario.fleet_usd_per_gpu_hour * HOURS_PER_MONTH,
        "served": _served(values, serve, input_usd),
        "fleet": serve.values.get("fleet") if serve is not None else None,
    }


def _served(
    step: dict[str, Any], serve: ServeAnswer | None, input_usd: float | None
) -> dict[str, Any] | None:
    """What the traffic's tokens cost, and how much of the GPUs it fills."""
    if serve is None:
        return None
    found = serve.values
    full = step["output_tokens_per_s_per_gpu"]
    per_output = found["input_tokens_per_s_per_gpu"] / found["output_tokens_per_s_per_gpu"]
    output_usd = step["usd_per_million_output_tokens"]
    both = None
    if output_usd is not None and input_usd is not None:
        both = (output_usd + per_output * input_usd) / (1.0 + per_output)
    return {
        **{f"usd_per_million_{kind}_tokens": found[f"usd_per_million_{kind}_tokens"] for kind in _KINDS},
        "input_tokens_per_output_token": per_output,
        "full_batch_usd_per_million_total_tokens": both,
        "output_rate_pct_of_full_batch": (
            PERCENT * found["output_tokens_per_s_per_gpu"] / full if full else None
        ),
    }


_KINDS = ("output", "input", "total")


def _input_cost(step: StepAnswer) -> tuple[float | None, list[float] | None, str]:
    """(USD per million prompt tokens, its 80 % interval, what step that is of): the step's own, or a prefill step's on
    the same GPUs.
    """
    scenario = step.scenario
    if scenario.deployment.phase == "prefill":
        return (*_of(step), "the step itself")
    if scenario.costs == "report":
        return None, None, "costs = report counts decode alone"
    side: Scenario = scenario.prefill_side or scenario
    deployment = side.deployment.model_copy(update={"phase": "prefill"})
    basis = (
        f"a prefill step of {deployment.prefill_requests_per_gpu:g} x {deployment.prefill_tokens:g} prompt tokens per "
        f"GPU on {'the prefill replicas' if scenario.prefill else 'the same GPUs'}"
    )
    try:
        found = answer_step(side.model_copy(update={"deployment": deployment, "prefill": None}))
    except PerfModelError as error:
        return None, None, f"{basis}: {error}"
    return (*_of(found), basis)


def _of(answer: StepAnswer) -> tuple[float, list[float] | None]:
    return answer.values[INPUT], answer.values.get("intervals", {}).get(INPUT)

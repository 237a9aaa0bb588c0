"""One scenario of a report: its step, its traffic, what they cost, and what would move that."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from typing import Any

from perfmodel.answers.caveats import caveat_values, danger, merged, note, without_repeats
from perfmodel.answers.serve import ServeAnswer, answer_serve
from perfmodel.answers.step import StepAnswer, answer_step
from perfmodel.economics.utilisation import break_even
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.explore.fleet import Traffic, with_fleet
from perfmodel.explore.sensitivity import Sensitivity, sensitivity
from perfmodel.report.assumptions import assumptions
from perfmodel.report.decision import Outlook, decision
from perfmodel.report.document import scenario_yaml
from perfmodel.report.money import money
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.slo import USUAL, Slo

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a report is asked to hold beside the steps."""

    serves: bool = True
    """Whether the scenarios' traffic is simulated."""
    repeats: int | None = None
    """Runs behind intervals of the traffic's figures; None: no such intervals."""
    traffic: Traffic | None = None
    """A day's traffic to size a fleet for."""
    api_usd_per_million_output_tokens: float | None = None
    """What somebody else asks for a million output tokens."""
    outlook: Outlook = field(default_factory=Outlook)
    """The twelve months that the day's traffic stands at the beginning of."""


DEAREST_USD = 1e6
"""Per million tokens: a dollar per token."""


def check_api_price(usd: float | None) -> None:
    """Refuses a price that nobody asks.

    Raises:
        SpecError: not above 0, or above DEAREST_USD.
    """
    if usd is not None and not 0.0 < usd <= DEAREST_USD:
        raise SpecError(
            f"--api-usd-per-million-output {usd:g}: must be above 0 and at most {DEAREST_USD:g} USD, e.g. 0.7"
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One scenario's share of a report."""

    label: str
    """Its name, unique in the report."""
    scenario: Scenario
    step: StepAnswer | None
    serve: ServeAnswer | None
    error: PerfModelError | None
    """Why there is no step."""
    values: dict[str, Any]
    """An entry of ``scenarios`` of ``perfmodel report --json``."""

    @property
    def caveats(self) -> dict[str, list[str]]:
        """``dangers``, ``warnings`` (with the dangers first) and ``caveats`` of step and traffic, each once."""
        reason = self.values["reason"]
        found = caveat_values([danger(f"no answer: {reason}")] if reason else [])
        if self.step is not None:
            found = merged(found, self.step.values)
        if self.serve is not None:
            of, told = self.step, self.serve.values
            found = merged(found, without_repeats(told, self.serve.rest, of.rest) if of else told)
        notes = []
        if self.values["break_even_reason"]:
            notes.append(note(f"no break-even with the API's price: {self.values['break_even_reason']}"))
        if self.values["serve_reason"] and self.values["serve_reason"] != NOT_ASKED:
            notes.append(danger(f"traffic not simulated: {self.values['serve_reason']}"))
        return merged(found, caveat_values(notes))


NOT_ASKED = "not asked for (--no-serve)"
NO_DAY = "no day of traffic is stated: --fleet-requests-per-day or --fleet-tokens-per-day, and --fleet-peak-to-mean"


def answer_part(
    label: str,
    scenario: Scenario,
    options: Options,
    *,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Part:
    """Everything that a report says of one scenario; what can't be answered has its reason instead.

    A day of traffic without objectives would be sized for users who wait for ever: then USUAL ones are taken, unless no
    number of replicas keeps them.
    """
    if options.traffic is not None and scenario.slo == Slo() and scenario.workload.max_concurrency is None:
        usual = scenario.model_copy(update={"slo": USUAL})
        found = _answered(label, usual, options, progress, executor)
        fleet = (found.values["serve"] or {}).get("fleet") or {}
        if fleet.get("by_slo") and fleet["by_slo"]["replicas"] is not None:
            found.values["decision"]["objectives_stated"] = False
            return found
    return _answered(label, scenario, options, progress, executor)


def _answered(
    label: str,
    scenario: Scenario,
    options: Options,
    progress: Progress | None,
    executor: Executor | None,
) -> Part:
    """The same with the scenario as it is."""
    text, is_exact = scenario_yaml(scenario)
    values: dict[str, Any] = {
        "name": label,
        "title": scenario.title,
        "reason": None,
        "step": None,
        "serve": None,
        "serve_reason": None,
        "money": None,
        "sensitivity": None,
        "decision": None,
        "decision_reason": NO_DAY,
        "break_even": None,
        "break_even_reason": None,
        "assumptions": [],
        "scenario_yaml": text,
        "scenario_yaml_is_exact": is_exact,
    }
    _tell(progress, "step", 0, 1)
    try:
        step = answer_step(scenario)
    except PerfModelError as error:
        return Part(label, scenario, None, None, error, values | {"reason": str(error)})
    serve, serve_reason = _served(scenario, options, progress, executor)
    levers = sensitivity(
        scenario,
        peak_to_mean=options.traffic.peak_to_mean if options.traffic else None,
        progress=lambda done, total: _tell(progress, "sensitivity", done, total),
    )
    costs = money(step, serve)
    decided, undecided = None, NO_DAY if options.traffic is None else serve_reason
    if serve is not None and options.traffic is not None:
        decided, undecided = _decided(serve, options, options.traffic, levers, costs, progress)
    values |= {
        "step": step.values,
        "serve": serve.values if serve is not None else None,
        "serve_reason": serve_reason,
        "money": costs,
        "decision": decided,
        "decision_reason": undecided,
        "sensitivity": levers.as_dict(),
        "break_even": _break_even(step, options.api_usd_per_million_output_tokens),
        "break_even_reason": _no_break_even(step, options.api_usd_per_million_output_tokens),
        "assumptions": assumptions(step, serve),
    }
    return Part(label, scenario, step, serve, None, values)


def _served(
    scenario: Scenario, options: Options, progress: Progress | None, executor: Executor | None
) -> tuple[ServeAnswer | None, str | None]:
    """The traffic's answer, or why there is none."""
    if not options.serves:
        return None, NOT_ASKED

    def tell(done: int, total: int) -> None:
        _tell(progress, "requests", done, total)

    try:
        answer = answer_serve(scenario, progress=tell, repeats=options.repeats, executor=executor)
        if options.traffic:
            answer = with_fleet(answer, options.traffic, progress=tell, executor=executor)
        return answer, None
    except PerfModelError as error:
        return None, str(error)


def _decided(
    serve: ServeAnswer,
    options: Options,
    traffic: Traffic,
    levers: Sensitivity,
    costs: dict[str, Any],
    progress: Progress | None,
) -> tuple[dict[str, Any] | None, str | None]:
    """What the day needs, or why nothing is decided."""
    found = decision(
        serve,
        traffic,
        options.outlook,
        levers=levers.as_dict()["levers"],
        base_usd=levers.usd_per_million_tokens,
        full_batch_usd=costs["served"]["full_batch_usd_per_million_total_tokens"],
        api_usd=options.api_usd_per_million_output_tokens,
        progress=lambda done, total: _tell(progress, "requests", done, total),
    )
    return (None, found["reason"]) if found["reason"] else (found, None)


def _break_even(step: StepAnswer, api_usd: float | None) -> dict[str, Any] | None:
    """At which utilisation the step's output tokens cost what an API asks; None where no price is asked or paid."""
    usd = step.values["usd_per_million_output_tokens"]
    if api_usd is None or not usd:
        return None
    bounds = step.values.get("intervals", {}).get("usd_per_million_output_tokens")
    found = asdict(break_even(usd, api_usd, bounds))
    return {
        "api_usd_per_million_output_tokens": found["api_usd_per_million_tokens"],
        "usd_per_million_output_tokens": usd,
        "utilisation_pct": found["utilisation_pct"],
        "interval_pct": list(found["interval_pct"]) if found["interval_pct"] else None,
    }


def _no_break_even(step: StepAnswer, api_usd: float | None) -> str | None:
    """Why a price that was asked has no break-even; None where it has one, or none was asked."""
    if api_usd is None or step.values["usd_per_million_output_tokens"]:
        return None
    prefill = step.scenario.deployment.phase == "prefill"
    return "a prefill step has no output tokens" if prefill else "the GPUs have no price"


def _tell(progress: Progress | None, what: str, done: int, total: int) -> None:
    if progress is not None:
        progress(what, done, total)

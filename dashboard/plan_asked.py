"""What the planner's page asks: traffic and limits, or GPUs and limits; and the same as a part of the link."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from perfmodel.errors import SpecError
from perfmodel.explore.plan.question import Kind, Question, limits_of, traffic_of
from perfmodel.explore.space import KV, WEIGHTS
from perfmodel.output.plan.files import scenario_text
from perfmodel.report.money import HOURS_PER_MONTH
from perfmodel.spec import catalogue

Mode = Literal["need", "carry"]
ENGINES = ("sglang", "vllm", "trtllm")
FORMATS = ("bf16", "fp8", "fp4", "any")
SIMULATE, MORE, SECONDS = 6, 16, 3600.0
"""Candidates that are simulated, at first and when more are asked for, and the time that they may take: so much that it
never ends early, or the answer would hang on how busy the machine is. Whoever waits can stop.
"""
MOST_LINES = 8
"""Models times clusters."""
MOST_GPUS = 512
DAY = 86_400.0
DIGITS = 6
"""Of rates and limits: what is asked is what the command says."""
UNITS = {"users": "users at once", "rate": "requests per second", "day": "output tokens per day"}


@dataclass(frozen=True)
class PlanAsked:
    """A planner's question, in the words of its controls."""

    mode: Mode = "need"
    """need: what traffic needs; carry: what a budget or GPUs carry."""
    models: tuple[str, ...] = ("deepseek-v3",)
    clusters: tuple[str, ...] = ("h200-ib", "b200-ib", "gb200-nvl72")
    unit: str = "users"
    amount: float = 200.0
    """Users in flight, requests per second, or output tokens per day; of the question "carry", only the unit counts."""
    peak: float = 2.0
    """The busiest hour over the day's mean, of tokens per day."""
    isl: float = 2000.0
    osl: float = 500.0
    speed: float = 20.0
    """Tokens/s per user, at least."""
    ttft_s: float = 3.0
    percentile: float = 99.0
    have: str = "usd"
    """usd a month, or gpus."""
    budget: float = 100_000.0
    gpus: float = 32.0
    engine: str = "sglang"
    weights: str = ""
    """Empty: the narrowest published of bf16 and fp8."""
    acceptance: float = 0.0
    """Of draft tokens; 0: none are drafted."""
    prices: tuple[tuple[str, float], ...] = ()
    """Cluster -> $ per GPU hour, where it is not the catalogue's."""
    simulate: float = SIMULATE

    def price_of(self, cluster: str) -> float | None:
        """$ per GPU hour; None: nobody says."""
        stated = dict(self.prices).get(cluster)
        return stated if stated is not None else catalogue_price(cluster)

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """(model, cluster)."""
        return tuple((model, cluster) for model in self.models for cluster in self.clusters)

    def question(self, model: str, cluster: str) -> Question:
        """The question that ``perfmodel plan`` is asked of one model on one cluster.

        Raises:
            SpecError: a value out of range, or no price.
        """
        price = self.price_of(cluster)
        if price is None:
            raise SpecError(f"{cluster}: the catalogue has no price; state one under Prices")
        users, rate = (round(self.amount), None) if self.unit == "users" else (None, self.amount)
        if self.unit == "day":
            rate = self.amount / self.osl / DAY * self.peak
        if self.mode == "carry":  # any traffic: how much is what is asked
            users, rate = (16, None) if self.unit == "users" else (None, 1.0)
        traffic = traffic_of(
            isl=self.isl, osl=self.osl, users=users, rate=None if rate is None else rounded(rate), trace=""
        )
        overrides = []
        if price != catalogue_price(cluster):
            overrides.append(f"prices.usd_per_gpu_hour={price:g}")
        if self.acceptance:
            overrides.append(f"deployment.mtp.acceptance={self.acceptance:g}")
        found = Question(
            model=model,
            kinds=(Kind(cluster, self._gpus(price), self.engine),),
            traffic=traffic,
            limits=limits_of(self.ttft_s, rounded(1.0 / self.speed), self.percentile),
            objective="gpus",
            overrides=tuple(overrides),
        )
        weights = self.weights or own_format(model)
        known = found.space_of(found.kinds[0]).keys
        space: dict[str, Any] = {KV: [known[KV][0]]}
        if weights != "any":
            space[WEIGHTS] = [weights if weights in known[WEIGHTS] else known[WEIGHTS][0]]
        return replace(found, space={} if weights == "any" else space)

    def _gpus(self, price: float) -> int:
        """GPUs that are had, of the question "carry"."""
        if self.mode == "need":
            return 1
        wanted = self.gpus if self.have == "gpus" else self.budget / HOURS_PER_MONTH / price
        if wanted < 1.0:
            raise SpecError(
                f"${self.budget:,.0f} a month: one GPU costs ${price * HOURS_PER_MONTH:,.0f} a month; raise the budget"
            )
        return min(int(wanted), MOST_GPUS)

    def text(self) -> str:
        """As part of a link; empty: the question that the page opens with."""
        default = PlanAsked()
        own = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if getattr(self, f.name) != getattr(default, f.name)
        }
        return urlencode({name: _written(value) for name, value in own.items()})


def rounded(value: float) -> float:
    """To as many digits as the command shows."""
    return float(f"{value:.{DIGITS}g}")


def catalogue_price(cluster: str) -> float | None:
    """$ per GPU hour of a cluster of the catalogue, if it has one."""
    gpu = catalogue.entry("clusters", cluster)["gpu"]
    for name in catalogue.names("prices"):
        entry = catalogue.entry("prices", name)
        if gpu in entry.get("default_for", ()):
            return float(entry["usd_per_gpu_hour"])
    return None


def own_format(model: str) -> str:
    """The format of a model's weights where nobody states one: fp8 if a checkpoint in it (or in fewer bits) is
    published, else bf16.
    """
    published = catalogue.entry("models", model).get("published_formats", ())
    return "fp8" if "fp8" in published or "quantization_config" in catalogue.model_config(model) else "bf16"


def space_text(question: Question) -> str:
    """The question's space as the file that ``--space`` takes."""
    return scenario_text({"space": dict(question.space)}) if question.space else ""


def command(question: Question, simulate: int) -> str:
    """The command that answers the same."""
    (kind,), t, limits = question.kinds, question.traffic, question.limits
    parts = ["perfmodel plan", question.model, f"--gpus {kind.gpus}x{kind.cluster} --engine {kind.engine}"]
    parts.append(f"--isl {t.input_tokens:.10g} --osl {t.output_tokens:.10g}")
    parts.append(f"--users {t.users}" if t.users is not None else f"--rate {t.rate:.10g}")
    if limits.ttft_s is not None:
        parts.append(f"--ttft {limits.ttft_s:g}")
    if limits.tpot_s is not None:
        parts.append(f"--tpot {limits.tpot_s:g}")
    if limits.percentile != 99.0:
        parts.append(f"--percentile {limits.percentile:g}")
    parts.append(f"--objective {question.objective} --simulate {simulate} --seconds {SECONDS:g}")
    parts += [f"--set {shlex.quote(one)}" for one in question.overrides]
    if question.space:
        parts.append("--space space.yaml")
    return " ".join([*parts, "--json"])


def from_text(text: str) -> PlanAsked:
    """A question from a link.

    Raises:
        SpecError: a field that there is not, or a value that it can't have.
    """
    own: dict[str, Any] = {}
    known = {f.name: getattr(PlanAsked(), f.name) for f in fields(PlanAsked)}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in known:
            raise SpecError(f"plan: {name[:40]!r} is no part of a planner's question")
        own[name] = _read(name, value, known[name])
    return checked(replace(PlanAsked(), **own))


RANGES: Mapping[str, tuple[float, float]] = {
    "amount": (1e-3, 1e13),
    "peak": (1.0, 100.0),
    "isl": (1.0, 1e6),
    "osl": (2.0, 1e5),
    "speed": (0.1, 1e4),
    "ttft_s": (1e-3, 1e4),
    "percentile": (50.0, 99.9),
    "budget": (1.0, 1e10),
    "gpus": (1.0, MOST_GPUS),
    "acceptance": (0.0, 1.0),
    "simulate": (1.0, MORE),
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "mode": ("need", "carry"),
    "unit": tuple(UNITS),
    "have": ("usd", "gpus"),
    "engine": ENGINES,
    "weights": ("", *FORMATS),
}
MOST_USERS = 20_000
"""More in flight are simulated in minutes."""


def checked(asked: PlanAsked) -> PlanAsked:
    """The question.

    Raises:
        SpecError: a value out of range, or an unknown name.
    """
    for name, (low, high) in RANGES.items():
        value = getattr(asked, name)
        if not (math.isfinite(value) and low <= value <= high):
            raise SpecError(f"plan: {name} = {value:g}: must be from {low:g} to {high:,.6g}")
    for name, choices in CHOICES.items():
        if getattr(asked, name) not in choices:
            raise SpecError(
                f"plan: {name} = {str(getattr(asked, name))[:40]!r}: must be one of {', '.join(choices)}"
            )
    for kind, chosen in (("models", asked.models), ("clusters", asked.clusters)):
        strange = [name for name in chosen if name not in catalogue.names(kind)]
        if strange:
            raise SpecError(f"plan: {kind}: {strange[0][:40]!r} is not in the catalogue")
    if len(asked.lines) > MOST_LINES:
        raise SpecError(
            f"plan: {len(asked.lines)} models times clusters: at most {MOST_LINES}; leave some out"
        )
    if asked.unit == "users" and asked.amount > MOST_USERS:
        raise SpecError(
            f"plan: {asked.amount:,.0f} users at once: at most {MOST_USERS:,}; use perfmodel plan"
        )
    for cluster, price in asked.prices:
        if cluster not in catalogue.names("clusters") or not 0.0 < price <= 1e4:
            raise SpecError(f"plan: prices: {cluster[:40]} at {price:g}: must be above 0 and up to 10,000")
    return asked


def key_of(question: Question) -> str:
    """All that a question says, to find its result again."""
    return repr((question.model, question.kinds, question.traffic, question.limits, question.objective,
                 json.dumps(dict(question.space), sort_keys=True), question.overrides, question.seed))  # fmt: skip


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{one[0]}:{one[1]:g}" if isinstance(one, tuple) else one for one in value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _read(name: str, text: str, like: Any) -> Any:
    try:
        if name == "prices":
            pairs = (one.rpartition(":") for one in text.split(",") if one)
            return tuple((cluster, float(price)) for cluster, _, price in pairs)
        if isinstance(like, tuple):
            return tuple(dict.fromkeys(filter(None, text.split(","))))
        return float(text) if isinstance(like, float) else text
    except ValueError as error:
        raise SpecError(f"plan: {name} = {text[:40]!r}: must be a number") from error

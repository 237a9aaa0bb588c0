"""What ``perfmodel plan`` is asked: model, GPUs, engines, traffic, limits, objective. Checked before any work."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from perfmodel.errors import SpecError
from perfmodel.explore.space import Space, default_space, narrowed
from perfmodel.load import build_scenario
from perfmodel.spec import catalogue
from perfmodel.spec.documents import read_document
from perfmodel.spec.messages import shown
from perfmodel.spec.paths import is_folder
from perfmodel.spec.scenario import Scenario
from perfmodel.stated import with_overrides
from perfmodel.units import MS

Objective = Literal["usd", "gpus", "goodput", "ttft", "tpot"]
MOST_GPUS = 4096
LENGTH_SPREAD = 0.5
"""Lengths are uniform within so much of their mean: users of equal requests would move in step, and all prompts of a
round come at once."""
ROUNDS = 4
"""Requests per user of a closed loop; the first round warms up and the last cools down."""
FEWEST_REQUESTS, MOST_REQUESTS = 1000, 20_000
EDGES = 0.1
"""Share of open traffic's requests that warm up, and that cool down."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the deployment is to serve: users or a rate of requests of some lengths, or a trace."""

    input_tokens: float | None = None
    output_tokens: float | None = None
    users: int | None = None
    rate: float | None = None
    trace: str = ""
    length_spread: float = LENGTH_SPREAD

    def times(self, factor: float) -> "Traffic":
        """So many times as much of it; a trace comes faster."""
        users = None if self.users is None else max(1, round(self.users * factor))
        rate = None if self.rate is None else self.rate * factor
        return Traffic(self.input_tokens, self.output_tokens, users, rate, self.trace, self.length_spread)

    @property
    def words(self) -> str:
        """In words."""
        if self.trace:
            return f"trace {self.trace}"
        who = f"{self.users:,} users" if self.users is not None else f"{self.rate:g} requests/s"
        return f"{who}, {self.input_tokens:g} tokens in and {self.output_tokens:g} out on average"


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests must keep, at a percentile; None: no limit."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    percentile: float = 99.0

    @property
    def words(self) -> str:
        """In words."""
        parts = [
            f"{name} {value:g} s" for name, value in (("TTFT", self.ttft_s), ("TPOT", self.tpot_s)) if value
        ]
        return f"{' and '.join(parts)} at p{self.percentile:g}" if parts else "none"


@dataclass(frozen=True, slots=True)
class Kind:
    """GPUs of one kind that may be used, with one engine."""

    cluster: str
    gpus: int
    engine: str

    @property
    def words(self) -> str:
        """In words."""
        return f"{self.gpus} {self.cluster}{f', {self.engine}' if self.engine else ''}"


def kinds_words(decodes: Kind, reads: Kind | None) -> str:
    """GPUs that decode, and others that read prompts for them, if there are any."""
    if reads is None:
        return decodes.words
    return f"{decodes.gpus} {decodes.cluster}, prompts on {reads.words}"


@dataclass(frozen=True, slots=True)
class Question:
    """All of it."""

    model: str
    kinds: tuple[Kind, ...]
    traffic: Traffic
    limits: Limits = Limits()
    objective: Objective = "usd"
    space: Mapping[str, Any] = field(default_factory=dict)
    """What a space file states."""
    overrides: tuple[str, ...] = ()
    """``key=value`` of ``--set``, for every candidate."""
    seed: int = 0

    def document(self, kind: Kind) -> dict[str, Any]:
        """What every candidate of a kind states, before its layout.

        Raises:
            SpecError: a bad override.
        """
        slo = {"ttft_ms": self.limits.ttft_s, "tpot_ms": self.limits.tpot_s}
        found: dict[str, Any] = {
            "name": "plan",
            "model": self.model,
            "cluster": {"base": kind.cluster, "num_gpus": kind.gpus},
            "workload": workload_of(self.traffic),
            "slo": {key: value / MS for key, value in slo.items() if value is not None},
            "seed": self.seed,
        }
        if kind.engine:
            found["engine"] = kind.engine
        return with_overrides(found, self.overrides, from_here=True)

    def scenario(self, kind: Kind) -> Scenario:
        """A scenario of one GPU, from which the space follows.

        Raises:
            PerfModelError: model, cluster, engine or an override is bad.
        """
        return build_scenario(self.document(kind))

    def space_of(self, kind: Kind) -> Space:
        """The space of a kind.

        Raises:
            SpecError: what the space file states is no space.
        """
        one = self.scenario(kind)
        found = default_space(
            one.model,
            one.cluster,
            kind.engine,
            kind.gpus,
            mtp=one.deployment.mtp,
            quantised="quantization_config" in _config(self.model),
            tokens=(self.traffic.input_tokens or 0.0) + (self.traffic.output_tokens or 0.0),
        )
        return narrowed(found, self.space)


def workload_of(traffic: Traffic) -> dict[str, Any]:
    """The ``workload`` section of the traffic."""
    if traffic.trace:
        return {"trace": traffic.trace}
    lengths = {
        "input_tokens": _spread(traffic.input_tokens or 1.0, traffic.length_spread, 1),
        "output_tokens": _spread(traffic.output_tokens or 2.0, traffic.length_spread, 2),
    }
    if traffic.users is not None:
        requests = min(max(FEWEST_REQUESTS, ROUNDS * traffic.users), max(MOST_REQUESTS, 3 * traffic.users))
        edge = min(traffic.users, requests // 3)
        return {
            **lengths,
            "max_concurrency": traffic.users,
            "num_requests": requests,
            "warm_up_requests": edge,
            "cool_down_requests": edge,
        }
    requests = 2 * FEWEST_REQUESTS
    edge = int(EDGES * requests)
    return {
        **lengths,
        "request_rate": traffic.rate,
        "num_requests": requests,
        "warm_up_requests": edge,
        "cool_down_requests": edge,
    }


def _spread(mean: float, spread: float, least: int) -> dict[str, float]:
    low, high = max(least, round(mean * (1.0 - spread))), round(mean * (1.0 + spread))
    return {"value": round(mean)} if low >= high else {"min": low, "max": high}


def kinds_of(gpus: str, engines: Iterable[str]) -> tuple[Kind, ...]:
    """Of ``--gpus 64xh200,32xb200``: clusters of the catalogue by their own name, or by their GPU's or its beginning.

    Raises:
        SpecError: another form, an unknown GPU, or a number out of range.
    """
    found = []
    for text in gpus.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*[xX*]\s*([\w.-]+)\s*", text)
        if not match:
            raise SpecError(f"--gpus {shown(text)}: must be NUMBERxGPU, e.g. 64xh200 (perfmodel show gpus)")
        number, name = int(match[1]), match[2].lower()
        if not 1 <= number <= MOST_GPUS:
            raise SpecError(f"--gpus {text.strip()}: must be from 1 to {MOST_GPUS:,} GPUs")
        found += [Kind(cluster_named(name), number, engine) for engine in engines]
    return tuple(dict.fromkeys(found))


def cluster_named(name: str) -> str:
    """The cluster of the catalogue that ``--gpus`` means.

    Raises:
        SpecError: none.
    """
    found = catalogue.cluster_named(name)
    if found is None:
        gpus = {str(catalogue.entry("clusters", one)["gpu"]) for one in catalogue.names("clusters")}
        known = ", ".join(sorted({gpu.split("-")[0] for gpu in gpus}))
        raise SpecError(f"--gpus {name}: must be one of {known}, or a cluster of perfmodel show clusters")
    return found


def traffic_of(
    *,
    isl: float | None,
    osl: float | None,
    users: int | None,
    rate: float | None,
    trace: str,
    length_spread: float = LENGTH_SPREAD,
) -> Traffic:
    """The traffic that options state.

    Raises:
        SpecError: none, two that contradict each other, or a value out of range.
    """
    if trace:
        stated = [
            name
            for name, value in (("--isl", isl), ("--osl", osl), ("--users", users), ("--rate", rate))
            if value
        ]
        if stated:
            raise SpecError(f"{stated[0]}: a trace has its own lengths and times: leave one of the two out")
        return Traffic(trace=trace)
    if isl is None or osl is None or (users is None) == (rate is None):
        raise SpecError("traffic: give --isl N --osl N with --users N or --rate R, or give --trace NAME")
    for name, value, least in (("--isl", isl, 1.0), ("--osl", osl, 2.0), ("--users", users, 1.0)):
        if value is not None and not least <= value <= 1e7:
            raise SpecError(f"{name} {shown(value)}: must be from {least:g} to 10,000,000")
    if rate is not None and not (0.0 < rate <= 1e6 and math.isfinite(rate)):
        raise SpecError(f"--rate {rate:g}: must be above 0 and up to 1,000,000 requests per second")
    if not 0.0 <= length_spread < 1.0:
        raise SpecError(f"--length-spread {length_spread:g}: must be from 0 (fixed lengths) to below 1")
    return Traffic(isl, osl, users, rate, length_spread=length_spread)


def limits_of(ttft: float | None, tpot: float | None, percentile: float) -> Limits:
    """The limits that options state.

    Raises:
        SpecError: a value out of range.
    """
    for name, value in (("--ttft", ttft), ("--tpot", tpot)):
        if value is not None and not 0.0 < value <= 1e5:
            raise SpecError(f"{name} {value:g}: must be seconds above 0, e.g. {name} 0.05")
    if not 1.0 <= percentile <= 100.0:
        raise SpecError(f"--percentile {percentile:g}: must be from 1 to 100")
    return Limits(ttft, tpot, percentile)


def objective_of(name: str) -> Objective:
    """The objective of that name.

    Raises:
        SpecError: none has it.
    """
    if name not in get_args(Objective):
        raise SpecError(f"--objective {name}: must be one of {', '.join(get_args(Objective))}")
    return name  # type: ignore[return-value]


def _config(model: str) -> Mapping[str, Any]:
    """The config.json of a model."""
    if not ("/" in model or model.endswith(".json")):
        return catalogue.model_config(model)
    path = Path(model)
    return read_document(path / "config.json" if is_folder(path) else path)


def model_path(name: str) -> str:
    """A model's catalogue name, or the path of its config.json made independent of the working directory."""
    return str(Path(name).absolute()) if "/" in name or name.endswith(".json") else name

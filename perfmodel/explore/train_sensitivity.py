"""What moves the cost of a training token: one lever at a time between a low and a high value, and why these.

As :mod:`perfmodel.explore.sensitivity` does it for serving, of the whole run: failures, checkpoints and spares are in
the dollars where the run's tokens are stated.
"""

from collections.abc import Callable
from typing import NamedTuple

from perfmodel.answers.train import TrainAnswer, answer_train
from perfmodel.errors import PerfModelError
from perfmodel.explore.levers import (
    WHAT_IF,
    WHAT_IF_PCT,
    Ends,
    LeftOut,
    Setting,
    gb_per_s_text,
    price_lever,
    scaled,
    usd_text,
    with_value,
)
from perfmodel.explore.sensitivity import End, Sensitivity, Swing
from perfmodel.numeric import comparable
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.training import Training
from perfmodel.training.layout import training_of
from perfmodel.units import HOUR, MEGA, PERCENT

RSC_PER_NODE_DAY = (2.34e-3, 6.5e-3)
RSC_SOURCE = (
    "https://arxiv.org/abs/2410.21680: 2.34 and 6.50 failures per 1,000 node-days on Meta's RSC-2 and RSC-1"
)
NODE_GPUS = 8


class Lever(NamedTuple):
    """Something of a training run that may be otherwise."""

    name: str
    unit: str
    base: Callable[[Scenario], str]
    settings: Callable[[Scenario], Ends | LeftOut]


def train_sensitivity(base: TrainAnswer) -> Sensitivity:
    """Every lever of a training run, the widest first."""
    scenario = base.step.scenario
    swings: list[Swing] = []
    left_out: dict[str, str] = {}
    for lever in LEVERS:
        found = lever.settings(scenario)
        try:
            if isinstance(found, LeftOut):
                left_out[lever.name] = found.reason
            else:
                swings.append(_swing(scenario, lever, *found))
        except PerfModelError as error:  # the changed scenario is refused: nothing to say about this lever
            left_out[lever.name] = str(error)
    swings.sort(key=lambda swing: -comparable(swing.width_usd))
    return Sensitivity(usd_per_million_tokens(base), None, tuple(swings), left_out)


def usd_per_million_tokens(answer: TrainAnswer) -> float:
    """USD of a million tokens: of the whole run, failures and spares included, where its tokens are stated."""
    values, training = answer.values, answer.step.training
    if values["usd"] is not None and training.tokens:
        return float(values["usd"] / training.tokens * MEGA)
    price = answer.step.scenario.prices.usd_per_gpu_hour
    return float(price / HOUR / values["tokens_per_s_per_gpu"] * MEGA)


def _swing(scenario: Scenario, lever: Lever, low: Setting, high: Setting) -> Swing:
    first, second = (
        End(one.label, one.value, usd_per_million_tokens(answer_train(one.scenario or scenario)), None)
        for one in (low, high)
    )
    reasons = dict.fromkeys(filter(None, (low.reason, high.reason)))
    reason = "; ".join(reasons)
    return Swing(lever.name, lever.unit, lever.base(scenario), first, second, reason, low.source)


def _bandwidth(path: str) -> Callable[[Scenario], Ends | LeftOut]:
    return lambda scenario: scaled(scenario, path, gb_per_s_text)


def _network(scenario: Scenario) -> Ends | LeftOut:
    if training_of(scenario).num_gpus <= scenario.cluster.node.link_domain_gpus:
        return LeftOut("all GPUs are in one link domain: nothing crosses the network")
    return scaled(scenario, "cluster.network.gb_per_s_per_gpu", gb_per_s_text)


def _link(scenario: Scenario) -> Ends | LeftOut:
    if training_of(scenario).num_gpus == 1:
        return LeftOut("one GPU: nothing crosses a link")
    return scaled(scenario, "cluster.node.link_gb_per_s", gb_per_s_text)


def _batch(scenario: Scenario) -> Ends | LeftOut:
    """Half and twice the sequences of a step: what a bubble and the work once per step cost. How well the model learns
    with either is another question.
    """
    own = training_of(scenario)
    ends = []
    for factor in (0.5, 2.0):
        value = int(own.global_batch_sequences * factor)
        if value % (own.dp * own.micro_batch_sequences):
            return LeftOut(f"{value} sequences do not divide over dp x micro_batch_sequences")
        changed = Training.model_validate(own.model_dump() | {"global_batch_sequences": value})
        reason = "a what-if: half and twice, learning left aside"
        ends.append(
            Setting(value, f"{value:,}", scenario.model_copy(update={"training": changed}), reason=reason)
        )
    return ends[0], ends[1]


def _failures(scenario: Scenario) -> Ends | LeftOut:
    own = training_of(scenario)
    if own.tokens is None:
        return LeftOut("training.tokens is not stated: a step has no failures")
    low, high = (rate / NODE_GPUS for rate in RSC_PER_NODE_DAY)
    return _rate(scenario, low), _rate(scenario, high)


def _rate(scenario: Scenario, per_gpu_day: float) -> Setting:
    changed = with_value(scenario, "training.failures.per_gpu_day", per_gpu_day)
    return Setting(
        per_gpu_day, f"{per_gpu_day:.3g}", changed, reason="two clusters of one operator", source=RSC_SOURCE
    )


def _slowest(scenario: Scenario) -> Ends | LeftOut:
    if training_of(scenario).pp == 1:
        return LeftOut("no pipeline: nobody waits for a slow stage")
    slow = 1.0 + WHAT_IF_PCT / PERCENT
    return (
        Setting(1.0, "1", with_value(scenario, "training.slowest_rank", 1.0), reason=WHAT_IF),
        Setting(slow, f"{slow:g}", with_value(scenario, "training.slowest_rank", slow)),
    )


LEVERS = (
    Lever(
        "GPU price",
        "USD per GPU hour",
        lambda s: usd_text(s.prices.usd_per_gpu_hour),
        lambda s: price_lever(s, None),
    ),
    Lever(
        "HBM bandwidth",
        "GB/s",
        lambda s: gb_per_s_text(s.cluster.gpu.hbm_gb_per_s),
        _bandwidth("cluster.gpu.hbm_gb_per_s"),
    ),
    Lever(
        "network bandwidth",
        "GB/s per GPU",
        lambda s: gb_per_s_text(s.cluster.network.gb_per_s_per_gpu),
        _network,
    ),
    Lever("link bandwidth", "GB/s per GPU", lambda s: gb_per_s_text(s.cluster.node.link_gb_per_s), _link),
    Lever("batch", "sequences", lambda s: f"{training_of(s).global_batch_sequences:,}", _batch),
    Lever("failures", "per GPU and day", lambda s: f"{training_of(s).failures.per_gpu_day:.3g}", _failures),
    Lever(
        "slowest pipeline rank",
        "times a healthy one",
        lambda s: f"{training_of(s).slowest_rank:g}",
        _slowest,
    ),
)
"""In the order in which they are asked."""

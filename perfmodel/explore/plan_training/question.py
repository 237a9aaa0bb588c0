"""What ``perfmodel plan-train`` is asked: a run, the GPUs that it may have, what counts; and the space of layouts.

As data, as for serving: key paths and choices.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from perfmodel.errors import SpecError
from perfmodel.explore.plan.question import cluster_named
from perfmodel.load import build_scenario
from perfmodel.spec.base import Spec
from perfmodel.spec.keys import key_paths, unknown_key
from perfmodel.spec.messages import describe, shown
from perfmodel.spec.model import Model
from perfmodel.spec.paths import names_file
from perfmodel.spec.scenario import Scenario, training_problem
from perfmodel.spec.training import Training
from perfmodel.stated import document_of_file, with_overrides
from perfmodel.training.layout import PAIRED, training_of
from perfmodel.training.pipeline.schedules import RULES

Objective = Literal["usd", "gpu", "time"]
MOST_GPUS = 1_000_000
LAYOUT = (
    "tp",
    "cp",
    "pp",
    "ep",
    "etp",
    "micro_batch_sequences",
    "virtual_stages",
    "schedule",
    "moe_overlap",
    "recompute",
    "zero",
)
"""Keys of ``training`` that are looked at; dp follows from the GPUs, edp from both."""
ARGUMENTS = (
    "tokens",
    "sequence_tokens",
    "global_batch_sequences",
    "stage_layers",
    "batch_ramp",
    "capacity",
    *(name for name, one in Training.model_fields.items() if isinstance(one.default, Spec)),
)
"""Keys that say what run it is, or have parts of their own."""
SHAPE = ("tp", "cp", "ep", "etp", "micro_batch_sequences", "moe_overlap", "recompute")
"""Those that change a layer's time; the others only arrange layers."""
MOST_CP_TOKENS = 8192
"""Sequences up to this long are not divided unless the scenario does so."""
MOST_PP, MOST_MICRO_BATCH = 32, 4
CHUNKS = (1, 2, 4)
RECOMPUTED: tuple[Any, ...] = ("none", ("norms", "mla_up_projection", "activations"), "full")
"""Beside the scenario's own."""
MOST = 2_000_000
"""Combinations that are gone through."""

Choices = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """GPUs of one kind that the run may have."""

    gpus: int
    cluster: str = ""
    """A cluster of the catalogue; empty: the scenario's own."""

    @property
    def words(self) -> str:
        """In words."""
        return f"{self.gpus:,} {self.cluster or 'GPUs of the scenario'}"


@dataclass(frozen=True, slots=True)
class Question:
    """All of it."""

    name: str
    """A catalogue scenario or a file."""
    kinds: tuple[Kind, ...] = ()
    """None stated: as many as the scenario has."""
    objective: Objective = "usd"
    space: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    def document(self, kind: Kind | None = None) -> dict[str, Any]:
        """What every candidate of a kind states, before its layout; paths in it are absolute.

        Raises:
            SpecError: no such scenario, or a bad override.
            DataError: a file that can't be read.
        """
        files = names_file(self.name) or "/" in self.name
        name = str(Path(self.name).absolute()) if files else self.name
        document, _ = document_of_file(name, self.overrides)
        if kind is None or not kind.cluster:
            return document
        return with_overrides(document, (f"cluster={kind.cluster}",))

    def scenario(self, kind: Kind) -> Scenario:
        """The scenario that layouts of a kind are put into.

        Raises:
            PerfModelError: something in it is bad.
        """
        return build_scenario(self.document(kind))

    def every_kind(self) -> tuple[Kind, ...]:
        """The kinds, the scenario's own GPUs where none are stated.

        Raises:
            PerfModelError: the scenario is bad, or has no training section.
        """
        return self.kinds or (Kind(training_of(build_scenario(self.document())).num_gpus),)


def kinds_of(text: str) -> tuple[Kind, ...]:
    """Of ``--gpus 2048`` or ``--gpus 1024xh100,1024xb200``: numbers, with a GPU or cluster or without.

    Raises:
        SpecError: another form, an unknown GPU, or a number out of range.
    """
    found = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:[xX*]\s*([\w.-]+))?\s*", part)
        if not match or not 1 <= int(match[1]) <= MOST_GPUS:
            raise SpecError(
                f"--gpus {shown(part)}: must be NUMBER or NUMBERxGPU of 1 to {MOST_GPUS:,} GPUs, e.g. 1024xh100"
            )
        found.append(Kind(int(match[1]), cluster_named(match[2].lower()) if match[2] else ""))
    return tuple(dict.fromkeys(found))


def objective_of(name: str) -> Objective:
    """The objective of that name.

    Raises:
        SpecError: none has it.
    """
    if name not in get_args(Objective):
        raise SpecError(f"--objective {name}: must be one of {', '.join(get_args(Objective))}")
    return name  # type: ignore[return-value]


def space_of(
    scenario: Scenario, gpus: int, stated: Mapping[str, Any], *, of_several: bool = False
) -> dict[str, Choices]:
    """Choices for every key of :data:`LAYOUT`, and for any other key of ``training`` that a space file states.

    Args:
        scenario: the run.
        gpus: how many it has.
        stated: what the space file says.
        of_several: these GPUs are one kind of several, so that values which they do not take are left to the others.

    Raises:
        SpecError: an unknown key, a value that the model or the GPU does not take, or no choice left.
    """
    own, model = training_of(scenario), scenario.model
    link = scenario.cluster.node.link_domain_gpus
    powers = [2**i for i in range(21) if 2**i <= gpus]
    stages = [p for p in powers if p <= min(MOST_PP, model.num_layers)]
    longest = own.sequence_tokens // MOST_CP_TOKENS
    experts = model.moe.num_experts if model.moe else 1
    overlap = "two-chunks" if model.has_shortcut else "forward-backward"
    default: dict[str, list[Any]] = {
        "tp": [n for n in powers if n <= min(link, 16)],
        "cp": [n for n in powers if n == 1 or n <= longest],
        "pp": stages,
        "ep": [n for n in powers if experts % n == 0],
        "etp": [1],
        "micro_batch_sequences": [n for n in powers if n <= MOST_MICRO_BATCH],
        "virtual_stages": list(CHUNKS),
        "schedule": [name for name in RULES if name != "gpipe"],  # 1F1B has its bubble and holds less
        "moe_overlap": ["none", overlap] if model.moe else ["none"],
        "recompute": list(RECOMPUTED),
        "zero": [0, 1] if own.zero == 0 else [1, 3],
    }
    found = {key: _with_own(values, getattr(own, key)) for key, values in default.items()}
    for path, value in stated.items():
        key = path.removeprefix("training.")
        if key in ("dp", "edp"):
            raise SpecError(f"space: {key} follows from the number of GPUs and the other keys: leave it out")
        if key in ARGUMENTS or key not in Training.model_fields:
            known = f"training.{key}" in key_paths()
            raise SpecError(
                f"space: {key} is no choice of a layout: state it with --set training.{key}=..."
                if known or key in ARGUMENTS
                else f"space: {unknown_key(f'training.{key}')}"
            )
        found[key] = _choices(key, value, found.get(key))
        found[key] = _taken(scenario, key, found[key], of_several=of_several)
    return found


def _taken(scenario: Scenario, key: str, choices: Choices, *, of_several: bool) -> Choices:
    """The choices that the run's model and GPU take, say number formats that the GPU multiplies.

    Raises:
        SpecError: one is no value of the key, or not taken while no other kind of GPUs might, or none is.
    """
    own = training_of(scenario)
    taken, problem = [], None
    for value in choices:
        try:
            training = Training.model_validate(own.model_dump() | {key: value})
        except ValidationError as error:
            if any(one["loc"][:1] == (key,) for one in error.errors()):
                raise SpecError(f"space: training.{describe(error)}") from None
            taken.append(value)  # goes with another layout, maybe
            continue
        if key in LAYOUT:
            taken.append(value)
            continue
        stated = scenario.model_copy(update={"training": training})
        refused = training_problem(stated)
        if refused is None:
            runs = getattr(training_of(stated), key)
            taken.append(value if runs == value else runs)
        problem = problem or refused
    if problem and not (of_several and taken):
        raise SpecError(f"space: {problem}")
    return tuple(dict.fromkeys(taken))


def _with_own(values: list[Any], own: Any) -> Choices:
    """The choices, the scenario's own among them, each once."""
    return tuple(dict.fromkeys([*values, own]))


def _choices(key: str, value: Any, known: Choices | None) -> Choices:
    if isinstance(value, Mapping) and value.keys() == {"range"}:
        bounds = value["range"]
        if not (
            isinstance(bounds, (list, tuple)) and len(bounds) == 2 and all(type(b) is int for b in bounds)
        ):
            raise SpecError(f"space: {key}: range = {shown(bounds)}: must be two whole numbers [least, most]")
        low, high = bounds
        found: Choices = tuple(
            one for one in known or () if isinstance(one, int) and low <= one <= high
        ) or tuple(
            sorted({low, *(2**i for i in range(21) if low <= 2**i <= high), high} if low <= high else ())
        )
    else:
        if isinstance(value, Mapping):
            if value.keys() != {"choices"}:
                raise SpecError(
                    f"space: {key} = {shown(value)}: must be a list, {{choices: [..]}} or {{range: [least, most]}}"
                )
            value = value["choices"]
        listed = value if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(one, Mapping) for one in listed):
            raise SpecError(f"space: {key} = {shown(value)}: must be a list of values")
        found = tuple(dict.fromkeys(tuple(one) if isinstance(one, list) else one for one in listed))
    if not found:
        raise SpecError(f"space: {key}: has no choices left; give at least one")
    whole = key in LAYOUT and key not in ("schedule", "moe_overlap", "recompute")
    for one in found:
        if whole and (type(one) is not int or one < (0 if key == "zero" else 1)):
            raise SpecError(f"space: {key} = {shown(one)}: must be a whole number of at least 1")
    return found


def layouts(
    scenario: Scenario, gpus: int, space: Mapping[str, Choices], stated: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Every legal layout of so many GPUs, as keys of ``training`` -> values, dp among them.

    Left out, unless the space file asks: weights divided (ZeRO 3) under a pipeline, where every micro-batch would
    gather them; overlap of exchanges where nothing is exchanged; more chunks than a schedule has a use for.

    Raises:
        SpecError: more combinations than anybody would go through.
    """
    size = 1
    for values in space.values():
        size *= len(values)
    if size > MOST:
        raise SpecError(
            f"space: {size:,} combinations; must be at most {MOST:,}: narrow some keys (docs/train_plan.md)"
        )
    own, model = training_of(scenario), scenario.model
    asked = {path.removeprefix("training.") for path in stated}
    arranged = [key for key in space if key not in ("tp", "cp", "pp", "ep", "etp", "micro_batch_sequences")]
    for tp, cp, pp in product(space["tp"], space["cp"], space["pp"]):
        dp, rest = divmod(gpus, tp * cp * pp)
        if rest or not dp or own.sequence_tokens % (cp * tp) or not _divides(model, tp):
            continue
        for ep, etp, batch in product(space["ep"], space["etp"], space["micro_batch_sequences"]):
            if (tp * cp * dp) % (ep * etp) or own.global_batch_sequences % (dp * batch):
                continue
            if model.moe and (model.moe.num_experts % ep or model.moe.ffn_size % etp):
                continue
            micro = own.global_batch_sequences // (dp * batch)
            ramp = own.batch_ramp
            if ramp and ramp.problem(own.global_batch_sequences, dp * batch):
                continue
            early = (
                {below // (dp * batch) for below in ramp.batches(own.global_batch_sequences)} if ramp else ()
            )
            head = {
                "tp": tp,
                "cp": cp,
                "dp": dp,
                "pp": pp,
                "ep": ep,
                "etp": etp,
                "micro_batch_sequences": batch,
            }
            for values in product(*(space[key] for key in arranged)):
                found = head | dict(zip(arranged, values, strict=True))
                if _arranged(found, micro, model.num_layers, asked) and _stated_allow(found, own, early):
                    yield found


def _divides(model: Model, tp: int) -> bool:
    return all(
        getattr(layer.attention, "num_heads", tp) % tp == 0 and layer.dense_ffn_size % tp == 0
        for layer in model.layers
    )


def _arranged(keys: Mapping[str, Any], micro: int, layers: int, asked: set[str]) -> bool:
    """Whether a schedule takes the numbers, and does something for them."""
    p, v, name = keys["pp"], keys["virtual_stages"], keys["schedule"]
    rule = RULES[name]
    if p * v > layers or (rule.chunks is not None and v != rule.chunks) or rule.problem(p, micro, v):
        return False
    if p == 1 and (name != "1f1b" or v > 1) and "schedule" not in asked:
        return False
    if rule.chunks is None and (micro % p or (v == 1 and name == "interleaved-1f1b")):
        return False  # other rounds than Megatron's; and 1F1B by another name
    overlap = keys["moe_overlap"]
    if overlap == "forward-backward" and name not in PAIRED:
        return False
    if overlap != "none" and keys["ep"] * keys["etp"] == 1:
        return False
    if overlap == "forward-backward" and micro == 1 and "moe_overlap" not in asked:
        return False  # a forward has no other micro-batch's backward to run beside
    if overlap != "forward-backward" and rule.pairs and "moe_overlap" not in asked:
        return False  # DualPipe without what it is for
    return keys["zero"] < 3 or p == 1 or "zero" in asked


def _stated_allow(keys: Mapping[str, Any], own: Training, early: Collection[int]) -> bool:
    """Whether what a run states beside its layout goes with one: hybrid sharding, offload, micro-batches of a ramp."""
    groups = keys.get("dp_replicate", own.dp_replicate)
    if groups > 1:
        ranks = (keys["dp"] * keys["cp"], keys["tp"] * keys["cp"] * keys["dp"] // (keys["ep"] * keys["etp"]))
        if keys["zero"] == 0 or any(one % groups for one in ranks):
            return False
    if own.offload.optimizer_fraction and keys["zero"] == 0:
        return False
    if own.offload.activations_fraction and keys["recompute"] == "full":
        return False
    rule, p, v = RULES[keys["schedule"]], keys["pp"], keys["virtual_stages"]
    return not any(rule.problem(p, micro, v) for micro in early)


def training_with(own: Training, keys: Mapping[str, Any]) -> Training:
    """A run's training section with a layout's keys; stage boundaries stay only where they still fit.

    Raises:
        ValidationError: a value that no run can have.
    """
    stated = own.stage_layers
    if stated is not None and len(stated) != keys["pp"] * keys["virtual_stages"]:
        stated = None
    return Training.model_validate(own.model_dump() | {"edp": None, "stage_layers": stated, **keys})

"""The space of deployments that ``perfmodel plan`` looks at, as data: key paths of a scenario and their choices.

What is in it by default follows from model, GPUs and engine (:func:`default_space`); a ``space:`` file narrows or
widens any key, and adds any other key path of a scenario:

    deployment.attention_tp: [1, 8]                  # these alone
    deployment.redundant_experts: {choices: [0, 32]} # a key that is not looked at by default
    deployment.ffn_gpus: [0, 16, 24]                 # FFNs on so many GPUs of their own, beside TP x DP of attention
    ffns.cluster: [l40s-pcie]                        # of another kind; ffns.prices.usd_per_gpu_hour: [1.0]
    serving.max_running: {range: [16, 256]}          # the default's choices within, or powers of two
    pools: [together]                                # no prefill apart

Two keys are no key paths: ``pools`` (together; apart: prefill on GPUs of its own; unlike: on GPUs of another kind) and
``weights`` (a number format of linear layers and experts).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from perfmodel.engines.launch import overlaps_of
from perfmodel.engines.legality import rules
from perfmodel.errors import SpecError
from perfmodel.spec.documents import read_document
from perfmodel.spec.drafts import MtpDeployment
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.keys import key_paths, unknown_key
from perfmodel.spec.messages import shown
from perfmodel.spec.mixers import Gqa, Mla, StateMixer
from perfmodel.spec.model import Model

POOLS, WEIGHTS = "pools", "weights"
POOL_KINDS = ("together", "apart", "unlike")
"""Prompts and decodes on the same replicas, on replicas of either, or those on GPUs of two kinds."""
TP, DP, DENSE, EP = (f"deployment.{key}" for key in ("attention_tp", "attention_dp", "dense_tp", "ep"))
PP, CP, DCP = (f"deployment.{key}" for key in ("pp", "context_parallel", "decode_context_parallel"))
ATTENTION, FFNS = "deployment.attention_gpus", "deployment.ffn_gpus"
"""Stages, prompts and caches divided by tokens, FFNs on GPUs of their own: looked at where a file names their choices,
and divided ones where requests are long. Attention's GPUs then are TP x DP."""
OF_FFNS, FFN_CLUSTER = "ffns.", "ffns.cluster"
"""Other GPUs for FFNs, of layouts that have them apart: they count among the GPUs that are asked for."""
PARTS = "deployment.ffn_micro_batches"
LONG = 32_768
"""Tokens of a request from which on prompts and caches divided by tokens are looked at unasked: shorter ones gain
nothing by them (docs/layouts.md), and every choice more is as many layouts more."""
MOST_OF = "most"
"""A choice of CP or DCP: as many as an attention group allows."""
PHASE = "deployment.phase"
KV, OVERLAP, DRAFTS = "deployment.precision.kv_cache", "deployment.overlap", "deployment.mtp.draft_tokens"
CHUNK, RUNNING, REPLICAS = "serving.max_batched_tokens", "serving.max_running", "serving.replicas"
SHAPE = (TP, DP, EP, DENSE)
"""What decides which defaults an engine fills in."""
SETTINGS = (CHUNK, RUNNING, REPLICAS)
"""What changes no step's time, only which steps are run: candidates that differ in these share a step grid."""
MOST_DRAFTS = 3
"""Draft tokens that are looked at with one acceptance for all: it was measured for the first."""
CHUNKS = (2048, 4096, 8192, 16384)
RUNNINGS = (8, 16, 32, 64, 128, 256, 512)
"""Beside the engine's own default."""
FORMATS = {
    "bf16": {"deployment.precision.linear": "bf16", "deployment.precision.experts": "bf16"},
    "fp8": {"deployment.precision.linear": "fp8", "deployment.precision.experts": "fp8"},
    "fp4": {"deployment.precision.linear": "fp8", "deployment.precision.experts": "fp4"},
}
"""``weights`` -> what it sets."""
MOST = 200_000
"""Layouts of one engine and GPU that are enumerated."""

Choices = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """Choices of one engine on one kind of GPU."""

    keys: Mapping[str, Choices]
    """Key path, ``pools`` or ``weights`` -> choices, each once."""

    @property
    def pools(self) -> Choices:
        """Of POOL_KINDS."""
        return self.keys[POOLS]

    def settings(self) -> dict[str, Choices]:
        """Choices of what changes no step's time; RUNNING may hold None, the engine's own."""
        return {key: self.keys[key] for key in SETTINGS}

    def layouts(self) -> Iterator[dict[str, Any]]:
        """Every combination of the keys that change a step, as key path -> value; ``weights`` written out.

        An expert parallelism of "all" is that of all GPUs of a replica (of FFNs', where those are apart), a dense
        parallelism of "attention" attention's.

        Raises:
            SpecError: more than anybody would enumerate.
        """
        keys = [key for key in self.keys if key not in (*SETTINGS, POOLS)]
        size = 1
        for key in keys:
            size *= len(self.keys[key])
        if size > MOST:
            raise SpecError(
                f"space: {size:,} layouts; must be at most {MOST:,}: narrow some keys (docs/plan.md)"
            )
        seen = set()
        for values in product(*(self.keys[key] for key in keys)):
            found = dict(zip(keys, values, strict=True))
            group = found[TP] * found[DP]
            if found.get(FFNS):
                found[ATTENTION], group = group, found[FFNS]
            else:
                found = {key: value for key, value in found.items() if not key.startswith(OF_FFNS)}
            found[EP] = group if found[EP] == "all" else found[EP]
            found[DENSE] = found[TP] if found[DENSE] == "attention" else found[DENSE]
            found |= FORMATS[found.pop(WEIGHTS)]
            mark = tuple(sorted((key, str(value)) for key, value in found.items()))
            if mark not in seen:
                seen.add(mark)
                yield found


def default_space(
    model: Model,
    cluster: Cluster,
    engine: str,
    gpus: int,
    *,
    mtp: MtpDeployment,
    quantised: bool,
    tokens: float = 0.0,
) -> Space:
    """What is looked at unless a ``space:`` file says otherwise.

    Args:
        model: what is served.
        cluster: whose GPU and node it is.
        engine: its overlap schedules; empty: all that are modelled.
        gpus: most GPUs of the whole deployment.
        mtp: how often drafts are accepted, without which they gain nothing and are left out, and what drafts.
        quantised: whether the checkpoint's weights are in fewer bits than bf16, to which no engine takes them back.
        tokens: of a mean request; 0: not known.
    """
    gpu, node = cluster.gpu, cluster.node.num_gpus
    link = cluster.node.link_domain_gpus
    powers = [2**i for i in range(gpus.bit_length()) if 2**i <= gpus]
    tensor = [n for n in powers if n <= max(1, min(gpus, min(link, 16)))]
    sizes = [n for n in powers if n < node] + list(range(node, gpus + 1, node))
    data = sorted({size // tp for size in sizes for tp in tensor if size % tp == 0})
    drafts = range(_most_drafts(mtp) + 1) if (model.mtp or mtp.drafter) and mtp.accepts else (0,)
    formats = [name for name in FORMATS if _has_kernels(FORMATS[name], gpu, engine)]
    if quantised and len(formats) > 1:
        formats.remove("bf16")
    return Space(
        {
            POOLS: POOL_KINDS,
            TP: tuple(tensor),
            DP: tuple(data),
            EP: (1, "all") if model.moe else (1,),
            DENSE: ("attention", 1)
            if any(layer.dense_ffn_size for layer in model.layers)
            else ("attention",),
            WEIGHTS: tuple(formats),
            KV: ("bf16", "fp8") if gpu.fp8_tflops else ("bf16",),
            OVERLAP: tuple(overlaps_of(engine, shortcut=model.has_shortcut)),
            DRAFTS: tuple(drafts),
            **(_divided(model) if tokens >= LONG else {}),
            CHUNK: CHUNKS,
            RUNNING: (None, *RUNNINGS),
            REPLICAS: tuple(range(1, gpus + 1)),
        }
    )


def _divided(model: Model) -> dict[str, Choices]:
    """Whether prompts and caches are divided by tokens, or not: of models whose attention allows it."""
    mixers = [layer.attention for layer in model.layers if layer.attention]
    whole = [one for one in mixers if isinstance(one, Mla | Gqa) and not (one.indexer or one.sliding_window)]
    prompts = all(isinstance(one, Mla | Gqa) for one in mixers)
    caches = whole and all(one in whole or isinstance(one, StateMixer) for one in mixers)
    return {key: (1, MOST_OF) for key, allowed in ((CP, prompts), (DCP, caches)) if allowed}


def _most_drafts(mtp: MtpDeployment) -> int:
    """Draft tokens that are looked at: all whose acceptance was measured."""
    return mtp.drafts_known if mtp.listed else MOST_DRAFTS


def _has_kernels(formats: Mapping[str, str], gpu: Any, engine: str) -> bool:
    """Whether the GPU multiplies in these formats, and the engine has kernels for it there."""
    peaks = {"bf16": gpu.bf16_tflops, "fp8": gpu.fp8_tflops, "fp4": gpu.fp4_tflops}
    if not all(peaks[dtype] for dtype in formats.values()):
        return False
    return not any(
        engine in rule.engines
        and gpu.architecture in rule.architectures
        and set(formats.values()) & set(rule.formats)
        for rule in rules().formats
    )


def narrowed(space: Space, stated: Mapping[str, Any]) -> Space:
    """The space with what a ``space:`` mapping states.

    Raises:
        SpecError: an unknown key, no choice left, or another form.
    """
    keys = dict(space.keys)
    for key, value in stated.items():
        keys[key] = _choices(key, value, keys.get(key))
    return Space(keys)


def read_space(path: Path) -> dict[str, Any]:
    """The mapping of a ``space:`` file: its keys, or those below ``space:``.

    Raises:
        SpecError: no mapping, or a key that no scenario has.
        DataError: a file that can't be read.
    """
    document = read_document(path)
    found = document.get("space", document)
    if not isinstance(found, Mapping) or not found:
        raise SpecError(f"{path}: must be a mapping of key paths to choices, e.g. {TP}: [1, 8]")
    return dict(found)


def _choices(key: str, value: Any, known: Choices | None) -> Choices:
    if key == ATTENTION:
        raise SpecError(f"space: {key} follows from {TP} x {DP}: state those, and {FFNS}")
    if key.startswith(("workload", "slo", "model", "cluster", "seed", "prefill")):
        raise SpecError(f"space: {key} is no choice of a deployment: state it with an option or --set")
    if known is None and not key.startswith(("deployment.", "serving.", "routing.", OF_FFNS)):
        raise SpecError(f"space: {unknown_key(key)}")
    if known is None and key not in key_paths():
        raise SpecError(f"space: {unknown_key(key)}")
    if isinstance(value, Mapping) and value.keys() == {"range"}:
        return _within(key, value["range"], known)
    if isinstance(value, Mapping):
        if value.keys() != {"choices"}:
            raise SpecError(
                f"space: {key} = {shown(value)}: must be a list, {{choices: [..]}} or {{range: [least, most]}}"
            )
        value = value["choices"]
    found = tuple(dict.fromkeys(value if isinstance(value, (list, tuple)) else (value,)))
    if not found:
        raise SpecError(f"space: {key}: has no choices left; give at least one")
    allowed = {POOLS: POOL_KINDS, WEIGHTS: tuple(FORMATS)}.get(key)
    strange = [one for one in found if allowed and one not in allowed]
    if strange:
        raise SpecError(f"space: {key} = {shown(strange[0])}: must be of {', '.join(allowed or ())}")
    least = 0 if key == FFNS else 1
    if key in (TP, DP, PP, CP, DCP, FFNS, CHUNK, REPLICAS, RUNNING):
        for one in found:
            if one == MOST_OF and key in (CP, DCP):
                continue
            if not isinstance(one, int) or isinstance(one, bool) or one < least:
                words = f", or {MOST_OF}" if key in (CP, DCP) else ""
                raise SpecError(
                    f"space: {key} = {shown(one)}: must be a whole number of at least {least}{words}"
                )
    return found


def _within(key: str, bounds: Any, known: Choices | None) -> Choices:
    """The default's choices between two bounds, else powers of two, the bounds among them."""
    if (
        not isinstance(bounds, (list, tuple))
        or len(bounds) != 2
        or not all(type(b) is int and b >= 0 for b in bounds)
    ):
        raise SpecError(f"space: {key}: range = {shown(bounds)}: must be two whole numbers [least, most]")
    low, high = bounds
    inside = [one for one in known or () if isinstance(one, int) and low <= one <= high]
    if not inside and low <= high:
        inside = sorted({low, *(2**i for i in range(40) if low <= 2**i <= high), high})
    if not inside:
        raise SpecError(f"space: {key}: range = [{low}, {high}] holds nothing; give the smaller bound first")
    return tuple(inside)

"""What the kinds of sequence mixers have in common: where one is built, what it weighs and what it keeps of a request.

All counts are of one GPU of an attention group of ``tp``; requests are those of the whole group, of which every GPU
holds its share of the heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from perfmodel.numeric import Num, maximum, where
from perfmodel.ops.build import Inside, gemm, memory_bound, swiglu
from perfmodel.ops.op import Op, OpClass
from perfmodel.ops.work import Group, Work
from perfmodel.spec.deployment import Precision
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.mixers import OutputGate

ATTENTION = OpClass.ATTENTION


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mixer is built."""

    work: Work
    """The step's groups; requests per GPU."""
    tp: int
    """GPUs of its attention group."""
    precision: Precision
    hidden: int
    """Width of the residual stream."""
    prefix: str
    """What its ops' names begin with."""
    indexes: bool = True
    """Whether it selects tokens by an index branch of its own, if it has one; else by the last selection before it."""
    shards: int = 1
    """GPUs of the group among which each request's cache is divided by tokens."""
    exchange: Callable[[str, str, Num, Num], Op] | None = None
    """A collective of those GPUs: its kernel, its name, rows and their width (whole, on every GPU)."""
    rounds: int = 1
    """In which a prompt's queries meet its keys: more than one where ranks pass theirs round in a ring."""
    passed: Callable[[str, Num], Op] | None = None
    """A name, and rows of new and cached keys that go on to the next rank of the ring."""
    all_reduce: Callable[[str, Num, int], Op] | None = None
    """The group's all-reduce of so many rows of a width, for mixers that sum before their end; None: one GPU."""

    @property
    def rows(self) -> Num:
        """New tokens of the whole group."""
        return self.work.tokens * self.tp

    def name(self, part: str) -> str:
        """Of an op."""
        return f"{self.prefix}.{part}"

    def summed(self, part: str, width: int) -> list[Op]:
        """What makes partial sums of ``width`` values per row whole on every GPU of the group."""
        if self.tp == 1 or self.all_reduce is None:
            return []
        return [self.all_reduce(self.name(part), self.rows, width)]


def shard_of(group: Group, place: Place) -> Group:
    """What a decoding group's queries meet of the cache on one of the GPUs that divide it."""
    return replace(group, cached_tokens=group.cached_tokens / place.shards)


def queries_gathered(group: Group, place: Place, width: Num) -> list[Op]:
    """Each GPU's heads' queries, ``width`` elements per token in all of a shard group's heads, go to all its GPUs."""
    if place.shards == 1 or place.exchange is None:
        return []
    return [place.exchange("all_gather", "dcp_gather", group.tokens * place.tp, width)]


def outputs_merged(group: Group, place: Place, heads: Num, width: Num) -> list[Op]:
    """Partial outputs of all the shard group's heads become those of each GPU's own heads: their log-sum-exps are
    gathered (FP32) and outputs reduce-scattered.
    """
    if place.shards == 1 or place.exchange is None:
        return []
    rows = group.tokens * place.tp
    sums = 4.0 / place.precision.activation_bytes * heads * place.shards
    return [
        place.exchange("all_gather", "dcp_gather_lse", rows, sums),
        place.exchange("reduce_scatter", "dcp_merge", rows, heads * width),
    ]


def context_gathered(group: Group, place: Place, width: Num) -> list[Op]:
    """The cached tokens that a prompt attends to, from all GPUs that hold a part of them; none for a fresh prompt."""
    if place.shards == 1 or place.exchange is None or not np.any(np.asarray(group.cached_tokens)):
        return []
    rows = group.requests * place.tp * group.cached_tokens
    return [place.exchange("all_gather", "dcp_context", rows, width)]


def in_rounds(block: Sequence[Op], group: Group, place: Place, width: Num) -> list[Op]:
    """``block``, what meets one rank's keys, once for each rank's: in every round but the last the keys at hand go on
    to the next rank beside it, and behind every one but the first its output, ``width`` values per new token, is added
    to that of the rounds before by their log-sum-exps (two read, one written). Unchanged where no ring is.
    """
    if place.rounds == 1 or place.passed is None:
        return list(block)
    found: list[Op] = []
    rows, dtype = group.tokens * place.tp, place.precision.activations
    merged = {"hbm_bytes": 3.0 * place.precision.activation_bytes * rows * width, "dtype": dtype}
    for turn in range(place.rounds):
        last = turn == place.rounds - 1
        if not last:
            keys = group.requests * place.tp * group.keys_per_request()
            found.append(replace(place.passed(place.name(f"ring{turn}.pass"), keys), beside="starts"))
        own = [replace(op, name=f"{place.prefix}.ring{turn}.{op.name.split('.')[-1]}") for op in block]
        found += [replace(own[0], beside="joins" if last else ""), *own[1:]]
        if turn:
            shape = {"rows": rows, "width": width}
            name = place.name(f"ring{turn}.merge")
            found.append(memory_bound(name, ATTENTION, "add", shape=shape, **merged))  # type: ignore[arg-type]
    return found


@dataclass(frozen=True, slots=True)
class MixerOps:
    """One mixer's ops, in order."""

    pre: tuple[Op, ...]
    """Norm, projections, rotary embedding, cache write or convolution (LongCat's Attn0)."""
    core: tuple[Op, ...]
    """Selection, core or recurrence, and output projection (Attn1)."""


Built = tuple[list[Op], list[Op]]
"""What a kind's builder returns: ``pre`` and ``core`` without the first norm and tensor parallelism's collectives."""


@dataclass(frozen=True, slots=True)
class MixerWeights:
    """Weights of one mixer, by how engines store them."""

    divided: int = 0
    """Matrices divided over the group, in ``precision.linear``."""
    output: int = 0
    """The output projection: divided, in ``precision.output_dtype``."""
    replicated: int = 0
    """Matrices that every GPU has whole, in ``precision.linear``."""
    unquantised: int = 0
    """Divided ones that stay in the activations' format."""
    small: int = 0
    """Those that every GPU has whole, in the activations' format."""
    vectors: int = 0
    """Norms, biases, sinks and decays, which multiply no token; stored with what is divided."""

    @property
    def matrices(self) -> int:
        """Weights that a token is multiplied with."""
        return self.divided + self.output + self.replicated + self.unquantised + self.small

    @property
    def total(self) -> int:
        """All weights."""
        return self.matrices + self.vectors

    def times(self, count: int) -> "MixerWeights":
        """Of so many mixers."""
        return MixerWeights(*(count * getattr(self, part.name) for part in fields(self)))

    def stored_bytes(self, precision: Precision, tp: int) -> float:
        """Bytes on one GPU of ``tp``."""
        linear, output = BYTES_PER_ELEMENT[precision.linear], BYTES_PER_ELEMENT[precision.output_dtype]
        plain = precision.activation_bytes
        shared = (self.divided + self.vectors) * linear + self.output * output + self.unquantised * plain
        return self.replicated * linear + self.small * plain + shared / tp


@dataclass(frozen=True, slots=True)
class Cache:
    """What grows with a request's tokens, on one GPU."""

    bytes_per_token: float
    most_tokens: int | None = None
    """Latest tokens that are kept (a window); None: all."""

    def kept_tokens(self, group: Group) -> Num:
        """Tokens of one request that are kept at the step's end; those of a window that the step still reads."""
        if self.most_tokens is None:
            return group.cached_tokens + group.new_tokens
        return group.keys_per_request(self.most_tokens)


@dataclass(frozen=True, slots=True)
class Kept:
    """What one mixer keeps of a request on one GPU."""

    caches: Sequence[Cache] = field(default=())
    state_bytes: float = 0.0
    """Of one state: whatever the request's length. Where drafts are verified one is kept for each of them, too."""
    fixed_bytes: float = 0.0
    """Of what else is kept once per request."""


def stands_alone(place: Place) -> bool:
    """Whether one measured span of a whole attention may stand for all kernels of a step: a step of one kind of group,
    in decode without drafts, whose projections serve no other tokens, with one number format.
    """
    group, precision = place.work.groups[0], place.precision
    plain = group.kind == "prefill" or bool(np.all(np.asarray(group.new_tokens) == 1.0))
    whole = place.shards == place.rounds == 1 and not np.any(np.asarray(group.others))
    return whole and len(place.work.groups) == 1 and plain and precision.output_dtype == precision.linear


def module_key(place: Place, kernel: str) -> Inside:
    """How ops name the measured span of a whole attention that may hold them: ``kernel`` (empty: none) and the kind of
    the step's group.
    """
    precision = place.precision
    if not kernel or not stands_alone(place):
        return ()
    return ((f"{kernel}_{place.work.groups[0].kind}", precision.linear, precision.kv_cache),)


def inside(ops: Sequence[Op], key: Inside) -> list[Op]:
    """The ops, each with the spans that may hold it."""
    return [replace(op, inside=(*op.inside, *key)) for op in ops] if key else list(ops)


def gate_ops(place: Place, outputs: Num, width: Num) -> Built:
    """A gate of ``outputs`` values per token on an output of ``width``: its projection, and where it is applied.

    Sigmoid and product read two values and write one per element, as the activation between an FFN's projections does.
    """
    if not outputs:
        return [], []
    precision = place.precision
    project = gemm(
        place.name("gate_proj"), ATTENTION, m=place.rows, n=outputs, k=place.hidden, dtype=precision.linear
    )
    return [project], [gate_apply(place, width)]


def gate_apply(place: Place, width: Num) -> Op:
    """The product of an output of ``width`` with its gate."""
    return swiglu(
        place.name("gate"), ATTENTION, tokens=place.rows, width=width, dtype=place.precision.activations
    )


def gate_width(gate: OutputGate, heads: Num, value: int) -> Num:
    """Outputs of a gate's projection for ``heads`` heads of width ``value``."""
    if gate == "none":
        return 0
    return heads if gate == "per-head" else heads * value


def seen_pairs(group: Group, window: int | None, *, chunked: bool = False) -> Num:
    """Query-key pairs per GPU under a causal mask and a window that slides, or is a chunk.

    In chunks of C tokens the query at position i sees i mod C + 1 keys. A decoding request stands anywhere in its
    chunk: beyond the first one it sees the mean, (C + 1) / 2.
    """
    if not chunked or window is None:
        return group.attended_pairs(window)
    if group.kind == "decode":
        return group.tokens * seen_keys(group, window, chunked=True)
    total = group.cached_tokens + group.new_tokens
    return group.requests * (_chunked_pairs(total, window) - _chunked_pairs(group.cached_tokens, window))


def _chunked_pairs(tokens: Num, chunk: int) -> Num:
    """Pairs of the first ``tokens`` tokens of a request."""
    whole = tokens // chunk
    rest = tokens - whole * chunk
    return whole * (chunk * (chunk + 1.0) / 2.0) + rest * (rest + 1.0) / 2.0


def seen_keys(group: Group, window: int | None, *, chunked: bool = False) -> Num:
    """Distinct keys that one request's new tokens read; at least themselves."""
    if chunked and window is not None:
        total = group.cached_tokens + group.new_tokens
        if group.kind == "decode":
            return where(total <= window, total, (window + 1.0) / 2.0)
        first = (group.cached_tokens // window) * window  # of the chunk that the first new token falls in
        return maximum(total - first, group.new_tokens)
    return maximum(group.keys_per_request(window), group.new_tokens)


def selected_keys(group: Group, keys: int) -> Num:
    """Keys that a query attends to, in the mean over a group's queries, where ``keys`` are selected at most."""
    return group.attended_pairs(keys) / maximum(group.tokens, 1e-12)


def entry_pairs(group: Group, ratio: int, most: int | None = None) -> Num:
    """Query-entry pairs per GPU over a cache of one entry per ``ratio`` tokens, of which a query sees those before it
    (in the mean over positions), ``most`` of them at most.
    """
    return group.attended_pairs(None if most is None else most * ratio) / ratio


def entry_keys(group: Group, ratio: int) -> Num:
    """Entries that one request's new tokens read."""
    return group.keys_per_request() / ratio

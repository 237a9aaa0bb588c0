"""A scenario: a model on a cluster in a deployment, at a price. What every command takes."""

import hashlib
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from perfmodel.spec.base import CountOrZero, Positive, Spec, unused
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.faults import Fault
from perfmodel.spec.ffns import Ffns
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.mixers import CompressedAttention, Gqa, Mla, divided_parts
from perfmodel.spec.model import Model, Moe
from perfmodel.spec.power import Power
from perfmodel.spec.prefill import Prefill
from perfmodel.spec.prices import Prices
from perfmodel.spec.routing import Routing, theta_of
from perfmodel.spec.serving import Serving
from perfmodel.spec.slo import Slo
from perfmodel.spec.training import Training
from perfmodel.spec.workload import Workload

PLACES = ("cluster", "calibration", "prices", "power")
"""Sections that prefill replicas, and GPUs of FFNs alone, may have of their own, since they may stand elsewhere."""


class Given(Spec):
    """Times taken from elsewhere instead of being predicted."""

    attention_us: Positive | None = None
    """Time of one whole attention (projections and core), microseconds."""


class Scenario(Spec):
    """Everything that a prediction depends on."""

    later: ClassVar[frozenset[str]] = frozenset({"ffns"})

    name: str = "scenario"
    """Catalogue name or file stem."""
    title: str = ""
    """One line for people."""
    source: str = ""
    """Where the settings come from."""
    model: Model
    """The model."""
    cluster: Cluster
    """The hardware."""
    deployment: Deployment = Deployment()
    """Layout and work of one step."""
    routing: Routing = Routing()
    """Expert activation."""
    prices: Prices
    """What a GPU costs."""
    power: Power | None = None
    """What a GPU draws while kernels run, for ``perfmodel serve``; a file may leave it out: as its architecture's."""
    workload: Workload = Workload()
    """Traffic, for ``perfmodel serve``."""
    serving: Serving = Serving()
    """How replicas batch, for ``perfmodel serve``."""
    prefill: Prefill | None = None
    """Replicas that compute prompts only, for ``perfmodel serve``. None: those of ``deployment`` do both."""
    ffns: Ffns | None = None
    """Other GPUs for FFNs and experts than for attention, where ``deployment.ffn_gpus`` has them apart. None: all are
    of ``cluster``. Prefill replicas are of one kind: ``prefill.cluster``."""
    faults: tuple[Fault, ...] = Field(default=(), max_length=1000)
    """What goes wrong meanwhile, for ``perfmodel serve``."""
    training: Training | None = None
    """A training run, for ``perfmodel train``; ``deployment`` and traffic mean nothing there."""
    slo: Slo = Slo()
    """What a request must keep to count as good."""
    costs: Literal["roofline", "report"] = "roofline"
    """How ops are costed: achievable fractions of the peaks, or as the report's Table 7 counts (fractions of 1)."""
    calibration: str = ""
    """Curves of timed kernels that cost every op they cover: a catalogue name, or the path of a calibration's folder.
    Empty: none. What covers nothing falls back to ``costs``."""
    given: Given = Given()
    """Times taken from elsewhere."""
    seed: CountOrZero = 0
    """Seed of every random stream."""
    notes: tuple[str, ...] = ()
    """What was filled in that a reader should know; nothing depends on it."""

    @model_validator(mode="after")
    def _consistent(self) -> "Scenario":
        problems = (_layout_problem(self), _capability_problem(self), _serving_problem(self))
        for problem in (*problems, training_problem(self)):
            if problem:
                raise ValueError(problem)
        return self

    @property
    def prefill_side(self) -> "Scenario | None":
        """The scenario as its prefill replicas see it."""
        if self.prefill is None:
            return None
        own = self.prefill
        routing = self.routing if own.routing is None else own.routing
        sections = {"deployment": own.deployment, "serving": own.serving, "routing": routing}
        return self.model_copy(update={**sections, "prefill": None, "ffns": None, **_places(own)})

    @property
    def ffn_side(self) -> "Scenario":
        """The scenario as GPUs see it that compute FFNs and experts alone."""
        own = {} if self.ffns is None else {"ffns": None, **_places(self.ffns)}
        return self.model_copy(update={"deployment": self.deployment.ffn_side, **own})

    @property
    def ffn_cluster(self) -> Cluster:
        """Hardware of FFNs and experts: another than attention's where the scenario has one for them."""
        return self.cluster if self.ffns is None or self.ffns.cluster is None else self.ffns.cluster

    @property
    def two_clusters(self) -> bool:
        """Whether attention and FFNs are in two clusters, between which there is no link."""
        return self.ffns is not None and self.ffns.cluster is not None

    @property
    def gpu_names(self) -> str:
        """What computes, in words: ``h800-sxm``, or ``h20-sxm and l40s`` where FFNs are on another."""
        name = self.cluster.gpu.name
        return f"{name} and {self.ffn_cluster.gpu.name}" if self.two_clusters else name

    @property
    def replica_words(self) -> str:
        """A replica's GPUs by kind: ``48 x h800-sxm``, or ``32 x h20-sxm + 16 x l40s``."""
        d, name = self.deployment, self.cluster.gpu.name
        if not self.two_clusters:
            return f"{d.num_gpus:,} x {name}"
        return f"{d.attention_gpus:,} x {name} + {d.ffn_gpus:,} x {self.ffn_cluster.gpu.name}"

    @property
    def drafting(self) -> "Scenario":
        """The scenario as a draft model of its own sees it."""
        drafter = self.deployment.mtp.drafter
        assert drafter is not None, "asked of scenarios with one"
        sections = {
            "model": drafter.model,
            "deployment": self.deployment.drafting,
            "routing": Routing(),
            "prefill": None,
        }
        return self.model_copy(update=sections)

    @property
    def fleet_gpus(self) -> int:
        """GPUs of all replicas, of those that compute prompts too."""
        gpus = self.deployment.num_gpus * self.serving.replicas
        prefill = self.prefill
        return gpus + (prefill.deployment.num_gpus * prefill.serving.replicas if prefill else 0)

    @property
    def gpus_by_cluster(self) -> dict[str, tuple[Cluster, int]]:
        """Name of a cluster -> it, and GPUs of all replicas that are in it."""
        found = {self.cluster.name: (self.cluster, self.cluster_gpus)}
        elsewhere = []
        if self.two_clusters:
            elsewhere.append((self.ffn_cluster, self.deployment.ffn_gpus * self.serving.replicas))
        if self.prefill is not None and self.prefill.cluster is not None:
            gpus = self.prefill.deployment.num_gpus * self.prefill.serving.replicas
            elsewhere.append((self.prefill.cluster, gpus))
        for cluster, gpus in elsewhere:
            found[cluster.name] = (cluster, gpus + found.get(cluster.name, (cluster, 0))[1])
        return found

    @property
    def cluster_gpus(self) -> int:
        """Those of them that are in ``cluster``."""
        elsewhere = self.deployment.ffn_gpus * self.serving.replicas if self.two_clusters else 0
        if self.prefill is not None and self.prefill.cluster is not None:
            elsewhere += self.prefill.deployment.num_gpus * self.prefill.serving.replicas
        return self.fleet_gpus - elsewhere

    @property
    def fleet_usd_per_gpu_hour(self) -> Any:
        """USD per hour of the mean GPU of all replicas; prefill replicas may have a price of their own."""
        prefill, price = self.prefill, self.replica_usd_per_gpu_hour
        if prefill is None or (prefill.prices is None and self.ffns is None):
            return price
        apart = prefill.deployment.num_gpus * prefill.serving.replicas / self.fleet_gpus
        return price + apart * ((prefill.prices or self.prices).usd_per_gpu_hour - price)

    @property
    def replica_usd_per_gpu_hour(self) -> Any:
        """USD per hour of the mean GPU of one replica of ``deployment``; FFNs on GPUs of their own may have a price of
        their own.
        """
        ffns, price = self.ffns, self.prices.usd_per_gpu_hour
        if ffns is None or ffns.prices is None:
            return price
        return price + self.deployment.gpu_share(ffn=True) * (ffns.prices.usd_per_gpu_hour - price)

    @property
    def hash(self) -> str:
        """Identifies what the prediction depends on.

        Name and title are left out, and the places of calibration and trace: their ids stand beside this hash in a
        result.
        """
        prefill = unused(self.prefill) if self.prefill else {}
        left_out: dict[str, Any] = {
            **unused(self),
            "name": True,
            "title": True,
            "source": True,
            "notes": True,
            "calibration": True,
            "workload": {"trace": True, "percentiles": True, **unused(self.workload)},
            "prefill": {"calibration": True, **prefill},
            "ffns": {"calibration": True, **unused(self.ffns)} if self.ffns else True,
        }
        if self.training is None:  # inference has the hash that it had before there was training
            left_out["training"] = True
        text = self.model_dump_json(exclude=left_out)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def mean_real_experts(self) -> float:
        """Real experts per token: the scenario's own figure, its workload's, or the model's."""
        routing, moe = self.routing, self.model.moe
        if routing.activation is not None:
            rows = routing.activation
            return sum(k * probability for row in rows for k, probability in enumerate(row)) / len(rows)
        if routing.layer_means is not None:
            return sum(routing.layer_means) / len(routing.layer_means)
        if routing.mean_real_experts is not None:
            return routing.mean_real_experts
        if moe is None:
            return 0.0
        return moe.real_experts_by_workload.get(routing.workload, moe.mean_real_experts)


def _layout_problem(s: Scenario) -> str | None:
    """What does not divide, or None."""
    d, moe = s.deployment, s.model.moe
    for layer in s.model.layers:
        for what, number in divided_parts(layer.attention) if layer.attention else ():
            if number % d.attention_tp:
                return f"deployment.attention_tp = {d.attention_tp} must divide the model's {number} {what}"
    problem = _context_problem(s)
    if problem:
        return problem
    if moe and (moe.num_experts + d.redundant_experts) % d.ep:
        problem = _uneven_problem(s, moe)
        if problem:
            return problem
    if moe and moe.ffn_size % d.moe_tp:
        return f"deployment.moe_tp = {d.moe_tp} must divide the experts' ffn_size = {moe.ffn_size}"
    if not moe and d.redundant_experts:
        return f"deployment.redundant_experts = {d.redundant_experts}: model {s.model.name} has no experts"
    for layer in s.model.layers:
        if layer.dense_ffn_size % d.dense_tp:
            return f"deployment.dense_tp = {d.dense_tp} must divide the dense FFN's size = {layer.dense_ffn_size}"
    if d.all_to_all == "trtllm-one-sided" and d.ep > s.cluster.node.link_domain_gpus:
        return (
            f"deployment.all_to_all = trtllm-one-sided stays inside one link domain: deployment.ep = {d.ep} exceeds "
            f"cluster.node.link_domain_gpus = {s.cluster.node.link_domain_gpus}"
        )
    if d.pp > s.model.num_layers:
        return f"deployment.pp = {d.pp} exceeds the model's {s.model.num_layers} layers"
    problem = _ffns_problem(s)
    if problem:
        return problem
    available, needed = s.cluster.num_gpus, d.request_gpus if s.two_clusters else d.num_gpus
    if available is not None and needed > available:
        return f"the deployment needs {needed} GPUs, cluster.num_gpus = {available}"
    loads = s.routing.rank_loads
    if loads is not None and len(loads) != d.ep:
        return f"routing.rank_loads has {len(loads)} values, deployment.ep = {d.ep} ranks need one each"
    return None


def _places(own: Prefill | Ffns) -> dict[str, Any]:
    """Where a section that may stand elsewhere does; another GPU's power may be unknown."""
    found = {key: getattr(own, key) for key in PLACES if getattr(own, key) is not None}
    return found if own.cluster is None else {**found, "power": own.power}


def _ffns_problem(s: Scenario) -> str | None:
    """Why FFNs can't stand where ``ffns`` says, or None."""
    if s.ffns is None:
        return None
    d = s.deployment
    if not d.ffn_gpus:
        return (
            "ffns: deployment.ffn_gpus = 0, so all GPUs compute FFNs: leave ffns out, or state "
            "deployment.attention_gpus and deployment.ffn_gpus"
        )
    available = s.ffn_cluster.num_gpus
    if s.two_clusters and available is not None and d.ffn_gpus > available:
        return f"deployment.ffn_gpus = {d.ffn_gpus} exceeds ffns.cluster.num_gpus = {available}"
    return None


def _context_problem(s: Scenario) -> str | None:
    """Why a context can't be divided as stated, or None."""
    d = s.deployment
    if d.context_parallel * d.decode_context_parallel == 1:
        return None
    if s.costs == "report":
        return "costs = report counts no context parallelism: leave it out"
    if d.mtp.drafter and d.mtp.draft_tokens:
        return (
            f"deployment.mtp.drafter = {d.mtp.drafter.kind}: a draft model of its own beside divided contexts "
            "(context_parallel, decode_context_parallel) is not modelled; use 1"
        )
    drafts = [s.model.mtp.layer] if s.model.mtp and d.mtp.draft_tokens else []
    for layer in (*s.model.layers, *drafts):
        mixer = layer.attention
        if mixer is None:
            continue
        if d.context_parallel > 1 and not isinstance(mixer, Mla | Gqa):
            return (
                f"deployment.context_parallel = {d.context_parallel}: {mixer.kind} layers hand states or compressed "
                "entries from token to token, which is not modelled for a divided prompt; use 1"
            )
        if d.passes_keys and (mixer.indexer or mixer.sliding_window):  # type: ignore[union-attr]
            return (
                "deployment.cp_exchange = ring: attention with windows or selection sees no block of keys whole, which "
                "is not modelled; use all-gather"
            )
        if d.decode_context_parallel == 1 or not isinstance(mixer, Mla | Gqa | CompressedAttention):
            continue  # a state is not divided
        size = f"deployment.decode_context_parallel = {d.decode_context_parallel}"
        if isinstance(mixer, CompressedAttention) or mixer.indexer or mixer.sliding_window:
            return (
                f"{size}: attention with windows, selection or compressed entries is not modelled so; use 1"
            )
        if isinstance(mixer, Gqa) and mixer.num_kv_heads * d.decode_context_parallel > d.attention_tp:
            most = max(1, d.attention_tp // mixer.num_kv_heads)
            return (
                f"{size} exceeds the copies of each KV head: attention_tp = {d.attention_tp} over "
                f"{mixer.num_kv_heads} KV heads allows {most}"
            )
    return None


def _uneven_problem(s: Scenario, moe: Moe) -> str | None:
    """Why experts that don't divide over ``ep`` can't lie as stated, or None."""
    d = s.deployment
    if not d.uneven_experts or d.redundant_experts:
        enough = d.redundant_experts + -(moe.num_experts + d.redundant_experts) % d.ep
        return (
            f"deployment.ep = {d.ep} must divide the {moe.num_experts} routed + {d.redundant_experts} redundant "
            f"experts: change deployment.ep or deployment.redundant_experts ({enough} would do)"
        )
    if moe.num_experts < d.ep:
        return (
            f"deployment.ep = {d.ep} exceeds the {moe.num_experts} experts: ranks without any are not placed"
        )
    if d.backend not in ("none", "all-gather", "all-to-all"):
        return (
            f"deployment.all_to_all = {d.backend} needs equally many experts on each rank, deployment.ep = {d.ep} of "
            f"{moe.num_experts} has not: use all-gather, or redundant_experts={-moe.num_experts % d.ep}"
        )
    if s.routing.placement == "eplb":
        return (
            f"routing.placement = eplb needs equally many experts on each rank, deployment.ep = {d.ep} of "
            f"{moe.num_experts} has not: use contiguous, or deployment.redundant_experts={-moe.num_experts % d.ep}"
        )
    return None


def _serving_problem(s: Scenario) -> str | None:
    """What of the replicas does not fit together, or None."""
    side = s.prefill_side
    if side is not None:
        problem = _layout_problem(side) or _capability_problem(side)
        if problem:
            named = problem.startswith(("deployment", "routing"))
            return f"prefill.{problem}" if named else f"prefill: {problem}"
        if side.serving.expert_drift is not None:
            return "prefill.serving.expert_drift: state it in serving.expert_drift, it is the same for all replicas"
    if s.prefill is not None and s.serving.has_tiers:
        return "serving.host_cache, serving.storage_cache: prompts are computed apart: state them in prefill.serving"
    for place, serving in (
        ("serving", s.serving),
        *([("prefill.serving", s.prefill.serving)] if s.prefill else []),
    ):
        if (serving.host_cache_tokens or serving.host_cache_gb) and s.cluster.gpu.host_gb_per_s is None:
            return f"{place}.host_cache needs cluster.gpu.host_gb_per_s, which {s.cluster.gpu.name} does not state"
    if s.serving.expert_drift is not None and not s.routing.popularity:
        return "serving.expert_drift does nothing without routing.popularity: state which experts tokens like"
    for number, fault in enumerate(s.faults):
        if fault.pool == "prefill" and s.prefill is None:
            return f"faults.{number}.pool = prefill: the scenario has no prefill replicas of their own"
        of = s.prefill.serving if fault.pool == "prefill" and s.prefill else s.serving
        if fault.replica >= of.replicas:
            return (
                f"faults.{number}.replica = {fault.replica}: there are {of.replicas} of them, counted from 0"
            )
    down = [fault for fault in s.faults if fault.kind in ("lost-node", "drain")]
    for i, one in enumerate(down):
        for other in down[:i]:
            same = (one.pool, one.replica) == (other.pool, other.replica)
            if same and one.at_s < other.at_s + other.for_s and other.at_s < one.at_s + one.for_s:
                return f"faults: replica {one.replica} is lost or drained twice at {max(one.at_s, other.at_s):g} s"
    return None


def training_problem(s: Scenario) -> str | None:
    """What of a training run the model or the cluster does not take, or None."""
    t, moe = s.training, s.model.moe
    if t is None:
        return None
    for layer in s.model.layers:
        for what, number in divided_parts(layer.attention) if layer.attention else ():
            if number % t.tp:
                return f"training.tp = {t.tp} must divide the model's {number} {what}"
            if t.cp_exchange == "ulysses" and number % (t.cp * t.tp):
                return f"training.cp_exchange = ulysses: cp x tp = {t.cp} x {t.tp} must divide the {number} {what}"
        if layer.dense_ffn_size % t.tp:
            return f"training.tp = {t.tp} must divide the dense FFN's size = {layer.dense_ffn_size}"
    if moe is None and t.ep * t.etp > 1:
        return f"training.ep x etp = {t.ep} x {t.etp}: model {s.model.name} has no experts, leave them out"
    if moe and moe.num_experts % t.ep:
        return f"training.ep = {t.ep} must divide the {moe.num_experts} routed experts"
    if moe and moe.ffn_size % t.etp:
        return f"training.etp = {t.etp} must divide the experts' ffn_size = {moe.ffn_size}"
    if t.mtp and s.model.mtp is None:
        return f"training.mtp = true: model {s.model.name} has no MTP layer"
    if t.moe_overlap != "none" and moe is None:
        return f"training.moe_overlap = {t.moe_overlap}: model {s.model.name} has no experts, use none"
    problem = _format_problem(s, t.precision)
    if problem:
        return problem
    if t.capacity is not None and moe is None:
        return f"training.capacity: model {s.model.name} has no experts, leave it out"
    if t.power_cap_w is not None:
        problem = _power_cap_problem(s, t.power_cap_w)
        if problem:
            return problem
    available = s.cluster.num_gpus
    if available is not None and t.num_gpus > available:
        return f"training: tp x cp x dp x pp = {t.num_gpus} GPUs, cluster.num_gpus = {available}"
    return None


def _format_problem(s: Scenario, precision: str) -> str | None:
    """What the GPU does not multiply, or None. Scales per block of 32 or 16 came with units for FP4."""
    gpu = s.cluster.gpu
    needed = {"fp8": gpu.fp8_tflops, "mxfp8": gpu.fp4_tflops, "nvfp4": gpu.fp4_tflops}
    if needed.get(precision, 1.0) is not None:
        return None
    other = "bf16" if gpu.fp8_tflops is None else "fp8"
    return f"training.precision = {precision}: {gpu.name} does not multiply it; use {other}"


def _power_cap_problem(s: Scenario, cap_w: float) -> str | None:
    """Why nothing is known of clocks under a power cap, or None."""
    gpu = s.cluster.gpu
    known = {"cluster.gpu.tdp_w": gpu.tdp_w, "cluster.gpu.idle_w": gpu.idle_w, "power": s.power}
    missing = [name for name, value in known.items() if value is None]
    if missing:
        return f"training.power_cap_w needs {', '.join(missing)}, not stated for {gpu.name} (docs/power.md)"
    assert gpu.idle_w is not None, "known"
    if cap_w <= gpu.idle_w:
        return f"training.power_cap_w = {cap_w:g}: must be above cluster.gpu.idle_w = {gpu.idle_w:g}"
    return None


def _capability_problem(s: Scenario) -> str | None:
    """What the model or the schedule does not have, or None."""
    d = s.deployment
    if d.overlap in ("sbo", "sbo-engine") and not s.model.has_shortcut:
        return (
            f"deployment.overlap = {d.overlap} needs a shortcut-connected MoE (LongCat); model {s.model.name} has "
            f"none: "
            'use tbo or sequential (SGLang\'s "SBO" for DeepSeek is another overlap, see docs/glossary.md)'
        )
    if d.ffn_gpus:
        odd = any(layer.sandwich_norms or layer.output_convs for layer in s.model.layers)
        if s.model.has_shortcut or s.model.hyper_connections or odd or s.costs == "report":
            what = "costs = report" if s.costs == "report" else f"layers as those of model {s.model.name}"
            return (
                f"deployment.ffn_gpus = {d.ffn_gpus}: not modelled for {what}, use 0 (and attention_gpus = 0)"
            )
    if d.overlap == "tbo-report" and s.costs != "report":
        return (
            "deployment.overlap = tbo-report exists for costs: report alone (the report's Table 7): use tbo"
        )
    if d.mtp.draft_tokens and s.model.mtp is None and d.mtp.drafter is None and s.costs != "report":
        return (
            f"deployment.mtp.draft_tokens = {d.mtp.draft_tokens}: model {s.model.name} has no MTP layer, use 0, or "
            "state what drafts in deployment.mtp.drafter (perfmodel show drafters)"
        )
    if d.mtp.draft_tokens and d.mtp.drafter is not None:
        problem = _layout_problem(s.drafting)
        if problem:
            return f"deployment.mtp.drafter: {problem}"
    top_k = s.model.moe.top_k if s.model.moe else 0
    if s.routing.mean_real_experts is not None and s.routing.mean_real_experts > top_k:
        return (
            f"routing.mean_real_experts = {s.routing.mean_real_experts} exceeds the model's top_k = {top_k}"
        )
    known = s.model.moe.real_experts_by_workload if s.model.moe else {}
    if s.routing.workload and s.routing.workload not in known:
        allowed = ", ".join(sorted(known)) or f"none: nothing is published for {s.model.name}"
        return (
            f"routing.workload = {s.routing.workload}: allowed: {allowed}; or state routing.mean_real_experts"
        )
    problem = _routing_problem(s) or _router_problem(s) or _positions_problem(s)
    if problem:
        return problem
    if d.ranks == "all" and not s.model.moe:
        return f"deployment.ranks = all: model {s.model.name} has no experts, so all ranks are alike"
    return None


def _routing_problem(s: Scenario) -> str | None:
    """What of the routing does not fit the model, or None."""
    routing, moe = s.routing, s.model.moe
    stated = [
        name
        for name in ("activation", "layer_means", "std_real_experts", "histogram")
        if getattr(routing, name) is not None
    ]
    if not moe:
        return f"routing.{stated[0]}: model {s.model.name} has no experts, leave it out" if stated else None
    layers = sum(layer.count for layer in s.model.layers if layer.moe)
    for name, rows in (
        ("activation", routing.activation),
        ("layer_means", routing.layer_means),
        ("histogram", routing.histogram),
    ):
        whole = 1 if name != "layer_means" else layers
        if rows is not None and len(rows) not in (whole, layers):
            return f"routing.{name} has {len(rows)} rows, the model's {layers} MoE layers need one each or one for all"
    for row in routing.activation or ():
        if len(row) != moe.top_k + 1:
            return (
                f"routing.activation has {len(row)} probabilities, the model's top_k = {moe.top_k} needs "
                f"{moe.top_k + 1}: of 0 to {moe.top_k} real experts"
            )
    for row in routing.histogram or ():
        if len(row) != moe.num_experts:
            return f"routing.histogram has {len(row)} values, the model's {moe.num_experts} experts need one each"
        used, needed = sum(value > 0.0 for value in row), _most_real(routing, moe)
        if used < needed:
            return (
                f"routing.histogram has tokens for {used} experts of a layer, a token wakes up to {needed} different "
                "ones: at least so many need tokens"
            )
    means = routing.layer_means or (s.mean_real_experts,)
    single = None if routing.std_real_experts is None else (routing.std_real_experts,)
    stds = routing.layer_stds or single or ()
    for mean in means:
        if mean > moe.top_k * (1.0 + 1e-6):
            name = "layer_means" if routing.layer_means else "mean_real_experts"
            return f"routing.{name} = {mean:g} exceeds the model's top_k = {moe.top_k}"
    for mean, std in zip(means, stds, strict=False):
        try:
            theta_of(moe.top_k, mean, std)
        except ValueError as error:
            return str(error)
    return None


def _router_problem(s: Scenario) -> str | None:
    """What no router of this model can do, or None."""
    moe, loads = s.model.moe, s.routing.rank_loads
    if not moe:
        return None
    held = moe.num_experts // moe.num_groups * moe.top_groups
    if moe.num_groups > 1 and moe.top_k > held:
        return (
            f"model: a token picks num_experts_per_tok = {moe.top_k} experts from topk_group = {moe.top_groups} "
            f"groups, which hold {held}: pick at most so many, or from more groups"
        )
    if not moe.num_zero_experts:
        for name, means in (
            ("mean_real_experts", (s.mean_real_experts,)),
            ("layer_means", s.routing.layer_means or ()),
        ):
            for mean in means:
                if mean < moe.top_k * (1.0 - 1e-6):
                    return (
                        f"routing.{name} = {mean:g} must be {moe.top_k}: model {s.model.name} has no zero-computation "
                        "experts, so every expert that is picked computes"
                    )
    most = _most_load(s, moe)
    for rank, load in enumerate(loads or ()):
        if load > most * (1.0 + 1e-3):
            return (
                f"routing.rank_loads.{rank} = {load:g} is more than any router gives: a rank of "
                f"{_slots(s, moe)} experts gets at most {most:.4g} of the mean load, where every token picks all it can"
            )
    return None


def _slots(s: Scenario, moe: Moe) -> int:
    return int(s.deployment.most_slots(moe.num_experts))


def _most_load(s: Scenario, moe: Moe) -> float:
    """Most of a rank's load over the mean: a token has no more pairs there than the rank has experts, or it picks."""
    picked = s.mean_real_experts
    return min(_slots(s, moe), picked) * s.deployment.ep / picked if picked else float(s.deployment.ep)


def _positions_problem(s: Scenario) -> str | None:
    """A stated context beyond the positions that the model has, or None: a default says nothing of a small model."""
    d, most = s.deployment, s.model.max_context_tokens
    longest = {"context_tokens": d.context_tokens} if "context_tokens" in d.model_fields_set else {}
    if d.phase != "decode":
        longest = {"prefill_tokens": d.prefill_tokens + d.prefill_cached_tokens, **longest}
    longest = {f"deployment.{name}": tokens for name, tokens in longest.items()}
    for name in ("input_tokens", "output_tokens"):
        lengths = getattr(s.workload, name)
        if lengths is not None and lengths.stated:
            longest[f"workload.{name}"] = max(lengths.stated)
    for name, tokens in longest.items():
        if tokens > most:
            return (
                f"{name} = {tokens:g} is beyond the {most:,} positions of model {s.model.name} "
                "(max_position_embeddings): with a rope scaling that reaches further state the model's own, e.g. --set "
                f"model.max_position_embeddings={int(tokens)}"
            )
    return None


def _most_real(routing: Routing, moe: Moe) -> int:
    """Most real experts that a token can wake."""
    if routing.activation is not None:
        return max(k for row in routing.activation for k, probability in enumerate(row) if probability > 0.0)
    return moe.top_k

"""Which experts tokens wake, as far as a user states it."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from perfmodel.spec.base import Fraction, NonNegative, Positive, Spec

FROM_FILES = ("histogram", "activation")
"""Fields that may name a file instead of stating numbers (perfmodel.spec.routing_files)."""
SUM_SLACK = 1e-6
"""Probabilities may miss 1 by this much: numbers are printed with few digits."""


SKEWS = {"power-law": "exponent, 0.6 is mild", "dirichlet": "concentration, below 1 is skewed"}
"""Popularity with a parameter -> what it is."""


MOST_LAYERS = 512
MOST_VALUES = 4096


def _as_rows(value: Any) -> Any:
    """One flat list is one row."""
    flat = (
        isinstance(value, (list, tuple))
        and value
        and not any(isinstance(row, (list, tuple)) for row in value)
    )
    return (value,) if flat else value


Rows = Annotated[
    tuple[Annotated[tuple[NonNegative, ...], Field(max_length=MOST_VALUES)], ...],
    Field(min_length=1, max_length=MOST_LAYERS),
    BeforeValidator(_as_rows),
]
"""One list of numbers per layer; a flat list is one for all layers."""


class Routing(Spec):
    """Which experts tokens wake, as far as a step's time needs it."""

    mean_real_experts: NonNegative | None = None
    """Mean number of real experts per token; None: the workload's, or the model's own (K_e)."""
    workload: str = ""
    """A workload whose mean number of real experts was published for this model (gsm8k, mmlu, ...); empty: none."""
    std_real_experts: NonNegative | None = None
    """Standard deviation of the number of real experts over tokens; None: as published, else a binomial's."""
    layer_means: tuple[NonNegative, ...] | None = Field(default=None, max_length=MOST_LAYERS)
    """Mean number of real experts of each MoE layer, instead of ``mean_real_experts``."""
    layer_stds: tuple[NonNegative, ...] | None = Field(default=None, max_length=MOST_LAYERS)
    """Their standard deviations, beside ``layer_means``."""
    activation: Rows | None = None
    """Probability of 0, 1, .. top_k real experts, measured: one list for all layers or one per MoE layer, or a file
    (perfmodel.spec.routing_files). Its mean is the mean. None: beta-binomial."""
    layer_correlation: Fraction = 0.0
    """Correlation of a token's numbers of real experts in two layers; nothing is published."""
    request_correlation: Fraction = 0.0
    """Correlation of two tokens of one request, in their numbers of real experts and in the ranks that these are on;
    nothing is published."""
    popularity: Literal["", "uniform", "power-law", "dirichlet", "histogram"] = ""
    """Which experts tokens like. Empty: not modelled, the busiest rank's load is ``imbalance``."""
    skew: Positive | None = None
    """Exponent of a power law, or concentration of a Dirichlet distribution (small is skewed)."""
    prior_imbalance: Positive = Field(default=1.0, ge=1.0)
    """Where nothing is known of the router: by how much the busiest rank's load may exceed what ``popularity`` gives,
    one standard deviation of its logarithm (half-normal, in intervals alone). Filled in for such models; 1: it is
    known."""
    histogram: Rows | None = None
    """Measured tokens per routed expert, zero-computation experts left out: one list that every layer takes as it is,
    or one per MoE layer, or a file (perfmodel.spec.routing_files)."""
    source: str = ""
    """Where activation and histogram come from; filled in when they are read from files."""
    placement: Literal["contiguous", "eplb"] = "contiguous"
    """Experts on ranks in order (redundant slots hold the first experts again), or balanced by EPLB."""
    drift: Fraction = 0.0
    """Share of the popularity that has moved to other experts since they were placed."""
    imbalance: Positive | None = Field(default=None, ge=1.0)
    """Load of the busiest expert-parallel rank over what ``popularity`` explains (over the mean, where none is stated).
    None: 1."""
    rank_loads: tuple[NonNegative, ...] | None = Field(default=None, max_length=4096)
    """Load of each expert-parallel rank relative to the mean (their mean is 1), whatever ``popularity`` says; None: as
    it says."""

    @property
    def load_words(self) -> str:
        """Who is busy, for people: ``experts by a power law of 0.42``."""
        if self.rank_loads is not None:
            return "every rank's load as stated"
        words = {
            "": "every rank alike",
            "uniform": "experts used evenly",
            "power-law": f"experts by a power law of {self.skew}",
            "dirichlet": f"experts by a Dirichlet distribution of {self.skew}",
            "histogram": "experts as measured",
        }[self.popularity]
        return words if self.imbalance is None else f"{words}, the busiest rank {self.imbalance:g} times that"

    @property
    def placement_words(self) -> str:
        """Where experts sit, for people."""
        return {"contiguous": "on ranks in order", "eplb": "placed by EPLB"}[self.placement]

    @model_validator(mode="after")
    def _one_activation(self) -> "Routing":
        for layer, row in enumerate(self.activation or ()):
            if abs(sum(row) - 1.0) > SUM_SLACK:
                where = f" of layer {layer}" if len(self.activation or ()) > 1 else ""
                msg = f"activation has probabilities{where} that sum to {sum(row):.6g}, which must be 1"
                raise ValueError(msg)
        for whole, what in (("activation", "the whole distribution"), ("layer_means", "every layer's mean")):
            for name in ("mean_real_experts", "std_real_experts", "workload", "layer_means", "layer_stds"):
                kept = whole == "layer_means" and name in ("layer_means", "layer_stds")
                if getattr(self, whole) is not None and getattr(self, name) not in (None, "") and not kept:
                    msg = f"{whole} is {what}: leave {name} out"
                    raise ValueError(msg)
        if self.layer_stds is not None and len(self.layer_stds) != len(self.layer_means or ()):
            means = len(self.layer_means or ())
            msg = f"layer_stds has {len(self.layer_stds)} values, layer_means {means}: give one each"
            raise ValueError(msg)
        if self.workload and self.mean_real_experts is not None:
            msg = f"workload = {self.workload} states a mean of its own: leave mean_real_experts out"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _one_popularity(self) -> "Routing":
        for name in ("power-law", "dirichlet"):
            if self.popularity == name and self.skew is None:
                msg = f"popularity = {name} needs skew: the {SKEWS[name]}"
                raise ValueError(msg)
        if (self.popularity == "histogram") != (self.histogram is not None):
            msg = "popularity = histogram and histogram (tokens per expert) belong together: state both or neither"
            raise ValueError(msg)
        if self.skew is not None and self.popularity not in SKEWS:
            msg = f"skew = {self.skew:g} belongs to popularity = {' or '.join(SKEWS)}, not {self.popularity or 'none'}"
            raise ValueError(msg)
        if not self.popularity:
            stated = [
                name
                for name, plain in (("placement", "contiguous"), ("drift", 0.0))
                if getattr(self, name) != plain
            ]
            if stated:
                msg = f"{stated[0]} does nothing without popularity: state which experts tokens like"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _loads_average_one(self) -> "Routing":
        if self.rank_loads is not None:
            if not self.rank_loads:
                msg = "rank_loads = [] must have one value per expert-parallel rank"
                raise ValueError(msg)
            mean = sum(self.rank_loads) / len(self.rank_loads)
            if abs(mean - 1.0) > 1e-3:
                msg = f"rank_loads have mean {mean:.4g}, which must be 1: they are relative to the mean load"
                raise ValueError(msg)
        return self


def theta_of(top_k: int, mean: float, std: float) -> float:
    """1 / (a + b) of the beta-binomial of this mean and standard deviation.

    Raises:
        ValueError: narrower than a binomial, or wider than none or all.
    """
    binomial = mean * (1.0 - mean / top_k)
    if binomial == 0.0:  # none or all: nothing spreads
        if std == 0.0:
            return 0.0
        msg = f"routing.std_real_experts = {std:g} must be 0 at a mean of {mean:g} of {top_k}"
        raise ValueError(msg)
    if top_k == 1:  # a coin has one spread
        return 0.0
    rho = (std**2 / binomial - 1.0) / (top_k - 1.0)
    low, high = math.sqrt(binomial), math.sqrt(binomial * top_k)
    if not low * (1.0 - ROUNDING) <= std < high:
        msg = (
            f"routing.std_real_experts = {std:g} must be from {low:.4g} (binomial) to below {high:.4g} (none or all) "
            f"at a mean of {mean:g} of {top_k}; for a narrower distribution state routing.activation"
        )
        raise ValueError(msg)
    rho = max(rho, 0.0)
    return rho / (1.0 - rho)


ROUNDING = 1e-3
"""Relative slack of a stated spread, which is printed with few digits."""

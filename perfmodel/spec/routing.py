"""Which experts tokens wake, as far as a user states it."""

from pydantic import Field, model_validator

from perfmodel.spec.base import NonNegative, Positive, Spec


class Routing(Spec):
    """Which experts tokens wake, as far as a step's time needs it."""

    mean_real_experts: NonNegative | None = None
    """Mean number of real experts per token; None: the model's own (K_e)."""
    imbalance: Positive | None = Field(default=None, ge=1.0)
    """Load of the busiest expert-parallel rank relative to the mean, where ``rank_loads`` is not given. None: the
    engine's fitted constant, 1 without an engine."""
    rank_loads: tuple[NonNegative, ...] | None = Field(default=None, max_length=4096)
    """Load of each expert-parallel rank relative to the mean (their mean is 1); None: balanced."""

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

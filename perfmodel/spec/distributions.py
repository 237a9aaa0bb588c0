"""How long, how many, how often: distributions of token counts, turns and pauses."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from perfmodel.spec.base import NonNegative, Positive, Spec

MOST_VALUES = 100_000
"""Values in one empirical distribution; longer lists belong into a trace."""

FORMS = (
    "a number (fixed), {min, max} (uniform), {mean} (exponential, geometric for counts), {mean, std} (lognormal) "
    "or a list of values (drawn at random); min and max beside a mean cut it off"
)

Kind = Literal["fixed", "uniform", "exponential", "lognormal", "empirical"]


class Distribution(Spec):
    """One of five forms, told apart by which keys are given.

    A plain number is fixed and a plain list is empirical. Ranges are stored as minimum and maximum, both inclusive,
    never as a ratio: ``--random-range-ratio`` means [r L, L] to SGLang and to older vLLM, and [L (1 - r), L (1 + r)] to
    newer vLLM.
    """

    value: NonNegative | None = None
    """Fixed."""
    min: NonNegative | None = None
    """Smallest value, inclusive. Beside a mean: smaller draws become this one."""
    max: NonNegative | None = None
    """Largest value, inclusive. Beside a mean: larger draws become this one, as max_tokens cuts an output
    off, so the mean of what is drawn is a little smaller."""
    mean: Positive | None = None
    """Mean: alone of an exponential distribution (for counts a geometric one, from 1), beside ``std`` of a
    lognormal one."""
    std: NonNegative | None = None
    """Standard deviation of a lognormal distribution."""
    values: Annotated[tuple[NonNegative, ...], Field(min_length=1, max_length=MOST_VALUES)] | None = None
    """Measured values; each is as likely as the others."""

    @model_validator(mode="before")
    @classmethod
    def _from_plain(cls, value: Any) -> Any:
        if isinstance(value, (Mapping, Distribution)):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return {"value": value}
        if isinstance(value, (list, tuple)):
            return {"values": tuple(value)}
        msg = f"must be {FORMS}; is {str(value)[:40]!r}"
        raise ValueError(msg)

    @model_validator(mode="after")
    def _one_form(self) -> "Distribution":
        given = [
            key for key in ("value", "min", "max", "mean", "std", "values") if getattr(self, key) is not None
        ]
        allowed = given in (["value"], ["values"], ["min", "max"]) or "mean" in given
        if not allowed or (len(given) > 1 and {"value", "values"} & set(given)):
            msg = f"has {', '.join(given) or 'no keys'}: give {FORMS}"
            raise ValueError(msg)
        if self.min is not None and self.max is not None and self.min > self.max:
            msg = f"min = {self.min:g} exceeds max = {self.max:g}"
            raise ValueError(msg)
        if self.mean is not None:
            low, high = self.min or 0.0, self.max if self.max is not None else self.mean
            if not low <= self.mean <= high:
                msg = f"mean = {self.mean:g} must lie between min and max"
                raise ValueError(msg)
        return self

    @property
    def kind(self) -> Kind:
        """Which form this is."""
        if self.value is not None:
            return "fixed"
        if self.values is not None:
            return "empirical"
        if self.mean is None:
            return "uniform"
        return "exponential" if self.std is None else "lognormal"

    @property
    def expected(self) -> float:
        """Mean of what is drawn, cuts at a minimum or maximum beside a mean left out of account."""
        if self.value is not None:
            return self.value
        if self.values is not None:
            return sum(self.values) / len(self.values)
        return self.mean if self.mean is not None else ((self.min or 0.0) + (self.max or 0.0)) / 2.0

    @property
    def stated(self) -> tuple[float, ...]:
        """Every number that is itself a possible draw: the fixed one, the bounds, the measured ones."""
        single = (self.value, self.min, self.max)
        return tuple(value for value in single if value is not None) + (self.values or ())

    def problem(self, low: float, high: float, *, whole: bool) -> str | None:
        """Why draws could leave ``low`` .. ``high`` (or, with ``whole``, not be whole numbers); None if they can't.

        Draws around a mean are cut off at these bounds; what is written down must lie within them.
        """
        kind = "a whole number" if whole else "a number"
        for number in self.stated:
            if not low <= number <= high or (whole and number != int(number)):
                return f"holds {number:g}: each must be {kind} from {low:,g} to {high:,.0f}"
        if self.mean is not None and not low <= self.mean <= high:
            return f"has mean = {self.mean:g}: must be from {low:,g} to {high:,.0f}"
        return None

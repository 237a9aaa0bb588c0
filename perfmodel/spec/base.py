"""The base of every description: frozen, strict about unknown keys, documented by its attributes."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Spec(BaseModel):
    """A frozen description; the string under a field is its documentation.

    Leaves that hold a quantity (batch, context, bandwidth, price, ...) may be replaced by numpy arrays
    with :func:`perfmodel.spec.arrays.with_arrays`: one description then stands for many scenarios, and every
    formula downstream works element by element.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=False,
        allow_inf_nan=False,
        strict=False,
        defer_build=True,
    )


Count = Annotated[int, Field(gt=0, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Bytes = Annotated[int, Field(gt=0, le=10**15)]
Positive = Annotated[float, Field(gt=0, le=1e18)]
NonNegative = Annotated[float, Field(ge=0, le=1e18)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]

"""The base of every description: frozen, strict about keys and kinds of values, documented by its attributes."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class Spec(BaseModel):
    """A frozen description; the string under a field is its documentation.

    A value must be of its field's own kind: true is no number, '128' is text, 0.0 is neither true nor false.

    Leaves that hold a quantity (batch, context, bandwidth, price, ...) may be replaced by numpy arrays
    with :func:`perfmodel.spec.arrays.with_arrays`: one description then stands for many scenarios, and every
    formula downstream works element by element.
    """

    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after scenarios had hashes: a hash leaves them out where they have their default, so that a
    scenario without them keeps its own."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        strict=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _of_its_own_kind(cls, data: Any) -> Any:
        """Refuse what pydantic would convert: whole descriptions can't be strict, because lists stand for tuples."""
        if isinstance(data, Mapping):
            kinds = _kinds(cls)
            problems = [
                InitErrorDetails(type=PydanticCustomError("kind", wrong), loc=(name, *place), input=leaf)
                for name, value in data.items()
                if name in kinds
                for place, leaf, wrong in _wrong(value, kinds[name])
            ]
            if problems:
                raise ValidationError.from_exception_data(cls.__name__, problems)
        return data


def unused(spec: BaseModel) -> dict[str, Any]:
    """The ``later`` fields of a description, and of those in it, that have their default: what a hash leaves out, in
    pydantic's form.
    """
    found: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(spec, Spec) and name in spec.later and _same(value, field.default):
            found[name] = True
        elif isinstance(value, BaseModel) and (inner := unused(value)):
            found[name] = inner
    return found


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


@cache
def _kinds(spec: type[BaseModel]) -> Mapping[str, frozenset[type]]:
    """The kinds of plain values that each field takes, in it or in its lists."""
    return {name: frozenset(_plain(field.annotation)) for name, field in spec.model_fields.items()}


def _plain(annotation: Any) -> Iterator[type]:
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif annotation in (bool, int, float, str):
        yield annotation
    else:
        for one in get_args(annotation):
            yield from _plain(one)


def _wrong(
    value: Any, kinds: frozenset[type], place: tuple[int | str, ...] = ()
) -> Iterator[tuple[Any, Any, str]]:
    """(place, value, what it must be) of plain values of another kind than a field's."""
    if isinstance(value, (list, tuple)):
        for number, one in enumerate(value):
            yield from _wrong(one, kinds, (*place, number))
    elif isinstance(value, Mapping):
        return  # a description of its own, which looks at its own fields
    elif isinstance(value, bool):
        if kinds and bool not in kinds:
            yield place, value, f"must be {_allowed(kinds)}, is true or false"
    elif isinstance(value, (int, float)):
        if kinds and not kinds & {int, float} and str not in kinds:
            yield place, value, f"must be {_allowed(kinds)}, is a number"
    elif isinstance(value, str) and kinds and str not in kinds:
        yield place, value, f"must be {_allowed(kinds)}, is text"


def _allowed(kinds: frozenset[type]) -> str:
    words = {int: "a number", float: "a number", bool: "true or false", str: "text"}
    return " or ".join(dict.fromkeys(words[kind] for kind in (int, float, bool, str) if kind in kinds))


Count = Annotated[int, Field(gt=0, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Bytes = Annotated[int, Field(gt=0, le=10**15)]
Positive = Annotated[float, Field(gt=0, le=1e18)]
NonNegative = Annotated[float, Field(ge=0, le=1e18)]
Speed = Annotated[float, Field(ge=1e-6, le=1e18)]
"""Of hardware, in GB/s or TFLOP/s: below a kilobyte or a megaflop a second there is none, and times are no numbers."""
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]

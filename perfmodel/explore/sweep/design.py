"""Which points a sweep has: domains of key paths, and a design over them.

A domain is written after a key path:

    deployment.batch_per_gpu=1:256:log          1, 2, 4, .. 256 (log:N: N points with equal ratios)
    deployment.batch_per_gpu=16:64:16           from 16 to 64 in steps of 16
    deployment.mtp.acceptance=0.5:0.9:n5        five points, evenly spaced
    deployment.ep=8,16,32                       a list
    routing.rank_loads=[[1.0],[1.2]]            a list of values that are lists themselves

``grid`` is every combination; ``lhs`` (Latin hypercube [McKay, Beckman and Conover 1979]) and ``sobol`` place a number
of points: in a range of two ends anywhere between them, log-spaced where it says so, in a list on one of its values.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from perfmodel.errors import SpecError
from perfmodel.sobol import MOST_POINTS as MOST_POINTS_HERE
from perfmodel.sobol import most_dimensions, sobol
from perfmodel.spec.documents import parse_yaml
from perfmodel.spec.keys import key_paths, unknown_key
from perfmodel.spec.messages import shown
from perfmodel.spec.number_list import plain_number

Design = Literal["grid", "lhs", "sobol"]
MOST_POINTS = 10_000_000
MOST_VALUES = 100_000
SMALLEST, LARGEST = 1e-18, 1e18
"""Ends of a range: beyond them ratios and steps are no numbers."""
MOST_SEED = 2**63 - 1
LABELS = ("name", "title", "source", "notes", "base", "cluster.name", "prices.name", "power.name")
"""Keys that can't be varied."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What one key may be."""

    key: str
    values: tuple[Any, ...]
    """As a grid has them."""
    bounds: tuple[float, float] | None = None
    """Ends of a range, between which a design of points may place any value."""
    log: bool = False
    whole: bool = False
    """Whether both ends are whole numbers, and so is what lies between."""

    def at(self, share: float) -> Any:
        """The value at a share (0 to 1) of the way."""
        if self.bounds is None:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        low, high = self.bounds
        value = low * (high / low) ** share if self.log else low + share * (high - low)
        return round(value) if self.whole else float(f"{value:.12g}")


def domain_of(text: str) -> Domain:
    """The domain of ``KEY=DOMAIN``.

    Raises:
        SpecError: another form, an unknown key, or no value.
    """
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals or not key or not raw:
        raise SpecError(f"--over {text!r}: must be KEY=DOMAIN, e.g. deployment.batch_per_gpu=1:256:log")
    known = key_paths()
    if key not in known and not key.startswith("model."):
        raise SpecError(f"--over {unknown_key(key)}")
    if key in LABELS or key.endswith(".source"):
        raise SpecError(f"--over {key}: is a label, on which no figure depends: vary another key")
    if ":" in raw and not raw.startswith(("[", "{")) and "," not in raw:
        return _range(key, raw)
    document = parse_yaml(f"[{raw}]" if not _is_list(raw) else raw, f"--over {key}")
    values = tuple(document)
    if not values:
        raise SpecError(f"--over {key}: has no values")
    if len(values) > MOST_VALUES:
        raise SpecError(f"--over {key}: has {len(values):,} values; must be at most {MOST_VALUES:,}")
    for value in values:
        if type(value) is int and abs(value) > LARGEST:
            raise SpecError(f"--over {key} = {shown(value)}: a number must be at most {LARGEST:g}")
    return Domain(key, values)


def _is_list(raw: str) -> bool:
    """Whether brackets hold all of it: a list of values, not one value that is a list among others."""
    if not (raw.startswith("[") and raw.endswith("]")):
        return False
    depth = 0
    for place, character in enumerate(raw):
        depth += (character == "[") - (character == "]")
        if depth == 0 and place < len(raw) - 1:
            return False
    return True


def _range(key: str, raw: str) -> Domain:
    parts = raw.split(":")
    try:
        low, high = (plain_number(part) for part in parts[:2])
    except ValueError:
        raise SpecError(f"--over {key} = {shown(raw)}: a range has two numbers, e.g. 1:256:log") from None
    if not all(one == 0.0 or SMALLEST <= abs(one) <= LARGEST for one in (low, high)):
        raise SpecError(f"--over {key} = {shown(raw)}: ends must be 0, or from {SMALLEST:g} to {LARGEST:g}")
    if high < low or len(parts) > 4:
        raise SpecError(f"--over {key} = {raw}: must be LEAST:MOST, LEAST:MOST:STEP, :nN, :log or :log:N")
    whole = all("." not in part and "e" not in part.lower() for part in parts[:2])
    rule = parts[2] if len(parts) > 2 else "1" if whole else "n5"
    if rule == "log":
        if low <= 0.0:
            raise SpecError(f"--over {key} = {raw}: log needs a least value above 0")
        count = (
            _count(key, raw, parts[3]) if len(parts) == 4 else 1 + math.floor(math.log2(high / low) + 1e-9)
        )
        doubled = np.append(low * 2.0 ** np.arange(count), high)
        found = np.geomspace(low, high, count) if len(parts) == 4 else doubled
        return Domain(key, _numbers(found, whole), (low, high), log=True, whole=whole)
    if len(parts) == 4:
        raise SpecError(f"--over {key} = {raw}: only log takes a number of points there")
    if rule.startswith("n"):
        found = np.linspace(low, high, _count(key, raw, rule[1:]))
        return Domain(key, _numbers(found, whole), (low, high), whole=whole)
    try:
        step = plain_number(rule)
    except ValueError:
        raise SpecError(f"--over {key} = {raw}: {rule} is no step, no nN and not log") from None
    if not 0.0 < step <= LARGEST or (high - low) / step > MOST_VALUES:
        raise SpecError(f"--over {key} = {raw}: the step must be above 0, for at most {MOST_VALUES:,} values")
    found = low + step * np.arange(math.floor((high - low) / step + 1e-9) + 1)
    return Domain(key, _numbers(found, whole and step.is_integer()), (low, high), whole=whole)


def _count(key: str, raw: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_VALUES:
        raise SpecError(
            f"--over {key} = {raw}: {shown(text)} must be a number of points, 1 to {MOST_VALUES:,}"
        )
    return int(text)


def _numbers(found: Any, whole: bool) -> tuple[Any, ...]:
    values = [round(float(value)) if whole else float(f"{float(value):.12g}") for value in found]
    return tuple(dict.fromkeys(values))


@dataclass(frozen=True)
class Plan:
    """All points of a sweep, in order; a point is known by its number alone."""

    domains: tuple[Domain, ...]
    design: Design
    points: int
    seed: int

    def values(self, numbers: range | None = None) -> list[dict[str, Any]]:
        """Key -> value of the points of these numbers (None: of all)."""
        numbers = range(self.points) if numbers is None else numbers
        keys = [domain.key for domain in self.domains]
        if self.design == "grid":
            sizes = [len(domain.values) for domain in self.domains]
            places = np.unravel_index(np.asarray(numbers, np.int64), sizes)
            columns = [
                [domain.values[i] for i in own.tolist()]
                for domain, own in zip(self.domains, places, strict=True)
            ]
        else:
            shares = self._shares[numbers.start : numbers.stop : numbers.step]
            columns = [
                [domain.at(share) for share in own.tolist()]
                for domain, own in zip(self.domains, shares.T, strict=True)
            ]
        return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]

    @cached_property
    def _shares(self) -> Any:
        if self.design == "sobol":
            return _sobol(len(self.domains), self.points, self.seed)
        rng = np.random.default_rng(self.seed)
        columns = [
            (rng.permutation(self.points) + rng.random(self.points)) / self.points for _ in self.domains
        ]
        return np.stack(columns, axis=1)


def _sobol(dimensions: int, points: int, seed: int) -> Any:
    """Points of Sobol's sequence (points, dimensions): the same from either source."""
    if points <= MOST_POINTS_HERE and dimensions <= most_dimensions():
        return sobol(dimensions, points, seed=seed)
    from scipy.stats.qmc import Sobol  # takes a second to import

    return Sobol(dimensions, scramble=True, rng=seed).random(points)


def plan_of(over: Iterable[str], *, design: str = "grid", points: int | None = None, seed: int = 0) -> Plan:
    """The points that options state.

    Raises:
        SpecError: no domain, a key twice, an unknown design, or more points than anybody waits for.
    """
    domains = tuple(domain_of(text) for text in over)
    if not domains:
        raise SpecError("--over: give at least one KEY=DOMAIN, e.g. deployment.batch_per_gpu=1:256:log")
    keys = [domain.key for domain in domains]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise SpecError(f"--over {twice[0]}: stated twice")
    if design not in get_args(Design):
        raise SpecError(f"--design {design}: must be one of {', '.join(get_args(Design))}")
    if design == "grid":
        if points is not None:
            raise SpecError("--points: a grid has the points of its domains; give --design lhs or sobol")
        count = math.prod(len(domain.values) for domain in domains)
    else:
        if points is None:
            raise SpecError(f"--design {design}: give --points N, too")
        count = points
    if not 0 <= seed <= MOST_SEED:
        raise SpecError(f"--seed {shown(seed)}: must be a whole number from 0")
    if not 1 <= count <= MOST_POINTS:
        raise SpecError(f"--over: {count:,} points; must be from 1 to {MOST_POINTS:,}")
    if design == "sobol" and count & (count - 1):
        raise SpecError(f"--points {count}: Sobol's sequence is even for powers of two alone, e.g. 64")
    return Plan(domains, design, count, seed)  # type: ignore[arg-type]


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """A point as ``key=value`` of ``--set``."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]

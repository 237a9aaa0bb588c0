"""Which experts tokens like.

A popularity is an array (num_experts,) of shares that sum to one: expert i gets share p_i of all
(token, expert) pairs of one layer. Power laws and Dirichlet draws are assumptions about a router; only
:func:`from_histogram` holds measured counts. The same seed gives the same array on every machine, and the
functions draw from separate streams, so one seed serves a whole scenario.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import DataError

# Never 0: numpy's seeds are padded with zeros, so [seed, 0] would be the plain seed's stream.
DIRICHLET_STREAM = 1
ORDER_STREAM = 2
DRIFT_STREAM = 3


def power_law(num_experts: int, exponent: float) -> NDArray[np.float64]:
    """Shares proportional to (i + 1)^-exponent, most popular first; exponent 0 is uniform.

    Raises:
        DataError: no experts, or an exponent that is negative or not finite.
    """
    _check_experts(num_experts)
    if not (math.isfinite(exponent) and exponent >= 0):
        raise DataError(f"exponent is {exponent}: give a finite number, 0 (uniform) or above")
    weights = np.arange(1, num_experts + 1, dtype=np.float64) ** -float(exponent)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def dirichlet(num_experts: int, concentration: float, seed: int) -> NDArray[np.float64]:
    """One draw from a symmetric Dirichlet: small concentrations are skewed, large ones nearly uniform.

    A share has mean 1 / N and squared coefficient of variation (N - 1) / (N x concentration + 1).

    Raises:
        DataError: no experts, a concentration that is not positive and finite, or a negative seed.
    """
    _check_experts(num_experts)
    if not (math.isfinite(concentration) and concentration > 0):
        raise DataError(f"concentration is {concentration}: give a finite number above 0")
    return _generator(seed, DIRICHLET_STREAM).dirichlet(np.full(num_experts, float(concentration)))


def shuffled(popularity: NDArray[np.float64], seed: int, layer: int = 0) -> NDArray[np.float64]:
    """The same shares with experts in random order, so that popular ones lie anywhere; one order per layer.

    Raises:
        DataError: a negative seed or layer.
    """
    return _generator(seed, ORDER_STREAM, layer=layer).permutation(popularity)


def from_histogram(counts: Sequence[float] | NDArray[np.float64], num_experts: int) -> NDArray[np.float64]:
    """Shares from counts of tokens per expert (any unit), in the order of the counts.

    Raises:
        DataError: not one count per expert, a negative or non-finite count, or no count above zero.
    """
    _check_experts(num_experts)
    weights = as_weights(counts, num_experts, "the expert histogram")
    largest = weights.max()
    if largest == 0:
        raise DataError("the expert histogram is all zero: at least one expert needs a count above 0")
    weights = weights / largest  # the sum of very large counts would overflow
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def drifted(popularity: NDArray[np.float64], share: float, seed: int, step: int = 1) -> NDArray[np.float64]:
    """What becomes of a popularity: (1 - share) of the old plus ``share`` of the same values in another order.

    Both parts sum to the same, so the result sums to one if ``popularity`` does. A mixture is flatter than
    its parts: drift the same popularity with steps 1, 2, .. for a series that stays as skewed throughout; a
    result that is drifted again and again tends to uniform.

    Raises:
        DataError: a share outside 0 .. 1, or a negative seed or step.
    """
    if not 0 <= share <= 1:
        raise DataError(f"share is {share}: give a number from 0 (nothing drifts) to 1 (everything does)")
    other = _generator(seed, DRIFT_STREAM, step=step).permutation(popularity)
    return (1.0 - share) * popularity + share * other


def as_weights(values: ArrayLike, num_experts: int, name: str) -> NDArray[np.float64]:
    """``values`` as an array (num_experts,) of finite numbers that are not negative; ``name`` is for messages.

    Raises:
        DataError: they are something else.
    """
    try:
        weights = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} holds something that is not a number: give one number per expert") from error
    if weights.ndim != 1:
        raise DataError(f"{name} has {weights.ndim} dimensions: give one plain list of {num_experts} numbers")
    if len(weights) != num_experts:
        raise DataError(f"{name} has {len(weights)} values for {num_experts} experts: give one per expert")
    for expert in np.flatnonzero(~(np.isfinite(weights) & (weights >= 0))):
        value = float(weights[expert])
        raise DataError(f"{name} has {value} for expert {expert}: give finite numbers, 0 or above")
    return weights


def _check_experts(num_experts: int) -> None:
    """A popularity needs at least one expert."""
    if num_experts < 1:
        raise DataError(f"num_experts is {num_experts}: give 1 or more")


def _generator(seed: int, stream: int, **index: int) -> np.random.Generator:
    """Random numbers of one stream, and of one layer or step in it."""
    for name, value in (("seed", seed), *index.items()):
        if value < 0:
            raise DataError(f"{name} is {value}: give a whole number, 0 or above")
    return np.random.default_rng([seed, stream, *index.values()])

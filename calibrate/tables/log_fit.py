"""Robust least squares on the logarithm of predicted over measured time."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perfmodel.numeric import comparable

Array: TypeAlias = NDArray[np.float64]

F_SCALE = 0.2
"""Residuals beyond about 20 % weigh linearly, not quadratically (soft L1): a few untuned shapes must not move
a fit."""


def fit_log(
    predict: Callable[[Array], Array],
    measured_s: Array,
    starts: Sequence[Sequence[float]],
    bounds: Sequence[tuple[float, float]],
) -> tuple[Array, Array]:
    """Parameters that minimise soft-L1 of log(predict(p) / measured), and the log residuals at them.

    Parameters are positive and searched in logarithms, from several starts because the model has a maximum in
    it.
    """
    from scipy.optimize import least_squares  # deferred: slow to import, and only fits need it

    low, high = np.log(np.array(bounds).T)

    def residuals(log_parameters: Array) -> Array:
        return np.log(predict(np.exp(log_parameters)) / measured_s)

    results = [
        least_squares(
            residuals,
            np.clip(np.log(np.array(start)), low + 1e-6, high - 1e-6),
            bounds=(low, high),
            loss="soft_l1",
            f_scale=F_SCALE,
            xtol=1e-12,
            ftol=1e-12,
            gtol=1e-12,
        )
        for start in starts
    ]
    best = min(results, key=lambda result: comparable(float(result.cost)))
    return np.exp(best.x), residuals(best.x)


def root_mean_square(residuals: Array) -> float:
    """Spread of log residuals, outliers and bias included."""
    return float(np.sqrt(np.mean(residuals**2)))


def significant(value: float, digits: int = 4) -> str:
    """A number as it is stored: four significant digits."""
    return f"{value:.{digits}g}"

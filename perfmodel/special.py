"""The few special functions that every step needs, so that none of them waits for scipy (half a second of imports).

All are element-wise in numpy, in double precision; tests hold them to scipy's.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SQRT_HALF = math.sqrt(0.5)
SQRT_TWO_PI = 2.50662827463100050242
CENTRE = 0.13533528323661269189
"""exp(-2): between this and 1 - this the quantile is a rational function of the distance from a half."""
LEAST = 1e-13
"""Least probability (and distance from 1) whose normal quantile is asked for."""
STIRLING_FROM = 13.0
HALF_LOG_TWO_PI = 0.91893853320467274178
FARTHEST = 11.3
"""Normal deviates beyond this are taken at it: the probability there is 6e-30."""

# Rational approximations of S. L. Moshier's Cephes library (netlib.org/cephes), highest power first.
STIRLING = (
    8.11614167470508450300e-4, -5.95061904284301438324e-4, 7.93650340457716943945e-4,
    -2.77777777730099687205e-3, 8.33333333333331927722e-2,
)  # fmt: skip
STIRLING_FAR = (7.9365079365079365079365e-4, -2.7777777777777777777778e-3, 0.0833333333333333333333)
ERF = (
    9.60497373987051638749, 90.0260197203842689217, 2232.00534594684319226, 7003.32514112805075473,
    55592.3013010394962768,
)  # fmt: skip
ERF_OVER = (
    1.0, 33.5617141647503099647, 521.357949780152679795, 4594.32382970980127987, 22629.0000613890934246,
    49267.3942608635921086,
)  # fmt: skip
ERFC = (
    2.46196981473530512524e-10, 0.564189564831068821977, 7.46321056442269912687, 48.6371970985681366614,
    196.520832956077098242, 526.445194995477358631, 934.528527171957607540, 1027.55188689515710272,
    557.535335369399327526,
)  # fmt: skip
ERFC_OVER = (
    1.0, 13.2281951154744992508, 86.7072140885989742329, 354.937778887819891062, 975.708501743205489753,
    1823.90916687909736289, 2246.33760818710981792, 1656.66309194161350182, 557.535340817727675546,
)  # fmt: skip
QUANTILE = (
    -59.9633501014107895267, 98.0010754185999661536, -56.6762857469070293439, 13.9312609387279679503,
    -1.23916583867381258016,
)  # fmt: skip
QUANTILE_OVER = (
    1.0, 1.95448858338141759834, 4.67627912898881538453, 86.3602421390890590575, -225.462687854119370527,
    200.260212380060660359, -82.0372256168333339912, 15.9056225126211695515, -1.18331621121330003142,
)  # fmt: skip
TAIL = (
    4.05544892305962419923, 31.5251094599893866154, 57.1628192246421288162, 44.0805073893200834700,
    14.6849561928858024014, 2.18663306850790267539, -0.140256079171354495875, -0.0350424626827848203418,
    -8.57456785154685413611e-4,
)  # fmt: skip
TAIL_OVER = (
    1.0, 15.7799883256466749731, 45.3907635128879210584, 41.3172038254672030440, 15.0425385692907503408,
    2.50464946208309415979, -0.142182922854787788574, -0.0380806407691578277194, -9.33259480895457427372e-4,
)  # fmt: skip


def log_gamma(x: npt.ArrayLike) -> Floats:
    """Logarithm of the gamma function of numbers above 0: Stirling's series from 13 on, else the C library's."""
    values = np.asarray(x, dtype=np.float64)
    large = np.maximum(values, STIRLING_FROM)
    square = 1.0 / (large * large)
    series = np.where(large >= 1000.0, _polynomial(STIRLING_FAR, square), _polynomial(STIRLING, square))
    result: Floats = np.asarray((large - 0.5) * np.log(large) - large + HALF_LOG_TWO_PI + series / large)
    small = values < STIRLING_FROM
    if small.any():
        result[small] = [_log_gamma_below(value) for value in values[small].tolist()]
    return result


def _log_gamma_below(x: float) -> float:
    """Of a small number: of a whole one the logarithm of its factorial, which is exact."""
    return math.log(math.factorial(int(x) - 1)) if x >= 1.0 and x.is_integer() else math.lgamma(x)


def normal_cdf(z: npt.ArrayLike) -> Floats:
    """P(standard normal <= z); below -11.3 as there (6e-30)."""
    x = np.clip(np.asarray(z, dtype=np.float64), -FARTHEST, FARTHEST) * SQRT_HALF
    far = np.abs(x)
    result = np.empty_like(x)
    near = far < SQRT_HALF  # each form is worked out where it is used: an eighth of the elements of most
    own = x[near]
    square = own * own
    result[near] = 0.5 + 0.5 * (own * _polynomial(ERF, square) / _polynomial(ERF_OVER, square))
    away = ~near
    own, signed = far[away], x[away]
    square = own * own
    tail = 0.5 * (np.exp(-square) * _polynomial(ERFC, own) / _polynomial(ERFC_OVER, own))
    # below a half from the middle; the tail's form is good from one on, and the other's up to there
    middle = own < 1.0
    own, square = own[middle], square[middle]
    tail[middle] = 0.5 - 0.5 * (own * _polynomial(ERF, square) / _polynomial(ERF_OVER, square))
    result[away] = np.where(signed > 0.0, 1.0 - tail, tail)
    return result


def normal_quantile(probability: npt.ArrayLike) -> Floats:
    """The standard normal deviate of a probability from 1e-13 to 1 - 1e-13; those beyond are taken there."""
    p = np.clip(np.asarray(probability, dtype=np.float64), LEAST, 1.0 - LEAST)
    upper = p > 1.0 - CENTRE
    y = np.where(upper, 1.0 - p, p)
    centred = y - 0.5
    square = centred * centred
    inner = SQRT_TWO_PI * (
        centred + centred * (square * _polynomial(QUANTILE, square) / _polynomial(QUANTILE_OVER, square))
    )
    x = np.sqrt(-2.0 * np.log(np.minimum(y, CENTRE)))
    z = 1.0 / x
    tail = (x - np.log(x) / x) - z * _polynomial(TAIL, z) / _polynomial(TAIL_OVER, z)
    return np.where(y > CENTRE, inner, np.where(upper, tail, -tail))


def poisson(most: int, means: npt.ArrayLike) -> tuple[Floats, Floats]:
    """P(Poisson load = m) and P(<= m) for m = 0 .. ``most`` (rows) and each of ``means`` (columns; up to 700, where
    exp(-mean) is still a number): each probability is the one before times mean / m, and these are summed.
    """
    mean = np.asarray(means, dtype=np.float64)
    exactly, upto = np.empty((most + 1, len(mean))), np.empty((most + 1, len(mean)))
    exactly[0] = upto[0] = np.exp(-mean)
    for m in range(1, most + 1):  # row by row: numpy's own sums along an axis take three times as long
        np.multiply(exactly[m - 1], mean / m, out=exactly[m])
        np.add(upto[m - 1], exactly[m], out=upto[m])
    return exactly, np.minimum(upto, 1.0)


def quantiles(values: npt.ArrayLike, shares: Sequence[float]) -> tuple[float, ...]:
    """Quantiles of some numbers, linear between them: ``numpy.quantile``'s default to the last digit, which would
    import numpy.ma (a fortieth of a step's time).
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=None)
    found = []
    for share in shares:
        place = (len(ordered) - 1) * share
        low = min(int(place), len(ordered) - 1)
        part = place - low
        first, second = float(ordered[low]), float(ordered[min(low + 1, len(ordered) - 1)])
        step = second - first
        found.append(first + step * part if part < 0.5 else second - step * (1.0 - part))
    return tuple(found)


def _polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    """By Horner's scheme, the highest power's coefficient first."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += coefficient
    return total


def spline_slopes(x: Floats) -> Floats:
    """(points, points): times the values at ``x`` (at least four points, increasing) it gives the slopes there of the
    cubic spline through them, not-a-knot at both ends (de Boor, A Practical Guide to Splines, chapter IV).
    """
    count, step = len(x), np.diff(x)
    # of the values: the slopes of the straight lines between them
    straight = np.zeros((count - 1, count))
    each = np.arange(count - 1)
    straight[each, each], straight[each, each + 1] = -1.0 / step, 1.0 / step
    matrix, right = np.zeros((count, count)), np.empty((count, count))
    inside = np.arange(1, count - 1)
    matrix[inside, inside - 1] = step[1:]
    matrix[inside, inside] = 2.0 * (step[:-1] + step[1:])
    matrix[inside, inside + 1] = step[:-1]
    right[1:-1] = 3.0 * (step[1:, None] * straight[:-1] + step[:-1, None] * straight[1:])
    # the third derivative does not jump at the second point, nor at the last but one
    first, last = x[2] - x[0], x[-1] - x[-3]
    matrix[0, :2] = step[1], first
    matrix[-1, -2:] = last, step[-2]
    right[0] = ((step[0] + 2.0 * first) * step[1] * straight[0] + step[0] ** 2 * straight[1]) / first
    right[-1] = (step[-1] ** 2 * straight[-2] + (2.0 * last + step[-1]) * step[-2] * straight[-1]) / last
    return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)

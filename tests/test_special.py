"""Our own special functions, spline and Sobol points against scipy's, which steps no longer import."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline
from scipy.stats import qmc

from perfmodel.sobol import most_dimensions, sobol
from perfmodel.special import log_gamma, normal_cdf, normal_quantile, poisson, quantiles, spline_slopes


@pytest.mark.parametrize("seed", [0, 1, 2026])
@pytest.mark.parametrize("dimensions", [1, 2, 16, 31, 100, 512])
@pytest.mark.parametrize("points", [1, 8, 64])
def test_sobols_points_are_scipys_to_the_bit(dimensions, points, seed):
    theirs = qmc.Sobol(dimensions, scramble=True, rng=seed).random(points)
    assert np.array_equal(sobol(dimensions, points, seed=seed), theirs)


def test_sobol_refuses_more_than_it_has_numbers_for():
    with pytest.raises(ValueError, match="at most 64 points in 512 dimensions"):
        sobol(most_dimensions() + 1, 64, seed=0)
    with pytest.raises(ValueError, match="at most 64 points"):
        sobol(2, 128, seed=0)


def test_more_spreads_than_that_still_have_points():
    from perfmodel.uncertainty import _points

    assert _points(most_dimensions() + 1).shape == (64, most_dimensions() + 1)


def test_normal_probabilities():
    z = np.linspace(-9.0, 11.0, 40_001)
    np.testing.assert_allclose(normal_cdf(z), scipy.special.ndtr(z), rtol=1e-15, atol=0.0)
    assert normal_cdf(np.array([[-np.inf, np.inf]])).tolist() == [[pytest.approx(6.5e-30, rel=0.05), 1.0]]


def test_normal_quantiles():
    p = np.concatenate([np.linspace(1e-6, 1 - 1e-6, 40_001), 10.0 ** -np.linspace(1, 12.9, 500)])
    np.testing.assert_allclose(normal_quantile(p), scipy.special.ndtri(p), rtol=1e-15, atol=1e-16)
    assert normal_quantile(0.5) == 0.0


def test_log_gamma():
    x = np.concatenate([np.arange(1.0, 3000.0), np.linspace(0.01, 20.0, 5000), np.logspace(1, 9, 2000)])
    np.testing.assert_allclose(log_gamma(x), scipy.special.gammaln(x), rtol=2e-15, atol=2e-15)
    assert log_gamma(3.0) == pytest.approx(np.log(2.0), rel=1e-16)
    assert log_gamma(np.ones((2, 3))).tolist() == [[0.0] * 3] * 2


def test_poisson_probabilities():
    """scipy's own are off by up to 1e-13 here (its asymptotic series); ours are sums of what they are made of."""
    means = np.array([1e-6, 0.3, 3.0, 20.0, 50.0, 150.0])
    exactly, ours = poisson(299, means)
    theirs = scipy.special.pdtr(np.arange(300.0)[:, None], means[None, :])
    np.testing.assert_allclose(ours, theirs, rtol=2e-13, atol=0.0)
    few = np.arange(100.0)[:, None]
    density = np.exp(scipy.special.xlogy(few, means) - means - scipy.special.gammaln(few + 1.0))
    np.testing.assert_allclose(exactly[:100], density, rtol=1e-12)
    exact = [
        sum(3.0**k / float(scipy.special.factorial(k)) for k in range(m + 1)) * np.exp(-3.0)
        for m in range(20)
    ]
    np.testing.assert_allclose(ours[:20, 2], exact, rtol=1e-15)


@given(
    st.lists(st.floats(0.01, 5.0), min_size=4, max_size=40),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_slopes_are_those_of_scipys_spline(steps, seed):
    x = np.cumsum(steps)
    y = np.random.default_rng(seed).normal(size=len(x))
    theirs = CubicSpline(x, y)(x, 1)
    np.testing.assert_allclose(spline_slopes(x) @ y, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=80), st.floats(0.0, 1.0))
@settings(deadline=None)
def test_quantiles_are_numpys_to_the_bit(values, share):
    assert quantiles(values, (share, 0.1, 0.99)) == tuple(np.quantile(values, (share, 0.1, 0.99)))

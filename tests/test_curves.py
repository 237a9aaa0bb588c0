"""Curves of time: the language of terms, monotony, fits on timings whose truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.device.curves import FORMS, MIN_ROWS, candidate_terms, fit_curve, fit_terms
from perfmodel.errors import DataError
from perfmodel.kernels.curves import Curve, curve_document, curve_from, evaluate, parse_term

CURVE = {
    "kernel": "gemm",
    "dtype": "fp32",
    "terms": [["1", 2e-6], ["n*k*m[4:16]", 1e-12]],
    "domain": {"m": [1, 64], "n": [8, 512], "k": [8, 512]},
    "log_std": 0.05,
    "rows": 100,
    "leave_out_median_pct": 4.0,
    "leave_out_p90_pct": 9.0,
}


@pytest.mark.parametrize(
    ("term", "value"),
    [
        ("1", 1.0),
        ("n*k", 35.0),
        ("n*k*m[4:16]", 35 * 6.0),
        ("m[16:]", 0.0),
        ("m[2:8]", 6.0),
        ("n*min(m,4*groups)", 5 * 8.0),
        ("min(m,40*groups)", 10.0),
    ],
)
def test_terms_by_hand(term, value):
    shape = {"m": 10.0, "n": 5.0, "k": 7.0, "groups": 2.0}
    assert evaluate([(term, 1.0)], shape) == value
    arrays = {name: np.array([number, number]) for name, number in shape.items()}
    assert np.broadcast_to(evaluate([(term, 3.0)], arrays), 2).tolist() == [3 * value] * 2


@pytest.mark.parametrize(
    "text", ["m-1", "m/n", "m[4]", "__import__('os')", "m[4:16", "max(m,2*n)", "", "m**2", "2"]
)
def test_a_term_of_another_form_is_refused(text):
    with pytest.raises(DataError, match="term"):
        parse_term(text)


@pytest.mark.parametrize(
    "change",
    [
        {"terms": []},
        {"terms": [["1", 0.0]]},
        {"terms": [["1", -1e-6]]},
        {"terms": [["1", float("nan")]]},
        {"terms": [["m*", 1.0]]},
        {"terms": "1"},
        {"domain": {"m": [1]}},
        {"log_std": -1},
        {"rows": 0},
        {"kernel": None, "log_std": "much"},
    ],
)
def test_a_malformed_curve_is_refused(change):
    with pytest.raises(DataError, match=r"curve|term"):
        curve_from(CURVE | change, "file")


def test_a_curve_survives_being_written_and_read():
    curve = curve_from(CURVE, "file")
    assert curve_from(curve_document(curve), "file") == curve
    assert curve.fixed_s == 2e-6


def test_outside_names_the_variable_and_the_range():
    curve = curve_from(CURVE, "file")
    inside = {"m": 64.0, "n": 8.0, "k": 100.0}
    assert curve.outside(inside) == ""
    assert "m = 200 is above the timed 1 to 64" in curve.outside(inside | {"m": 200.0})
    assert "n = 2 is below" in curve.outside(inside | {"n": np.array([8.0, 2.0])})


def fake_gemm(rows, noise=0.0, seed=0):
    """Shapes and times of an invented device: launch, weights, a compute rate that grows with m."""
    random = np.random.default_rng(seed)
    shape = {
        "m": np.round(2 ** random.uniform(0, 10, rows)),
        "n": np.round(2 ** random.uniform(5, 11, rows)),
        "k": np.round(2 ** random.uniform(5, 11, rows)),
    }
    m, n, k = shape.values()
    shape["bytes"] = 4.0 * (n * k + m * k + m * n)
    seconds = 3e-6 + 4 * n * k / 2e10 + 2 * m * n * k / (1e11 * m / (m + 6))
    return shape, seconds * np.exp(noise * random.standard_normal(rows))


def test_a_fit_finds_an_invented_device_on_shapes_it_has_not_seen():
    shape, seconds = fake_gemm(300)
    curve = fit_curve("gemm", "fp32", shape, seconds)
    assert curve.median_error_pct < 1.0
    assert curve.p90_error_pct < 4.0
    unseen, truth = fake_gemm(200, seed=1)
    assert np.median(np.abs(curve.seconds(unseen) / truth - 1)) < 0.01


def test_the_spread_is_the_noise_that_was_put_in():
    shape, seconds = fake_gemm(600, noise=0.1)
    assert fit_curve("gemm", "fp32", shape, seconds).log_std == pytest.approx(0.1, rel=0.2)


def test_outliers_do_not_bend_a_fit():
    shape, seconds = fake_gemm(300)
    hit = np.arange(300) % 12 == 0
    curve = fit_curve("gemm", "fp32", shape, np.where(hit, 5 * seconds, seconds))
    clean = {name: values[~hit] for name, values in shape.items()}
    assert np.median(np.abs(curve.seconds(clean) / seconds[~hit] - 1)) < 0.03


@pytest.mark.parametrize("kernel", sorted(FORMS))
def test_every_form_fits_and_more_work_is_never_faster(kernel):
    """Times that have nothing to do with the shapes: the worst a fit can meet."""
    names = sorted({factor.name for term in FORMS[kernel].terms for factor in parse_term(term)})
    names = sorted({*names, *FORMS[kernel].domain, *FORMS[kernel].cut})
    random = np.random.default_rng(3)
    shape = {name: np.round(2 ** random.uniform(0, 8, 60)) for name in names}
    curve = fit_curve(kernel, "fp32", shape, np.exp(random.normal(-9, 1, 60)))
    for name in names:
        more = shape | {name: shape[name] * random.uniform(1, 4, 60)}
        assert (curve.seconds(more) >= curve.seconds(shape) * (1 - 1e-12)).all(), name


@settings(max_examples=50, deadline=None)
@given(st.tuples(*(st.floats(1, 1e4) for _ in range(3))), st.tuples(*(st.floats(1.0, 3.0) for _ in range(3))))
def test_a_fitted_curve_is_monotone_everywhere(point, growth):
    curve = FITTED

    def shape_of(m, n, k):
        return {"m": m, "n": n, "k": k, "bytes": 4.0 * (n * k + m * k + m * n)}

    shape, more = (
        shape_of(*point),
        shape_of(*(value * factor for value, factor in zip(point, growth, strict=True))),
    )
    assert curve.seconds(more) >= curve.seconds(shape) * (1 - 1e-12)


FITTED: Curve = fit_curve("gemm", "fp32", *fake_gemm(200, noise=0.3))


def test_bad_timings_are_refused():
    shape, seconds = fake_gemm(40)
    with pytest.raises(DataError, match="no form"):
        fit_curve("conv", "fp32", shape, seconds)
    with pytest.raises(DataError, match=f"{MIN_ROWS} are needed"):
        fit_curve("gemm", "fp32", {k: v[:5] for k, v in shape.items()}, seconds[:5])
    with pytest.raises(DataError, match="positive"):
        fit_curve("gemm", "fp32", shape, seconds * 0)


def test_parts_cover_the_range_without_gaps():
    shape, seconds = fake_gemm(100)
    terms = candidate_terms(FORMS["gemm"], shape)
    parts = [(term, 1.0) for term in terms if term.startswith("m[")]
    assert np.allclose(evaluate(parts, shape), shape["m"])
    assert len(fit_terms(terms, shape, seconds)) < len(terms)


def test_a_term_of_a_variable_that_the_class_lacks_is_said():
    curve = curve_from(CURVE | {"terms": [["weight", 1e-6]]}, "file")
    with pytest.raises(DataError, match="a term asks for 'weight'"):
        curve.seconds({"m": 1.0})

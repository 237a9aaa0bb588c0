"""The controller of Eq. 2 over training steps: equal to torch's, and how it converges, recovers and swings."""

import importlib.util
import itertools

import numpy as np
import pytest

from perfmodel.errors import DataError
from perfmodel.routing.controller import ToyRouter, simulate, unevenness, update_bias
from perfmodel.routing.stability import (
    Response,
    linearise,
    onset,
    response,
    settled_at,
    steadiness,
    sweep,
)

SMALL = ToyRouter(num_real=64, num_zero=32, top_k=6, expected_real=4.0)
TOKENS = 512
GAIN = linearise(SMALL).critical_mu / 4
MEAN_NOISE = 4 * 1.2 / TOKENS**0.5
"""Four standard deviations of a batch's mean."""


def test_equal_to_torch_on_random_cases():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("no torch: pip install torch (the CPU build will do)")
    import torch

    from reference_model import training

    rng = np.random.default_rng(5)
    for _ in range(50):
        real, zero = int(rng.integers(1, 600)), int(rng.integers(0, 300))
        top_k = int(rng.integers(1, real + zero + 1))
        tokens = int(rng.integers(1, 5000))
        case = {
            "mu": float(rng.exponential(0.3)),
            "top_k": top_k,
            "expected_real": float(rng.uniform(0, top_k)),
        }
        bias, counts = rng.normal(0, 0.01, real + zero), rng.integers(0, tokens + 1, real)
        theirs = torch.tensor(bias)
        training.update_bias(theirs, torch.tensor(counts), tokens, **case)
        np.testing.assert_allclose(
            update_bias(bias, counts, tokens, **case), theirs.numpy(), rtol=0, atol=1e-12 + 1e-6 * case["mu"]
        )


def test_update_by_hand_leaves_its_input_and_zero_computation_experts():
    bias = np.full(6, 0.25)
    new = update_bias(bias, [2, 1, 1, 0], 2, mu=0.5, top_k=3, expected_real=2)
    assert new == pytest.approx([0.25 - 1 / 12, 0.25, 0.25, 0.25 + 1 / 12, 0.25, 0.25])
    assert (bias == 0.25).all()


def test_choice_is_the_top_k_of_probability_plus_bias():
    router = ToyRouter(num_real=5, num_zero=3, top_k=4, expected_real=2.0, noise=0.7)
    preferences, bias = router.preferences(3), np.linspace(0.1, -0.1, 8)
    chosen = router.choose(np.random.default_rng(1), preferences, bias, 200)
    logits = preferences + 0.7 * np.random.default_rng(1).standard_normal((200, 8), dtype=np.float32)
    keys = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) + bias
    assert (np.sort(chosen, axis=1) == np.sort(np.argsort(-keys, axis=1)[:, :4], axis=1)).all()


@pytest.mark.parametrize("zero_lead", [0.5, -0.5])
def test_it_converges_to_the_wanted_mean_from_both_sides(zero_lead):
    router = ToyRouter(num_real=64, num_zero=32, top_k=6, expected_real=4.0, zero_lead=zero_lead)
    mean = simulate(router, mu=GAIN, steps=150, tokens=TOKENS).mean_real
    assert (mean[0] - 4.0) * zero_lead < -0.4
    assert mean[-50:].mean() == pytest.approx(4.0, abs=0.03)
    assert settled_at(mean, 4.0) is not None
    assert settled_at(mean, 4.0) > 3


def test_it_evens_out_single_experts_and_without_it_nothing_moves():
    on, off = (simulate(SMALL, mu=mu, steps=150, tokens=TOKENS) for mu in (GAIN, 0.0))
    assert unevenness(on.loads[-50:]) < 1.15
    assert unevenness(off.loads[-50:]) > 2.5
    assert settled_at(off.mean_real, 4.0) is None
    assert abs(off.mean_real - off.mean_real.mean()).max() < MEAN_NOISE
    assert off.mean_real.mean() < 3.3
    assert (off.bias_low == 0).all()
    assert (off.bias_high == 0).all()
    assert on.bias_low[-1] < on.bias_high[-1]


def test_the_defaults_are_longcat_flash():
    history = simulate(ToyRouter(), mu=0.6, steps=100, tokens=256)
    assert history.loads.shape == (100, 512)
    assert history.mean_real[0] < 5.5
    assert history.mean_real[-30:].mean() == pytest.approx(8.0, abs=0.1)


def test_it_recovers_after_a_shift_of_the_data():
    shifted = simulate(SMALL, mu=GAIN, steps=240, tokens=TOKENS, shift_at=120, shift_share=0.5)
    still = simulate(SMALL, mu=GAIN, steps=240, tokens=TOKENS)
    assert (shifted.mean_real[:120] == still.mean_real[:120]).all()
    assert shifted.busiest[120] > 2 * still.busiest[120]
    after = response(shifted, 120, 4.0)
    assert abs(after.excursion) > 0.25
    assert after.recovery is not None
    assert 1 <= after.recovery < 60
    assert unevenness(shifted.loads[-50:]) < 1.2
    gone = simulate(SMALL, mu=0.3, decay=0.9, steps=240, tokens=TOKENS, shift_at=120)
    assert unevenness(gone.loads[-50:]) > 1.5  # the gain had decayed to nothing by then


def test_a_shift_redraws_a_share_and_keeps_the_lead_of_zero_computation_experts():
    router = ToyRouter(zero_lead=2.0)
    before = router.preferences(0)
    half, whole = (router.shifted(before, share, 0) for share in (0.5, 1.0))
    assert np.count_nonzero(half != before) == 384
    assert (whole != before).all()
    assert whole[512:].mean() - whole[:512].mean() == pytest.approx(2.0, abs=0.15)
    assert whole.std() == pytest.approx(before.std(), rel=0.1)


def test_too_large_a_gain_swings_and_a_small_one_does_not():
    linear = linearise(SMALL)
    gains = [linear.critical_mu * share for share in (0.25, 0.5, 2.0, 4.0, 16.0)]
    rows = sweep(SMALL, gains, steps=150, tokens=TOKENS)
    assert [row.expert_swings for row in rows] == [False, False, True, True, True]
    assert [row.mean_swings for row in rows][::4] == [False, True]
    for row in rows[:2]:  # sampling noise, and little else
        assert 0.7 < row.std / row.noise < 1.4
        assert row.settled is not None
    assert rows[-1].std > 10 * rows[-1].noise
    assert rows[-1].mean == pytest.approx(4.0, abs=0.3)  # right over time, wrong in every batch
    assert rows[-1].settled is None
    assert (
        gains[1]
        < onset(gains, [row.expert_swings for row in rows])
        <= onset(gains, [row.mean_swings for row in rows])
    )


def test_a_decaying_gain_calms_what_swings():
    gain = 8 * linearise(SMALL).critical_mu
    kept, decayed = (
        steadiness(simulate(SMALL, mu=gain, steps=200, tokens=TOKENS, decay=decay), gain, TOKENS, 4.0)
        for decay in (1.0, 0.96)
    )
    assert kept.mean_swings
    assert not decayed.mean_swings
    assert not decayed.expert_swings
    assert decayed.mean == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_linear_theory_predicts_how_much_each_expert_swings(share):
    """Variance of a load over the binomial one is 2 / (2 - mu d / K): 1.1 to 5 within one run."""
    router = ToyRouter(num_real=256, num_zero=128)
    linear = linearise(router)
    mu = share * linear.critical_mu
    loads = simulate(router, mu=mu, steps=200, tokens=TOKENS).loads[60:]
    q = 8.0 / 256
    measured = loads.var(axis=0) / (TOKENS * q * (1 - q))
    predicted = 2 / (2 - mu * linear.sensitivity / 12)
    order = np.argsort(predicted)
    for start, end in itertools.pairwise((0, 64, 128, 192, 256)):  # quartiles, the calmest first
        group = order[start:end]
        assert measured[group].mean() == pytest.approx(predicted[group].mean(), rel=0.08)
    assert predicted[order[-1]] / predicted[order[0]] > 1.5


def test_linear_theory_knows_the_biases_in_balance():
    router = ToyRouter(num_real=256, num_zero=128)
    linear = linearise(router)
    chosen = router.choose(
        np.random.default_rng(9), router.preferences(0), np.concatenate([linear.bias, np.zeros(128)]), 8000
    )
    assert np.count_nonzero(chosen < 256) / 8000 == pytest.approx(8.0, abs=0.25)
    assert unevenness(np.bincount(chosen.ravel())[:256]) < 1.5
    assert linear.critical_mu == pytest.approx(2 * 12 / linear.sensitivity.max(), rel=0.05)
    assert linear.critical_mu_mean > 5 * linear.critical_mu


def test_the_same_seed_gives_the_same_run():
    first, again, other = (simulate(SMALL, mu=0.3, steps=20, tokens=64, seed=seed) for seed in (4, 4, 5))
    assert (first.loads == again.loads).all()
    assert (first.mean_real == again.mean_real).all()
    assert (first.loads != other.loads).any()


def test_settling_and_response_by_hand():
    mean = np.array([2.0, 4.1, 5.0, 4.2, 3.9])
    assert settled_at(mean, 4.0, 0.25) == 3
    assert settled_at(mean[:3], 4.0, 0.25) is None
    assert settled_at(mean[3:], 4.0, 0.25) == 0
    history = simulate(SMALL, mu=0.3, steps=5, tokens=4)
    history.mean_real[:] = mean
    assert response(history, 1, 4.0, 0.25) == Response(1.0, 2)
    assert onset([1.0, 2.0, 3.0], [True, False, True]) == 3.0
    assert onset([1.0, 2.0], [True, False]) is None
    assert unevenness(np.array([[1, 3], [1, 3]])) == 1.5
    assert unevenness(np.zeros(3, dtype=np.int64)) == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"expected_real": 13.0}, r"expected_real is 13\.0: .* less than 12"),
        ({"expected_real": 12.0}, "less than 12"),
        ({"expected_real": 0.0}, "more than 0"),
        ({"num_zero": 2, "expected_real": 9.0}, "more than 10"),
        ({"num_real": 0}, "num_real is 0: .* 1 or above"),
        ({"num_zero": 0}, "num_zero is 0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 769}, "top_k is 769: give at most the 768"),
        ({"spread": -0.1}, "spread is -0.1"),
        ({"noise": 0.0}, "noise is 0.0"),
        ({"zero_lead": float("inf")}, "zero_lead is inf"),
    ],
)
def test_bad_router(fields, message):
    with pytest.raises(DataError, match=message):
        ToyRouter(**fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mu": -0.1}, "mu is -0.1: .* 0 or above"),
        ({"mu": float("nan")}, "mu is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"tokens": 0}, "tokens is 0"),
        ({"decay": 1.5}, "decay is 1.5"),
        ({"shift_at": 10}, "shift_at is 10: give a step of the run, 0 to 9"),
        ({"shift_at": 1, "shift_share": 2.0}, "shift_share is 2.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_run(arguments, message):
    with pytest.raises(DataError, match=message):
        simulate(SMALL, **{"mu": 0.3, "steps": 10, "tokens": 8, **arguments})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"expected_real": 4.0}, "expected_real is 4.0: give 0 to top_k = 3"),
        ({"mu": -1.0}, "mu is -1.0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"num_tokens": 0}, "num_tokens is 0"),
        ({"tokens": []}, "N >= 1"),
        ({"tokens": [1, 1, 1, 1, 1, 1, 1]}, r"shape \(6,\) and tokens \(7,\)"),
        ({"tokens": [3, 0]}, r"outside 0 \.\. 2"),
        ({"tokens": [-1, 0]}, r"outside 0 \.\. 2"),
    ],
)
def test_bad_update(changed, message):
    case = {"tokens": [2, 1, 1, 0], "num_tokens": 2, "mu": 0.5, "top_k": 3, "expected_real": 2.0, **changed}
    with pytest.raises(DataError, match=message):
        update_bias(np.zeros(6), case.pop("tokens"), case.pop("num_tokens"), **case)


def test_response_outside_the_run():
    with pytest.raises(DataError, match="shift_at is 5"):
        response(simulate(SMALL, mu=0.3, steps=5, tokens=4), 5, 4.0)


def test_the_command_prints_a_curve_and_a_table(capsys, monkeypatch):
    from perfmodel.routing import stability

    arguments = "--experts 32 --zero-experts 16 --top-k 6 --expected-real 4 --steps 40 --tokens 64"
    monkeypatch.setattr("sys.argv", ["controller", *arguments.split()])
    stability.main()
    printed = capsys.readouterr().out
    assert "wanted 4 of 6" in printed
    assert "shift at 20" in printed
    assert "linear bound" in printed
    monkeypatch.setattr("sys.argv", ["controller", "--expected-real", "13"])
    with pytest.raises(SystemExit):
        stability.main()
    assert "expected_real is 13.0" in capsys.readouterr().err

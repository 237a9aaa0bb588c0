"""Bias controller and balance loss against cases worked out by hand, and that they hold the mean in training."""

import math
import statistics

import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch

from reference_model.moe import Routing
from reference_model.training import CONFIG, VOCABULARY, MarkovChain, balance_loss, train, update_bias

torch.set_num_threads(1)
# Two tokens choose 3 of 4 real and 2 zero-computation experts; 2 real ones are wanted.
IDS = torch.tensor([[0, 1, 4], [5, 2, 0]])
PROBABILITIES = torch.tensor([[0.3, 0.2, 0.1, 0.1, 0.2, 0.1], [0.2, 0.2, 0.2, 0.1, 0.1, 0.2]])
TOKENS = torch.tensor([2, 1, 1, 0])


def test_bias_update_by_hand():
    """Wanted: each real expert 1/6 of the choices; found: 2/6, 1/6, 1/6, 0."""
    bias = torch.full((6,), 0.25)
    update_bias(bias, TOKENS, 2, mu=0.5, top_k=3, expected_real=2)
    expected = torch.tensor([0.25 - 1 / 12, 0.25, 0.25, 0.25 + 1 / 12, 0.25, 0.25])
    torch.testing.assert_close(bias, expected)


def test_bias_updates_sum_to_what_the_mean_lacks():
    bias = torch.zeros(6)
    update_bias(bias, torch.tensor([1, 0, 0, 0]), 2, mu=1.0, top_k=3, expected_real=2)
    assert bias.sum().item() == pytest.approx(2 / 3 - 1 / 6)
    assert bias[4:].tolist() == [0, 0]


def test_balance_loss_by_hand():
    """Groups {0, 1}, {2, 3}, {4, 5}: f = 3/2, 1/2, 1 and P = 0.45, 0.25, 0.3."""
    logits = PROBABILITIES.log().requires_grad_()
    loss = balance_loss(Routing(IDS, torch.ones(2, 3), logits), 2, num_real=4, expected_real=2)
    assert loss.item() == pytest.approx(1.5 * 0.45 + 0.5 * 0.25 + 1.0 * 0.3)
    loss.backward()
    # d loss / d logit = p (f - sum f p) / T, as f is held fixed
    factor = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0, 1.0])
    mean = (PROBABILITIES * factor).sum(dim=1, keepdim=True)
    torch.testing.assert_close(logits.grad, PROBABILITIES * (factor - mean) / 2)


def test_balance_loss_is_one_in_balance_and_without_zero_experts():
    ids = torch.tensor([[0, 1], [2, 3]])
    loss = balance_loss(Routing(ids, torch.ones(2, 2), torch.zeros(2, 4)), 2, num_real=4, expected_real=2)
    assert loss.item() == pytest.approx(1.0)


def test_the_language_has_the_entropy_it_claims():
    text = MarkovChain(VOCABULARY, 0).batch(4, 2000)
    pairs = torch.bincount((text[:, :-1] * VOCABULARY + text[:, 1:]).flatten(), minlength=VOCABULARY**2)
    joint = pairs.view(VOCABULARY, VOCABULARY).double()
    assert ((joint > 0).sum(dim=1) <= 4).all()
    conditional = joint / joint.sum(dim=1, keepdim=True).clamp(min=1)  # some tokens follow no other
    entropy = -(joint / joint.sum() * conditional.clamp(min=1e-30).log()).sum()
    assert entropy.item() == pytest.approx(MarkovChain.entropy, rel=0.02)


@pytest.fixture(scope="module")
def controlled():
    return train(steps=60)


def test_the_controller_drives_the_mean_to_the_wanted_and_holds_it(controlled):
    """From under one real expert per token to four of six, while the model learns."""
    wanted = CONFIG.expected_real_experts
    real = [one.mean_real for one in controlled]
    assert wanted == 4
    assert real[0] < 1.2
    assert all(abs(value - wanted) < 0.4 for value in real[-20:])
    assert statistics.mean(real[-20:]) == pytest.approx(wanted, abs=0.15)
    assert controlled[0].loss > math.log(VOCABULARY) - 0.5
    assert controlled[-1].loss < MarkovChain.entropy + 0.4


def test_it_balances_single_experts_too(controlled):
    """The router soon prefers some experts; the controller undoes most of it."""
    imbalance = [one.imbalance for one in controlled]
    assert statistics.mean(imbalance[-10:]) < min(2.2, 0.75 * max(imbalance))


def test_without_the_controller_the_mean_stays_away():
    assert all(one.mean_real < 1.5 for one in train(steps=15, mu=0.0))


def test_too_large_a_gain_swings():
    """Step by step between too few and too many; the mean over time is right all the same."""
    real = [one.mean_real for one in train(steps=24, mu=30.0)][8:]
    assert statistics.pstdev(real) > 1.0
    assert statistics.mean(real) == pytest.approx(CONFIG.expected_real_experts, abs=0.5)

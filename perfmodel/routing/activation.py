"""How many real experts a token wakes: with zero-computation experts a distribution, without them a constant.

A router picks top_k of N real and Z zero-computation experts. The number of real ones is modelled as beta-binomial:
each token has its own chance of a real pick, spread over tokens. With mean p = mean / top_k, and theta = 1 / (a + b)
of the beta distribution,

    P(k) = C(K, k) prod_{i<k} (p + i theta) prod_{j<K-k} (1 - p + j theta) / prod_{i<K} (1 + i theta)
    variance = K p (1 - p) (1 + (K - 1) rho),  rho = theta / (1 + theta)

theta = 0 is the binomial, p = 1 the constant. It is an assumption about the shape; mean and spread are published
(LongCat-Flash, arXiv 2509.01322, figures 3 and 11), the shape isn't. A measured distribution replaces it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from perfmodel.errors import SpecError
from perfmodel.numeric import Num
from perfmodel.spec.model import Moe
from perfmodel.spec.routing import Routing, theta_of


def beta_binomial(top_k: int, mean: Num, theta: Num) -> tuple[Num, ...]:
    """Probability of 0 .. top_k real experts; ``mean`` and ``theta`` may be arrays."""
    real = mean / top_k
    norm: Num = 1.0
    for i in range(top_k):
        norm = norm * (1.0 + i * theta)
    pmf = []
    for k in range(top_k + 1):
        ways: Num = float(math.comb(top_k, k))
        for i in range(k):
            ways = ways * (real + i * theta)
        for j in range(top_k - k):
            ways = ways * (1.0 - real + j * theta)
        pmf.append(ways / norm)
    return tuple(pmf)


def activation(moe: Moe, routing: Routing, mean: Num) -> tuple[Num, ...]:
    """Probability of 0 .. top_k real experts per token, over tokens and layers; ``mean`` may be an array.

    Raises:
        SpecError: a stated spread beside many means.
    """
    rows = layer_activations(moe, routing, mean)
    if len(rows) == 1:
        return rows[0]
    return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))


def layer_activations(moe: Moe, routing: Routing, mean: Num) -> tuple[tuple[Num, ...], ...]:
    """Probability of 0 .. top_k real experts, one row per layer or one for all; ``mean`` may be an array.

    Stated distributions win; then a stated spread, which belongs to the stated mean; then the model's own spread,
    published at the model's mean: other means (another workload, a layer's own) keep its theta, so that the spread
    shrinks towards none and all. A model that states no spread is binomial, the narrowest that independent picks give.

    Raises:
        SpecError: a stated spread beside many means.
    """
    if routing.activation is not None:
        return routing.activation
    if routing.std_real_experts is not None:
        if np.ndim(mean):
            raise SpecError("routing.std_real_experts belongs to one mean: it can't stand beside many means")
        return (beta_binomial(moe.top_k, mean, theta_of(moe.top_k, float(mean), routing.std_real_experts)),)
    theta = 0.0
    if moe.std_real_experts is not None:
        theta = theta_of(moe.top_k, moe.mean_real_experts, moe.std_real_experts)
    if routing.layer_means is None:
        return (beta_binomial(moe.top_k, mean, theta),)
    stds = routing.layer_stds or (None,) * len(routing.layer_means)
    return tuple(
        beta_binomial(moe.top_k, own, theta if std is None else theta_of(moe.top_k, own, std))
        for own, std in zip(routing.layer_means, stds, strict=True)
    )


def moments(pmf: Sequence[Num]) -> tuple[Num, Num]:
    """Mean and standard deviation of a number that is k with probability ``pmf[k]``."""
    values: Any = list(enumerate(pmf))
    mean = sum(k * p for k, p in values)
    variance = sum((k - mean) ** 2 * p for k, p in values)
    return mean, variance**0.5

"""How the controller of :mod:`perfmodel.routing.controller` converges, recovers from a shift of the data, and swings.

``python -m perfmodel.routing.stability`` prints a run with a shift, and a table of gains.

Stability, linearised (:func:`linearise`). With many experts the softmax's denominator S = exp(s^2 / 2) sum_j exp(a_j)
and the threshold that the K chosen exceed hardly differ between tokens. Balanced, expert i is chosen by a share
q = K_e / N of the tokens, those with probability above x_i = exp(a_i + s z) / S, z the normal quantile of 1 - q.
Raising b_i by a little raises the share by d_i = phi(z) / (s x_i) times that, the density there; and as K are chosen
whatever the biases, the threshold rises with them: dq_i / db_j = d_i (delta_ij - d_j / D), D the sum of d over all
experts (of a zero-computation one, d is the density at the same threshold). A step multiplies a deviation of the biases
by 1 - (mu / K) (dq / db), so it dies away while

    mu < 2 K / (largest eigenvalue of dq / db), about 2 K / max d_i.

That is the least liked real expert: its probabilities lie closest together. All real experts moving as one would stand
much more, 2 K / (D_real D_zero / (D N)), as only zero-computation experts give way to them. Below the bound sampling
noise is amplified: the variance of expert i's load is 2 / (2 - mu d_i / K) times the binomial one (the simulation's is
so: tests/test_controller.py).
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from perfmodel.errors import DataError
from perfmodel.routing.controller import Floats, History, ToyRouter, simulate, unevenness

TOLERANCE: Final = 0.25
"""Real experts around the wanted mean that count as settled, if nothing else is said."""
RESTLESS_MEAN: Final = 2.0
"""The mean swings if its standard deviation over steps is so many times what sampling alone gives."""
RESTLESS_EXPERT: Final = 10.0
"""An expert swings if its load varies so many times as much as a binomial one: linearised, at 0.9 of the bound."""
BOUND_SHARES: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Gains of the printed table, relative to the linear bound."""


def settled_at(mean_real: Floats, wanted: float, tolerance: float = TOLERANCE) -> int | None:
    """First step from which the mean stays within ``tolerance`` of ``wanted``; None if the last step does not."""
    outside = np.flatnonzero(np.abs(mean_real - wanted) > tolerance)
    first = int(outside[-1]) + 1 if len(outside) else 0
    return first if first < len(mean_real) else None


@dataclass(frozen=True, slots=True)
class Response:
    """What a shift of the data did."""

    excursion: float
    """Largest deviation from the wanted mean since, with its sign; real experts per token."""
    recovery: int | None
    """Steps until the mean stays within the tolerance; None: not by the end."""


def response(history: History, shift_at: int, wanted: float, tolerance: float = TOLERANCE) -> Response:
    """Excursion and recovery of the mean after a shift at step ``shift_at``.

    Raises:
        DataError: the run has no step ``shift_at``.
    """
    if not 0 <= shift_at < len(history.mean_real):
        raise DataError(f"shift_at is {shift_at}: give a step of the run, 0 to {len(history.mean_real) - 1}")
    after = history.mean_real[shift_at:]
    away = after - wanted
    return Response(float(away[np.abs(away).argmax()]), settled_at(after, wanted, tolerance))


@dataclass(frozen=True, slots=True)
class Linear:
    """The controller near balance, linearised: see the module's description."""

    bias: Floats
    """Biases in balance, (N,)."""
    sensitivity: Floats
    """d_i, (N,): share of tokens that an expert gains per unit of bias, the threshold held."""
    critical_mu: float
    """Gain above which single experts swing."""
    critical_mu_mean: float
    """Gain above which the mean would, if all real experts' biases moved as one; single experts swing long before that,
    and take the mean along at a few times their own bound."""


def linearise(router: ToyRouter, seed: int = 0) -> Linear:
    """Biases in balance and the largest stable gains, with softmax denominator and threshold alike for all tokens."""
    preferences, normal = router.preferences(seed), NormalDist()
    real, zero = preferences[: router.num_real], preferences[router.num_real :]
    log_sum = float(np.log(np.exp(preferences).sum())) + router.noise**2 / 2.0
    quantile = normal.inv_cdf(1.0 - router.expected_real / router.num_real)
    at = np.exp(real + router.noise * quantile - log_sum)
    sensitivity = normal.pdf(quantile) / (router.noise * at)
    threshold = _zero_threshold(router, zero - log_sum)
    above = (threshold - zero + log_sum) / router.noise
    zero_sensitivity = np.exp(-above * above / 2.0) / (
        math.sqrt(2.0 * math.pi) * router.noise * math.exp(threshold)
    )
    of_real, of_zero = float(sensitivity.sum()), float(zero_sensitivity.sum())
    jacobian = np.diag(sensitivity) - np.outer(sensitivity, sensitivity) / (of_real + of_zero)
    mean_gain = of_real * of_zero / ((of_real + of_zero) * router.num_real)
    return Linear(
        math.exp(threshold) - at,
        sensitivity,
        2.0 * router.top_k / float(np.linalg.eigvalsh(jacobian)[-1]),
        2.0 * router.top_k / mean_gain,
    )


def _zero_threshold(router: ToyRouter, centres: Floats) -> float:
    """Logarithm of the probability that K - K_e zero-computation experts exceed in the mean; by bisection."""
    cdf = np.vectorize(NormalDist().cdf, otypes=[np.float64])
    wanted = router.top_k - router.expected_real
    low, high = float(centres.min()) - 9.0 * router.noise, float(centres.max()) + 9.0 * router.noise
    for _ in range(60):
        middle = (low + high) / 2.0
        exceed = float(np.sum(1.0 - cdf((middle - centres) / router.noise)))
        low, high = (middle, high) if exceed > wanted else (low, middle)
    return low


@dataclass(frozen=True, slots=True)
class Steadiness:
    """How steady one gain holds the mean, over the last third of a run."""

    mu: float
    settled: int | None
    """:func:`settled_at` with the tolerance of 0.25."""
    mean: float
    """Real experts per token."""
    std: float
    """Standard deviation of the batch's mean over steps."""
    noise: float
    """What sampling alone gives it: std over tokens / sqrt(T)."""
    busiest: float
    """Busiest expert of one batch over the mean, mean over steps."""
    busiest_in_all: float
    """Busiest expert of these batches together."""
    worst_expert: float
    """Largest variance of an expert's load over the binomial one."""

    @property
    def mean_swings(self) -> bool:
        """Whether the mean moves clearly more than sampling explains."""
        return self.std > RESTLESS_MEAN * self.noise

    @property
    def expert_swings(self) -> bool:
        """Whether some expert's load does."""
        return self.worst_expert > RESTLESS_EXPERT


def steadiness(history: History, mu: float, tokens: int, wanted: float) -> Steadiness:
    """Sums up a run with gain ``mu`` and ``tokens`` per batch."""
    last = slice(-max(1, len(history.mean_real) // 3), None)
    loads = history.loads[last]
    share = loads.mean(axis=0) / tokens
    binomial = np.maximum(tokens * share * (1.0 - share), 1e-9)  # an idle expert varies by nothing
    return Steadiness(
        mu=mu,
        settled=settled_at(history.mean_real, wanted),
        mean=float(history.mean_real[last].mean()),
        std=float(history.mean_real[last].std()),
        noise=float(history.std_real[last].mean()) / math.sqrt(tokens),
        busiest=float(history.busiest[last].mean()),
        busiest_in_all=unevenness(loads),
        worst_expert=float((loads.var(axis=0) / binomial).max()),
    )


def sweep(
    router: ToyRouter, gains: Sequence[float], *, steps: int = 200, tokens: int = 512, seed: int = 0
) -> list[Steadiness]:
    """One run, without a shift, for each gain."""
    return [
        steadiness(
            simulate(router, mu=mu, steps=steps, tokens=tokens, seed=seed), mu, tokens, router.expected_real
        )
        for mu in gains
    ]


def onset(gains: Sequence[float], swings: Sequence[bool]) -> float | None:
    """The smallest gain that swings and above which all do; ``gains`` ascend. None if the largest does not."""
    found = None
    for mu, swinging in zip(reversed(gains), reversed(swings), strict=True):
        if not swinging:
            break
        found = mu
    return found


def main() -> None:
    """Prints a run of the controller with a shift of the data, and a table of gains against steadiness."""
    parser = argparse.ArgumentParser(prog="python -m perfmodel.routing.stability", description=main.__doc__)
    default = ToyRouter()
    parser.add_argument("--experts", type=int, default=default.num_real, help="real experts (default 512)")
    parser.add_argument("--zero-experts", type=int, default=default.num_zero, help="(default 256)")
    parser.add_argument("--top-k", type=int, default=default.top_k, help="chosen per token (default 12)")
    parser.add_argument("--expected-real", type=float, default=default.expected_real, help="(default 8)")
    parser.add_argument("--mu", type=float, help="gain (default: half the linear bound)")
    parser.add_argument("--decay", type=float, default=1.0, help="factor on mu per step (default 1: none)")
    parser.add_argument("--steps", type=int, default=300, help="batches (default 300)")
    parser.add_argument("--tokens", type=int, default=512, help="tokens per batch (default 512)")
    parser.add_argument("--shift-at", type=int, help="step of the shift (default: half of them)")
    parser.add_argument("--seed", type=int, default=0, help="(default 0)")
    options = parser.parse_args()
    try:
        _report(options)
    except DataError as error:
        parser.error(str(error))


def _report(options: argparse.Namespace) -> None:
    router = ToyRouter(
        num_real=options.experts,
        num_zero=options.zero_experts,
        top_k=options.top_k,
        expected_real=options.expected_real,
    )
    linear, wanted = linearise(router, options.seed), router.expected_real
    mu = linear.critical_mu / 2.0 if options.mu is None else options.mu
    shift_at = options.steps // 2 if options.shift_at is None else options.shift_at
    history = simulate(
        router,
        mu=mu,
        steps=options.steps,
        tokens=options.tokens,
        decay=options.decay,
        shift_at=shift_at,
        seed=options.seed,
    )
    _print_curve(history, router, mu, shift_at)
    gains = [share * linear.critical_mu for share in BOUND_SHARES]
    steps = min(options.steps, 200)
    _print_table(sweep(router, gains, steps=steps, tokens=options.tokens, seed=options.seed), linear)
    print(
        f"\nover the last third of {steps} steps; noise: what sampling alone gives the mean; wanted {wanted:g}"
    )


def _print_curve(history: History, router: ToyRouter, mu: float, shift_at: int) -> None:
    wanted = router.expected_real
    print(f"real experts per token, wanted {wanted:g} of {router.top_k}; toy router; mu {mu:.3g}")
    print(f"zero-computation experts lead by {router.zero_lead:g} in logits")
    for step in range(0, len(history.mean_real), max(1, len(history.mean_real) // 30)):
        real = float(history.mean_real[step])
        bar = "#" * round(5 * real)
        print(f"{step:5d}  busiest {history.busiest[step]:5.1f} x  real {real:5.2f} {bar}")
    settled, after = settled_at(history.mean_real[:shift_at], wanted), response(history, shift_at, wanted)
    print(f"within {TOLERANCE:g} from step {_or_never(settled)} on;", end=" ")
    print(f"shift at {shift_at}: {after.excursion:+.2f}, back after {_or_never(after.recovery)} steps")
    print(f"biases of real experts {history.bias_low[-1]:.4f} to {history.bias_high[-1]:.4f}\n")


def _print_table(rows: Sequence[Steadiness], linear: Linear) -> None:
    print(
        f"linear bound: single experts {linear.critical_mu:.3g}, the mean alone {linear.critical_mu_mean:.3g}"
    )
    print("     mu  settled   mean    std (noise)  busiest  in all  worst expert's variance")
    for row in rows:
        print(
            f"{row.mu:7.3f}  {_or_never(row.settled):>7}  {row.mean:5.2f}  {row.std:5.3f} ({row.noise:.3f})"
            f"  {row.busiest:6.1f}x  {row.busiest_in_all:5.2f}x  {row.worst_expert:7.1f}x"
        )
    gains = [row.mu for row in rows]
    for name, swings in (
        ("single experts swing", [row.expert_swings for row in rows]),
        ("the mean swings", [row.mean_swings for row in rows]),
    ):
        first = onset(gains, swings)
        print(f"{name} " + ("at none of these" if first is None else f"from mu {first:.3g}"))


def _or_never(step: int | None) -> str:
    return "never" if step is None else f"{step}"


if __name__ == "__main__":
    main()

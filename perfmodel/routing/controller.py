"""The controller that holds a token's number of real experts at the wanted mean, over training steps of a toy router.

How it converges, recovers and swings is in :mod:`perfmodel.routing.stability`.

Each step moves the bias b_i of real expert i by mu ((K_e / K) / N - T_i / (K T)) [LongCat-Flash report, arXiv
2509.01322, Eq. 2]: N real and Z zero-computation experts, K chosen per token, K_e real ones wanted, T_i of the batch's
T tokens chose expert i. Zero-computation experts keep theirs.

The router is a toy, an assumption throughout: token t's logits are z_ti = a_i + s g_ti, with a preference a_i per
expert, normal with standard deviation ``spread``, and g_ti standard normal, drawn anew for each token. Probabilities
are their softmax; the token takes the K experts with the largest probability plus bias, so useful biases are about
1 / (N + Z). Tokens are alike and nothing learns: it shows how the controller behaves, not how a model does, and real
experts per token spread less than the published 2.55 (as independent picks do).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from perfmodel.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PREFERENCE_STREAM: Final = 11
TOKEN_STREAM: Final = 12
SHIFT_STREAM: Final = 13
"""One stream of random numbers each, so that a shift or another gain leaves the tokens as they were."""


def update_bias(
    bias: npt.ArrayLike,
    tokens: npt.ArrayLike,
    num_tokens: int,
    *,
    mu: float,
    top_k: int,
    expected_real: float,
) -> Floats:
    """New biases (N + Z,) after one batch [LongCat-Flash report, Eq. 2]; ``reference_model.training`` has the same.

    ``tokens`` (N,) are the T_i, the tokens of the batch of ``num_tokens`` that chose each real expert.

    Raises:
        DataError: fewer biases than real experts or no expert, a T_i outside 0 .. ``num_tokens``, or a ``mu``,
            ``top_k`` or ``expected_real`` that is not allowed.
    """
    old, counts = np.asarray(bias, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if old.ndim != 1 or counts.ndim != 1 or not 1 <= len(counts) <= len(old):
        raise DataError(
            f"bias has shape {old.shape} and tokens {counts.shape}: give (N + Z,) biases and (N,) counts, N >= 1"
        )
    at_least("num_tokens", num_tokens, 1)
    at_least("top_k", top_k, 1)
    at_least("mu", mu, 0.0)
    if not 0 <= expected_real <= top_k:
        raise DataError(f"expected_real is {expected_real}: give 0 to top_k = {top_k}")
    if not ((counts >= 0) & (counts <= num_tokens)).all():
        raise DataError(
            f"tokens has a count outside 0 .. {num_tokens}: a token chooses an expert once at most"
        )
    new = old.copy()
    new[: len(counts)] += mu * (expected_real / top_k / len(counts) - counts / (top_k * num_tokens))
    return new


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyRouter:
    """Parameters of the toy router; the defaults have LongCat-Flash's numbers of experts.

    Raises:
        DataError: no expert of a kind, a mean that no choice of ``top_k`` can have, or a width that is not allowed.
    """

    num_real: int = 512
    """N."""
    num_zero: int = 256
    """Z."""
    top_k: int = 12
    """K, of both kinds."""
    expected_real: float = 8.0
    """K_e, the wanted mean: strictly between the fewest and the most real experts that a token can have."""
    spread: float = 0.5
    """Standard deviation of preferences between experts, in logits."""
    noise: float = 1.0
    """s, the standard deviation of one expert's logits between tokens."""
    zero_lead: float = 0.5
    """What zero-computation experts are preferred by, in logits: above 0 the run starts with too few real ones."""

    def __post_init__(self) -> None:
        at_least("num_real", self.num_real, 1)
        at_least("num_zero", self.num_zero, 1)
        at_least("top_k", self.top_k, 1)
        if self.top_k > self.num_real + self.num_zero:
            raise DataError(
                f"top_k is {self.top_k}: give at most the {self.num_real + self.num_zero} experts"
            )
        fewest, most = max(0, self.top_k - self.num_zero), min(self.top_k, self.num_real)
        if not fewest < self.expected_real < most:
            raise DataError(
                f"expected_real is {self.expected_real}: give more than {fewest}, less than {most}"
            )
        at_least("spread", self.spread, 0.0)
        if not (math.isfinite(self.noise) and self.noise > 0):
            raise DataError(f"noise is {self.noise}: give a finite number above 0")
        if not math.isfinite(self.zero_lead):
            raise DataError(f"zero_lead is {self.zero_lead}: give a finite number")

    def preferences(self, seed: int) -> Floats:
        """The a_i, (N + Z,), real experts first."""
        drawn = _generator(seed, PREFERENCE_STREAM).normal(0.0, self.spread, self.num_real + self.num_zero)
        drawn[self.num_real :] += self.zero_lead
        return drawn

    def shifted(self, preferences: Floats, share: float, seed: int) -> Floats:
        """Preferences after the data changed: a random ``share`` of the experts has theirs drawn anew."""
        rng = _generator(seed, SHIFT_STREAM)
        total = len(preferences)
        moved = rng.permutation(total)[: round(share * total)]
        fresh = rng.normal(0.0, self.spread, total)
        fresh[self.num_real :] += self.zero_lead
        after = preferences.copy()
        after[moved] = fresh[moved]
        return after

    def choose(self, rng: np.random.Generator, preferences: Floats, bias: Floats, tokens: int) -> Ints:
        """Experts (tokens, K) that new tokens take, in no order; real ones are below N."""
        experts = self.num_real + self.num_zero
        keys = rng.standard_normal((tokens, experts), dtype=np.float32)
        keys *= np.float32(self.noise)
        keys += preferences.astype(np.float32)
        keys -= keys.max(axis=1, keepdims=True)  # large logits would overflow
        np.exp(keys, out=keys)
        keys /= keys.sum(axis=1, keepdims=True)
        keys += bias.astype(np.float32)
        first = experts - self.top_k
        return np.argpartition(keys, first, axis=1)[:, first:]


@dataclass(frozen=True, slots=True)
class History:
    """What was seen in each step, before the bias moved: all (steps,) but ``loads``."""

    mean_real: Floats
    """Real experts per token, mean over the batch."""
    std_real: Floats
    """Their standard deviation over the batch's tokens."""
    busiest: Floats
    """Load of the busiest real expert of the batch over the mean: with few tokens per expert, mostly chance."""
    bias_low: Floats
    """Smallest bias of a real expert; a zero-computation one has 0."""
    bias_high: Floats
    """Largest."""
    loads: Ints
    """Tokens of each real expert, (steps, N)."""


def simulate(
    router: ToyRouter,
    *,
    mu: float,
    steps: int = 300,
    tokens: int = 512,
    decay: float = 1.0,
    shift_at: int | None = None,
    shift_share: float = 0.5,
    seed: int = 0,
) -> History:
    """Runs the controller from biases of zero.

    Args:
        router: the toy router.
        mu: gain of the first step; 0 turns the controller off.
        steps: batches.
        tokens: of each batch (T).
        decay: factor on the gain from step to step: 1 keeps it.
        shift_at: the first step with shifted preferences; None for no shift.
        shift_share: share of the experts whose preference is then drawn anew.
        seed: of preferences, tokens and shift, which have a stream each.

    Raises:
        DataError: an argument outside what is allowed.
    """
    _check_run(mu, steps, tokens, decay, shift_at, shift_share)
    preferences, rng = router.preferences(seed), _generator(seed, TOKEN_STREAM)
    bias = np.zeros(len(preferences))
    history = _blank(steps, router.num_real)
    for step in range(steps):
        if step == shift_at:
            preferences = router.shifted(preferences, shift_share, seed)
        chosen = router.choose(rng, preferences, bias, tokens)
        _record(history, step, chosen, bias[: router.num_real])
        bias = update_bias(
            bias,
            history.loads[step],
            tokens,
            mu=mu * decay**step,
            top_k=router.top_k,
            expected_real=router.expected_real,
        )
    return history


def _blank(steps: int, num_real: int) -> History:
    return History(
        mean_real=np.empty(steps),
        std_real=np.empty(steps),
        busiest=np.empty(steps),
        bias_low=np.empty(steps),
        bias_high=np.empty(steps),
        loads=np.empty((steps, num_real), dtype=np.int64),
    )


def _record(history: History, step: int, chosen: Ints, bias: Floats) -> None:
    """Fills one step's row; ``bias`` (N,) is what the real experts were chosen with."""
    num_real = len(bias)
    real = np.count_nonzero(chosen < num_real, axis=1)
    loads = np.bincount(chosen.ravel(), minlength=num_real)[:num_real]
    history.loads[step] = loads
    history.mean_real[step], history.std_real[step] = real.mean(), real.std()
    history.busiest[step] = unevenness(loads)
    history.bias_low[step], history.bias_high[step] = bias.min(), bias.max()


def unevenness(loads: Ints) -> float:
    """Load of the busiest expert over the mean, 1 if all are idle; ``loads`` (N,), or (steps, N) to be added up."""
    total = loads.reshape(-1, loads.shape[-1]).sum(axis=0)
    return float(total.max() / total.mean()) if total.any() else 1.0


def _check_run(
    mu: float, steps: int, tokens: int, decay: float, shift_at: int | None, shift_share: float
) -> None:
    at_least("mu", mu, 0.0)
    at_least("steps", steps, 1)
    at_least("tokens", tokens, 1)
    if not 0 < decay <= 1:
        raise DataError(f"decay is {decay}: give a factor above 0, up to 1 (the gain stays)")
    if shift_at is not None and not 0 <= shift_at < steps:
        raise DataError(f"shift_at is {shift_at}: give a step of the run, 0 to {steps - 1}")
    if not 0 <= shift_share <= 1:
        raise DataError(f"shift_share is {shift_share}: give 0 (nothing shifts) to 1 (everything does)")


def at_least(name: str, value: float, least: float) -> None:
    """Refuses what is below ``least`` or not finite."""
    if not (math.isfinite(value) and value >= least):
        raise DataError(f"{name} is {value}: give a finite number, {least:g} or above")


def _generator(seed: int, stream: int) -> np.random.Generator:
    at_least("seed", seed, 0)
    return np.random.default_rng([seed, stream])

"""What keeps a token's number of real experts at the wanted mean in training: bias controller and balance loss.

``python -m reference_model.training --steps 300`` trains a tiny model on a Markov chain and prints the curve.

Shape suffixes as in :mod:`reference_model.kernels`; G groups of experts (devices), B sequences of S tokens.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from reference_model.config import SIZES, Config
from reference_model.model import LongcatFlash
from reference_model.moe import Router, Routing
from reference_model.weights import init_weights
from reference_model.work import Cache, Group

VOCABULARY: Final = 64
CONFIG: Final = replace(SIZES["tiny"], vocab_size=VOCABULARY, max_position_embeddings=128, mtp_num_layers=0)
"""What is trained here: 16 real and 8 zero-computation experts, top-6, so 4 real ones expected."""


@torch.no_grad()
def update_bias(
    bias_Z: Tensor, tokens_E: Tensor, num_tokens: int, *, mu: float, top_k: int, expected_real: float
) -> None:
    """One step of the controller, in place: b_i += mu ((K_e / K) / N - T_i / (K T)) [LongCat-Flash report, Eq. 2].

    ``tokens_E`` are the T_i, the tokens of the batch that chose each of the N real experts, T = ``num_tokens``. The
    bias of zero-computation experts stays: real ones rise together while a token has fewer than K_e of them.
    """
    num_real = tokens_E.shape[0]
    wanted = expected_real / top_k / num_real
    bias_Z[:num_real] += mu * (wanted - tokens_E / (top_k * num_tokens))


def balance_loss(routing: Routing, num_groups: int, *, num_real: int, expected_real: float) -> Tensor:
    """Device-level balance loss sum_j f_j P_j, to be weighted by alpha [LongCat-Flash report, Eqs. 3 to 5].

    Real experts form ``num_groups`` equal groups, one for each device, and all zero-computation experts one more.
    P_j is the mean probability of group j; f_j the choices that fell on it, relative to what balance would give:
    K_e T / D for a device, (K - K_e) T for the zero-computation experts. Balanced, every f_j is 1 and so is the loss.
    Gradients flow through P alone. Choices are counted per pair of token and expert: only so is f_j 1 in balance.
    """
    num_tokens, top_k = routing.ids_NK.shape
    probabilities_Z = torch.softmax(routing.logits_NZ, dim=-1).mean(dim=0)
    chosen_Z = torch.bincount(routing.ids_NK.flatten(), minlength=len(probabilities_Z)).float()
    fair = expected_real * num_tokens / num_groups
    share_G = _by_group(chosen_Z[:num_real], num_groups) / fair
    loss = (share_G * _by_group(probabilities_Z[:num_real], num_groups)).sum()
    if len(probabilities_Z) > num_real:
        zero_share = chosen_Z[num_real:].sum() / ((top_k - expected_real) * num_tokens)
        loss = loss + zero_share * probabilities_Z[num_real:].sum()
    return loss


def _by_group(values_E: Tensor, num_groups: int) -> Tensor:
    """Sums over equal groups of neighbours, [G]."""
    return values_E.view(num_groups, -1).sum(dim=1)


@contextlib.contextmanager
def recorded(routers: Sequence[nn.Module]) -> Iterator[list[Routing]]:
    """A list that what the routers decide is added to, in the order in which they run."""
    routings: list[Routing] = []

    def keep(_module: nn.Module, _inputs: Any, output: Routing) -> None:
        routings.append(output)

    hooks = [router.register_forward_hook(keep) for router in routers]
    try:
        yield routings
    finally:
        for hook in hooks:
            hook.remove()


class MarkovChain:
    """A language in which each token has four successors, of probability 1/2, 1/4, 1/8 and 1/8.

    The best possible loss is its entropy, 1.75 bits = 1.213 nats; knowing nothing costs ln(vocabulary).
    """

    entropy: Final = 1.75 * 0.6931471805599453

    def __init__(self, vocabulary: int, seed: int) -> None:
        """Draws successors; the same seed gives the same language and the same text."""
        self.generator = torch.Generator().manual_seed(seed)
        self.successors = torch.stack(
            [torch.randperm(vocabulary, generator=self.generator)[:4] for _ in range(vocabulary)]
        )

    def batch(self, sequences: int, length: int) -> Tensor:
        """Text, [B, S]."""
        odds = torch.tensor([0.5, 0.25, 0.125, 0.125])
        choices = torch.multinomial(odds, sequences * length, replacement=True, generator=self.generator)
        token = torch.randint(len(self.successors), (sequences,), generator=self.generator)
        text = []
        for choice_B in choices.view(length, sequences):
            text.append(token)
            token = self.successors[token, choice_B]
        return torch.stack(text, dim=1)


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of training."""

    step: int
    loss: float
    """Cross entropy per token, nats."""
    mean_real: float
    """Real experts per token, mean over tokens and blocks."""
    imbalance: float
    """Load of the busiest expert relative to the mean, largest over blocks."""


class Text(Protocol):
    """Where batches come from: :class:`MarkovChain`, or anything else that has text."""

    def batch(self, sequences: int, length: int) -> Tensor:
        """Token ids, [B, S], other ones at each call."""
        ...


def train(
    config: Config = CONFIG,
    *,
    steps: int,
    mu: float = 0.3,
    alpha: float = 1e-3,
    start_bias: float = 0.1,
    sequences: int = 16,
    length: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> list[Progress]:
    """Trains a model from random weights on a Markov chain, towards ``config.expected_real_experts``.

    ``start_bias`` as in :func:`new_model`, the rest as in :func:`fit`; the seed is that of weights and text.
    """
    return fit(
        new_model(config, start_bias=start_bias, seed=seed),
        MarkovChain(config.vocab_size, seed),
        steps=steps,
        mu=mu,
        alpha=alpha,
        sequences=sequences,
        length=length,
        learning_rate=learning_rate,
    )


def new_model(config: Config, *, start_bias: float = 0.1, seed: int = 0) -> LongcatFlash:
    """A model with random weights; ``start_bias`` is the bias of its zero-computation experts.

    The controller must make up for that: with 0.1 tokens start with hardly any real expert.
    """
    model = LongcatFlash(config)
    init_weights(model, seed)
    for router in _routers(model):
        router.bias_Z[config.n_routed_experts :] = start_bias
    return model


def fit(
    model: LongcatFlash,
    text: Text,
    *,
    steps: int,
    mu: float = 0.3,
    alpha: float = 1e-3,
    sequences: int = 16,
    length: int = 32,
    learning_rate: float = 3e-3,
) -> list[Progress]:
    """Trains ``model`` in place with the controller on, towards its ``config.expected_real_experts``.

    Args:
        model: changed in place, routers' biases included.
        text: where batches come from.
        steps: batches of ``sequences`` x ``length`` tokens.
        mu: gain of the controller; 0 turns it off.
        alpha: weight of the balance loss, with four groups.
        sequences: per batch.
        length: tokens of each.
        learning_rate: of AdamW.
    """
    config, routers = model.config, _routers(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    history = []
    for step in range(steps):
        with recorded(routers) as routings:
            loss = language_loss(model, text.batch(sequences, length + 1))
        balance = torch.stack([_balance(routing, config) for routing in routings]).sum()
        optimiser.zero_grad()
        (loss + alpha * balance).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        loads = [real_tokens(routing, config.n_routed_experts) for routing in routings]
        _control(routers, loads, sequences * length, config, mu)
        history.append(_progress(step, float(loss.detach()), loads, sequences * length))
    return history


@torch.no_grad()
def evaluate(model: LongcatFlash, text_BS: Tensor) -> tuple[float, list[Routing]]:
    """Loss (nats per token), and how each block routed all tokens but the last of each sequence."""
    with recorded(_routers(model)) as routings:
        loss = language_loss(model, text_BS)
    return float(loss), routings


def _routers(model: LongcatFlash) -> list[Router]:
    """One of each block, in their order."""
    return [module for module in model.modules() if isinstance(module, Router)]


def _control(
    routers: Sequence[Router], loads: Sequence[Tensor], num_tokens: int, config: Config, mu: float
) -> None:
    top_k, expected = config.moe_topk, config.expected_real_experts
    for router, tokens_E in zip(routers, loads, strict=True):
        update_bias(router.bias_Z, tokens_E, num_tokens, mu=mu, top_k=top_k, expected_real=expected)


def language_loss(model: LongcatFlash, text_BS: Tensor) -> Tensor:
    """Mean cross entropy of the next token, nats; a prefill without cached tokens, gradients and all."""
    inputs_BS, targets_BS = text_BS[:, :-1], text_BS[:, 1:]
    logits_NV = model.step(
        [Group("prefill", inputs_BS, Cache(model.config, *inputs_BS.shape))], all_logits=True
    )
    return functional.cross_entropy(logits_NV, targets_BS.flatten())


def real_tokens(routing: Routing, num_real: int) -> Tensor:
    """Tokens that chose each real expert (T_i), [E]."""
    return torch.bincount(routing.ids_NK.flatten(), minlength=num_real)[:num_real]


def _balance(routing: Routing, config: Config) -> Tensor:
    return balance_loss(
        routing, 4, num_real=config.n_routed_experts, expected_real=config.expected_real_experts
    )


def _progress(step: int, loss: float, loads: Sequence[Tensor], num_tokens: int) -> Progress:
    real = torch.stack(list(loads)).float()
    imbalance = real.max(dim=1).values / real.mean(dim=1).clamp(min=1e-9)
    return Progress(step, loss, float(real.sum() / (num_tokens * len(loads))), float(imbalance.max()))


def main() -> None:
    """Prints the curve as text."""
    parser = argparse.ArgumentParser(prog="python -m reference_model.training", description=main.__doc__)
    parser.add_argument("--steps", type=int, default=300, help="batches (default 300)")
    parser.add_argument("--mu", type=float, default=0.3, help="gain of the controller, 0: off (default 0.3)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and text (default 0)")
    options = parser.parse_args()
    history = train(steps=options.steps, mu=options.mu, seed=options.seed)
    wanted, every = CONFIG.expected_real_experts, max(1, options.steps // 30)
    print(
        f"real experts per token, wanted {wanted:g} of {CONFIG.moe_topk}; best loss {MarkovChain.entropy:.3f}"
    )
    for one in history[::every]:
        bar = "#" * round(10 * one.mean_real)
        print(
            f"{one.step:5d}  loss {one.loss:.3f}  busiest {one.imbalance:4.1f} x  real {one.mean_real:.2f} {bar}"
        )


if __name__ == "__main__":
    main()

"""What a step works on: groups of requests with their caches, as in ``perfmodel.ops.work``.

Shape suffixes as in :mod:`reference_model.kernels`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reference_model.config import Config


class Cache:
    """What is kept of the tokens of B equal requests: per attention [B, S_max, C + R], per index branch [B, S_max, J].

    ``length`` tokens of each request are filled. It may be set: lower to forget the last tokens (a rejected draft),
    higher to time a step at a context that was never computed (the rows are zero).
    """

    def __init__(
        self,
        config: Config,
        requests: int,
        max_tokens: int,
        *,
        num_attentions: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Room for ``max_tokens`` of each of ``requests``, for all attentions of the blocks unless told otherwise."""
        self.length = 0
        self.max_tokens = max_tokens
        count = 2 * config.num_layers if num_attentions is None else num_attentions

        def rows(width: int) -> Tensor:
            return torch.zeros((requests, max_tokens, width), dtype=dtype, device=device)

        self.latents = [rows(config.latent_dim) for _ in range(count)]
        self.index_keys = [rows(config.index_head_dim) for _ in range(0, count, 2)] if config.sparse else []
        self.selected_BTU: Tensor | None = None
        """What the last index branch of the running step selected; attentions without one use it, too."""
        self.ids = torch.zeros((requests, config.tokens_before + max_tokens), dtype=torch.long, device=device)
        """All tokens behind as many zeros as an n-gram looks back, where the model has n-gram embeddings."""

    def new(self, attention: int, num_new: int) -> Tensor:
        """Where one attention writes ``num_new`` tokens, [B, T, C + R]."""
        return self.latents[attention][:, self.length : self.length + num_new]

    def filled(self, attention: int, num_new: int) -> Tensor:
        """The cached and the ``num_new`` tokens of one attention, [B, S, C + R]."""
        return self.latents[attention][:, : self.length + num_new]

    def new_index(self, attention: int, num_new: int) -> Tensor:
        """Where the index branch of one attention writes, [B, T, J]: the first of two attentions has one."""
        return self.index_keys[attention // 2][:, self.length : self.length + num_new]

    def filled_index(self, attention: int, num_new: int) -> Tensor:
        """The index keys of the cached and the ``num_new`` tokens, [B, S, J]."""
        return self.index_keys[attention // 2][:, : self.length + num_new]

    def ngrams(self, ids_BT: Tensor, length: int) -> Tensor:
        """Takes note of new tokens; they and those before them, latest first, [B, T, ``length``]."""
        before, new = length - 1, ids_BT.shape[1]
        self.ids[:, before + self.length : before + self.length + new] = ids_BT
        return self.ids[:, self.length : before + self.length + new].unfold(1, length, 1).flip(-1)


@dataclass(frozen=True, slots=True)
class Group:
    """Equal requests in one step."""

    kind: Literal["decode", "prefill"]
    """How attention runs: absorbed into the latent for few new tokens, with expanded keys and values for many."""
    ids_BT: Tensor
    """New tokens of each request."""
    cache: Cache
    """The tokens before them; a step adds the new ones."""


@dataclass(frozen=True, slots=True)
class Place:
    """A group's place in a step: its rows among all tokens, and the rotation at its positions."""

    kind: Literal["decode", "prefill"]
    rows: slice
    requests: int
    num_new: int
    cache: Cache
    cos_TR: Tensor
    """[T, R / 2], in the type of the activations."""
    sin_TR: Tensor

    def own(self, x: Tensor) -> Tensor:
        """The group's rows of all tokens', by request: [N, ...] -> [B, T, ...].

        A lone group's are not cut out: the gradient of that would be a copy of all of them.
        """
        rows = x if self.rows == slice(0, len(x)) else x[self.rows]
        return torch.unflatten(rows, 0, (self.requests, self.num_new))


class Rotary(torch.nn.Module):
    """Tables of the rotary embedding, float32, one angle for each pair of neighbours."""

    def __init__(self, config: Config, device: torch.device | str = "cpu") -> None:
        """Angles position x theta^(-2i / R) for all positions of the model."""
        super().__init__()
        width = config.qk_rope_head_dim
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
        positions = torch.arange(config.max_position_embeddings, dtype=torch.float32, device=device)
        angles = torch.outer(positions, 1.0 / config.rope_theta**exponents)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def at(self, start: int, num_new: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of ``num_new`` positions from ``start``, [T, R / 2] each, in the activations' type."""
        return self.cos[start : start + num_new].to(dtype), self.sin[start : start + num_new].to(dtype)

    def places(self, groups: Sequence[Group], dtype: torch.dtype) -> list[Place]:
        """Lays the groups' tokens one after another.

        Raises:
            ValueError: a group's tokens do not fit its cache or the model's positions.
        """
        places, row = [], 0
        for group in groups:
            requests, num_new = group.ids_BT.shape
            start = group.cache.length
            room = min(group.cache.max_tokens, self.cos.shape[0])
            if start + num_new > room:
                raise ValueError(f"{start} cached and {num_new} new tokens must be at most {room}")
            rows = slice(row, row + requests * num_new)
            row = rows.stop
            cos, sin = self.at(start, num_new, dtype)
            places.append(Place(group.kind, rows, requests, num_new, group.cache, cos, sin))
        return places

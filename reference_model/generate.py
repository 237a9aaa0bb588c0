"""Greedy generation, plain or with one draft token per step that the model verifies."""

from typing import Literal

import torch
from torch import Tensor

from reference_model import kernels
from reference_model.model import LongcatFlash
from reference_model.work import Cache, Group


@torch.no_grad()
def generate(model: LongcatFlash, prompt_ids: Tensor, num_tokens: int, *, draft: bool = False) -> Tensor:
    """The ``num_tokens`` likeliest next tokens of each prompt, one at a time, [B, num_tokens].

    Args:
        model: in any type and on any device, with all experts on this rank.
        prompt_ids: [B, T] prompts of equal length.
        num_tokens: tokens to add to each, at least 1.
        draft: let the multi-token prediction layer guess one token per step. The result is the same; a guess that is
            right saves a step. All requests keep step: a guess counts if it is right for all of them.

    Raises:
        ValueError: fewer than one token, more positions than the model has, or ``draft`` without such a layer.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens = {num_tokens} must be at least 1")
    if draft and model.mtp is None:
        raise ValueError("draft = True needs a model with mtp_num_layers = 1")
    requests, length = prompt_ids.shape
    table = model.embedding
    room = length + num_tokens + 1  # the last verified draft may lie one beyond
    cache = Cache(model.config, requests, room, dtype=table.dtype, device=table.device)
    return (_with_drafts if draft else _plain)(model, prompt_ids, num_tokens, cache)


def _plain(model: LongcatFlash, prompt_ids: Tensor, num_tokens: int, cache: Cache) -> Tensor:
    """Prefill, then a decode step per token."""
    tokens = [kernels.greedy(model.step([Group("prefill", prompt_ids, cache)]))]
    while len(tokens) < num_tokens:
        tokens.append(kernels.greedy(model.step([Group("decode", tokens[-1][:, None], cache)])))
    return torch.stack(tokens, dim=1)


def _with_drafts(model: LongcatFlash, prompt_ids: Tensor, num_tokens: int, cache: Cache) -> Tensor:
    """Each step verifies [last token, draft]: one token is certain, two if the draft is right."""
    requests, length = prompt_ids.shape
    drafts = Drafts(model, requests, cache.max_tokens)
    hidden_NH = model.hidden([Group("prefill", prompt_ids, cache)], all_rows=True)
    last_rows = torch.arange(length - 1, requests * length, length, device=prompt_ids.device)
    tokens = [kernels.greedy(model.logits(kernels.reorder(hidden_NH, last_rows)))]
    shifted_BT = torch.cat((prompt_ids[:, 1:], tokens[0][:, None]), dim=1)
    draft_B = drafts.next("prefill", shifted_BT, hidden_NH, accepted=length)
    while len(tokens) < num_tokens:
        ids_BT = torch.stack((tokens[-1], draft_B), dim=1)
        hidden_NH = model.hidden([Group("decode", ids_BT, cache)])
        verified_BT = kernels.greedy(model.logits(hidden_NH)).view(requests, 2)
        accepted = 2 if bool((verified_BT[:, 0] == draft_B).all()) else 1
        cache.length -= 2 - accepted
        tokens += list(verified_BT[:, :accepted].unbind(dim=1))
        draft_B = drafts.next("decode", verified_BT, hidden_NH, accepted=accepted)
    return torch.stack(tokens[:num_tokens], dim=1)


class Drafts:
    """The draft layer of a model with its cache, for ``requests`` of up to ``max_tokens``."""

    def __init__(self, model: LongcatFlash, requests: int, max_tokens: int) -> None:
        """An empty cache; the model must have a draft layer."""
        assert model.mtp is not None
        self.model, self.layer = model, model.mtp
        self.cache = model.mtp.new_cache(requests, max_tokens)

    def next(
        self, kind: Literal["decode", "prefill"], ids_BT: Tensor, hidden_NH: Tensor, *, accepted: int
    ) -> Tensor:
        """The guess after the first ``accepted`` of the T tokens, [B]; what lies behind them is forgotten.

        ``hidden_NH`` are the model's hidden states one position before the tokens. All T tokens are computed, right or
        not, as a captured graph would.
        """
        requests, num_new = ids_BT.shape
        group = Group(kind, ids_BT, self.cache)
        (place,) = self.model.rotary.places([group], hidden_NH.dtype)
        rows = torch.arange(accepted - 1, requests * num_new, num_new, device=ids_BT.device)
        hidden_BH = self.layer(group, place, hidden_NH, self.model.embedding, rows)
        self.cache.length -= num_new - accepted
        return kernels.greedy(self.model.logits(hidden_BH))

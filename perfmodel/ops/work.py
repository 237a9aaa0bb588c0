"""The work of one step: groups of requests, each with new tokens and tokens already cached.

Decode, verification of draft tokens, prefill and chunked prefill beside decode are all groups; nothing downstream
asks which phase a step is in, only how each group's attention is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from perfmodel.numeric import Num, maximum, minimum
from perfmodel.spec.base import Count
from perfmodel.spec.deployment import Deployment


@dataclass(frozen=True, slots=True)
class Group:
    """Equal requests in one step. Counts are per GPU and may be arrays."""

    kind: Literal["decode", "prefill"]
    """How attention runs: decode reads the cache with few queries, prefill has many queries per request."""
    requests: Num
    """Requests per GPU."""
    new_tokens: Num
    """Tokens that each request adds in this step."""
    cached_tokens: Num
    """Tokens of each request that are in the cache before the step."""
    others: Num = 0.0
    """Keys of each request that its queries read here without a share of their own in ``new_tokens`` or
    ``cached_tokens``: what other GPUs compute of a divided prompt."""

    @property
    def tokens(self) -> Num:
        """New tokens per GPU."""
        return self.requests * self.new_tokens

    @property
    def logit_rows(self) -> Num:
        """Rows that need logits, per GPU: every token in decode (drafts are verified), the last one in prefill."""
        return self.tokens if self.kind == "decode" else self.requests

    def read_keys(self, window: int | None = None) -> Num:
        """Keys of one request that are read (or expanded) here."""
        return self.keys_per_request(window) + self.others

    def attended_pairs(self, window: int | None = None) -> Num:
        """Query-key pairs per GPU under a causal mask: sum over new tokens i of min(cached + i, window)."""
        new, cached = self.new_tokens, self.cached_tokens
        if window is None:
            return self.requests * (new * cached + new * (new + 1.0) / 2.0)
        growing = maximum(0.0, minimum(new, window - cached))
        inside = growing * cached + growing * (growing + 1.0) / 2.0
        return self.requests * (inside + (new - growing) * window)

    def keys_per_request(self, window: int | None = None) -> Num:
        """Distinct keys that one request's queries read."""
        total = self.cached_tokens + self.new_tokens
        return total if window is None else minimum(total, window + self.new_tokens - 1.0)


@dataclass(frozen=True, slots=True)
class Work:
    """The groups of one step."""

    groups: tuple[Group, ...]

    @property
    def tokens(self) -> Num:
        """New tokens per GPU."""
        return self._total(lambda group: group.tokens)

    @property
    def logit_rows(self) -> Num:
        """Rows that need logits, per GPU."""
        return self._total(lambda group: group.logit_rows)

    @property
    def tokens_together(self) -> Num:
        """New tokens of a request in this step, as a token meets it: mean over tokens of its own request's tokens."""
        return self._total(lambda group: group.tokens * group.new_tokens) / self.tokens

    def scaled(self, share: float) -> "Work":
        """The same step with ``share`` of the requests: one micro-batch."""
        return Work(tuple(replace(group, requests=group.requests * share) for group in self.groups))

    def _total(self, count: Callable[[Group], Num]) -> Num:
        total = count(self.groups[0])
        for group in self.groups[1:]:
            total = total + count(group)
        return total


class Divided(Deployment):
    """A deployment of prompts as one of the ranks that divide a prompt sees it: each is a group of its own, with a part
    of the prompt's tokens, whose keys and values it shares with the others.
    """

    context_ranks: Count = 1
    """GPUs (or groups that slice heads) that divide a prompt."""
    rounds: Count = 1
    """In which attention sees the prompt's keys: as many as ranks where they go round in a ring."""


def divided(deployment: Deployment) -> Deployment:
    """The deployment with prompts divided over ``context_parallel`` ranks; unchanged where they are not.

    A rank has n / c of a prompt's n new tokens, cut in zigzag (one piece from the front, one from the back) or in turn,
    so that its queries see as many keys as after (n - n / c) / 2 more cached tokens; the keys beyond are read all the
    same. Everything but attention's core works on tokens, so ranks are data-parallel groups there.

    In a ring a rank meets the n / c keys of one rank after the other's, and a c-th of what is cached. Cut in zigzag
    (pieces r and 2c - 1 - r of 2c), every round has as many pairs: of its own keys two triangles and a square, of
    earlier ranks' the first piece with both of its own, of later ranks' both with its last: half of (n / c)^2 each
    time. So each round is a prompt of n / c tokens behind m / c cached ones.
    """
    ranks = deployment.context_parallel
    if ranks == 1 or deployment.phase != "prefill":
        return deployment
    part, cached = deployment.prefill_tokens / ranks, deployment.prefill_cached_tokens
    ring = deployment.passes_keys
    changed = {
        "attention_tp": deployment.head_tp,
        "attention_dp": deployment.attention_dp * ranks,
        "context_parallel": 1,
        "prefill_requests_per_gpu": deployment.prefill_requests_per_gpu * ranks,
        "prefill_tokens": part,
        "prefill_cached_tokens": cached / ranks
        if ring
        else cached + (deployment.prefill_tokens - part) / 2.0,
        "context_ranks": ranks,
        "rounds": ranks if ring else 1,
    }
    return Divided.model_construct(**{**dict(deployment), **changed})


def context_ranks(deployment: Deployment) -> int:
    """Ranks that divide a prompt with this one, itself included."""
    return deployment.context_ranks if isinstance(deployment, Divided) else 1


def rounds(deployment: Deployment) -> int:
    """Rounds in which attention sees a prompt's keys: 1 but for a ring."""
    return deployment.rounds if isinstance(deployment, Divided) else 1


def step_work(deployment: Deployment) -> Work:
    """The work that a deployment's phase describes."""
    others = 0 if rounds(deployment) > 1 else context_ranks(deployment) - 1
    decode = Group(
        "decode",
        requests=deployment.batch_per_gpu,
        new_tokens=1.0 + deployment.mtp.draft_tokens,
        cached_tokens=deployment.context_tokens,
    )
    prefill = Group(
        "prefill",
        requests=deployment.prefill_requests_per_gpu,
        new_tokens=deployment.prefill_tokens,
        cached_tokens=deployment.prefill_cached_tokens,
        others=deployment.prefill_tokens * others / 2.0,
    )
    return Work({"decode": (decode,), "prefill": (prefill,), "mixed": (decode, prefill)}[deployment.phase])


def draft_work(deployment: Deployment, draft_pass: int) -> Work:
    """The work of one pass of the draft layer (0 is the first).

    The first pass also brings the draft layer's cache up to date, so it takes every verified position of the step
    (draft_tokens + 1, padded, as in a captured graph); later passes take one token per request.
    """
    new_tokens = 1.0 + deployment.mtp.draft_tokens if draft_pass == 0 else 1.0
    return Work((Group("decode", deployment.batch_per_gpu, new_tokens, deployment.context_tokens),))


def tokens_per_step(deployment: Deployment) -> Num:
    """Expected output tokens per request and step: 1, and for each draft the probability that it and those before it
    are accepted.

    With one acceptance a for all, (1 - a^(k+1)) / (1 - a).
    """
    mtp = deployment.mtp
    total: Num = 1.0 + 0.0 * mtp.acceptance
    for share in mtp.survival(mtp.draft_tokens):
        total = total + share
    return total

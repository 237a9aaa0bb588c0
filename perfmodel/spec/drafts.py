"""Speculative decoding: how many tokens are drafted, by what, and how often they are accepted."""

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from perfmodel.spec.base import CountOrZero, Fraction, Spec
from perfmodel.spec.formats import Dtype
from perfmodel.spec.model import Model

MOST_DRAFTS = 64
ROUNDING = 1e-9


class Drafter(Spec):
    """A draft model of its own, in place of the model's multi-token prediction layer.

    It runs on the GPUs of the model that it drafts for, divided as that is (attention TP, dense TP).
    """

    name: str = ""
    """Catalogue name, or empty."""
    source: str = ""
    """Where its shape comes from."""
    kind: Literal["eagle3", "dspark", "model"] = "model"
    """eagle3: a layer that joins the last token's embedding with states of the model's own layers, run once per draft.
    dspark: a few layers that draft all tokens in one pass, and a low-rank head that corrects them one after the other
    (DSpark; DFlash without that head). model: a small language model, run once per draft."""
    model: Model
    """Its layers; of eagle3 ``vocab_size`` is that of its own head. A file may give a published draft's config.json:
    kind, states and rank are then read from it."""
    fused_states: CountOrZero = 3
    """States of the model's layers, each of its hidden size, that are projected to the drafter's width (eagle3 and
    dspark)."""
    markov_rank: CountOrZero = 0
    """Rank of dspark's sequential head; 0: it has none."""
    precision: Dtype = "bf16"
    """Number format of its weights (published drafts are BF16)."""

    @model_validator(mode="after")
    def _consistent(self) -> "Drafter":
        if self.kind != "dspark" and self.markov_rank:
            msg = f"markov_rank = {self.markov_rank}: only kind dspark has such a head, leave it out"
            raise ValueError(msg)
        if self.kind != "model" and not self.fused_states:
            msg = f"fused_states = 0: kind {self.kind} drafts from at least one state of the model"
            raise ValueError(msg)
        return self


class MtpDeployment(Spec):
    """Speculative decoding with the model's own multi-token prediction layer, or with a draft model."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"acceptance_by_position", "accepted_lengths", "acceptance_source", "drafter"}
    )

    draft_tokens: CountOrZero = 0
    """Draft tokens per step and request; 0: off."""
    acceptance: Fraction = 0.0
    """Probability that a draft token is accepted, given that those before it were."""
    acceptance_by_position: tuple[Fraction, ...] | None = None
    """The same of the first draft, the second, ...: at least as many as are drafted. None: ``acceptance`` for all."""
    accepted_lengths: tuple[Annotated[float, Field(ge=1.0, le=MOST_DRAFTS + 1.0)], ...] | None = None
    """A measured curve instead: mean tokens per step with 1 draft, with 2, ... (each draft's own share is what the
    mean gains by it). None: none."""
    acceptance_source: str = ""
    """Where a measured curve comes from."""
    drafter: Drafter | None = None
    """What drafts. A file may give a name of ``perfmodel show drafters``. None: the model's own MTP layer."""

    @model_validator(mode="after")
    def _consistent(self) -> "MtpDeployment":
        problem = self._problem()
        if problem:
            raise ValueError(problem)
        return self

    def _problem(self) -> str | None:
        if self.draft_tokens > MOST_DRAFTS:
            return f"draft_tokens = {self.draft_tokens} must be at most {MOST_DRAFTS}"
        lists = {
            name: getattr(self, name)
            for name in ("acceptance_by_position", "accepted_lengths")
            if getattr(self, name) is not None
        }
        if len(lists) == 2 or (lists and self.acceptance):
            both = (
                "acceptance_by_position and accepted_lengths"
                if len(lists) == 2
                else f"acceptance and {next(iter(lists))}"
            )
            return f"{both}: state one of them, each says how many drafts are accepted (acceptance: 0 says nothing)"
        for name, values in lists.items():
            if len(values) < max(self.draft_tokens, 1):
                return f"{name} has {len(values)} values, draft_tokens = {self.draft_tokens} needs one for each draft"
        gained = 1.0
        for number, (before, length) in enumerate(
            zip((1.0, *(self.accepted_lengths or ())), self.accepted_lengths or (), strict=False)
        ):
            if not -ROUNDING <= length - before <= gained + ROUNDING:
                return (
                    f"accepted_lengths.{number} = {length:g}: draft {number + 1} must add from 0 to {gained:.4g} "
                    f"tokens to the {before:g} before it, as it counts only if those before it were accepted"
                )
            gained = length - before
        return None

    @property
    def listed(self) -> bool:
        """Whether drafts have acceptances of their own."""
        return self.acceptance_by_position is not None or self.accepted_lengths is not None

    @property
    def drafts_known(self) -> int:
        """Most drafts whose acceptance is stated; one acceptance holds for any number."""
        found = self.acceptance_by_position or self.accepted_lengths
        return MOST_DRAFTS if found is None else len(found)

    @property
    def accepts(self) -> bool:
        """Whether anything is said to be accepted."""
        return bool(self.acceptance) or any(self.survival(self.drafts_known) if self.listed else ())

    def survival(self, drafts: int) -> tuple[float, ...]:
        """Probability that the first draft is accepted, the first two are, ...: of ``drafts``; one acceptance may be an
        array, and so are these then.
        """
        if self.accepted_lengths is not None:
            lengths = (1.0, *self.accepted_lengths[:drafts])
            return tuple(max(b - a, 0.0) for a, b in pairwise(lengths))
        each = self.acceptance_by_position or (self.acceptance,) * drafts
        found, power = [], 1.0
        for one in each[:drafts]:
            power = power * one
            found.append(power)
        return tuple(found)

    @property
    def words(self) -> str:
        """How many are accepted, in words."""
        if not self.listed:
            return f"accepted with probability {self.acceptance:g}"
        shares = ", ".join(f"{share:.3g}" for share in self.survival(self.draft_tokens))
        return f"of which the first, two, ... are accepted in {shares} of the steps"

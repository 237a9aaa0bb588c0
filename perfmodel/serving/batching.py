"""How a replica batches."""

from dataclasses import dataclass
from typing import Literal

from perfmodel.errors import SpecError
from perfmodel.serving.tiers import Tiers

Policy = Literal["mixed", "prefill-first"]


@dataclass(frozen=True, slots=True)
class Batching:
    """How a replica batches."""

    policy: Policy
    max_batched_tokens: int
    tokens_per_decode: int
    """Tokens that a decoding request adds to a step: 1 and its drafts."""
    graph_batches: tuple[int, ...] = ()
    poll_steps: int = 1
    """Decode steps between two looks at requests that have come meanwhile."""
    hold_steps: int = 0
    """Prompts wait until every rank has one, at most so many decode steps (TensorRT-LLM's attention-DP balance); 0:
    they run as they come. No engine does both this and polling."""
    swap_s_per_token: float | None = None
    """Seconds in which a token's cache is copied to the host, or back. None: a request that loses its blocks is
    computed again."""
    tiers: Tiers | None = None
    """Memories below the GPU's that keep prompts; None: there are none."""
    together: bool = True
    """Whether steps are advanced together; False: one by one, which gives the same and takes longer."""

    def __post_init__(self) -> None:
        if self.hold_steps and self.poll_steps > 1:
            raise SpecError(
                f"hold_steps = {self.hold_steps} beside poll_steps = {self.poll_steps}: an engine either holds prompts "
                "back or polls for them"
            )

"""What goes wrong while a cluster serves."""

from typing import Literal

from pydantic import Field, model_validator

from perfmodel.spec.base import CountOrZero, NonNegative, Positive, Spec


class Fault(Spec):
    """One fault of one replica, from ``at_s`` for ``for_s`` seconds.

    straggler: the slowest GPU's kernels take ``slowdown`` times as long, and its replica waits for it in every layer.
    slow-link: its network adapter does. lost-node: the replica is gone with all that it has; its requests start again
    elsewhere, with the tokens that were already sent. drain: it takes no more requests and ends those that it has
    begun.
    """

    kind: Literal["straggler", "slow-link", "lost-node", "drain"]
    """What happens."""
    at_s: NonNegative
    """Seconds after the start."""
    for_s: Positive
    """How long it lasts; then the replica is as before (a lost or drained one is empty, and takes requests again)."""
    pool: Literal["decode", "prefill"] = "decode"
    """Which replicas: those that decode (or do both), or those that compute prompts only."""
    replica: CountOrZero = 0
    """Which of them, from 0."""
    slowdown: Positive | None = Field(default=None, ge=1.0, le=1000.0)
    """Of straggler and slow-link: times as slow."""

    @model_validator(mode="after")
    def _slowdown_where_it_belongs(self) -> "Fault":
        slows = self.kind in ("straggler", "slow-link")
        if slows != (self.slowdown is not None):
            msg = (
                f"kind = {self.kind} needs slowdown, how many times as slow (at least 1)"
                if slows
                else f"slowdown = {self.slowdown:g} belongs to straggler and slow-link, not to {self.kind}"
            )
            raise ValueError(msg)
        return self

"""Service level objectives: what a request must keep to count as good."""

from perfmodel.spec.base import Positive, Spec


class Slo(Spec):
    """Limits per request, milliseconds as vLLM's ``--goodput`` has them; None: no limit."""

    ttft_ms: Positive | None = None
    """Time to first token."""
    tpot_ms: Positive | None = None
    """Time per output token after the first."""
    e2e_ms: Positive | None = None
    """From arrival to the last token."""

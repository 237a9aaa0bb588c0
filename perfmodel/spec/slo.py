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


USUAL = Slo(ttft_ms=2000.0, tpot_ms=80.0)
USUAL_SOURCE = (
    "first token within 2 s, at most 80 ms per token (MLPerf Inference 5.1, DeepSeek-R1, server; there the 99th "
    "percentile)"
)
"""Objectives for whoever states none and must have some. MLPerf's limits are quoted from memory: no text of theirs
could be fetched when this was written."""

"""What a workload says of its trace, apart from the tables so that a scenario is read without numpy."""

from typing import Literal

from perfmodel.spec.base import Spec

TraceFormat = Literal[
    "auto",
    "azure",
    "mooncake",
    "burstgpt",
    "qwen",
    "vidur",
    "splitwise",
    "servegen",
    "servegen-offline",
    "aiperf",
    "perfmodel",
    "vllm",
    "sglang",
    "guidellm",
]
TimeUnit = Literal["dates", "s", "ms", "us", "ns"]
TurnInputs = Literal["whole", "new"]

MAX_REQUESTS = 10_000_000
"""Requests of one workload: a table of about half a gigabyte, and a quarter of an hour of simulation."""
MAX_TOKENS = 10_000_000
"""Tokens of one prompt or output: the longest context window that anyone sells."""


class TraceColumns(Spec):
    """Which column of a trace holds what; in lines of JSON a name with dots leads into nested objects."""

    time: str | None = None
    """When requests came: dates, or numbers in ``workload.time_unit``. None: the file has no times."""
    input: str
    """Tokens of the prompt."""
    output: str
    """Tokens of the output."""
    session: str | None = None
    """What requests of one conversation have in common."""
    delay: str | None = None
    """Milliseconds from the end of the session's request before to this one."""
    hash_ids: str | None = None
    """Ids of the prompt's blocks of ``workload.hash_block_tokens`` tokens (lines of JSON and Parquet only)."""

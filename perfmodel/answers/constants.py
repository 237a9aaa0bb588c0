"""What an engine adds around the kernels, in words: how it launches, every constant of its host and its front end."""

from collections.abc import Iterator

from perfmodel.spec.scenario import Scenario
from perfmodel.spec.serving import FrontEnd
from perfmodel.units import MS, US

HOST_WORDS = {
    "prepare_us": ("to prepare a step", "preparing a step"),
    "launch_us": ("per eager launch", "eager launches"),
    "uncounted_us": ("more per launch of a step with prompts", "launches that nobody counted"),
    "node_us": ("between kernels of a graph (beyond what timings hold)", "gaps in graphs"),
    "join_us": ("where a graph waits for another stream", "joins in graphs"),
}
"""Field of ``deployment.host``, us -> what it is spent on, and what is not counted where it is zero."""
FRONT_END_WORDS = {
    "latency_s": "per request outside the engine",
    "request_s": "of a server process per request",
    "chunk_s": "of a server process per chunk of output",
}
"""Field of ``serving.front_end``, seconds -> what it is spent on."""


def engine_constants(scenario: Scenario) -> list[str]:
    """Clauses: how steps are launched, what the host and the front end cost, each constant once; what is at zero is
    named as not counted.
    """
    host = scenario.deployment.host
    overlapped = " beside the GPU" if host.asynchronous else ""
    costs, absent = [], []
    for key, (what, name) in HOST_WORDS.items():
        value = float(getattr(host, key))
        if value:
            costs.append(f"{value:,.4g} us {what}{overlapped if key == 'prepare_us' else ''}")
        else:
            absent.append(name)
    return [
        f"decode steps by {host.decode}, steps with prompts by {host.prompts}",
        *costs,
        f"front end: {', '.join(_front_end(scenario.serving.front_end)) or 'no time'}",
        *([f"not counted: {', '.join(absent)}"] if absent else []),
    ]


def _front_end(front_end: FrontEnd) -> Iterator[str]:
    """Clauses about what stands before the engine; none where it costs nothing."""
    for key, what in FRONT_END_WORDS.items():
        seconds = float(getattr(front_end, key))
        if seconds:
            scale, unit = (MS, "ms") if seconds >= MS else (US, "us")
            yield f"{seconds / scale:,.4g} {unit} {what}"
    if front_end.servers > 1:
        yield f"{front_end.servers} server processes"
    if front_end.stream_interval > 1:
        yield f"a chunk for every {front_end.stream_interval} tokens"

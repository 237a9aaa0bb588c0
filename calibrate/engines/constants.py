"""The constants of a serving engine that nothing says and runs can show."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from perfmodel.engines.versions import is_before

Values = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """One thing that is fitted."""

    path: str
    """Key path of a scenario."""
    grid: Values
    """Values at which predictions are taken, the first the neutral one."""
    least: float = 0.0
    """Where it is not neutral, it is at least this."""
    bound: float = float("inf")
    """What it may be; the rest is ``beyond``."""
    beyond: str = ""
    """Key path of what exceeds the bound."""
    before: Mapping[str, str] = field(default_factory=dict)
    """Engine -> the version from which its rows show none of it."""

    def of(self, engine: str, version: str) -> bool:
        """Whether an engine of a version has it."""
        end = self.before.get(engine)
        return end is None or is_before(version, end)

    @property
    def most(self) -> float:
        """The largest that is tried."""
        return self.grid[-1]

    def settings(self, value: float) -> dict[str, float]:
        """Key paths and values."""
        rest = {self.beyond: max(value - self.bound, 0.0)} if self.beyond else {}
        return {self.path: min(value, self.bound), **rest}


CONSTANTS = (
    Constant(
        "deployment.host.launch_us",
        (0.0, 15.0, 30.0, 50.0, 70.0, 100.0),
        least=3.0,
        bound=30.0,
        beyond="deployment.host.uncounted_us",
    ),
    Constant("deployment.host.node_us", (0.0, 1.0, 3.0)),
    Constant("deployment.host.prepare_us", (0.0, 3_000.0)),
    Constant("serving.front_end.latency_s", (0.0, 0.03, 0.08, 0.2)),
    Constant("serving.front_end.request_s", (0.0, 0.004, 0.008)),
    Constant("serving.front_end.chunk_s", (0.0, 1e-4, 2.5e-4), before={"vllm": "0.12.0"}),
)
"""Bounds: 3 to 30 us per eager launch (a launch alone, and one through Python and its dispatchers); what counted
launches take beyond that is a floor with a name of its own. vLLM's front end streams at two speeds, by rows of role fit
alone: bursts of 0.11 with 984 requests in flight leave it at 5,800 to 6,700 tokens/s, while one of 0.18 passes 9,043 at
64 in flight (gpt-oss-120b, 8 x H100) and shows no limit. 0.12 is the first version between them whose source was
read."""

START = np.array([50.0, 1.0, 0.0, 0.03, 0.003, 5e-5])

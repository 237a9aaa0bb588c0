"""A run of decode steps: how long it takes, and which of its steps is under way."""

from dataclasses import dataclass

from perfmodel.serving.step_times import StepTimes


@dataclass(slots=True)
class DecodeRun:
    """Decode steps that are under way."""

    start_s: float
    times: StepTimes
    copying_s: float
    """Of caches between GPU and host, before the first step."""
    steps: int
    requests: int
    tokens: float
    growth: float
    even: float
    waiting: int
    held: int
    stretch: float
    """How much longer what is sent takes, for caches on the same wire."""
    late_s: float = 0.0
    """What the last step takes longer than that, for a stretch that came or went in it."""
    cut: bool = False
    """Whether it ends with the step that is under way."""

    def seconds(self, steps: int) -> float:
        """From its start to the end of so many of its steps."""
        late_s = self.late_s if steps == self.steps else 0.0
        if steps == 1:
            one_s = self.times.decode_s(self.requests, self.tokens, self.even, self.stretch)
            return self.copying_s + one_s + late_s
        own_s = self.times.decode_run_s(
            self.requests, self.tokens, self.growth, steps, self.even, self.stretch
        )
        return self.copying_s + own_s + late_s

    @property
    def end_s(self) -> float:
        """When its last step ends."""
        return self.start_s + self.seconds(self.steps)

    def steps_after(self, passed: float) -> int:
        """Steps until the first one that ends ``passed`` seconds after its start, or later; at least one."""
        steps = max(1, min(self.steps, int(passed / self.seconds(self.steps) * self.steps)))
        while steps < self.steps and self.seconds(steps) < passed:
            steps += 1
        while steps > 1 and self.seconds(steps - 1) >= passed:
            steps -= 1
        return steps

    def stretched(self, now: float, before: float, after: float) -> None:
        """The step under way, its last, takes another time from now on: what it sends was stretched ``before`` times
        and is ``after`` times.
        """
        last = self.tokens + self.growth * (self.steps - 1)
        left = max(0.0, self.end_s - now)
        slow = self.times.decode_s(self.requests, last, self.even, after)
        self.late_s += left * (slow / self.times.decode_s(self.requests, last, self.even, before) - 1.0)

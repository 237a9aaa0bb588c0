"""Step times that are longer or shorter throughout: one draw of what a model does not know about a device."""

from collections.abc import Callable
from dataclasses import dataclass

from perfmodel.serving.conditions import Condition, Fleet
from perfmodel.serving.step_times import GridStepTimes, StepTimes


@dataclass(frozen=True, slots=True)
class Stretched:
    """Other step times, multiplied; nothing is asked of the twin again."""

    times: StepTimes
    decode: float = 1.0
    """Factor on steps that only decode."""
    prompt: float = 1.0
    """Factor on steps that carry prompts, whether beside decodes or alone."""

    @property
    def grids(self) -> GridStepTimes:
        """What is multiplied, where it is on grids."""
        assert isinstance(self.times, GridStepTimes)
        return self.times

    def decode_s(self, requests: int, tokens: float, even: float) -> float:
        """See :class:`perfmodel.serving.step_times.StepTimes`."""
        return self.decode * self.times.decode_s(requests, tokens, even)

    def decode_run_s(self, requests: int, tokens: float, growth: float, steps: int, even: float) -> float:
        """See :class:`perfmodel.serving.step_times.StepTimes`."""
        return self.decode * self.times.decode_run_s(requests, tokens, growth, steps, even)

    def prompt_s(self, prompt: float, attended: float, requests: int, tokens: float, even: float) -> float:
        """See :class:`perfmodel.serving.step_times.StepTimes`."""
        return self.prompt * self.times.prompt_s(prompt, attended, requests, tokens, even)


def stretched(fleet: Fleet, decode: float, prompt: float) -> Fleet:
    """The same step times of both kinds of replicas, under every condition, multiplied."""

    def of(times: Callable[[Condition], StepTimes]) -> Callable[[Condition], StepTimes]:
        return lambda condition: Stretched(times(condition), decode, prompt)

    return Fleet(of(fleet.decode), of(fleet.prefill) if fleet.prefill is not None else None)

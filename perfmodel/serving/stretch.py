"""Step times that are longer or shorter throughout: one draw of what a model does not know about a device."""

from collections.abc import Callable
from dataclasses import dataclass, field

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

    def decode_s(self, requests: int, tokens: float, even: float, stretch: float = 1.0) -> float:
        """See :class:`perfmodel.serving.step_times.StepTimes`."""
        return self.decode * self.times.decode_s(requests, tokens, even, stretch)

    def decode_run_s(
        self, requests: int, tokens: float, growth: float, steps: int, even: float, stretch: float = 1.0
    ) -> float:
        """See :class:`perfmodel.serving.step_times.StepTimes`."""
        return self.decode * self.times.decode_run_s(requests, tokens, growth, steps, even, stretch)

    def room(self, requests: int, even: float) -> float:
        """See :class:`perfmodel.serving.step_times.StepTimes`."""
        return self.times.room(requests, even)

    def prompt_s(self, prompt: float, attended: float, requests: int, tokens: float, even: float) -> float:
        """See :class:`perfmodel.serving.step_times.StepTimes`."""
        return self.prompt * self.times.prompt_s(prompt, attended, requests, tokens, even)


@dataclass(frozen=True, slots=True)
class StretchedTimes:
    """Step times under each condition, multiplied. A plain object, as what it multiplies is."""

    times: Callable[[Condition], StepTimes]
    decode: float
    prompt: float
    _made: dict[Condition, Stretched] = field(default_factory=dict, compare=False)

    def __call__(self, condition: Condition) -> Stretched:
        """The same object for the same condition."""
        if condition not in self._made:
            self._made[condition] = Stretched(self.times(condition), self.decode, self.prompt)
        return self._made[condition]


def stretched(fleet: Fleet, decode: float, prompt: float) -> Fleet:
    """The same step times of both kinds of replicas, under every condition, multiplied."""
    prefill = None if fleet.prefill is None else StretchedTimes(fleet.prefill, decode, prompt)
    return Fleet(StretchedTimes(fleet.decode, decode, prompt), prefill)

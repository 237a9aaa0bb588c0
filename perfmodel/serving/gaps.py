"""When each running request's last output came, and the gaps between outputs, kept as runs.

Most requests had their last output at the end of the same step; only those that were prefilled since, or lost their
blocks, have a time of their own.
"""

QUARTERS = 4
"""Parts in which the gaps of steps that are advanced together are kept, from the first to the last."""


class Gaps:
    """Of one replica; writes into the lists that it is given."""

    def __init__(self, seconds: list[float], counts: list[int], lost: dict[int, float]) -> None:
        """``seconds`` and ``counts`` collect gaps, and how many there were of each; ``lost`` has the requests that lost
        their blocks, here or elsewhere -> when their last output came.
        """
        self._seconds, self._counts, self._lost = seconds, counts, lost
        self._steady = 0
        """Decoding requests whose last output came at ``_steady_s``."""
        self._steady_s = 0.0
        self._fresh: dict[int, float] = {}
        """Requests that have not decoded since their last prefill -> when their last output came."""

    def joined(self, request: int, now: float) -> None:
        """A request has had an output from its prefill and decodes from now on."""
        self._fresh[request] = now

    def preempted(self, request: int) -> None:
        """A decoding request has lost its blocks."""
        last = self._fresh.pop(request, None)
        if last is None:
            self._steady -= 1
            last = self._steady_s
        self._lost[request] = last

    def swapped_in(self, request: int) -> None:
        """A preempted request decodes again, with the cache that it had."""
        self._fresh[request] = self._lost.pop(request)

    def resumed(self, request: int, now: float) -> None:
        """A preempted request has had an output from its second prefill."""
        self._add(now - self._lost.pop(request), 1)

    def decoded(self, first_end: float, now: float) -> None:
        """All decoding requests have had an output at the end of a step, ``first_end``, and their last one now."""
        if self._steady:
            self._add(first_end - self._steady_s, self._steady)
        for last in self._fresh.values():
            self._add(first_end - last, 1)
        self._steady += len(self._fresh)
        self._fresh.clear()
        self._steady_s = now

    def ran(self, first: float, mean: float, steps: int) -> None:
        """After :meth:`decoded`: the gaps of a run's ``steps`` steps behind its first, which took ``first``. They grow
        evenly with the caches, so each part has its own mean.
        """
        if steps < QUARTERS:
            self._add(mean, self._steady * steps)
            return
        for part in range(QUARTERS):
            begin, end = steps * part // QUARTERS, steps * (part + 1) // QUARTERS
            from_middle = (begin + end - 1) / 2.0 - (steps - 1) / 2.0
            self._add(mean + (mean - first) * from_middle / (steps / 2.0), self._steady * (end - begin))

    def left(self) -> None:
        """A request has ended with the step that has just been noted."""
        self._steady -= 1

    def _add(self, seconds: float, count: int) -> None:
        self._seconds.append(seconds)
        self._counts.append(count)

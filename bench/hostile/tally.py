"""Counting what became of inputs.

- answered: a result; refused: one line that says why (PerfModelError, exit 2 or 3);
- traceback: any other exception, a crash, or a refusal that is no line;
- wrong: answered where nothing may be (:mod:`bench.hostile.oracles`);
- lost: a file that was there before and is not, or is another, or a leftover that the next run does not remove;
- slow, large: more than MOST_S of CPU or MEMORY_MB for one input.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

MOST_S = 20.0
"""CPU seconds of one input."""
MEMORY_MB = 500
"""Of one input, beyond what the program takes to answer anything at all."""
BAD = ("traceback", "wrong", "lost", "slow", "large")
COLUMNS = ("tried", "answered", "refused", *BAD)
EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input."""

    word: str
    """Of COLUMNS."""
    said: str
    seconds: float = 0.0
    megabytes: float = 0.0


@dataclass
class Tally:
    """What became of the inputs of one kind."""

    counts: Counter[str] = field(default_factory=Counter)
    worst_s: float = 0.0
    worst_mb: float = 0.0
    examples: list[str] = field(default_factory=list)
    """The first of each kind of break."""
    seen: set[str] = field(default_factory=set)

    def add(self, outcome: Outcome, name: str) -> None:
        """Count one; ``name`` makes it again."""
        self.counts["tried"] += 1
        self.counts[outcome.word] += 1
        self.worst_s, self.worst_mb = (
            max(self.worst_s, outcome.seconds),
            max(self.worst_mb, outcome.megabytes),
        )
        if outcome.word in BAD and len(self.examples) < EXAMPLES and outcome.said[:40] not in self.seen:
            self.seen.add(outcome.said[:40])
            self.examples.append(f"{outcome.word}: {name}: {outcome.said[:400]!r}")


def table(tallies: Mapping[str, Tally]) -> str:
    """The counts and what broke, for people."""
    head = ("kind", *COLUMNS, "worst s", "worst MB")
    total = Tally()
    for one in tallies.values():
        total.counts.update(one.counts)
        total.worst_s, total.worst_mb = max(total.worst_s, one.worst_s), max(total.worst_mb, one.worst_mb)
    rows = [head] + [
        (kind, *(str(one.counts[name]) for name in COLUMNS), f"{one.worst_s:.1f}", f"{one.worst_mb:.0f}")
        for kind, one in [*sorted(tallies.items()), ("all", total)]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    cells = [
        [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    examples = [f"  {example}" for _, one in sorted(tallies.items()) for example in one.examples]
    return "\n".join([*("  ".join(row) for row in cells), *examples])

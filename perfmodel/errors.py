"""What perfmodel raises for a user's mistake.

    PerfModelError            exit code 2: bad input
     +-- SpecError            a scenario, model, cluster or deployment field
     +-- DataError            a file that can't be read, or holds something else than it should
     +-- UnsupportedError     a model or a combination that perfmodel does not model
     +-- WorkerError          processes or a cluster that should do the work can't be had, or were lost
     +-- InfeasibleError      exit code 3: the scenario is well formed but can't run (does not fit)

Every message says what is wrong (field and value), what is allowed, and how to fix it. An
``assert`` or any other exception that reaches the user is a defect of perfmodel's own.
"""


class PerfModelError(ValueError):
    """A mistake in what the user gave."""

    exit_code = 2


class SpecError(PerfModelError):
    """A field of a scenario has a value that is not allowed."""


class DataError(PerfModelError):
    """A file can't be read or does not hold what it should."""


class UnsupportedError(PerfModelError):
    """A kind of model, or a combination of settings, that perfmodel does not model."""


class WorkerError(PerfModelError):
    """Processes or a cluster that should do the work can't be had, or were lost."""


class InfeasibleError(PerfModelError):
    """A well-formed scenario that can't run, for example because it does not fit in memory."""

    exit_code = 3

"""Suite ``silicon-2026``: InferenceX's and aiconfigurator's newer rows, of models that the constants have not seen.

Rows of models that enter no fit are summed up apart (``-transfer``).
"""

from concurrent.futures import Executor

from perfmodel.validation.rows import Row
from perfmodel.validation.silicon import Progress, published_rows
from perfmodel.validation.silicon import calibrations as calibrations

NAME = "silicon-2026"
FILE = "silicon_2026.csv"


def rows(progress: Progress | None = None, executor: Executor | None = None) -> list[Row]:
    """The suite's rows: one for TPOT and one for TTFT per measurement."""
    return published_rows(NAME, FILE, progress, executor)

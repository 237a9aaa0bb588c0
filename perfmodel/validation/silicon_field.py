"""Suite ``silicon-field``: closed loops among public runs of 2025-26, most at engine defaults."""

from concurrent.futures import Executor

from perfmodel.validation.rows import Row
from perfmodel.validation.silicon import Progress, published_rows
from perfmodel.validation.silicon import calibrations as calibrations

NAME = "silicon-field"
FILE = "silicon_2026_field.csv"


def rows(progress: Progress | None = None, executor: Executor | None = None) -> list[Row]:
    """The suite's rows: one for TPOT and one for TTFT per run, where stated."""
    return published_rows(NAME, FILE, progress, executor)

"""Tokens per layer and expert as a plain matrix: what EPLB takes, and what an engine's recorder holds.

``.npy`` (never pickled objects) or CSV without a header: a row per layer, a column per expert. A third axis in front,
as of SGLang's recorder (``logical_count``: buffered steps x layers x experts), is summed. Rows in which no expert has a
token are layers without experts, where engines number all layers, and are left out.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.spec.paths import is_file, quoted

MOST_CELLS = 64_000_000
MOST_BYTES = 64 * 2**20
"""Of a CSV file."""
FIRST_LINE_BYTES = 2**16


def is_matrix(path: Path) -> bool:
    """Whether a file holds a matrix: ``.npy``, or CSV whose first line is numbers.

    Raises:
        DataError: no such file, or a pickle.
    """
    if path.suffix in (".pt", ".pth", ".pkl", ".pickle"):
        raise DataError(
            f"{quoted(path)}: may run code when it is read; save its counts with numpy first (docs/routing.md)"
        )
    if path.suffix not in (".npy", ".csv"):
        return False
    if not is_file(path):
        raise DataError(f"{quoted(path)}: no such file")
    if path.suffix == ".npy":
        return True
    with path.open("rb") as file:
        cells = file.readline(FIRST_LINE_BYTES).decode("utf-8", "replace").strip().split(",")
    return len(cells) > 1 and all(map(_is_number, cells))


def _is_number(text: str) -> bool:
    try:
        return text.isascii() and np.isfinite(float(text))
    except ValueError:
        return False


def read_matrix(path: Path, num_experts: int) -> NDArray[np.float64]:
    """Tokens per MoE layer and expert, (layers, num_experts).

    Raises:
        DataError: it can't be read, has another number of experts, a negative or broken number, or no tokens.
    """
    found = _npy(path) if path.suffix == ".npy" else _csv(path)
    if found.ndim not in (2, 3):
        raise DataError(
            f"{quoted(path)}: has the shape {found.shape}: must be layers x experts, or steps x layers x experts"
        )
    counts: NDArray[np.float64] = found.sum(axis=0) if found.ndim == 3 else found
    if counts.shape[1] != num_experts:
        raise DataError(f"{quoted(path)}: has {counts.shape[1]} experts; this model has {num_experts}")
    if not (np.isfinite(counts) & (counts >= 0.0)).all():
        row, column = np.argwhere(~(np.isfinite(counts) & (counts >= 0.0)))[0]
        raise DataError(f"{quoted(path)}: layer {row}, expert {column}: must be a number, 0 or above")
    used: NDArray[np.float64] = counts[counts.sum(axis=1) > 0.0]
    if not len(used):
        raise DataError(f"{quoted(path)}: no expert has any token")
    return used


def _npy(path: Path) -> NDArray[np.float64]:
    try:
        found = np.load(
            path, mmap_mode="r", allow_pickle=False
        )  # mapped: a size that the file does not have fails
    except (ValueError, OSError, EOFError, OverflowError, MemoryError, SyntaxError) as error:
        raise DataError(f"{quoted(path)}: is no plain array that numpy.save wrote") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf" or found.size > MOST_CELLS:
        raise DataError(f"{quoted(path)}: must be an array of at most {MOST_CELLS:,} plain numbers")
    plain: NDArray[np.float64] = found.astype(np.float64)
    return plain


def _csv(path: Path) -> NDArray[np.float64]:
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{quoted(path)}: larger than {MOST_BYTES:,} bytes; save it with numpy.save")
    rows: list[list[float]] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            cells = line.strip().split(",")
            if cells == [""]:
                continue
            if not all(map(_is_number, cells)) or (rows and len(cells) != len(rows[0])):
                raise DataError(
                    f"{quoted(path)}: line {number}: must be {len(rows[0]) if rows else 'all'} numbers, one per expert"
                )
            rows.append([float(cell) for cell in cells])
    return np.asarray(rows, dtype=np.float64)

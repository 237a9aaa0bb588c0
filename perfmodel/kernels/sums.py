"""Hashes of all files of a calibration's folder, so that a page quotes none that is damaged or another fit's.

``SHA256SUMS`` is written by whatever writes there, and ``sha256sum -c SHA256SUMS`` checks it too. calibration.json has
a hash of its own content as its id, and states those of the tables and timings that it was made with.
"""

import hashlib
from pathlib import Path

from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.spec.paths import is_file, quoted

FILE = "SHA256SUMS"
MOST_BYTES = 2**16


def check_sum(path: Path) -> None:
    """Refuse a file that is not the one that its folder lists; a folder without a list says nothing.

    Raises:
        DataError: as said, or the list can't be read.
    """
    listed = path.with_name(FILE)
    if not is_file(listed):
        return
    try:
        with listed.open("rb") as file:
            lines = file.read(MOST_BYTES).decode("utf-8", "replace").splitlines()
        stated = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        digest = _digest(path)
    except OSError as error:
        raise DataError(f"{quoted(path)}: can't be read: {error.strerror or error}") from error
    if stated.get(path.name) != digest:
        raise DataError(
            f"{quoted(path)}: damaged, edited or of another fit: {FILE} beside it says otherwise; make the calibration "
            "or its check anew"
        )


def write_sums(folder: Path) -> None:
    """List every file of a calibration's folder but the list and hidden ones.

    Raises:
        DataError: the list can't be written.
    """
    names = sorted(
        one.name for one in folder.iterdir() if one.is_file() and one.name != FILE and one.name[0] != "."
    )
    try:
        atomic_write(folder / FILE, "".join(f"{_digest(folder / name)}  {name}\n" for name in names))
    except OSError as error:
        raise DataError(f"{folder / FILE}: can't be written: {error.strerror}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

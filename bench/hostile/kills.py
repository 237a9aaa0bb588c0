"""Writers killed at random points: a file is whole at any time, and the next write removes what they left.

Three kinds of writers: one that replaces a file again and again, one that writes a calibration's list of hashes, and a
sweep, which goes on afterwards and ends with the bytes of one that was never killed.
"""

import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from bench.hostile.tally import Outcome, Tally

SWEEPS = 0.1
"""Share of the kills that hit a sweep."""
Writer = Callable[[Path], None]


def rewritten(path: Path, size: int) -> None:
    """Replaces a file for ever, with texts that show whether they are whole."""
    from perfmodel.files import atomic_write

    for number in range(10**9):
        atomic_write(path, f"whole {number} " * size)


def swept(folder: Path) -> None:
    """A sweep of some pieces."""
    from perfmodel.explore.sweep.design import plan_of
    from perfmodel.explore.sweep.run import Sweep, run_sweep

    run_sweep(Sweep("table7-qwen3-235b", (), plan_of(["deployment.batch_per_gpu=1:64"]), "step"), folder)


def killed(writer: Writer, place: Path, after_s: float) -> None:
    """Run a writer in a process of its own and kill it after a while."""
    process = os.fork()
    if not process:
        code = 1
        try:
            writer(place)
            code = 0
        finally:
            os._exit(code)
    time.sleep(after_s)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def one_file(
    chance: random.Random, folder: Path, writer: Callable[[Path, int], None] = rewritten
) -> list[str]:
    """Kill a writer of one file; what is lost."""
    from perfmodel.files import atomic_write

    target, other = folder / "out.json", folder / "mine.txt"
    other.write_text("a user's file")
    target.write_text("before")
    size = chance.choice([1, 1_000, 200_000])
    killed(lambda path: writer(path, size), target, chance.random() * 0.03)
    text, lost = target.read_text(), []
    words = text.split(" ") if text != "before" else []
    if words and (len(words) != 2 * size + 1 or len(set(words[1:-1:2])) != 1):
        lost.append("half a file")
    if other.read_text() != "a user's file":
        lost.append("another file")
    atomic_write(target, "after")
    left = sorted(path.name for path in folder.iterdir() if path not in (target, other))
    return [*lost, *(f"left: {name}" for name in left)]


def one_sweep(chance: random.Random, folder: Path, whole: str) -> list[str]:
    """Kill a sweep and go on with it; what is lost of it."""
    killed(swept, folder / "ds", chance.random() * 1.5)
    with contextlib.suppress(FileNotFoundError):
        (folder / "ds" / "journal.txt").open("a").write(chance.choice(["", "1", "0"]))  # a line that was cut
    swept(folder / "ds")
    left = [
        path.name for path in (folder / "ds").rglob(".*") if path.name != ".lock"
    ]  # which a dataset keeps
    return [
        *(["another dataset"] if _digest(folder / "ds") != whole else []),
        *(f"left: {name}" for name in left),
    ]


def _digest(folder: Path) -> str:
    found = sha256()
    for path in sorted((folder / "pieces").iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def kills(count: int, seed: int, tally: Tally, until: float) -> None:
    """Kill so many writers; each is counted."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        swept(Path(name) / "ds")
        whole = _digest(Path(name) / "ds")
    for number in range(count):
        if time.monotonic() > until:
            return
        chance, started = random.Random(f"kill/{seed}.{number}"), time.process_time()
        with tempfile.TemporaryDirectory(prefix="hostile-") as name:
            sweep = chance.random() < SWEEPS
            lost = one_sweep(chance, Path(name), whole) if sweep else one_file(chance, Path(name))
        said = f"{'a sweep' if sweep else 'a file'}: {lost}"
        tally.add(
            Outcome("lost" if lost else "answered", said, time.process_time() - started),
            f"kill {seed}.{number}",
        )

"""Functions for the dashboard's pool of processes, in a module of their own: its processes import them by name."""

import os
import time

from dashboard.pool import pooled
from perfmodel.errors import SpecError


@pooled(8)
def process_of(name):
    """The process that did it, and when."""
    return os.getpid(), time.monotonic()


@pooled(8)
def noted(folder, name, seconds):
    """Leaves a file when it begins and another when it has ended: after some seconds, or when it is let go."""
    (folder / f"{name}.begun").touch()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (folder / "go").exists():
        time.sleep(0.01)
    (folder / f"{name}.ended").touch()
    return name


@pooled(8, slow=True)
def slowly(folder, name, seconds):
    """The same of something that is marked as slow."""
    return noted.__wrapped__(folder, name, seconds)


@pooled(8)
def counted(number, *, progress):
    """Says how far it is."""
    for done in range(number):
        progress(done, number)
        time.sleep(0.06)
    return number


@pooled(8)
def refuses(text):
    raise SpecError(text)


@pooled(8)
def dies(folder):
    """Ends its process, the first time."""
    if not (folder / "died").exists():
        (folder / "died").touch()
        os._exit(1)
    return os.getpid()


@pooled(8, key=lambda number, _: (number,))
def by_number(number, other):
    return number, other

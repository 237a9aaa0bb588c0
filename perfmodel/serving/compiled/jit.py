"""numba, where it is there: one decorator, and a folder of the user's own for what has been compiled.

numba keeps compiled code as pickle, which runs what it holds when it is read. So the folder belongs to the user alone
(mode 0700); where there is none that does, nothing is kept and every process compiles anew.
"""

import hashlib
import os
import stat
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

HERE = Path(__file__).parent
SOURCES = ("state", "memory", "lists", "times", "tree", "blocks", "lockstep", "steps", "core")
"""What is compiled."""
CACHE_HOME = "XDG_CACHE_HOME"


def available() -> bool:
    """Whether numba is there; it is not imported."""
    return find_spec("numba") is not None


def cache_folder() -> Path | None:
    """The folder of what has been compiled of these sources by this Python and numba; None: there is no safe one."""
    base = os.environ.get(CACHE_HOME)
    try:
        own = (Path(base) if base else Path.home() / ".cache") / "perfmodel" / f"compiled-{_version()}"
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = own.lstat()
    except (OSError, RuntimeError):
        return None
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return own if mine else None


def compiled_before() -> bool:
    """Whether the core need not be compiled."""
    own = cache_folder()
    return own is not None and any(own.rglob("*.nbi"))


@cache
def _version() -> str:
    """Of sources, Python and numba: numba itself looks at one file alone, and a core is several."""
    from importlib.metadata import version

    text = "".join((HERE / f"{name}.py").read_text("utf-8") for name in SOURCES)
    return hashlib.sha256(f"{sys.version}{version('numba')}{text}".encode()).hexdigest()[:16]


def compiled(function: F) -> F:
    """The function in machine code: exact arithmetic, no reordering; what it calls is compiled into it."""
    import numba

    done: F = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    return done


def entry(function: F) -> F:
    """As :func:`compiled`, for what Python calls: kept in the user's folder."""
    import numba

    folder = cache_folder()
    if folder is None:
        return compiled(function)
    numba.config.CACHE_DIR = str(folder)
    done: F = numba.njit(error_model="numpy", cache=True, no_cfunc_wrapper=True)(function)
    return done

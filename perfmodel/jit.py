"""numba, where it is there: one decorator, and a folder of the user's own for what has been compiled.

numba keeps compiled code as pickle, which runs what it holds when it is read. So the folder belongs to the user alone
(mode 0700); where there is none that does, nothing is kept and every process compiles anew.
"""

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

CACHE_HOME = "XDG_CACHE_HOME"
LOCATOR = "perfmodel.jit_place.BySources"


def available() -> bool:
    """Whether numba is there; it is not imported."""
    return find_spec("numba") is not None


def compiled(function: F) -> F:
    """The function in machine code: exact arithmetic, no reordering; what it calls is compiled into it."""
    import numba

    done: Any = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    template = done.get_call_template
    done.get_call_template = lambda args, kws: template(tuple(_widest(one) for one in args), kws)
    return cast(F, done)


def inlined(function: F) -> F:
    """As :func:`compiled`, written into what calls it: what is handed to a call is nine numbers per array."""
    import numba

    done: Any = numba.njit(error_model="numpy", inline="always")(function)
    return cast(F, done)


def _widest(kind: Any) -> Any:
    """The type that a function is compiled for, of an argument's.

    A function would be compiled anew for a whole number that is stated, one of 32 bits and one of 64: 359 times instead
    of 228 of the serving core, a third of a minute.
    """
    from numba import types

    kind = types.unliteral(kind)
    return types.int64 if isinstance(kind, types.Integer) and kind.signed else kind


class Program:
    """Functions that are compiled together, from some source files."""

    def __init__(self, sources: Sequence[Path]) -> None:
        """``sources``: every file that a compiled function or a constant of one is in, in a fixed order; no two with
        entries have one name.
        """
        self._sources = tuple(sources)

    def entry(self, function: F) -> F:
        """As :func:`compiled`, for what Python calls: kept in the user's folder."""
        import numba

        folder, settings = self.cache_folder(), numba.config
        before = settings.CACHE_DIR, settings.CACHE_LOCATOR_CLASSES
        if folder is not None:
            settings.CACHE_DIR, settings.CACHE_LOCATOR_CLASSES = str(folder), LOCATOR
        options = {"error_model": "numpy", "no_cfunc_wrapper": True, "cache": folder is not None}
        try:
            done: F = numba.njit(**options)(function)
        finally:
            settings.CACHE_DIR, settings.CACHE_LOCATOR_CLASSES = before  # those of a user's own numba code
        return done

    def cache_folder(self) -> Path | None:
        """Where what has been compiled by this Python and numba is kept; None: there is no safe place."""
        base = os.environ.get(CACHE_HOME)
        try:
            home = Path(base) if base else Path.home() / ".cache"
            own = home / "perfmodel" / f"compiled-{_version(self._sources)}"
            own.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = own.lstat()
        except (OSError, RuntimeError):
            return None
        mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
        return own if mine else None

    def compiled_before(self) -> bool:
        """Whether nothing need be compiled."""
        own = self.cache_folder()
        return own is not None and any(own.rglob("*.nbi"))


@cache
def _version(sources: tuple[Path, ...]) -> str:
    """Of sources, Python, numba and what is asked of it: numba looks at one file alone, a program may be several."""
    from importlib.metadata import version

    text = "".join(path.read_text("utf-8") for path in (Path(__file__), *sources))
    return hashlib.sha256(f"{sys.version}{version('numba')}{text}".encode()).hexdigest()[:16]

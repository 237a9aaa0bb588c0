"""Where numba looks for what it has compiled: by what the sources say, not by where they are.

numba itself names a folder by the path of the source file, so that a second checkout, another environment or a moved
folder would compile the same files again (31 CPU s of the serving core). :class:`perfmodel.jit.Program` has already
named a folder by all sources together, so what lies in it is valid wherever they are. numba imports this module by its
name (its setting ``CACHE_LOCATOR_CLASSES``); nothing else does.
"""

from typing import Any

from numba.core.caching import UserProvidedCacheLocator


class BySources(UserProvidedCacheLocator):  # type: ignore[misc]  # numba has no types
    """The folder of one :class:`perfmodel.jit.Program`."""

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        """The same for all files of a program, whose names differ."""
        return "functions"

    def get_source_stamp(self) -> Any:
        """Nothing more than the folder's own name says."""
        return None

"""``python -m perfmodel.serving.compiled``: compile the core, and the twin's rounds, so that no run waits for it."""

import sys

from perfmodel.overlap.compiled import KERNEL
from perfmodel.serving.compiled.jit import available, cache_folder, compiled_before


def main() -> int:
    """0 where it is compiled afterwards, or there is no numba."""
    if not available():
        print("perfmodel: numba is not installed: runs take the plain core", file=sys.stderr)
        return 0
    if cache_folder() is None:
        print("perfmodel: no folder of your own to keep the compiled core in", file=sys.stderr)
        return 1
    if not compiled_before():
        from perfmodel.serving.compiled import core

        core.compile_all()
    if not KERNEL.compiled_before():
        from perfmodel.overlap import kernel

        kernel.compile_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())

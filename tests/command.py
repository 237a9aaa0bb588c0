"""A command line run here: what it prints, says and returns, without two seconds of imports for each."""

import contextlib
import io
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from unittest import mock

MAINS = {"perfmodel": "perfmodel.main", "calibrate": "calibrate.cli"}


class Done(NamedTuple):
    """What a process would leave."""

    returncode: int
    stdout: str
    stderr: str


def run_here(program, *arguments, folder="."):
    """``program`` (perfmodel or calibrate) by its own ``main``; an exception that a user would see as a traceback is
    raised, and so are warnings.
    """
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    main = import_module(MAINS[program]).main
    code = 0
    try:
        os.chdir(folder)
        with (
            mock.patch.object(sys, "argv", [program, *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os.chdir(before)
    return Done(code, out.getvalue(), err.getvalue())

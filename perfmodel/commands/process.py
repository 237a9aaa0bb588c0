"""What every command line of ours does around a command: a short start, errors in one line, exit codes.

Nothing here imports typer, which takes longer than a short answer.
"""

import atexit
import gc
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from perfmodel.errors import PerfModelError
from perfmodel.spec.paths import printable


def run_guarded(command: Callable[[], Any], program: str) -> None:
    """Run a command and exit with the code that it returns (none: 0); a user's mistake becomes one or two lines on
    stderr, with the program's name.
    """
    _prepare_process()
    if sys.stdout is None:  # closed: whatever is opened next would take its place
        say(
            program,
            "stdout is closed, so there is nowhere to print; redirect it to /dev/null to print nothing",
        )
        sys.exit(2)
    code: Any = 0
    try:
        code = command()
    except SystemExit as end:
        code = end.code
    except PerfModelError as error:
        say(program, str(error), type(error).__name__.removesuffix("Error").lower(), error.exit_code)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130  # of a process that SIGINT ended
    except BrokenPipeError:  # the reader went away: nothing to say, and nobody to say it to
        _silence(sys.stdout)
        code = 1
    except OSError as error:
        _silence(sys.stdout)
        say(program, f"can't be written: {error.strerror or error}")
        code = 2
    try:  # what is still in the buffer may be what the disk has no room for
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        say(program, f"stdout can't be written: {error.strerror or error}")
        code = code or 2
    sys.exit(code)


def say(program: str, text: str, kind: str = "output", exit_code: int = 2) -> None:
    """One message on stderr, if there is one: on one line, whatever a name in it holds, and without anything that a
    terminal would obey; where ``--json`` is asked, as one JSON object.
    """
    message = printable(text).replace("\n", "\\n")
    plain = f"{program}: {message}"
    if "--json" in sys.argv[1:]:
        import json

        plain = json.dumps({"error": {"kind": kind, "message": message, "exit_code": exit_code}})
    with suppress(OSError, ValueError):
        print(plain, file=sys.stderr, flush=True)


def print_json(values: Any) -> None:
    """An answer as one JSON object on stdout."""
    import json

    print(json.dumps(values, allow_nan=False, indent=1), flush=True)


def _silence(stream: TextIO | None) -> None:
    """Let whatever is still to be written go nowhere."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]


def _prepare_process() -> None:
    """What makes a short run short; a user's own settings stay.

    One thread multiplies our small matrices as fast as all cores do, starting others takes as long as importing numpy,
    and sums come out alike whatever the number of cores. Nearly everything that a run makes it keeps: looking for
    cycles every 700 objects is a tenth of a step's time, every 50,000 still a fiftieth, and once
    more before Python ends a tenth of an error's.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault(
        "PYDANTIC_DISABLE_PLUGINS", "__all__"
    )  # else it reads every installed package's entry points
    gc.set_threshold(200_000, 20, 100)
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):  # a name that is no UTF-8 can still be printed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

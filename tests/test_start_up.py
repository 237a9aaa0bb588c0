"""What a command may import: start-up is most of a step's time, and libraries creep in one import at a time."""

import subprocess
import sys

import pytest

HEAVY = (
    "scipy",
    "pandas",
    "pyarrow",
    "plotly",
    "torch",
    "streamlit",
    "ruamel",
    "jinja2",
    "numpy.ma",
    "numba",
)
SHORT = ("--set", "workload.trace=''", "--set", "workload.request_rate=2", "--set", "workload.num_requests=20",
         "--set", "workload.input_tokens=100", "--set", "workload.output_tokens=10")  # fmt: skip

CODE = """
import sys
sys.argv = ["perfmodel", *sys.argv[1:]]
from perfmodel.main import main
try:
    main()
except SystemExit as end:
    code = end.code
print(*sorted(name for name in sys.modules), file=sys.stderr)
sys.exit(code)
"""


def imported(*arguments):
    """(exit code, names of all modules that a command imported)."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=120
    )
    return done.returncode, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "code", "beside"),
    [
        (["--help"], 0, ("numpy", "pydantic", "rich")),
        (["step", "--help"], 0, ("numpy", "rich")),
        (["step", "no-such-scenario"], 2, ("numpy", "pydantic", "simpy", "rich", "typer", "perfmodel.load")),
        (
            ["step", "longcat-flash-h800", "--set", "deployment.ep=banana"],
            2,
            ("numpy", "simpy", "rich", "typer", "perfmodel.answers.step"),
        ),
        (["show", "models"], 0, ("numpy", "pydantic", "rich", "typer", "perfmodel.spec.catalogue")),
        (["show", "models", "--json"], 0, ("numpy", "pydantic", "rich", "typer", "perfmodel.spec.catalogue")),
        (
            ["step", "longcat-flash-h800", "--json"],
            0,
            ("rich", "typer", "perfmodel.serving", "perfmodel.training"),
        ),
        (["step", "deepseek-v3-h800", "--json"], 0, ("rich", "typer")),
        (["serve", "longcat-flash-h800", "--json", *SHORT], 0, ("rich.table",)),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_nothing_heavy_is_imported(arguments, code, beside):
    ended, modules = imported(*arguments)
    assert ended == code
    allowed = {"numpy.ma"} if arguments[0] == "serve" else set()  # numpy.percentile's own
    found = sorted(name for name in (*HEAVY, *beside) if name in modules and name not in allowed)
    assert not found


def test_a_users_own_settings_stay():
    code = "import os; os.environ['OPENBLAS_NUM_THREADS'] = '3'; "
    code += "from perfmodel.commands.process import _prepare_process as p; p(); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(os.environ['OPENBLAS_NUM_THREADS'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "3\n"


def test_the_version_is_the_packages():
    from importlib import metadata

    import perfmodel

    assert metadata.version("perfmodel") == perfmodel.__version__

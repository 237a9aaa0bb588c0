"""Starting a program of :mod:`perfmodel.programs`, wherever it is installed."""

import importlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def find_programs() -> None:
    """Lets this process and those that it starts import the programs: in a wheel they are within this folder; in a
    checkout they are beside perfmodel, and nothing is to be done.
    """
    if not (HERE / "calibrate").is_dir():
        return
    own = str(HERE)
    if own not in sys.path:
        sys.path.insert(0, own)
    before = os.environ.get("PYTHONPATH", "")
    if own not in before.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (own, before)))


def calibrate() -> None:
    """The command ``calibrate``."""
    find_programs()
    importlib.import_module("calibrate.cli").main()

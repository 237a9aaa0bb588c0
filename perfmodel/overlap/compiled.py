"""Where the twin's compiled rounds are kept; nothing of numba is imported here."""

from pathlib import Path

from perfmodel.jit import Program

KERNEL = Program([Path(__file__).parent / "kernel.py"])

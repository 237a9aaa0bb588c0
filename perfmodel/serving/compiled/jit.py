"""What of :mod:`perfmodel.jit` the core is compiled with, and from which files."""

from pathlib import Path

from perfmodel.jit import Program
from perfmodel.jit import available as available
from perfmodel.jit import compiled as compiled

SOURCES = (
    "state", "memory", "lists", "times", "hashed", "used", "tiers", "tree", "blocks", "lockstep", "runs", "routing",
    "links", "handoff", "steps", "core",
)  # fmt: skip
CONSTANTS = ("tiers", "sharing")
"""Modules of :mod:`perfmodel.serving` whose constants are compiled in."""
_FOLDER = Path(__file__).parent
CORE = Program(
    [*(_FOLDER / f"{name}.py" for name in SOURCES), *(_FOLDER.parent / f"{name}.py" for name in CONSTANTS)]
)

entry, cache_folder, compiled_before = CORE.entry, CORE.cache_folder, CORE.compiled_before

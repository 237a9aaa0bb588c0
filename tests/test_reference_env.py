"""What the tests of reference_model need: torch. Also: that reference_model itself needs nothing else."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
from oracle_env import required

ROOT = Path(__file__).resolve().parent.parent
NO_TORCH = "no torch: pip install torch (the CPU build will do)"


def has_torch() -> bool:
    """Whether torch is there; without it, PERFMODEL_REQUIRE = torch turns the skip into a failure.

    Used as ``if not has_torch(): pytest.skip(NO_TORCH, allow_module_level=True)`` before torch is imported.
    """
    found = importlib.util.find_spec("torch") is not None
    if not found and required("torch"):
        pytest.fail(f"{NO_TORCH}; PERFMODEL_REQUIRE demands it", pytrace=False)
    return found


def test_require_turns_a_skip_into_a_failure(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PERFMODEL_REQUIRE", "oracle, torch")
    with pytest.raises(pytest.fail.Exception, match="demands it"):
        has_torch()
    monkeypatch.delenv("PERFMODEL_REQUIRE")
    assert not has_torch()


def test_reference_model_imports_torch_and_the_standard_library_only():
    imported = set()
    for path in (ROOT / "reference_model").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"torch", "reference_model"}

"""Running the oracle scripts in their own environment, which has torch and transformers.

Results are kept for the session: every test that asks for the same script and arguments shares one run.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
PYTHON = TESTS.parent / ".venv-oracle" / "bin" / "python"
MODELS = TESTS.parent / "perfmodel" / "data" / "models"
TIMEOUT_S = 300
COUNTED = [
    "deepseek-v3",
    "glm-4.5",
    "gpt-oss-120b",
    "kimi-k2",
    "llama-3.1-70b",
    "longcat-2.0",
    "longcat-flash-lite",
    "longcat-flash",
    "mixtral-8x22b",
    "qwen3-235b-a22b",
    "qwen3-30b-a3b",
]
"""Models of the catalogue that are counted by component and run for their FLOPs; of the others test_families.py
compares the recorded total."""


def required(name: str) -> bool:
    """Whether PERFMODEL_REQUIRE (comma separated) turns a skip for want of ``name`` into a failure."""
    return name in os.environ.get("PERFMODEL_REQUIRE", "").replace(" ", "").split(",")


def missing_oracle() -> None:
    """Skips the test for want of the oracle environment, or fails where it is required."""
    reason = f"no {PYTHON.parent.parent.name} (python, torch, transformers): make oracle"
    if required("oracle"):
        pytest.fail(f"{reason}; PERFMODEL_REQUIRE demands it")
    pytest.skip(reason)


@cache
def _output(script: str, arguments: tuple[str, ...]) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(PYTHON), str(TESTS / "oracle" / script), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if done.returncode:
        pytest.fail(f"tests/oracle/{script} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def run_oracle(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that ``tests/oracle/script`` prints; skips where the environment is missing."""
    if not PYTHON.exists():
        missing_oracle()
    result = json.loads(_output(script, arguments))
    assert isinstance(result, dict)
    return result


def oracle_parameters() -> dict[str, dict[str, int]]:
    """Catalogue name -> component -> elements, as transformers' modules have them."""
    return run_oracle("count_parameters.py", *(str(MODELS / f"{name}.json") for name in COUNTED))


def oracle_flops() -> dict[str, dict[str, int]]:
    """Catalogue name -> tokens, experts per token, linear FLOPs, full-square attention FLOPs.

    LongCat's models run with 8 real experts per token, all others with their top-k.
    """
    paths = [MODELS / f"{name}.json" for name in COUNTED]
    return run_oracle(
        "count_flops.py", *(f"{path}={8 if path.stem.startswith('longcat') else ''}" for path in paths)
    )

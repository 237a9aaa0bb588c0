"""The winner of a plan as a scenario file."""

import io
from pathlib import Path
from typing import Any

from perfmodel.explore.plan.answer import PlanAnswer
from perfmodel.files import atomic_write


def scenario_text(document: dict[str, Any]) -> str:
    """A scenario's document as YAML."""
    from ruamel.yaml import YAML

    writer = YAML()
    writer.default_flow_style = False
    writer.width = 4096
    text = io.StringIO()
    writer.dump(document, text)
    return text.getvalue()


def write_scenario(answer: PlanAnswer, path: Path) -> None:
    """Write the winner for ``step``, ``serve`` and ``report``.

    Raises:
        DataError: it can't be written there.
    """
    assert answer.document is not None
    values = answer.values
    head = (
        f"# The best of {values['considered']['legal']:,} deployments by perfmodel plan "
        f"{values['provenance']['perfmodel']} for {values['traffic']}; objective {values['objective']}.\n"
        "# deployment.batch_per_gpu and context_tokens are the simulated means: `perfmodel step` shows that step.\n"
    )
    atomic_write(path, head + scenario_text(answer.document))

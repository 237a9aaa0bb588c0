"""The best layout as a scenario file."""

from pathlib import Path

from perfmodel.explore.plan_training.answer import TrainPlan
from perfmodel.files import atomic_write
from perfmodel.output.scenario.stated import FIRST, yaml_text
from perfmodel.stated import BEFORE


def write_scenario(answer: TrainPlan, path: Path) -> None:
    """Write the best layout for ``perfmodel train``.

    Raises:
        DataError: it can't be written there.
    """
    document = {key: value for key, value in answer.document.items() if key != BEFORE}
    ordered = {key: document[key] for key in FIRST if key in document}
    considered = answer.values["considered"]
    head = (
        f"# The best of {considered['legal']:,} layouts ({considered['fit']:,} fit) by perfmodel plan-train "
        f"{answer.values['provenance']['perfmodel']}; objective {answer.values['objective']}.\n"
    )
    atomic_write(path, head + yaml_text(ordered | document))

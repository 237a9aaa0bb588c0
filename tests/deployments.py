"""Deployments in their users' words (``tests/data/deployments``), as files that can be loaded."""

import gzip
import json
import re
from functools import cache
from pathlib import Path

from perfmodel.load import load_scenario

DATA = Path(__file__).resolve().parent / "data"
CONFIGS = "CONFIGS/"
"""Stands in the files for a folder of model configs."""


@cache
def _configs():
    with gzip.open(DATA / "model_configs.json.gz") as packed:
        return json.load(packed)


def case(name, folder, sets=()):
    """The scenario of a case, written to ``folder`` with the configs that it names."""
    for source in (DATA / "deployments").glob("*.yaml"):
        text = source.read_text()
        for config in re.findall(rf"{CONFIGS}(\S+?)_config\.json", text):
            own = _configs()[config.replace("--", "/", 1)]
            for kind in ("config", "hf_quant_config"):
                if own.get(kind):
                    (folder / f"{config}_{kind}.json").write_text(json.dumps(own[kind]))
        (folder / source.name).write_text(text.replace(CONFIGS, f"{folder}/"))
    (path,) = folder.glob(f"{name}_*.yaml")
    return load_scenario(path, sets)

"""Tables that are read: routing files and calibrations."""

import contextlib
import io
import json
import random
import shutil
from pathlib import Path

from bench.hostile.mutate import mutated_bytes, mutated_text, mutated_value


def routing(chance: random.Random, folder: Path) -> str | None:
    """A histogram or an activation file, broken."""
    import pandas as pd

    from bench.hostile.oracles import wrong_scenario
    from perfmodel.load import load_scenario

    kind = chance.choice(["histogram", "activation"])
    columns = {"expert": list(range(512)), "tokens": [10 + i for i in range(512)]}
    if kind == "activation":
        columns = {"real_experts": list(range(13)), "tokens": [10] * 13}
    frame = pd.DataFrame(columns)
    path = folder / f"case{chance.choice(['.csv', '.parquet'])}"
    if path.suffix == ".csv":
        path.write_text(mutated_text(frame.to_csv(index=False), chance), "utf-8", "backslashreplace")
    else:
        content = io.BytesIO()
        frame.to_parquet(content)
        path.write_bytes(mutated_bytes(content.getvalue(), chance))
    sets = [f"routing.{kind}={path}", *(["routing.popularity=histogram"] if kind == "histogram" else [])]
    return wrong_scenario(load_scenario("longcat-flash-h800", sets))


def calibration(chance: random.Random, folder: Path) -> str | None:
    """A calibration with its JSON changed (and hashed again), or one of its other files."""
    from bench.hostile.scenarios import answered
    from perfmodel.kernels.calibration_file import content_id, load_calibration
    from perfmodel.load import load_scenario
    from perfmodel.spec.catalogue import DATA

    name = chance.choice(["h100-sxm", "epyc-zen4-1core"])
    own = folder / "calibration"
    shutil.copytree(DATA / "calibrations" / name, own)
    file = own / "calibration.json"
    whole = chance.random() < 0.7
    if whole:
        document = mutated_value(json.loads(file.read_text("utf-8")), chance)
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            document["id"] = content_id(document)
        file.write_text(json.dumps(document), "utf-8", "backslashreplace")
    else:
        other = chance.choice(
            sorted(one for one in own.iterdir() if one.suffix in (".npz", ".parquet", ".json", ""))
        )
        if other.is_file():
            other.write_bytes(mutated_bytes(other.read_bytes(), chance))
    load_calibration(str(own))
    if whole and name == "h100-sxm" and chance.random() < 0.3:
        sets = [f"calibration={own}", "cluster=h100-ib", "deployment.batch_per_gpu=16"]
        return answered(load_scenario("deepseek-v3-h800", sets), chance)
    return None

"""What reaches the dashboard: addresses, uploads, hosts."""

import contextlib
import random
from pathlib import Path

from bench.hostile.mutate import ODD_NUMBERS, ODD_TEXTS, mutated_bytes, mutated_text
from bench.hostile.oracles import wrong_scenario

SETTABLE = (
    "deployment.batch_per_gpu", "deployment.context_tokens", "deployment.ep", "cluster", "model", "calibration",
    "workload.trace", "workload.num_requests", "serving.replicas", "prices.usd_per_gpu_hour", "routing.histogram", "x",
)  # fmt: skip


def link(chance: random.Random, folder: Path) -> str | None:
    """A dashboard's address; what it answers to comes back as a link that means the same."""
    from urllib.parse import parse_qs

    from dashboard.asked import from_query

    sets = [
        f"{chance.choice(SETTABLE)}={chance.choice([*map(str, ODD_NUMBERS), *ODD_TEXTS])}"
        for _ in range(chance.randint(0, 2))
    ]
    query: dict[str, list[str]] = {
        "v": ["1"],
        "scenario": [chance.choice(["longcat-flash-h800"] * 40 + [*ODD_TEXTS])],
        "set": sets,
    }
    if chance.random() < 0.3:
        text = mutated_text(
            "v=1&scenario=longcat-flash-h800&set=deployment.batch_per_gpu%3D64&yaml=eJw", chance
        )
        with contextlib.suppress(ValueError):
            query = parse_qs(text, keep_blank_values=True)
    found = from_query(query)
    if found is None:
        return None
    wrong = wrong_scenario(found.scenario())
    if wrong:
        return wrong
    again = from_query(
        {key: [value] if isinstance(value, str) else list(value) for key, value in found.query().items()}
    )
    return (
        None
        if again is not None and again.scenario().hash == found.scenario().hash
        else "a link that means another"
    )


def upload(chance: random.Random, folder: Path) -> str | None:
    """A scenario of a user's own: no file of the machine is read for it."""
    from dashboard.asked import uploaded
    from perfmodel.spec.catalogue import DATA

    text = chance.choice(sorted((DATA / "scenarios").glob("*.yaml"))).read_text("utf-8")
    content = mutated_text(text, chance).encode("utf-8", "backslashreplace")
    if chance.random() < 0.2:
        content = mutated_bytes(content, chance)
    if chance.random() < 0.2:
        content += f"\n{chance.choice(['base', 'model', 'calibration'])}: {chance.choice(ODD_TEXTS)[:300]!r}\n".encode(
            "utf-8", "backslashreplace"
        )
    name = chance.choice(["mine", *ODD_TEXTS])
    return wrong_scenario(uploaded(content, name).scenario())

"""What is described: scenarios as files and overrides, models' configs, families of them."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.hostile.mutate import ODD_NUMBERS, ODD_TEXTS, mutated_text, mutated_value, nearby
from bench.hostile.oracles import ignored_key, monotone, wrong_step, wrong_values

NAMES = (
    "longcat-flash-h800",
    "deepseek-v3-h800",
    "longcat-flash-h800-pd",
    "table7-qwen3-235b",
    "reference-cpu",
)
MODEL_KEYS = (
    "num_layers", "moe_topk", "hidden_size", "vocab_size", "n_routed_experts", "zero_expert_num", "num_experts_per_tok",
    "kv_lora_rank", "qk_rope_head_dim", "num_attention_heads", "max_position_embeddings", "topk_group", "n_group",
)  # fmt: skip


def answered(
    scenario: Any, chance: random.Random, document: dict[str, Any] | None = None, folder: Path = Path()
) -> str | None:
    """Step a scenario; why its answer is wrong. A tenth is asked once more, otherwise."""
    from perfmodel.answers.step import answer_step
    from perfmodel.load import build_scenario

    values = answer_step(scenario, over_steps=False).values
    wrong = wrong_step(scenario, values)
    if wrong or chance.random() > 0.1:
        return wrong
    if document is not None and chance.random() < 0.5:
        return ignored_key(
            document,
            values,
            lambda one: answer_step(build_scenario(one, folder=folder), over_steps=False).values,
        )
    return monotone(scenario, values, chance)


def file(chance: random.Random, folder: Path) -> str | None:
    """A shipped scenario with values or text broken."""
    from perfmodel.load import build_scenario, load_scenario
    from perfmodel.spec.catalogue import DATA
    from perfmodel.spec.documents import read_document
    from perfmodel.stated import document_of_file

    source = chance.choice(sorted((DATA / "scenarios").glob("*.yaml")))
    path = folder / "case.yaml"
    if chance.random() < 0.4:
        path.write_text(mutated_text(source.read_text("utf-8"), chance), "utf-8", "backslashreplace")
        return answered(load_scenario(path), chance)
    document = read_document(source)
    for _ in range(chance.randint(1, 2)):
        document = mutated_value(document, chance)
    path.write_text(json.dumps(document), "utf-8", "backslashreplace")
    stated, place = document_of_file(str(path))
    return answered(build_scenario(copy.deepcopy(stated), folder=place), chance, stated, place)


def override(chance: random.Random, folder: Path) -> str | None:
    """Any key of a scenario set to anything."""
    from perfmodel.load import load_scenario

    name = chance.choice(NAMES)
    text = override_text(chance) if chance.random() < 0.7 else nearby_text(name, chance)
    return answered(load_scenario(name, [text]), chance)


def nearby_text(name: str, chance: random.Random) -> str:
    """``key=value`` of a number that a scenario has, somewhat changed."""
    from perfmodel.load import load_scenario

    found = load_scenario(name).model_dump(
        mode="json", exclude={"model", "calibration", "workload", "training"}
    )
    numbers = [(path, one) for path, one in _leaves(found, "") if isinstance(one, int | float)]
    path, value = chance.choice(numbers)
    return f"{path}={json.dumps(nearby(value, chance))}"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, f"{path}.{key}" if path else key)
    else:
        yield path, value


def override_text(chance: random.Random) -> str:
    """``key=value``, either of them odd."""
    from perfmodel.spec.keys import key_paths

    path = chance.choice([*key_paths(), *(f"model.{key}" for key in MODEL_KEYS), "x.y", "model.moetopk"])
    if chance.random() < 0.05:
        path = mutated_text(path, chance)
    kind = chance.random()
    if kind < 0.5:
        value = str(chance.choice(ODD_NUMBERS)).lower()
    elif kind < 0.6:
        value = str(chance.choice([1, 2, 4, 8, 16, 64, 100, 1000, 5000]))
    elif kind < 0.8:
        value = repr(chance.choice(ODD_TEXTS))
    else:
        value = chance.choice(
            [
                "[1, 2]",
                "{a: 1}",
                "[]",
                "{}",
                "",
                "&a 1",
                "*a",
                "!!python/object:x",
                "[" * 60,
                "~",
                "0x10",
                "1_0",
                "0o7",
                ".inf",
                "2026-01-01",
            ]
        )
    return f"{path}={value}"


def config(chance: random.Random, folder: Path) -> str | None:
    """A model's config.json, broken."""
    from perfmodel.load import load_scenario
    from perfmodel.spec.catalogue import DATA

    source = chance.choice(sorted((DATA / "models").glob("*.json")))
    path = folder / "config.json"
    text = source.read_text("utf-8")
    if chance.random() < 0.3:
        text = mutated_text(text, chance)
    else:
        document = json.loads(text)
        for _ in range(chance.randint(1, 3)):
            document = mutated_value(document, chance)
        text = json.dumps(document)
    path.write_text(text, "utf-8", "backslashreplace")
    sets = [f"model={path}", "deployment.overlap=sequential", "deployment.mtp={}"]
    layout = chance.choice([[], ["deployment.batch_per_gpu=1", "deployment.context_tokens=512"]])
    return answered(load_scenario("deepseek-v3-h800", [*sets, *layout]), chance)


def family(chance: random.Random, folder: Path) -> str | None:
    """A family of models as data, broken: it reads the config of a model of its own, or refuses."""
    from perfmodel.spec.catalogue import DATA
    from perfmodel.spec.models import families
    from perfmodel.spec.models.reader import model_from_config

    shipped = families.FOLDER
    source = chance.choice(sorted(shipped.glob("*.yaml")))
    for path in shipped.glob("*.yaml"):
        (folder / path.name).symlink_to(path)
    (folder / source.name).unlink()
    text = source.read_text("utf-8")
    (folder / source.name).write_text(mutated_text(text, chance), "utf-8", "backslashreplace")
    caches = (families.family, families._index)
    try:
        families.FOLDER = folder
        for one in caches:
            one.cache_clear()
        found = families.family(source.stem)
        for name in chance.sample(sorted((DATA / "models").glob("*.json")), 3):
            document = json.loads(name.read_text("utf-8"))
            if document.get("model_type") in found.model_types:
                model_from_config(document, name=name.stem)
    finally:
        families.FOLDER = shipped
        for one in caches:
            one.cache_clear()
    return None


def training(chance: random.Random, folder: Path) -> str | None:
    """A training run with one or two keys set to anything."""
    from perfmodel.answers.train import answer_train
    from perfmodel.load import load_scenario
    from perfmodel.spec.keys import key_paths

    own = [path for path in key_paths() if path.startswith("training.")]
    name = chance.choice(["longcat-flash-train-h800", "deepseek-v3-train-h800"])
    odd = [*(str(one).lower() for one in ODD_NUMBERS), "4", "8", "16", "[1]", "{}", "dualpipe", "full"]
    sets = [
        f"{chance.choice(own)}={chance.choice(odd)}" if chance.random() < 0.8 else override_text(chance)
        for _ in range(chance.randint(1, 2))
    ]
    scenario = load_scenario(name, sets)
    values = answer_train(scenario).values
    wrong = wrong_values({key: value for key, value in values.items() if key != "bubble_s"})
    if wrong:
        return wrong
    gpu, achieved = scenario.cluster.gpu, values["model_flops_per_s_per_gpu"]
    if achieved > max(
        gpu.peak_flops(one) for one in ("fp4", "fp8", "bf16")
    ):  # mfu is by convention of BF16's peak
        return f"{achieved} FLOP/s of a GPU: faster than the hardware"
    if not values["step_time_s"] > 0.0:
        return f"step_time_s = {values['step_time_s']}"
    memory = sum(values["memory_bytes"].values())
    return (
        f"{memory} bytes in {scenario.cluster.gpu.memory_bytes}"
        if memory > scenario.cluster.gpu.memory_bytes
        else None
    )

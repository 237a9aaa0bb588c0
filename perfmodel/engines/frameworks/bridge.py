"""A line of Megatron-Bridge's ``run_recipe.py`` as flags of Megatron-LM: its short flags and its overrides
``section.key=value``.

A recipe's own values are Python and are not read, so the sizes of layout and batch must stand on the line; the rest is
the common pre-training configuration's (``data/engines/frameworks/bridge.yaml``).
"""

import re
from collections.abc import Sequence

from perfmodel.engines.frameworks.documents import framework
from perfmodel.engines.frameworks.line import WHERE, flags_of
from perfmodel.engines.frameworks.megatron import USED
from perfmodel.errors import SpecError
from perfmodel.spec import catalogue

PROGRAM = re.compile(r"(^|/)run_recipe\.py$")
OVERRIDE = re.compile(r"\+{0,2}([a-z_]+(?:\.\w+)*)=(.*)", re.DOTALL)
RECIPE = re.compile(r"(\w+?)_pretrain_(?:([0-9]+)gpu_)?")
"""Model's stem and number of GPUs in a recipe's name."""
NOTE = (
    "Megatron-Bridge's settings are told by Megatron-LM's flags; what the recipe itself changes of its common "
    "pre-training configuration (recomputation, dispatcher, overlap) is not read: put it on the line"
)
NOTHING = ("none", "null")


def megatron_flags(words: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], str, int | None]:
    """(flags of Megatron-LM, model's stem or empty, GPUs of the recipe's name) of what follows the program.

    Raises:
        SpecError: a size that the recipe alone would say, a precision that is not known.
    """
    document = framework("bridge")
    overrides = [match for word in words if (match := OVERRIDE.fullmatch(word)) and not word.startswith("-")]
    plain = [word for word in words if word.startswith("-") or not OVERRIDE.fullmatch(word)]
    given = {name.replace("_", "-"): values for name, values in flags_of(plain).items()}
    stem, gpus = _recipe(given)
    flags: dict[str, tuple[str, ...]] = dict.fromkeys(document["switches"], ())
    flags["moe-token-dispatcher-type"] = (document["dispatcher"],)
    precision = "bf16_mixed"
    for name, values in given.items():
        if name not in document["quiet"]:
            flags[document["short"].get(name, name)] = values
    for match in overrides:
        name, value = match[1].rpartition(".")[2].replace("_", "-"), match[2].strip("'\"")
        if name == "mixed-precision":
            precision = value
        elif name not in document["quiet"]:
            _set(flags, document["names"].get(name, name), value)
    if precision not in document["precisions"]:
        raise SpecError(
            f"{WHERE}: mixed_precision={precision[:60]}: must be one of {', '.join(document['precisions'])}"
        )
    for name, values in document["precisions"][precision].items():
        flags.setdefault(name, tuple(values))
    missing = [name for name in document["needed"] if name not in flags]
    if missing:
        short = {whole: f"-{one}" for one, whole in document["short"].items() if len(one) < 4}
        raise SpecError(
            f"{WHERE}: {', '.join(short[name] for name in missing)}: missing; a recipe's own values are Python and "
            "are not "
            "read: put what it has on the line"
        )
    return flags, stem, gpus


def _set(flags: dict[str, tuple[str, ...]], name: str, value: str) -> None:
    """An override's value as a flag: a switch on or off, a list, or one value."""
    plain = value.lower()
    if name == "grad-reduce-in-fp32":
        name, plain = "grad-reduce-in-bf16", {"true": "false", "false": "true"}.get(plain, plain)
    if plain == "true":
        flags[name] = ()
    elif plain == "false" or plain in NOTHING:
        flags.pop(name, None)
        if plain == "false" and f"no-{name}" in USED:
            flags[f"no-{name}"] = ()
    elif value.startswith("["):
        flags[name] = tuple(re.split(r"[\s,]+", value.strip("[] ").replace("'", "").replace('"', "")))
    else:
        flags[name] = (value.removeprefix("torch.").replace("bfloat16", "bf16").replace("float32", "fp32"),)


def _recipe(given: dict[str, tuple[str, ...]]) -> tuple[str, int | None]:
    """(model's stem, GPUs) of ``--model`` or of the name of ``--recipe``."""
    model, recipe = given.pop("model", ()), given.pop("recipe", ())
    if recipe:
        match = RECIPE.match(recipe[0])
        return (match[1], int(match[2]) if match[2] else None) if match else (recipe[0], None)
    return (model[0] if model else ""), None


def stated_model(stem: str) -> str:
    """The catalogue's model of a recipe's stem (``qwen3_30b_a3b``).

    Raises:
        SpecError: it has none.
    """
    name = stem.replace("_", "-").lower()
    if name in catalogue.names("models"):
        return name
    raise SpecError(
        f"{WHERE}: the recipe's model {stem[:60] or '(none)'} is not in the catalogue: give MODEL beside it, a "
        "name of the "
        "catalogue or a config.json"
    )

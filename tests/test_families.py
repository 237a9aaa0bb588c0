"""Families as data: every config that people run, the files themselves, and configs broken at random.

``data/model_configs.json.gz`` holds configs as public packages have them, and the parameters of transformers' own
modules of each, counted once on the meta device (transformers 5.24.0; tests/oracle/count_configs.py counts some again).
Towers that are not the language model are left out of both.
"""

import gzip
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle_env import run_oracle

from perfmodel.errors import PerfModelError
from perfmodel.load import build_scenario
from perfmodel.ops.parameters import (
    active,
    fixed_bytes_per_request,
    growing_bytes_per_token,
    index_bytes_per_token,
    kv_bytes_per_token,
    layer_weights,
    parameter_counts,
)
from perfmodel.spec.model import Model
from perfmodel.spec.models import families
from perfmodel.spec.models.families import Family
from perfmodel.spec.models.keys import ALIASES
from perfmodel.spec.models.kinds import KINDS, NONE
from perfmodel.spec.models.patterns import names_in
from perfmodel.spec.models.reader import read_config
from perfmodel.spec.models.wrappers import language_model
from perfmodel.spec.plain_yaml import parse_plain
from perfmodel.step import predict_steps, step_segments

RECORDED = Path(__file__).parent / "data" / "model_configs.json.gz"
REFUSED = {
    "deepseek-ai/DeepSeek-V4.1-Flash": "DeepSeek-V4.1.* n-gram memory .* would need sparse compressed attention",
    "deepseek_v2": "num_experts_per_tok .* is missing",
    "dots1": "n_routed_experts .* is missing",
    "gemma4": "hidden_size_per_layer_input = 256 .* an embedding per layer.* would need per-layer tables",
    "inkling2": "Inkling 2.* taps depend on the token; that would need",
    "jetmoe": "JetMoE.*mixture of attention heads.*; that would need attention whose projections are routed",
    "lfm2_moe": "layer_types is missing",
    "qwen4_exp": "Qwen4-Exp.*QSA.*; that would need",
    "zaya": "Zaya.*compressed convolutional attention.*; that would need convolved attention",
}
"""Configs that are refused -> what the message says. Three are defaults of transformers that lack a key."""
LEFT_OUT = {
    "muse_spark": 62 * 4096,  # experts behind a latent with two norms, of which one is counted
    "mistral_large4": 32,  # learned frequencies of the rotary embedding
    "inkling_mm_model": 66,  # a scale per router
}
"""Vectors and scalars that no formula counts -> their elements."""
COUNTED_AS_WEIGHTS = {
    "afmoe": 31 * 64,
    "ernie4_5_moe": 27 * 64,
    "ernie4_5_vl_moe": 27 * 64,
    "laguna": 39 * 256,
}
"""Families whose selection bias transformers registers as a parameter rather than as a buffer -> its elements."""
OTHER = {
    "longcat_flash": "transformers 5.24 allocates its experts for the zero-computation ones too: 741 B",
    "stepfun-ai/Step-3.7-Flash": "transformers reads the flat config as its default, with another vocabulary",
    "stepfun-ai/Step-3.7-Flash-FP8": "as above",
}
"""Configs of which transformers counts another model -> why."""


@cache
def recorded() -> dict[str, dict[str, Any]]:
    found = json.loads(gzip.decompress(RECORDED.read_bytes()))
    assert isinstance(found, dict)
    return found


def read(name: str) -> Model:
    entry = recorded()[name]
    return read_config(entry["config"], name=name, beside=entry.get("hf_quant_config")).model


def elements(model: Model) -> int:
    """All weights but multi-token prediction, which no model of transformers has."""
    counts = parameter_counts(model)
    return counts.total + counts.indexer


NAMES = sorted(recorded())


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_read_with_transformers_parameters_or_refused_for_a_reason(name: str) -> None:
    if name in REFUSED:
        with pytest.raises(PerfModelError, match=REFUSED[name]):
            read(name)
        return
    model, entry = read(name), recorded()[name]
    assert model.unmodelled is None
    if name in OTHER or "parameters" not in entry:
        return
    theirs = entry["parameters"] - COUNTED_AS_WEIGHTS.get(name, 0) - LEFT_OUT.get(name, 0)
    head = parameter_counts(model).head if entry.get("without_head") else 0
    assert elements(model) - head == theirs


def test_most_configs_that_people_run_are_read() -> None:
    assert len(NAMES) - len(REFUSED) >= 150
    assert sum("parameters" in recorded()[name] for name in NAMES if name not in REFUSED) >= 113


def test_a_model_whose_count_is_another_differs_by_what_is_said() -> None:
    assert elements(read("longcat_flash")) == 560_664_958_976
    step, default = read("stepfun-ai/Step-3.7-Flash"), read("step3p7")
    assert elements(step) - elements(default) == 2 * (128896 - 128815) * 4096


@pytest.mark.parametrize(
    ("name", "total_b", "active_b"),
    [
        ("DeepSeek-V2-Lite", 15.7, 2.4),
        ("DeepSeek-V2", 236, 21),
        ("GLM-4.5-Air", 106, 12),
        ("Grok-2", 270, 115),
        ("Hunyuan-A13B", 80, 13),
        ("Ling-1T", 1000, 50),
        ("MiniMax-M1", 456, 45.9),
        ("Mistral-Large-3", 673, 39),
        ("Step-3", 316, 38),
    ],
)
def test_models_of_which_only_cards_say_how_large_they_are(
    name: str, total_b: float, active_b: float
) -> None:
    """Within what cards round, and count otherwise (embedding, draft layers): 3 %, active 10 %."""
    model = read(name)
    moe = model.moe
    assert moe is not None
    assert parameter_counts(model).total / 1e9 == pytest.approx(total_b, rel=0.03)
    assert active(model, moe.top_k) / 1e9 == pytest.approx(active_b, rel=0.1)


@pytest.mark.oracle
def test_the_recorded_counts_are_transformers_own() -> None:
    """Some of them again, in the environment at hand: one per kind of mixer."""
    chosen = [
        "MiniMaxAI/MiniMax-M2.5",
        "Qwen/Qwen3.5-35B-A3B",
        "deepseek-ai/DeepSeek-V3.2",
        "XiaomiMiMo/MiMo-V2-Flash",
        "kimi_linear",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "deepseek_v4",
        "phimoe",
        "jamba",
        "inkling_mm_model",
    ]
    theirs = run_oracle("count_configs.py", str(RECORDED), *chosen)
    assert theirs == {name: recorded()[name]["parameters"] for name in chosen}


# --- the files -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", families.names())
def test_a_familys_file_names_kinds_and_parts_that_there_are(name: str) -> None:
    if name == families.COMMON:
        return
    family = families.family(name)
    assert family.title
    assert family.source
    assert {str(one["kind"]) for one in family.attentions.values()} <= {*KINDS, NONE}
    for pattern, parts in (
        (family.attention_of_layer, family.attentions),
        (family.ffn_of_layer, family.ffns),
    ):
        named = {one for one in names_in(pattern) if one}
        assert named <= set(parts), f"{named - set(parts)} of {name}"
    if family.mtp:
        assert set(names_in(family.mtp["attention"])) <= set(family.attentions)
        assert set(names_in(family.mtp["ffn"])) <= set(family.ffns)


def test_each_family_has_a_config_that_is_read() -> None:
    """Adding a family is a file under data/families and a config here: none is left untried."""
    tried = set()
    for name in NAMES:
        if name not in REFUSED:
            entry = recorded()[name]
            tried.add(read_config(entry["config"], name=name).family.name)
    catalogue = {path.stem for path in (families.FOLDER.parent / "models").glob("*.json")}
    for name in catalogue:
        config = json.loads((families.FOLDER.parent / "models" / f"{name}.json").read_text())
        tried.add(read_config(config, name=name).family.name)
    untried = {name for name in families.listed() if name not in tried}
    assert untried <= {
        "bailing_moe",
        "deepseek_v2",
        "dots1",
        "lfm2_moe",
        "mistral",
        "qwen2",
        "qwen3",
        "qwen3_5",
    }


def test_families_are_plain_yaml() -> None:
    """So that a step's start needs no general YAML reader: 1 ms per family instead of 15, and its import."""
    for path in families.FOLDER.glob("*.yaml"):
        assert parse_plain(path.read_text())["title"], path.name


def test_a_model_type_belongs_to_one_family() -> None:
    assert len(families.model_types()) == len(set(families.model_types())) >= 70


# --- cache and state, as the facts page has them -----------------------------------------------


def cache_and_state(name: str) -> tuple[int, int]:
    model = read(name)
    return kv_bytes_per_token(model), index_bytes_per_token(model, "fp8")


@pytest.mark.parametrize(
    ("name", "cache", "index"),
    [
        ("MiniMaxAI/MiniMax-M2.5", 62 * 2 * 8 * 128 * 2, 0),
        ("deepseek-ai/DeepSeek-V3.2", 61 * 1152, 61 * 132),
        ("zai-org/GLM-5.2", 78 * 1152, 21 * 132),
        ("Qwen/Qwen3.5-397B-A17B", 15 * 2 * 2 * 256 * 2, 0),
        ("moonshotai/Kimi-K3", 24 * 1152, 0),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 6 * 2 * 2 * 128 * 2, 0),
        ("MiniMaxAI/MiniMax-M3", 60 * 2 * 4 * 128 * 2, 57 * 132),
        ("mistral_large4", 54 * 1152 + 18 * 1024, 72 * 132),
    ],
)
def test_bytes_per_token(name: str, cache: int, index: int) -> None:
    assert cache_and_state(name) == (cache, index)


@pytest.mark.parametrize(
    ("name", "growing", "megabytes"),
    [
        ("Qwen/Qwen3.5-397B-A17B", 30_720, 45 * 64 * 128 * 128 * 2 / 1e6),
        ("moonshotai/Kimi-K3", 27_648, 69 * 96 * 128 * 128 * 2 / 1e6),
        ("stepfun-ai/Step-3.7-Flash", 12 * 4096, 33 * 4096 * 512 / 1e6),
        ("XiaomiMiMo/MiMo-V2-Flash", 23_040, 39 * 8 * 320 * 2 * 128 / 1e6),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 6_144, 23 * 64 * 64 * 128 * 2 / 1e6),
        ("inkling_mm_model", 11 * 2 * 8 * 128 * 2, 55 * 512 * 2 * 16 * 128 * 2 / 1e6),
        ("jamba", 4 * 2 * 8 * 128 * 2, 28 * 8192 * (16 + 3) * 2 / 1e6),
    ],
)
def test_bytes_that_grow_and_bytes_per_request(name: str, growing: int, megabytes: float) -> None:
    """States in BF16, and what windows hold; the tails of convolutions come on top, below 8 %."""
    model = read(name)
    assert growing_bytes_per_token(model) == growing
    fixed = fixed_bytes_per_request(model, state="bf16") / 1e6
    assert megabytes <= fixed < 1.08 * megabytes


# --- broken configs --------------------------------------------------------------------------

READABLE = [name for name in NAMES if name not in REFUSED]
MUTATIONS: list[Any] = [None, -1, 0, 3, math.nan, 1e30, "x", [], [1], {}, {"a": 1}, True]


MAKES_DENSE = (
    "mlp_only_layers",
    "decoder_sparse_step",
    "first_k_dense_replace",
    "moe_layer_freq",
    "mlp_layer_types",
)


def paths(config: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of a config, nested ones too, but for the language model's own mapping: without it nothing is named."""
    found = [(*above, key) for key in config if key != "text_config"]
    for key, value in config.items():
        if isinstance(value, dict):
            found += paths(value, (*above, key))
    return found


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, tuple[str, ...], int]:
    """Name of a config, a key of it at any depth, and which mutation; -1: taken out."""
    name = draw(st.sampled_from(READABLE))
    path = draw(st.sampled_from(sorted(paths(recorded()[name]["config"]))))
    return name, path, draw(st.integers(-1, len(MUTATIONS) - 1))


def mutated(config: dict[str, Any], path: tuple[str, ...], mutation: int) -> dict[str, Any]:
    key, *rest = path
    if rest:
        return {**config, key: mutated(config[key], tuple(rest), mutation)}
    changed = {k: v for k, v in config.items() if k != key}
    return changed | ({key: MUTATIONS[mutation]} if mutation >= 0 else {})


@settings(max_examples=500, deadline=None)
@given(broken())
def test_a_broken_config_gives_a_model_or_an_error_that_names_the_key(
    case: tuple[str, tuple[str, ...], int],
) -> None:
    name, path, mutation = case
    message = complaint(mutated(recorded()[name]["config"], path, mutation))
    same = next((names for names in ALIASES.values() if path[-1] in names), path)
    implied = (
        ("intermediate_size",) if path[-1] in MAKES_DENSE else ()
    )  # other layers are dense, which need a width
    allowed = (*same, *path[-1:], *implied, "model_type", "quantization_config")
    assert message is None or any(one in message for one in allowed), message


def complaint(config: dict[str, Any]) -> str | None:
    """The message of the error that reading a config raises; None: it is a model."""
    try:
        model = read_config(config, name="x").model
    except PerfModelError as error:
        return str(error)
    assert parameter_counts(model).total > 0
    return None


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(families.listed()), st.dictionaries(st.sampled_from(sorted(ALIASES)), st.integers(0, 9))
)
def test_any_family_reads_or_refuses_any_keys(name: str, keys: dict[str, int]) -> None:
    family: Family = families.family(name)
    with pytest.raises(PerfModelError, match=r"model config|is not modelled"):
        read_config({"model_type": family.model_types[0], **keys}, name="x")


def test_the_page_of_models_has_the_table_of_the_files() -> None:
    from perfmodel.output.catalogue.families_markdown import with_table

    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    assert with_table(page) == page, "python -m perfmodel.output.catalogue.families_markdown docs/models.md"


def test_a_compressed_query_costs_what_it_weighs() -> None:
    """Step-3: every GEMM of an attention is 2 FLOP per weight and token; its query takes two of them."""
    document = {
        "model": recorded()["Step-3"]["config"],
        "cluster": "h800-ib",
        "deployment": {"engine": "vllm", "attention_tp": 1, "batch_per_gpu": 3, "context_tokens": 100},
    }
    found = build_scenario(document)
    layer = found.model.layers[0]
    names: dict[str, float] = {}
    for segment in step_segments(found):
        for task in segment.tasks:
            if task.op.name.startswith("attention0.") and task.op.kernel == "gemm":
                names[task.op.name] = float(task.op.flops)
    assert "attention0.q_b" in names
    weights = layer_weights(layer, found.model.hidden_size)
    assert sum(names.values()) == pytest.approx(2 * 3 * (weights.total - weights.vectors))


# --- broken family files -----------------------------------------------------------------------

DOCUMENTS = {path.stem: parse_plain(path.read_text()) for path in sorted(families.FOLDER.glob("*.yaml"))}


@st.composite
def broken_files(draw: st.DrawFn) -> tuple[str, str, tuple[str, ...], Any]:
    """Name of a config, a file that its reading rests on, a key of it at any depth, and what stands there instead."""
    name = draw(st.sampled_from(READABLE))
    file = read_config(recorded()[name]["config"], name=name).family.name
    if draw(st.booleans()) and "base" in DOCUMENTS[file]:
        file = str(DOCUMENTS[file]["base"])
    path = draw(st.sampled_from(sorted(paths(DOCUMENTS[file]))))
    words = st.sampled_from(
        [*WORDS, "", "x", "hidden_size", "hidden_size * ", "| 1", "a[", "a[x]", "layer_types[]"]
    )
    value = draw(
        st.one_of(words, st.sampled_from([None, -1, 0, 3, math.nan, 1e30, [], [1], {}, {"a": 1}, True]))
    )
    return name, file, path, value


WORDS = [
    "like",
    "full",
    "kind",
    "mla",
    "hidden_size + vocab_size",
    "num_hidden_layers / 7",
    "kv_lora_rank // 0",
]


def as_yaml(document: dict[str, Any]) -> str:
    """A line for each key, of which those that name model types are read as text."""
    lines = []
    for key, value in document.items():
        named = key in ("model_types", "architectures") and isinstance(value, list)
        lines.append(f"{key}: [{', '.join(map(str, value))}]" if named else f"{key}: {json.dumps(value)}")
    return "\n".join(lines)


def read_with(folder: Path, name: str, file: str, document: Any) -> str | None:
    """The message of the error that a config's reading raises where one family's file is another."""
    (folder / f"{file}.yaml").write_text(as_yaml(document))
    caches = (families.family, families._index, families.refused)
    for one in caches:
        one.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(families, "FOLDER", folder)
            return complaint(recorded()[name]["config"])
    finally:
        (folder / f"{file}.yaml").write_text(as_yaml(DOCUMENTS[file]))
        for one in caches:
            one.cache_clear()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    for file, document in DOCUMENTS.items():
        (folder / f"{file}.yaml").write_text(as_yaml(document))
    return folder


@settings(max_examples=150, deadline=None)
@given(case=broken_files())
@example(case=("qwen3_moe", "qwen3_moe", ("ffn_of_layer", "period"), 0))
def test_a_broken_familys_file_gives_a_model_or_one_line(
    files: Path, case: tuple[str, str, tuple[str, ...], Any]
) -> None:
    """Whatever stands in a file: a model, or an error of ours that says of which family or key; never a traceback."""
    name, file, path, value = case
    *above, last = path
    document = json.loads(json.dumps(DOCUMENTS[file]))
    inner = document
    for key in above:
        inner = inner[key]
    inner[last] = value
    message = read_with(files, name, file, document)
    assert message is None or ("\n" not in message and len(message) < 2000)


# --- overrides, and what a step makes of them ---------------------------------------------------


@pytest.mark.parametrize("name", ["Qwen/Qwen3.5-397B-A17B", "LongCat-Flash-Omni(stub)", "glm4v_moe"])
def test_an_override_reaches_a_wrapped_language_model(tmp_path: Path, name: str) -> None:
    assert overridden(tmp_path, name, "vocab_size", 1024) is None
    message = overridden(tmp_path, name, "max_positions", 1024)
    assert message is not None
    assert "model.max_positions = 1024: nothing reads this key" in message


BY_FAMILY = {
    read_config(recorded()[name]["config"], name=name).family.name: name for name in reversed(READABLE)
}


def overridden(folder: Path, name: str, key: str, value: Any) -> str | None:
    """What is said of a scenario whose model is a recorded config with one key over it; None: its step has a time."""
    path = folder / "config.json"
    path.write_text(json.dumps(recorded()[name]["config"]))
    document = {
        "model": {"base": str(path), key: value},
        "cluster": "h200-ib",
        "calibration": "",
        "deployment": {"engine": "sglang", "attention_tp": 1, "moe_tp": 1, "ep": 1, "overlap": "sequential"}
        | {"batch_per_gpu": 2, "context_tokens": 100},
    }
    try:
        assert float(predict_steps(build_scenario(document)).step_time_s.ravel()[0]) > 0
    except PerfModelError as error:
        return str(error)
    return None


@st.composite
def overrides(draw: st.DrawFn) -> tuple[str, str, Any]:
    """Name of a config of any family, a key of its language model, and a value."""
    name = draw(st.sampled_from(sorted(BY_FAMILY.values())))
    config = language_model(recorded()[name]["config"])
    plain = sorted(key for key, value in config.items() if isinstance(value, int | float | str))
    small = st.integers(-1, 300).filter(lambda n: n != 0)
    return name, draw(st.sampled_from(plain)), draw(st.one_of(small, st.sampled_from(MUTATIONS)))


@settings(max_examples=40, deadline=None)
@given(case=overrides())
def test_any_override_of_a_model_gives_a_step_or_names_its_key(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[str, str, Any]
) -> None:
    name, key, value = case
    message = overridden(tmp_path_factory.getbasetemp(), name, key, value)
    if message and "memory" not in message:
        same = next((names for names in ALIASES.values() if key in names), (key,))
        implied = ("intermediate_size",) if key in MAKES_DENSE else ()
        allowed = (*same, *implied, "model_type", "quantization_config", "deployment", "layers", "heads")
        assert any(one in message for one in allowed), message

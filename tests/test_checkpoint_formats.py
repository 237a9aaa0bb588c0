"""Precision from the checkpoint: what quantization keys say, and what a scenario makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_families import recorded

from perfmodel.errors import PerfModelError, UnsupportedError
from perfmodel.load import build_scenario, load_scenario
from perfmodel.ops.memory import weight_bytes
from perfmodel.ops.mixers.mixer import mixer_kept
from perfmodel.spec.checkpoint import Formats
from perfmodel.spec.models.reader import read_config
from perfmodel.spec.scenario import Scenario
from perfmodel.step import predict_steps


def formats(name: str) -> dict[str, Any]:
    entry = recorded()[name]
    found = read_config(entry["config"], name=name, beside=entry.get("hf_quant_config")).model.formats
    return {
        key: value for key, value in found.model_dump(exclude={"state"}).items() if value and value != "bf16"
    }


FP8 = dict.fromkeys(("linear", "attention_output", "dense", "experts", "shared"), "fp8")
TENSOR = dict.fromkeys(FP8, "fp8-tensor")
FP4 = dict.fromkeys(FP8, "fp4")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen3-235B-A22B", {}),
        ("Qwen/Qwen3-235B-A22B-FP8", FP8 | {"method": "fp8"}),
        ("nvidia/Qwen3-235B-A22B-NVFP4", FP4 | {"kv_cache": "fp8", "method": "modelopt"}),
        ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8", TENSOR | {"kv_cache": "fp8", "method": "modelopt"}),
        ("MiniMaxAI/MiniMax-M2.5", FP8 | {"method": "fp8"}),
        ("openai/gpt-oss-120b", {"experts": "mxfp4", "shared": "mxfp4", "method": "mxfp4"}),
        ("moonshotai/Kimi-K2.5", {"experts": "int4", "method": "compressed-tensors"}),
        ("moonshotai/Kimi-K3", {"experts": "mxfp4", "method": "compressed-tensors"}),
        ("nvidia/Kimi-K2.6-NVFP4", {"experts": "fp4", "kv_cache": "fp8", "method": "modelopt"}),
        (
            "nvidia/DeepSeek-V3.1-NVFP4",
            FP4 | {"linear": None, "kv_cache": "fp8", "method": "modelopt"},
        ),
        ("nvidia/GLM-5.2-NVFP4", {"experts": "fp4", "kv_cache": "fp8", "method": "modelopt"}),
        ("nvidia/Gemma-4-26B-A4B-NVFP4", {"experts": "fp4", "kv_cache": "fp8", "method": "modelopt"}),
        ("deepseek-ai/DeepSeek-V4-Pro", FP8 | {"experts": "mxfp4", "method": "fp8"}),
        ("nvidia/DeepSeek-V4-Pro-NVFP4", FP8 | {"experts": "fp4", "method": "fp8"}),
        (
            "nvidia/Qwen3.6-35B-A3B-NVFP4",
            TENSOR | {"experts": "fp4", "shared": "fp4", "kv_cache": "fp8", "method": "modelopt"},
        ),
    ],
)
def test_checkpoints_that_people_run(name: str, expected: dict[str, Any]) -> None:
    """Block-scaled FP8, per-tensor FP8, NVFP4 with modules left out, one algorithm per layer, groups with targets."""
    assert formats(name) == {key: value for key, value in expected.items() if value}


BASE = recorded()["Qwen/Qwen3-30B-A3B"]["config"]


def quantised(keys: Any) -> Formats:
    return read_config({**BASE, "quantization_config": keys}, name="x").model.formats


def test_awq_gptq_and_int8() -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "modules_to_not_convert": ["mlp.gate"]}
    assert quantised(awq).experts == "int4"
    assert quantised({"quant_method": "gptq", "bits": 8}).linear == "int8"
    attention = awq | {"modules_to_not_convert": ["self_attn"]}
    assert (quantised(attention).linear, quantised(attention).experts) == ("bf16", "int4")
    weights = {"num_bits": 8, "type": "int", "strategy": "channel"}
    groups = {
        "quant_method": "compressed-tensors",
        "config_groups": {"g": {"weights": weights, "targets": ["Linear"]}},
    }
    assert quantised(groups).dense == "int8"
    expression = groups | {"ignore": ["re:.*self_attn.*"]}
    assert (quantised(expression).attention_output, quantised(expression).experts) == ("bf16", "int8")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"quant_method": "quip"}, "quant_method = 'quip' is not known; allowed: fp8, modelopt"),
        ({"quant_method": "gptq", "bits": 3}, "bits = 3 is not known; allowed: 4, 8"),
        ({"quant_method": "modelopt", "quant_algo": "X"}, "quant_algo = 'X' is not known"),
        ({"quant_method": "fp8", "ignore": 3}, r"quantization_config.ignore = 3 must be a list"),
        ({"quant_method": "fp8", "ignore": ["re:("]}, "is no pattern of names"),
        (7, "quantization_config = 7 must be a mapping"),
    ],
)
def test_what_is_not_known_is_refused_by_name(keys: Any, message: str) -> None:
    with pytest.raises(PerfModelError, match=message):
        quantised(keys)


def scenario(tmp_path: Path, name: str, deployment: dict[str, Any], **sections: Any) -> Scenario:
    """Four GPUs of a checkpoint as its folder has it, ``hf_quant_config.json`` beside ``config.json``."""
    entry = recorded()[name]
    folder = tmp_path / name.replace("/", "--")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(entry["config"]))
    if "hf_quant_config" in entry:
        (folder / "hf_quant_config.json").write_text(json.dumps(entry["hf_quant_config"]))
    layout = {"engine": "vllm", "attention_tp": 4, "ep": 4, "batch_per_gpu": 16, "context_tokens": 4096}
    document = {
        "model": str(folder / "config.json"),
        "cluster": "b200-ib",
        "prices": "b200-on-demand",
        "deployment": layout | deployment,
    }
    return build_scenario(document | sections)


def test_three_checkpoints_of_a_model_have_three_sizes_and_three_times(tmp_path: Path) -> None:
    names = ("Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-235B-A22B-FP8", "nvidia/Qwen3-235B-A22B-NVFP4")
    found = [scenario(tmp_path, name, {}) for name in names]
    gigabytes = [float(weight_bytes(one.model, one.deployment)) / 1e9 for one in found]
    assert gigabytes == pytest.approx([117.5, 59.0, 33.3], rel=0.015)
    times = [float(predict_steps(one).step_time_s[0]) for one in found]
    assert times[0] > 1.1 * times[1] > 1.2 * times[2]
    assert [one.deployment.precision.kv_cache for one in found] == ["bf16", "bf16", "fp8"]


@pytest.mark.parametrize(
    ("name", "engine", "stated", "state"),
    [
        ("qwen3_next", "vllm", {}, "bf16"),
        ("qwen3_next", "sglang", {}, "fp32"),
        ("qwen3_next", "vllm", {"precision": {"state": "fp32"}}, "fp32"),
        ("Qwen/Qwen3.5-35B-A3B", "vllm", {}, "fp32"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "sglang", {}, "fp32"),
        ("kimi_linear", "vllm", {}, "fp32"),
        ("jamba", "vllm", {}, "bf16"),
    ],
)
def test_states_are_kept_as_the_config_says_or_else_the_engine(
    tmp_path: Path, name: str, engine: str, stated: dict[str, Any], state: str
) -> None:
    found = scenario(tmp_path, name, {"engine": engine, "attention_tp": 2, "ep": 1, "moe_tp": 2} | stated)
    assert found.deployment.precision.state == state
    other = found.deployment.precision.model_copy(update={"state": {"bf16": "fp32", "fp32": "bf16"}[state]})
    kept, otherwise = (
        sum(
            run.count * run.num_mixers * mixer_kept(run.attention, one, 2, indexes=False).state_bytes
            for run in found.model.layers
            if run.attention
        )
        for one in (found.deployment.precision, other)
    )
    assert (kept > otherwise) == (state == "fp32")


def test_a_state_format_that_there_is_not_is_named() -> None:
    config = recorded()["Qwen/Qwen3.5-35B-A3B"]["config"]
    text = {**config["text_config"], "mamba_ssm_dtype": "float8"}
    with pytest.raises(PerfModelError, match="mamba_ssm_dtype = 'float8' must be one of float32, bfloat16"):
        read_config({**config, "text_config": text}, name="x")


def test_a_config_without_quantization_is_bf16_and_sends_bf16(tmp_path: Path) -> None:
    precision = scenario(tmp_path, "Qwen/Qwen3-235B-A22B", {}).deployment.precision
    assert (precision.linear, precision.experts, precision.dispatch) == ("bf16", "bf16", "bf16")


def test_what_is_stated_wins_and_is_noted_once(tmp_path: Path) -> None:
    stated = scenario(tmp_path, "Qwen/Qwen3-235B-A22B-FP8", {"precision": {"experts": "fp4"}})
    assert (stated.deployment.precision.linear, stated.deployment.precision.experts) == ("fp8", "fp4")
    (note,) = stated.notes
    assert (
        note == "precision as stated (experts fp4) is not the checkpoint's (experts fp8; quantization: fp8)"
    )
    same = scenario(tmp_path, "Qwen/Qwen3-235B-A22B-FP8", {"precision": {"experts": "fp8"}})
    assert same.notes == ()


def test_a_stated_class_takes_its_parts_along(tmp_path: Path) -> None:
    """The output projection is FP4 in this checkpoint, unless attention is stated."""
    own = scenario(tmp_path, "nvidia/DeepSeek-V3.1-NVFP4", {}).deployment.precision
    assert (own.linear, own.output_dtype, own.dense_dtype) == ("bf16", "fp4", "fp4")
    stated = scenario(tmp_path, "nvidia/DeepSeek-V3.1-NVFP4", {"precision": {"linear": "fp8"}})
    assert stated.deployment.precision.output_dtype == "fp8"


def test_a_published_format_needs_no_note() -> None:
    """LongCat-Flash's weights are published in FP8 beside its BF16 config."""
    assert load_scenario("longcat-flash-h800").notes == ()
    changed = load_scenario("longcat-flash-h800", ["deployment.precision.experts=fp4"])
    assert len(changed.notes) == 1


def test_prefill_replicas_run_the_same_checkpoint(tmp_path: Path) -> None:
    prefill = {"prefill": {"deployment": {"attention_tp": 4, "ep": 4}}}
    found = scenario(tmp_path, "nvidia/Qwen3-235B-A22B-NVFP4", {"precision": {"linear": "fp8"}}, **prefill)
    assert found.prefill is not None
    assert found.prefill.deployment.precision == found.deployment.precision
    assert (found.deployment.precision.linear, found.deployment.precision.experts) == ("fp8", "fp4")
    assert len(found.notes) == 1


def test_an_unknown_format_is_refused_in_a_scenario_with_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match=r"state deployment\.precision"):
        quantised({"quant_method": "bitsandbytes", "load_in_4bit": True})

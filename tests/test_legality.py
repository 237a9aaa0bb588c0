"""What engines refuse to load: reasons, ways out, and that all commands say the same."""

import re

import pytest
from typer.testing import CliRunner

from perfmodel.answers.step import answer_step
from perfmodel.cli import app
from perfmodel.engines.legality import refusal, rules
from perfmodel.errors import InfeasibleError
from perfmodel.explore.curve import batch_curve
from perfmodel.load import load_scenario
from perfmodel.serving.serve import serve
from perfmodel.spec import catalogue
from perfmodel.validation import names, silicon
from tests.test_limits import tensor_parallel

QWEN = (
    "model=qwen3-235b-a22b",
    "cluster=h100-ib",
    "deployment.precision.linear=fp8",
    "deployment.precision.experts=fp8",
)
"""Its FP8 checkpoint on H100."""


@pytest.mark.parametrize("engine", ["", "sglang", "vllm"])
def test_an_expert_that_is_cut_through_a_block_is_refused(engine):
    """https://github.com/vllm-project/vllm/issues/17569: 1536 / 8 = 192."""
    text = refusal(tensor_parallel(8, *QWEN, f"deployment.engine={engine!r}"))
    assert text
    assert "deployment.moe_tp = 8 slices an expert's FFN of width 1536 to 192, no multiple of 128" in text
    assert "deployment.ep=8 with deployment.moe_tp=1" in text
    assert "deployment.moe_tp=4, attention_tp=4" in text
    assert "https://github.com/vllm-project/vllm/issues/17569" in text


@pytest.mark.parametrize(
    "way",
    [
        ["deployment.ep=8", "deployment.moe_tp=1"],
        ["deployment.precision.experts=bf16"],
        ["deployment.precision.experts=fp8-tensor"],
        ["deployment.precision.experts=int4"],
    ],
)
def test_the_ways_out_are_loaded(way):
    assert refusal(tensor_parallel(8, *QWEN, "deployment.engine=vllm", *way)) is None
    assert refusal(tensor_parallel(4, *QWEN, "deployment.engine=vllm")) is None


@pytest.mark.parametrize(
    ("scenario", "key"),
    [
        (tensor_parallel(8, *QWEN), "experts"),
        (tensor_parallel(32, "cluster=h200-ib"), "linear"),
        (tensor_parallel(32, "cluster=h200-ib", "deployment.precision.dense=fp8"), "dense"),
    ],
)
def test_the_format_that_is_advised_is_a_key_that_helps(scenario, key):
    """Each format that the message names, under the key that it names."""
    before = refusal(scenario)
    advised = re.search(r"a format without blocks \((deployment\.precision\.\w+)=(\S+) or (\S+)\)", before)
    assert advised[1] == f"deployment.precision.{key}"
    for dtype in (advised[2], advised[3]):
        changed = scenario.deployment.precision.model_copy(update={key: dtype})
        deployment = scenario.deployment.model_copy(update={"precision": changed})
        after = refusal(scenario.model_copy(update={"deployment": deployment}))
        assert after is None or after.partition(", no multiple")[0] != before.partition(", no multiple")[0]


def test_a_dense_ffn_that_is_cut_through_a_block_is_refused():
    """https://github.com/sgl-project/sglang/issues/3345: DeepSeek-R1 with TP32, 18432 / 32 = 576."""
    scenario = tensor_parallel(32, "cluster=h200-ib")
    text = refusal(scenario)
    assert text
    assert "deployment.dense_tp = 32 slices the dense FFN of width 18432 to 576" in text
    assert "deployment.dense_tp=16" in text
    assert refusal(tensor_parallel(16, "cluster=h200-ib")) is None


def test_heads_of_192_that_are_cut_one_by_one_are_refused():
    whole = ["deployment.dense_tp=1", "deployment.ep=128", "deployment.moe_tp=1"]
    text = refusal(tensor_parallel(128, *whole))
    assert text
    assert "the queries' projection of width 24576 to 192" in text
    assert "deployment.attention_tp=64 with attention_dp=2" in text


def test_kv_heads_that_neither_divide_nor_repeat_are_refused():
    four_of_six = ["model=llama-3.1-70b", "model.num_key_value_heads=4", "model.num_attention_heads=48"]
    text = refusal(
        tensor_parallel(6, *four_of_six, "model.intermediate_size=24576", "model.hidden_size=6144")
    )
    assert text
    assert "deployment.attention_tp = 6 neither divides the model's 4 KV heads" in text
    assert "use attention_tp = 2" in text


def test_gpt_oss_is_padded_whatever_format_stands_in_for_mxfp4():
    """gpt-oss with TP8: 2880 / 8 = 360, no multiple of 32 or 16; engines pad MXFP4's slices."""
    gpt = ("model=gpt-oss-120b", "cluster=b200-ib", "deployment.precision.linear=bf16")

    def loaded(dtype):
        return refusal(
            tensor_parallel(8, *gpt, "deployment.engine=sglang", f"deployment.precision.experts={dtype}")
        )

    assert [loaded(dtype) for dtype in ("int4", "fp4", "mxfp4")] == [None, None, None]


@pytest.mark.parametrize(
    ("cluster", "engine", "set_", "refused"),
    [
        ("h200-ib", "sglang", "experts=fp4", True),
        ("h200-ib", "trtllm", "experts=fp4", True),
        ("h200-ib", "vllm", "experts=fp4", False),  # multiplied as BF16 by Marlin
        ("b200-ib", "sglang", "experts=fp4", False),
        ("a100-ib", "trtllm", "experts=fp8-tensor", True),
        ("a100-ib", "vllm", "experts=fp8-tensor", False),
        ("a100-ib", "vllm", "attention=fp8", True),
        ("h200-ib", "vllm", "attention=fp8", False),
    ],
)
def test_formats_without_kernels_are_refused(cluster, engine, set_, refused):
    wide = ["deployment.precision.linear=bf16", "deployment.precision.experts=bf16"]
    text = refusal(
        tensor_parallel(
            8, f"cluster={cluster}", f"deployment.engine={engine}", *wide, f"deployment.precision.{set_}"
        )
    )
    assert bool(text) is refused
    if text:
        assert f"deployment.precision.{set_.replace('=', ' = ')}: {engine} has no kernels for it" in text


def test_vllm_divides_experts_or_slices_them():
    mixed = ["deployment.ep=2", "deployment.moe_tp=4", "cluster=h200-ib"]
    text = refusal(tensor_parallel(8, *mixed, "deployment.engine=vllm"))
    assert text
    assert "use ep=8 with moe_tp=1, or ep=1 with moe_tp=8" in text
    assert refusal(tensor_parallel(8, *mixed, "deployment.engine=sglang")) is None


def test_every_command_says_the_same():
    scenario = tensor_parallel(8, *QWEN, "deployment.engine=vllm")
    expected = refusal(scenario)
    assert expected
    for ask in (answer_step, batch_curve, serve):
        with pytest.raises(InfeasibleError) as found:
            ask(scenario)
        assert str(found.value) == expected
    record = {
        "id": "own", "model": "Qwen/Qwen3-235B-A22B", "system": "h100_sxm", "backend": "vllm", "version": "0.17.0",
        "precision": "fp8", "mode": "agg", "gpus": "8", "parallel_or_prefill": "tp8 dp1 moe_tp8 ep1", "decode": "",
        "concurrency": "8", "isl": "1000", "osl": "1000", "ttft_ms": "", "tpot_ms": "10", "note": "", "measured": "",
    }  # fmt: skip
    record["system"] = next(name for name in names.SYSTEMS if name.startswith("h100"))
    record["model"] = next(name for name, own in names.MODELS.items() if own == "qwen3-235b-a22b")
    step, reason = silicon.predict(record)
    assert step is None
    assert reason == expected


def test_prefill_replicas_are_asked_too():
    scenario = load_scenario(
        "longcat-flash-h800-pd", ["prefill.deployment.precision.attention=fp8", "cluster=a100-ib"]
    )
    for ask in (answer_step, serve):
        with pytest.raises(InfeasibleError, match=r"^prefill\.deployment.precision\.attention = fp8"):
            ask(scenario)


def test_the_command_line_refuses_as_infeasible():
    layout = [f"deployment.{key}=8" for key in ("attention_tp", "dense_tp", "moe_tp")]
    changes = [
        *QWEN,
        *layout,
        "deployment.attention_dp=1",
        "deployment.ep=1",
        "deployment.overlap=sequential",
    ]
    changes += ["deployment.mtp.draft_tokens=0", "deployment.batch_per_gpu=1", "routing={}"]
    arguments = [part for change in changes for part in ("--set", change)]
    result = CliRunner().invoke(app, ["step", "deepseek-v3-h800", *arguments])
    assert isinstance(result.exception, InfeasibleError)
    assert result.exception.exit_code == 3
    assert "no multiple of 128" in str(result.exception)


@pytest.mark.parametrize("name", catalogue.names("scenarios"))
def test_scenarios_that_ship_are_loaded(name):
    scenario = load_scenario(name)
    assert scenario.costs == "report" or refusal(scenario) is None


def test_every_rule_says_where_it_was_read():
    found = rules()
    for rule in (*found.widths, *found.formats, *found.attention, found.heads, found.whole_experts):
        assert rule.url.startswith("https://")
        assert rule.engines


@pytest.mark.parametrize("engine", ["sglang", "trtllm", "vllm"])
@pytest.mark.parametrize(("cluster", "experts"), [("h200-ib", "int4"), ("b200-ib", "fp4")])
def test_gpt_oss_is_padded_whatever_format_stands_in_for_its_own(engine, cluster, experts):
    """Runs at TP8 (2880 / 8 = 360) are published for all three; MXFP4 slices are padded to whole blocks."""
    sets = (f"cluster={cluster}", f"deployment.engine={engine}", f"deployment.precision.experts={experts}")
    linear = "deployment.precision.linear=bf16"
    assert refusal(tensor_parallel(8, "model=gpt-oss-120b", *sets, linear)) is None

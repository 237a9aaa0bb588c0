"""A training layout as the command of Megatron-LM or torchtitan, and that command read again: the same layout."""

import json
import shlex

import pytest
from command import run_here
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from perfmodel.engines.frameworks.command import training_command
from perfmodel.engines.frameworks.launch import train_command
from perfmodel.engines.frameworks.megatron_model import sizes_of
from perfmodel.engines.frameworks.torchtitan import stages_of
from perfmodel.errors import SpecError
from perfmodel.explore.first_training import TrainAsk, first_training
from perfmodel.ops.parameters import parameter_counts
from perfmodel.spec import catalogue
from perfmodel.spec.training import Training
from perfmodel.training.layout import even_layers
from perfmodel.training.pipeline.schedules import schedule_problem

MODELS = ("deepseek-v3", "qwen3-30b-a3b", "llama-3.1-70b", "glm-4.5")


def again(command, gpus):
    """The training section of a command that was written."""
    read = training_command(command)
    assert read.gpus == gpus
    return first_training(TrainAsk(read, command, f"{gpus}xb200"))


@st.composite
def layouts(draw, *, torchtitan=False):
    """(catalogue name, training, stages) that the framework can say."""
    of = draw
    name = of(st.sampled_from(("deepseek-v3", "qwen3-30b-a3b", "llama-3.1-70b") if torchtitan else MODELS))
    model = catalogue.model(name)
    tp, cp, pp = (
        of(st.sampled_from((1, 2, 4))),
        of(st.sampled_from((1, 2))),
        of(st.sampled_from((1,) if torchtitan and name.startswith("qwen3") else (1, 2, 4, 8))),
    )
    dp, micro = of(st.sampled_from((2, 4, 8))), of(st.sampled_from((1, 2)))
    schedules = [("1f1b", 1), ("interleaved-1f1b", 2), ("interleaved-1f1b", 4)]
    schedules += [("gpipe", 1), ("zb-h1", 2), ("zb-v", 2), ("dualpipe-v", 2)] if torchtitan else []
    schedule, chunks = of(st.sampled_from(schedules)) if pp > 1 else ("1f1b", 1)
    keys = {
        "tokens": 2**33 * 3, "sequence_tokens": 4096, "tp": tp, "cp": cp, "pp": pp, "dp": dp,
        "micro_batch_sequences": micro, "global_batch_sequences": dp * micro * pp * chunks * 2,
        "schedule": schedule, "virtual_stages": chunks,
        "precision": of(st.sampled_from(("bf16", "fp8", "mxfp8"))),
    }  # fmt: skip
    if cp > 1:
        keys["cp_exchange"] = (
            "all-gather" if torchtitan else of(st.sampled_from(("ring", "all-gather", "ulysses")))
        )
    if model.moe:
        keys["all_to_all"] = "all-to-all"
    stages = even_layers(model.num_layers, pp * chunks)
    if torchtitan:
        for key in ("kernels", "loss_kernels"):
            keys[key] = of(st.sampled_from(("pytorch-compiled", "pytorch-eager")))
        if name != "deepseek-v3":  # whose attention is FlexAttention
            keys["attention_kernels"] = "cudnn"
        keys["global_batch_sequences"] //= (
            2 if pp == 1 else 1
        )  # gradients are accumulated in a pipeline alone
        keys["zero"] = 3 if pp == 1 else of(st.sampled_from((1, 3)))
        by_operation = ("norms", "activations", "every_second_product")
        keys["recompute"] = of(
            st.sampled_from(("none", "full") if model.moe else ("none", "full", by_operation))
        )
        keys["dp_replicate"] = of(st.sampled_from((1, 2))) if dp > 2 else 1
        if pp > 1 and of(st.booleans()):
            try:
                stages = stages_of(model.num_layers, pp * chunks, 1, 1)
            except SpecError:
                assume(False)
        if model.moe:
            ep = of(st.sampled_from((1, 2, 4)))
            keys |= {"ep": ep, "etp": tp if ep == 1 else 1}
            if ep > 1:
                keys["all_to_all"] = of(st.sampled_from(("all-to-all", "deepep-normal")))
            if schedule == "dualpipe-v" and ep > 1 and keys["recompute"] == "none":
                keys["moe_overlap"] = of(st.sampled_from(("none", "forward-backward")))
            if keys["precision"] != "bf16":
                keys["bf16_parts"] = of(st.sampled_from(((), ("experts",))))
    else:
        overlap = of(st.booleans())
        keys |= {
            "zero": of(st.sampled_from((1, 3))), "overlap_gradients": overlap, "overlap_parameters": overlap,
            "deterministic": of(st.booleans()), "placeholder_gradients": True,
            "recompute": of(st.sampled_from(("none", "full", ("norms",), ("attention_core", "activations")))),
        }  # fmt: skip
        keys |= {"overlap_gradients": True, "overlap_parameters": True} if keys["zero"] == 3 else {}
        narrow = of(st.booleans())
        if narrow:
            keys["optimizer"] = {"moments": "bf16", "gradients": "bf16"}
            keys["offload"] = {"optimizer_fraction": 0.5, "overlap": of(st.booleans())}
        if model.moe:
            keys |= {
                "ep": of(st.sampled_from((1, 2, 4))), "etp": of(st.sampled_from((1, tp))),
                "all_to_all": of(st.sampled_from(("all-to-all", "deepep-normal", "hybrid-ep"))),
                "mtp": model.mtp is not None and of(st.booleans()),
            }  # fmt: skip
            if keys["recompute"] != "full" and (pp == 1 or chunks > 1) and keys["ep"] > 1:
                keys["moe_overlap"] = of(st.sampled_from(("none", "forward-backward")))
                keys["delay_weights"] = keys["moe_overlap"] == "none" or of(st.booleans())
            if keys["all_to_all"] == "all-to-all" and of(st.booleans()):
                keys["capacity"] = {"factor": 1.25, "pad": True}
        step = dp * micro * pp * chunks
        if pp == 1 and of(st.booleans()):
            keys["batch_ramp"] = {
                "start_sequences": step,
                "increment_sequences": step,
                "ramp_sequences": 2**16,
            }
    assume(schedule_problem(schedule, pp, keys["global_batch_sequences"] // (dp * micro), chunks) is None)
    try:
        training = Training.model_validate(keys)
    except ValidationError:
        assume(False)
    return name, training.model_copy(update={"stage_layers": tuple(stages) if pp > 1 else None}), stages


def _round(framework, drawn):
    name, training, stages = drawn
    found = train_command(framework, training, catalogue.model(name), stages, 8)
    assert not found.cannot
    first = again(found.command, training.num_gpus)
    assert first.document["model"] == name
    assert first.scenario.training == training, found.command
    told = [note for note in first.notes if note.startswith(("not known", "not modelled"))]
    assert all("FlexAttention" in note and name == "deepseek-v3" for note in told), told


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_megatrons_command_is_read_as_the_layout_that_it_was_written_for(drawn):
    _round("megatron", drawn)


@settings(max_examples=60, deadline=None)
@given(layouts(torchtitan=True))
def test_torchtitans_command_is_read_as_the_layout_that_it_was_written_for(drawn):
    name, training, stages = drawn
    steps = round(training.tokens / training.step_tokens)
    _round(
        "torchtitan",
        (name, training.model_copy(update={"tokens": float(steps * training.step_tokens)}), stages),
    )


def test_models_are_said_by_their_sizes_or_not_at_all():
    said = {name for name in catalogue.names("models") if sizes_of(catalogue.model(name))}
    assert {*MODELS, "kimi-k2", "qwen3-235b-a22b", "mixtral-8x22b", "qwen3-coder-480b-a35b"} <= said
    assert not {"longcat-flash", "gpt-oss-120b", "llama-4-scout", "deepseek-v3.2", "qwen3.5-397b-a17b"} & said
    for name in said:
        sizes = " ".join(sizes_of(catalogue.model(name)))
        command = f"pretrain_gpt.py --seq-length 4096 --micro-batch-size 1 --bf16 {sizes}"
        first = first_training(TrainAsk(training_command(command), command, "8xb200"))
        read, own = (parameter_counts(one) for one in (first.scenario.model, catalogue.model(name)))
        assert read.total == pytest.approx(own.total, rel=1e-4), name  # but for biases, and a norm's vectors
        assert (read.experts, read.shared_experts, read.head) == (
            own.experts,
            own.shared_experts,
            own.head,
        ), name


def test_what_a_framework_lacks_is_said():
    model = catalogue.model("longcat-flash")
    keys = {
        "global_batch_sequences": 64, "dp": 8, "pp": 2, "virtual_stages": 2, "schedule": "zb-v", "cp": 2, "zero": 2,
        "moe_overlap": "two-chunks", "stage_layers": (7, 7, 7, 7), "dispatch": "fp8", "recompute": ("norms",),
        "precision": "nvfp4",
        "batch_ramp": {"start_sequences": 32, "increment_sequences": 32, "ramp_sequences": 1000},
    }  # fmt: skip
    training = Training.model_validate(keys)
    megatron = train_command("megatron", training, model, training.stage_layers, 8)
    for words in ("the model, longcat-flash", "schedule zb-v", "two chunks", "dispatch in FP8"):
        assert any(words in text for text in megatron.cannot), words
    torchtitan = train_command("torchtitan", training, model, training.stage_layers, 8)
    for words in (
        "no flavor",
        "moe_overlap two-chunks",
        "NVFP4",
        "batches that grow",
        "cp_exchange ring",
        "zero = 2",
    ):
        assert any(words in text for text in torchtitan.cannot), words
    assert "--pipeline_parallel_schedule=ZBVZeroBubble" not in torchtitan.command
    assert "parallelism.pipeline_parallel_schedule=ZBVZeroBubble" in torchtitan.command
    assert "nproc_per_node 8 --nnodes 4" in megatron.command
    assert all(
        source.startswith("https://github.com/") for one in (megatron, torchtitan) for source in one.sources
    )


def test_plan_train_prints_the_command_of_the_best(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "model: qwen3-30b-a3b\ncluster: h100-ib\n"
        "training: {tokens: 1.0e12, global_batch_sequences: 512, dp: 64, ep: 8, all_to_all: all-to-all}\n"
    )
    (tmp_path / "space.yaml").write_text(
        "space: {tp: [1], cp: [1], pp: [4], ep: [8], etp: [1], schedule: [interleaved-1f1b], virtual_stages: [2], "
        "recompute: [none], moe_overlap: [none], micro_batch_sequences: [1], zero: [1]}\n"
    )
    words = (
        "perfmodel",
        "plan-train",
        "s.yaml",
        "--space",
        "space.yaml",
        "--simulate",
        "1",
        "--out",
        "best.yaml",
    )
    done = run_here(*words, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    launch = json.loads(done.stdout)["launch"]
    assert set(launch) == {"megatron", "torchtitan"}
    printed = run_here(*words[:-2], "--launch", "megatron", folder=tmp_path).stdout
    assert launch["megatron"]["command"] in printed
    command = launch["megatron"]["command"]
    words_again = ("--gpus", "64xh100", "--from-command", command, "--out", "again.yaml")
    written = run_here("perfmodel", "init", *words_again, folder=tmp_path)
    assert written.returncode == 0, written.stderr
    best, read = (
        json.loads(run_here("perfmodel", "train", file, "--json", folder=tmp_path).stdout)
        for file in ("best.yaml", "again.yaml")
    )
    assert read["step_time_s"] == pytest.approx(best["step_time_s"], rel=1e-12)
    assert shlex.split(launch["torchtitan"]["command"].replace("\\\n", " "))[-1]
    assert launch["torchtitan"]["cannot"][0].startswith("a pipeline of qwen3")
    own = run_here("perfmodel", "train", "best.yaml", "--launch", "megatron", folder=tmp_path)
    assert command in own.stdout
    assert "launch" not in json.loads(
        run_here("perfmodel", "train", "best.yaml", "--json", folder=tmp_path).stdout
    )
    odd = run_here(*words[:-2], "--launch", "nanotron", folder=tmp_path)
    assert (odd.returncode, "--launch nanotron: must be one of megatron, torchtitan" in odd.stderr) == (
        2,
        True,
    )


def test_torchtitans_pairs_are_off_where_it_refuses_them():
    """v0.2.2, dual_pipe_v.py: DualPipeV with expert parallelism and recomputation does not start unless told."""
    keys = {
        "tokens": 1e9, "sequence_tokens": 4096, "dp": 8, "pp": 4, "ep": 8, "global_batch_sequences": 128,
        "schedule": "dualpipe-v", "virtual_stages": 2, "moe_overlap": "forward-backward",
        "all_to_all": "deepep-normal",
    }  # fmt: skip
    off = "--parallelism.no_pipeline_parallel_expert_parallel_overlap"
    for recompute in ("none", "full"):
        training = Training.model_validate({**keys, "recompute": recompute})
        found = train_command("torchtitan", training, catalogue.model("deepseek-v3"), (), 8)
        assert (off in found.command) == (recompute == "full")
        assert any("with recomputation" in text for text in found.cannot) == (recompute == "full")
        again(found.command, 32)

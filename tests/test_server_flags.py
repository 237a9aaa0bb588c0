"""The command that starts a server as a scenario: what each flag sets, and that all others are told."""

import json

import pytest
from command import run_here

from perfmodel.engines.server_flags import ACCEPTANCE, read_command
from perfmodel.errors import SpecError
from perfmodel.load import load_scenario
from perfmodel.spec.keys import key_paths, meant

VLLM = (
    "CUDA_VISIBLE_DEVICES=0,1 vllm serve deepseek-ai/DeepSeek-V3 --tensor-parallel-size 8 -ep --max-num-seqs=256 \\\n"
    "--gpu-memory-utilization 0.92 --kv-cache-dtype fp8 --no-enable-prefix-caching --port 8000 --trust-remote-code "
    '--speculative-config \'{"method": "deepseek_mtp", "num_speculative_tokens": 2}\' --max-model-len 16384'
)
SGLANG = (
    "python3 -m sglang.launch_server --model-path Qwen/Qwen3-235B-A22B-Instruct-2507-FP8 --tp 8 --dp 4 "
    "--enable-dp-attention --ep-size 8 --max-running-requests 512 --chunked-prefill-size 16384 "
    "--mem-fraction-static 0.85 --disable-radix-cache --enable-two-batch-overlap --host 0.0.0.0"
)


def test_vllms_flags():
    server = read_command(VLLM)
    assert (server.engine, server.model) == ("vllm", "deepseek-v3")
    assert server.settings == {
        "deployment.attention_tp": 8, "deployment.ep": 8, "serving.max_running": 256,
        "deployment.memory_utilization": 0.92, "deployment.precision.kv_cache": "fp8", "serving.prefix_cache": False,
        "deployment.mtp.draft_tokens": 2, "deployment.mtp.acceptance": ACCEPTANCE,
    }  # fmt: skip
    told = "\n".join(server.told)
    for flag in (
        "port 8000: ignored",
        "trust-remote-code: ignored",
        "max-model-len 16384: not modelled",
        "state yours",
    ):
        assert flag in told


def test_stages_and_divided_contexts():
    own = {"deployment.attention_tp": 8, "deployment.pp": 2, "deployment.decode_context_parallel": 8}
    for command in (
        "vllm serve deepseek-v3 -tp 8 -pp 2 -dcp 8",
        "python -m sglang.launch_server --model-path deepseek-v3 --tp-size 8 --pp-size 2 --dcp-size 8",
    ):
        assert own.items() <= read_command(command).settings.items()
    prompts = read_command("python -m sglang.launch_server --model-path deepseek-v3 --tp 8 --attn-cp-size 8")
    assert prompts.settings["deployment.context_parallel"] == 8


def test_sglangs_flags_count_all_ranks():
    server = read_command(SGLANG)
    assert (server.engine, server.model, server.replicas) == ("sglang", "qwen3-235b-a22b", 1)
    assert server.settings == {
        "deployment.attention_tp": 2, "deployment.attention_dp": 4, "deployment.ep": 8, "serving.max_running": 128,
        "serving.max_batched_tokens": 4096, "deployment.memory_utilization": 0.85, "serving.prefix_cache": False,
        "deployment.overlap": "tbo", "deployment.precision.linear": "fp8", "deployment.precision.experts": "fp8",
    }  # fmt: skip
    copies = read_command("python -m sglang.launch_server --model-path deepseek-v3 --tp 8 --dp 2")
    assert (copies.replicas, copies.settings["deployment.attention_dp"]) == (2, 1)


ATOM = (
    "MORI_SHMEM_MODE=ISOLATION python -m atom.entrypoints.openai_server --model deepseek-ai/DeepSeek-R1 -tp 8 "
    "--kv_cache_dtype fp8 --block-size 16 --enable-dp-attention --enable-expert-parallel --enable-tbo all "
    "--method mtp --num-speculative-tokens 3 --max-num-seqs 256 --server-port 8000"
)


def test_atoms_flags():
    """Commands of its recipes (DeepSeek-R1, disaggregation) with flags of its guides."""
    server = read_command(ATOM)
    assert server.engine == "atom"
    assert server.settings == {
        "deployment.attention_tp": 1, "deployment.attention_dp": 8, "deployment.ep": 8, "serving.max_running": 256,
        "deployment.precision.kv_cache": "fp8", "serving.block_tokens": 16, "deployment.overlap": "tbo",
        "deployment.mtp.draft_tokens": 3, "deployment.mtp.acceptance": ACCEPTANCE,
    }  # fmt: skip
    assert any(text == "--server-port 8000: ignored" for text in server.told)
    both = read_command("python -m atom.entrypoints.openai_server --model m -tp 4 -dp 2 --enable-tbo")
    assert both.settings == {"deployment.attention_tp": 4, "deployment.attention_dp": 2}
    assert "--enable-tbo: ignored" in both.told  # of prompts alone


def test_tensorrt_llms_options_and_their_file(tmp_path):
    options = tmp_path / "options.yaml"
    options.write_text(
        "enable_attention_dp: true\nkv_cache_config: {free_gpu_memory_fraction: 0.8, dtype: fp8}\n"
    )
    server = read_command(
        f"trtllm-serve deepseek-ai/DeepSeek-V3 --tp_size 8 --ep_size 8 --max_batch_size 64 "
        f"--extra_llm_api_options {options}"
    )
    assert server.settings == {
        "deployment.attention_tp": 1, "deployment.attention_dp": 8, "deployment.ep": 8, "serving.max_running": 64,
        "deployment.memory_utilization": 0.8, "deployment.precision.kv_cache": "fp8",
    }  # fmt: skip
    assert f"{options}: read" in server.told


@pytest.mark.parametrize("command", [VLLM, SGLANG])
def test_every_setting_is_a_key_and_the_scenario_runs(command, tmp_path):
    assert set(read_command(command).settings) <= set(key_paths())
    done = run_here(
        "perfmodel",
        "init",
        "--gpus",
        "16xh200",
        "--from-command",
        command,
        "--out",
        "s.yaml",
        "--json",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    scenario = load_scenario(str(tmp_path / "s.yaml"))
    assert scenario.serving.replicas == 2
    for path, value in read_command(command).settings.items():
        found = scenario
        for part in path.split("."):
            found = getattr(found, part)
        assert found == value, path
    assert set(read_command(command).told) <= set(json.loads(done.stdout)["notes"])
    assert run_here("perfmodel", "step", tmp_path / "s.yaml", "--json").returncode == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("llama-server -m x", "must start a server"),
        ("vllm serve x --tensor-parallel-size many", "--tensor-parallel-size 'many': must be a number"),
        ("python -m sglang.launch_server --tp 8 --dp 3 --enable-dp-attention", "must divide"),
        ("vllm serve 'x", "quotation"),
    ],
)
def test_commands_that_are_refused(command, message):
    with pytest.raises(SpecError) as raised:
        read_command(command)
    assert message in str(raised.value)


def test_gpus_that_the_command_does_not_take(tmp_path):
    done = run_here("perfmodel", "init", "--gpus", "4xh200", "--from-command", VLLM, folder=tmp_path)
    assert (done.returncode, "takes 8 GPUs" in done.stderr) == (2, True)
    assert "MODEL: missing" in run_here("perfmodel", "init", "--gpus", "4xh200").stderr


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("serving.max_num_seqs", "serving.max_running"),
        ("workload.concurrency", "workload.max_concurrency"),
        ("deployment.tp", "deployment.attention_tp"),
        ("deployment.batch", "deployment.batch_per_gpu"),
        ("tensor_parallel_size", "deployment.attention_tp"),
        ("workload.isl", "workload.input_tokens"),
    ],
)
def test_the_fields_own_words_lead_to_keys(word, key):
    assert key in meant(word)

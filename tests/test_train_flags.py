"""Launch lines of Megatron-LM and torchtitan as training scenarios: what each flag sets, that none is dropped in
silence, and what a framework does where nothing is said. Lines are those of the frameworks' own examples.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
from command import run_here
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.training_lines import rows
from perfmodel.engines.frameworks.command import training_command
from perfmodel.engines.frameworks.documents import framework
from perfmodel.engines.frameworks.megatron import USED
from perfmodel.engines.frameworks.megatron_model import OTHERS, SIZES
from perfmodel.engines.frameworks.megatron_stages import layout_of, pattern_of, written_out
from perfmodel.engines.frameworks.torchtitan import USED as TITAN
from perfmodel.engines.frameworks.torchtitan import stages_of
from perfmodel.errors import DataError, PerfModelError, SpecError
from perfmodel.explore.first_training import TrainAsk, first_training
from perfmodel.load import load_scenario
from perfmodel.ops.parameters import parameter_counts
from perfmodel.spec import catalogue
from perfmodel.spec.keys import TRAINING_WORDS, key_paths

DOCS = Path(__file__).parents[1] / "docs"
DEEPSEEK = (  # examples/megatron_fsdp/sbatch_mfsdp_deepseek_v3.sh: its sizes
    "--num-layers 61 --hidden-size 7168 --ffn-hidden-size 18432 --num-attention-heads 128 --kv-channels 128 "
    "--max-position-embeddings 4096 --swiglu --untie-embeddings-and-output-weights --multi-latent-attention "
    "--num-experts 256 --moe-layer-freq [0]*3+[1]*58 --moe-ffn-hidden-size 2048 "
    "--moe-shared-expert-intermediate-size 2048 --moe-router-topk 8 --moe-router-group-topk 4 "
    "--moe-router-num-groups 8 --q-lora-rank 1536 --kv-lora-rank 512 --qk-head-dim 128 --qk-pos-emb-head-dim 64 "
    "--v-head-dim 128 --mtp-num-layers 1 "
)
FSDP = (  # the same file: the rest that matters, and some that does not
    "srun -N 32 --ntasks-per-node=8 python pretrain_gpt.py --expert-model-parallel-size 8 "
    "--expert-tensor-parallel-size 1 --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather "
    "--sequence-parallel --use-flash-attn --disable-bias-linear --micro-batch-size 4 --global-batch-size 2048 "
    "--train-samples 585937500 --recompute-granularity selective --recompute-modules mlp moe mla_up_proj layernorm "
    "--transformer-impl transformer_engine --seq-length 4096 --data-path ${DATA_PATH} --split 99,1,0 "
    "--moe-token-dispatcher-type flex --moe-flex-dispatcher-backend hybridep --moe-grouped-gemm "
    "--moe-router-force-load-balancing --bf16 --use-megatron-fsdp --data-parallel-sharding-strategy "
    "optim_grads_params --no-gradient-accumulation-fusion --megatron-fsdp-main-grads-dtype bf16 --use-nccl-ub "
    f"{DEEPSEEK} 2>&1 | tee run.log"
)
MIXTRAL = (  # examples/mixtral/train_mixtral_8x7b_distributed.sh
    "torchrun --nproc_per_node 8 --nnodes 4 pretrain_gpt.py --seq-length 4096 --max-position-embeddings 32768 "
    "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --swiglu "
    "--untie-embeddings-and-output-weights --group-query-attention --num-query-groups 8 --num-experts 8 "
    "--moe-router-topk 2 --moe-router-load-balancing-type aux_loss --moe-aux-loss-coeff 1e-2 --moe-grouped-gemm "
    "--moe-token-dispatcher-type alltoall --overlap-param-gather --overlap-grad-reduce --tokenizer-model $TOKENIZER "
    "--micro-batch-size 1 --global-batch-size 256 --lr 1e-4 --train-iters 500000 --bf16 "
    "--tensor-model-parallel-size 1 --pipeline-model-parallel-size 4 --expert-model-parallel-size 8 "
    "--use-distributed-optimizer --sequence-parallel"
)
GPT3 = (  # examples/gpt3/train_gpt3_175b_distributed.sh
    "torchrun --nproc_per_node 8 --nnodes 16 pretrain_gpt.py --num-layers 96 --hidden-size 12288 "
    "--num-attention-heads 96 --seq-length 2048 --max-position-embeddings 2048 --attention-backend auto "
    '--micro-batch-size 1 --step-batch-size-schedule "0:16 2.4B:320 4.8B:624 7.2B:928 9.6B:1232 12B:1536" '
    "--train-iters 500000 --fp16 --tensor-model-parallel-size 8 --pipeline-model-parallel-size 16"
)
PROXY = (  # tests/functional_tests/.../deepseekv3_proxy_flex_tp1pp4emp16etp1cp1_release/model_config.yaml
    "torchrun --nproc-per-node=8 --nnodes=16 pretrain_gpt.py --tensor-model-parallel-size 2 --sequence-parallel "
    "--pipeline-model-parallel-size 4 --pipeline-model-parallel-layout 'Et*2|(tt|)*5t|tmL' "
    "--expert-model-parallel-size 16 --expert-tensor-parallel-size 1 --micro-batch-size 1 --global-batch-size 512 "
    "--seq-length 4096 --bf16 --use-distributed-optimizer "
    + DEEPSEEK.replace("--num-layers 61", "--num-layers 14")
    .replace("--num-experts 256", "--num-experts 64")
    .replace("[0]*3+[1]*58", "([0]*3+[1]*11)")
)
SMALL = (
    "pretrain_gpt.py --num-layers 16 --hidden-size 2048 --num-attention-heads 16 --swiglu --seq-length 4096 "
    "--micro-batch-size 1 "
)
MOE = SMALL + "--num-experts 16 --moe-router-topk 2 --moe-ffn-hidden-size 1024 "


def read(text, gpus="64xh100", model=""):
    command = training_command(text)
    assert command is not None
    return first_training(TrainAsk(command, text, gpus, model))


def keys(text, gpus="64xh100", model=""):
    return read(text, gpus, model).trainer.keys


def said(text, gpus="64xh100", model=""):
    first = read(text, gpus, model)
    return "\n".join((*first.trainer.why.values(), *first.notes))


def test_deepseeks_example_is_the_catalogues_model_under_fsdp():
    first = read(FSDP, "256xh100")
    assert first.document["model"] == "deepseek-v3"
    assert first.trainer.keys == {
        "dp": 256, "ep": 8, "etp": 1, "sequence_tokens": 4096, "micro_batch_sequences": 4,
        "global_batch_sequences": 2048, "tokens": 585937500 * 4096, "precision": "bf16", "zero": 3,
        "overlap_gradients": True, "overlap_parameters": True, "optimizer.gradients": "bf16",
        "placeholder_gradients": False, "all_to_all": "hybrid-ep", "balanced": True, "mtp": True,
        "recompute": ["activations", "experts", "mla_up_projection", "norms"],
    }  # fmt: skip
    assert "without effect here (data and tokenizer): --data-path, --split" in first.notes


def test_mixtrals_example():
    first = read(MIXTRAL, "32xh100")
    assert first.trainer.keys == {
        "tp": 1, "pp": 4, "dp": 8, "ep": 8, "sequence_tokens": 4096, "micro_batch_sequences": 1, "schedule": "1f1b",
        "stage_layers": [8, 8, 8, 8], "global_batch_sequences": 256, "tokens": 500_000 * 256 * 4096,
        "precision": "bf16", "zero": 1, "overlap_gradients": True, "overlap_parameters": True, "recompute": "none",
        "placeholder_gradients": True, "all_to_all": "all-to-all",
    }  # fmt: skip
    moe = first.scenario.model.moe
    assert (moe.num_experts, moe.top_k, moe.ffn_size, moe.shared_ffn_size) == (8, 2, 14336, 0)
    layer = first.scenario.model.layers[0]
    assert (first.scenario.model.num_layers, layer.attention.num_kv_heads, layer.dense_ffn_size) == (32, 8, 0)


def test_a_layout_of_stages_with_its_prediction_layer():
    first = read(PROXY, "128xh100")
    found = first.trainer.keys
    assert (found["virtual_stages"], found["schedule"]) == (2, "interleaved-1f1b")
    assert found["stage_layers"] == [2, 2, 2, 2, 2, 2, 1, 1]
    assert (found["tp"], found["etp"], found["mtp"]) == (2, 1, True)
    assert [layer.count for layer in first.scenario.model.layers] == [3, 11]


def test_batches_that_grow_by_tokens_are_a_ramp():
    found = keys(GPT3, "128xa100")
    assert found["global_batch_sequences"] == 1536
    assert found["batch_ramp"] == {
        "start_sequences": 16, "increment_sequences": 304, "ramp_sequences": round(12e9 / 2048),
    }  # fmt: skip
    assert (found["zero"], found["overlap_gradients"], found["overlap_parameters"]) == (0, False, False)
    other = SMALL + "--bf16 --step-batch-size-schedule '0:64 1B:128 5B:256'"
    assert keys(other)["global_batch_sequences"] == 256
    assert "does not grow by equal steps" in said(other)
    samples = SMALL + "--bf16 --rampup-batch-size 64 64 100000 --global-batch-size 256"
    assert keys(samples)["batch_ramp"]["ramp_sequences"] == 100_000
    assert "ignores it from core_v0.18.0 on" in said(samples)


def test_what_is_not_said_is_what_megatron_does():
    """Defaults of core_v0.19.0: arguments.py and transformer_config.py."""
    found = keys(MOE + "--bf16 --expert-model-parallel-size 8 --tensor-model-parallel-size 2")
    assert found["etp"] == 2  # expert_tensor_parallel_size follows tensor_model_parallel_size
    assert found["global_batch_sequences"] == found["dp"] == 32
    assert (found["zero"], found["recompute"], found["overlap_gradients"]) == (0, "none", False)
    text = said(MOE + "--expert-model-parallel-size 8 --tensor-model-parallel-size 2")
    for words in (
        "allgather dispatcher",
        "without --bf16",
        "without --sequence-parallel",
        "routing is the router's own",
    ):
        assert words in text, words
    assert keys(MOE + "--bf16 --recompute-granularity selective")["recompute"] == ["attention_core"]
    assert keys(MOE + "--bf16 --fp8-format hybrid")["precision"] == "fp8"
    assert "delayed, its default" in said(MOE + "--bf16 --fp8-format hybrid")
    divided = (
        MOE + "--bf16 --use-megatron-fsdp"
    )  # optim_grads_params, gradients in the weights' format (auto)
    assert (keys(divided)["zero"], keys(divided)["optimizer.gradients"]) == (3, "bf16")
    assert "optimizer.gradients" not in keys(divided + " --megatron-fsdp-main-grads-dtype fp32")
    assert keys(MOE + "--bf16 --moe-layer-recompute")["recompute"] == ["attention_core", "experts"]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("--pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 2", {"virtual_stages": 2}),
        ("--pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 4", {"virtual_stages": 4}),
        (
            "--pipeline-model-parallel-size 4 --decoder-first-pipeline-num-layers 3 "
            "--decoder-last-pipeline-num-layers 3",
            {"stage_layers": [3, 5, 5, 3]},
        ),
        (
            "--pipeline-model-parallel-size 6 --account-for-embedding-in-pipeline-split "
            "--account-for-loss-in-pipeline-split --context-parallel-size 2 --cp-comm-type a2a",
            {"stage_layers": [2, 3, 3, 3, 3, 2], "cp": 2, "cp_exchange": "ulysses", "dp": 4},
        ),
        ("--fp8-format e4m3 --fp8-recipe mxfp8", {"precision": "mxfp8"}),
        ("--fp4-format e2m1", {"precision": "nvfp4"}),
        (
            "--moe-token-dispatcher-type flex --moe-enable-deepep --overlap-moe-expert-parallel-comm "
            "--expert-model-parallel-size 8 --delay-wgrad-compute",
            {"all_to_all": "deepep-normal", "moe_overlap": "forward-backward", "delay_weights": True},
        ),
        (
            "--moe-token-dispatcher-type alltoall --moe-expert-capacity-factor 1.25 "
            "--moe-pad-expert-input-to-capacity",
            {"capacity": {"factor": 1.25, "pad": True}},
        ),
        (
            "--optimizer-cpu-offload --optimizer-offload-fraction 0.5 --overlap-cpu-optimizer-d2h-h2d "
            "--use-precision-aware-optimizer --exp-avg-dtype bf16 --exp-avg-sq-dtype bf16 --main-grads-dtype bf16 "
            "--use-distributed-optimizer",
            {
                "offload.optimizer_fraction": 0.5, "offload.overlap": True, "optimizer.moments": "bf16",
                "optimizer.gradients": "bf16", "zero": 1,
            },
        ),
        ("--cpu-offloading-num-layers 4", {"offload.activations_fraction": 0.25}),
        ("--optimizer muon --deterministic-mode", {"optimizer.kind": "muon", "deterministic": True}),
        ("--use-distributed-optimizer --num-distributed-optimizer-instances 2", {"dp_replicate": 2}),
        (
            "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1 --grad-reduce-in-bf16",
            {"recompute": "full", "optimizer.gradients": "bf16"},
        ),
    ],
)  # fmt: skip
def test_flags_of_megatron(flags, found):
    gpus = "48xb200" if "size 6" in flags else "64xb200"
    first = read(MOE + "--bf16 --global-batch-size 768 " + flags, gpus)
    assert found.items() <= first.trainer.keys.items()
    assert {f"training.{key}" for key in first.trainer.keys} <= set(key_paths())


FILE = """
[model]
name = "deepseek_v3"
flavor = "671B"
converters = ["quantize.linear.float8"]
[optimizer]
name = "AdamW"
lr = 2.2e-4
[training]
local_batch_size = 4
seq_len = 4096
steps = 10_000
dataset = "c4"
[parallelism]
data_parallel_shard_degree = -1
tensor_parallel_degree = 1
enable_async_tensor_parallel = false
pipeline_parallel_schedule = "Interleaved1F1B"
expert_parallel_degree = 8
[activation_checkpoint]
mode = "selective"
selective_ac_option = "op"
[compile]
enable = true
components = ["loss"]
[quantize.linear.float8]
filter_fqns = ["output", "router.gate"]
"""
"""torchtitan/models/deepseek_v3/train_configs/deepseek_v3_671b.toml, what of it matters and some that does not."""


def test_torchtitans_file_and_its_line(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(FILE)
    first = read(f"NGPU=256 CONFIG_FILE={file} ./run_train.sh", "256xh100")
    assert first.document["model"] == "deepseek-v3"
    assert first.trainer.keys == {
        "dp": 256, "zero": 3, "sequence_tokens": 4096, "micro_batch_sequences": 4, "global_batch_sequences": 1024,
        "tokens": 10_000 * 1024 * 4096, "overlap_gradients": True, "overlap_parameters": True, "precision": "fp8",
        "bf16_parts": ["experts"], "recompute": ["norms", "activations", "every_second_product"], "ep": 8,
        "all_to_all": "all-to-all",
        "kernels": "pytorch-eager", "loss_kernels": "pytorch-compiled",
    }  # fmt: skip
    assert "FlexAttention" in "\n".join(first.notes)
    line = (
        f"torchrun --nnodes 32 --nproc_per_node 8 -m torchtitan.train --job.config_file {file} "
        "--parallelism.pipeline_parallel_degree 8 --parallelism.pipeline-parallel-schedule=DualPipeV "
        "--parallelism.expert_parallel_comm_backend deepep --activation_checkpoint.mode none "
        "--training.local_batch_size 32 --parallelism.data_parallel_replicate_degree 2 --parallelism.mesh_order 3"
    )
    found = keys(line, "256xh100")
    assert (found["dp"], found["dp_replicate"], found["zero"]) == (32, 2, 1)
    assert (found["micro_batch_sequences"], found["global_batch_sequences"]) == (1, 1024)
    assert (found["schedule"], found["virtual_stages"]) == ("dualpipe-v", 2)
    assert (found["moe_overlap"], found["recompute"]) == ("forward-backward", "none")
    assert found["stage_layers"] == [3, *[4] * 14, 2]  # 63 with embedding and head, the earlier with one more
    assert "not known: parallelism.mesh_order 3" in said(line, "256xh100")


def test_torchtitans_defaults_and_its_tensor_parallel_experts():
    """Defaults of v0.2.2: job_config.py; llama4_17bx128e.toml's experts without expert parallelism."""
    base = "torchrun -m torchtitan.train --model.name llama4 --model.flavor 17bx128e "
    found = keys(
        base + "--parallelism.tensor_parallel_degree 8 --parallelism.pipeline_parallel_degree 4", "512xh100"
    )
    assert (found["dp"], found["etp"], found["zero"], found["schedule"]) == (16, 8, 1, "1f1b")
    assert found["stage_layers"] == [12, 13, 12, 11]
    assert (found["sequence_tokens"], found["global_batch_sequences"], found["recompute"]) == (
        2048,
        128,
        "full",
    )
    assert "one layer in 2" in said(base, "512xh100")
    both = keys(
        base + "--training.dtype bfloat16 --training.max_norm 0 --parallelism.context_parallel_degree 2"
    )
    assert (both["optimizer.master"], both["optimizer.moments"], both["optimizer.clip"]) == (
        "none",
        "bf16",
        False,
    )
    assert (both["cp_exchange"], both["dp"]) == ("all-gather", 32)


BRIDGE = (
    "torchrun --nproc_per_node 8 --nnodes 2 scripts/training/run_recipe.py --recipe "
    "qwen3_30b_a3b_pretrain_16gpu_h100_bf16_config --mode pretrain -tp 2 -pp 1 -ep 8 -etp 1 -mb 1 -gb 256 -sl 4096 "
)


def test_a_recipe_of_megatron_bridge_with_its_overrides():
    """Flags of v0.6.0's run_recipe.py; defaults of its common pre-training configuration."""
    assert keys(BRIDGE, "16xh100") == {
        "tp": 2, "pp": 1, "dp": 8, "ep": 8, "etp": 1, "sequence_tokens": 4096, "micro_batch_sequences": 1,
        "global_batch_sequences": 256, "precision": "bf16", "zero": 1, "overlap_gradients": True,
        "overlap_parameters": True, "placeholder_gradients": True, "recompute": "none", "all_to_all": "all-to-all",
    }  # fmt: skip
    more = keys(
        BRIDGE + "model.moe_token_dispatcher_type=flex model.moe_flex_dispatcher_backend=hybridep "
        "comm_overlap.overlap_moe_expert_parallel_comm=true ddp.grad_reduce_in_fp32=false "
        "'model.recompute_modules=[layernorm, moe_act]' model.recompute_granularity=selective "
        "mixed_precision=bf16_with_mxfp8_mixed ddp.overlap_param_gather=false model.sequence_parallel=true",
        "16xb200",
    )
    assert (more["all_to_all"], more["moe_overlap"], more["delay_weights"]) == (
        "hybrid-ep",
        "forward-backward",
        False,
    )
    assert (more["recompute"], more["precision"]) == (["norms", "activations"], "mxfp8")
    assert (more["optimizer.gradients"], more["overlap_parameters"]) == ("bf16", False)
    told = said(
        BRIDGE + "mixed_precision=bf16_with_fp8_current_scaling_mixed model.warp=3 optimizer.lr=1", "16xh100"
    )
    for words in ("what the recipe itself changes", "first-last-layers-bf16", "not known: --warp 3", "--lr"):
        assert words in told, words
    named = "python run_recipe.py --recipe qwen3_30b_a3b_pretrain_64gpu_h100_bf16_config -tp 1 -pp 1 -mb 1 -gb 64 -sl 8"
    assert training_command(named).gpus == 64


@pytest.mark.parametrize(("gpus", "measured_gib"), [(8, 82.4), (128, 67.0)])
def test_torchtitans_own_settings_give_its_own_memory(gpus, measured_gib):
    """Its benchmarks/llama3_h100_202412_torchtitan.md, tables 1 and 3, FSDP with selective recomputation, BF16, "
    "eager."""
    found = next(iter(rows(gpus=gpus)))
    assert found.measured_gib == measured_gib
    assert found.gib == pytest.approx(measured_gib, rel=0.14)  # measured is what was reserved
    assert 1.0 < found.tokens / found.measured_tokens < 1.2  # docs/train_flags.md says by what


def test_torchtitans_kernels():
    """v0.2.2: torchtitan/models/attention.py (cuDNN's, then FlashAttention's), loss.py, job_config.py (Compile)."""
    base = "./run_train.sh --model.name llama3 --model.flavor "
    names = ("kernels", "loss_kernels", "attention_kernels")
    eager, compiled = "pytorch-eager", "pytorch-compiled"
    for words, expected in (
        ("8B", (eager, eager, "cudnn")),
        ("8B --compile.enable", (compiled, compiled, "cudnn")),
        ("8B --compile.enable --compile.components model", (compiled, eager, "cudnn")),
        ("8B --compile.enable=true --compile.components \"['loss']\"", (eager, compiled, "cudnn")),
        ("8B --compile.no_enable --compile.components model loss", (eager, eager, "cudnn")),
        ("8B_varlen --compile.enable", (compiled, compiled, "flash-attention-2")),
        ("8B_flex --compile.enable", (compiled, compiled, None)),
    ):
        found = keys(base + words)
        assert tuple(found.get(name) for name in names) == expected, words


@pytest.mark.parametrize("name", framework("torchtitan")["models"])
def test_torchtitans_models_are_read_and_trained(name):
    model, _, flavor = name.partition("/")
    first = read(f"./run_train.sh --model.name {model} --model.flavor {flavor}", "64xh100")
    billions = re.match(r"([0-9.]+)b", flavor.lower())
    if billions and "x" not in flavor:
        total = parameter_counts(first.scenario.model).total / 1e9
        assert total == pytest.approx(float(billions[1]), rel=0.15), name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL + "--tensor-model-parallel-size", "--tensor-model-parallel-size: a value is missing"),
        (SMALL + "--bf16 true", "--bf16 true: takes no value"),
        (SMALL + "--global-batch-size many", "--global-batch-size 'many': must be a whole number from 1"),
        (SMALL + "--tensor-model-parallel-size 3", "must divide the 64 GPUs"),
        (SMALL + "--pipeline-model-parallel-size 32 --num-layers 61", "61 layers do not divide over 32 ranks"),
        (SMALL + "--global-batch-size 100", "must be a multiple of dp x micro_batch_sequences"),
        (SMALL + "--micro-batch-size $MBS", "--micro-batch-size $MBS: a variable of the shell"),
        ("pretrain_gpt.py ${MODEL_ARGS[@]}", "${MODEL_ARGS[@]}: a variable of the shell"),
        ("pretrain_gpt.py --seq-length 4096", "--num-layers: missing, so the line does not say the model"),
        (SMALL.replace("--seq-length 4096", ""), "--seq-length: missing, and Megatron-LM has no default"),
        (SMALL + "--overlap-param-gather", "wants --overlap-grad-reduce beside it"),
        (MOE + "--delay-wgrad-compute", "wants --overlap-moe-expert-parallel-comm beside it"),
        (MOE + "--expert-model-parallel-size 3", "ep x etp = 3 x 1 = 3 must divide"),
        (MOE + "--expert-model-parallel-size 32", "ep = 32 must divide the 16 routed experts"),
        (MOE + "--moe-token-dispatcher-type magic", "must be one of allgather, alltoall, flex"),
        (MOE + "--moe-layer-freq [1]*3", "has 3 layers, --num-layers says 16"),
        (MOE + "--moe-layer-freq __import__('os')", "must be a number, or lists of 0 and 1"),
        (MOE + "--moe-layer-freq 2", "dense layers between those with experts"),
        (SMALL + "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'Et*8|t*7L'", "has 15 layers"),
        (SMALL + "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout '((t*9999)*9999)'", "more than"),
        (SMALL + "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'Et*8|(t*8L'", "stands alone"),
        (SMALL + "--hybrid-layer-pattern M-M*", "do not say such a model here: give MODEL beside it"),
        (SMALL + "--fp8-format e4m3 --fp4-format e2m1", "exclude each other"),
        (SMALL + "--step-batch-size-schedule 0:16,often", "must be TOKENS:BATCH"),
        ("torchrun --nproc_per_node 8 --nnodes 4 " + SMALL, "the command starts 32 processes"),
        ("python run_recipe.py --model qwen3_30b_a3b -tp 2 -mb 1", "-pp, -gb, -sl: missing; a recipe's own values"),
        ("run_recipe.py -tp 1 -pp 1 -mb 1 -gb 64 -sl 8 mixed_precision=fp7", "mixed_precision=fp7: must be one of"),
        ("run_recipe.py --model nemo_9b -tp 1 -pp 1 -mb 1 -gb 64 -sl 8", "model nemo_9b is not in the catalogue"),
        (SMALL + "--bf16 --overlap-grad-reduce --overlap-param-gather", "--use-distributed-optimizer beside it"),
        (SMALL + "--bf16 --max-position-embeddings 2048", "--seq-length: 4096: exceeds --max-position-embeddings 2048"),
        (SMALL + "--bf16 --use-torch-fsdp2", "--no-gradient-accumulation-fusion beside it"),
        (SMALL + "--bf16 --use-torch-fsdp2 --pipeline-model-parallel-size 2", "refuses it with a pipeline"),
        (MOE + "--bf16 --overlap-moe-expert-parallel-comm --moe-token-dispatcher-type flex", "size above 1 for it"),
        (MOE + "--bf16 --overlap-moe-expert-parallel-comm --expert-model-parallel-size 8", "alltoall or flex for it"),
        (MOE + "--bf16 --overlap-moe-expert-parallel-comm --expert-model-parallel-size 8 --moe-token-dispatcher-type "
         "flex --pipeline-model-parallel-size 2", "wants virtual stages for it"),
        ("./run_train.sh --module llama3 --config llama3_8b", "configurations in Python are not read"),
        ("./run_train.sh --model.name llama3 --model.flavor 9B", "not known here (known: "),
        ("./run_train.sh --model.flavor 8B --parallelism.tensor_parallel_degree 3", "must be the 64 GPUs"),
        ("./run_train.sh --model.flavor 8B --parallelism.pipeline_parallel_degree 2 "
         "--parallelism.pipeline_parallel_schedule Zigzag", "known are 1F1B"),
        ("./run_train.sh --model.flavor 8B --training.local_batch_size 2 --training.global_batch_size 65", "multiple"),
        ("./run_train.sh --model.flavor 8B --parallelism.pipeline_parallel_degree 64", "too few layers for them"),
        ("./run_train.sh --model.name deepseek_v3 --model.flavor 671B --parallelism.pipeline_parallel_degree 8 "
         "--parallelism.pipeline_parallel_schedule DualPipeV --parallelism.expert_parallel_degree 8 "
         "--training.local_batch_size 32", "refuses it with expert parallelism and recomputation"),
        ("./run_train.sh --model.flavor 8B --debug.deterministic maybe", "must be one of true, false"),
    ],
)  # fmt: skip
def test_lines_that_are_refused(text, message):
    with pytest.raises(SpecError) as raised:
        read(text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_none_is_refused(tmp_path):
    for content, message in (
        ("[a", "no TOML file"),
        ("x = " + "[" * 5000, "no TOML file"),
        (None, "can't be read"),
    ):
        file = tmp_path / "a.toml"
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)
        with pytest.raises(DataError) as raised:
            training_command(f"./run_train.sh --job.config_file {file}")
        assert message in str(raised.value)


def test_lines_as_scripts_have_them():
    """Other commands before and behind, a shell in between, redirections, variables of the environment."""
    inner = SMALL + "--bf16 --global-batch-size 64"
    for text, gpus in (
        (f"cd /opt/megatron && export X=1; torchrun --nproc_per_node=8 --nnodes=8 {inner} > log 2>&1 &", 64),
        (f"srun -N 8 --ntasks-per-node=8 bash -c 'cd /opt; python {inner} --log-interval 1'", 64),
        (f"A=1 GPUS=8 torchrun --nproc_per_node $GPUS --nnodes 8 {inner} | tee log", 64),
        (f"torchrun --nproc_per_node $GPUS_PER_NODE {inner}  # the small one", None),
    ):
        command = training_command(text)
        assert (command.framework, command.gpus) == ("megatron", gpus), text
        assert keys(text)["global_batch_sequences"] == 64
    assert training_command("bash -c bash -c 'ls'") is None
    assert training_command("python train.py --tensor-model-parallel-size 2") is None


def test_line_ends_in_values_are_not_in_messages(tmp_path):
    (tmp_path / "a.toml").write_text('[model]\nname = "llama3"\nflavor = "8\\n\\u001b[31mB"\n')
    for text in (f"./run_train.sh --job.config_file {tmp_path}/a.toml", SMALL + "--global-batch-size '6\n4'"):
        with pytest.raises(SpecError) as raised:
            read(text)
        assert re.fullmatch(r"[^\x00-\x1f]+", str(raised.value))


def test_a_model_beside_the_line_has_its_sizes():
    first = read("pretrain_gpt.py --seq-length 4096 --micro-batch-size 1 --bf16", "64xh100", "qwen3-30b-a3b")
    assert first.document["model"] == "qwen3-30b-a3b"
    assert "sizes: the model is qwen3-30b-a3b" in said(
        SMALL.replace("16 ", "48 ", 1), "64xh100", "qwen3-30b-a3b"
    )
    with pytest.raises(SpecError, match="--num-layers 16: qwen3-30b-a3b, given beside it, has 48"):
        read(SMALL, "64xh100", "qwen3-30b-a3b")


def _flags():
    """Any flags that are known here, with a plausible value or none, and one that nobody knows."""
    document = framework("megatron")
    known = sorted({*USED, *document["unmodelled"]} - {*SIZES, *OTHERS})
    quiet = sorted(flag for flags in document["without_effect"].values() for flag in flags if "*" not in flag)
    values = st.sampled_from(["", "1", "2", "0.5", "bf16", "alltoall", "full", "selective"])
    return st.lists(st.tuples(st.sampled_from([*known, *quiet, "moe-warp-size"]), values), max_size=5)


@settings(max_examples=60, deadline=None)
@given(_flags())
def test_no_flag_is_dropped_in_silence(flags):
    """Each is said to set a key, to have no effect, not to be modelled or known; else the line is refused."""
    text = MOE + " ".join(f"--{name} {value}" for name, value in flags)
    try:
        told = said(text)
    except PerfModelError:
        return
    for name, _ in flags:
        assert re.search(rf"--{re.escape(name)}(?![\w-])", told), (name, told)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                sorted(
                    {
                        *TITAN,
                        *framework("torchtitan")["unmodelled"],
                        "checkpoint.interval",
                        "optimizer.lr",
                        "parallelism.mesh",
                    }
                    - {"model.name", "model.flavor"}
                )
            ),
            st.sampled_from(["", "1", "2", "true", "false", "full", "never", "DualPipeV"]),
        ),
        max_size=5,
    )
)
def test_no_setting_is_dropped_in_silence(flags):
    text = "./run_train.sh --model.flavor 8B " + " ".join(f"--{name} {value}" for name, value in flags)
    try:
        told = said(text)
    except PerfModelError:
        return
    for name, _ in flags:
        assert name.rpartition(".")[2] in told, (name, told)


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="abEtmL|*()[]019,-= $\"'./\n", max_size=60),
    st.sampled_from(["pretrain_gpt.py ", "run_train.sh ", "run_recipe.py ", ""]),
)
def test_any_line_is_read_or_refused_in_one_line(text, head):
    try:
        command = training_command(head + text)
        if command is not None:
            first_training(TrainAsk(command, text, "64xh100"))
    except PerfModelError as error:
        told = str(error)
    else:
        return
    assert re.fullmatch(r".+", told)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.booleans())
def test_layouts_are_written_and_read_alike(stages, mtp):
    flat = written_out(layout_of(stages, mtp=mtp))
    assert [part.count("t") for part in flat.split("|")] == stages
    assert (flat[0], flat[-1], flat.count("m")) == ("E", "L", int(mtp))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 5)), min_size=1, max_size=5), st.integers(1, 3))
def test_patterns_are_pythons_lists(parts, times):
    """The grammar is Python's of lists: Python's own reading of the same text is the oracle."""
    text = f"({'+'.join(f'[{kind}]*{count}' for kind, count in parts)})*{times}"
    expected = eval(text, {"__builtins__": {}})  # a text made here of digits and brackets
    assert pattern_of(text, len(expected), "moe-layer-freq") == expected


@given(st.integers(1, 130), st.integers(2, 32), st.integers(0, 3), st.integers(0, 3))
def test_torchtitans_stages_hold_all_layers_and_differ_by_one(layers, stages, first, last):
    try:
        found = stages_of(layers, stages, first, last)
    except SpecError:
        assert (layers + first + last) // stages < max(1, first, last)
        return
    weighed = [found[0] + first, *found[1:-1], found[-1] + last]
    assert sum(found) == layers
    assert max(weighed) - min(weighed) <= 1
    assert weighed == sorted(weighed, reverse=True)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "tensor_model_parallel_size=8",
            "training.tensor_model_parallel_size: unknown key; did you mean training.tp?",
        ),
        ("seq_len=8", "did you mean training.sequence_tokens?"),
        (
            "recompute=selective",
            "training.recompute = 'selective': must be none, full or a list of attention_core, mla",
        ),
        (
            "recompute=[norms, layernorm]",
            "must be none, full or a list of attention_core, mla_up_projection, norms",
        ),
        ("optimizer=muon", "training.optimizer = 'muon': must be a mapping of keys to values"),
        ("bf16_parts=all", "training.bf16_parts = 'all': must be a list"),
    ],
)
def test_a_frameworks_own_words_in_a_file_lead_to_keys(key, message):
    with pytest.raises(SpecError) as raised:
        load_scenario("deepseek-v3-train-h800", [f"training.{key}"])
    assert message in str(raised.value)
    assert "literal[" not in str(raised.value)


def test_the_files_of_flags_are_consistent():
    assert set(TRAINING_WORDS.values()) <= set(key_paths())
    for name in ("megatron", "torchtitan"):
        document = framework(name)
        quiet = [flag for flags in document["without_effect"].values() for flag in flags]
        assert len(quiet) == len(set(quiet))
        assert not {*document["unmodelled"]} & {*quiet}
    for model in framework("torchtitan")["models"].values():
        assert (model if isinstance(model, str) else model["base"]) in catalogue.names("models")


def test_init_writes_a_file_that_train_runs(tmp_path):
    done = run_here("perfmodel", "init", "--gpus", "32xh100", "--from-command", MIXTRAL, "--out", "mix.yaml", "--json",
                    folder=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["said"]["zero"] == {"value": 1, "why": "--use-distributed-optimizer"}
    text = (tmp_path / "mix.yaml").read_text()
    assert re.search(r"^  pp: 4 +# --pipeline-model-parallel-size 4$", text, flags=re.MULTILINE)
    scenario = load_scenario(str(tmp_path / "mix.yaml"))
    assert (
        scenario.training
        == first_training(TrainAsk(training_command(MIXTRAL), MIXTRAL, "32xh100")).scenario.training
    )
    answer = run_here("perfmodel", "train", tmp_path / "mix.yaml", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["step_time_s"] > 0
    again = run_here(
        "perfmodel",
        "init",
        "--gpus",
        "32xh100",
        "--from-command",
        MIXTRAL,
        "--out",
        "mix.yaml",
        folder=tmp_path,
    )
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    odd = run_here(
        "perfmodel", "init", "--gpus", "32xh100", "--from-command", MIXTRAL, "--users", "3", folder=tmp_path
    )
    assert (odd.returncode, "--users: is of a server's scenario" in odd.stderr) == (2, True)


def test_the_walk_from_a_config_to_days_and_dollars(tmp_path):
    """docs/train.md's five commands, in turn, with a config of one's own."""
    page = (DOCS / "train.md").read_text()
    walk = page.split("## From a config.json to days and dollars\n")[1].split("\n## ")[0]
    commands = [line.strip() for line in walk.splitlines() if line.startswith("    perfmodel ")]
    assert [shlex.split(one)[1] for one in commands] == ["show", "init", "train", "plan-train", "train"]
    config = catalogue.model_config("qwen3-30b-a3b") | {
        "num_hidden_layers": 24,
        "hidden_size": 3072,
        "num_experts": 64,
    }
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text(json.dumps(config))
    for command in commands:
        program, *words = shlex.split(command)
        done = run_here(program, *words, folder=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    assert (tmp_path / "run.html").stat().st_size > 10_000
    days = json.loads(run_here("perfmodel", "train", "best.yaml", "--json", folder=tmp_path).stdout)["days"]
    assert 1 < days < 100


def test_words_that_megatrons_own_help_does_not_say():
    """core_v0.19.0: cp_comm_type goes to Transformer Engine as it is, which knows ``all_gather``; --num-query-groups is
    1 where it is not given; heads are normalised with --qk-layernorm alone (transformer_config.py).
    """
    context = SMALL + "--bf16 --context-parallel-size 2 --cp-comm-type "
    assert keys(context + "all_gather")["cp_exchange"] == "all-gather"
    assert keys(context + "allgather")["cp_exchange"] == "all-gather"  # as its help has it
    attention = {
        line: read(line, "64xh100").scenario.model.layers[0].attention
        for base in (SMALL, MOE)
        for line in (base, base + "--qk-layernorm", base + "--group-query-attention --qk-layernorm")
    }
    assert [one.qk_norm for one in attention.values()] == [False, True, True] * 2
    assert [one.num_kv_heads for one in attention.values()] == [16, 16, 1] * 2
    assert "without effect (no --group-query-attention): --num-query-groups 4" in said(
        SMALL + "--num-query-groups 4"
    )


def test_what_torchtitans_script_and_models_bring_along():
    """v0.2.2: run_train.sh's CONFIG_FILE, qwen3's and gpt_oss's get_train_spec without pipelining_fn."""
    staged = "--model.name llama3 --model.flavor 8B --parallelism.pipeline_parallel_degree 4"
    script, module = keys(f"./run_train.sh {staged}"), keys(f"torchrun -m torchtitan.train {staged}")
    assert (script["schedule"], module["schedule"]) == ("interleaved-1f1b", "1f1b")
    assert module["tokens"] == 1000 * script["tokens"]
    assert "debug_model.toml" in said(f"./run_train.sh {staged}")
    assert "debug_model.toml" not in said(f"torchrun -m torchtitan.train {staged}")
    assert "pipeline for" not in said(f"./run_train.sh {staged}")
    for name, flavor in (("qwen3", "8B"), ("gpt_oss", "20b")):
        line = staged.replace("llama3", name).replace("8B", flavor)
        assert f"no pipeline for {name} and does not start" in said(f"./run_train.sh {line}")
    experts = "./run_train.sh --model.flavor 8B --parallelism.expert_parallel_degree 8"
    assert "without effect here (no experts): parallelism.expert_parallel_degree 8" in said(experts)
    dense = read("./run_train.sh --model.name qwen3 --model.flavor 8B", "64xh100").scenario.model
    assert dense.layers[0].attention.qk_norm  # qk_norm=True in its __init__.py

"""A published training row as the scenario that its user would write.

What a row does not state is assumed here, once for all rows of a source:

- Megatron-Bridge's benchmarks: dispatcher, overlap, recomputation, stages and number formats of gradients as the
  scripts of the row's own release have them (``data/published/training_recipes.csv``, read from its tags); routing
  forced to balance, multi-token prediction trained, distributed optimizer.
- The A/B of Megatron-Core's overlap: HybridEP and no delayed weight gradients, as its page says.
- Megatron-LM's tables of A100 (arXiv 2205.05198, as calculon copies them): GPT's two matrices of 4 h stand as SwiGLU's
  three of 8/3 h, which are as many weights and FLOPs. Data-parallel size 1.
- Megatron-Core's model zoo and its guide for GB200: distributed optimizer, gradients reduced in FP32 beside the
  backward, weight gradients delayed with the overlap, stages as the scripts cut them.
- SimuMax's rows: no recomputation, experts padded to capacity 1 (balance), plain all-to-all; its launch scripts ask for
  no overlap of gradients or weights, so neither is overlapped; Transformer Engine keeps a gradient of every shape.
"""

import csv
from collections.abc import Mapping
from typing import Any

from perfmodel.spec.catalogue import DATA

Record = Mapping[str, str]
Document = dict[str, Any]

SYSTEMS = {
    "DGX-GB200": "gb200-nvl72",
    "DGX-H100": "h100-ib",
    "H100-80G": "h100-ib",
    "H800-SXM": "h800-ib",
    "A100-SXM-80G": "a100-ib",
    "B200-SXM": "b200-ib",
}
"""System as printed -> cluster of the catalogue."""
GPUS = {
    "DGX-GB200": "gb200-nvl72",
    "DGX-H100": "h100-sxm",
    "H100-80G": "h100-sxm",
    "H800-SXM": "h800-sxm",
    "A100-SXM-80G": "a100-sxm",
    "B200-SXM": "b200-sxm",
}
"""System as printed -> GPU of the catalogue."""
PRICE = {"usd_per_gpu_hour": 0.0}
PRECISIONS = {"bf16": "bf16", "fp16/bf16": "bf16", "mxfp8": "mxfp8", "fp8": "fp8", "fp8 (per release)": "fp8"}
MODELS: dict[str, Any] = {
    "DeepSeekV3": "deepseek-v3",
    "DeepSeek-V3": "deepseek-v3",
    "Qwen3_235B_a22B": "qwen3-235b-a22b",
    "Qwen3-235B-A22B": "qwen3-235b-a22b",
    "Qwen3-30B-A3B": "qwen3-30b-a3b",
    "llama3_70b_l12": {"base": "llama-3.1-70b", "num_hidden_layers": 12},
    "llama3_405b_l4": {
        "base": "llama-3.1-70b",
        "num_hidden_layers": 4,
        "hidden_size": 16384,
        "intermediate_size": 53248,
        "num_attention_heads": 128,
        "num_key_value_heads": 16,
    },
    "deepseekv3_l4": {
        "base": "deepseek-v3",
        "num_hidden_layers": 4,
        "first_k_dense_replace": 1,  # "DeepSeekV3 formal rows use dense_layers=1", SimuMax's summary of its rows
        "num_nextn_predict_layers": 0,
    },
    "deepseekv2_l4": {
        "base": "deepseek-v3",
        "num_hidden_layers": 4,
        "first_k_dense_replace": 1,
        "hidden_size": 5120,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "n_shared_experts": 2,
        "n_routed_experts": 160,
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "vocab_size": 102400,
        "num_nextn_predict_layers": 0,
    },
}
"""Model as printed -> as a scenario names it."""
GPT = {
    "Megatron-22B": (48, 6144, 64),
    "GPT3-175B": (96, 12288, 96),
    "Turing-530B": (105, 20480, 128),
    "Megatron-1T": (128, 25600, 160),
}
"""Layers, hidden size and heads (arXiv 2205.05198, table 3)."""


def gpt(name: str) -> Document:
    """A GPT of two matrices per FFN, as a Llama of the same weights."""
    layers, hidden, heads = GPT[name]
    return {
        "base": "llama-3.1-70b",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": round(8 * hidden / 3 / 64) * 64,  # divides over TP8
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "vocab_size": 51200,
    }


RECIPES = DATA / "published" / "training_recipes.csv"


def recipe(record: Record) -> Record:
    """How Megatron-Bridge's scripts of a row's release run it: dispatcher, overlap, recomputation, stages.

    Raises:
        KeyError: no recipe of that release, model and system was read.
    """
    name, release = record["model"].split(" ")[0], record["release"][:5]
    with RECIPES.open(newline="", encoding="utf-8") as stream:
        found = {(row["release"], row["model"], row["system"]): row for row in csv.DictReader(stream)}
    return found[release, name, record["system"]]


def _division(number: Mapping[str, int], stage_layers: str) -> Document:
    """Batches and layout of a run in Megatron-Core's terms, as keys of ``training``."""
    chunks = number["vp"] if number["pp"] > 1 else 1
    return {
        "sequence_tokens": number["seq"],
        "global_batch_sequences": number["gbs"],
        "micro_batch_sequences": number["mbs"],
        "tp": number["tp"],
        "cp": number["cp"],
        "pp": number["pp"],
        "dp": number["gpus"] // (number["tp"] * number["cp"] * number["pp"]),
        "ep": number["ep"],
        "virtual_stages": chunks,
        "stage_layers": _stages(stage_layers) or None,
        "schedule": "interleaved-1f1b" if chunks > 1 else "1f1b",
    }


def _stages(written: str) -> list[int]:
    """Layers by stage as recipes write them: ``4*15 1`` is fifteen stages of four and one of one."""
    found: list[int] = []
    for part in written.split():
        layers, _, times = part.partition("*")
        found += [int(layers)] * int(times or 1)
    return found


def bridge(record: Record) -> Document:
    """A row of Megatron-Bridge's performance summary, run as its release's own scripts do."""
    name, script = record["model"].split(" ")[0], recipe(record)
    number = {key: int(record[key]) for key in ("gpus", "gbs", "mbs", "seq", "tp", "pp", "cp", "vp", "ep")}
    return {
        "model": MODELS[name],
        "cluster": SYSTEMS[record["system"]],
        "prices": PRICE,
        "training": {
            **_division(number, script["stage_layers"]),
            "all_to_all": script["all_to_all"],
            "moe_overlap": script["moe_overlap"],
            "recompute": script["recompute"].split() or "none",
            "optimizer": {"gradients": script["gradients_reduced_in"]},
            "overlap_gradients": script["overlap_gradients"] == "true",
            "precision": PRECISIONS[record["precision"].lower()],
            "mtp": name == "DeepSeekV3",
        },
    }


def zoo(record: Record) -> Document:
    """A row of Megatron-MoE-ModelZoo, run as its scripts do."""
    number = {key: int(record[key]) for key in ("gpus", "gbs", "mbs", "seq", "tp", "pp", "cp", "vp", "ep")}
    parts = record["recompute"].split()
    return {
        "model": MODELS[record["model"]],
        "cluster": SYSTEMS[record["system"]],
        "prices": PRICE,
        "training": {
            **_division(number, record["stage_layers"]),
            "all_to_all": record["dispatcher"],
            "moe_overlap": record["overlap"],
            "zero": 3 if record["fsdp"] else 1,
            "recompute": "full" if parts == ["full"] else parts or "none",
            "precision": PRECISIONS[record["precision"]],
        },
    }


def megatron_a100(record: Record) -> Document:
    """A row of Megatron-LM's tables of A100: micro-batches of one sequence."""
    chunks = int(record["vp"])
    full = record["recompute"] == "full"
    return {
        "model": gpt(record["model"]),
        "cluster": SYSTEMS[record["system"]],
        "prices": PRICE,
        "training": {
            "sequence_tokens": int(record["seq"]),
            "global_batch_sequences": int(record["gbs"]),
            "micro_batch_sequences": {"Megatron-22B": 4}.get(record["model"], 1),
            "tp": int(record["tp"]),
            "pp": int(record["pp"]),
            "virtual_stages": chunks,
            "schedule": "interleaved-1f1b" if chunks > 1 else "1f1b",
            "zero": 0,
            "recompute": "full" if full else ["attention_core"],
        },
    }


def simumax(record: Record) -> Document | None:
    """A row of SimuMax's, read off its name; None for models whose dense layers it does not say."""
    words = record["case"].removesuffix("_cef").split("_")
    layers = next(word for word in words if word[0] == "l" and word[1:].isdigit())
    family = "_".join(word for word in words[:2] if word[:2] not in ("tp", "l4") and word != layers)
    model = MODELS.get(f"{family}_{layers}")
    if model is None:
        return None
    sizes = {"tp": 1, "pp": 1, "dp": 1, "cp": 1, "ep": 1, "mbc": 1, "seq": 4096}
    for word in words:
        for key in sizes:
            if word.startswith(key) and word[len(key) :].isdigit():
                sizes[key] = int(word[len(key) :])
    return {
        "model": model,
        "cluster": SYSTEMS[record["system"]],
        "prices": PRICE,
        "training": {
            "sequence_tokens": sizes["seq"],
            "global_batch_sequences": sizes["mbc"] * sizes["dp"],
            **{key: sizes[key] for key in ("tp", "pp", "dp", "cp", "ep")},
            "schedule": "1f1b",
            "all_to_all": "all-to-all",
            "cp_exchange": "ulysses",
            "overlap_gradients": False,
            "overlap_parameters": False,
            "placeholder_gradients": True,
        },
    }


def qwen_pair(record: Record) -> Document:
    """The A/B of Megatron-Core's overlap on 16 H100: 1F1B on one pipeline rank, with and without pairs."""
    return {
        "model": MODELS["Qwen3-30B-A3B"],
        "cluster": SYSTEMS[record["system"]],
        "prices": PRICE,
        "training": {
            "sequence_tokens": int(record["seq"]),
            "global_batch_sequences": int(record["gbs"]),
            "dp": int(record["gpus"]),
            "ep": int(record["ep"]),
            "all_to_all": "hybrid-ep",
            "moe_overlap": "forward-backward" if "overlap on" in record["note"] else "none",
            "delay_weights": False,
        },
    }

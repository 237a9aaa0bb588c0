"""Models and systems as published rows and users write them, and what the catalogue calls them."""

from perfmodel.spec import catalogue
from perfmodel.spec.documents import read_document

MODELS = {
    "DeepSeek-V3": "deepseek-v3",
    "DeepSeek-V3/R1": "deepseek-v3",
    "DeepSeek-R1": "deepseek-v3",
    "DeepSeek-R1-0528": "deepseek-v3",
    "DeepSeek-R1-FP4": "deepseek-v3",
    "DeepSeek-R1-0528-FP4": "deepseek-v3",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "deepseek-ai/DeepSeek-R1": "deepseek-v3",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-v3",
    "Qwen3-235B-A22B": "qwen3-235b-a22b",
    "Qwen3-235B-A22B-FP4": "qwen3-235b-a22b",
    "Qwen3-235B-A22B-Instruct-2507": "qwen3-235b-a22b",
    "Qwen/Qwen3-235B-A22B-FP8": "qwen3-235b-a22b",
    "Kimi-K2": "kimi-k2",
    "Kimi-K2-Instruct-0905": "kimi-k2",
    "Kimi-K2-Thinking": "kimi-k2",
    "Kimi-K2.5": "kimi-k2",
    "moonshotai/Kimi-K2.5": "kimi-k2",
    "gpt-oss-120b": "gpt-oss-120b",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "GLM-4.6": "glm-4.5",
    "MiniMaxAI/MiniMax-M2.5": "minimax-m2.5",
    "Qwen/Qwen3.5-397B-A17B": "qwen3.5-397b-a17b",
    "LongCat-Flash": "longcat-flash",
}
"""Model as printed -> catalogue name. R1 has V3's architecture, the language model of Kimi-K2.5 Kimi-K2's, and GLM-4.6
GLM-4.5's, with a longer context (https://huggingface.co/zai-org/GLM-4.6/blob/main/config.json)."""
SYSTEMS = {
    "H800-SXM IB": "h800-ib",
    "H100-SXM IB": "h100-ib",
    "H100-SXM": "h100-ib",
    "h100_sxm": "h100-ib",
    "H200-SXM": "h200-ib",
    "h200_sxm": "h200-ib",
    "B200-SXM": "b200-ib",
    "b200_sxm": "b200-ib",
    "B300-SXM": "b300-ib",
    "b300_sxm": "b300-ib",
    "GB200-NVL72": "gb200-nvl72",
    "gb200": "gb200-nvl72",
    "GB300-NVL72": "gb300-nvl72",
    "gb300": "gb300-nvl72",
    "MI300X": "mi300x",
    "MI325X": "mi325x",
    "MI355X": "mi355x",
}
"""System as printed -> catalogue cluster."""


def cluster_named(system: str) -> str:
    """Catalogue cluster of a system: as printed, its own name, or the usual one of a GPU; empty: none is known."""
    return catalogue.cluster_named(SYSTEMS.get(system, system)) or ""


def gpu_named(system: str) -> str:
    """Catalogue GPU of a system, or the calibration that describes a device of its own; empty: none is known."""
    cluster = cluster_named(system)
    if cluster:
        return gpu_in(cluster)
    return system if system in catalogue.names("calibrations") else ""


def gpu_in(cluster: str) -> str:
    """Catalogue GPU of a catalogue cluster."""
    return str(catalogue.entry("clusters", cluster)["gpu"])


def architecture_of(system: str) -> str:
    """Architecture of a system's GPU; empty: the system is not known."""
    gpu = gpu_named(system)
    if not gpu:
        return ""
    if gpu in catalogue.names("gpus"):
        return str(catalogue.entry("gpus", gpu)["architecture"])
    cluster = read_document(catalogue.calibration_path(gpu)).get("cluster") or {}
    return str(cluster.get("gpu", {}).get("architecture", ""))

"""Names for people, of what the catalogue calls by keys."""

from functools import cache

from perfmodel.errors import SpecError
from perfmodel.spec import catalogue

WIRES = {"ib": "InfiniBand", "roce": "RoCE", "pcie": "PCIe"}
ENGINES = {"sglang": "SGLang", "vllm": "vLLM", "trtllm": "TensorRT-LLM", "deepseek": "DeepSeek's own"}
OVERLAPS = {
    "sequential": "none",
    "tbo": "two batches",
    "sbo": "single batch",
    "sbo-engine": "single batch, engine",
}
SCHEDULE_HELP = "none: sequential; two batches: tbo; single batch: sbo"


@cache
def model_title(name: str) -> str:
    """``longcat-flash`` -> ``LongCat-Flash``; a model that is not the catalogue's keeps its name."""
    try:
        title = str(catalogue.entry("models", name).get("title", name))
    except SpecError:
        return name
    return title.partition(" (")[0]


def cluster_title(name: str) -> str:
    """``h800-ib`` -> ``H800, InfiniBand``."""
    if name not in catalogue.names("clusters"):
        return name
    *gpu, last = name.split("-")
    wire = WIRES.get(last)
    return f"{_gpu(gpu)}, {wire}" if wire else _gpu([*gpu, last])


def gpu_title(name: str) -> str:
    """``h800-sxm`` -> ``H800``."""
    return _gpu([part for part in name.split("-") if part != "sxm"])


def engine_title(name: str) -> str:
    """An engine; empty: none in particular."""
    return ENGINES.get(name, name) or "none in particular"


def _gpu(parts: list[str]) -> str:
    return " ".join(part.upper() for part in parts)

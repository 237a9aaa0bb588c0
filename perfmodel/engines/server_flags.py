"""The command that starts a server, as what a scenario states: which flag sets which key, and which says nothing of it.

Flags and their meanings are the engines' own: vLLM 0.17 (``vllm serve --help``), SGLang 0.5.9 (``server_args.py``),
TensorRT-LLM 1.2 (``trtllm-serve --help`` and the keys of its ``--extra_llm_api_options``), ATOM at commit ffdf3bb
(``atom/model_engine/arg_utils.py``).
"""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfmodel.engines.frameworks.command import KINDS
from perfmodel.errors import SpecError
from perfmodel.spec import catalogue
from perfmodel.spec.documents import read_document
from perfmodel.spec.messages import shown

ACCEPTANCE = 0.85
"""Of drafts, where a command turns them on and can't say how many are accepted: DeepSeek-V3's first one (arXiv
2412.19437, section 5.4.3: 85 to 90 %)."""
FP8 = ("fp8", "fp8_e4m3", "fp8_e5m2", "w8a8_fp8", "modelopt")
ALL_TO_ALL = {
    "deepep_low_latency": "deepep-low-latency",
    "deepep_high_throughput": "deepep-normal",
    "allgather_reducescatter": "all-gather",
    "naive": "all-gather",
    "flashinfer_all2allv": "trtllm-one-sided",
}
"""vLLM's ``--all2all-backend``."""

_VLLM_AND_ATOM = {
    "tensor-parallel-size": "deployment.attention_tp",
    "data-parallel-size": "deployment.attention_dp",
    "pipeline-parallel-size": "deployment.pp",
    "decode-context-parallel-size": "deployment.decode_context_parallel",
    "max-num-seqs": "serving.max_running",
    "max-num-batched-tokens": "serving.max_batched_tokens",
    "gpu-memory-utilization": "deployment.memory_utilization",
    "block-size": "serving.block_tokens",
}
"""ATOM has its flags from vLLM."""
_SAME: Mapping[str, Mapping[str, str]] = {
    "vllm": {
        **_VLLM_AND_ATOM,
        "api-server-count": "serving.front_end.servers",
        "stream-interval": "serving.front_end.stream_interval",
        "max-loras": "deployment.lora_adapters",
        "max-lora-rank": "deployment.lora_rank",
    },
    "sglang": {
        "max-loras-per-batch": "deployment.lora_adapters",
        "max-lora-rank": "deployment.lora_rank",
        "pipeline-parallel-size": "deployment.pp",
        "decode-context-parallel-size": "deployment.decode_context_parallel",
        "attn-cp-size": "deployment.context_parallel",
        "expert-parallel-size": "deployment.ep",
        "ep-num-redundant-experts": "deployment.redundant_experts",
        "mem-fraction-static": "deployment.memory_utilization",
        "page-size": "serving.block_tokens",
        "stream-interval": "serving.front_end.stream_interval",
        "speculative-num-steps": "deployment.mtp.draft_tokens",
    },
    "trtllm": {
        "tensor-parallel-size": "deployment.attention_tp",
        "pipeline-parallel-size": "deployment.pp",
        "expert-parallel-size": "deployment.ep",
        "max-batch-size": "serving.max_running",
        "max-num-tokens": "serving.max_batched_tokens",
        "free-gpu-memory-fraction": "deployment.memory_utilization",
        "tokens-per-block": "serving.block_tokens",
        "stream-interval": "serving.front_end.stream_interval",
    },
    "atom": {
        **_VLLM_AND_ATOM,
        "state-checkpoint-interval-tokens": "serving.checkpoint_tokens",
    },
}
"""Engine -> flag -> the key that it sets to its value."""
_SWITCHES: Mapping[str, Mapping[str, tuple[str, Any]]] = {
    "vllm": {
        "enforce-eager": ("deployment.host.decode", "eager"),
        "no-enable-prefix-caching": ("serving.prefix_cache", False),
        "enable-prefix-caching": ("serving.prefix_cache", True),
        "enable-dbo": ("deployment.overlap", "tbo"),
        "async-scheduling": ("deployment.host.asynchronous", True),
        "no-async-scheduling": ("deployment.host.asynchronous", False),
    },
    "sglang": {
        "disable-cuda-graph": ("deployment.host.decode", "eager"),
        "disable-radix-cache": ("serving.prefix_cache", False),
        "enable-two-batch-overlap": ("deployment.overlap", "tbo"),
        "enable-mixed-chunk": ("serving.policy", "mixed"),
        "disable-overlap-schedule": ("deployment.host.asynchronous", False),
    },
    "trtllm": {},
    "atom": {
        "enforce-eager": ("deployment.host.decode", "eager"),
        "no-enable-prefix-caching": ("serving.prefix_cache", False),
        "enable-prefix-caching": ("serving.prefix_cache", True),
    },
}
"""Engine -> flag without a value -> the key that it sets, and to what."""
_SHORT = {
    "dcp": "decode-context-parallel-size", "dcp-size": "decode-context-parallel-size",
    "tp": "tensor-parallel-size", "tp-size": "tensor-parallel-size", "dp": "data-parallel-size",
    "dp-size": "data-parallel-size", "pp": "pipeline-parallel-size", "pp-size": "pipeline-parallel-size",
    "ep-size": "expert-parallel-size", "q": "quantization", "asc": "api-server-count", "dpa": "enable-dp-attention",
    "moe-expert-parallel-size": "expert-parallel-size", "kv-cache-free-gpu-memory-fraction": "free-gpu-memory-fraction",
    "kv-cache-config.free-gpu-memory-fraction": "free-gpu-memory-fraction", "kv-cache-config.dtype": "kv-cache-dtype",
    "kv-cache-config.tokens-per-block": "tokens-per-block", "enable-attention-dp": "enable-dp-attention",
    "extra-llm-api-options": "config", "m": "model", "model-path": "model",
}  # fmt: skip
"""Other spellings."""
_WITHOUT_VALUE = frozenset(
    {
        "enable-expert-parallel",
        "enable-dp-attention",
        "trust-remote-code",
        "enable-eplb",
        "eplb-enable",
        "enable-metrics",
        "ep",
    }
)


@dataclass(slots=True)
class Server:
    """What a command says."""

    engine: str
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """Key path -> value."""
    replicas: int = 1
    told: list[str] = field(default_factory=list)
    """What became of each flag, in words."""


def read_command(text: str) -> Server:
    """The server that a command starts.

    Raises:
        SpecError: no command of a known engine's server, or a flag with a value that means nothing.
        DataError: a file of options that can't be read.
    """
    try:
        words = shlex.split(text.replace("\\\n", " "))
    except ValueError as error:
        raise SpecError(f"--from-command: {error}: quote it as a shell would take it") from error
    while words and ("=" in words[0] and not words[0].startswith("-")):
        words.pop(0)  # variables of the environment
    joined = " ".join(words)
    engine = next(
        (name for name, programs in _PROGRAMS.items() if any(one in joined for one in programs)), None
    )
    if engine is None:
        raise SpecError(
            f"--from-command {text[:60]!r}: must start a server: `vllm serve MODEL ...`, `python -m "
            "sglang.launch_server --model-path MODEL ...`, `trtllm-serve MODEL ...` or `python -m "
            f"atom.entrypoints.openai_server --model MODEL ...`; or a training run: {'; '.join(KINDS)}"
        )
    last = {one.split()[-1] for one in _PROGRAMS[engine]}
    rest = words[max((i for i, word in enumerate(words) if word in last), default=len(words)) + 1 :]
    server = Server(engine)
    if rest and rest[0] == "serve":
        rest = rest[1:]
    if rest and not rest[0].startswith("-"):
        server.model = rest.pop(0)
    flags = dict(_flags(rest, engine))
    if "config" in flags and engine == "trtllm":
        path = Path(str(flags.pop("config")))
        flags = dict(_normal(read_document(path))) | flags
        server.told.append(f"{path}: read")
    server.model = str(flags.pop("model", server.model))
    _ENGINES[engine](server, flags)
    _of_catalogue(server)
    for name, value in flags.items():
        server.told.append(f"--{name}{'' if value is True else f' {value}'}: ignored")
    return server


_PROGRAMS = {
    "vllm": ("vllm serve", "vllm.entrypoints.openai.api_server"),
    "sglang": ("sglang.launch_server", "sglang serve"),
    "trtllm": ("trtllm-serve",),
    "atom": ("atom.entrypoints.openai_server",),
}


def _of_catalogue(server: Server) -> None:
    """A model's name on Hugging Face as the catalogue's, if it has it: with what the authors append
    (``-Instruct-2507``), and FP8 weights where the name says so.
    """
    if server.model in catalogue.names("models") or "/" not in server.model or server.model[0] in "/.~":
        return
    name = server.model.rpartition("/")[2].lower()
    fits = [one for one in catalogue.names("models") if name == one or name.startswith(f"{one}-")]
    if not fits:
        return
    found = max(fits, key=len)
    server.told.append(f"{server.model}: model = {found}, of the catalogue")
    server.model = found
    if name.endswith("-fp8") and "fp8" in catalogue.model(found).formats.published:
        server.settings |= dict.fromkeys(
            ("deployment.precision.linear", "deployment.precision.experts"), "fp8"
        )


def _flags(words: list[str], engine: str) -> Iterator[tuple[str, Any]]:
    """Names in their long spelling and values; True: a flag without one."""
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = _long(name, engine)
        bare = name in _WITHOUT_VALUE or name in _SWITCHES[engine]
        if equals:
            yield name, value
        elif not bare and i < len(words) and not _is_flag(words[i]):
            yield name, words[i]
            i += 1
        else:
            yield name, True


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not word.lstrip("-").replace(".", "").isdigit()


def _long(name: str, engine: str) -> str:
    name = name.replace("_", "-")
    if name == "ep":
        return "enable-expert-parallel" if engine in ("vllm", "atom") else "expert-parallel-size"
    return _SHORT.get(name, name)


def _normal(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options of TensorRT-LLM's YAML as flags."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _normal(value, f"{prefix}{key}.")
        elif value is not False:
            yield _long(f"{prefix}{key}", "trtllm"), value


def _plain(server: Server, flags: dict[str, Any]) -> None:
    """Flags that set a key to their value, and formats."""
    for name, path in _SAME[server.engine].items():
        if name in flags:
            _set(server, name, flags.pop(name), path)
    for name, (path, fixed) in _SWITCHES[server.engine].items():
        if flags.pop(name, None) is not None:
            server.settings[path] = fixed
            server.told.append(f"--{name}: {path} = {_word(fixed)}")
    for name, paths in (
        ("kv-cache-dtype", ("deployment.precision.kv_cache",)),
        ("quantization", ("deployment.precision.linear", "deployment.precision.experts")),
    ):
        if str(flags.get(name)) in FP8:
            server.told.append(f"--{name} {flags.pop(name)}: {' and '.join(paths)} = fp8")
            server.settings |= dict.fromkeys(paths, "fp8")
    for name in ("max-model-len", "context-length", "max-seq-len"):
        if name in flags:
            server.told.append(f"--{name} {flags.pop(name)}: not modelled; prompts are --isl and --osl long")


def _set(server: Server, name: str, raw: Any, path: str) -> None:
    """One flag's number at a key."""
    try:
        number = float(raw)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number < 1e9:
        raise SpecError(f"--from-command: --{name} {shown(raw)}: must be a number above 0")
    value = int(number) if number.is_integer() and not path.endswith("memory_utilization") else number
    server.settings[path] = value
    server.told.append(f"--{name} {raw}: {path}")


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _size(server: Server) -> int:
    get = server.settings.get
    return int(get("deployment.attention_tp", 1) * get("deployment.attention_dp", 1))


def _vllm(server: Server, flags: dict[str, Any]) -> None:
    _plain(server, flags)
    if flags.pop("enable-expert-parallel", None):
        server.settings["deployment.ep"] = _size(server)
        server.told.append(f"--enable-expert-parallel: deployment.ep = {_size(server)}")
    backend = ALL_TO_ALL.get(str(flags.get("all2all-backend")))
    if backend:
        server.settings["deployment.all_to_all"] = backend
        server.told.append(
            f"--all2all-backend {flags.pop('all2all-backend')}: deployment.all_to_all = {backend}"
        )
    try:
        drafts = json.loads(str(flags.get("speculative-config", "{}")))
    except (ValueError, RecursionError):
        drafts = {}
    if isinstance(drafts, dict) and "mtp" in str(drafts.get("method", "")):
        flags.pop("speculative-config")
        _drafts(
            server, f"--speculative-config ({drafts.get('method')})", drafts.get("num_speculative_tokens", 1)
        )


def _drafts(server: Server, flag: str, number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 1000:
        raise SpecError(
            f"--from-command: {flag}: {shown(number)} draft tokens: must be a whole number above 0"
        )
    server.settings["deployment.mtp.draft_tokens"] = number
    server.settings["deployment.mtp.acceptance"] = ACCEPTANCE
    server.told.append(
        f"{flag}: deployment.mtp.draft_tokens = {number}; acceptance {ACCEPTANCE} is that of DeepSeek-V3's "
        "first one: state yours"
    )


def _sglang(server: Server, flags: dict[str, Any]) -> None:
    tp, dp = (_whole(flags.pop(name, 1), name) for name in ("tensor-parallel-size", "data-parallel-size"))
    apart = bool(flags.pop("enable-dp-attention", False))
    if apart and tp % dp:
        raise SpecError(
            f"--from-command: --dp-size {dp} must divide --tp-size {tp} with --enable-dp-attention"
        )
    server.settings |= {
        "deployment.attention_tp": tp // dp if apart else tp,
        "deployment.attention_dp": dp if apart else 1,
    }
    server.told.append(
        f"--tp-size {tp}: deployment.attention_tp = {server.settings['deployment.attention_tp']}"
    )
    if apart:
        server.told.append(f"--dp-size {dp} --enable-dp-attention: deployment.attention_dp = {dp}")
    elif dp > 1:
        server.replicas = dp
        server.told.append(f"--dp-size {dp}: serving.replicas = {dp}")
    ranks = dp if apart else 1
    for name, path in (
        ("max-running-requests", "serving.max_running"),
        ("chunked-prefill-size", "serving.max_batched_tokens"),
    ):
        raw = flags.pop(name, None)
        if raw is None:
            continue
        if str(raw) == "-1":
            server.settings["serving.whole_prompts"] = True
            server.told.append(f"--{name} -1: serving.whole_prompts = true")
        else:
            server.settings[path] = max(1, _whole(raw, name) // ranks)
            server.told.append(f"--{name} {raw}: {path}{f', shared by {ranks} ranks' if ranks > 1 else ''}")
    _plain(server, flags)
    if str(flags.get("moe-a2a-backend")) == "deepep":
        flags.pop("moe-a2a-backend")
        mode = str(flags.pop("deepep-mode", "auto"))
        kind = {"low_latency": "deepep-low-latency", "normal": "deepep-normal"}.get(mode, "auto")
        server.settings |= {"deployment.ep": tp, "deployment.all_to_all": kind}
        server.told.append(f"--moe-a2a-backend deepep ({mode}): deployment.ep = {tp}, all_to_all = {kind}")
    drafts = server.settings.get("deployment.mtp.draft_tokens")
    if drafts is not None:
        _drafts(server, "--speculative-num-steps", drafts)


def _trtllm(server: Server, flags: dict[str, Any]) -> None:
    _plain(server, flags)
    if flags.pop("enable-dp-attention", None):
        tp = server.settings.get("deployment.attention_tp", 1)
        server.settings |= {"deployment.attention_tp": 1, "deployment.attention_dp": tp}
        server.told.append(f"enable_attention_dp: deployment.attention_dp = {tp}, attention_tp = 1")


def _atom(server: Server, flags: dict[str, Any]) -> None:
    _plain(server, flags)
    if flags.pop("enable-dp-attention", None):  # ranks of one GPU each, out of all of them
        size = _size(server)
        server.settings |= {"deployment.attention_tp": 1, "deployment.attention_dp": size}
        server.told.append(f"--enable-dp-attention: deployment.attention_dp = {size}, attention_tp = 1")
    if flags.pop("enable-expert-parallel", None):
        server.settings["deployment.ep"] = _size(server)
        server.told.append(f"--enable-expert-parallel: deployment.ep = {_size(server)}")
    if str(flags.get("enable-tbo")) == "all":  # of prompts alone, its default, is not modelled
        flags.pop("enable-tbo")
        server.settings["deployment.overlap"] = "tbo"
        server.told.append("--enable-tbo all: deployment.overlap = tbo")
    if str(flags.get("method")) == "mtp":
        number = _whole(flags.pop("num-speculative-tokens", 1), "num-speculative-tokens")
        _drafts(server, f"--method {flags.pop('method')}", number)


def _whole(raw: Any, name: str) -> int:
    try:
        number = int(raw)
    except (TypeError, ValueError):
        number = 0
    if not 0 < number < 10**9:
        raise SpecError(f"--from-command: --{name} {shown(raw)}: must be a whole number from 1")
    return number


_ENGINES: dict[str, Callable[[Server, dict[str, Any]], None]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "atom": _atom,
}

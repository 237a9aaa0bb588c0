"""A first scenario as a commented file (``perfmodel init``)."""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perfmodel.errors import DataError, SpecError
from perfmodel.explore.first import SLO_KEYS, Ask, First
from perfmodel.files import atomic_write, check_writable
from perfmodel.spec.paths import kind_of, quoted

WIDTH = 34
"""Column at which comments begin, where there is room."""


def parse_slo(texts: Iterable[str]) -> dict[str, float]:
    """``ttft_ms=500`` as a limit.

    Raises:
        SpecError: another key, or no number above 0.
    """
    found = {}
    for text in texts:
        key, _, raw = text.partition("=")
        try:
            value = float(raw)
        except ValueError:
            value = 0.0
        if key not in SLO_KEYS or not 0 < value < 1e18:
            raise SpecError(
                f"--slo {text}: must be KEY=MILLISECONDS with KEY of {', '.join(SLO_KEYS)}, e.g. ttft_ms=500"
            )
        found[key] = value
    return found


def place_of(ask: Ask) -> Path:
    """Where the scenario is written unless something else is said: in the working directory."""
    path = Path(ask.model)
    stem = (
        path.parent.name if path.name == "config.json" else path.stem if path.suffix == ".json" else path.name
    )
    return Path(re.sub(r"[^\w.-]+", "-", f"{stem or 'model'}-{ask.gpus}".lower()) + ".yaml")


def init_command(ask: Ask, out: Path | None) -> str:
    """The command that writes the file again."""
    words = ["perfmodel", "init", ask.model, "--gpus", ask.gpus]
    words += ["--from-command", ask.command] if ask.command else []
    words += ["--engine", ask.engine] if ask.engine and not ask.command else []
    words += ["--isl", str(ask.input_tokens), "--osl", str(ask.output_tokens)]
    for option, value in (
        ("--users", ask.users),
        ("--rate", ask.request_rate),
        ("--usd-per-gpu-hour", ask.usd_per_gpu_hour),
        ("--out", out),
    ):
        words += [option, str(value)] if value is not None else []
    for key, limit in (ask.slo or {}).items():
        words += ["--slo", f"{key}={limit:g}"]
    return shlex.join(words).replace("\n", " ")


def write_first(first: First, out: Path, command: str) -> None:
    """Writes the file; a file that is there stays.

    Raises:
        DataError: there is one, or it can't be written.
    """
    check_writable(out)
    if kind_of(out) != "missing":
        raise DataError(f"--out {quoted(out)}: is there already; give another name, or remove it")
    atomic_write(out, first_text(first, command, str(out)))


def first_text(first: First, command: str, file: str = "FILE.yaml") -> str:
    """The scenario in YAML, with what each line is and what else could stand there."""
    scenario, document = first.scenario, first.document
    d, node, network = scenario.deployment, scenario.cluster.node, scenario.cluster.network
    gpus = scenario.fleet_gpus
    lines = [
        f"# {scenario.model.name} on {gpus} {scenario.cluster.gpu.name}: a first scenario, by",
        f"#   {command}",
        f"# One step, and what it costs:  perfmodel step {file}",
        f"# Users in front of it:         perfmodel serve {file}",
        "# Every key, with its unit and default: perfmodel show keys",
        *(f"# Note: {note}" for note in first.notes),
        "",
        f"title: {scalar(f'{scenario.model.name} on {gpus} {scenario.cluster.gpu.name}')}",
        line("", "model", document["model"], f"{scenario.model.num_layers} layers; a catalogue name or a config.json"),
        line("", "cluster", document["cluster"], f"nodes of {node.num_gpus}, {node.link_gb_per_s:g} GB/s inside, "
              f"{network.gb_per_s_per_gpu:g} GB/s per GPU between; brings calibration "
              f"{scenario.calibration or '(none)'} along"),
    ]  # fmt: skip
    if "prices" in document:
        lines += ["prices:", line("  ", "usd_per_gpu_hour", document["prices"]["usd_per_gpu_hour"], "yours")]
    else:
        price = scenario.prices
        lines.append(
            f"# prices: {{usd_per_gpu_hour: {price.usd_per_gpu_hour:g}}}   the catalogue's: {price.name}, {price.term}"
        )
    if "engine" in document:
        what = (
            f"its defaults at {d.engine_version} fill in what is left out (perfmodel show engines {d.engine})"
        )
        lines.append(line("", "engine", document["engine"], what))
    else:
        lines.append("# engine: vllm   fills in what is left out (perfmodel show engines)")
    lines += ["deployment:"]
    said = _words(first)
    lines += [line("  ", key, value, said.get(key, "")) for key, value in document["deployment"].items()]
    lines += ["workload:"]
    lines += [line("  ", key, value, said.get(key, "")) for key, value in document["workload"].items()]
    if "serving" in document:
        said["replicas"] = f"of {d.num_gpus} GPUs each"
        lines.append("serving:")
        lines += [line("  ", key, value, said.get(key, "")) for key, value in document["serving"].items()]
    if "slo" in document:
        lines.append("slo:")
        lines += [line("  ", key, value, "") for key, value in document["slo"].items()]
    else:
        lines.append("# slo: {ttft_ms: 1000, tpot_ms: 50}   what a request must keep to count as good")
    return "\n".join(lines) + "\n"


def _words(first: First) -> dict[str, str]:
    """What is said of each key."""
    scenario = first.scenario
    checkpoint = scenario.model.formats
    return {
        "attention_tp": "GPUs that share each attention, and dense FFNs",
        "attention_dp": "such groups, each with requests of its own",
        "ep": "GPUs among which the routed experts are divided",
        "pp": "pipeline stages",
        "decode_context_parallel": "GPUs of such a group that divide each request's cache by tokens",
        "precision": f"the checkpoint is {checkpoint.linear}, experts {checkpoint.experts}",
        "batch_per_gpu": f"decoding requests per GPU in `step`; largest: {first.largest}",
        "context_tokens": "tokens in a decoding request's cache: the prompt and half of the output",
        "request_rate": "requests per second; inf: all at once, as slots are free",
        "max_concurrency": "users: requests in flight at most",
        "num_requests": "of the simulated run",
        "input_tokens": "of a prompt; or {min: 100, max: 2000}, {mean: 1000, std: 800}, or a trace instead",
        "output_tokens": "of an answer",
    }


def line(indent: str, key: str, value: Any, comment: str) -> str:
    """A key of a file on one line, with what is said of it."""
    text = f"{indent}{key}: {scalar(value)}"
    return f"{text:<{WIDTH - 1}} # {comment}" if comment else text


def scalar(value: Any) -> str:
    """A value in YAML, on one line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(scalar, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {scalar(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        plain = value.replace("-", "").replace(".", "").replace("_", "").replace("/", "").isalnum()
        number = value.replace(".", "").isdigit()
        return (
            value
            if plain and value[0].isalpha() and not number
            else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        )
    return str(value)

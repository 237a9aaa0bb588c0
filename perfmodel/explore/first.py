"""A first scenario for somebody's model on somebody's GPUs: the smallest layout that fits, with everything else left to
the catalogue and the engine.

Nothing here is a recommendation: servers of one node each where the model fits into one, else one server over more of
them, tensor-parallel inside a link domain, and beyond it data-parallel with the experts divided (dense models: in
stages).
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.engines.server_flags import Server
from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.load import build_scenario
from perfmodel.ops.limits import check_runs, limits
from perfmodel.spec import catalogue
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.messages import shown
from perfmodel.spec.mixers import Mla
from perfmodel.spec.model import Model
from perfmodel.spec.paths import is_folder, kind_of
from perfmodel.spec.scenario import Scenario

SERVER_GPUS = 8
"""GPUs of a server where the node has more, or a rack is one link domain: what engines' recipes start with."""
WIDEST_TP = 16
"""Widest tensor-parallel group that is tried."""
USERS_PER_GPU = 8
"""Users where neither users nor a rate is stated, as far as they fit."""
MOST_GPUS = 4096
MOST_RATE = 1e6
MOST_OF_A_KIND = 10_000_000
"""Tokens of a prompt or an answer, and users, as `plan` takes them."""
FEW_NODES = 8
"""Numbers of nodes that are tried one by one where GPUs are too few; beyond they are doubled, three times."""
DOES_NOT_FIT = "does not fit"
"""How a refusal for want of memory begins."""
NO_PRICE = 1.0
"""USD per GPU and hour where the catalogue has no price, so that costs are GPU hours."""
SLO_KEYS = ("ttft_ms", "tpot_ms", "e2e_ms")


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody knows."""

    model: str
    """A catalogue name, or the path of a config.json or of its folder."""
    gpus: str
    """``16xh100``: how many, and a GPU or cluster of the catalogue."""
    engine: str = ""
    """``vllm`` or ``vllm==0.17.0``; empty: none."""
    input_tokens: int = 1024
    output_tokens: int = 1024
    users: int | None = None
    """Requests in flight."""
    request_rate: float | None = None
    """Requests per second."""
    slo: Mapping[str, float] | None = None
    usd_per_gpu_hour: float | None = None
    server: Server | None = None
    """A running server's settings, which then decide the layout."""
    command: str = ""
    """The command that starts it."""


@dataclass(frozen=True, slots=True)
class First:
    """A scenario that runs."""

    document: dict[str, Any]
    """What its file states."""
    scenario: Scenario
    largest: str
    """What fits, in words."""
    notes: tuple[str, ...]
    """What a user should know or decide."""


def first_scenario(ask: Ask) -> First:
    """The scenario of what somebody knows; it passes every check that ``perfmodel step`` makes.

    Raises:
        SpecError: an unknown name, GPUs that are no whole servers, lengths beyond the model's positions, both users and
            a rate.
        DataError, UnsupportedError: a model that can't be read or is not modelled.
        InfeasibleError: no layout of these GPUs holds the model and one request.
    """
    count, cluster = parse_gpus(ask.gpus)
    _check(ask)
    base = _base(ask, cluster)
    probe = build_scenario(base)
    longest = ask.input_tokens + ask.output_tokens
    if longest > probe.model.max_context_tokens:
        raise SpecError(
            f"--isl {ask.input_tokens} + --osl {ask.output_tokens} = {longest:,} tokens: {probe.model.name} has "
            f"positions for {probe.model.max_context_tokens:,}"
        )
    if ask.server is not None:
        return _as_served(ask, base, count, longest)
    best, problems = None, []
    for formats in _formats(probe.model):
        for size in _server_sizes(count, probe):
            wanted = USERS_PER_GPU if ask.users is None else -(-ask.users * size // count)
            for layout in _layouts(size, probe):
                found, why = _fitting(base, layout, formats, longest)
                problems.append(why)
                if found is not None and (best is None or found[1] > best[1][1]):
                    best = (size, found, layout, formats)
                if found is not None and found[1] >= wanted:
                    return _finished(ask, base, count, (size, found, layout, formats))
    if best is None:
        memory = [why for why in problems if why.startswith(DOES_NOT_FIT)]
        raise InfeasibleError(
            f"{ask.model} on {ask.gpus}: no layout holds it and one request of {longest:,} tokens"
            f"{_enough(ask, base, count, probe, longest)}: {(memory or problems)[-1]}"
        )
    return _finished(ask, base, count, best)


def _enough(ask: Ask, base: Mapping[str, Any], count: int, probe: Scenario, longest: int) -> str:
    """How many more GPUs would be enough, in words: parts of a node, then whole nodes."""
    node = probe.cluster.node.num_gpus
    nodes = sorted({*range(1, FEW_NODES + 1), *(FEW_NODES << k for k in range(1, 4))})
    for size in [
        n for n in (*(2**k for k in range(20) if 2**k < node), *(node * n for n in nodes)) if n > count
    ]:
        for formats in _formats(probe.model):
            for layout in _layouts(size, probe):
                if _fitting(base, layout, formats, longest)[0] is not None:
                    name = ask.gpus.strip().lstrip("0123456789").lstrip(" xX*")
                    return f" ({size} would: --gpus {size}x{name})"
    return ""


def _as_served(ask: Ask, base: dict[str, Any], count: int, longest: int) -> First:
    """The scenario of a server's own settings."""
    assert ask.server is not None
    stated: dict[str, Any] = {"deployment": {}, "serving": {}}
    for path, value in ask.server.settings.items():
        section = stated
        *heads, last = path.split(".")
        for head in heads:
            section = section.setdefault(head, {})
        section[last] = value
    layout = stated["deployment"]
    size = layout.get("attention_tp", 1) * layout.get("attention_dp", 1) * layout.get("pp", 1)
    if count % (size * ask.server.replicas):
        raise SpecError(
            f"--gpus {ask.gpus}: the command's server takes {size * ask.server.replicas} GPUs: give as many, or "
            "a multiple"
        )
    found, why = _fitting({**base, "serving": stated["serving"]}, layout, {}, longest)
    if found is None:
        raise InfeasibleError(f"the server of the command does not run on {ask.gpus}: {why}")
    return _finished(ask, {**base, "serving": stated["serving"]}, count, (size, found, layout, {}))


def parse_gpus(text: str, *, most: int = MOST_GPUS) -> tuple[int, str]:
    """``16xh100`` as a number, of ``most``, and a cluster of the catalogue; without a number, one node.

    Raises:
        SpecError: not of that form, no such GPU, or no whole number of nodes.
    """
    found = re.fullmatch(r"\s*(?:([0-9]{1,6})\s*[xX*]\s*)?([A-Za-z][\w.-]*)\s*", text)
    if not found:
        raise SpecError(f"--gpus {text!r}: must be NUMBERxGPU, e.g. 16xh100 (perfmodel show clusters)")
    name = found[2].lower()
    fit = catalogue.cluster_named(name)
    if fit is None:
        gpus = {
            cluster: str(catalogue.entry("clusters", cluster)["gpu"])
            for cluster in catalogue.names("clusters")
        }
        short = sorted({*gpus, *gpus.values(), *(gpu.partition("-")[0] for gpu in gpus.values())})
        near = difflib.get_close_matches(name, short, n=2) or sorted(
            {gpu.partition("-")[0] for gpu in gpus.values()}
        )
        raise SpecError(
            f"--gpus {text}: no GPU {name}; did you mean {' or '.join(near)}? (perfmodel show clusters)"
        )
    node = catalogue.entry("clusters", fit)["node"]
    count = int(found[1]) if found[1] else int(node["num_gpus"])
    if not 1 <= count <= most:
        raise SpecError(f"--gpus {text}: must be 1 to {most:,} GPUs")
    if count > node["num_gpus"] and count % node["num_gpus"]:
        raise SpecError(
            f"--gpus {text}: nodes of {fit} have {node['num_gpus']} GPUs: give a multiple, or at most one node"
        )
    return count, fit


def _check(ask: Ask) -> None:
    """Refuses settings that contradict each other or mean nothing."""
    if ask.users is not None and ask.request_rate is not None:
        raise SpecError("--users is a closed loop and --rate an open one: give one of the two")
    for option, value in (("--isl", ask.input_tokens), ("--osl", ask.output_tokens), ("--users", ask.users)):
        if value is not None and not 1 <= value <= MOST_OF_A_KIND:
            raise SpecError(f"{option} {shown(value)}: must be at least 1 and at most {MOST_OF_A_KIND:,}")
    if ask.request_rate is not None and not 0 < ask.request_rate <= MOST_RATE:
        raise SpecError(
            f"--rate {ask.request_rate:g}: must be above 0 and up to {MOST_RATE:,.0f} requests per second"
        )


def _base(ask: Ask, cluster: str) -> dict[str, Any]:
    """What is stated whatever the layout."""
    document: dict[str, Any] = {"model": model_named(ask.model), "cluster": cluster}
    name, _, version = ask.engine.partition("==")
    if name:
        document["engine"] = {"name": name, "version": version} if version else name
    gpu = str(catalogue.entry("clusters", cluster)["gpu"])
    priced = any(
        gpu in catalogue.entry("prices", one).get("default_for", ()) for one in catalogue.names("prices")
    )
    if ask.usd_per_gpu_hour is not None or not priced:
        document["prices"] = {"usd_per_gpu_hour": ask.usd_per_gpu_hour or NO_PRICE}
    return document


def model_named(name: str) -> str:
    """A model as a scenario states it: a catalogue name, or the whole path of a config.

    Raises:
        SpecError: neither; the message proposes names.
    """
    if name in catalogue.names("models"):
        return name
    path = Path(os.path.expanduser(name))  # of a home that there is not: as it stands
    if kind_of(path) != "missing":
        return str((path / "config.json" if is_folder(path) else path).absolute())
    near = difflib.get_close_matches(
        name.rpartition("/")[2].lower(), catalogue.names("models"), n=3, cutoff=0.4
    )
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise SpecError(
        f"{name}: neither a model of the catalogue nor a config.json here; {hint}(perfmodel show models). Of a model "
        "on Hugging Face its config.json is enough: download that file and give its path"
    )


def _formats(model: Model) -> Iterator[dict[str, str]]:
    """Number formats to try: the checkpoint's, then those in which the model is published too, the widest first."""
    yield {}
    widths: Mapping[str, float] = BYTES_PER_ELEMENT
    for word in sorted(model.formats.published, key=lambda one: -widths.get(one, 0.0)):
        yield {"linear": word, "experts": word} if word == "fp8" else {"experts": word}


def _server_sizes(count: int, probe: Scenario) -> list[int]:
    """GPUs of a replica, in the order in which they are tried: a server, then more of them, all at last."""
    unit = min(count, SERVER_GPUS, probe.cluster.node.link_domain_gpus)
    return [size for size in range(unit, count + 1) if size % unit == 0 and count % size == 0] or [count]


def _layouts(size: int, probe: Scenario) -> Iterator[dict[str, int]]:
    """Layouts of so many GPUs, in the order in which they are tried."""
    domain = min(WIDEST_TP, probe.cluster.node.link_domain_gpus)
    widths = [tp for tp in (16, 8, 4, 2, 1) if tp <= domain and size % tp == 0 and tp < size]
    if size <= domain:
        yield {"attention_tp": size}
        if probe.model.moe and size > 1:
            yield {"attention_tp": size, "ep": size}
    if probe.model.moe:
        # one latent cache for all heads: sliced attention would keep a copy of it on every GPU
        latent = any(isinstance(layer.attention, Mla) for layer in probe.model.layers)
        for tp in reversed(widths) if latent else widths:
            yield {"attention_tp": tp, "attention_dp": size // tp, "ep": size}
    for tp in widths:
        yield {"attention_tp": tp, "pp": size // tp}


def _fitting(
    base: Mapping[str, Any], layout: Mapping[str, int], formats: Mapping[str, str], longest: int
) -> tuple[tuple[Scenario, float] | None, str]:
    """The scenario of a layout and how many requests of the longest a replica holds, or why it does not run."""
    deployment: dict[str, Any] = {**layout, "context_tokens": longest}
    if formats:
        deployment["precision"] = dict(formats)
    try:
        scenario = build_scenario({**base, "deployment": deployment})
        found = limits(scenario)
        one = 1.0 / scenario.deployment.attention_tp
        check_runs(_with(scenario, batch_per_gpu=one))
    except (SpecError, InfeasibleError) as error:
        return None, str(error)
    return (scenario, found.fits * scenario.deployment.num_gpus), ""


def _with(scenario: Scenario, **changed: float) -> Scenario:
    return scenario.model_copy(update={"deployment": scenario.deployment.model_copy(update=changed)})


def _finished(
    ask: Ask,
    base: Mapping[str, Any],
    count: int,
    chosen: tuple[int, tuple[Scenario, float], dict[str, int], dict[str, str]],
) -> First:
    """The document, with the batch of a step, the traffic and what is to be said."""
    size, (fitted, most), layout, formats = chosen
    replicas = count // size
    users = ask.users
    if users is None and ask.request_rate is None:
        users = max(1, int(min(USERS_PER_GPU * size, most))) * replicas
    per_replica = min(most, USERS_PER_GPU * size if users is None else max(users / replicas, 1.0))
    deployment: dict[str, Any] = dict(layout)
    if formats:
        deployment["precision"] = dict(formats)
    deployment |= {
        "batch_per_gpu": _plain(per_replica / fitted.deployment.num_gpus),
        "context_tokens": ask.input_tokens + ask.output_tokens // 2,
    }
    workload: dict[str, Any] = (
        {"request_rate": "inf", "max_concurrency": users, "num_requests": min(max(4 * users, 64), 1000)}
        if users is not None
        else {
            "request_rate": ask.request_rate,
            "num_requests": min(max(int(60 * (ask.request_rate or 1)), 100), 2000),
        }
    )
    workload |= {"input_tokens": ask.input_tokens, "output_tokens": ask.output_tokens}
    document = {**base, "deployment": deployment, "workload": workload}
    if replicas > 1:
        document["serving"] = {**document.get("serving", {}), "replicas": replicas}
    if not document.get("serving", True):
        del document["serving"]
    if ask.slo:
        document["slo"] = {key: _plain(value) for key, value in ask.slo.items()}
    scenario = build_scenario(document)
    check_runs(scenario)
    return First(
        document,
        scenario,
        limits(scenario).text,
        tuple(_notes(ask, scenario, formats, users, most, replicas)),
    )


def _notes(
    ask: Ask, scenario: Scenario, formats: Mapping[str, str], users: int | None, most: float, replicas: int
) -> Iterator[str]:
    gpu = scenario.cluster.gpu.name
    yield from ask.server.told if ask.server else ()
    if ask.usd_per_gpu_hour is None and not scenario.prices.name:
        yield f"the catalogue has no price for {gpu}: costs are GPU hours until prices.usd_per_gpu_hour is yours"
    if not scenario.calibration:
        yield f"no calibration ships for {gpu}: kernels are costed by roofline"
    if formats:
        said = ", ".join(f"{name} {word}" for name, word in formats.items())
        yield f"the checkpoint's own formats do not fit: taken as {said}, in which it is published too"
    if users is not None and users > most * replicas:
        yield f"{users:,} users: {int(most * replicas):,} requests of the longest fit at once, the others wait"
    if not ask.engine:
        yield "no engine is named: its constants are left out, so times are too short (--engine vllm, sglang or trtllm)"


def _plain(value: float) -> float:
    """A whole number as one."""
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")

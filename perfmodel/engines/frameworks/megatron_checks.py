"""Flags that Megatron-LM refuses beside each other: its own assertions, of what changes time or memory here.

They are ``validate_args`` of ``arguments.py`` and ``__post_init__`` of ``transformer_config.py`` in the release that
``data/engines/frameworks/megatron.yaml`` names.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from perfmodel.engines.frameworks.line import WHERE
from perfmodel.errors import SpecError

PAIRS = "overlap-moe-expert-parallel-comm"


def check_flags(flags: Mapping[str, tuple[str, ...]], keys: Mapping[str, Any]) -> None:
    """Refuses what Megatron-LM does.

    Args:
        flags: that were given.
        keys: of ``training`` that they set.

    Raises:
        SpecError: the first of them.
    """
    found = next(
        (
            f"--{flag}: {why}"
            for rules in (_optimizer, _fsdp, _pairs, _positions)
            for flag, why in rules(flags, keys)
        ),
        None,
    )
    if found:
        raise SpecError(f"{WHERE}: {found}")


def _optimizer(flags: Mapping[str, tuple[str, ...]], _: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    own = {"use-distributed-optimizer", "use-megatron-fsdp", "use-torch-fsdp2"} & flags.keys()
    if "overlap-param-gather" in flags and not own and flags.get("optimizer") != ("dist_muon",):
        yield "overlap-param-gather", "Megatron-LM wants --use-distributed-optimizer beside it"


def _fsdp(flags: Mapping[str, tuple[str, ...]], keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "use-torch-fsdp2" not in flags:
        return
    for key, what in (("pp", "a pipeline"), ("ep", "expert parallelism")):
        if keys.get(key, 1) > 1:
            yield "use-torch-fsdp2", f"Megatron-LM refuses it with {what}"
    if "use-distributed-optimizer" in flags:
        yield "use-torch-fsdp2", "Megatron-LM refuses it with --use-distributed-optimizer"
    if "no-gradient-accumulation-fusion" not in flags:
        yield "use-torch-fsdp2", "Megatron-LM wants --no-gradient-accumulation-fusion beside it"


def _pairs(flags: Mapping[str, tuple[str, ...]], keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if keys.get("moe_overlap", "none") == "none":
        return
    if keys.get("pp", 1) > 1 and keys.get("virtual_stages", 1) == 1:
        yield PAIRS, "in a pipeline Megatron-LM wants virtual stages for it"
    if keys.get("ep", 1) == 1:
        yield PAIRS, "Megatron-LM wants --expert-model-parallel-size above 1 for it"
    if flags.get("moe-token-dispatcher-type") not in (("alltoall",), ("flex",)):
        yield PAIRS, "Megatron-LM wants --moe-token-dispatcher-type alltoall or flex for it"
    if keys.get("recompute") == "full" or "experts" in keys.get("recompute", ()):
        yield PAIRS, "Megatron-LM refuses it with whole layers or experts recomputed"


def _positions(flags: Mapping[str, tuple[str, ...]], keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    most = flags.get("max-position-embeddings", ("",))[-1:]
    if most and most[0].isdigit() and int(most[0]) < keys["sequence_tokens"]:
        yield "seq-length", f"{keys['sequence_tokens']}: exceeds --max-position-embeddings {most[0]}"

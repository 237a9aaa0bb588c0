"""Megatron-LM's experts: how they are divided, what moves tokens to them, what hides behind what."""

from typing import Any

from perfmodel.engines.frameworks.line import WHERE, Line, Trainer
from perfmodel.engines.frameworks.megatron_launch import FLEXIBLE
from perfmodel.errors import SpecError


def set_experts(line: Line, trainer: Trainer) -> None:
    """Sets the division of experts, their exchanges, overlap, capacity and balance.

    Raises:
        SpecError: flags that want others beside them.
    """
    ep, etp = line.whole("expert-model-parallel-size"), line.whole("expert-tensor-parallel-size")
    if ep:
        trainer.set("ep", ep, f"--expert-model-parallel-size {ep}")
    tp = trainer.keys.get("tp", 1)
    if etp or tp > 1:
        trainer.set(
            "etp",
            etp or tp,
            f"--expert-tensor-parallel-size {etp}"
            if etp
            else "--expert-tensor-parallel-size, by default the tensor's",
        )
    _dispatcher(line, trainer)
    overlap, delay = line.switch("overlap-moe-expert-parallel-comm"), line.switch("delay-wgrad-compute")
    if overlap:
        trainer.set("moe_overlap", "forward-backward", "--overlap-moe-expert-parallel-comm")
        trainer.set(
            "delay_weights",
            delay,
            "--delay-wgrad-compute" if delay else "not on the line: --delay-wgrad-compute",
        )
    elif delay:
        raise SpecError(
            f"{WHERE}: --delay-wgrad-compute: Megatron-LM wants --overlap-moe-expert-parallel-comm beside it"
        )
    factor, pad = (
        line.number("moe-expert-capacity-factor", -1.0, 1000.0),
        line.switch("moe-pad-expert-input-to-capacity"),
    )
    drop = line.text("moe-token-drop-policy", ("probs", "position"))
    if factor is not None and factor > 0:
        capacity: dict[str, Any] = {"factor": factor} | ({"pad": True} if pad else {})
        capacity |= {"drop": drop} if drop == "position" else {}
        trainer.set("capacity", capacity, f"--moe-expert-capacity-factor {factor:g}")
    elif pad:
        raise SpecError(
            f"{WHERE}: --moe-pad-expert-input-to-capacity: Megatron-LM wants --moe-expert-capacity-factor beside it"
        )
    if line.switch("moe-router-force-load-balancing"):
        trainer.set("balanced", True, "--moe-router-force-load-balancing")
    else:
        trainer.notes.append(
            "routing is the router's own; here every rank gets the mean load, unless training.balanced is false and "
            "routing says which experts are chosen"
        )


def _dispatcher(line: Line, trainer: Trainer) -> None:
    kind = line.text("moe-token-dispatcher-type", ("allgather", "alltoall", "flex"))
    backend = line.text("moe-flex-dispatcher-backend", ("deepep", "hybridep", "ncclep")) or "deepep"
    deepep = line.switch("moe-enable-deepep")
    if deepep and kind != "flex":
        raise SpecError(
            f"{WHERE}: --moe-enable-deepep: Megatron-LM wants --moe-token-dispatcher-type flex beside it"
        )
    if kind == "flex":
        words = {name: key for key, name in FLEXIBLE.items()}
        why = f"--moe-token-dispatcher-type flex --moe-flex-dispatcher-backend {backend}"
        trainer.set("all_to_all", words.get(backend, "hybrid-ep"), why)
        if backend not in words:
            trainer.notes.append(f"not modelled: --moe-flex-dispatcher-backend {backend}: costed as HybridEP")
    else:
        trainer.set(
            "all_to_all", "all-to-all", f"--moe-token-dispatcher-type {kind or 'allgather, its default'}"
        )
        if kind != "alltoall" and trainer.keys.get("ep", 1) > 1:
            trainer.notes.append(
                "not modelled: the allgather dispatcher (Megatron-LM's default), which sends every token to every "
                "rank: "
                "costed as alltoall, so exchanges are too short"
            )

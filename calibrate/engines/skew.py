"""How skewed routing is, from one published figure: what EPLB gained in DeepSeek-V3's prefill.

Experts are taken as liked by a power law, in another order in every layer. Its exponent is the one at which prefill
with EPLB (32 redundant experts, placed with perfect knowledge) is as many times faster than without as SGLang's authors
measured: 1.49, the row ``lmsys_h100_eplb_gain_prefill``, whose role is ``fit`` for this alone. The gain in decode
(2.54) is then a prediction. Both runs have SGLang's constants, whose fit has this skew in it in turn: ``make
engine-constants`` fits one after the other, twice, by when both have settled. ``--curve`` prints both gains by
exponent.
"""

import sys
from collections.abc import Sequence

from perfmodel.engines.known_routing import SKEW_FILE
from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.step import predict_steps
from perfmodel.validation import roles
from perfmodel.validation.deepseek import FILE, GAINS
from perfmodel.validation.serving import scenario_of

PREFILL, DECODE = "lmsys_h100_eplb_gain_prefill", "lmsys_h100_eplb_gain_decode"
LEAST, MOST = 0.05, 2.0
"""Exponents between which it is sought."""
HALVINGS = 11


def gain(name: str, skew: float) -> float:
    """Predicted throughput with EPLB over that without, at one exponent."""
    record = {row["id"]: row for row in roles.read_published(FILE)}[name]
    own = GAINS[name]
    with_eplb = {**record, **own.base, "skew": f"{skew}"}
    times = [
        float(predict_steps(scenario_of(cells)).step_time_s[0])
        for cells in (with_eplb, {**with_eplb, **own.without})
    ]
    return times[1] / times[0]


def fitted(measured: float) -> float:
    """The exponent whose prefill gain is ``measured``, by bisection: a more skewed law gains more.

    Raises:
        DataError: no exponent from LEAST to MOST has it.
    """
    low, high = LEAST, MOST
    if not gain(PREFILL, low) < measured < gain(PREFILL, high):
        raise DataError(f"{PREFILL} = {measured:g}: no power law from {LEAST:g} to {MOST:g} has that gain")
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if gain(PREFILL, middle) < measured else (low, middle)
    return (low + high) / 2.0


def curve(exponents: Sequence[float]) -> list[tuple[float, float, float]]:
    """(exponent, prefill gain, decode gain)."""
    return [(skew, gain(PREFILL, skew), gain(DECODE, skew)) for skew in exponents]


def main() -> None:
    """Fit and write ``data/routing_skew.yaml``; with ``--curve`` print both gains by exponent instead."""
    if "--curve" in sys.argv[1:]:
        for exponent, prefill, decode in curve([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]):
            print(f"{exponent:.1f}  prefill {prefill:.2f}  decode {decode:.2f}", flush=True)
        return
    measured = {
        row["id"]: float(row["value"]) for row in roles.read_published(FILE) if row["id"] in (PREFILL, DECODE)
    }
    skew = round(fitted(measured[PREFILL]), 3)
    atomic_write(
        SKEW_FILE,
        "# Routing skew by model, written by calibrate.engines.skew (make engine-constants). Do not edit by hand.\n"
        f"deepseek-v3:\n  popularity: power-law\n  skew: {skew:g}\n"
        f"  source: 'prefill gain of EPLB, {measured[PREFILL]:g}: https://lmsys.org/blog/2025-05-05-large-scale-ep/'\n",
    )
    print(
        f"skew {skew:g}: prefill {gain(PREFILL, skew):.3f}, decode {gain(DECODE, skew):.3f} ({measured[DECODE]:g})"
    )


if __name__ == "__main__":
    main()

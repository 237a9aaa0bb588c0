"""Megatron-LM's batches: constant, growing by samples (its releases before core_v0.18.0), or by tokens."""

import re

from perfmodel.engines.frameworks.line import WHERE, Line, Trainer
from perfmodel.errors import SpecError
from perfmodel.spec.messages import shown

SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
"""Of thresholds in tokens."""


def set_batches(line: Line, trainer: Trainer) -> None:
    """Sets sequences, micro-batches, batches and the tokens of the run.

    Raises:
        SpecError: a size is missing or means nothing, or a schedule does not grow.
    """
    sequence, micro = line.whole("seq-length"), line.whole("micro-batch-size")
    if sequence is None or micro is None:
        name = "seq-length" if sequence is None else "micro-batch-size"
        raise SpecError(f"{WHERE}: --{name}: missing, and Megatron-LM has no default of it")
    trainer.set("sequence_tokens", sequence, f"--seq-length {sequence}")
    trainer.set("micro_batch_sequences", micro, f"--micro-batch-size {micro}")
    batch, dp = line.whole("global-batch-size"), trainer.keys["dp"]
    steps = line.text("step-batch-size-schedule")
    ramp = line.texts("rampup-batch-size")
    line.switch("decrease-batch-size-if-needed")
    if steps is not None:
        batch = _steps(trainer, steps, sequence)
        why = f"--step-batch-size-schedule {steps}"
    else:
        why = (
            f"--global-batch-size {batch}"
            if batch
            else "--micro-batch-size x data-parallel size, its default"
        )
    trainer.set("global_batch_sequences", batch or micro * dp, why)
    if ramp is not None and steps is None:
        if len(ramp) != 3:
            raise SpecError(
                f"{WHERE}: --rampup-batch-size {' '.join(ramp)[:60]}: takes three numbers: start, increment, samples"
            )
        start, increment, samples = (line.as_whole("rampup-batch-size", one) for one in ramp)
        trainer.set(
            "batch_ramp",
            {"start_sequences": start, "increment_sequences": increment, "ramp_sequences": samples},
            f"--rampup-batch-size {' '.join(ramp)}",
        )
        trainer.notes.append(
            "--rampup-batch-size: Megatron-LM ignores it from core_v0.18.0 on, which has "
            "--step-batch-size-schedule; taken "
            "as releases before it do"
        )
    samples_, iterations = line.whole("train-samples"), line.whole("train-iters")
    if samples_:
        trainer.set("tokens", samples_ * sequence, f"--train-samples {samples_}")
    elif iterations and "batch_ramp" not in trainer.keys:
        tokens = iterations * trainer.keys["global_batch_sequences"] * sequence
        trainer.set("tokens", tokens, f"--train-iters {iterations}")
    elif iterations:
        trainer.notes.append(
            f"--train-iters {iterations} with growing batches: how many tokens that is, is not counted: state "
            "training.tokens"
        )


def _steps(trainer: Trainer, text: str, sequence: int) -> int:
    """The last batch of a schedule by tokens; one that grows evenly becomes a batch ramp.

    Raises:
        SpecError: no schedule.
    """
    found = []
    for entry in text.replace(",", " ").split():
        match = re.fullmatch(r"([0-9.]{1,20})([KMBT]?):([0-9]{1,9})", entry.upper())
        if match is None or match[1].count(".") > 1 or match[1] == "." or not int(match[3]):
            raise SpecError(
                f"{WHERE}: --step-batch-size-schedule {shown(entry)}: must be TOKENS:BATCH, e.g. 2.4B:320, the "
                "first from 0"
            )
        found.append((float(match[1]) * SUFFIXES.get(match[2], 1.0) / sequence, int(match[3])))
    if not found or found[0][0] or [one[0] for one in found] != sorted({one[0] for one in found}):
        raise SpecError(
            f"{WHERE}: --step-batch-size-schedule {text[:60]}: thresholds must grow, the first from 0"
        )
    starts, sizes = [one[0] for one in found], [one[1] for one in found]
    if len(found) > 1:
        each, grows = starts[1], sizes[1] - sizes[0]
        even = all(abs(start - i * each) <= max(1.0, 1e-3 * each) for i, start in enumerate(starts))
        if even and grows > 0 and sizes == [sizes[0] + i * grows for i in range(len(sizes))]:
            ramp = {
                "start_sequences": sizes[0],
                "increment_sequences": grows,
                "ramp_sequences": round(each * (len(found) - 1)),
            }
            trainer.set("batch_ramp", ramp, f"--step-batch-size-schedule {text}")
        else:
            trainer.notes.append(
                "not modelled: --step-batch-size-schedule that does not grow by equal steps after equal numbers of "
                "tokens: "
                f"all steps have its last batch, {sizes[-1]}"
            )
    return sizes[-1]

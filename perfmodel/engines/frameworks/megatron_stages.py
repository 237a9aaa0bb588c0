"""Megatron-LM's pipeline stages: its ways to cut a model, its layout's grammar, and patterns of layers.

A layout writes the layers in the order of the model, stages between bars: ``E`` embedding, ``t`` layer, ``m``
multi-token prediction layer, ``L`` loss; ``t*3`` and ``(tt|)*5`` repeat, commas are decoration.
"""

import re
from collections.abc import Sequence

from perfmodel.engines.frameworks.line import WHERE, Line, Trainer
from perfmodel.errors import SpecError

LAYOUT = "pipeline-model-parallel-layout"
FIRST, LAST = "decoder-first-pipeline-num-layers", "decoder-last-pipeline-num-layers"
CHUNK, CHUNKS = "num-layers-per-virtual-pipeline-stage", "num-virtual-stages-per-pipeline-rank"
EMBEDDING, LOSS = "account-for-embedding-in-pipeline-split", "account-for-loss-in-pipeline-split"
MOST_LAYERS = 10_000
"""Of a layout or pattern written out."""


def set_stages(line: Line, trainer: Trainer, layers: int, pp: int) -> None:
    """Sets virtual stages, the schedule and, with a pipeline, the layers of each stage.

    Args:
        line: the flags, of which those above are used.
        trainer: keys are set there.
        layers: of the model, multi-token prediction left out.
        pp: pipeline ranks.

    Raises:
        SpecError: layers that do not divide, flags that exclude each other, a layout that means nothing.
    """
    layout = line.text(LAYOUT)
    chunk, chunks = line.whole(CHUNK), line.whole(CHUNKS)
    if sum(one is not None for one in (layout, chunk, chunks)) > 1:
        raise SpecError(f"{WHERE}: --{LAYOUT}, --{CHUNK} and --{CHUNKS} exclude each other: give one")
    if layout is not None:
        numbers = _of_layout(layout, layers, pp, trainer)
        why = f"--{LAYOUT} {layout}"
        for flag in (FIRST, LAST):
            line.left.pop(flag, None)
        virtual = len(numbers) // pp
    else:
        numbers, virtual, why = _even(line, layers, pp, chunk, chunks)
    if pp == 1:
        numbers, virtual = [], 1
    if virtual > 1:
        trainer.set("virtual_stages", virtual, why)
    if pp > 1:
        trainer.set(
            "schedule",
            "interleaved-1f1b" if virtual > 1 else "1f1b",
            "Megatron-LM's schedule " + ("with" if virtual > 1 else "without") + " virtual stages",
        )
        trainer.set("stage_layers", numbers, why)


def _even(
    line: Line, layers: int, pp: int, chunk: int | None, chunks: int | None
) -> tuple[list[int], int, str]:
    """(layers of each stage, virtual stages, why) where no layout is written."""
    first, last = line.whole(FIRST, 0), line.whole(LAST, 0)
    embedding, loss = line.switch(EMBEDDING), line.switch(LOSS)
    if (first is not None or last is not None) and (embedding or loss):
        raise SpecError(f"{WHERE}: --{FIRST} and --{LAST} exclude --{EMBEDDING} and --{LOSS}: give one pair")
    rest = layers - (first or 0) - (last or 0) + embedding + loss
    ranks = pp - (first is not None) - (last is not None)
    if rest < 0 or (ranks and rest % ranks) or (ranks <= 0 and rest and pp > 1):
        raise SpecError(
            f"{WHERE}: --pipeline-model-parallel-size {pp}: {rest} layers do not divide over {max(ranks, 0)} "
            "ranks, and "
            f"Megatron-LM refuses that; --{FIRST}, --{LAST} or --{LAYOUT} cut unevenly"
        )
    each = [rest // ranks if ranks else 0] * pp
    each[0] = each[0] if first is None else first
    each[-1] = each[-1] if last is None else last
    words = ["even over the ranks"]
    words += [f"--{FIRST} {first}"] if first is not None else []
    words += [f"--{LAST} {last}"] if last is not None else []
    virtual = 1
    if chunk is not None and first is None and last is None and pp > 1:
        if each[0] % chunk:
            raise SpecError(f"{WHERE}: --{CHUNK} {chunk}: must divide the {each[0]} layers of a rank")
        virtual = each[0] // chunk
        words.append(f"--{CHUNK} {chunk}")
    elif chunk is not None and pp > 1:
        raise SpecError(f"{WHERE}: --{CHUNK} {chunk}: with --{FIRST} or --{LAST} give --{CHUNKS} instead")
    elif chunks is not None:
        virtual = chunks
        words.append(f"--{CHUNKS} {chunks}")
    uneven = [number for number in each if number % virtual]
    if uneven and pp > 1:
        raise SpecError(f"{WHERE}: --{CHUNKS} {virtual}: must divide the {uneven[0]} layers of a rank")
    numbers = [number // virtual for _ in range(virtual) for number in each]
    for flag, given, at in ((EMBEDDING, embedding, 0), (LOSS, loss, -1)):
        if given:
            numbers[at] -= 1
            words.append(f"--{flag}")
    return numbers, virtual, ", ".join(words)


def _of_layout(layout: str, layers: int, pp: int, trainer: Trainer) -> list[int]:
    """Layers of each stage."""
    flat = written_out(layout)
    stages = flat.split("|")
    problem = None
    if flat.count("E") != 1 or flat.count("L") != 1 or not flat.startswith("E") or not flat.endswith("L"):
        problem = "must begin with E (embedding) and end with L (loss), each once"
    elif flat.count("t") != layers:
        problem = f"has {flat.count('t')} layers (t), the model has {layers}"
    elif len(stages) % pp:
        problem = f"has {len(stages)} stages, which --pipeline-model-parallel-size {pp} must divide"
    if problem:
        raise SpecError(f"{WHERE}: --{LAYOUT} {layout[:80]}: {problem}")
    if "m" in flat and "m" not in stages[-1]:
        trainer.notes.append(
            "not modelled: a multi-token prediction layer on a stage of its own: here it is the last stage's"
        )
    return [stage.count("t") for stage in stages]


def written_out(layout: str) -> str:
    """A layout with its repetitions written out: letters and bars.

    Raises:
        SpecError: another letter, a bracket that does not close, or a layout that is too long.
    """
    plain = re.sub(r"[\s,]", "", layout)
    if len(plain) > MOST_LAYERS or not re.fullmatch(r"(?:[EtmL|()]|\*[0-9]{1,5})*", plain):
        raise SpecError(
            f"{WHERE}: --{LAYOUT} {layout[:80]}: must be of E, t, m, L and |, repeated by t*3 or (tt|)*3"
        )
    while True:
        found = re.search(r"\(([EtmL|]*)\)(?:\*([0-9]+))?|([EtmL|])\*([0-9]+)", plain)
        if found is None:
            break
        part, times = (found[1], found[2]) if found[3] is None else (found[3], found[4])
        count = 1 if times is None else int(times)
        if len(plain) + len(part) * count > MOST_LAYERS:
            raise SpecError(f"{WHERE}: --{LAYOUT} {layout[:80]}: more than {MOST_LAYERS:,} layers and bars")
        plain = plain[: found.start()] + part * count + plain[found.end() :]
    if not re.fullmatch(r"[EtmL|]*", plain):
        raise SpecError(f"{WHERE}: --{LAYOUT} {layout[:80]}: a bracket or a * stands alone")
    return plain


def layout_of(stages: Sequence[int], *, mtp: bool) -> str:
    """Layers of each stage as a layout."""
    words = [f"t*{number}" if number > 1 else "t" * number for number in stages]
    words[0] = "E" + words[0]
    words[-1] += "mL" if mtp else "L"
    return "|".join(words)


def pattern_of(text: str, layers: int, flag: str) -> list[int]:
    """A pattern of layers, 1 where a layer is of the kind: ``[0]*3+[1]*58``, or a number: every so many-th from the
    first on.

    Raises:
        SpecError: it means nothing, or has another length than the model.
    """
    if text.isdigit() and 0 < int(text) < MOST_LAYERS:
        return [int(i % int(text) == 0) for i in range(layers)]
    plain = re.sub(r"\s", "", text)
    if re.fullmatch(r"[\[\]()*+,0-9]{1,200}", plain):
        found = _sum(plain, 0)
        if found is not None and found[1] == len(plain) and set(found[0]) <= {0, 1}:
            if len(found[0]) != layers:
                raise SpecError(
                    f"{WHERE}: --{flag} {text[:80]}: has {len(found[0])} layers, --num-layers says {layers}"
                )
            return found[0]
    raise SpecError(
        f"{WHERE}: --{flag} {text[:80]!r}: must be a number, or lists of 0 and 1 as in ([0]*3+[1]*58)"
    )


def _sum(text: str, at: int) -> tuple[list[int], int] | None:
    """(list, position behind it) of terms joined by ``+``; None: it is none."""
    total: list[int] = []
    while True:
        found = _term(text, at)
        if found is None or len(total) + len(found[0]) > MOST_LAYERS:
            return None
        total, at = total + found[0], found[1]
        if at >= len(text) or text[at] != "+":
            return total, at
        at += 1


def _term(text: str, at: int) -> tuple[list[int], int] | None:
    if text[at : at + 1] == "(":
        found = _sum(text, at + 1)
        if found is None or text[found[1] : found[1] + 1] != ")":
            return None
        values, at = found[0], found[1] + 1
    else:
        match = re.compile(r"\[([01](?:,[01])*)\]").match(text, at)
        if match is None:
            return None
        values, at = [int(one) for one in match[1].split(",")], match.end()
    while times := re.compile(r"\*([0-9]{1,5})").match(text, at):
        if len(values) * int(times[1]) > MOST_LAYERS:
            return None
        values, at = values * int(times[1]), times.end()
    return values, at

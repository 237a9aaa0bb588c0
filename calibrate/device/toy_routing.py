"""A toy popularity and activation file, from the tiny reference model trained for minutes with its controller on.

``python -m calibrate.device.toy_routing --out toy.parquet`` writes ``toy-popularity.parquet`` and
``toy-activation.parquet``, which perfmodel reads. They prove the format and the loop; they are marked ``toy``, and
support no default and no claim.

The text is that of Python's own help topics, one token per byte: English that every CPython brings. The last tenth is
held out, and what is written is how the trained model routes that.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from perfmodel import __version__
from perfmodel.errors import DataError
from perfmodel.files import atomic_write, check_writable
from reference_model.config import Config
from reference_model.model import LongcatFlash
from reference_model.moe import Routing
from reference_model.training import CONFIG, evaluate, fit, new_model, real_tokens

TOY: Final = replace(CONFIG, vocab_size=256)
"""The model: bytes as tokens, 16 real and 8 zero-computation experts, top-6, so 4 real ones expected."""
STEPS: Final = 1000
SEQUENCES: Final = 16
LENGTH: Final = 64
"""Tokens of a sequence; a batch has ``SEQUENCES`` of them."""
HELD_OUT: Final = 0.1
"""Share of the text that is evaluated and never trained on."""


class ByteText:
    """Bytes as a source of batches, each sequence from a random place."""

    def __init__(self, text: bytes, seed: int) -> None:
        """The same seed gives the same batches."""
        self.ids = torch.tensor(list(text))
        self.generator = torch.Generator().manual_seed(seed)

    def batch(self, sequences: int, length: int) -> Tensor:
        """Token ids, [B, S]."""
        start = torch.randint(len(self.ids) - length + 1, (sequences, 1), generator=self.generator)
        return self.ids[start + torch.arange(length)]

    def in_order(self, length: int) -> Tensor:
        """The text once, cut into sequences, [B, S]; a last one that is shorter is dropped."""
        whole = len(self.ids) // length
        return self.ids[: whole * length].view(whole, length)


def help_topics() -> bytes:
    """The text of Python's help topics, about 460 kB, in UTF-8; it differs a little between versions of Python."""
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in sorted(topics)).encode()


def unigram_entropy(text: bytes) -> float:
    """Nats per byte that knowing nothing but how often each byte occurs in ``text`` leaves."""
    return -sum(n / len(text) * math.log(n / len(text)) for n in Counter(text).values())


@dataclass(frozen=True, slots=True)
class Observed:
    """How a model does on a text, and how it routes it. Outer index: MoE layer."""

    loss: float
    """Nats per token."""
    popularity: tuple[tuple[int, ...], ...]
    """Tokens that chose each real expert."""
    activation: tuple[tuple[int, ...], ...]
    """Tokens with 0, 1, .. top_k real experts."""

    @property
    def mean_real(self) -> float:
        """Real experts per token, mean over tokens and layers."""
        return self._moment(1)

    @property
    def std_real(self) -> float:
        """Standard deviation over tokens and layers."""
        return math.sqrt(self._moment(2) - self.mean_real**2)

    @property
    def busiest(self) -> float:
        """Load of the busiest real expert over its layer's mean, largest over layers."""
        return max(max(loads) * len(loads) / max(1, sum(loads)) for loads in self.popularity)

    def _moment(self, power: int) -> float:
        total: int = sum(k**power * tokens for counts in self.activation for k, tokens in enumerate(counts))
        return total / sum(map(sum, self.activation))


def observe(model: LongcatFlash, text_BS: Tensor) -> Observed:
    """Runs ``model`` on a text and counts what its routers choose."""
    loss, routings = evaluate(model, text_BS)
    config = model.config
    return Observed(
        loss,
        tuple(tuple(real_tokens(routing, config.n_routed_experts).tolist()) for routing in routings),
        tuple(_tokens_by_real(routing, config) for routing in routings),
    )


def _tokens_by_real(routing: Routing, config: Config) -> tuple[int, ...]:
    """Tokens with 0, 1, .. top_k real experts."""
    real_N = (routing.ids_NK < config.n_routed_experts).sum(dim=1)
    return tuple(torch.bincount(real_N, minlength=config.moe_topk + 1).tolist())


@dataclass(frozen=True, slots=True)
class Toy:
    """What the training gave; evaluated on text that was held out."""

    before: Observed
    after: Observed
    unigram: float
    """Entropy of the held-out bytes, nats."""
    seconds: float
    metadata: dict[str, Any]
    """What both files say about themselves."""


def train_toy(steps: int = STEPS, seed: int = 0, held_out: float = HELD_OUT) -> Toy:
    """Trains the toy on the help topics and observes it before and after.

    Args:
        steps: batches of ``SEQUENCES`` x ``LENGTH`` bytes; 0 leaves the model as it was drawn.
        seed: of weights and batches.
        held_out: share of the text that is evaluated and not trained on.

    Raises:
        DataError: negative steps or seed, or too small or large a share for one sequence of either part.
    """
    for name, value in (("steps", steps), ("seed", seed)):
        if value < 0:
            raise DataError(f"{name} is {value}: give a whole number, 0 or above")
    text = help_topics()
    cut = round(len(text) * (1.0 - held_out))
    if not LENGTH < cut < len(text) - LENGTH:
        raise DataError(f"held_out is {held_out}: both parts of the text need more than {LENGTH} bytes")
    start = time.perf_counter()
    evaluated_BS = ByteText(text[cut:], seed).in_order(LENGTH + 1)
    with _one_thread():
        model = new_model(TOY, seed=seed)
        before = observe(model, evaluated_BS)
        fit(model, ByteText(text[:cut], seed), steps=steps, sequences=SEQUENCES, length=LENGTH)
        after = observe(model, evaluated_BS)
    seconds = time.perf_counter() - start
    return Toy(before, after, unigram_entropy(text[cut:]), seconds, _metadata(steps, seed, held_out))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in the same order in each run, which two threads don't promise; the model is too small to gain from them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _metadata(steps: int, seed: int, held_out: float) -> dict[str, Any]:
    version = ".".join(map(str, sys.version_info[:3]))
    return {
        "toy": True,
        "model": f"reference_model tiny, {TOY.num_layers} blocks",
        "num_experts": TOY.n_routed_experts,
        "num_zero_experts": TOY.zero_expert_num,
        "top_k": TOY.moe_topk,
        "expected_real_experts": TOY.expected_real_experts,
        "text": f"pydoc_data.topics of Python {version}, bytes; the last {held_out:g} of it, held out",
        "steps": steps,
        "seed": seed,
        "perfmodel": __version__,
    }


def write(toy: Toy, out: Path) -> tuple[Path, Path]:
    """Writes the popularity and the activation file, each whole or not at all, and returns their paths.

    ``out`` = ``folder/toy.parquet`` gives ``folder/toy-popularity.parquet`` and ``folder/toy-activation.parquet``. The
    suffix ``.csv`` gives text, which has no metadata: the name itself must then say toy.

    Raises:
        DataError: another suffix, a CSV name without ``toy``, or a place that can't be written to.
    """
    popularity, activation = _paths(out)
    for path, kind, column, counts in (
        (popularity, "popularity", "expert", toy.after.popularity),
        (activation, "activation", "real_experts", toy.after.activation),
    ):
        atomic_write(path, _encoded(path.suffix, column, counts, {"kind": kind, **toy.metadata}))
    return popularity, activation


def _paths(out: Path) -> tuple[Path, Path]:
    """Where the two files go, once that they can has been checked."""
    if out.suffix not in (".parquet", ".csv"):
        raise DataError(f"{out}: the suffix must be .parquet or .csv")
    if out.suffix == ".csv" and "toy" not in out.stem:
        raise DataError(f"{out}: a CSV file has no metadata, so its name must contain toy, e.g. toy.csv")
    popularity, activation = (
        out.with_name(f"{out.stem}-{kind}{out.suffix}") for kind in ("popularity", "activation")
    )
    check_writable(popularity)
    check_writable(activation)
    return popularity, activation


def _encoded(suffix: str, column: str, counts: Sequence[Sequence[int]], metadata: dict[str, Any]) -> bytes:
    """A file's content: one row per layer and value of ``column``, zero counts included."""
    rows = [(layer, value, tokens) for layer, row in enumerate(counts) for value, tokens in enumerate(row)]
    names = ("layer", column, "tokens")
    if suffix == ".csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([names, *rows])
        return text.getvalue().encode()
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"perfmodel": json.dumps(metadata)}), buffer)
    return buffer.getvalue()


def main() -> None:
    """Trains the toy, writes its two files, and prints what training changed."""
    parser = argparse.ArgumentParser(prog="python -m calibrate.device.toy_routing", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="FILE.parquet or FILE.csv: names both files")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"batches (default {STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    options = parser.parse_args()
    try:
        _paths(options.out)  # before minutes of training
        toy = train_toy(options.steps, options.seed)
        paths = write(toy, options.out)
    except DataError as error:
        parser.error(str(error))
    print(
        f"TOY: {options.steps} steps, {toy.seconds:.0f} s; wanted {TOY.expected_real_experts:g} of {TOY.moe_topk}"
    )
    print(f"        loss (unigrams: {toy.unigram:.3f})  real experts   std  busiest expert")
    for name, one in (("before", toy.before), ("after", toy.after)):
        print(f"{name:6}  {one.loss:22.3f}  {one.mean_real:12.2f}  {one.std_real:4.2f}  {one.busiest:13.2f}x")
    print(*paths, sep="\n")


if __name__ == "__main__":
    main()

"""What a timing's flag says, taken apart: by how much a shape leaves what was timed, and everything else."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perfmodel.ops.op import Op

_NUMBER = r"[\d.]+(?:e[+-]?\d+)?"
_OUTSIDE = re.compile(
    rf"(?P<name>\w+) = (?P<value>{_NUMBER}) is (?P<side>above|below) the timed "
    rf"(?P<low>{_NUMBER}) to (?P<high>{_NUMBER})"
)
_SCALED = re.compile(rf"(?P<name>\w+) = (?P<value>{_NUMBER}) is scaled from the timed (?P<timed>{_NUMBER})")
_RANKS = re.compile(r"(?:[\w-]+ [\w-]+: )?(?P<value>\d+) ranks, measured up to (?P<timed>\d+) on \w+")
"""Of a collective without a calibration."""
_LABEL = re.compile(r"(?![\w-]+ beside )(?:[\w-]+ [\w-]+(?: [\w-]+)?|[\w-]+ [\w-]+ on \w+): ")
"""What a calibration or a table of fractions puts before its text: kernel, number format, backend or architecture."""

KERNELS = {
    "dispatch": "dispatch and combine",
    "combine": "dispatch and combine",
    "gemm": "dense GEMMs",
    "bmm": "batched GEMMs",
    "grouped_gemm": "experts' GEMMs",
    "mla_decode": "attention cores",
    "gqa_decode": "attention cores",
    "mla_prefill": "prompts' attention cores",
    "gqa_prefill": "prompts' attention cores",
}
"""Kernel class -> words; others by their own name."""
_SPELLED = {
    "q": "query",
    "qkv": "QKV",
    "qk": "QK",
    "kv": "KV",
    "a": "down-projection",
    "b": "up-projection",
    "o": "output",
    "tp": "tensor-parallel",
    "ffn": "FFN",
    "mla": "MLA",
    "fp32": "FP32",
    "act": "activation",
    "rope": "RoPE",
}
"""Part of an op's id -> words; others as they are."""


@dataclass(frozen=True, slots=True)
class Beyond:
    """A dimension of an op that was not timed."""

    name: str
    value: float
    side: str
    """above, below or scaled."""
    timed: float
    """The nearest that was timed."""

    @property
    def times(self) -> float:
        """How far it is, as a factor of at least 1."""
        ratio = self.value / self.timed if self.timed else float("inf")
        return max(ratio, 1.0 / ratio) if ratio else float("inf")

    @property
    def words(self) -> str:
        """``context 70,000; timed up to 16,400``."""
        how = {"above": "timed up to", "below": "timed from", "scaled": "scaled from"}[self.side]
        return f"{self.name.replace('_', ' ')} {_rounded(self.value)}; {how} {_rounded(self.timed)}"


def beyond_of(flag: str, op: Op) -> Iterator[Beyond]:
    """The dimensions that a flag (:func:`perfmodel.kernels.curves.describe_outside`) names as not timed; values in full
    where the op's shape has them.
    """
    if not flag:
        return
    for match in _OUTSIDE.finditer(flag):
        near = match["high"] if match["side"] == "above" else match["low"]
        yield Beyond(match["name"], _exact(match["name"], match["value"], op), match["side"], float(near))
    for match in _SCALED.finditer(flag):
        value = _exact(match["name"], match["value"], op)
        yield Beyond(match["name"], value, "scaled", float(match["timed"]))
    for match in _RANKS.finditer(flag):
        yield Beyond("ranks", float(match["value"]), "above", float(match["timed"]))


@lru_cache(maxsize=2048)
def other_texts(flag: str, calibration: str) -> tuple[str, ...]:
    """What else a flag says, in parts, without the labels of curves and rows: ops that share it share one text."""
    return tuple(_parts(flag, calibration)) if flag else ()


def _parts(flag: str, calibration: str) -> Iterator[str]:
    split = rf"(?:; )?calibration {re.escape(calibration)}: " if calibration else r"(?!)"
    for part in re.split(split, flag):
        text = _RANKS.sub("", _SCALED.sub("", _OUTSIDE.sub("", part)))
        text = _LABEL.sub("", text, count=1) if _LABEL.match(text) else text
        text = text.strip("; ")
        if text:
            yield text


def words_of(op: Op) -> str:
    """What an op is, for people: its kernel class."""
    return KERNELS.get(op.kernel, op.kernel.replace("_", "-"))


@lru_cache(maxsize=2048)
def op_words(op_id: str) -> str:
    """``attention0.qkv_a`` -> ``attention QKV down-projection``: caveats are read by people who know no op."""
    parts = [part for part in re.split(r"[._]", re.sub(r"(?<=[a-z])\d+(?=\.|$)", "", op_id)) if part]
    return " ".join(_SPELLED.get(part, part) for part in parts)


def _exact(name: str, text: str, op: Op) -> float:
    """The value that a flag rounded: the op's own, unless it was turned into another before it was asked for."""
    rounded = float(text)
    own = op.shape.get(name)
    if own is None or np.ndim(own) or abs(float(own) - rounded) > ROUNDING * rounded:
        return rounded
    return float(own)


ROUNDING = 1e-3
"""Of the figures in a flag: four digits."""


def _rounded(value: float) -> str:
    """With thousands separators, whole where it is large."""
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}"

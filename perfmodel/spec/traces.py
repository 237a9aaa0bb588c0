"""Traces of real traffic, read into one plain table: when requests came and how long they were.

Four kinds of file, plain or gzipped: Azure's CSV, BurstGPT's CSV, Mooncake's JSON lines, and result files of vLLM's and
SGLang's benchmarks (:mod:`perfmodel.spec.trace_results`). A file is read in blocks of a few megabytes, each parsed by
numpy or the json module in one go; only a block that is not clean is read again line by line, to name the line. So a
table of ten million rows costs its columns and one block.

Requests with no output (a failed call in BurstGPT; none exist in Azure 2023) are left out and counted: a
simulator can't serve them, and their prompts may never have reached a GPU.
"""

from itertools import chain
from pathlib import Path
from typing import Literal

from perfmodel.errors import DataError
from perfmodel.spec import catalogue
from perfmodel.spec.paths import is_file
from perfmodel.spec.trace import Trace, TraceFormat, Window
from perfmodel.spec.trace_csv import CSV, CsvParser
from perfmodel.spec.trace_files import blocks, guarded, opened
from perfmodel.spec.trace_mooncake import MooncakeParser
from perfmodel.spec.trace_results import read_results
from perfmodel.spec.trace_tables import Parser, read_table

HEAD_BYTES = 2**16
"""Enough to tell a format: the lists of a benchmark's result come after its settings."""

SUFFIXES = (".csv", ".jsonl", ".json", ".gz")
"""What tells a path from a name of the catalogue, beside a slash."""


def read_trace(
    name: str,
    trace_format: TraceFormat = "auto",
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    num_requests: int | None = None,
) -> Trace:
    """The requests of a trace of the catalogue or of a file that arrive in start_s .. start_s + duration_s.

    Reading stops at the window's end or after ``num_requests`` requests; what follows is not looked at.

    Raises:
        SpecError: a name that the catalogue does not have.
        DataError: a file that can't be read, is of no known format, holds something else than it should (the
            message names the line, the value and what is allowed), has more than MAX_REQUESTS requests, or
            none in the window.
    """
    path = trace_path(name)
    window = Window(start_s, duration_s, num_requests)
    with opened(path) as file:
        head = guarded(path, lambda: file.read(HEAD_BYTES))
        if not head.strip():
            raise DataError(f"{path}: is empty; known formats of a trace: {_KNOWN}")
        file.seek(0)
        found = detect(head, path) if trace_format == "auto" else trace_format
        if found in ("vllm", "sglang"):
            return read_results(file, path, name, found, window)
        lines = blocks(file, path)
        parser: Parser
        if found == "mooncake":
            parser = MooncakeParser(path)
        else:
            first_line, first = next(lines)
            parser = CsvParser(path, found, first[0])
            lines = chain([(first_line + 1, first[1:])], lines)
        return read_table(parser, lines, name, found, window)


def trace_path(name: str) -> Path:
    """The file of a catalogue name, or of a path (with a slash, a suffix of a trace, or existing).

    Raises:
        SpecError: neither; the message proposes names.
    """
    if "/" in name or name.endswith(SUFFIXES) or is_file(name):
        return Path(name)
    return catalogue.DATA / "traces" / str(catalogue.entry("traces", name)["file"])


_KNOWN = (
    "; ".join(f"{name} (CSV: {', '.join(columns.names)})" for name, columns in CSV.items())
    + "; mooncake (JSON lines: timestamp, input_length, output_length, hash_ids); vllm, sglang (a result's JSON)"
)
_RESULT_KEYS = (b'"input_lens"', b'"completed"', b'"request_rate"', b'"total_input_tokens"')


def detect(head: bytes, path: Path) -> Literal["azure", "mooncake", "burstgpt", "vllm", "sglang"]:
    """The format of a file from its first bytes.

    Raises:
        DataError: of no known format; the message says which are known and by what.
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"{"):
        if not any(key in head for key in _RESULT_KEYS):
            return "mooncake"
        return "sglang" if b'"total_throughput"' in head or b'"sharegpt_output_len"' in head else "vllm"
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: is a Git LFS pointer, not the trace itself: fetch the file it stands for")
    header = start.split(b"\n", 1)[0].decode("utf-8", "replace")
    cells = {cell.strip().lower() for cell in header.split(",")}
    tables: tuple[Literal["azure"], Literal["burstgpt"]] = ("azure", "burstgpt")
    for name in tables:
        # two of three are enough to know what is meant: the reader then says which column is missing
        if sum(column.lower() in cells for column in CSV[name].names) >= 2:
            return name
    raise DataError(f"{path}: line 1: {header[:80]!r} starts no known trace: {_KNOWN}")

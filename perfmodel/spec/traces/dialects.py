"""Whose columns a trace has: the names, units and block sizes of each dialect, and which one a file speaks.

A dialect is told by its keys alone, in lines of JSON, in the header of a CSV file or in Parquet's schema. Sources: the
traces' own pages and loaders (docs/workloads.md names them).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from perfmodel.errors import DataError
from perfmodel.spec.traces.stated import TraceColumns

Unit = Literal["dates", "s", "ms", "us", "ns"]
MOONCAKE_BLOCK, QWEN_BLOCK = 512, 16
"""Tokens that a hash id stands for: in Mooncake's traces, in Alibaba's."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """Names of columns; where there are several, the file has one of them. Names with dots lead into nested objects."""

    name: str
    writer: str
    """Who writes such files, for messages."""
    input: tuple[str, ...]
    output: tuple[str, ...]
    time: tuple[str, ...] = ()
    unit: Unit | None = "s"
    """Of times; None: not known from the file, so it must be stated."""
    telling: frozenset[str] = frozenset()
    """Keys that this dialect alone has, all of them."""
    timeless: bool = False
    """Whether such a file may have no times."""
    tables_only: bool = False
    """Whether it is CSV or Parquet, never lines of JSON."""
    session: tuple[str, ...] = ()
    delay: tuple[str, ...] = ()
    """From the end of the session's request before to this one, milliseconds."""
    took: tuple[str, ...] = ()
    """How long the answer took, seconds: with it and the times, pauses of a session are known."""
    hashes: tuple[str, ...] = ()
    block: int = MOONCAKE_BLOCK
    ordered: bool = True
    """Whether rows stand in order of arrival."""
    own: frozenset[str] = frozenset()
    """Keys that say nothing of traffic, so that leaving them out goes without saying."""


_INPUT = ("input_length", "input_tokens", "isl", "prompt_tokens", "prompt_length")
_OUTPUT = ("output_length", "output_tokens", "osl", "completion_tokens", "max_tokens")

DIALECTS = (
    Dialect(
        "perfmodel",
        "perfmodel serve --requests",
        ("input_tokens",),
        ("output_tokens",),
        ("arrival_s",),
        telling=frozenset({"arrival_s", "first_token_s", "end_s"}),
        ordered=False,
        own=frozenset(
            {
                "request",
                "scheduled_s",
                "first_token_s",
                "end_s",
                "ttft_s",
                "tpot_s",
                "e2e_s",
                "preemptions",
                "prefilled_s",
                "retries",
                "cached_tokens",
                "replica",
                "prefill_replica",
                "counted",
            }
        ),
    ),
    Dialect(
        "aiperf",
        "AIPerf (profile_export.jsonl)",
        ("metrics.input_sequence_length.value",),
        ("metrics.output_sequence_length.value",),
        ("metadata.request_start_ns",),
        unit="ns",
        telling=frozenset({"metadata", "metrics"}),
        ordered=False,
    ),
    Dialect(
        "qwen",
        "Alibaba's Qwen-Bailian traces",
        ("input_length",),
        ("output_length",),
        ("timestamp",),
        telling=frozenset({"chat_id", "parent_chat_id", "turn"}),
        hashes=("hash_ids",),
        block=QWEN_BLOCK,
    ),
    Dialect(
        "vidur",
        "Vidur",
        ("num_prefill_tokens",),
        ("num_decode_tokens",),
        ("arrived_at",),
        telling=frozenset({"num_prefill_tokens", "num_decode_tokens"}),
        timeless=True,
    ),
    Dialect(
        "splitwise",
        "Splitwise's simulator",
        ("prompt_size",),
        ("token_size",),
        ("arrival_timestamp",),
        telling=frozenset({"prompt_size", "token_size"}),
        own=frozenset({"request_id"}),
    ),
    Dialect(
        "azure",
        "Azure LLM inference traces",
        ("ContextTokens",),
        ("GeneratedTokens",),
        ("TIMESTAMP",),
        unit="dates",
        telling=frozenset({"contexttokens", "generatedtokens"}),
    ),
    Dialect(
        "burstgpt",
        "BurstGPT",
        ("Request tokens",),
        ("Response tokens",),
        ("Timestamp",),
        telling=frozenset({"request tokens", "response tokens"}),
        session=("Session ID",),
        took=("Elapsed time",),
        own=frozenset({"total tokens"}),
    ),
    Dialect(
        "servegen",
        "Alibaba's ServeGen",
        ("input_tokens",),
        ("output_tokens",),
        ("timestamp",),
        telling=frozenset({"request_id", "input_tokens"}),
        tables_only=True,
        own=frozenset({"request_id"}),
    ),
    Dialect(
        "servegen-offline",
        "Alibaba's ServeGen (batches)",
        ("input_length",),
        ("output_length",),
        telling=frozenset({"request_id", "duration", "output_length"}),
        timeless=True,
        own=frozenset({"request_id"}),
    ),
    Dialect(
        "mooncake",
        "Mooncake, Dynamo and AIPerf",
        _INPUT,
        _OUTPUT,
        ("timestamp", "created_time"),
        unit="ms",
        session=("session_id",),
        delay=("delay", "delay_ms"),
        hashes=("hash_ids", "hashes"),
    ),
)
NAMES = tuple(dialect.name for dialect in DIALECTS)
_TABLES = {dialect.name: dialect for dialect in DIALECTS}


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of one file holds what; None: it has no such column."""

    format: str
    writer: str
    time: str | None
    input: str
    output: str
    unit: Unit | None
    session: str | None = None
    delay: str | None = None
    took: str | None = None
    hashes: str | None = None
    block: int = MOONCAKE_BLOCK
    ordered: bool = True
    stated_unit: bool = False
    """Whether the unit is the user's, so not to be doubted."""
    ignored: tuple[str, ...] = ()
    """Columns of the file that are not read."""

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that every row has."""
        return tuple(name for name in (self.time, self.input, self.output) if name)


def known() -> str:
    """All dialects in words, for messages."""
    each = (f"{one.name} ({', '.join((*one.time[:1], one.input[0], one.output[0]))})" for one in DIALECTS)
    return (
        "; ".join(each)
        + "; vllm, sglang and guidellm (a result's JSON). For other names of columns give workload.columns "
        "(time, input, output)"
    )


def columns_of(
    keys: Iterable[str],
    path: Path,
    where: str,
    *,
    asked: str = "auto",
    mapped: TraceColumns | None = None,
    unit: Unit | None = None,
    csv: bool = False,
) -> Columns:
    """The columns of a file that has these keys; those of nested objects stand with dots.

    Args:
        keys: of the header or of the first row.
        path: the file, for messages.
        where: the place of the keys, as ``line 1``.
        asked: a dialect's name; auto: told by the keys.
        mapped: a user's own names of columns, which go before any dialect.
        unit: a user's own unit of times.
        csv: whether the keys are a table's header: names are then compared without case.

    Raises:
        DataError: no known dialect, or a column is missing; the message says which are known.
    """
    given = {key.strip(): key for key in keys}
    folded = {key.lower(): key for key in given}
    if mapped is not None:
        return _mapped(mapped, folded if csv else given, given, path, where, unit)
    dialect = _TABLES[asked] if asked != "auto" else _recognised(set(folded), csv=csv)
    if dialect is None:
        shown = ", ".join(given)[:80]
        raise DataError(f"{path}: {where}: {shown!r} starts no known trace: {known()}")

    def find(names: Iterable[str]) -> str | None:
        return next((folded[name.lower()] for name in names if name.lower() in folded), None)

    time, prompt, output = (find(names) for names in (dialect.time, dialect.input, dialect.output))
    delay = find(dialect.delay)
    missing = [
        names[0]
        for names, found, needed in (
            (dialect.time or ("",), time, not dialect.timeless and delay is None),
            (dialect.input, prompt, True),
            (dialect.output, output, True),
        )
        if found is None and needed
    ]
    if missing or prompt is None or output is None:
        needs = ", ".join(names[0] for names in (dialect.time, dialect.input, dialect.output) if names)
        raise DataError(
            f"{path}: {where}: no column {' and no '.join(missing)}; {dialect.name} needs {needs}; it has "
            f"{', '.join(given)[:80]!r}. For other names give workload.columns"
        )
    # times of a table with Mooncake's names may be anything: nobody is known to write one
    own_unit = None if csv and dialect.name == "mooncake" else dialect.unit
    found = Columns(
        format=dialect.name,
        writer=dialect.writer,
        time=time,
        input=prompt,
        output=output,
        unit=unit or own_unit,
        session=find(dialect.session),
        delay=delay,
        took=find(dialect.took),
        hashes=find(dialect.hashes),
        block=dialect.block,
        ordered=dialect.ordered,
        stated_unit=unit is not None,
    )
    return _with_ignored(found, given, dialect.own)


def _recognised(folded: set[str], *, csv: bool) -> Dialect | None:
    """The first dialect whose telling keys are all there; else one of which two of three columns are, so that the
    reader can say which is missing.
    """

    def has(names: tuple[str, ...]) -> bool:
        return any(name.lower() in folded for name in names)

    for dialect in DIALECTS:
        if dialect.tables_only and not csv:
            continue
        times = dialect.timeless or has(dialect.time) or has(dialect.delay)
        if dialect.telling <= folded and times and has(dialect.input) and has(dialect.output):
            return dialect
    for dialect in DIALECTS if csv else ():
        if sum(map(has, (dialect.time, dialect.input, dialect.output))) >= 2:
            return dialect
    return None if csv else _TABLES["mooncake"]


def _mapped(
    mapped: TraceColumns,
    names: Mapping[str, str],
    given: Mapping[str, str],
    path: Path,
    where: str,
    unit: Unit | None,
) -> Columns:
    """A user's own names of columns; names are those of the file, without case in a table."""
    fields = ("time", "input", "output", "session", "delay", "hash_ids")
    asked = {field: getattr(mapped, field) for field in fields}
    found: dict[str, str | None] = {}
    for field, name in asked.items():
        key = None if name is None else (name if name in given else name.lower())
        found[field] = None if key is None else names.get(key, given.get(key))
        if name is not None and found[field] is None:
            raise DataError(
                f"{path}: {where}: workload.columns.{field} = {name}: no such column; it has {', '.join(given)[:200]}"
            )
    prompt, output = found["input"], found["output"]
    assert prompt is not None
    assert output is not None
    columns = Columns(
        format="columns",
        writer="the columns stated",
        time=found["time"],
        input=prompt,
        output=output,
        unit=unit,
        session=found["session"],
        delay=found["delay"],
        hashes=found["hash_ids"],
        ordered=False,
        stated_unit=unit is not None,
    )
    return _with_ignored(columns, given, frozenset())


def _with_ignored(columns: Columns, given: Mapping[str, str], own: frozenset[str]) -> Columns:
    """The same, with what is left unread of the file."""
    read = (
        columns.time,
        columns.input,
        columns.output,
        columns.session,
        columns.delay,
        columns.took,
        columns.hashes,
    )
    used = {name for name in read if name}
    heads = {name.partition(".")[0] for name in used}
    ignored = [key for name, key in given.items() if key not in used and name.lower() not in own]
    # of nested objects the outermost name that holds nothing read is enough
    shown = [key for key in ignored if "." not in key and key not in heads]
    return replace(columns, ignored=tuple(dict.fromkeys(shown)))

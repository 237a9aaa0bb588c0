"""Which requests arrive when, and how long they are: the words of vLLM's benchmark, ranges as minimum and maximum."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from perfmodel.spec.base import Count, CountOrZero, NonNegative, Positive, Spec
from perfmodel.spec.distributions import Distribution
from perfmodel.spec.traces.stated import (
    MAX_REQUESTS,
    MAX_TOKENS,
    TimeUnit,
    TraceColumns,
    TraceFormat,
    TurnInputs,
)

MAX_TURNS = 1000
"""Requests of one session."""
MAX_PAUSE_S = 1e7
"""Longest pause of a tool or a user, seconds: about four months."""
MAX_RATE = 1e9
"""Requests per second: no arrival is closer to the one before than a nanosecond."""
DEFAULT_REQUESTS = 1000
DEFAULT_INPUT = Distribution(value=1024)
DEFAULT_OUTPUT = Distribution(value=128)
"""What vLLM's random data set has without options."""


def _rate_or_infinite(value: Any) -> Any:
    """``inf`` is kept as a word (YAML's .inf and Python's float are taken too), so that a scenario
    stays strict JSON.
    """
    if value in ("inf", float("inf")):
        return "inf"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= MAX_RATE:
        return value
    msg = f"{str(value)[:40]}: must be a number above 0 and up to {MAX_RATE:g}, or inf"
    raise ValueError(msg)


OrInfinite = Annotated[float | Literal["inf"], BeforeValidator(_rate_or_infinite)]


Percentile = Annotated[float, Field(gt=0.0, lt=100.0)]


class Ramp(Spec):
    """A request rate that changes, as ``--ramp-up-strategy`` of vLLM."""

    strategy: Literal["linear", "exponential"]
    """How the rate goes from start to end: by equal steps, or by equal factors."""
    start_rate: Positive
    """Requests per second at the start."""
    end_rate: Positive
    """Requests per second at the end."""
    duration_s: Positive | None = None
    """Seconds over which the rate changes; ``end_rate`` holds from then on. None: over all requests, by their
    number and not by time, as vLLM does: request i of n has the rate at i / (n - 1) of the way."""


class Workload(Spec):
    """Traffic: generated, or a trace.

    **Arrivals** are ``request_rate`` (open loop), times a trace's own, or all at once; ``max_concurrency``
    caps how many sessions are in flight, which with all at once is a closed loop. **Lengths** are
    distributions or a trace's. With ``turns`` a request grows into a session: each next prompt is all before
    (prompt and output) plus ``turn_tokens``, sent ``tool_pause_s`` after the last answer was complete.
    """

    request_rate: OrInfinite | None = None
    """Sessions that arrive per second (without ``turns``, requests); inf: all at time 0. None: a trace's own
    times, else inf."""
    burstiness: OrInfinite = 1.0
    """Shape of the gamma distribution of the gaps: 1 is Poisson, below 1 is burstier (their coefficient of variation is
    1 / sqrt(burstiness)), inf is constant gaps."""
    ramp: Ramp | None = None
    """A rate that changes, instead of ``request_rate``."""
    max_concurrency: Count | None = None
    """Sessions in flight at most; a ready one waits for a free slot. None: that of the run whose result the trace is,
    where the run's own times or rate are used; else no cap (open loop)."""
    think_time_s: Distribution = Distribution(value=0.0)
    """Closed loop: how long a free slot (a user) waits before it sends the next session, the first one included."""
    num_requests: Annotated[Count, Field(le=MAX_REQUESTS)] | None = None
    """Requests in all, turns included. None: all of a trace's window, else 1000."""
    warm_up_requests: CountOrZero = 0
    """Requests, the first to arrive, that are served but not judged: they find an empty system."""
    cool_down_requests: CountOrZero = 0
    """Requests, the last to arrive, that are served but not judged: what comes after them no longer loads it."""
    percentiles: Annotated[tuple[Percentile, ...], Field(max_length=20)] = ()
    """Percentiles of latencies and speeds that results have beside 50, 90 and 99."""
    input_tokens: Distribution | None = None
    """Tokens of a prompt, without ``prefix_tokens``; of a session's first one. None: a trace's, else 1024."""
    output_tokens: Distribution | None = None
    """Tokens of an output. None: a trace's, else 128."""
    prefix_tokens: CountOrZero = 0
    """Tokens of a prefix that prompts share, added in front of ``input_tokens`` (``--random-prefix-len``)."""
    num_prefixes: Count = 1
    """Different prefixes; each session has one of them, all equally likely."""
    turns: Distribution = Distribution(value=1)
    """Requests per session."""
    turn_tokens: Distribution | None = None
    """New tokens of every later prompt of a session: what the tool returned, what the user said."""
    tool_pause_s: Distribution = Distribution(value=0.0)
    """From a complete answer to the session's next request, seconds."""
    max_context_tokens: Count | None = None
    """A session ends before a request whose prompt and output would exceed this. None: it runs all its turns."""
    trace: str = ""
    """A catalogue name (perfmodel show traces) or the path of a trace; empty: none."""
    trace_format: TraceFormat = "auto"
    """Whose trace it is; auto: told by its keys (docs/workloads.md)."""
    columns: TraceColumns | None = None
    """Which column of the trace holds what, where it is nobody's dialect. None: told by its keys."""
    time_unit: TimeUnit | None = None
    """Of a trace's times: dates, or a number's unit. None: the dialect's."""
    hash_block_tokens: Count | None = None
    """Tokens that a trace's hash id stands for. None: the dialect's, or what lengths and ids agree on."""
    turn_inputs: TurnInputs = "whole"
    """What a later turn of a trace's session states as its input: the whole prompt, or its new tokens alone."""
    result_index: CountOrZero | None = None
    """Which of several results in one file, from 0."""
    time_scale: Positive = 1.0
    """How many times faster than in the trace requests arrive: 2 halves every gap; pauses within a session stay."""
    start_s: NonNegative = 0.0
    """Where the part of a trace that is used starts, seconds on the trace's clock (before ``time_scale``)."""
    duration_s: Positive | None = None
    """How long that part is, seconds on the trace's clock. None: to the end."""

    @model_validator(mode="after")
    def _consistent(self) -> "Workload":
        for problem in (
            _range_problem(self),
            _arrival_problem(self),
            _length_problem(self),
            _trace_problem(self),
        ):
            if problem:
                raise ValueError(problem)
        return self

    @property
    def rate(self) -> float | Ramp | None:
        """Requests per second as a number (infinite: all at once) or a ramp; None: a trace's own times."""
        if self.ramp is not None:
            return self.ramp
        if self.request_rate is None:
            return None if self.trace else float("inf")
        return float(self.request_rate)

    @property
    def has_turns(self) -> bool:
        """Whether a session can have more than one request."""
        return self.turns != Distribution(value=1)


_WHOLE = {
    "input_tokens": (1, MAX_TOKENS),
    "output_tokens": (1, MAX_TOKENS),
    "turn_tokens": (1, MAX_TOKENS),
    "turns": (1, MAX_TURNS),
}
_SECONDS = ("think_time_s", "tool_pause_s")


def _range_problem(w: Workload) -> str | None:
    """A distribution that can leave its range, or None."""
    for name, (low, high) in _WHOLE.items():
        found = getattr(w, name)
        problem = found.problem(low, high, whole=True) if found else None
        if problem:
            return f"{name} {problem}"
    for name in _SECONDS:
        problem = getattr(w, name).problem(0.0, MAX_PAUSE_S, whole=False)
        if problem:
            return f"{name} {problem}"
    if w.prefix_tokens > MAX_TOKENS:
        return f"prefix_tokens = {w.prefix_tokens}: must be at most {MAX_TOKENS:,}"
    return None


def _arrival_problem(w: Workload) -> str | None:
    """Settings of arrivals that contradict each other, or None."""
    if w.ramp is not None and w.request_rate is not None:
        return "ramp states the rate: leave request_rate out"
    if w.burstiness != 1.0 and not isinstance(w.rate, Ramp) and w.rate in (None, float("inf")):
        when = "a trace's own times" if w.rate is None else "all at once"
        return f"burstiness = {w.burstiness}: needs request_rate or ramp; arrivals are {when}"
    if w.think_time_s != Distribution(value=0.0):
        if w.max_concurrency is None:
            return "think_time_s: belongs to a closed loop: give max_concurrency"
        if w.rate != float("inf"):
            return (
                "think_time_s: in a closed loop users set the pace: leave request_rate and ramp out, and beside a "
                "trace say request_rate: inf (its lengths without its times)"
            )
    return None


def _length_problem(w: Workload) -> str | None:
    """Settings of lengths and sessions that contradict each other, or None."""
    if w.num_prefixes > 1 and not w.prefix_tokens:
        return f"num_prefixes = {w.num_prefixes}: give prefix_tokens, the length of a prefix, too"
    if w.has_turns and w.turn_tokens is None:
        return "turns: give turn_tokens, the new tokens of every later prompt, too"
    if not w.has_turns:
        for name, default in (
            ("turn_tokens", None),
            ("tool_pause_s", Distribution(value=0.0)),
            ("max_context_tokens", None),
        ):
            if getattr(w, name) != default:
                return f"{name}: belongs to sessions: give turns, requests per session, too"
    if w.max_context_tokens is not None:
        least = w.prefix_tokens + sum(
            lowest(lengths, 1.0)
            for lengths in (w.input_tokens or DEFAULT_INPUT, w.output_tokens or DEFAULT_OUTPUT)
        )
        if least > w.max_context_tokens:
            return f"max_context_tokens = {w.max_context_tokens}: no request fits, the shortest has {least:.0f} tokens"
    return None


def _trace_problem(w: Workload) -> str | None:
    """Settings that only a trace has, or that it has itself, or None."""
    if not w.trace:
        for name, default in (
            ("trace_format", "auto"),
            ("time_scale", 1.0),
            ("start_s", 0.0),
            ("duration_s", None),
            ("columns", None),
            ("time_unit", None),
            ("hash_block_tokens", None),
            ("turn_inputs", "whole"),
            ("result_index", None),
        ):
            if getattr(w, name) != default:
                return f"{name}: belongs to a trace: give trace, or leave it out"
        return None
    for name in ("input_tokens", "output_tokens", "turn_tokens"):
        if getattr(w, name) is not None:
            return f"{name}: trace = {w.trace} has its own lengths: leave one of the two out"
    if w.prefix_tokens or w.has_turns:
        name = "prefix_tokens" if w.prefix_tokens else "turns"
        return f"{name}: trace = {w.trace} states whole prompts: leave one of the two out"
    if w.time_scale != 1.0 and w.rate is not None:
        return "time_scale: arrivals follow request_rate or ramp, not the trace's times: leave one of the two out"
    return None


def lowest(lengths: Distribution, least: float) -> float:
    """The smallest number that can be drawn, ``least`` where the distribution itself has no bound."""
    bound = lengths.min if lengths.min is not None else least
    return min(lengths.values) if lengths.values else lengths.value if lengths.value is not None else bound

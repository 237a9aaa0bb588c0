"""Step times by interpolation: :class:`perfmodel.serving.step_times.GridStepTimes` in compiled code."""

from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.state import Array, State

DECODE, PROMPT, MIXED, STRETCHED, ROOM = range(5)
VALUES, AXES, LENGTHS = 0, 2, 7
"""Columns of a grid: where its values begin, (how many axes,) where its axes do, how long they are."""


@compiled
def _cell(numbers: Array, begin: int, length: int, x: float) -> tuple[int, float]:
    last = length - 1
    if last == 0 or x <= numbers[begin]:
        return 0, 0.0
    low, high = 0, length
    while low < high:
        middle = (low + high) // 2
        if x < numbers[begin + middle]:
            high = middle
        else:
            low = middle + 1
    i = min(low, last) - 1
    first = numbers[begin + i]
    return i, (x - first) / (numbers[begin + i + 1] - first)


@compiled
def _between(numbers: Array, at: int, share: float) -> float:
    a = numbers[at]
    return a + share * (numbers[at + 1] - a) if share != 0.0 else a


@compiled
def _trilinear(numbers: Array, grid: Array, axis: int, base: int, x: float, y: float, z: float) -> float:
    """On the three axes from ``axis`` on, the last ones; ``base`` is where the values of what comes before begin."""
    i, first = _cell(numbers, grid[AXES + axis], grid[LENGTHS + axis], x)
    j, second = _cell(numbers, grid[AXES + axis + 1], grid[LENGTHS + axis + 1], y)
    k, third = _cell(numbers, grid[AXES + axis + 2], grid[LENGTHS + axis + 2], z)
    row = grid[LENGTHS + axis + 2]
    plane = row * grid[LENGTHS + axis + 1]
    at = base + i * plane + j * row + k
    a = _between(numbers, at, third)
    if second != 0.0:
        a = a + second * (_between(numbers, at + row, third) - a)
    if first != 0.0:
        b = _between(numbers, at + plane, third)
        if second != 0.0:
            b = b + second * (_between(numbers, at + plane + row, third) - b)
        a = a + first * (b - a)
    return a


@compiled
def _on_five(numbers: Array, grid: Array, v: float, w: float, x: float, y: float, z: float) -> float:
    i, first = _cell(numbers, grid[AXES], grid[LENGTHS], v)
    j, second = _cell(numbers, grid[AXES + 1], grid[LENGTHS + 1], w)
    inner = grid[LENGTHS + 2] * grid[LENGTHS + 3] * grid[LENGTHS + 4]
    outer = inner * grid[LENGTHS + 1]
    at = grid[VALUES] + i * outer + j * inner
    a = _trilinear(numbers, grid, 2, at, x, y, z)
    if second != 0.0:
        a = a + second * (_trilinear(numbers, grid, 2, at + inner, x, y, z) - a)
    if first != 0.0:
        at += outer
        b = _trilinear(numbers, grid, 2, at, x, y, z)
        if second != 0.0:
            b = b + second * (_trilinear(numbers, grid, 2, at + inner, x, y, z) - b)
        a = a + first * (b - a)
    return a


@compiled
def _on_four(numbers: Array, grid: Array, w: float, x: float, y: float, z: float) -> float:
    i, share = _cell(numbers, grid[AXES], grid[LENGTHS], w)
    outer = grid[LENGTHS + 1] * grid[LENGTHS + 2] * grid[LENGTHS + 3]
    at = grid[VALUES] + i * outer
    a = _trilinear(numbers, grid, 1, at, x, y, z)
    if share == 0.0:
        return a
    return a + share * (_trilinear(numbers, grid, 1, at + outer, x, y, z) - a)


@compiled
def _step_s(s: State, times: int, requests: int, context: float, even: float, stretch: float) -> float:
    """A step that only decodes, before factors."""
    if stretch == 1.0:
        grid = m.grids(s)[times, DECODE]
        return _trilinear(m.numbers(s), grid, 0, grid[VALUES], even, float(requests), context)
    return _on_four(m.numbers(s), m.grids(s)[times, STRETCHED], stretch, even, float(requests), context)


@compiled
def room(s: State, times: int, requests: int, even: float) -> float:
    """Share of their wire that caches have beside decode steps."""
    grid = m.grids(s)[times, ROOM]
    return _trilinear(m.numbers(s), grid, 0, grid[VALUES], even, float(requests), 0.0)


@compiled
def decode_s(s: State, times: int, requests: int, tokens: float, even: float, stretch: float) -> float:
    """A step that only decodes."""
    return m.factors(s)[times, 0] * _step_s(s, times, requests, tokens / requests, even, stretch)


@compiled
def decode_run_s(
    s: State, times: int, requests: int, tokens: float, growth: float, steps: int, even: float, stretch: float
) -> float:
    """A run of them, cut at the borders of cells."""
    grid, numbers = m.grids(s)[times, DECODE], m.numbers(s)
    begin, length = grid[AXES + 2], grid[LENGTHS + 2]
    total, done = 0.0, 0
    while done < steps:
        context, more = (tokens + growth * done) / requests, steps - done
        low, high = 0, length
        while low < high:
            middle = (low + high) // 2
            if context < numbers[begin + middle]:
                high = middle
            else:
                low = middle + 1
        if growth > 0.0 and low < length:
            more = min(more, max(1, int((numbers[begin + low] - context) * requests / growth)))
        middle_context = context + growth * (more - 1) / 2.0 / requests
        total += more * _step_s(s, times, requests, middle_context, even, stretch)
        done += more
    return m.factors(s)[times, 0] * total


@compiled
def prompt_s(
    s: State, times: int, prompt: float, attended: float, requests: int, tokens: float, even: float
) -> float:
    """A step with prompts."""
    mean = attended / prompt
    if requests == 0:
        grid = m.grids(s)[times, PROMPT]
        seconds = _trilinear(m.numbers(s), grid, 0, grid[VALUES], even, prompt, mean)
    else:
        grid = m.grids(s)[times, MIXED]
        seconds = _on_five(m.numbers(s), grid, even, float(requests), tokens / requests, prompt, mean)
    return m.factors(s)[times, 1] * seconds

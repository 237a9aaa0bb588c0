"""Lists and heaps of numbers, kept in arrays: nothing is allocated while a run goes on."""

from typing import Any

from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.state import NONE, OUT, PER_RANK, Array, State

NEXT, PREVIOUS = 0, 1
FIRST, LAST, COUNT = 0, 1, 2
CHILD, SIBLING, BEFORE = 0, 1, 2
QUEUE, PROMPTS, RUNNING, INCOMING, SENDING, ARRIVED, FLOWS = range(PER_RANK)
"""Lists of rows that each rank has: what waits, is being prefilled, decodes; what comes (its blocks are reserved), what
leaves, what has come since the last step; flows that share its link."""


@compiled
def fresh_of(s: State, r: int) -> int:
    """The list of a replica's requests that have not decoded since their last prefill."""
    return PER_RANK * s.num_ranks + r


@compiled
def before(s: State, p: int) -> int:
    """The list of those that wait before all replicas of a pool."""
    return PER_RANK * s.num_ranks + s.num_replicas + p


@compiled
def touched(s: State) -> int:
    """The list of flows to be planned anew."""
    return PER_RANK * s.num_ranks + s.num_replicas + s.num_pools


# --- doubly linked lists --------------------------------------------------------------------------------------------


@compiled
def push_back(lists: Array, which: int, links: Array, item: int) -> None:
    """``item`` becomes the last of list ``which``."""
    last = lists[which, LAST]
    links[item, NEXT] = NONE
    links[item, PREVIOUS] = last
    if last == NONE:
        lists[which, FIRST] = item
    else:
        links[last, NEXT] = item
    lists[which, LAST] = item
    lists[which, COUNT] += 1


@compiled
def push_front(lists: Array, which: int, links: Array, item: int) -> None:
    """``item`` becomes the first of list ``which``."""
    first = lists[which, FIRST]
    links[item, PREVIOUS] = NONE
    links[item, NEXT] = first
    if first == NONE:
        lists[which, LAST] = item
    else:
        links[first, PREVIOUS] = item
    lists[which, FIRST] = item
    lists[which, COUNT] += 1


@compiled
def remove(lists: Array, which: int, links: Array, item: int) -> None:
    """``item`` leaves list ``which``, from wherever it stands."""
    after, before = links[item, NEXT], links[item, PREVIOUS]
    if before == NONE:
        lists[which, FIRST] = after
    else:
        links[before, NEXT] = after
    if after == NONE:
        lists[which, LAST] = before
    else:
        links[after, PREVIOUS] = before
    links[item, PREVIOUS] = OUT
    lists[which, COUNT] -= 1


# --- what ends next in a replica: a pairing heap by (step, row) [Fredman et al., Algorithmica 1, 1986] --------------


@compiled
def _meld(rows: Array, heap: Array, a: int, b: int) -> int:
    """One heap of two, by its root."""
    if b == NONE:
        return a
    if a == NONE:
        return b
    if (rows[b].finish, b) < (rows[a].finish, a):
        a, b = b, a
    child = heap[a, CHILD]
    heap[b, SIBLING] = child
    heap[b, BEFORE] = a
    if child != NONE:
        heap[child, BEFORE] = b
    heap[a, CHILD] = b
    heap[a, SIBLING] = NONE
    heap[a, BEFORE] = NONE
    return a


@compiled
def _merged(rows: Array, heap: Array, first: int) -> int:
    """One heap of siblings: in pairs, then from the last pair on."""
    stack = NONE
    while first != NONE:
        other = heap[first, SIBLING]
        after = heap[other, SIBLING] if other != NONE else NONE
        heap[first, SIBLING] = NONE
        if other != NONE:
            heap[other, SIBLING] = NONE
        pair = _meld(rows, heap, first, other)
        heap[pair, SIBLING] = stack
        stack = pair
        first = after
    root = NONE
    while stack != NONE:
        after = heap[stack, SIBLING]
        heap[stack, SIBLING] = NONE
        root = _meld(rows, heap, root, stack)
        stack = after
    if root != NONE:
        heap[root, BEFORE] = NONE
    return root


@compiled
def ends_with(rows: Array, heap: Array, root: int, item: int) -> int:
    """The root once ``item`` is in."""
    heap[item, CHILD] = NONE
    heap[item, SIBLING] = NONE
    heap[item, BEFORE] = NONE
    return _meld(rows, heap, root, item)


@compiled
def ends_without(rows: Array, heap: Array, root: int, item: int) -> int:
    """The root once ``item`` is out."""
    below = _merged(rows, heap, heap[item, CHILD])
    if item == root:
        return below
    before, after = heap[item, BEFORE], heap[item, SIBLING]
    if heap[before, CHILD] == item:
        heap[before, CHILD] = after
    else:
        heap[before, SIBLING] = after
    if after != NONE:
        heap[after, BEFORE] = before
    return _meld(rows, heap, root, below)


# --- which replica ends what it does next: a binary heap with places ------------------------------------------------


@compiled
def _sooner(replicas: Array, a: int, b: int) -> bool:
    one, other = replicas[a], replicas[b]
    return (one.plan_time, one.plan_event) < (other.plan_time, other.plan_event)


@compiled
def plan_moved(replicas: Array, heap: Array, place: int, size: int) -> None:
    """What stands at ``place`` ends at another time than it did."""
    item = heap[place]
    while place > 0:
        above = (place - 1) // 2
        if not _sooner(replicas, item, heap[above]):
            break
        heap[place] = heap[above]
        replicas[heap[place]].place = place
        place = above
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and _sooner(replicas, heap[below + 1], heap[below]):
            below += 1
        if not _sooner(replicas, heap[below], item):
            break
        heap[place] = heap[below]
        replicas[heap[place]].place = place
        place = below
    heap[place] = item
    replicas[item].place = place


@compiled
def plan_out(replicas: Array, heap: Array, place: int, size: int) -> None:
    """What stands at ``place`` of ``size`` is planned no more."""
    replicas[heap[place]].place = NONE
    last = heap[size - 1]
    if place == size - 1:
        return
    heap[place] = last
    replicas[last].place = place
    plan_moved(replicas, heap, place, size - 1)


# --- what happens to requests at times of their own: a binary heap --------------------------------------------------


@compiled
def _earlier(heap: Array, a: int, b: int) -> bool:
    one, other = heap[a], heap[b]
    return (one.time, one.event) < (other.time, other.event)


@compiled
def _swap(heap: Array, a: int, b: int) -> None:
    one, other = heap[a], heap[b]
    one.time, other.time = other.time, one.time
    one.event, other.event = other.event, one.event
    one.row, other.row = other.row, one.row
    one.kind, other.kind = other.kind, one.kind


@compiled
def timed_push(heap: Array, size: int, time: float, event: int, row: int, kind: int) -> None:
    """One more than ``size``."""
    new: Any = heap[size]
    new.time, new.event, new.row, new.kind = time, event, row, kind
    place = size
    while place > 0:
        above = (place - 1) // 2
        if not _earlier(heap, place, above):
            break
        _swap(heap, place, above)
        place = above


@compiled
def timed_pop(heap: Array, size: int) -> None:
    """The first of ``size`` goes; it stands at ``size - 1`` then."""
    size -= 1
    _swap(heap, 0, size)
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            return
        if below + 1 < size and _earlier(heap, below + 1, below):
            below += 1
        if not _earlier(heap, below, place):
            return
        _swap(heap, place, below)
        place = below

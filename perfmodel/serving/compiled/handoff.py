"""Prompts computed in one pool and decoded in another: :class:`perfmodel.serving.handoff.Handoff` on arrays."""

from perfmodel.serving.compiled import links, routing, runs
from perfmodel.serving.compiled import memory as m
from perfmodel.serving.compiled.blocks import beside, sent
from perfmodel.serving.compiled.jit import compiled
from perfmodel.serving.compiled.lists import ARRIVED, PREVIOUS, push_back
from perfmodel.serving.compiled.lockstep import ARRIVALS
from perfmodel.serving.compiled.state import DECODE, OUT, PREFILL, State


@compiled
def start(s: State, i: int) -> None:
    """A request comes, or comes again since it was lost."""
    if m.rows(s)[i].steps == 0:  # its prompt's end is its last token
        submit_prompt(s, i)
        return
    f = m.flows(s)[i]
    f.on_its_way = 1
    f.submitted, f.computed, f.asked, f.reserved, f.flowing, f.owed = 0, 0, 0, 0, 0, 0.0
    if s.layer_wise:
        _to_decode(s, i)
    else:
        _to_prefill(s, i)


@compiled
def submit_prompt(s: State, i: int) -> None:
    """The prefill pool gets it: what is to be computed is what the request has now."""
    one, prompt = m.rows(s)[i], m.rows(s)[s.n + i]
    prompt.prompt, prompt.steps = one.prompt, one.steps
    routing.submit(s, PREFILL, s.n + i)


@compiled
def _to_prefill(s: State, i: int) -> None:
    m.flows(s)[i].submitted = 1
    submit_prompt(s, i)


@compiled
def _to_decode(s: State, i: int) -> None:
    m.flows(s)[i].asked = 1
    routing.submit(s, DECODE, i)


# --- what replicas tell ---------------------------------------------------------------------------------------------


@compiled
def reserved(s: State, i: int) -> None:
    """A decode rank has blocks for a request."""
    f = m.flows(s)[i]
    f.reserved = 1
    if f.computed:
        _send_whole(s, i)
    elif not f.submitted:
        _to_prefill(s, i)


@compiled
def computing(s: State, i: int, tokens: int, seconds: float) -> None:
    """A step begins that computes ``tokens`` of a request's cache: all layers but the last are sent meanwhile."""
    f = m.flows(s)[i]
    if not (f.on_its_way and f.reserved and s.layer_wise):
        return
    if not f.flowing:
        _begin(s, i)
    made = tokens * s.bytes_per_token
    last = made / s.layers
    size = made - last + f.owed
    f.owed = last
    links.more(s, i, size, size / seconds)


@compiled
def computed(s: State, i: int) -> None:
    """All of it is."""
    f = m.flows(s)[i]
    f.computed = 1
    if not f.asked:
        _to_decode(s, i)
    elif f.reserved and f.flowing:
        links.close(s, i, f.owed + _beside(s, i))
    elif f.reserved:
        _send_whole(s, i)


# --- transfers ------------------------------------------------------------------------------------------------------


@compiled
def _begin(s: State, i: int) -> None:
    links.begin(s, i, m.rows(s)[s.n + i].rank, m.rows(s)[i].rank)


@compiled
def _send_whole(s: State, i: int) -> None:
    _begin(s, i)
    links.close(s, i, m.rows(s)[i].prompt * s.bytes_per_token + _beside(s, i))


@compiled
def _beside(s: State, i: int) -> float:
    """Bytes of what it keeps beside its tokens."""
    return beside(s, s.beside_bytes, s.path_windows, s.num_windows, float(m.rows(s)[i].prompt))


@compiled
def arrived(s: State, i: int) -> None:
    """A cache is where its request decodes from the next step on: its first output."""
    m.flows(s)[i].on_its_way = 0
    prompt, one = m.rows(s)[s.n + i], m.rows(s)[i]
    sent(s, prompt.rank, s.n + i)
    routing.release(s, s.n + i)
    runs.wake(s, prompt.replica)
    push_back(m.lists(s), ARRIVED * s.num_ranks + one.rank, m.waits(s), i)
    if m.rank_links(s)[ARRIVALS, one.rank, PREVIOUS] == OUT:
        push_back(
            m.rank_lists(s), ARRIVALS * s.num_replicas + one.replica, m.rank_links(s)[ARRIVALS], one.rank
        )
    runs.output(s, i)
    one.last_output = s.now
    runs.wake(s, one.replica)


# --- faults ---------------------------------------------------------------------------------------------------------


@compiled
def _stop(s: State, i: int) -> None:
    f = m.flows(s)[i]
    if f.flowing:
        links.cancel(s, i)
    f.owed = 0.0


@compiled
def decode_lost(s: State, i: int) -> None:
    """A decode replica was lost with this request on it."""
    f = m.flows(s)[i]
    if not f.on_its_way:
        start(s, i)
        return
    _stop(s, i)
    f.asked, f.reserved = 0, 0
    if f.computed or not f.submitted:  # else once its prompt is computed
        _to_decode(s, i)


@compiled
def prefill_lost(s: State, i: int) -> None:
    """A prefill replica was lost with this request on it."""
    f = m.flows(s)[i]
    if not f.on_its_way:  # one of a single token
        start(s, i)
        return
    _stop(s, i)
    f.computed = 0
    _to_prefill(s, i)


@compiled
def turned_away(s: State, i: int) -> None:
    """A decode replica that is drained has not reserved blocks for this request."""
    if m.flows(s)[i].on_its_way:
        routing.submit(s, DECODE, i)
    else:
        start(s, i)

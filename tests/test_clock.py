"""The timeline's clock against simpy, event for event: random processes on a grid of times, so that many coincide."""

import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.overlap.clock import Clock, Event, Process

STEP = st.one_of(
    st.tuples(st.just("sleep"), st.sampled_from([0.25, 0.5, 1.0])),
    st.tuples(st.just("wait"), st.integers(0, 3)),
    st.tuples(st.just("succeed"), st.integers(0, 3)),
)
RUNS = st.lists(st.lists(STEP, max_size=8), min_size=1, max_size=5)


def by_simpy(runs):
    env, log = simpy.Environment(), []
    events = [env.event() for _ in range(4)]

    def run(number, steps):
        for place, (kind, value) in enumerate(steps):
            if kind == "sleep":
                yield env.timeout(value)
            elif kind == "wait" and not events[value].processed:
                yield events[value]
            elif kind == "succeed" and not events[value].triggered:
                events[value].succeed()
            log.append((env.now, number, place))

    for number, steps in enumerate(runs):
        env.process(run(number, steps))
    env.process(last(env.timeout, events, lambda event: not event.triggered))
    env.run()
    return log


def last(timeout, events, is_open):
    """Everything happens at last, so that nobody waits for ever."""
    yield timeout(100.0)
    for event in events:
        if is_open(event):
            event.succeed()


def by_clock(runs):
    clock, log, said = Clock(), [], set()
    events = [Event(clock) for _ in range(4)]

    def succeed(value):
        if value not in said:
            said.add(value)
            events[value].succeed()

    def run(number, steps, resume):
        for place, (kind, value) in enumerate(steps):
            if kind == "sleep":
                clock.after(value, resume)
                yield None
            elif kind == "wait" and not events[value].happened:
                yield events[value]
            elif kind == "succeed":
                succeed(value)
            log.append((clock.now, number, place))

    def at_last(resume):
        clock.after(100.0, resume)
        yield None
        for value in range(4):
            succeed(value)

    for number, steps in enumerate(runs):
        Process(clock, lambda resume, number=number, steps=steps: run(number, steps, resume))
    Process(clock, at_last)
    clock.run()
    return log


@settings(max_examples=300, deadline=None)
@given(RUNS)
def test_everything_happens_in_simpys_order(runs):
    assert by_clock(runs) == by_simpy(runs)


def test_it_ends_when_all_processes_have_whatever_is_to_come():
    clock = Clock()
    clock.after(5.0, lambda: None)

    def run(resume):
        clock.after(1.0, resume)
        yield None

    Process(clock, run)
    clock.run()
    assert clock.now == 1.0

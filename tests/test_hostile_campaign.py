"""The short form of `make hostile`: inputs broken by a seed, killed writers, file conditions; breaks are noticed."""

import random
from collections import defaultdict

import pytest

from bench import hostile


@pytest.fixture(scope="module")
def tallies():
    return hostile.campaign(seed=2026, inputs=250, num_kills=8, minutes=10.0)


def test_nothing_breaks(tallies):
    found = [example for one in tallies.values() for example in one.examples]
    assert not found, hostile.table(tallies)
    assert tallies.keys() == {*hostile.KINDS, "killed writers", "file conditions"}
    assert sum(one.counts["tried"] for one in tallies.values()) >= 250 + 8 + len(hostile.CONDITIONS)


def test_some_are_answered_and_some_refused(tallies):
    for kind in ("scenarios", "overrides", "configs", "traces"):
        assert tallies[kind].counts["answered"] > 0, kind
        assert tallies[kind].counts["refused"] > 0, kind


def test_the_same_seed_makes_the_same_inputs():
    first, second = (hostile.mutated_text(hostile.AZURE, random.Random("traces/1.2")) for _ in range(2))
    assert first == second != hostile.mutated_text(hostile.AZURE, random.Random("traces/1.3"))


def test_what_breaks_is_counted_and_named(monkeypatch):
    def crash(chance, folder):
        raise ZeroDivisionError("made to fail")

    def wrong(chance, folder):
        return "answered what means nothing"

    monkeypatch.setattr(hostile, "KINDS", {"crash": (crash, 1), "wrong": (wrong, 1)})
    tallies = defaultdict(hostile.Tally)
    for kind in ("crash", "wrong"):
        outcome, example, seconds, megabytes = hostile.attempt(kind, "0.0")
        tallies[kind].add(outcome, seconds, megabytes, example)
    assert tallies["crash"].counts["traceback"] == 1
    assert tallies["wrong"].counts["wrong"] == 1
    text = hostile.table(tallies)
    assert "--only crash/0.0: 'ZeroDivisionError: made to fail'" in text
    assert "answered what means nothing" in text


def test_a_writer_that_leaves_something_is_counted(monkeypatch):
    from perfmodel import files

    monkeypatch.setattr(files, "_remove_leftovers", lambda target: None)
    tally = hostile.Tally()
    # a writer of its own leaves nothing when it ends by itself, so leave something in its name
    monkeypatch.setattr(
        hostile,
        "WRITER",
        "import sys, time; from pathlib import Path; p = Path(sys.argv[1]); "
        "p.with_name('.out.json.1.part').write_text('half'); print('ready', flush=True); time.sleep(9)",
    )
    hostile.kills(1, 0, tally, float("inf"))
    assert tally.counts["lost"] == 1

"""The short form of `make hostile`: inputs broken by a seed, killed writers, file conditions; breaks are noticed."""

import mmap
import os
import random
import time

import pytest

from bench.hostile import kills, oracles, workers
from bench.hostile.campaign import FILED, KILLED, KINDS, campaign, jobs_of
from bench.hostile.conditions import CONDITIONS
from bench.hostile.mutate import mutated_text
from bench.hostile.tally import Outcome, Tally, table
from bench.hostile.traffic import AZURE
from perfmodel.answers.step import answer_step
from perfmodel.errors import DataError
from perfmodel.load import load_scenario

INPUTS, KILLS = 250, 6
SHORT = ("step table7-qwen3-235b --json >/dev/full", "step pipe.yaml ", "check loop ", "step closed/x.yaml ")
FEW = tuple(one for one in CONDITIONS if " ".join(one[1:]) in SHORT)


@pytest.fixture(scope="module")
def tallies():
    return campaign(2026, INPUTS, KILLS, 10.0, workers=1, which=FEW)


def test_nothing_breaks(tallies):
    found = [example for one in tallies.values() for example in one.examples]
    assert not found, table(tallies)
    assert tallies.keys() == {*KINDS, KILLED, FILED}
    assert len(FEW) == len(SHORT)
    assert sum(one.counts["tried"] for one in tallies.values()) >= INPUTS + KILLS + len(FEW)


def test_some_are_answered_and_some_refused(tallies):
    for kind in ("overrides", "configs", "workloads", "results", "launch flags", "links"):
        assert tallies[kind].counts["answered"] > 0, kind
        assert tallies[kind].counts["refused"] > 0, kind


def test_the_same_seed_makes_the_same_inputs():
    first, second = (mutated_text(AZURE, random.Random("traces/1.2")) for _ in range(2))
    assert first == second != mutated_text(AZURE, random.Random("traces/1.3"))
    assert jobs_of(1, 300) == jobs_of(1, 300) != jobs_of(2, 300)
    assert {kind for kind, _ in jobs_of(1, 300)} == set(KINDS)


def crash(chance, folder):
    raise ZeroDivisionError("made to fail")


def wrong(chance, folder):
    return "answered what means nothing"


def refused(chance, folder):
    raise DataError("x = 1: must be 2")


def lost(chance, folder):
    raise AssertionError("lost: mine.yaml")


def slow(chance, folder):
    until = time.process_time() + 0.6
    while time.process_time() < until:
        pass


def large(chance, folder):
    with mmap.mmap(-1, 64 * 2**20) as fresh:  # an allocator may have so much at hand
        fresh.write(b"x" * len(fresh))


def dies(chance, folder):
    os._exit(7)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (crash, "traceback"), (wrong, "wrong"), (refused, "refused"), (lost, "lost"), (slow, "slow"), (large, "large"),
        (dies, "traceback"),
    ],
)  # fmt: skip
def test_what_breaks_is_counted_and_named(kind, word, monkeypatch):
    monkeypatch.setattr(workers, "MOST_S", 0.5)
    monkeypatch.setattr(workers, "MEMORY_MB", 32)
    jobs = [("kind", f"0.{number}") for number in range(3)]
    found = list(workers.tried({"kind": kind}, jobs, workers=1, until=time.monotonic() + 60.0))
    assert sorted(job for job, _ in found) == jobs
    assert {outcome.word for _, outcome in found} == {word}
    tally = Tally()
    for (name, seed), outcome in found:
        tally.add(outcome, f"--only '{name}/{seed}'")
    assert (f"{word}: --only" in table({"kind": tally})) == (word != "refused")


def test_one_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(workers, "HANGS_S", 0.5)
    kinds = {"kind": lambda chance, folder: time.sleep(60)}
    found = list(workers.tried(kinds, [("kind", "0")], workers=1, until=time.monotonic() + 30))
    assert [outcome.word for _, outcome in found] == ["slow"]


def half(path, size):
    path.with_name(".out.json.1.part").write_text("half")
    time.sleep(9)


def in_place(path, size):
    path.write_text("half")
    time.sleep(9)


@pytest.mark.parametrize(("writer", "what"), [(half, "left: .out.json.1.part"), (in_place, "half a file")])
def test_a_writer_that_loses_something_is_noticed(writer, what, tmp_path):
    found = (
        kills.one_file(random.Random(seed), tmp_path, writer) for seed in range(20)
    )  # a kill may come first
    assert any(what in one for one in found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mfu": 1.2}, "faster than the hardware"), ({"mbu": 7.0}, "faster than the hardware"),
        ({"tpot_s": float("nan")}, "no strict JSON"), ({"tpot_s": -1.0}, "is negative"),
        ({"intervals": {"tpot_s": [2.0, 1.0]}}, "upside down"), ({"memory_bytes": {"weights": 10**12}}, "bytes in"),
        ({"step_time_s": 0.0}, "step_time_s"),
    ],
)  # fmt: skip
def test_oracles_of_a_step(change, said):
    scenario = load_scenario("longcat-flash-h800")
    values = answer_step(scenario, over_steps=False).values
    assert oracles.wrong_step(scenario, values) is None
    assert said in oracles.wrong_step(scenario, values | change)


def test_oracles_that_ask_again():
    scenario = load_scenario("longcat-flash-h800")
    values = answer_step(scenario, over_steps=False).values
    for seed in range(4):
        assert oracles.monotone(scenario, values, random.Random(seed)) is None
        assert oracles.monotone(scenario, values | {"step_time_s": 1.0}, random.Random(seed))
    document = {"a": 1, "title": "x"}
    assert oracles.ignored_key(document, {"tpot_s": 1.0}, lambda one: {"tpot_s": 1.0}) is None
    assert "title" in oracles.ignored_key(document, {"tpot_s": 1.0}, lambda one: {"tpot_s": 2.0})


def test_the_table_adds_up():
    tally = Tally()
    for word in ("answered", "refused", "wrong"):
        tally.add(Outcome(word, "said", 1.0, 2.0), "name")
    rows = table({"one": tally, "other": tally}).splitlines()
    assert rows[3].split()[:6] == ["all", "6", "2", "2", "0", "2"]

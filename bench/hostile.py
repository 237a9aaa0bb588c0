"""What happens when inputs are broken at random: `make hostile`.

Every input is made from a seed, so that one that breaks the program can be made again (``--seed S --only N``). Most are
tried in processes that try many, under a limit of memory and time; kills and file conditions take processes of their
own. What comes out is counted by kind of input:

- answered: a result; refused: one line that says why (PerfModelError);
- traceback: any other exception, a crash, or a line that is none;
- wrong: answered where the input says that it must not be (:func:`must_be_refused`);
- lost: a file that was there before and is not, or is another, or a leftover that the next run does not remove;
- the longest time and the most memory that one input took.
"""

import argparse
import contextlib
import gzip
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

MINUTES = 20.0
INPUTS = 10_000
KILLS = 100
BATCH = 50
MOST_S = 60.0
"""Of one input."""
MEMORY_MB = 500
"""Beyond what the program takes to answer anything at all."""

ODD_NUMBERS = (
    0, -1, 1, 2, 3, 7, 127, 128, 129, 2**31, 2**53, 2**53 + 1, 2**63, 10**30, -(10**30), 0.0, -0.0, 0.1, 0.5, 1.5,
    1e-308, 5e-324, 1e308, 1e18, 1e19, 3.7, True, False,
)  # fmt: skip
ODD_TEXTS = (
    "", " ", "a", "none", "null", "1", "1e5", "true", "NaN", "../../etc/passwd", "/dev/null", "/dev/zero", "a\0b",
    "\x1b[2J", "\ud800", "x" * 300, "x" * 70_000, "<script>", "=1+1", "{{7*7}}", "\u202e", "é" * 100, "\n\n", "%s%n",
    "a/b", ".", "..", "~",
)  # fmt: skip


@dataclass
class Tally:
    """What became of the inputs of one kind."""

    counts: Counter[str] = field(default_factory=Counter)
    worst_s: float = 0.0
    worst_mb: float = 0.0
    examples: list[str] = field(default_factory=list)

    def add(self, outcome: str, seconds: float, megabytes: float, example: str) -> None:
        self.counts["tried"] += 1
        self.counts[outcome] += 1
        self.worst_s, self.worst_mb = max(self.worst_s, seconds), max(self.worst_mb, megabytes)
        if outcome in BAD and len(self.examples) < 5:
            self.examples.append(example)


BAD = ("traceback", "wrong", "lost", "slow", "large")
COLUMNS = ("tried", "answered", "refused", *BAD)


# -- making inputs


def mutated_text(text: str, chance: random.Random) -> str:
    """A text with a few characters, lines or pieces changed."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text) + 1)
        kind = chance.randrange(7)
        if kind == 0:
            text = text[:at] + text[at + chance.randint(1, 20) :]
        elif kind == 1:
            text = (
                text[:at]
                + chance.choice("{}[],:\"'\\\n\t 0123456789.-+eEx#&*!|>%@\0\ufeff\u2028é")
                + text[at:]
            )
        elif kind == 2:
            text = text[:at] + str(chance.choice(ODD_NUMBERS)) + text[at:]
        elif kind == 3:
            text = text[:at] + chance.choice(ODD_TEXTS)[:500] + text[at:]
        elif kind == 4:
            lines = text.split("\n")
            chance.shuffle(lines)
            text = "\n".join(lines)
        elif kind == 5:
            lines = text.split("\n")
            lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
            text = "\n".join(lines)
        else:
            text = text[:at]
    return text


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, cut, doubled."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        if not found:
            break
        at, kind = chance.randrange(len(found)), chance.randrange(4)
        if kind == 0:
            found[at] = chance.randrange(256)
        elif kind == 1:
            del found[at : at + chance.randint(1, 64)]
        elif kind == 2:
            found[at:at] = found[max(0, at - chance.randint(1, 64)) : at]
        else:
            del found[at:]
    return bytes(found)


def mutated_value(value: Any, chance: random.Random) -> Any:
    """A document with one place changed."""
    places = list(_places(value))
    if not places:
        return chance.choice(ODD_NUMBERS)
    holder, key = chance.choice(places)
    kind = chance.randrange(8)
    if kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1:
        holder[key] = chance.choice(ODD_TEXTS)
    elif kind == 2:
        holder[key] = [holder[key]] * chance.randint(0, 3)
    elif kind == 3:
        holder[key] = {str(chance.choice(ODD_TEXTS))[:50]: holder[key]}
    elif kind == 4 and isinstance(holder, dict):
        holder[chance.choice(["x", str(key) + "s", str(key).upper(), ""])] = holder.pop(key)
    elif kind == 5:
        holder[key] = None
    else:
        holder[key] = chance.choice(ODD_NUMBERS)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield value, key
            yield from _places(child)
    elif isinstance(value, list):
        for number, child in enumerate(value[:50]):
            yield value, number
            yield from _places(child)


# -- trying them: each makes one input of a seed and asks the program; what it returns is an outcome that was asked for


def try_scenario(chance: random.Random, folder: Path) -> str | None:
    """A shipped scenario with values or text broken, stepped."""
    from perfmodel.answer import answer_step
    from perfmodel.load import load_scenario
    from perfmodel.spec.catalogue import DATA

    source = chance.choice(sorted((DATA / "scenarios").glob("*.yaml")))
    path = folder / "case.yaml"
    if chance.random() < 0.4:
        text = mutated_text(source.read_text("utf-8"), chance)
    else:
        from perfmodel.spec.documents import read_document

        document = read_document(source)
        for _ in range(chance.randint(1, 2)):
            document = mutated_value(document, chance)
        text = json.dumps(document)
    path.write_text(text, "utf-8", "backslashreplace")
    scenario = load_scenario(path)
    answer_step(scenario, over_steps=False)
    return must_be_refused(scenario)


def try_override(chance: random.Random, folder: Path) -> str | None:
    """Any key of a scenario set to anything."""
    from perfmodel.answer import answer_step
    from perfmodel.load import load_scenario
    from perfmodel.spec.keys import key_paths

    name = chance.choice(
        ["longcat-flash-h800", "deepseek-v3-h800", "longcat-flash-h800-pd", "table7-qwen3-235b"]
    )
    path = chance.choice(
        [*key_paths(), "model.num_layers", "model.moe_topk", "model.hidden_size", "model.vocab_size", "x.y"]
    )
    value = chance.choice(
        [str(chance.choice(ODD_NUMBERS)).lower(), repr(chance.choice(ODD_TEXTS)), "[1, 2]", "{a: 1}", "[]"]
    )
    scenario = load_scenario(name, [f"{path}={value}"])
    answer_step(scenario, over_steps=False)
    return must_be_refused(scenario)


def try_config(chance: random.Random, folder: Path) -> str | None:
    """A model's config.json, broken."""
    from perfmodel.answer import answer_step
    from perfmodel.load import load_scenario
    from perfmodel.spec.catalogue import DATA

    source = chance.choice(sorted((DATA / "models").glob("*.json")))
    path = folder / "config.json"
    if chance.random() < 0.3:
        text = mutated_text(source.read_text("utf-8"), chance)
    else:
        document = json.loads(source.read_text("utf-8"))
        for _ in range(chance.randint(1, 3)):
            document = mutated_value(document, chance)
        text = json.dumps(document)
    path.write_text(text, "utf-8", "backslashreplace")
    scenario = load_scenario(
        "deepseek-v3-h800", [f"model={path}", "deployment.overlap=sequential", "deployment.mtp={}"]
    )
    answer_step(scenario, over_steps=False)
    return must_be_refused(scenario)


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:{s:02d}.9799600,{100 + s},{5 + s}\n" for s in range(20)
)
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "".join(
    f"{s},ChatGPT,{100 + s},{5 + s},{105 + 2 * s},Conversation log\n" for s in range(20)
)
MOONCAKE = "".join(
    json.dumps({"timestamp": 1000 * s, "input_length": 600, "output_length": 5, "hash_ids": [s, s + 1]})
    + "\n"
    for s in range(20)
)
RESULT = json.dumps(
    {"request_rate": 1.0, "completed": 3, "input_lens": [5, 6, 7], "output_lens": [2, 2, 2], "ttfts": [0.1, 0.2, 0.3],
     "itls": [[0.1], [0.1], [0.1]], "start_times": [0.0, 1.0, 2.0], "errors": ["", "", ""]}
)  # fmt: skip
TRACES = ((".csv", AZURE), (".csv", BURST), (".jsonl", MOONCAKE), (".json", RESULT))


def try_trace(chance: random.Random, folder: Path) -> str | None:
    """A trace or a benchmark's result, broken as text or as bytes, plain or gzipped."""
    from perfmodel.spec.traces.read import read_trace

    suffix, text = chance.choice(TRACES)
    content = mutated_text(text, chance).encode("utf-8", "backslashreplace")
    if chance.random() < 0.2:
        content = mutated_bytes(content, chance)
    if chance.random() < 0.3:
        content, suffix = gzip.compress(content), suffix + ".gz"
        if chance.random() < 0.5:
            content = mutated_bytes(content, chance)
    path = folder / f"case{suffix}"
    path.write_bytes(content)
    found = read_trace(str(path))
    numbers = (found.input_tokens, found.output_tokens)
    sound = all((one >= 1).all() for one in numbers) and all(
        len(one) == len(found.input_tokens) for one in numbers
    )
    return None if sound else "a trace without tokens"


def try_routing(chance: random.Random, folder: Path) -> str | None:
    """A histogram or an activation file, broken."""
    import pandas as pd

    from perfmodel.load import load_scenario

    kind = chance.choice(["histogram", "activation"])
    columns = {"expert": list(range(512)), "tokens": [10 + i for i in range(512)]}
    if kind == "activation":
        columns = {"real_experts": list(range(13)), "tokens": [10] * 13}
    frame = pd.DataFrame(columns)
    suffix = chance.choice([".csv", ".parquet"])
    path = folder / f"case{suffix}"
    if suffix == ".csv":
        path.write_text(mutated_text(frame.to_csv(index=False), chance), "utf-8", "backslashreplace")
    else:
        frame.to_parquet(path)
        path.write_bytes(mutated_bytes(path.read_bytes(), chance))
    sets = [f"routing.{kind}={path}", *(["routing.popularity=histogram"] if kind == "histogram" else [])]
    load_scenario("longcat-flash-h800", sets)
    return None


def try_calibration(chance: random.Random, folder: Path) -> str | None:
    """A calibration with its JSON changed (and hashed again), or its tables'."""
    import shutil

    from perfmodel.kernels.calibration import content_id, load_calibration
    from perfmodel.spec.catalogue import DATA

    source = DATA / "calibrations" / chance.choice(["h100-sxm", "epyc-zen4-1core"])
    own = folder / "calibration"
    shutil.copytree(source, own)
    file = own / "calibration.json"
    if chance.random() < 0.7:
        document = mutated_value(json.loads(file.read_text("utf-8")), chance)
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            document["id"] = content_id(document)
        file.write_text(json.dumps(document), "utf-8", "backslashreplace")
    else:
        other = chance.choice(
            sorted(one for one in own.iterdir() if one.suffix in (".npz", ".parquet", ".json"))
        )
        other.write_bytes(mutated_bytes(other.read_bytes(), chance))
    load_calibration(str(own))
    return None


def try_link(chance: random.Random, folder: Path) -> str | None:
    """A dashboard's address."""
    from urllib.parse import parse_qs

    from dashboard.asked import from_query

    sets = [
        f"{chance.choice(SETTABLE)}={chance.choice([*map(str, ODD_NUMBERS), *ODD_TEXTS])}"
        for _ in range(chance.randint(0, 2))
    ]
    query: dict[str, list[str]] = {
        "v": ["1"],
        "scenario": [chance.choice(["longcat-flash-h800"] * 40 + [*ODD_TEXTS])],
        "set": sets,
    }
    if chance.random() < 0.3:
        text = mutated_text(
            "v=1&scenario=longcat-flash-h800&set=deployment.batch_per_gpu%3D64&yaml=eJw", chance
        )
        with contextlib.suppress(ValueError):
            query = parse_qs(text, keep_blank_values=True)
    found = from_query(query)
    if found is not None:
        found.scenario()
        found.query()
    return None


SETTABLE = (
    "deployment.batch_per_gpu", "deployment.context_tokens", "deployment.ep", "cluster", "model", "calibration",
    "workload.trace", "workload.num_requests", "serving.replicas", "prices.usd_per_gpu_hour", "routing.histogram", "x",
)  # fmt: skip


def try_path(chance: random.Random, folder: Path) -> str | None:
    """A name of a file that leads nowhere, or to what is no file, wherever one can be given."""
    from perfmodel.files import atomic_write, check_distinct, check_writable
    from perfmodel.kernels.calibration import load_calibration
    from perfmodel.load import load_scenario
    from perfmodel.spec.traces.read import read_trace

    (folder / "loop").symlink_to("loop")
    (folder / "file.yaml").write_text("base: longcat-flash-h800\n")
    name = chance.choice(
        [*ODD_TEXTS, str(folder), str(folder / "loop"), str(folder / "loop" / "x.yaml"),
         str(folder / "file.yaml" / "x"), str(folder / ("é" * 200)), "/proc/self/mem", "/dev/full", "/dev/stdin",
         str(folder / "missing.yaml")]
    )  # fmt: skip
    suffix = chance.choice(["", ".yaml", ".json", ".csv", ".parquet", ".npz", ".gz", "/"])
    where = f"{name}{suffix}"
    uses: list[Callable[[], Any]] = [
        lambda: load_scenario(where),
        lambda: load_scenario("longcat-flash-h800", [f"model={where}"]),
        lambda: load_calibration(where),
        lambda: read_trace(where),
        lambda: check_writable(Path(where)),
        lambda: check_distinct({"--html": Path(where)}, {"x": folder / "file.yaml"}),
    ]
    if where.startswith(str(folder)):
        uses.append(lambda: atomic_write(Path(where), "x"))
    chance.choice(uses)()
    return None


KINDS: dict[str, tuple[Callable[[random.Random, Path], str | None], int]] = {
    "scenarios": (try_scenario, 5),
    "overrides": (try_override, 6),
    "configs": (try_config, 5),
    "traces": (try_trace, 5),
    "routing files": (try_routing, 2),
    "calibrations": (try_calibration, 2),
    "links": (try_link, 4),
    "paths": (try_path, 3),
}
"""Kind -> how to try one, and its share."""


def must_be_refused(scenario: Any) -> str | None:
    """Why an answered scenario should not have been answered; None: nothing that is known here."""
    moe, network = scenario.model.moe, scenario.cluster.network
    if network.spine_oversubscription < 1.0:
        return "faster than a network without oversubscription"
    if scenario.deployment.context_tokens > scenario.model.max_context_tokens:
        return "a context beyond the model's positions"
    if moe and not moe.num_zero_experts and scenario.mean_real_experts < moe.top_k * 0.999:
        return "fewer real experts than the router picks"
    if moe and moe.num_groups > 1 and moe.top_k > moe.num_experts // moe.num_groups * moe.top_groups:
        return "more picks than the chosen groups hold"
    loads = scenario.routing.rank_loads or ()
    if moe and max(loads, default=0.0) > scenario.deployment.ep:
        return "a load that no router gives"
    return None


def attempt(kind: str, seed: str) -> tuple[str, str, float, float]:
    """Outcome, example, seconds and megabytes of one input, here."""
    from perfmodel.errors import PerfModelError

    chance = random.Random(f"{kind}/{seed}")
    started, before = time.perf_counter(), _peak_mb()
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        try:
            wrong = KINDS[kind][0](chance, Path(name))
            outcome, said = ("wrong", wrong) if wrong else ("answered", "")
        except PerfModelError as error:
            said = str(error)
            outcome = "refused" if said.strip() and "Traceback" not in said else "traceback"
        except MemoryError:
            outcome, said = "large", "MemoryError"
        except Exception as error:  # that is what is looked for
            outcome, said = "traceback", f"{type(error).__name__}: {error}"
    seconds, more = time.perf_counter() - started, _peak_mb() - before
    if outcome in ("answered", "refused") and seconds > MOST_S:
        outcome = "slow"
    if outcome in ("answered", "refused") and more > MEMORY_MB:
        outcome = "large"
    return outcome, f"--only {kind}/{seed}: {said[:300]!r}", seconds, more


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _batch(jobs: list[tuple[str, str]], results: Any) -> None:
    """Several inputs in a process of their own; each is announced before it is tried, so that a crash has a name."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import warnings

    warnings.simplefilter("ignore")
    limit = 8 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for kind, seed in jobs:
        results.send((kind, seed, None))
        results.send((kind, seed, attempt(kind, seed)))
    results.close()


def run_batches(jobs: list[tuple[str, str]], tallies: dict[str, Tally], until: float) -> None:
    """Try all jobs, a process for each BATCH; one that hangs or dies is counted and the rest of its batch goes on."""
    context = get_context("spawn")
    waiting = list(jobs)
    while waiting and time.monotonic() < until:
        own, waiting = waiting[:BATCH], waiting[BATCH:]
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_batch, args=(own, sender), daemon=True)
        process.start()
        sender.close()
        done, current = 0, None
        try:
            while receiver.poll(2 * MOST_S):
                kind, seed, found = receiver.recv()
                current = (kind, seed)
                if found is not None:
                    outcome, example, seconds, megabytes = found
                    tallies[kind].add(outcome, seconds, megabytes, example)
                    done, current = done + 1, None
        except EOFError:
            pass
        if current is not None:  # announced and never ended
            alive = process.is_alive()
            tallies[current[0]].add(
                "slow" if alive else "traceback",
                2 * MOST_S if alive else 0.0,
                0.0,
                f"--only {current[0]}/{current[1]}: no end",
            )
            done += 1
        process.kill()
        process.join()
        waiting = own[done:] + waiting


# -- writers that are killed, and file conditions

WRITER = """
import sys
from pathlib import Path
from perfmodel.files import atomic_write
path, size = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for n in range(10**9):
    atomic_write(path, ("whole %d " % n) * size)
"""


def kills(count: int, seed: int, tally: Tally, until: float) -> None:
    """Kill writers at random points: the file is whole at any time, and the next write removes what they left."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name)
        target, other = folder / "out.json", folder / "mine.txt"
        other.write_text("a user's file")
        for number in range(count):
            if time.monotonic() > until:
                break
            started = time.perf_counter()
            size = chance.choice([1, 1000, 200_000])
            target.write_text("before")
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(target), str(size)], stdout=subprocess.PIPE, text=True
            )
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(chance.random() * 0.05)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
            lost = []
            text = target.read_text()
            words = text.split(" ") if text != "before" else []
            if words and (len(words) != 2 * size + 1 or len(set(words[1:-1:2])) != 1):
                lost.append("half a file")
            if other.read_text() != "a user's file":
                lost.append("another file")
            from perfmodel.files import atomic_write

            atomic_write(target, "after")
            left = sorted(path.name for path in folder.iterdir() if path not in (target, other))
            lost += [f"left: {one}" for one in left]
            tally.add(
                "lost" if lost else "answered", time.perf_counter() - started, 0.0, f"kill {number}: {lost}"
            )


CONDITIONS: tuple[tuple[str, str], ...] = (
    ("step table7-qwen3-235b --json", ">/dev/full"),
    ("step table7-qwen3-235b", ">&-"),
    ("step table7-qwen3-235b --json", ">&- 2>&-"),
    ("show gpus", "| head -c 10"),
    ("step table7-qwen3-235b --html /dev/full", ""),
    ("step table7-qwen3-235b --html missing/x.html", ""),
    ("step table7-qwen3-235b --html .", ""),
    ("step mine.yaml --html mine.yaml", ""),
    ("step mine.yaml --trace mine.yaml", ""),
    ("serve mine.yaml --requests mine.yaml", ""),
    ("report mine.yaml --no-serve --out mine.yaml", ""),
    ("step link.yaml --html mine.yaml", ""),
    ("step table7-qwen3-235b --html readonly/x.html", ""),
    ("step /dev/stdin", "</dev/zero"),
    ("step longcat-flash-h800 --set calibration=/dev", ""),
    ("--help", ">/dev/full"),
)
"""Command, and how the shell runs it."""


def conditions(tally: Tally, until: float) -> None:
    """File conditions, each in a process of its own: a line at most, a code of 0, 2 or 3, and no file lost."""
    for command, shell in CONDITIONS:
        if time.monotonic() > until:
            break
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="hostile-") as name:
            folder = Path(name)
            mine = folder / "mine.yaml"
            mine.write_text("base: table7-qwen3-235b\n")
            (folder / "link.yaml").symlink_to("mine.yaml")
            (folder / "readonly").mkdir(mode=0o500)
            done = subprocess.run(
                ["bash", "-c", f'"$0" -m perfmodel {command} {shell}', sys.executable],
                cwd=folder, capture_output=True, text=True, errors="replace", timeout=4 * MOST_S, check=False,
            )  # fmt: skip
            outcome, lines = (
                "answered" if done.returncode == 0 else "refused",
                done.stderr.strip().splitlines(),
            )
            if (
                done.returncode not in (0, 2, 3)
                or "Traceback" in done.stderr
                or (done.returncode and len(lines) > 2)
            ):
                outcome = "traceback"
            if mine.read_text() != "base: table7-qwen3-235b\n" or list(folder.glob("**/.*.part")):
                outcome = "lost"
        tally.add(
            outcome,
            time.perf_counter() - started,
            0.0,
            f"{command} {shell}: {done.returncode} {done.stderr[-300:]!r}",
        )


def campaign(
    seed: int, inputs: int, num_kills: int, minutes: float, *, with_conditions: bool = True
) -> dict[str, Tally]:
    """Everything, within some minutes; by kind."""
    until = time.monotonic() + 60.0 * minutes
    tallies: dict[str, Tally] = defaultdict(Tally)
    total = sum(share for _, share in KINDS.values())
    jobs = [
        (kind, f"{seed}.{number}")
        for kind, (_, share) in KINDS.items()
        for number in range(math.ceil(inputs * share / total))
    ]
    random.Random(seed).shuffle(jobs)
    kills(num_kills, seed, tallies["killed writers"], until)
    if with_conditions:
        conditions(tallies["file conditions"], until)
    run_batches(jobs, tallies, until)
    return dict(tallies)


def table(tallies: dict[str, Tally]) -> str:
    """The counts, for people."""
    head = ("kind", *COLUMNS, "worst s", "worst MB")
    rows = [head] + [
        (kind, *(str(one.counts[name]) for name in COLUMNS), f"{one.worst_s:.1f}", f"{one.worst_mb:.0f}")
        for kind, one in sorted(tallies.items())
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(
        [
            *lines,
            *(f"  {kind}: {example}" for kind, one in sorted(tallies.items()) for example in one.examples),
        ]
    )


def main() -> int:
    """`python -m bench.hostile`; 1 if anything broke."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--only", metavar="KIND/SEED", help="try one input again, with its traceback")
    options = parser.parse_args()
    if options.only:
        kind, _, seed = options.only.rpartition("/")
        with tempfile.TemporaryDirectory() as name:
            print(KINDS[kind][0](random.Random(f"{kind}/{seed}"), Path(name)))
        return 0
    started = time.monotonic()
    tallies = campaign(options.seed, options.inputs, options.kills, options.minutes)
    print(table(tallies))
    tried = sum(one.counts["tried"] for one in tallies.values())
    bad = sum(one.counts[name] for one in tallies.values() for name in BAD)
    print(
        f"seed {options.seed}: {tried:,} tried in {time.monotonic() - started:.0f} s, {bad} broke something"
    )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

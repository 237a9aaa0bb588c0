"""Whole command lines with broken options, run here; and commands that start servers."""

import contextlib
import io
import json
import math
import os
import random
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from unittest import mock

from bench.hostile.mutate import ODD_NUMBERS, ODD_TEXTS, mutated_text
from bench.hostile.oracles import wrong_step

MINE = "base: table7-qwen3-235b\n"


def run(arguments: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """Code, stdout and stderr of ``perfmodel`` in a folder; what a user would see as a traceback is raised."""
    from perfmodel.main import main

    out, err, before, code = io.StringIO(), io.StringIO(), Path.cwd(), 0
    try:
        os.chdir(folder)
        with (
            mock.patch.object(sys, "argv", ["perfmodel", *arguments]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os.chdir(before)
    return code, out.getvalue(), err.getvalue()


def judged(arguments: Sequence[str], folder: Path) -> str | None:
    """Run it: why what it did is wrong.

    Raises:
        PerfModelError: it was refused, in one line.
        AssertionError: neither an answer nor one line, or a file is lost.
    """
    from perfmodel.errors import PerfModelError
    from perfmodel.spec.paths import printable

    code, out, err = run(arguments, folder)
    if reads_mine(arguments) and (folder / "mine.yaml").read_text() != MINE:
        raise AssertionError(f"lost: what it reads: {arguments}")
    if list(folder.glob("**/.*.part")):
        raise AssertionError(f"lost: a leftover: {arguments}")
    if code in (2, 3):
        lines = err.strip().splitlines()
        usage = err.startswith("Usage:") and "Error:" in err
        if (len(lines) != 1 and not usage) or (out and "--json" not in arguments):
            raise AssertionError(f"no one line: {arguments}: {err[:300]!r} {out[:100]!r}")
        if not usage and printable(err) != err:
            raise AssertionError(f"what a terminal obeys: {arguments}: {err!r}")
        raise PerfModelError(err)
    if code not in (0, 1):
        raise AssertionError(f"code {code}: {arguments}")
    if any(ord(one) < 32 and one not in "\n\t" for one in out + err):
        return f"what a terminal obeys: {arguments}"
    if "--json" in arguments and code == 0:
        try:
            json.loads(out, parse_constant=lambda one: math.nan / 0)
        except (ValueError, ZeroDivisionError) as error:
            return f"no strict JSON: {arguments}: {error}"
    return None


OUTPUTS = ("--out", "--html", "--trace", "--requests", "--result", "--pdf")


def reads_mine(arguments: Sequence[str]) -> bool:
    """Whether a command is given the user's file to read, and not to write alone."""
    return any(
        word in ("mine.yaml", "link.yaml") and before not in OUTPUTS for before, word in pairwise(arguments)
    )


def command(chance: random.Random, folder: Path) -> str | None:
    """One command with one or two options broken; files that were there stay."""
    (folder / "mine.yaml").write_text(MINE)
    (folder / "link.yaml").symlink_to("mine.yaml")
    (folder / "loop").symlink_to("loop")
    (folder / "m.json").write_text((_models() / "gpt-oss-20b.json").read_text("utf-8"))
    arguments = chance.choice(_COMMANDS)(chance)
    arguments = [
        one.replace("\0", "0").encode("utf-8", "replace").decode() for one in arguments
    ]  # as a shell gives them
    return judged(arguments, folder)


def _models() -> Path:
    from perfmodel.spec.catalogue import DATA

    return DATA / "models"


def _number(chance: random.Random) -> str:
    return str(
        chance.choice([*ODD_NUMBERS, "nan", "inf", "-inf", "1_0", "\u0665", "0x5", "", "1e400", "9" * 400])
    )


def _place(chance: random.Random) -> str:
    return chance.choice(
        [
            "mine.yaml",
            "link.yaml",
            "loop",
            ".",
            "new/x",
            "x",
            "a" * 260,
            "/dev/null",
            "x.html",
            "m.json",
            "/proc/x",
            *ODD_TEXTS[:20],
        ]
    )


def _set(chance: random.Random) -> list[str]:
    from bench.hostile.scenarios import override_text

    return ["--set", override_text(chance)] if chance.random() < 0.3 else []


def _scenario(chance: random.Random) -> str:
    return chance.choice(["table7-qwen3-235b", "mine.yaml", "mine.yaml", _place(chance)])


def _picked(
    chance: random.Random, usual: dict[str, str], odd: dict[str, Callable[[random.Random], str]]
) -> list[str]:
    """Options with one or two of them odd."""
    chosen = dict(usual)
    for name in chance.sample(sorted(odd), chance.randint(1, 2)):
        chosen[name] = odd[name](chance)
    return [
        word for name, value in chosen.items() for word in ((name, value) if value is not _BARE else (name,))
    ]


_BARE = ""


def _step(chance: random.Random) -> list[str]:
    odd = {"--html": _place, "--trace": _place}
    return ["step", _scenario(chance), *_picked(chance, {"--json": _BARE}, odd), *_set(chance)]


def _serve(chance: random.Random) -> list[str]:
    odd = {
        "--requests": _place,
        "--result": _place,
        "--trace": _place,
        "--repeats": _number,
        "--workers": _number,
        "--fleet-requests-per-day": _number,
        "--fleet-tokens-per-day": _number,
        "--fleet-peak-to-mean": _number,
        "--fleet-good-pct": _number,
    }
    short = ["--set", "workload={num_requests: 20, input_tokens: 100, output_tokens: 8, request_rate: 4}"]
    name = chance.choice(["deepseek-v3-h800", "deepseek-v3-h800", _place(chance)])
    return ["serve", name, *short, *_picked(chance, {}, odd)]


def _sweep(chance: random.Random) -> list[str]:
    def over(chance: random.Random) -> str:
        ends = ":".join(_number(chance) for _ in range(chance.randint(1, 3)))
        key = chance.choice(
            ["deployment.batch_per_gpu", "deployment.context_tokens", "seed", "x", "model.moe_topk", ""]
        )
        return f"{key}={chance.choice([ends, ends + ':log', '1:4:n2', '1,2', '[' * 60, '{a: 1}', ''])}"

    odd = {
        "--over": over,
        "--out": _place,
        "--points": _number,
        "--seed": _number,
        "--design": lambda one: one.choice(["lhs", "sobol", "x"]),
        "--of": lambda one: one.choice(["serve", "x"]),
        "--html": _place,
        "--show": lambda one: one.choice(["x,y", "point,tpot_s", "", ",,,"]),
    }
    usual = {"--over": "deployment.batch_per_gpu=1,2", "--out": "ds", "--workers": "1"}
    return ["sweep", _scenario(chance), *_picked(chance, usual, odd), *_set(chance)]


def _plan(chance: random.Random) -> list[str]:
    odd = {
        "--gpus": lambda one: f"{_number(one)}x{one.choice(['h200', 'x', ''])}",
        "--isl": _number,
        "--osl": _number,
        "--users": _number,
        "--ttft": _number,
        "--tpot": _number,
        "--percentile": _number,
        "--space": _place,
        "--objective": lambda one: one.choice(["gpus", "x"]),
        "--simulate": _number,
        "--seconds": _number,
        "--length-spread": _number,
        "--out": _place,
        "--html": _place,
        "--seed": _number,
        "--engine": lambda one: one.choice(["vllm,x", "", ","]),
        "--trace": _place,
    }
    usual = {
        "--gpus": "1xh100",
        "--isl": "100",
        "--osl": "10",
        "--users": "4",
        "--simulate": "1",
        "--seconds": "1",
    }
    return [
        "plan",
        chance.choice(["gpt-oss-20b", "./m.json", _place(chance)]),
        *_picked(chance, usual, odd),
        *_set(chance),
    ]


def _init(chance: random.Random) -> list[str]:
    odd = {
        "--gpus": lambda one: f"{_number(one)}x{one.choice(['h200', 'x', ''])}",
        "--isl": _number,
        "--osl": _number,
        "--users": _number,
        "--rate": _number,
        "--usd-per-gpu-hour": _number,
        "--slo": lambda one: f"{one.choice(['ttft_ms', 'x'])}={_number(one)}",
        "--out": _place,
        "--engine": lambda one: one.choice(["vllm==", "x", *ODD_TEXTS[:15]]),
    }
    return [
        "init",
        chance.choice(["gpt-oss-20b", "./m.json", _place(chance)]),
        *_picked(chance, {"--gpus": "8xh200", "--out": "own.yaml"}, odd),
    ]


def _train(chance: random.Random) -> list[str]:
    odd = {"--html": _place, "--trace": _place}
    name = chance.choice(["deepseek-v3-train-h800", _place(chance)])
    return ["train", name, *_picked(chance, {"--json": _BARE}, odd), *_set(chance)]


def _report(chance: random.Random) -> list[str]:
    odd = {
        "--out": _place,
        "--format": lambda one: one.choice(["csv", "md", "json", "x"]),
        "--api-usd-per-million-output": _number,
        "--fleet-requests-per-day": _number,
        "--fleet-peak-to-mean": _number,
    }
    return [
        "report",
        _scenario(chance),
        "--no-serve",
        *_picked(chance, {"--format": "csv"}, odd),
        *_set(chance),
    ]


def _experts(chance: random.Random) -> list[str]:
    def several(chance: random.Random) -> str:
        return ",".join(_number(chance) for _ in range(chance.randint(1, 3)))

    name = chance.choice(["longcat-flash-h800", "longcat-flash-h800", _place(chance)])
    return ["experts", name, *_picked(chance, {"--json": _BARE}, {"--zero": several, "--real": several})]


def _show(chance: random.Random) -> list[str]:
    kinds = [
        "models",
        "families",
        "gpus",
        "clusters",
        "prices",
        "scenarios",
        "calibrations",
        "traces",
        "engines",
        "keys",
        "x",
    ]
    rest = chance.choice([[], ["--json"], ["--yaml"], ["--set", "workload.columns.time=x"]])
    return ["show", chance.choice(kinds), chance.choice([_place(chance), "h100-sxm", "longcat-flash"]), *rest]


def _validate(chance: random.Random) -> list[str]:
    odd = {"--suite": _place, "--data": _place, "--html": _place, "--workers": _number}
    return ["validate", *_picked(chance, {"--suite": chance.choice(["x", "table7"]), "--workers": "1"}, odd)]


_COMMANDS = (_step, _serve, _sweep, _sweep, _plan, _init, _init, _train, _report, _experts, _show, _validate)

SERVERS = (
    "vllm serve openai/gpt-oss-20b --tensor-parallel-size 2 --max-num-seqs 64 --max-num-batched-tokens 4096 "
    "--kv-cache-dtype fp8",
    "vllm serve gpt-oss-20b -tp 1 --gpu-memory-utilization 0.9 "
    """--speculative-config '{"method": "mtp", "num_speculative_tokens": 1}'""",
    "python -m sglang.launch_server --model-path gpt-oss-20b --tp 4 --dp 2 --enable-dp-attention "
    "--mem-fraction-static 0.85",
    "CUDA_VISIBLE_DEVICES=0 trtllm-serve gpt-oss-20b --tp_size 2 --max_batch_size 64 --config extra.yaml",
)


def launch(chance: random.Random, folder: Path) -> str | None:
    """A command that starts a server, broken; the scenario that is made of it runs, or it is refused."""
    from perfmodel.answers.step import answer_step
    from perfmodel.engines.server_flags import read_command
    from perfmodel.explore.first import Ask, first_scenario
    from perfmodel.load import load_scenario
    from perfmodel.output.scenario.first import init_command, write_first

    text = chance.choice(SERVERS)
    kind = chance.random()
    if kind < 0.5:
        words = shlex.split(text)
        at = chance.randrange(2, len(words) + 1)
        words[at:at] = [chance.choice([*ODD_TEXTS, *map(str, ODD_NUMBERS), "nan", "1e400", "{", "[" * 5000])]
        if chance.random() < 0.5 and at + 1 < len(words):
            del words[at + 1]
        text = shlex.join(words)
    elif kind < 0.95:
        text = mutated_text(text, chance)
    (folder / "extra.yaml").write_text(
        mutated_text("moe_config:\n  backend: TRTLLM\nenable_attention_dp: true\n", chance),
        "utf-8",
        "backslashreplace",
    )
    text = text.replace("extra.yaml", str(folder / "extra.yaml"))
    server = read_command(text)
    ask = Ask(
        server.model or "gpt-oss-20b", "8xh200", server.engine, 512, 128, None, None, {}, None, server, text
    )
    first = first_scenario(ask)
    out = folder / "own.yaml"
    write_first(first, out, init_command(ask, out))
    scenario = load_scenario(out)
    return wrong_step(scenario, answer_step(scenario, over_steps=False).values)

"""Files and streams in conditions that only a whole process meets: full, closed, without rights, without end."""

import gzip
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.hostile.rights import without_rights
from bench.hostile.tally import MEMORY_MB, MOST_S, Outcome, Tally

MINE = "base: table7-qwen3-235b\n"
STEP = "step table7-qwen3-235b"
Condition = tuple[str, str, str]
"""Program, command, and how the shell runs it."""
TRACE = "serve deepseek-v3-h800 --set workload.trace"
CONDITIONS: tuple[Condition, ...] = (
    *(
        ("perfmodel", command, shell)
        for command in (
            f"{STEP} --json",
            "show gpus",
            "--help",
            "report mine.yaml --no-serve --format md",
            "experts mine.yaml --json",
            "validate --suite table7 --workers 1",
            "train longcat-flash-train-h800 --json",
            "show scenarios mine.yaml --yaml",
            "sweep mine.yaml --over deployment.batch_per_gpu=1,2 --out ds --workers 1 --json",
            "init gpt-oss-20b --gpus 8xh200 --out own.yaml",
        )
        for shell in (">/dev/full", ">&-")
    ),
    ("perfmodel", f"{STEP} --json", ">&- 2>&-"),
    ("perfmodel", "show gpus", "| head -c 10"),
    ("calibrate", "--help", ">/dev/full"),
    ("calibrate", "--help", ">&-"),
    ("calibrate", f"fit {'a' * 300}", ""),
    ("calibrate", f"check {'a' * 300}", ""),
    ("calibrate", "check loop", ""),
    ("calibrate", "import-tables --tables /dev/zero --system h100-sxm --out cc", ""),
    ("calibrate", "import-tables --tables bomb.csv.gz --system h100-sxm --out cc", ""),
    ("calibrate", "profile --out mine.yaml --minutes 0.01", ""),
    *(
        ("perfmodel", f"{STEP} --html {place}", "")
        for place in ("/dev/full", "missing/x.html", ".", "readonly/x.html", "closed/x.html", "loop")
    ),
    *(
        ("perfmodel", command, "")
        for command in (
            "step mine.yaml --html mine.yaml",
            "step mine.yaml --trace mine.yaml",
            "serve mine.yaml --requests mine.yaml",
            "report mine.yaml --no-serve --out mine.yaml",
            "step link.yaml --html mine.yaml",
            "train mine.yaml --html mine.yaml",
            "experts closed/x.yaml",
            "step closed/x.yaml",
            "step pipe.yaml",
            "step mine.yaml --html pipe.yaml.html",
            "sweep mine.yaml --over deployment.batch_per_gpu=1,2 --out mine.yaml",
            "validate --data mine.yaml --html mine.yaml",
            "sweep mine.yaml --over deployment.batch_per_gpu=1,2 --out ds --show point,tpot_s --html mine.yaml",
            "plan gpt-oss-20b --gpus 8xh200 --isl 9 --osl 9 --users 9 --space mine.yaml --html mine.yaml",
            "init mine.yaml --gpus 8xh200 --out mine.yaml",
            "show traces pipe.yaml",
            "validate --data pipe.yaml",
            "step longcat-flash-h800 --set routing.popularity=histogram --set routing.histogram=pipe.csv",
            "step longcat-flash-h800 --set calibration=/dev",
            f"{TRACE}=bomb.csv.gz",
            f"{TRACE}=bomb.json.gz",
            f"{TRACE}=/dev/zero",
            "show calibrations closed",
        )
    ),
    ("perfmodel", "step /dev/stdin", "</dev/zero"),
    ("perfmodel", "step <(echo base: table7-qwen3-235b) --json", ""),
)


def furnish(folder: Path) -> None:
    """Files of the user's own, and odd ones."""
    (folder / "mine.yaml").write_text(MINE)
    (folder / "link.yaml").symlink_to("mine.yaml")
    (folder / "loop").symlink_to("loop")
    (folder / "readonly").mkdir(mode=0o500)
    (folder / "closed").mkdir(mode=0o000)
    for name in ("pipe.yaml", "pipe.csv"):
        os.mkfifo(folder / name)
    head = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,10,5\n"
    (folder / "bomb.csv.gz").write_bytes(gzip.compress(head + b"\n" * 60_000_000, 1))
    lens = json.dumps({"input_lens": [1], "output_lens": [1], "request_rate": 1.0})[:-1].encode()
    (folder / "bomb.json.gz").write_bytes(
        gzip.compress(lens + b', "itls": [[' + b"0.0, " * 20_000_000 + b"0]]}", 1)
    )


def conditions(tally: Tally, until: float, which: tuple[Condition, ...] = CONDITIONS) -> None:
    """Run each in a process of its own: a line at most, a code of 0, 2 or 3, no file lost, little memory."""
    for program, command, shell in which:
        if time.monotonic() > until:
            return
        with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            furnish(folder)
            outcome = _run(program, command, shell, folder)
            (folder / "closed").chmod(0o700)
        tally.add(outcome, f"{program} {command} {shell}"[:200])


def _begun_mb() -> float:
    """Peak of a process that does nothing: the kernel counts what this one holds at the fork as the child's."""
    used, _ = _waited(subprocess.Popen(["true"], preexec_fn=without_rights))
    return 1.05 * used.ru_maxrss / 1024 if used else 0.0


def _run(program: str, command: str, shell: str, folder: Path) -> Outcome:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = ["bash", "-c", f'"$0" -m {program} {command} {shell}', sys.executable]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as out,
        tempfile.TemporaryFile("w+", errors="replace") as err,
    ):
        begun_mb = _begun_mb()
        process = subprocess.Popen(
            words, cwd=folder, stdout=out, stderr=err, env=environment, preexec_fn=without_rights
        )
        used, code = _waited(process)
        err.seek(0)
        said = err.read()
    if used is None:
        return Outcome("slow", "no end", HANGS_S)
    seconds, megabytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    if megabytes <= begun_mb or begun_mb > MEMORY_MB / 2:
        megabytes = 0.0  # nobody can tell from here: the campaign's own process is small
    told = [line for line in said.strip().splitlines() if not BESIDE.match(line)]
    word = "answered" if code == 0 else "refused"
    if code not in (0, 1, 2, 3) or "Traceback" in said or (code and len(told) > 1):
        word = "traceback"
    elif (folder / "mine.yaml").read_text() != MINE or list(folder.glob("**/.*.part")):
        word = "lost"
    elif seconds > MOST_S:
        word = "slow"
    elif megabytes > MEMORY_MB:
        word = "large"
    return Outcome(word, f"{code} {said[-300:]!r}", seconds, megabytes)


BESIDE = re.compile(r"Usage:|Try |\s*$|wrote |note: |skipped: |timed ")
"""Lines that may stand beside the one that refuses."""
HANGS_S = 180.0
"""Wall seconds after which nobody waits any longer."""


def _waited(process: subprocess.Popen[str]) -> tuple[resource.struct_rusage | None, int]:
    """What a process and those that it waited for took, and its code; None: it did not end, and was ended."""
    until = time.monotonic() + HANGS_S
    while True:
        done, status, used = os.wait4(process.pid, os.WNOHANG)
        if done:
            process.returncode = os.waitstatus_to_exitcode(status)
            return used, process.returncode
        if time.monotonic() > until:
            process.kill()
            process.wait()
            return None, process.returncode
        time.sleep(0.01)

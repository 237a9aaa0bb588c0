"""Every command, whatever path, name, size, type or number: one line and exit 2 or 3, no file lost, little memory."""

import json
import os
import sys

import pytest
from command import run_here
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench.hostile.commands import MINE, judged
from bench.hostile.rights import without_rights
from bench.hostile.workers import _peak_mb, _reset_peak
from perfmodel.errors import DataError, PerfModelError, SpecError
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.paths import opened

MEMORY_MB = 500
LONG = "a" * 300
READ = "is the file of the scenario too"
SWEEP = ("sweep", "table7-qwen3-235b", "--workers", "1", "--out", "ds", "--over")
BATCH = "deployment.batch_per_gpu"
INIT = ("init", "gpt-oss-20b", "--gpus", "8xh200", "--out", "own.yaml")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE)
    (tmp_path / "link.yaml").symlink_to("mine.yaml")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "m.json").write_text((DATA / "models" / "deepseek-v3.json").read_text("utf-8"))
    (tmp_path / "train.yaml").write_text("base: deepseek-v3-train-h800\nmodel: m.json\n")
    return tmp_path


def refused(program, *arguments, folder, code=2):
    done = run_here(program, *arguments, folder=folder)
    assert done.returncode == code, done
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith(f"{program}: ")
    assert (folder / "mine.yaml").read_text() == MINE
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            (
                "sweep",
                "mine.yaml",
                "--over",
                f"{BATCH}=1,2",
                "--out",
                "ds",
                "--show",
                "point,tpot_s",
                "--html",
                "link.yaml",
            ),
            READ,
        ),
        ((*SWEEP, f"{BATCH}=1e-308:1e308:log"), "ends must be 0, or from"),
        ((*SWEEP, f"{BATCH}=-1e308:1e308:n5"), "ends must be 0, or from"),
        ((*SWEEP, f"{BATCH}=nan:2"), "ends must be"),
        ((*SWEEP, f"{BATCH}=1:2:n{'9' * 5000}"), "must be a number of points"),
        ((*SWEEP, f"{BATCH}=1_0:2_0"), "two numbers"),
        ((*SWEEP, f"{BATCH}=1:64", "--design", "lhs", "--points", "2", "--seed", "-1"), "--seed -1"),
        (("sweep", "mine.yaml", "--over", f"{BATCH}=1,2", "--out", "mine.yaml"), "is no folder"),
        ((*INIT, "--rate", "inf"), "--rate inf"),
        ((*INIT, "--users", "9" * 400), "at most 10,000,000"),
        ((*INIT, "--out", "loop"), "can't be reached"),
        (("init", f"./{LONG}", "--gpus", "8xh200"), "can't be reached"),
        (("experts", "longcat-flash-h800", "--zero", "9" * 400), "must be finite"),
        (("experts", "longcat-flash-h800", "--zero", "1_0"), "must be whole numbers"),
        (("train", "train.yaml", "--trace", "m.json"), "is the file of model"),
        (
            (
                "plan",
                "gpt-oss-20b",
                "--gpus",
                "8xh200",
                "--isl",
                "9",
                "--osl",
                "9",
                "--users",
                "9",
                "--space",
                "mine.yaml",
                "--html",
                "link.yaml",
            ),
            "is the file of --space",
        ),
        (("step", "pipe.yaml"), "a pipe that nobody writes to"),
        (("validate", "--data", "pipe.yaml"), "a pipe that nobody"),
        (
            ("step", "mine.yaml", "--set", "cluster.gpu.bf16_tflops=1e-308"),
            "greater than or equal to 0.000001",
        ),
        (("step", "deepseek-v3-h800", "--set", "cluster.gpu.fp8_tflops=3"), "times as fast as the peaks"),
        (("serve", "deepseek-v3-h800", "--set", "cluster.gpu.fp8_tflops=3"), "times as fast as the peaks"),
    ],
    ids=lambda value: " ".join(map(str, value))[:50] if isinstance(value, tuple) else "",
)
def test_options_that_broke_a_command(arguments, said, folder):
    text = refused("perfmodel", *arguments, folder=folder)
    assert said in text


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("vllm serve gpt-oss-20b --speculative-config '" + "[" * 5000 + "'", ""),
        (
            'vllm serve gpt-oss-20b --speculative-config \'{"method": "mtp", "num_speculative_tokens": 1e400}\'',
            "draft tokens",
        ),
        (
            'vllm serve gpt-oss-20b --speculative-config \'{"method": "mtp", "num_speculative_tokens": "x"}\'',
            "draft tokens",
        ),
        ("xvllm serve", "missing"),
    ],
    ids=("deep", "infinite", "text", "no program"),
)
def test_launch_commands_that_broke(command, said, folder):
    arguments = ("init", "--gpus", "8xh200", "--out", "own.yaml", "--from-command", command)
    if said:
        assert said in refused("perfmodel", *arguments, folder=folder)
    else:
        assert run_here("perfmodel", *arguments, folder=folder).returncode == 0


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sweep.json", b"\xff"),
        ("sweep.json", b"[1]"),
        ("sweep.json", b"[" * 5000),
        ("journal.txt", b"\xff\n"),
        ("pieces/0000000.parquet", b"PAR1 and no more"),
        ("pieces/0000000.parquet", b""),
    ],
)
def test_a_dataset_that_is_damaged(file, content, folder):
    assert run_here("perfmodel", *SWEEP, f"{BATCH}=1,2", folder=folder).returncode == 0
    (folder / "ds" / file).write_bytes(content)
    assert "ds" in refused("perfmodel", *SWEEP, f"{BATCH}=1,2", folder=folder)


def test_a_sweeps_leftovers_of_the_dead_are_removed(folder):
    from perfmodel.files import _part_stem

    piece = folder / "ds" / "pieces" / "0000000.parquet"
    assert run_here("perfmodel", *SWEEP, f"{BATCH}=1,2", folder=folder).returncode == 0
    whole = piece.read_bytes()
    piece.unlink()
    left = piece.with_name(f"{_part_stem(piece)}999999999.part")
    left.write_text("half")
    (folder / "ds" / "journal.txt").write_text("0\n" + "9" * 5000 + "\n0")
    assert run_here("perfmodel", *SWEEP, f"{BATCH}=1,2", folder=folder).returncode == 0
    assert not left.exists()
    assert piece.read_bytes() == whole


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", LONG),
        ("check", LONG),
        ("check", "loop"),
        ("fit", "mine.yaml"),
        ("fit", "/dev/null"),
        ("import-tables", "--tables", LONG, "--system", "h100-sxm"),
        ("import-tables", "--tables", "/dev/zero", "--system", "h100-sxm"),
        ("import-tables", "--tables", "pipe.yaml", "--system", "h100-sxm"),
        ("import-tables", "--system", "h20-sxm", "--out", "mine.yaml"),
        ("profile", "--out", "mine.yaml", "--minutes", "0.001"),
        ("profile", "--out", "x", "--minutes", "inf"),
        ("profile", "--out", "x", "--minutes", "nan"),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_what_broke_calibrate(arguments, folder):
    refused("calibrate", *arguments, folder=folder)


def test_timings_that_are_damaged(folder):
    for name, content in (
        ("timings.jsonl", b"[" * 200_000),
        ("timings.parquet", b"PAR1"),
        ("timings.jsonl", b"\xff\n\xff\n"),
    ):
        own = folder / name.partition(".")[2]
        own.mkdir(exist_ok=True)
        (own / name).write_bytes(content)
        refused("calibrate", "fit", own, folder=folder)


def test_names_reach_terminals_as_text(folder):
    name = "a\x1b[2J\u202eb"
    (folder / f"{name}.csv").write_text("arrival_s,input_tokens,output_tokens\n0,5,5\n1,6,6\n")
    (folder / f"{name}.yaml").write_text(MINE)
    for arguments in (
        ("show", "traces", f"./{name}.csv"),
        ("step", f"./{name}.yaml", "--html", f"{name}.html"),
        ("sweep", f"./{name}.yaml", "--over", f"{BATCH}=1,2", "--out", f"{name}.d", "--workers", "1"),
        ("show", "traces", "./[/bold].csv"),
    ):
        done = run_here("perfmodel", *arguments, folder=folder)
        assert "\x1b" not in done.stdout + done.stderr
        assert "\u202e" not in done.stdout + done.stderr


def test_a_table_of_the_dashboard_holds_no_formula():
    import pandas as pd

    from dashboard.show import csv_of

    rows = pd.DataFrame(
        {"name": ["=1+1", "@x", "plain", "<script>"], "value": [1.0, -2.0, 3.0, 4.0], "=2": [1, 2, 3, 4]}
    )
    assert csv_of(rows).splitlines() == [
        "name,value,'=2",
        "'=1+1,1.0,1",
        "'@x,-2.0,2",
        "plain,3.0,3",
        "< script>,4.0,4",
    ]


def test_a_pipe_that_somebody_writes_to_is_read(folder):
    out, into = os.pipe()
    os.write(into, MINE.encode())
    os.close(into)
    with opened(f"/dev/fd/{out}") as file:
        assert file.read() == MINE.encode()
    os.close(out)
    with pytest.raises(DataError, match="nobody writes"):
        opened(folder / "pipe.yaml")


@pytest.mark.skipif(sys.platform != "linux", reason="rights are Linux's")
def test_a_folder_that_may_not_be_entered(folder):
    """In a child that gives up root's rights, where there are any."""
    closed = folder / "closed"
    closed.mkdir(mode=0o000)
    out, into = os.pipe()
    process = os.fork()
    if not process:
        without_rights()
        found = []
        for arguments in (
            ("step", "closed/x.yaml"),
            ("show", "traces", "closed/x.csv"),
            ("step", "mine.yaml", "--html", "closed/x.html"),
            ("init", "closed/x.json", "--gpus", "8xh200"),
            ("sweep", "mine.yaml", "--over", f"{BATCH}=1,2", "--out", "closed/x"),
            ("validate", "--data", "closed/x.csv"),
            ("step", "longcat-flash-h800", "--set", "calibration=closed"),
        ):
            try:
                done = run_here("perfmodel", *arguments, folder=folder)
                found.append([done.returncode, done.stderr])
            except BaseException as error:
                found.append([1, repr(error)])
        os.write(into, json.dumps(found).encode())
        os._exit(0)
    os.waitpid(process, 0)
    os.close(into)
    with os.fdopen(out, "rb") as file:
        found = json.loads(file.read())
    assert len(found) == 7
    for code, said in found:
        assert (code, len(said.strip().splitlines())) == (2, 1), said
        assert "Permission denied" in said


names = st.one_of(
    st.sampled_from(
        [
            "mine.yaml",
            "link.yaml",
            "loop",
            ".",
            "..",
            "/dev/null",
            "/dev/zero",
            "/proc/self/mem",
            LONG,
            "",
            "x/y/z.csv",
        ]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300),
    st.text("/.~-x=[]{}", max_size=20),
)
numbers = st.one_of(
    st.floats().map(repr),
    st.integers(-(10**400), 10**400).map(str),
    st.text("0123456789.eE+-_:,xnaif", max_size=30),
    st.sampled_from(["nan", "inf", "-0", "5e-324", "1e308", "\u0665", "true"]),
)
overrides = st.builds(
    "{}={}".format,
    st.sampled_from([BATCH, "deployment.ep", "model", "calibration", "cluster", "x", "model.moetopk"]),
    st.one_of(names, numbers),
)
SCENARIO = st.one_of(st.just("mine.yaml"), names)


def options(**kinds):
    """Any one or two of some options, with their values."""
    one = st.one_of(
        *(st.tuples(st.just(f"--{key.strip('_').replace('_', '-')}"), kind) for key, kind in kinds.items())
    )
    return st.lists(one, min_size=1, max_size=2).map(lambda pairs: [word for pair in pairs for word in pair])


commands = st.one_of(
    st.tuples(
        st.just(["step"]), SCENARIO.map(lambda one: [one]), options(html=names, trace=names, set=overrides)
    ),
    st.tuples(
        st.just(["experts"]),
        SCENARIO.map(lambda one: [one]),
        options(zero=numbers, real=numbers, set=overrides),
    ),
    st.tuples(
        st.just(["train"]), SCENARIO.map(lambda one: [one]), options(html=names, trace=names, set=overrides)
    ),
    st.tuples(
        st.just(["report", "--no-serve", "--format", "csv"]),
        SCENARIO.map(lambda one: [one]),
        options(out=names, api_usd_per_million_output=numbers, fleet_peak_to_mean=numbers),
    ),
    st.tuples(
        st.just(["sweep", "--workers", "1", "--out", "ds"]),
        SCENARIO.map(lambda one: [one]),
        options(
            over=numbers.map(lambda one: f"{BATCH}={one}"),
            html=names,
            show=names,
            points=numbers,
            seed=numbers,
        ),
    ),
    st.tuples(
        st.just(["init", "--gpus", "8xh200"]),
        names.map(lambda one: [one]),
        options(rate=numbers, users=numbers, out=names, slo=overrides),
    ),
    st.tuples(
        st.just(["init", "gpt-oss-20b", "--gpus", "8xh200"]),
        options(rate=numbers, usd_per_gpu_hour=numbers, from_command=names),
    ),
    st.tuples(
        st.just(["plan", "--gpus", "8xh200"]),
        names.map(lambda one: [one]),
        options(isl=numbers, ttft=numbers, space=names, html=names),
    ),
    st.tuples(
        st.just(["show"]),
        st.sampled_from(["models", "traces", "calibrations", "keys", "scenarios"]).map(lambda one: [one]),
        names.map(lambda one: [one]),
    ),
    st.tuples(st.just(["validate"]), options(suite=names, data=names)),
    st.tuples(
        st.just(["serve", "--set", "workload.num_requests=3"]),
        names.map(lambda one: [one]),
        options(requests=names, result=names, repeats=numbers),
    ),
).map(lambda parts: [word for part in parts for word in part])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(arguments=commands)
@example(["train", "mine.yaml", "--trace", "a\nb"])
def test_whatever_is_given_it_is_one_line(tmp_path_factory, arguments):
    folder = tmp_path_factory.mktemp("any")
    (folder / "mine.yaml").write_text(MINE)
    (folder / "link.yaml").symlink_to("mine.yaml")
    (folder / "loop").symlink_to("loop")
    before = _reset_peak()
    try:
        wrong = judged(arguments, folder)  # AssertionError: no line, or a file lost
    except PerfModelError:
        wrong = None
    assert wrong is None
    assert _peak_mb() - before < MEMORY_MB


def test_a_run_of_training_that_fails_all_the_time(folder):
    arguments = ("train", "deepseek-v3-train-h800", "--set", "training.failures.per_gpu_day=2")
    assert "must be at most 50,000" in refused("perfmodel", *arguments, folder=folder, code=3)


@pytest.mark.parametrize("text", ["1_0", "\u0665", "0x5", "", " ", "1e", "--1", "1,"])
def test_plain_numbers(text):
    from perfmodel.spec.number_list import number_list, plain_number

    with pytest.raises(ValueError, match="is no number"):
        plain_number(text)
    with pytest.raises(SpecError, match="numbers with commas"):
        number_list("--real", text, float)

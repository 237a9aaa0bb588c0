"""Inputs that broke the program once, and others of their kinds: one line, exit 2 or 3, no file lost, little memory."""

import gzip
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command import run_here

from perfmodel.errors import DataError, SpecError
from perfmodel.files import _part_stem, atomic_write
from perfmodel.kernels.calibration_file import content_id, load_calibration
from perfmodel.load import load_scenario, scenario_of_name
from perfmodel.spec.paths import is_file, is_folder, kind_of, printable, quoted, resolved
from perfmodel.spec.traces.read import read_trace

HERE = Path(__file__).parent / "hostile"
HISTOGRAM = ("--set", "routing.popularity=histogram")
MEMORY_MB = 500

MEASURED = """
import re, sys
sys.argv = ["perfmodel", *sys.argv[1:]]
from perfmodel.main import main
try:
    main()
except SystemExit as end:
    code = end.code
print(int(re.search(r"VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())[1]) // 1024, file=sys.stderr)
sys.exit(code)
"""


def run(*arguments, folder="."):
    return run_here("perfmodel", *arguments, folder=folder)


def refused(*arguments, code=2, folder="."):
    """The one line that a command is refused with."""
    done = run(*arguments, folder=folder)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    if "--json" in arguments:
        return str(json.loads(done.stderr)["error"]["message"])
    assert done.stderr.startswith("perfmodel: ")
    return done.stderr


def refused_apart(*arguments):
    """The same of a process of its own, which may take MEMORY_MB and no longer than a minute."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    *lines, memory = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1
    assert int(memory) < MEMORY_MB
    return lines[0]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("batch_true", "deployment.batch_per_gpu = True: must be a number, is true or false"),
        ("beyond_max_positions", "deployment.context_tokens = 140000 is beyond the 131,072 positions"),
        ("faster_than_nonblocking", "spine_oversubscription = 0.1"),
        ("mean_1_of_8_without_zero_experts", "routing.mean_real_experts = 1 must be 8"),
        ("rank_loads_impossible", "routing.rank_loads.0 = 128 is more than any router gives"),
        ("topk_64_from_32_experts", "from topk_group = 1 groups, which hold 32"),
        ("typo_moetopk_ignored", "did you mean model.moe_topk?"),
        ("zero_division", "spine_oversubscription = 5e-324"),
    ],
)
def test_scenarios_that_mean_nothing(file, said):
    assert said in refused("step", HERE / f"{file}.yaml", "--json")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("deployment.ep='128'", "must be a number, is text"),
        ("deployment.batch_per_gpu=true", "is true or false"),
        ("cluster.network.rail_optimized=0.0", "must be true or false, is a number"),
        ("cluster.network.rail_optimized='yes'", "must be true or false, is text"),
        ("routing.layer_means=[8, true]", "routing.layer_means.1 = True"),
        ("serving.graph_batches=[1, '2']", "serving.graph_batches.1 = '2'"),
        ("model.max_context_tokens=1000", "did you mean model.max_position_embeddings?"),
        ("model.rms_norm_eps=2", "nothing reads this key"),
        ("title='a\x1b]0;b'", "not valid YAML"),
        ('title="a\\e[2Jb"', "holds a control character"),
        ('cluster.name="\\ud800"', ""),
    ],
)
def test_values_of_another_kind(override, said):
    assert said in refused("step", "longcat-flash-h800", "--set", override, "--json")


def test_what_the_model_was_made_for_can_be_stated():
    beyond = ("deployment.batch_per_gpu=1", "deployment.context_tokens=140000")
    found = load_scenario("longcat-flash-h800", [*beyond, "model.max_position_embeddings=262144"])
    assert found.model.max_context_tokens == 262144


def test_every_load_that_a_router_can_give_is_taken():
    half = ["64"] * 2 + ["0"] * 126
    assert load_scenario("longcat-flash-h800", [f"routing.rank_loads=[{', '.join(half)}]"]).routing.rank_loads


LONG = "a" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("step", f"./{LONG}.yaml"), ("step", f"{LONG}.yaml"),
        ("step", "longcat-flash-h800", "--set", f"model={LONG}.json"),
        ("step", "longcat-flash-h800", "--set", f"model=./{LONG}"),
        ("step", "longcat-flash-h800", "--set", f"calibration={LONG}"),
        ("step", "longcat-flash-h800", "--set", f"calibration=./{LONG}"),
        ("step", "longcat-flash-h800", *HISTOGRAM, "--set", f"routing.histogram={LONG}.csv"),
        ("serve", "longcat-flash-h800", "--set", f"workload.trace={LONG}"),
        ("serve", "longcat-flash-h800", "--set", f"workload.trace=./{LONG}.csv"),
        ("step", "longcat-flash-h800", "--html", f"{LONG}.html"),
        ("step", "longcat-flash-h800", "--trace", LONG),
        ("serve", "longcat-flash-h800", "--requests", f"{LONG}.csv"),
        ("show", "calibrations", LONG), ("show", "traces", f"./{LONG}.csv"),
        ("validate", "--data", f"{LONG}.csv"), ("report", "longcat-flash-h800", "--no-serve", "--out", f"{LONG}.md"),
        ("step", "loop/x.yaml"), ("step", "longcat-flash-h800", "--html", "loop/x.html"),
        ("step", "file/x.yaml"), ("step", "longcat-flash-h800", "--html", "file/x.html"),
        ("step", "/dev/zero"), ("serve", "longcat-flash-h800", "--set", "workload.trace=/dev/zero"),
        ("step", "longcat-flash-h800", *HISTOGRAM, "--set", "routing.histogram=/dev/zero"),
        ("show", "calibrations", "/dev/null"),
    ],
    ids=lambda value: " ".join(map(str, value))[:60],
)  # fmt: skip
def test_paths_that_lead_nowhere(arguments, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    before = sorted(tmp_path.iterdir())
    assert len(refused(*arguments, folder=tmp_path)) < 900
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    for name in ("a.yaml", "a.json", "a.csv"):
        refused("step", closed / name)
    refused("step", "longcat-flash-h800", "--html", closed / "a.html")


def test_one_guarded_way_to_ask_about_paths(tmp_path):
    (tmp_path / "f").write_text("")
    assert (kind_of(tmp_path), kind_of(tmp_path / "f"), kind_of(tmp_path / "no"), kind_of("/dev/null")) == (
        "folder", "file", "missing", "device",
    )  # fmt: skip
    assert is_file(tmp_path / "f")
    assert is_folder(tmp_path)
    for bad in (tmp_path / LONG, "a\0b", "a\ud800b"):
        with pytest.raises(DataError):
            kind_of(bad)
        with pytest.raises(DataError):
            resolved(bad)
    assert len(quoted("x" * 5000)) < 310
    assert printable("a\x1b[2J\udcffb\u202ec é\n") == "a\\x1b[2J\\udcffb\\u202ec é\n"


def test_full_and_closed_outputs():
    command = [sys.executable, "-m", "perfmodel"]
    for arguments in (["step", "table7-qwen3-235b", "--json"], ["show", "gpus"], ["--help"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*command, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        closed = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *command, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert (closed.returncode, len(closed.stderr.splitlines())) == (2, 1), closed.stderr
        both = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command, *arguments], check=False)
        assert both.returncode == 2


def test_a_name_that_is_no_utf8(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"a\xffb.yaml")
    with open(path, "w") as file:
        file.write("base: table7-qwen3-235b\n")
    page = os.path.join(os.fsencode(tmp_path), b"p\xff.html")
    done = subprocess.run(
        [sys.executable, "-m", "perfmodel", "step", path, "--html", page], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"\xff" not in done.stdout
    assert os.path.exists(page)


def test_a_kill_inside_a_write_leaves_nothing_for_ever(tmp_path):
    target = tmp_path / "step.html"
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    left = target.with_name(f"{_part_stem(target)}{int(dead.stdout)}.part")
    alive = target.with_name(f"{_part_stem(target)}{os.getppid()}.part")
    others = [
        tmp_path / ".other.html.1.part",
        tmp_path / ".step.html.part",
        tmp_path / f".step.html.{dead.stdout.strip()}.part",
    ]
    for path in (left, alive, *others):
        path.write_text("half")
    atomic_write(target, "whole")
    assert not left.exists()
    assert all(path.exists() for path in (alive, *others))
    assert target.read_text() == "whole"


def test_long_names_can_be_written(tmp_path):
    target = tmp_path / ("b" * 250 + ".html")
    atomic_write(target, "x")
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_names_reach_terminals_and_reports_as_text(tmp_path):
    out = tmp_path / "report.md"
    done = run("report", HERE / "names_with_html.yaml", "--no-serve", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "<script" not in out.read_text().replace("\\<script", "")
    table = tmp_path / "report.csv"
    assert run("report", HERE / "names_with_html.yaml", "--no-serve", "--out", table).returncode == 0
    assert "<script" not in table.read_text()


@pytest.mark.parametrize("cell", ["5_0", "\uff15", "0x5", "1e", "٣", "5 0"])
def test_both_ways_of_reading_a_trace_refuse_odd_numbers(cell, tmp_path):
    path = tmp_path / "azure.csv"
    good = "2023-11-16 18:17:03.9799600,10,5"
    path.write_text(
        f"TIMESTAMP,ContextTokens,GeneratedTokens\n{good}\n2023-11-16 18:17:04.0000000,{cell},5\n", "utf-8"
    )
    with pytest.raises(DataError, match="line 3"):
        read_trace(str(path))


@pytest.mark.parametrize("key", ["timestamp", "input_length", "output_length"])
def test_a_number_in_quotes_is_text(key, tmp_path):
    path = tmp_path / "mooncake.jsonl"
    row = {"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": []}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {key: "5"}) + "\n")
    with pytest.raises(DataError, match="line 2"):
        read_trace(str(path))


def packed(path, content):
    path.write_bytes(gzip.compress(content))
    return path


def test_blank_lines_by_the_million(tmp_path):
    head = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,10,5\n"
    for content in (b"\n" * 60_000_000, b"\n" * 60_000_000 + head.splitlines()[1], b" \r\n" * 20_000_000):
        path = packed(tmp_path / "blank.csv.gz", head + content)
        assert "this is no trace" in refused_apart(
            "serve", "longcat-flash-h800", "--set", f"workload.trace={path}"
        )
    path = tmp_path / "blank.csv"
    path.write_bytes(head + b"\n" * 5_000)
    assert len(read_trace(str(path)).input_tokens) == 1  # the end of a file may be blank
    path.write_bytes(head + b"\n" * 5_000 + head.splitlines()[1])
    with pytest.raises(DataError, match="line 3: is empty"):
        read_trace(str(path))


def test_a_result_that_unpacks_to_a_thousand_times_its_size(tmp_path):
    result = (
        b'{"input_lens": [1], "output_lens": [1], "request_rate": 1, "itls": [['
        + b"0.0, " * 40_000_000
        + b"0]]}"
    )
    path = packed(tmp_path / "result.json.gz", result)
    assert path.stat().st_size < 1_000_000
    assert "unpacks to more than 200 times" in refused_apart(
        "serve", "longcat-flash-h800", "--set", f"workload.trace={path}"
    )


def parquet(path, rows, note=None):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {"expert": pa.array(np.zeros(rows, dtype=np.int8)), "tokens": pa.array(np.ones(rows, dtype=np.int8))}
    )
    pq.write_table(
        table.replace_schema_metadata({"perfmodel": note} if note else None), path, compression="zstd"
    )
    return path


def test_rows_are_counted_before_they_are_read(tmp_path):
    path = parquet(tmp_path / "bomb.parquet", 20_000_000)
    assert path.stat().st_size < 2_000_000
    said = refused_apart("step", "longcat-flash-h800", *HISTOGRAM, "--set", f"routing.histogram={path}")
    assert "has 20,000,000 rows" in said


@pytest.mark.parametrize("note", ["[" * 100_000 + "]" * 100_000, "{", "[1]"])
def test_metadata_of_a_parquet_file(note, tmp_path):
    path = parquet(tmp_path / "deep.parquet", 600, note)
    refused("step", "longcat-flash-h800", *HISTOGRAM, "--set", f"routing.histogram={path}")


def test_numbers_of_hundreds_of_digits():
    path = HERE / "histogram_400_digits.csv"
    said = refused("step", "longcat-flash-h800", *HISTOGRAM, "--set", f"routing.histogram={path}")
    assert "tokens = 9999" in said
    assert len(said) < 400


def header_only(shape, dtype="<i2"):
    """An archive whose array claims ``shape`` and holds nothing."""
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, kind in (("values", dtype), ("points", "<f8")):
            member = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                member, {"shape": shape, "fortran_order": False, "descr": kind}
            )
            archive.writestr(f"{name}.npy", member.getvalue())
    return out.getvalue()


def zeros(count):
    out = io.BytesIO()
    np.savez_compressed(out, values=np.zeros(count, dtype=np.int16), points=np.zeros(4))
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        header_only((10**12,)), header_only(()), header_only((2, 2)), header_only((4,), "<f8"), header_only((4,), "|O"),
        zeros(80_000_000), b"PK\x05\x06" + bytes(18), b"",
    ],
    ids=["2 TB", "no dimension", "two dimensions", "floats", "objects", "unpacks to 160 MB", "empty", "nothing"],
)  # fmt: skip
def test_tables_whose_headers_claim_what_is_not_there(content, tmp_path):
    import hashlib
    import shutil

    from perfmodel.spec.catalogue import DATA

    folder = tmp_path / "cal"
    shutil.copytree(DATA / "calibrations" / "h100-sxm", folder)
    (folder / "tables.npz").write_bytes(content)
    file = folder / "calibration.json"
    document = json.loads(file.read_text())
    document["tables"]["sha256"] = hashlib.sha256(content).hexdigest()
    file.write_text(json.dumps(document | {"id": content_id(document)}))
    started = time.process_time()
    with pytest.raises(DataError):
        load_calibration(str(folder))
    assert time.process_time() - started < 20.0


@pytest.mark.parametrize(
    "override",
    ["deployment.batch_per_gpu=1e16", "deployment.context_tokens=1e16", "slo.ttft_ms=1e17",
     "cluster.network.spine_oversubscription=5e-324"],
)  # fmt: skip
def test_links_with_numbers_that_a_browser_cannot_hold(override):
    from dashboard.asked import from_query

    with pytest.raises((SpecError, DataError)):
        from_query({"v": ["1"], "scenario": ["longcat-flash-h800"], "set": [override]}).scenario()


def test_a_link_starts_no_run_of_minutes():
    from dashboard.traffic_runs import _refuse_long

    long = "workload={num_requests: 2000000, input_tokens: 1, output_tokens: 100000}"
    with pytest.raises(SpecError, match="output tokens"):
        _refuse_long(scenario_of_name("longcat-flash-h800", [long, "serving.replicas=1"]))
    _refuse_long(scenario_of_name("longcat-flash-h800"))


def test_every_file_of_a_shipped_calibration_is_hashed():
    """After `calibrate import-tables`, or `python -m calibrate.device.sums`."""
    from perfmodel.kernels.sums import FILE, check_sum
    from perfmodel.spec import catalogue

    for name in catalogue.names("calibrations"):
        folder = catalogue.calibration_path(name).parent
        assert (folder / FILE).is_file()
        for path in folder.rglob("*"):
            if path.is_file() and path.name != FILE:
                assert path.with_name(FILE).is_file()
                check_sum(path)


def test_a_check_that_was_edited_is_not_quoted(tmp_path):
    import shutil

    from perfmodel.kernels.sums import check_sum, write_sums
    from perfmodel.output.catalogue.entries import calibration_values
    from perfmodel.spec.catalogue import DATA

    folder = tmp_path / "epyc"
    shutil.copytree(DATA / "calibrations" / "epyc-zen4-1core", folder)
    assert calibration_values(str(folder))["check"]["failures"] == 0
    check = folder / "check.json"
    check.write_text(check.read_text().replace('"median_abs_pct": ', '"median_abs_pct": 0.'))
    assert "SHA256SUMS beside it says otherwise" in refused("show", "calibrations", str(folder))
    write_sums(folder)
    check_sum(check)
    (folder / "more.csv").write_text("x")
    with pytest.raises(DataError, match="damaged"):
        check_sum(folder / "more.csv")

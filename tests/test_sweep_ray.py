"""A sweep on a Ray cluster: the same bytes, a lost node's pieces again, one line where there is no cluster."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from command import run_here
from ray_cluster import ray_cluster

ROOT = Path(__file__).resolve().parent.parent
BATCH = "deployment.batch_per_gpu"
POINTS = 24
CODE = (
    "import sys; from perfmodel.explore.sweep import run; run.PIECE['step'] = 1; "
    "sys.argv[0] = 'perfmodel'; from perfmodel.main import main; main()"
)
"""The command line, with pieces of one point."""


@contextlib.contextmanager
def begun(folder, *words):
    asked = (
        "sweep",
        "longcat-flash-h800",
        "--over",
        f"{BATCH}=1:{POINTS}",
        "--out",
        folder,
        "--json",
        *words,
    )
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, asked)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(folder, pieces, process):
    """Until so many pieces are journalled."""
    journal, end = folder / "journal.txt", time.monotonic() + 200.0
    while not journal.exists() or len(journal.read_text().split()) < pieces:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "pieces").iterdir())}


def documented(address, folder):
    """The page's command, on this cluster."""
    page = (ROOT / "docs" / "sweep.md").read_text()
    (command,) = re.findall(r"^\.venv/bin/(perfmodel sweep .*--on ray.*)$", page, flags=re.MULTILINE)
    words = shlex.split(command)
    words[words.index("--address") + 1] = address
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "8 of 8 points answered" in done.stdout


def test_a_sweep_survives_its_own_death_and_a_node_s(tmp_path):
    with ray_cluster(nodes=2) as cluster:
        on = ("--on", "ray", "--address", cluster.address)
        with begun(tmp_path / "ray", *on) as process:
            wait_for(tmp_path / "ray", 3, process)
            process.send_signal(signal.SIGKILL)
        with begun(tmp_path / "ray", *on) as process:
            wait_for(tmp_path / "ray", 8, process)
            cluster.tell("kill")
            out, err = process.communicate(timeout=200)
            assert process.returncode == 0, err
        documented(cluster.address, tmp_path)
    found = json.loads(out)  # whatever Ray has to say
    assert (found["points"], found["done"], found["failed"]) == (POINTS, POINTS, 0)
    with begun(tmp_path / "here", "--workers", "1") as process:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    journal = (tmp_path / "ray" / "journal.txt").read_text().split()
    assert sorted(map(int, journal)) == list(range(POINTS))  # none lost, none twice


def asked_on_ray(folder, *words):
    return run_here(
        "perfmodel", "sweep", "longcat-flash-h800", "--over", f"{BATCH}=1", "--out", "x", "--on", "ray", *words,
        folder=folder,
    )  # fmt: skip


def one_line(done, *said):
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    for text in said:
        assert text in done.stderr


def test_without_ray_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    one_line(asked_on_ray(tmp_path), "pip install 'perfmodel[ray]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("head", "HOST:PORT"),
        ("ray://head:10001", "HOST:PORT"),
        ("head:0", "HOST:PORT"),
        ("head:x", "HOST:PORT"),
    ],
)
def test_an_address_has_a_form(tmp_path, monkeypatch, address, said):
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    one_line(asked_on_ray(tmp_path, "--address", address), address, said)


def test_an_address_where_no_cluster_answers_is_one_line(tmp_path, monkeypatch):
    """Nothing, and a server of something else: Ray itself would wait for minutes."""
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        one_line(asked_on_ray(tmp_path, "--address", address), address, "something else")
        thread.join()
    one_line(asked_on_ray(tmp_path, "--address", address), address, "can't be reached", "ray start --head")
    assert not list(tmp_path.iterdir())

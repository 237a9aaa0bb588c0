"""The dashboard's budgets: a change redrawn within 0.5 s of server time, the first screen in 2 s, ten people at once.

Server time is what the script says of each of its runs. In the browser, the time until the first figures are on the
screen is told beside that of an empty Streamlit page, whose front end is most of it.
"""

import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from browser import browser
from sessions import Session, dashboard

LINK = "v=1&scenario=longcat-flash-h800"
BUDGET_S = 0.5


def redrawn(log):
    """Seconds of each run of the script, from what it said."""
    return [float(text) for text in re.findall(r"redrawn What-if in ([\d.]+) s", log.read_text())]


def changes():
    """What somebody moves: every schedule, batches, contexts, prices and acceptances that were not there before."""
    for overlap in ("sbo", "tbo", "sequential", "sbo-engine"):
        yield {"overlap": overlap}
        for number in range(5):
            yield {"ask-batch": 20 + 13 * number + len(overlap)}
            yield {"ask-context": 3000 + 701 * number + len(overlap)}
            yield {"ask-acceptance": 0.70 + 0.031 * number + 0.001 * len(overlap)}


def test_redraw(benchmark, tmp_path):
    """Budget: 95 of 100 changes within 0.5 s of server time, intervals included."""
    log = tmp_path / "log"
    waits = []
    with log.open("wb") as out, dashboard(out, PERFMODEL_DASHBOARD_TIMES="1") as port:
        time.sleep(3.0)  # libraries are being read
        session = None

        def everything():
            nonlocal session
            for change in changes():
                if "overlap" in change:
                    session = Session(port, f"{LINK}&set=deployment.overlap%3D{change['overlap']}")
                    session.run()
                    continue
                started = time.perf_counter()
                page = session.run(**change)
                waits.append(time.perf_counter() - started)
                assert not page.exceptions
                assert page.metrics

        benchmark.pedantic(everything, rounds=1)
    seconds = redrawn(log)
    assert len(seconds) == len(list(changes()))
    benchmark.extra_info |= {
        "changes": len(seconds),
        "server_p50_s": float(np.median(seconds)),
        "server_p95_s": float(np.quantile(seconds, 0.95)),
        "server_max_s": max(seconds),
        "client_p95_s": float(np.quantile(waits, 0.95)),
    }
    print("\nredraw:", {key: round(value, 3) for key, value in benchmark.extra_info.items()})


def test_ten_people(benchmark, tmp_path):
    """Ten sessions that change something all the time, on two cores: how long each waits."""
    log = tmp_path / "log"
    with log.open("wb") as out, dashboard(out, PERFMODEL_DASHBOARD_TIMES="1") as port:
        time.sleep(3.0)

        def person(number):
            session = Session(port, f"{LINK}&set=deployment.batch_per_gpu%3D{20 + number}")
            session.run()
            waits = []
            for turn in range(4):
                started = time.perf_counter()
                page = session.run(**{"ask-context": 2000 + 100 * number + turn})
                waits.append(time.perf_counter() - started)
                assert not page.exceptions
            session.close()
            return waits

        def everyone():
            with ThreadPoolExecutor(10) as pool:
                return [wait for waits in pool.map(person, range(10)) for wait in waits]

        waits = benchmark.pedantic(everyone, rounds=1)
    benchmark.extra_info |= {
        "client_p50_s": float(np.median(waits)),
        "client_p95_s": float(np.quantile(waits, 0.95)),
    }
    print("\nten people:", {key: round(value, 3) for key, value in benchmark.extra_info.items()})


def test_first_screen(benchmark, tmp_path):
    """Budget: 2 s of server time in a server just started; in the browser 3 s more than an empty page takes."""
    log = tmp_path / "log"
    empty = tmp_path / "empty.py"
    empty.write_text("import streamlit as st\nst.metric('nothing', 1)\n")
    with log.open("wb") as out, dashboard(out, PERFMODEL_DASHBOARD_TIMES="1") as port:
        benchmark.pedantic(Session(port).run, rounds=1)  # as soon as it answers at all
        (first,) = redrawn(log)
        with browser() as chrome:
            ours = [visible(chrome, port) for _ in range(5)]
    with _streamlit(empty) as port, browser() as chrome:
        theirs = [visible(chrome, port) for _ in range(5)]
    benchmark.extra_info |= {
        "server_s": first,
        "browser_s": statistics.median(ours),
        "empty_page_s": statistics.median(theirs),
    }
    print("\nfirst screen:", {key: round(value, 3) for key, value in benchmark.extra_info.items()})


def visible(chrome, port):
    """Seconds from opening the address, with nothing in the browser's caches, to the first figure on the screen."""
    context = chrome.new_context()
    page = context.new_page()
    started = time.perf_counter()
    page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
    page.wait_for_selector("[data-testid=stMetricValue]", timeout=60_000)
    seconds = time.perf_counter() - started
    context.close()
    return seconds


class _streamlit:
    """Any script served by Streamlit as the dashboard is."""

    def __init__(self, script):
        from perfmodel.output.start_dashboard import OPTIONS

        self.port = 8600
        words = [f"--{key}={value}" for key, value in OPTIONS.items()]
        words += [f"--server.port={self.port}", "--server.address=127.0.0.1", "--server.headless=true"]
        self.command = [sys.executable, "-m", "streamlit", "run", str(script), *words]

    def __enter__(self):
        from sessions import wait_until_served

        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until_served(self.port)
        return self.port

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)

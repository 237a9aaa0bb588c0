"""Starting and ending the dashboard's server, and several servers behind one address."""

import http.client
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest
from patience import patient_s
from sessions import Session, dashboard

from dashboard.front import Behind, cookie_name, number_in
from perfmodel.answers.step import answer_step
from perfmodel.errors import SpecError
from perfmodel.load import load_scenario
from perfmodel.output.formats import significant
from perfmodel.output.start_dashboard import dashboard_command

LINK = "v=1&scenario=longcat-flash-h800"


def head(*cookies):
    lines = [b"GET / HTTP/1.1", b"Host: localhost", *(b"cookie: " + one for one in cookies), b"", b""]
    return b"\r\n".join(lines)


def test_a_cookie_names_a_server_and_nothing_else_does():
    name = cookie_name(8501).encode()
    assert number_in(head(name + b"=1"), 8501, 2) == 1
    assert number_in(head(b"a=b; " + name + b"=0; c=d"), 8501, 2) == 0
    assert number_in(head(b"a=b", name + b"=1"), 8501, 2) == 1
    for other in (b"", b"=2", b"=-1", b"=x", b"=1x", b"=99999", b"1=1"):
        assert number_in(head(name + other), 8501, 2) is None
    assert number_in(head(b"not_" + name + b"=1"), 8501, 2) is None
    assert number_in(head(cookie_name(8502).encode() + b"=1"), 8501, 2) is None
    assert number_in(b"GET /?cookie: " + name + b"=1 HTTP/1.1\r\n\r\n", 8501, 2) is None
    assert number_in(head(), 8501, 2) is None


def test_what_a_server_knows_of_its_front():
    found = Behind("1,3,0.0.0.0,8501")
    assert (found.number, found.count, found.address, found.port) == (1, 3, "0.0.0.0", 8501)


def test_the_command_for_several_servers():
    assert "--workers=3" in dashboard_command(8501, address="127.0.0.1", headless=True, workers=3)
    assert not [
        one for one in dashboard_command(8501, address="127.0.0.1", headless=True) if "workers" in one
    ]
    for workers in (0, -1, 65):
        with pytest.raises(SpecError, match=f"--workers {workers}: must be from 1 to 64"):
            dashboard_command(8501, address="127.0.0.1", headless=True, workers=workers)


def test_nobody_is_asked_for_an_address():
    command = dashboard_command(8501, address="127.0.0.1", headless=False)
    assert [one for one in command if "Email" in one] == ["--server.showEmailPrompt=false"]


def is_alive(group):
    """Whether any process of a group still runs."""
    for status in os.listdir("/proc"):
        if status.isdigit():
            try:
                with open(f"/proc/{status}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                return True
    return False


@pytest.mark.parametrize("command", ["perfmodel dashboard", "perfmodel dashboard --workers 2"])
def test_the_server_ends_when_its_command_is_ended(command):
    """SIGTERM to the process that was started, as a service manager sends it: all of it ends, and the port is free."""
    with dashboard(command=command) as port:
        with closing(Session(port, LINK)) as session:
            assert session.run().metrics
        port.process.send_signal(signal.SIGTERM)
        assert port.process.wait(patient_s(20.0)) == 0
        end = time.monotonic() + patient_s(20.0)
        while is_alive(port.group):
            assert time.monotonic() < end
            time.sleep(0.05)
        with socket.socket() as again:
            assert again.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def two():
    with dashboard(command="perfmodel dashboard --workers 2") as port:
        yield port


def connected(port):
    """A connection that is closed at the end."""
    return closing(http.client.HTTPConnection("127.0.0.1", int(port), timeout=patient_s(10.0)))


def asked(connection, cookie=""):
    """Which server answers."""
    connection.request("GET", "/_stcore/health", headers={"Cookie": cookie} if cookie else {})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
    (found,) = [
        value for key, value in answer.getheaders() if key.lower() == "set-cookie" and "perfmodel" in value
    ]
    return found.partition(";")[0]


def test_connections_are_spread_and_a_cookie_keeps_its_server(two):
    with ExitStack() as opened:
        connections = [opened.enter_context(connected(two)) for _ in range(4)]
        first = [asked(one) for one in connections]  # all are open at the same time
        assert {one.rpartition("=")[2] for one in first} == {"0", "1"}
        assert [asked(one) for one in connections] == first  # an open connection stays where it is
    for cookie in set(first):
        for _ in range(3):
            with connected(two) as connection:
                assert asked(connection, cookie) == cookie


def test_other_hosts_are_refused_behind_the_front_too(two):
    with connected(two) as connection:
        connection.request("GET", "/", headers={"Host": "elsewhere.example"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 403


def test_sessions_of_several_servers_neither_mix_nor_fail(two):
    batches = {number: [16 + 3 * number, 17 + 3 * number] for number in range(6)}

    def person(number):
        session = Session(two, LINK, cookie=f"{cookie_name(two)}={number % 2}")
        session.run()
        seen = [session.run(**{"ask-batch": batch}) for batch in batches[number]]
        session.close()
        return seen

    with ThreadPoolExecutor(6) as threads:
        everything = list(threads.map(person, batches))
    for number, pages in enumerate(everything):
        for batch, page in zip(batches[number], pages, strict=True):
            assert not page.exceptions
            scenario = load_scenario("longcat-flash-h800", [f"deployment.batch_per_gpu={batch}"])
            speed = answer_step(scenario, over_steps=False).values["tokens_per_s_per_user"]
            assert page.metrics["Tokens/s per user"] == significant(speed)


def test_a_server_that_died_is_started_again(two):
    processes = []
    for status in os.listdir("/proc"):
        if status.isdigit():
            try:
                with open(f"/proc/{status}/cmdline") as file:
                    words = file.read().split("\0")
                with open(f"/proc/{status}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == two.group and "dashboard" in words:
                processes.append(int(status))
    assert len(processes) == 2
    os.kill(processes[0], signal.SIGKILL)
    cookies = [f"{cookie_name(two)}={number}" for number in range(2)]
    end = time.monotonic() + patient_s(60.0)
    answered = set()
    while len(answered) < 2:
        assert time.monotonic() < end
        for cookie in cookies:
            try:
                with connected(two) as connection:
                    answered.add(asked(connection, cookie))
            except (OSError, http.client.HTTPException):
                time.sleep(0.2)
    for cookie in cookies:
        with closing(Session(two, LINK, cookie=cookie)) as session:
            assert session.run().metrics

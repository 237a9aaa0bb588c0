"""The dashboard answers this machine's own names alone: a name of somebody else's that resolves here is refused."""

import asyncio

import pytest

from dashboard.hosts import HostCheck, allowed

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "address", "fine"),
    [
        ("127.0.0.1:8501", LOOPBACK, True), ("localhost:8501", LOOPBACK, True), ("LOCALHOST", LOOPBACK, True),
        ("[::1]:8501", LOOPBACK, True), ("evil.example:8501", LOOPBACK, False), ("10.0.0.1:8501", LOOPBACK, False),
        ("localhost.evil.example", LOOPBACK, False), ("127.0.0.1.evil.example", LOOPBACK, False), ("", LOOPBACK, False),
        ("127.0.0.1:x", LOOPBACK, False), ("[", LOOPBACK, False), ("localhost@evil.example", LOOPBACK, False),
        ("10.0.0.1:8501", EVERYWHERE, True), ("box:8501", EVERYWHERE, True), ("evil.example", EVERYWHERE, False),
        ("box", "", True), ("other", "", False),
    ],
)  # fmt: skip
def test_hosts(host, address, fine):
    assert allowed(host, address, ["box", ""]) is fine


def answered(kind, headers):
    """What a request of these headers leads to: the app's own answer, or a status, or a closed WebSocket."""
    sent = []

    async def app(scope, receive, send):
        sent.append("passed")

    async def send(message):
        sent.append(message.get("status") or message["type"])

    scope = {"type": kind, "headers": [(key, value) for key, value in headers]}
    asyncio.run(HostCheck(app, LOOPBACK)(scope, None, send))
    return sent[0]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ([(b"host", b"localhost:8501")], True),
        ([(b"host", b"localhost:8501"), (b"origin", b"http://localhost:8501")], True),
        ([(b"host", b"evil.example:8501"), (b"origin", b"http://evil.example:8501")], False),
        ([(b"host", b"localhost:8501"), (b"origin", b"http://evil.example")], False),
        ([(b"host", b"localhost:8501"), (b"origin", b"null")], False),
        ([(b"host", b"localhost"), (b"host", b"evil.example")], False),
        ([], False),
    ],
)
def test_requests_and_websockets(kind, headers, fine):
    refused = 403 if kind == "http" else "websocket.close"
    assert answered(kind, headers) == ("passed" if fine else refused)


def test_the_servers_start_and_end_passes():
    assert answered("lifespan", []) == "passed"


def test_it_is_put_before_all_that_streamlit_does(monkeypatch):
    from streamlit.web.server.starlette import starlette_app

    from dashboard.hosts import install

    monkeypatch.setattr(
        starlette_app, "create_streamlit_middleware", starlette_app.create_streamlit_middleware
    )
    install()
    assert starlette_app.create_streamlit_middleware()[0].cls is HostCheck

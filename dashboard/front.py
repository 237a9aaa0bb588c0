"""Several servers behind one address: a connection goes to one of them and stays there, by a cookie that each sets.

Streamlit holds a session in one process: its websocket, its uploads and its downloads must all come there. A browser's
first answer brings a cookie with the server's number, and every later connection carries it; one without goes to the
server that has fewest. Bytes are passed on as they are. A server that has ended is started again: what a session asked
is in its link, and a browser connects anew by itself.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

from dashboard.hosts import App, Receive, Scope, Send

BEHIND = "PERFMODEL_DASHBOARD_BEHIND"
"""Of a server behind this one: ``number of it,number of all,address,port``, the last two of the front."""
MOST_HEADER = 64 * 1024
"""Bytes of a request's head: a link carries an upload of up to 24,000 characters."""
HEAD_S = 30.0
"""That a connection may take to say what it wants."""
STOP_S = 10.0
"""That servers get to end by themselves."""


class Behind:
    """What a server knows of the front before it; see BEHIND."""

    def __init__(self, text: str) -> None:
        number, count, self.address, port = text.split(",")
        self.number, self.count, self.port = int(number), int(count), int(port)

    @property
    def cookie(self) -> str:
        """Its name: cookies are shared by all ports of a host."""
        return cookie_name(self.port)


def behind() -> Behind | None:
    """The front before this process, if there is one."""
    text = os.environ.get(BEHIND)
    return Behind(text) if text else None


def cookie_name(port: int) -> str:
    """Of the cookie that says which server a browser belongs to."""
    return f"perfmodel_dashboard_{port}"


def number_in(head: bytes, port: int, count: int) -> int | None:
    """The server that a request's cookie names; None: no cookie, or no such server."""
    name = re.escape(cookie_name(port).encode())
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"cookie":
            found = re.search(rb"(?:^|;)\s*" + name + rb"=(\d{1,4})\s*(?:;|$)", value)
            if found and int(found[1]) < count:
                return int(found[1])
    return None


class Sticks:
    """ASGI middleware of a server behind a front: every answer says that it came from here."""

    def __init__(self, app: App, cookie: str, number: int) -> None:
        self.app = app
        self.header = (
            b"set-cookie",
            f"{cookie}={number}; Path=/; HttpOnly; SameSite=Strict".encode(),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the cookie."""

        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), self.header]}
            await send(message)

        await self.app(scope, receive, marked if scope["type"] == "http" else send)


def end_with_front() -> None:
    """End this process when the front has gone: its end of our standard input closes then."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=wait, daemon=True).start()


class Server:
    """One server behind the front."""

    def __init__(self, number: int, options: Sequence[str], behind_text: str) -> None:
        self.number, self.connections = number, 0
        self._options, self._environment = options, {**os.environ, BEHIND: behind_text}
        self.start()

    def start(self) -> None:
        """Start it, on a free port of this machine."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        own = [f"--server.port={self.port}", "--server.address=127.0.0.1", "--server.headless=true"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dashboard", *self._options, *own],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # an address that is not for anybody
            env=self._environment,
        )

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to it, as soon as it listens."""
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.05)


class Front:
    """Passes connections on."""

    def __init__(self, port: int, servers: Sequence[Server]) -> None:
        self._port, self._servers = port, servers

    async def passed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first request to its end."""
        server = None
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_S)
            number = number_in(head, self._port, len(self._servers))
            server = (
                min(self._servers, key=lambda one: (one.connections, one.number))
                if number is None
                else self._servers[number]
            )
            server.connections += 1
            inner_reader, inner_writer = await asyncio.wait_for(server.connected(), HEAD_S)
            inner_writer.write(head)
            await asyncio.gather(_copied(reader, inner_writer), _copied(inner_reader, writer))
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # somebody has gone, or never said what they want, or all is over
        finally:
            if server is not None:
                server.connections -= 1
            writer.close()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until there are no more."""
    try:
        while chunk := await reader.read(MOST_HEADER):
            writer.write(chunk)
            await writer.drain()
    finally:
        with suppress(OSError, RuntimeError):
            writer.close()


def serve(count: int, options: Mapping[str, str], others: Sequence[str]) -> None:
    """Serve by ``count`` servers until told to end.

    Args:
        count: servers.
        options: ``server.address``, ``server.port`` and ``server.headless``, which are the front's.
        others: Streamlit's options, for the servers.
    """
    asyncio.run(_serve(count, options, others))


async def _serve(count: int, options: Mapping[str, str], others: Sequence[str]) -> None:
    address, port = options.get("server.address", "127.0.0.1"), int(options.get("server.port", "8501"))
    servers: list[Server] = []
    front = Front(port, servers)
    try:
        listening = await asyncio.start_server(front.passed, address or None, port, limit=MOST_HEADER)
    except OSError as error:
        sys.exit(f"perfmodel dashboard: --port {port}: {error.strerror or error}")
    servers += [Server(n, others, f"{n},{count},{address},{port}") for n in range(count)]
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    shown = "localhost" if address in ("", "0.0.0.0", "::") else address
    print(f"perfmodel dashboard: http://{shown}:{port} ({count} servers)", flush=True)
    if options.get("server.headless") != "true":
        webbrowser.open(f"http://{shown}:{port}")
    while not ended.is_set():
        for server in servers:
            if server.process.poll() is not None:
                server.start()
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), 1.0)
    listening.close()
    for server in servers:
        server.process.terminate()
    for server in servers:
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(STOP_S)
        server.process.kill()

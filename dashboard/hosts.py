"""Who the dashboard answers: only addresses that lead here by themselves.

A page elsewhere whose name is made to resolve to this machine (DNS rebinding) shares its origin with nobody we know,
so requests are refused whose ``Host`` or ``Origin`` is a name that is not this machine's. Numbers need no name and
pass, where the dashboard listens to more than this machine alone.
"""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from dashboard.front import Behind

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def allowed(host: str, address: str, names: Iterable[str] = ()) -> bool:
    """Whether a ``Host`` (with or without a port) leads to a server that listens at ``address``.

    Args:
        host: as a request has it.
        address: where the server listens; empty: everywhere.
        names: further names of this machine.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        urlsplit(f"//{host}").port  # noqa: B018  refuses a port that is none
    except ValueError:
        return False
    if name in LOCAL or (address and name == address.lower()):
        return True
    if _is_loopback(address):
        return False
    return _is_number(name) or name in {one.lower() for one in names if one}


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    return address in LOCAL or (_is_number(address) and ipaddress.ip_address(address).is_loopback)


class HostCheck:
    """ASGI middleware that refuses requests and WebSockets of other hosts and origins."""

    def __init__(self, app: App, address: str, names: Iterable[str] = ()) -> None:
        self.app, self.address, self.names = app, address, tuple(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket") or self._ours(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            text = b"perfmodel dashboard: this address is not one of the machine's own\n"
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": text})

    def _ours(self, scope: Scope) -> bool:
        found: dict[bytes, list[str]] = {}
        for key, value in scope["headers"]:
            found.setdefault(key.lower(), []).append(value.decode("latin-1"))
        hosts, origins = found.get(b"host", []), found.get(b"origin", [])
        if len(hosts) != 1 or not allowed(hosts[0], self.address, self.names):
            return False
        return all(allowed(urlsplit(origin).netloc, self.address, self.names) for origin in origins)


def install(front: "Behind | None" = None) -> None:
    """Put the check before everything that Streamlit's server does; ``front``: what stands before this server, whose
    address is the one that leads here.

    Raises:
        AttributeError, ImportError: this Streamlit builds its server otherwise; better not served than unguarded.
    """
    from starlette.middleware import Middleware
    from streamlit import config
    from streamlit.web.server.starlette import starlette_app

    from dashboard.front import Sticks

    own = starlette_app.create_streamlit_middleware

    def guarded() -> list[Any]:
        address = front.address if front else str(config.get_option("server.address") or "")
        shown = str(config.get_option("browser.serverAddress") or "")
        names = [socket.gethostname(), socket.getfqdn(), shown]
        sticks = [Middleware(Sticks, cookie=front.cookie, number=front.number)] if front else []
        return [*sticks, Middleware(HostCheck, address=address, names=names), *own()]

    starlette_app.create_streamlit_middleware = guarded

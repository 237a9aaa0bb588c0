"""Two network namespaces joined by a link of a chosen rate: a network between processes of one machine.

::

    namespace a                                namespace b
      a 10.9.0.1  ── tbf ──  veth pair  ── tbf ──  b 10.9.0.2

Each end shapes what leaves it with the kernel's token bucket (``tc ... tbf``), so the link is full duplex. Rates can
be set; delay, jitter and loss can't (that takes ``netem``, which many kernels lack). Names carry the process's id:
whatever a killed process left behind is removed by the next.
"""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from perfmodel.errors import UnsupportedError
from perfmodel.units import MEGA, MS

PREFIX = "perfmodel"
ADDRESSES = ("10.9.0.1", "10.9.0.2")
BURST_S = 4e-3
"""The bucket holds what the link carries in this time, so that short messages feel the same link at every rate."""
MIN_BURST_BYTES = 72 * 2**10
"""The kernel hands on 64 KiB of payload as one packet; a bucket that it doesn't fit in makes it cut packets up, which
takes more of the CPU than all the rest of the sending."""
QUEUE_S = 0.2
"""Packets that would wait longer than this are dropped."""
_numbers = itertools.count()


class NoNamespacesError(UnsupportedError):
    """This machine does not let the process make network namespaces; the message says why."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link."""

    namespace: str
    interface: str
    address: str

    @property
    def command(self) -> list[str]:
        """What a command line starts with to run there."""
        return ["ip", "netns", "exec", self.namespace]


class Link:
    """Two namespaces and the link between them, for a ``with`` block; both are gone after it.

    Raises:
        NoNamespacesError: no root, no ``ip`` or ``tc``, or the kernel refuses.
    """

    def __init__(self) -> None:
        stem = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self.ends = tuple(
            End(f"{stem}-{side}", f"veth-{side}", address)
            for side, address in zip("ab", ADDRESSES, strict=True)
        )

    def __enter__(self) -> "Link":
        check_tools()
        remove_stale()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def set_rate(self, bits_per_s: float | None) -> None:
        """Shape both directions to a rate, bit/s, at once and while connections stay open; None: not at all.

        Raises:
            NoNamespacesError: the kernel has no token bucket filter.
        """
        for end in self.ends:
            qdisc = ["tc", "-n", end.namespace, "qdisc"]
            if bits_per_s is None:
                _run([*qdisc, "del", "dev", end.interface, "root"], may_fail=True)
            else:
                _run([*qdisc, "replace", "dev", end.interface, "root", "tbf", *shaping(bits_per_s)])

    def _build(self) -> None:
        a, b = self.ends
        for end in self.ends:
            _run(["ip", "netns", "add", end.namespace])
        peer = ["peer", "name", b.interface, "netns", b.namespace]
        _run(["ip", "link", "add", a.interface, "netns", a.namespace, "type", "veth", *peer])
        for end in self.ends:
            inside = ["ip", "-n", end.namespace]
            _run([*inside, "address", "add", f"{end.address}/30", "dev", end.interface])
            _run([*inside, "link", "set", "lo", "up"])
            _run([*inside, "link", "set", end.interface, "up"])

    def _remove(self) -> None:
        """A namespace takes its interface with it; it goes for good when the last process in it ends."""
        for end in self.ends:
            _run(["ip", "netns", "delete", end.namespace], may_fail=True)


def shaping(bits_per_s: float) -> list[str]:
    """Arguments of ``tc ... tbf`` for a rate, bit/s."""
    burst = max(MIN_BURST_BYTES, round(bits_per_s / 8 * BURST_S))
    return ["rate", f"{bits_per_s:.0f}bit", "burst", f"{burst}b", "latency", f"{QUEUE_S / MS:.0f}ms"]


def parse_rate(text: str) -> float:
    """``25mbit``, or a bare number of Mbit/s, as bit/s.

    Raises:
        UnsupportedError: neither, or not positive.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*(mbit)?\s*", text)
    try:
        rate = float(match[1]) * MEGA if match else 0.0
    except ValueError:
        rate = 0.0
    if not rate > 0:
        raise UnsupportedError(f"rate {text!r} must be a positive number of Mbit/s, such as 25 or 25mbit")
    return rate


def check_tools() -> None:
    """Refuse where namespaces can't be had for want of a program or of rights.

    Raises:
        NoNamespacesError: as said.
    """
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise NoNamespacesError(
                f"no network namespaces: {tool} is not installed (apt-get install iproute2)"
            )
    if os.geteuid() != 0:
        raise NoNamespacesError(
            "no network namespaces: making them takes root, and this is not; use sudo, or --loopback"
        )


def existing() -> list[str]:
    """Namespaces of this program, of whatever process."""
    lines = _run(["ip", "netns", "list"], may_fail=True).splitlines()
    return [line.split()[0] for line in lines if line.startswith(f"{PREFIX}-")]


def remove_stale() -> list[str]:
    """Delete namespaces whose process has ended, and return their names."""
    stale = [name for name in existing() if not Path(f"/proc/{name.split('-')[1]}").exists()]
    for name in stale:
        _run(["ip", "netns", "delete", name], may_fail=True)
    return stale


def _run(command: Sequence[str], *, may_fail: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise NoNamespacesError(f"no network namespaces: {' '.join(command)}: {said}")
    return done.stdout

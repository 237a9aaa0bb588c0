"""What has to wait until everything else of one instant of a simulation has happened."""

from collections.abc import Callable
from typing import Any

import simpy

AFTER_ALL: Any = 2
"""Of simpy's priorities: after whatever else happens at the same time (arrivals and timeouts are 1)."""


def at_the_end_of_this_instant(env: simpy.Environment, then: Callable[[], None]) -> None:
    """Call ``then`` now, after all that is planned for now."""
    event = env.event()
    event.callbacks.append(lambda _: then())
    event._ok, event._value = True, None
    env.schedule(event, priority=AFTER_ALL)

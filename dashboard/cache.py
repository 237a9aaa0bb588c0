"""Results shared by all sessions, by what a scenario says and with a bound on how many are kept."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

from perfmodel.spec.scenario import Scenario

F = TypeVar("F", bound=Callable[..., Any])

MOST_KEPT = 64


class Kept:
    """The last results by key, for all sessions; None is not a result."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self._found: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """What is kept; None: nothing."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Hashable, value: Any) -> Any:
        """Keep a result, unless another session's is there already; the one that is kept."""
        with self._lock:
            kept_one = self._found.setdefault(key, value)
            self._found.move_to_end(key)
            while len(self._found) > self._most:
                self._found.popitem(last=False)
            return kept_one

    def replace(self, key: Hashable, value: Any) -> None:
        """Keep a result in another's place."""
        with self._lock:
            self._found.pop(key, None)
        self.put(key, value)


_keyed: WeakValueDictionary[int, Scenario] = WeakValueDictionary()
_keys: dict[int, str] = {}
_keys_lock = Lock()


def key_of(scenario: Scenario) -> str:
    """Everything that a scenario says; its ``hash`` leaves out names, which pages show."""
    number = id(scenario)
    with _keys_lock:
        if _keyed.get(number) is scenario:
            return _keys[number]
    key = hashlib.sha256(scenario.model_dump_json().encode()).hexdigest()
    with _keys_lock:
        if len(_keys) > 16 * MOST_KEPT:  # of scenarios that are no more
            for gone in set(_keys) - set(_keyed):
                del _keys[gone]
        _keyed[number], _keys[number] = scenario, key
    return key


def key_of_call(arguments: tuple[Any, ...]) -> Hashable:
    """By what a call's result is kept: scenarios by what they say, all else by itself."""
    return tuple(
        key_of(one)
        if isinstance(one, Scenario)
        else key_of_call(tuple(one))
        if isinstance(one, (list, tuple))
        else one
        for one in arguments
    )


def kept(most: int = MOST_KEPT, *, key: Callable[..., tuple[Any, ...]] | None = None) -> Callable[[F], F]:
    """A function of scenarios (and plain values) whose last ``most`` results are kept for all sessions, by what
    ``key`` makes of the arguments, or all of them.

    It runs where it is called: for what takes milliseconds. What computes belongs in :func:`dashboard.pool.pooled`.
    Results are handed out as they are, not copied: they must be frozen, and nobody may change what is in them.
    """

    def decorate(function: F) -> F:
        results = Kept(most)

        @wraps(function)
        def found(*arguments: Any) -> Any:
            named = key_of_call(key(*arguments) if key is not None else arguments)
            known = results.get(named)
            return known if known is not None else results.put(named, function(*arguments))

        return cast(F, found)

    return decorate

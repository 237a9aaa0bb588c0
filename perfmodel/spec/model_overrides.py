"""Overrides of a model's config that nobody reads: a mistyped key would change nothing, in silence."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from perfmodel.errors import PerfModelError, SpecError
from perfmodel.spec.messages import shown
from perfmodel.spec.model import Model

PROBE = "?"
"""A value that every key which is read either refuses or turns into another model."""


NOT_READ = "nothing reads this key of the model's config"
"""By which its message is known."""
OTHERWISE = {"max_context_tokens": "max_position_embeddings", "name": "base"}
"""What answers call a quantity -> the config's key."""


def refuse_unread(
    overrides: Mapping[str, Any], config: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Model]
) -> None:
    """Refuse an override of a key that means nothing to whoever reads the config.

    It is asked, not listed: the config is read once more for each override, with a value there that no key takes.

    Args:
        overrides: keys stated beside the config.
        config: without them.
        read: config -> model.

    Raises:
        SpecError: as said, with the nearest keys.
    """
    changed = [key for key, value in overrides.items() if key not in config or config[key] != value]
    if not changed:
        return
    try:
        plain = read(config)
    except PerfModelError:  # whole only with the overrides: nothing to compare with
        return
    for key in changed:
        try:
            same = read({**config, key: PROBE}) == plain
        except PerfModelError:
            continue
        if same:
            raise SpecError(
                f"model.{key} = {shown(overrides[key])}: {NOT_READ}, so it would change nothing{_meant(key, config)}"
            )


def _meant(key: str, config: Mapping[str, Any]) -> str:
    """The keys that may be meant, spelled alike but for case and underscores."""
    if key in OTHERWISE:
        return f"; did you mean model.{OTHERWISE[key]}?"
    plain = {str(name).replace("_", "").lower(): str(name) for name in config if name != key}
    near = difflib.get_close_matches(key.replace("_", "").lower(), plain, n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(f'model.{plain[one]}' for one in near)}?" if near else ""

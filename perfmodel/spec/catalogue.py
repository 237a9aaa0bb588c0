"""The catalogue: named models, GPUs, clusters, prices and scenarios that ship as data files.

What describes models and hardware (pydantic, and a class for each part) is imported where an entry is made one: a name
that there is not is told without.
"""

import difflib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.errors import SpecError
from perfmodel.spec.documents import read_document
from perfmodel.spec.paths import is_folder, names_file

if TYPE_CHECKING:
    from perfmodel.spec.hardware import Gpu
    from perfmodel.spec.model import Model
    from perfmodel.spec.models.reader import Reading

DATA = Path(__file__).resolve().parent.parent / "data"
"""Folder of everything that ships as data."""


@cache
def _table(kind: str) -> Mapping[str, Any]:
    """The entries of one kind, by name."""
    if kind == "scenarios":
        return {path.stem: path for path in sorted((DATA / "scenarios").glob("*.yaml"))}
    if kind == "calibrations":
        return {path.parent.name: path for path in sorted((DATA / "calibrations").glob("*/calibration.json"))}
    if kind == "models":
        return read_document(DATA / "models" / "index.yaml")
    return read_document(DATA / f"{kind}.yaml")


def names(kind: str) -> tuple[str, ...]:
    """Names in the catalogue of ``kind``: models, gpus, clusters, prices, scenarios or calibrations."""
    return tuple(_table(kind))


def entry(kind: str, name: str) -> dict[str, Any]:
    """The document behind a catalogue name.

    Raises:
        SpecError: no such name; the message proposes the nearest ones.
    """
    _known(kind, name)
    value = _table(kind)[name]
    return deepcopy(_shipped(value)) if isinstance(value, Path) else dict(value)


@cache
def _shipped(path: Path) -> dict[str, Any]:
    """A file of the package, which nobody changes while it runs."""
    return read_document(path)


def _known(kind: str, name: str) -> None:
    """Refuse a name that the catalogue does not have, and propose the nearest ones."""
    table = _table(kind)
    if name not in table:
        near = difflib.get_close_matches(name, table, n=3) or list(table)[:6]
        hint = f"did you mean {' or '.join(near)}?" if near else ""
        raise SpecError(f"{kind}: {name!r} is not in the catalogue; {hint} (perfmodel show {kind})")


def check_scenario(name: str) -> None:
    """Refuse what is neither a path nor a scenario of the catalogue.

    Raises:
        SpecError: as said; the message proposes the nearest names.
    """
    if not (names_file(name) or "/" in name):
        _known("scenarios", name)


def cluster_named(name: str) -> str | None:
    """The cluster that a short name means: its own name, its GPU's, or that up to the first hyphen (h200); None: no
    cluster.

    Of several the first in the catalogue's order.
    """
    if name in _table("clusters"):
        return name
    gpus = {cluster: str(of["gpu"]) for cluster, of in _table("clusters").items()}
    whole = [cluster for cluster, gpu in gpus.items() if name == gpu]
    return next(
        iter([*whole, *(cluster for cluster, gpu in gpus.items() if name == gpu.partition("-")[0])]), None
    )


def calibration_path(name: str) -> Path:
    """The ``calibration.json`` of a catalogue name, of a folder, or of its own path.

    Raises:
        SpecError: neither a path (with a slash, or ending in .json) nor a name in the catalogue.
    """
    if name.endswith(".json"):
        return Path(name)
    if "/" in name or is_folder(name):
        return Path(name) / "calibration.json"
    _known("calibrations", name)
    return Path(_table("calibrations")[name])


def gpu(name: str) -> "Gpu":
    """A GPU of the catalogue."""
    from perfmodel.spec.hardware import Gpu

    return Gpu(name=name, **entry("gpus", name))


def model_config(name: str) -> dict[str, Any]:
    """The Hugging Face config of a catalogue model."""
    return read_document(DATA / "models" / entry("models", name)["file"], infinite=True)


def model(name: str, overrides: Mapping[str, Any] | None = None) -> "Model":
    """A model of the catalogue, with some keys of its config replaced.

    Raises:
        SpecError: unknown name, or an override that makes the config inconsistent.
        UnsupportedError: an override selects a kind of layer that is not modelled.
    """
    return model_reading(name, overrides).model


def model_reading(name: str, overrides: Mapping[str, Any] | None = None) -> "Reading":
    """As :func:`model`, with the family and the keys that nobody has read."""
    return _reading_of(name, overrides) if overrides else _reading_as_published(name)


@cache
def _reading_as_published(name: str) -> "Reading":
    """Once for all scenarios: to read a config is most of what a scenario of the catalogue takes to load."""
    return _reading_of(name, {})


def _reading_of(name: str, overrides: Mapping[str, Any] | None) -> "Reading":
    from perfmodel.spec.model_overrides import refuse_unread
    from perfmodel.spec.models.reader import model_from_config, read_config
    from perfmodel.spec.models.wrappers import beneath

    card = entry("models", name)
    published_config = beneath(model_config(name), overrides or {})
    refuse_unread(overrides or {}, published_config, lambda one: model_from_config(one, name=name))
    config = published_config | dict(overrides or {})
    expected = card.get("expected_real_experts")
    if overrides and {"moe_topk", "n_routed_experts", "zero_expert_num"} & set(overrides):
        expected = (
            None  # K_e was trained for the published experts; other counts fall back to uniform routing
        )
    reading = read_config(config, name=name, expected_real_experts=expected)
    found = reading.model
    if card.get("published_formats"):
        own = found.formats.model_copy(update={"published": tuple(card["published_formats"])})
        found = found.model_copy(update={"formats": own})
    published = card.get("activation")
    if published and expected is not None:
        found = _with_activation(found, published)
    return replace(reading, model=found)


def _with_activation(model: "Model", published: Mapping[str, Any]) -> "Model":
    """The model with the published spread and means of its number of real experts."""
    fields = {
        "std_real_experts": published["std"],
        "real_experts_by_workload": dict(published.get("by_workload", {})),
    }
    layers = tuple(
        layer.model_copy(update={"moe": layer.moe.model_copy(update=fields)}) if layer.moe else layer
        for layer in model.layers
    )
    return model.model_copy(update={"layers": layers})

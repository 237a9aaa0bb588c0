"""What ``perfmodel show`` tells of a model, of a ``config.json`` and of a family."""

from pathlib import Path
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.ops.parameters import (
    active_by_real_experts,
    fixed_bytes_per_request,
    growing_bytes_per_token,
    index_bytes_per_token,
    kv_bytes_per_token,
    parameter_counts,
)
from perfmodel.spec import catalogue
from perfmodel.spec.model import Model
from perfmodel.spec.models import families
from perfmodel.units import GIGA


def named_values(name: str) -> dict[str, Any]:
    """Of a model of the catalogue, or of a ``config.json``; what is raised: :func:`config_values`."""
    return model_values(name) if name in catalogue.names("models") else config_values(name)


def model_rows() -> list[dict[str, Any]]:
    """A line about every model of the catalogue, as its files say now."""
    return [model_row(name) for name in catalogue.names("models")]


def family_rows() -> list[dict[str, Any]]:
    """A line about every family."""
    return [family_row(name) for name in families.listed()]


def model_values(name: str) -> dict[str, Any]:
    """Counts of a model: totals, active parameters by number of real experts, cache bytes, provenance."""
    reading, card = catalogue.model_reading(name), catalogue.entry("models", name)
    model = reading.model
    return {
        "name": name,
        "title": card.get("title", name),
        **_counted(model),
        "formats": _formats(model),
        "keys_not_read": list(reading.unread),
        "step_modelled": model.unmodelled is None,
        "card": card.get("card"),
        "source": card["source"],
        "retrieved": str(card["retrieved"]),
    }


def config_values(path: str) -> dict[str, Any]:
    """Counts of a ``config.json``, which family reads it, and what of it nobody reads.

    Raises:
        SpecError: neither a file nor a name of the catalogue, or a config that is none.
        UnsupportedError: a key, or a value of one, that perfmodel does not model.
        DataError: a file that can't be read.
    """
    if not (path.endswith(".json") or "/" in path):
        catalogue.entry("models", path)  # which refuses it and proposes names
    from perfmodel.load import read_file  # all of a scenario's sections

    reading = read_file(Path(path), {})
    family = reading.family
    return {
        "name": reading.model.name,
        "family": family.name,
        "read_as": family.title,
        "family_known": not reading.generic,
        **_counted(reading.model),
        "formats": _formats(reading.model),
        "keys_not_read": {key: str(value)[:60] for key, value in reading.unread.items()},
        "source": family.source,
    }


def family_values(name: str) -> dict[str, Any]:
    """What a family's file says, its bases merged in.

    Raises:
        SpecError: no such family.
    """
    if name not in families.listed():
        raise SpecError(f"families: {name!r} is not among {', '.join(families.listed())}")
    return families.family(name).model_dump(mode="json", exclude_defaults=True)


def _formats(model: Model) -> dict[str, str]:
    """Number formats of a checkpoint, as far as they are stated."""
    return {key: str(value) for key, value in model.formats.model_dump().items() if value}


def _counted(model: Model) -> dict[str, Any]:
    counts = parameter_counts(model)
    return {
        "parameters_total": counts.total,
        "parameters_active": active_by_real_experts(model),
        "parameters_active_with_embedding": active_by_real_experts(model, with_embedding=True),
        "parameters_by_component": {key: getattr(counts, key) for key in counts.__slots__},
        "kv_bytes_per_token": kv_bytes_per_token(model),
        "kv_bytes_per_token_fp8": kv_bytes_per_token(model, "fp8"),
        "growing_kv_bytes_per_token": growing_bytes_per_token(model),
        "index_bytes_per_token": index_bytes_per_token(model),
        "fixed_bytes_per_request": fixed_bytes_per_request(model),
        "num_layers": model.num_layers,
    }


def model_row(name: str) -> dict[str, Any]:
    """One line about a model of the catalogue."""
    values = model_values(name)
    active = values["parameters_active"]
    return {
        "name": name,
        "total (B)": values["parameters_total"] / GIGA,
        "active (B), by real experts": ", ".join(
            f"{key}: {value / GIGA:.3g}" for key, value in active.items()
        ),
        "KV bytes/token": float(values["kv_bytes_per_token"]),
        "step": "yes" if values["step_modelled"] else "counts only",
        "retrieved": values["retrieved"],
    }


def family_row(name: str) -> dict[str, Any]:
    """One line about a family."""
    family = families.family(name)
    kinds = dict.fromkeys(str(one["kind"]) for one in family.attentions.values() if one["kind"] != "none")
    return {
        "name": name,
        "models": family.title,
        "model_type": ", ".join(family.model_types),
        "attention and mixers": ", ".join(kinds),
    }

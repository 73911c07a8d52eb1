"""The table of known models: what their graphs do not say. Sense, preprocessing, licence, sizes, measured speed.

The data is in ``known_models.json``. Sizes are megabytes of each dtype's file; speeds are milliseconds per image on two
x86-64 cores with ONNX Runtime's CPU provider.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from streamdepth.core.frame import Sense
from streamdepth.models.spec import Family, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One row of the table.

    Attributes:
        name: Hub repository.
        sense: meaning of the output.
        preprocessing: rules, used if the repository has no preprocessor file.
        licence: SPDX id or name, empty where unverified.
        sizes_mb: dtype -> megabytes to download.
        speed_ms: ``"dtype WxH"`` -> milliseconds per image (see the module's docstring).
        notes: lines for people.
    """

    name: str
    sense: Sense
    preprocessing: Preprocessing
    licence: str = ""
    sizes_mb: Mapping[str, int] = field(default_factory=dict)
    speed_ms: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def known_models() -> tuple[KnownModel, ...]:
    """All rows, in the order of display."""
    text = files("streamdepth.models").joinpath("known_models.json").read_text(encoding="utf-8")
    data = json.loads(text)
    presets = {key: preprocessing_from(values) for key, values in data["preprocessing"].items()}
    return tuple(
        KnownModel(
            name=row["name"],
            sense=Sense(row["sense"]),
            preprocessing=presets[row["preprocessing"]],
            licence=row.get("licence", ""),
            sizes_mb=MappingProxyType(row.get("sizes_mb", {})),
            speed_ms=MappingProxyType(row.get("speed_ms", {})),
            notes=tuple(row.get("notes", ())),
        )
        for row in data["models"]
    )


def find_known(repository: str) -> KnownModel | None:
    """The row of a Hub repository, None where there is none. Upper and lower case are equal, as on the Hub."""
    name = repository.lower()
    return next((model for model in known_models() if model.name.lower() == name), None)


def preprocessing_from(values: Mapping[str, Any], base: Preprocessing | None = None) -> Preprocessing:
    """``base`` (default: Depth Anything's rules) with the fields of a mapping replaced; triples may be lists.

    Raises:
        ValueError: an unknown name, or an invalid value.
    """
    base = Preprocessing() if base is None else base
    known = [f.name for f in fields(base)]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"there is no {key}; choose from {', '.join(known)}")
        changes[key] = _typed(key, value, getattr(base, key))
    return replace(base, **changes)


def _typed(key: str, value: Any, like: Any) -> Any:
    # the text "false" or 0.5 in a configuration file must not become True or 0
    if isinstance(like, Family):
        return Family(value)
    if isinstance(like, bool):
        fits = isinstance(value, bool)
    elif isinstance(like, tuple):
        fits = isinstance(value, (list, tuple)) and all(_number(v) for v in value)
        value = tuple(map(float, value)) if fits else value
    elif isinstance(like, float):
        fits = _number(value)
    else:
        fits = isinstance(value, type(like)) and not isinstance(value, bool)
    if not fits:
        kind = {"bool": "true or false", "tuple": "three numbers", "float": "a number", "int": "a whole number"}
        raise ValueError(f"{key} is {kind.get(type(like).__name__, 'text')}, not {value!r}")
    return value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

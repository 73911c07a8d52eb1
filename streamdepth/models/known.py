"""The table of known models, and what the names of outputs say.

The table has what graphs do not say: sense, preprocessing, licence, sizes, measured speed.

The data is in ``known_models.json``. Sizes are megabytes of each dtype's file; speeds are milliseconds per image on two
x86-64 cores with ONNX Runtime's CPU provider.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import ModelError
from streamdepth.core.frame import Sense
from streamdepth.models.spec import MAX_SIDE_PX, Family, Head, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamdepth.models.graph import GraphInfo


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


@dataclass(frozen=True, slots=True)
class KnownFamily:
    """A family of models, recognised by configuration, metadata, outputs, or the name of the file or repository.

    Attributes:
        name: for people.
        sense: meaning of the output; of one with ``focal_divisor`` without intrinsics.
        preprocessing: rules, used if the model has no preprocessor file.
        licence: SPDX id or name, empty where unknown or different between members.
        head: how depth is read, with the names of the graph's outputs.
        points: output with points, empty for a map.
        by_name: only the name says that it is of the family.
    """

    name: str
    sense: Sense
    preprocessing: Preprocessing
    licence: str
    head: Head
    points: str = ""
    by_name: bool = False


_NON_COMMERCIAL = ("-NC", "Apple-AMLR", "noncommercial", "non-commercial")
_COPYLEFT = ("AGPL", "GPL")


def licence_note(licence: str) -> str:
    """What a licence restricts, empty where commercial use is free."""
    if any(part in licence.upper() for part in map(str.upper, _NON_COMMERCIAL)):
        return f"licence {licence} forbids commercial use"
    if any(part in licence.upper() for part in _COPYLEFT):
        return f"licence {licence} is copyleft: it extends to software that uses the model"
    return ""


def find_family(graph: GraphInfo, names: Sequence[str], model_type: str = "") -> KnownFamily | None:
    """The family of a model, by its configuration, metadata and outputs first, then by names; None if unknown.

    Args:
        names: of the file and the repository.
        model_type: of ``config.json``.
    Raises:
        ModelError: invalid metadata.
    """
    data = _data()
    text = " ".join(names).lower()
    outputs = {bare_name(t.name): t.name for t in graph.outputs}
    ranks = {len(t.shape) for t in graph.inputs if t.shape is not None}
    kind = model_type.lower().replace("-", "_")

    def certain(row: Mapping[str, Any]) -> bool:
        if kind and kind in row.get("config", ()):
            return True
        if "metadata" in row:
            return all(graph.metadata.get(key) == value for key, value in row["metadata"].items())
        needed = row.get("outputs", ())
        return bool(needed) and set(needed) <= set(outputs) and row.get("rank", 0) in {0, *ranks}

    row, by_name = next((row for row in data["families"] if certain(row)), None), False
    if row is None:
        named = (row for row in data["families"] if "files" in row and re.search(row["files"], text))
        row, by_name = next(named, None), True
    if row is None:
        return None
    head = dict(row.get("head", {}))
    points = outputs.get(head.pop("points", ""), "")
    if head.get("kind", "map") != "map" and not points:
        head["kind"] = "map"
    found: dict[str, Any] = {
        key: outputs.get(value, "") if key not in ("kind", "focal_divisor") else value for key, value in head.items()
    }
    licence = next((name for pattern, name in row.get("licence", ()) if re.search(pattern, text)), "")
    rules = preprocessing_from(data["preprocessing"][row["preprocessing"]])
    side = re.search(r"[-_](192|224|256|384|512)(?!\d)", text)
    if side and row["name"] in ("DPT", "MiDaS 2.1"):  # MiDaS' files name the side they were trained with
        rules = replace(rules, width_px=int(side[1]), height_px=int(side[1]))
    trained = [int(size) for size in re.findall(r"-?\d+", graph.metadata.get("imgsz", ""))]
    if not all(1 <= size <= MAX_SIDE_PX for size in trained):
        raise ModelError(f"{names[-1]}: its metadata has imgsz {graph.metadata['imgsz']}; export it again")
    if len(trained) in (1, 2):
        rules = replace(rules, height_px=trained[0], width_px=trained[-1])
    return KnownFamily(row["name"], Sense(row["sense"]), rules, licence, Head(**found), points, by_name)


@cache
def _data() -> Mapping[str, Any]:
    text = files("streamdepth.models").joinpath("known_models.json").read_text(encoding="utf-8")
    data: Mapping[str, Any] = json.loads(text)
    return data


def known_models() -> tuple[KnownModel, ...]:
    """All rows, in the order of display."""
    data = _data()
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
    elif isinstance(like, float) or key == "multiple_of":
        fits = _number(value)
    else:
        fits = isinstance(value, type(like)) and not isinstance(value, bool)
    if not fits:
        kind = {"bool": "true or false", "tuple": "three numbers", "float": "a number", "int": "a whole number"}
        raise ValueError(f"{key} is {kind.get(type(like).__name__, 'text')}, not {value!r}")
    return value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Names of outputs --------------------------------------------------------------------------------------------------

_DEPTH_NAMES = ("predicted_depth", "depth", "depths", "depth_map", "disparity", "inverse_depth")
"""Names of depth outputs, the most common first."""
_DEPTH_WORDS = frozenset({"depth", "depths", "disp", "disps", "disparity", "inverse", "z"})
_INVERSE_WORDS = frozenset({"disp", "disps", "disparity", "inverse", "inv"})
_METRIC_WORDS = frozenset({"metric", "metres", "meters"})
_FIRST_WORDS = frozenset({"metric", "refined", "final", "full", "fused"})
_LAST_WORDS = frozenset({"coarse", "init", "initial", "raw", "aux", "rough", "prior", "low", "rel", "relative"})
"""Words that say which of several depth outputs is the result."""
_OTHER_WORDS = frozenset(
    {
        *("conf", "confidence", "uncertainty", "uncertainties", "variance", "var", "sigma", "std", "score", "scores"),
        *("mask", "masks", "valid", "validity", "sky", "seg", "segmentation", "semantic", "logits", "class", "classes"),
        *("normal", "normals", "edge", "edges", "boundary", "alpha", "matte", "pha", "fgr", "prob", "probs", "label"),
        *("feature", "features", "feat", "feats", "token", "tokens", "hidden", "state", "embedding", "embeddings"),
        *("attention", "attentions", "box", "boxes", "bbox", "bboxes", "labels", "landmarks", "keypoints", "heatmap"),
        *("intrinsics", "pose", "extrinsics", "ray", "rays", "focal", "fov", "flow", "points", "point", "pts", "cache"),
        *("saliency", "salient", "sal", "shadow", "albedo", "roughness", "luminance", "luma", "occlusion"),
        *("visibility", "quality", "kappa", "sigmoid"),
        *("density", "crowd", "thermal", "temperature", "heat", "anomaly", "error", "err", "residual", "loss"),
        *("gradient", "grad", "log", "neg", "negative", "weight", "weights", "bin", "bins", "space", "wise"),
    }
)
"""Words in the names of outputs that are not depth, even beside a depth word (``depth_conf``, ``DepthToSpace``)."""
_PICTURE_WORDS = frozenset({"image", "img", "gray", "grey", "height"})
"""As before, but not beside a depth word (``depth_image``)."""


def bare_name(name: str) -> str:
    """The name of a tensor without prefix and number, lower case: ``model/Depth:0`` -> ``depth``."""
    return name.rsplit("/", 1)[-1].partition(":")[0].lower()


def _words(name: str) -> frozenset[str]:
    """Lower-case words of a name: ``model/predictedDepth_0:0`` has predicted, depth; ``depthconf`` has depth, conf."""
    last = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.rsplit("/", 1)[-1].partition(":")[0]).lower()
    return frozenset(word for word in re.split(r"[^a-z]+|(depth|disparity)", last) if word)


def other_name(name: str) -> str:
    """Why a name is not that of a depth map, empty where it may be."""
    words = _words(name)
    other = words & (_OTHER_WORDS if words & _DEPTH_WORDS else _OTHER_WORDS | _PICTURE_WORDS)
    return f"its name says {min(other)}, not depth" if other else ""


def rank_of_name(name: str) -> tuple[int, int, int]:
    """Order of the names of depth outputs: by words (``final`` before ``coarse``), then the common names, then by the
    number at the end, 0 = full size by convention.
    """
    bare, words = bare_name(name), _words(name)
    number = re.search(r"(\d+)$", bare)
    stage = bool(words & _LAST_WORDS) - bool(words & _FIRST_WORDS)
    order = _DEPTH_NAMES.index(bare) if bare in _DEPTH_NAMES else len(_DEPTH_NAMES) + says_inverse(name)
    return stage, order, int(number[1]) if number else 0


def says_depth(output: str) -> bool:
    """Whether the name of an output says that it is depth."""
    return bool(_words(output) & _DEPTH_WORDS)


def says_inverse(output: str) -> bool:
    """Whether the name of a depth output says that near is large (``disp_0``)."""
    return bool(_words(output) & _INVERSE_WORDS)


def sense_of_output(output: str) -> Sense | None:
    """What the name of a depth output says of its values, None if nothing: ``disp_0``, ``metric_depth``,
    ``distance``.
    """
    words = _words(output)
    if words & _INVERSE_WORDS:
        return Sense.RELATIVE_INVERSE
    if words & _METRIC_WORDS:
        return Sense.METRIC_M
    return Sense.RELATIVE_DEPTH if "distance" in words else None

"""``config.json`` and ``preprocessor_config.json``, as transformers and transformers.js write them; other formats."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import ModelError
from streamdepth.core.frame import Sense
from streamdepth.models.spec import Family, Preprocessing, Resample

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG_NAME = "config.json"
PREPROCESSOR_NAME = "preprocessor_config.json"

# PIL.Image.Resampling numbers, which preprocessor_config.json uses. Box and Hamming have no counterpart here.
_RESAMPLE: dict[int, Resample] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}

_FAMILY = {
    "DPTImageProcessor": Family.DPT,
    "DPTFeatureExtractor": Family.DPT,
    "GLPNImageProcessor": Family.GLPN,
    "GLPNFeatureExtractor": Family.GLPN,
    "ZoeDepthImageProcessor": Family.ZOEDEPTH,
    "DepthProImageProcessor": Family.DEPTH_PRO,
}

# the defaults of each processor in transformers, for keys that a file leaves out
_HALF = (0.5, 0.5, 0.5)
_DEFAULTS = {
    Family.DPT: Preprocessing(width_px=384, height_px=384, keep_aspect=False, multiple_of=1, mean=_HALF, std=_HALF),
    Family.GLPN: Preprocessing(
        family=Family.GLPN,
        multiple_of=32,
        resample="bilinear",
        do_normalize=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
    Family.ZOEDEPTH: Preprocessing(
        family=Family.ZOEDEPTH,
        width_px=512,
        height_px=384,
        do_pad=True,
        multiple_of=32,
        resample="bilinear",
        mean=_HALF,
        std=_HALF,
    ),
    Family.DEPTH_PRO: Preprocessing(
        family=Family.DEPTH_PRO,
        width_px=1536,
        height_px=1536,
        keep_aspect=False,
        multiple_of=1,
        resample="bilinear",
        mean=_HALF,
        std=_HALF,
    ),
}


@dataclass(frozen=True, slots=True)
class JsConfig:
    """``transformers.js_config`` of ``config.json``.

    Attributes:
        subfolder, model_file_name: place of the graph.
        dtype: the author's choice for the graph and device, empty if none.
        free_dimensions: names of dynamic dimensions -> values fixed by the author.

    ``use_external_data_format`` is not read: it counts files by a naming rule, and the graph names its weight files.
    """

    subfolder: str = "onnx"
    model_file_name: str = "model"
    dtype: str = ""
    free_dimensions: tuple[tuple[str, int], ...] = ()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror}); check its permissions") from exc
    except ValueError as exc:
        raise ModelError(f"{path}: not valid JSON ({exc}); repair it, delete it, or download it again") from exc
    if not isinstance(value, dict):
        raise ModelError(f"{path}: not a JSON object; repair it, delete it, or download it again")
    return value


def js_config(config: Mapping[str, Any], provider: str, where: str) -> JsConfig:
    """``transformers.js_config`` of ``config.json`` for a provider (its name selects in ``device_config``).

    Raises:
        ModelError: a value of the wrong kind.
    """
    found = config.get("transformers.js_config")
    if found is None:
        return JsConfig()
    if not isinstance(found, dict):
        raise ModelError(f"{where}: transformers.js_config is not an object; repair or delete it")
    settings = dict(found)
    by_device = settings.get("device_config")
    if isinstance(by_device, dict):
        # transformers.js calls ONNX Runtime's CPU "cpu" under Node and "wasm" in a browser
        names = ("cpu", "wasm") if provider in ("cpu", "auto") else (provider,)
        for name in names:
            if isinstance(by_device.get(name), dict):
                settings |= by_device[name]
                break
    file_name = settings.get("model_file_name", "model")
    subfolder = settings.get("subfolder", "onnx")
    if not isinstance(file_name, str) or not isinstance(subfolder, str):
        raise ModelError(f"{where}: model_file_name and subfolder are strings; repair or delete them")
    dtype = _for_file(settings.get("dtype"), file_name)
    if dtype is not None and not isinstance(dtype, str):
        raise ModelError(f"{where}: transformers.js_config.dtype is a string or a map of strings, not {dtype!r}")
    free = settings.get("free_dimension_overrides") or {}
    if not isinstance(free, dict) or not all(isinstance(v, int) and v > 0 for v in free.values()):
        raise ModelError(f"{where}: free_dimension_overrides maps names to positive integers; repair or delete it")
    return JsConfig(subfolder, file_name, dtype or "", tuple(free.items()))


def _for_file(value: Any, file_name: str) -> Any:
    """A setting that may be a map from file names (with or without ``.onnx``)."""
    if isinstance(value, dict):
        return next((value[key] for key in (file_name, f"{file_name}.onnx") if key in value), None)
    return value


def sense_of(config: Mapping[str, Any]) -> Sense | None:
    """Sense of the output by ``config.json``, None if it does not say."""
    kind = config.get("depth_estimation_type")
    if kind == "metric":
        return Sense.METRIC_M
    if kind == "relative":
        return Sense.RELATIVE_INVERSE
    model_type = str(config.get("model_type", "")).replace("-", "_").lower()
    if model_type in ("glpn", "zoedepth", "depth_pro", "depthpro"):
        return Sense.METRIC_M
    # a DepthAnything config leaves out depth_estimation_type if it is the default, "relative"
    if model_type in ("depth_anything", "dpt", "midas"):
        return Sense.RELATIVE_INVERSE
    if model_type in ("depth_anything_v3", "depth_anything_3", "depthanything3"):
        return Sense.RELATIVE_DEPTH
    return None


_OTHER_TYPES = frozenset(
    {
        *("bert", "bit", "blip", "clip", "clipseg", "convnext", "detr", "dinov2", "dinov3", "mobilenet", "resnet"),
        *("rt_detr", "sam", "segformer", "siglip", "vit", "yolos", "birefnet", "u2net", "modnet", "upernet"),
    }
)
"""``model_type`` of models for other tasks."""
_OTHER_NAMES = re.compile(
    r"For[A-Z]|[Ss]egm|[Mm]att(e|ing)|RMBG|BiRefNet|U2Net|ISNet|MODNet|UperNet|[Cc]lassif|[Dd]etect|Super_?Res|Yolo"
)
"""Parts of the names of architectures for other tasks; depth estimators are recognised before."""


def other_task(config: Mapping[str, Any]) -> str:
    """The architecture of a configuration that is for another task than depth estimation, empty where it is not."""
    kind = str(config.get("model_type", "")).replace("-", "_").lower()
    named = config.get("architectures")
    architectures = [str(one) for one in named] if isinstance(named, list) else []
    if any("depth" in one.lower() for one in (kind, *architectures)) or sense_of(config) is not None:
        return ""
    other = next((one for one in (*architectures, str(config.get("model_type", ""))) if _OTHER_NAMES.search(one)), "")
    return other or (kind if kind in _OTHER_TYPES else "")


def sense_is_certain(config: Mapping[str, Any]) -> bool:
    """Whether ``sense_of`` is based on more than the family DPT, which has metric and relative models (dpt-dinov2)."""
    return config.get("depth_estimation_type") is not None or config.get("model_type") != "dpt"


def preprocessing_of(config: Mapping[str, Any], where: str) -> Preprocessing | None:
    """``preprocessor_config.json`` as rules; None where it names a processor that is not one of depth's.

    Raises:
        ModelError: a value that cannot mean anything.
    """
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "DPTImageProcessor")
    family = _FAMILY.get(name.removesuffix("Fast").removesuffix("Pil"))
    if family is None:
        return None
    base = _DEFAULTS[family]
    try:
        changes = _changes(config, base)
        return replace(base, **changes)
    except (TypeError, ValueError, KeyError) as exc:
        raise ModelError(f"{where}: {exc}; repair or delete that entry") from exc


def _changes(config: Mapping[str, Any], base: Preprocessing) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key in ("do_resize", "do_rescale", "do_normalize", "do_pad"):
        if isinstance(config.get(key), bool):
            changes[key] = config[key]
    if isinstance(config.get("do_flip_channel_order"), bool):
        changes["bgr"] = config["do_flip_channel_order"]
    if isinstance(config.get("keep_aspect_ratio"), bool):
        changes["keep_aspect"] = config["keep_aspect_ratio"]
    # DPT pads to size_divisor after the resize; GLPN floors to it instead of resizing to a size.
    divisor, multiple = config.get("size_divisor"), config.get("ensure_multiple_of")
    if base.family is Family.GLPN and divisor is not None:
        changes["multiple_of"] = int(divisor)
    elif multiple is not None and not (base.family is Family.DPT and changes.get("do_resize") is False):
        changes["multiple_of"] = int(multiple) if float(multiple).is_integer() else float(multiple)
    elif divisor is not None and changes.get("do_pad"):
        changes["multiple_of"] = int(divisor)
    if config.get("size") is not None and base.family is not Family.GLPN:
        changes["width_px"], changes["height_px"] = _size(config["size"])
    if config.get("resample") is not None:
        number = int(config["resample"])
        if number not in _RESAMPLE:
            raise ValueError(
                f"resample {number}: choose one of {', '.join(f'{k} ({v})' for k, v in _RESAMPLE.items())}"
            )
        changes["resample"] = _RESAMPLE[number]
    if config.get("rescale_factor") is not None:
        changes["rescale_factor"] = float(config["rescale_factor"])
    for key, field in (("image_mean", "mean"), ("image_std", "std")):
        if config.get(key) is not None:
            changes[field] = _triple(config[key], key)
    return changes


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, (int, float)):
        return int(value), int(value)
    if isinstance(value, dict):
        if "height" in value and "width" in value:
            return int(value["width"]), int(value["height"])
        if "shortest_edge" in value:
            return int(value["shortest_edge"]), int(value["shortest_edge"])
    raise ValueError(f"size is a number or {{height, width}}, not {value!r}")


def _triple(value: Any, key: str) -> tuple[float, float, float]:
    numbers = [float(value)] * 3 if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(numbers) != 3:
        raise ValueError(f"{key} has three numbers (R, G, B), not {len(numbers)}")
    return numbers[0], numbers[1], numbers[2]


# Formats given for ONNX by mistake ------------------------------------------------------------------------------------

_OTHER_FORMATS = (
    (0, b"PK\x03\x04", "a PyTorch checkpoint or a ZIP archive"),
    (0, b"\x80\x02", "a PyTorch checkpoint"),
    (8, b'{"', "a safetensors file"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in ONNX Runtime's own format"),
    (0, b"ftrt", "a TensorRT engine"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x89HDF", "a Keras model"),
    (0, b"\x89PNG", "an image"),
    (0, b"\xff\xd8\xff", "an image"),
    (4, b"ftyp", "a video"),
)
"""Offset, first bytes and name of formats that are given for ONNX by mistake."""


def refuse_other_formats(path: Path) -> None:
    """Raises ``ModelError``: unreadable, empty, or recognised as another format."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror}); check the path and its permissions") from exc
    if not head:
        raise ModelError(f"{path}: empty file; export or download it again")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path}: a git-lfs pointer, not the model itself; run `git lfs pull` in its repository")
    for at, magic, kind in _OTHER_FORMATS:
        if head.startswith(magic, at):
            raise ModelError(f"{path}: {kind}, not an ONNX model; export the model to ONNX, or give another file")
    start = head.lstrip().lower()
    if start.startswith(b"<?xml") and b"<net" in start:
        raise ModelError(f"{path}: an OpenVINO model, not an ONNX model; give the .onnx file it was made from")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(f"{path}: a web page, not an ONNX model; download the file itself")
    # a serialised model has control bytes from its first field (varint ir_version) on; text has none
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        raise ModelError(f"{path}: a text file, not an ONNX model; give the exported .onnx file")

"""Intrinsics out of the files that calibration tools write, and out of what people type.

Read are ROS ``camera_info`` (YAML of ``camera_calibration`` and of ``ros2 topic echo``), OpenCV's ``FileStorage`` (YAML
and JSON), COLMAP ``cameras.txt`` and nerfstudio ``transforms.json``.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from streamdepth.core.errors import DataFormatError, UsageError, plain_reason
from streamdepth.core.limits import FOV_DEGREES
from streamdepth.geometry import Distortion, Intrinsics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamdepth.core.frame import StreamInfo

    IntrinsicsFor = Callable[[int, int], Intrinsics]
    """(width, height) of an image in pixels -> its intrinsics."""

_UNDISTORT = "undistort the images first and give the intrinsics of the result"
_CAMERA = ("fx", "fy", "cx", "cy")

# What stands in a line of cameras.txt after the size; f is both focal lengths.
_COLMAP: dict[str, tuple[Distortion, tuple[str, ...]]] = {
    "SIMPLE_PINHOLE": (Distortion.NONE, ("f", "cx", "cy")),
    "PINHOLE": (Distortion.NONE, _CAMERA),
    "SIMPLE_RADIAL": (Distortion.PLUMB_BOB, ("f", "cx", "cy", "k1")),
    "RADIAL": (Distortion.PLUMB_BOB, ("f", "cx", "cy", "k1", "k2")),
    "OPENCV": (Distortion.PLUMB_BOB, (*_CAMERA, "k1", "k2", "p1", "p2")),
    "FULL_OPENCV": (Distortion.RATIONAL_POLYNOMIAL, (*_CAMERA, "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    "SIMPLE_RADIAL_FISHEYE": (Distortion.EQUIDISTANT, ("f", "cx", "cy", "k1")),
    "RADIAL_FISHEYE": (Distortion.EQUIDISTANT, ("f", "cx", "cy", "k1", "k2")),
    "OPENCV_FISHEYE": (Distortion.EQUIDISTANT, (*_CAMERA, "k1", "k2", "k3", "k4")),
}

_ORDER = {
    Distortion.NONE: (),
    Distortion.PLUMB_BOB: ("k1", "k2", "p1", "p2", "k3"),
    Distortion.RATIONAL_POLYNOMIAL: ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    Distortion.EQUIDISTANT: ("k1", "k2", "k3", "k4"),
}


_LARGEST_OFFSET = 0.15
"""Of the principal point from the centre, as a fraction of the image's side. Values of an image 1.5 times as large
(1080p and 720p) are off by 0.17 or more."""


def parse_intrinsics(text: str, *, any_shape: bool = False) -> IntrinsicsFor:
    """``"fx,fy,cx,cy"`` in pixels of the image itself, or the path of a file.

    Args:
        any_shape: stretch intrinsics whose file states a size of another shape, instead of refusing.

    Returns:
        a function that gives the intrinsics of an image of (width, height) pixels. It raises ``ValueError`` where the
        file states a size of another shape, without ``any_shape``.

    Raises:
        UsageError: neither four numbers nor a file.
        DataFormatError: the file holds no intrinsics, or a camera model that is not supported.
    """
    if not text.strip():
        raise UsageError("intrinsics: empty; give fx,fy,cx,cy in pixels, or a file")
    numbers = re.split(r"\s*,\s*", text.strip())
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        return _for_images(_from_file(Path(text)), any_shape=any_shape)
    if len(values) != 4:
        raise UsageError(f"intrinsics {text!r}: not four numbers; give fx,fy,cx,cy in pixels, or a file")
    fx, fy, cx, cy = values
    try:
        Intrinsics(fx, fy, cx, cy, 1, 1)
    except ValueError as error:
        raise UsageError(f"intrinsics {text!r}: {error}") from error
    # With any_shape the size may be that of a model's input, which the values were not given for.
    return partial(Intrinsics if any_shape else _of_unstated_size, fx, fy, cx, cy)


def _of_unstated_size(
    fx: float, fy: float, cx: float, cy: float, width_px: int, height_px: int, **lens: Any
) -> Intrinsics:
    """Raises ``UsageError``: the principal point is so far from the centre that the values belong to another size."""
    camera = _within(fx, fy, cx, cy, width_px, height_px, **lens)
    if max(abs((cx + 0.5) / width_px - 0.5), abs((cy + 0.5) / height_px - 0.5)) > _LARGEST_OFFSET:
        raise UsageError(
            f"intrinsics: the principal point {cx:g},{cy:g} is far from the centre of the {width_px}x{height_px} "
            "image; give intrinsics in pixels of this size, or a file that states their size"
        )
    return camera


def _within(
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    width_px: int,
    height_px: int,
    distortion: Distortion = Distortion.NONE,
    coefficients: tuple[float, ...] = (),
) -> Intrinsics:
    """Raises ``UsageError``: the principal point is outside the image."""
    if not (-0.5 <= cx <= width_px - 0.5 and -0.5 <= cy <= height_px - 0.5):
        raise UsageError(
            f"intrinsics: the principal point {cx:g},{cy:g} is outside the {width_px}x{height_px} image; "
            "give intrinsics in pixels of this size"
        )
    return Intrinsics(fx, fy, cx, cy, width_px, height_px, distortion, coefficients)


def camera_of(
    intrinsics: Intrinsics | IntrinsicsFor | str | None, fov_degrees: float | None, *, any_shape: bool = False
) -> IntrinsicsFor | None:
    """Intrinsics of an image of (width, height), from the options ``--intrinsics`` and ``--fov``; None without either.

    Args:
        intrinsics: a value, a function of (width, height), or text for :func:`parse_intrinsics`.
        any_shape: as for :func:`parse_intrinsics`; a model's input may be stretched.

    Raises:
        UsageError: both are given, or one is invalid.
        DataFormatError: see :func:`parse_intrinsics`.
    """
    if intrinsics is not None and fov_degrees is not None:
        raise UsageError("intrinsics and fov exclude each other; give one of them")
    if fov_degrees is not None:
        FOV_DEGREES.check("fov", fov_degrees)
        return partial(Intrinsics.from_fov, fov_degrees)
    if isinstance(intrinsics, str):
        return parse_intrinsics(intrinsics, any_shape=any_shape)
    return None if intrinsics is None else _for_images(intrinsics, any_shape=any_shape)


def camera_for(user: str, stream: StreamInfo, camera: IntrinsicsFor | None) -> Intrinsics:
    """The camera of the frames of a stream, for the output or option ``user``.

    Intrinsics of a recording before it was turned by 90 degrees turn with it. A field of view is that of the frames,
    whose pixels need not be square.

    Raises:
        UsageError: there are no intrinsics, or they do not fit its size.
    """
    if camera is None:
        raise UsageError(f"{user}: needs the camera's intrinsics; give --intrinsics or --fov")
    width, height, aspect = stream.width_px, stream.height_px, float(stream.sample_aspect_ratio)
    transposed, flip_x, flip_y = stream.turned
    if isinstance(camera, partial) and camera.func == Intrinsics.from_fov:
        found: Intrinsics = camera(width, height, pixel_aspect=aspect)
        return found
    try:
        return camera(width, height)
    except ValueError as error:
        if transposed and not isinstance(error, UsageError):
            with contextlib.suppress(ValueError):
                return camera(height, width).oriented(transposed=transposed, flip_x=flip_x, flip_y=flip_y)
        raise UsageError(f"{user}: {error}") from error


def _for_images(found: Intrinsics | IntrinsicsFor, *, any_shape: bool) -> IntrinsicsFor:
    if callable(found):
        return found
    if not isinstance(found, Intrinsics):
        raise UsageError(f"intrinsics are an Intrinsics, a function of (width, height) or text, not {found!r}")
    return partial(_stretched, found) if any_shape else found.for_size


def _stretched(camera: Intrinsics, width_px: int, height_px: int) -> Intrinsics:
    """Intrinsics of an image of any shape. An upright image of a wide camera, or the reverse, was turned by 90 degrees,
    which keeps the focal length."""
    turned = (camera.width_px - camera.height_px) * (width_px - height_px) < 0
    return (camera.oriented(transposed=True) if turned else camera).resized(width_px, height_px)


def read_intrinsics(path: str | Path, *, width_px: int | None = None, height_px: int | None = None) -> Intrinsics:
    """The camera of a calibration file.

    Args:
        path: ROS ``camera_info`` YAML, OpenCV YAML or JSON, COLMAP ``cameras.txt``, nerfstudio ``transforms.json``.
        width_px, height_px: size of the images. The intrinsics are resized to it; needed where the file states none.

    Raises:
        UsageError: no such file.
        DataFormatError: no intrinsics in it, more than one camera, or a camera model that is not supported.
        ValueError: the file states a size of another shape.
    """
    found = _from_file(Path(path))
    if width_px and height_px:
        return found.for_size(width_px, height_px) if isinstance(found, Intrinsics) else found(width_px, height_px)
    if isinstance(found, Intrinsics):
        return found
    raise DataFormatError(f"{path}: states no image size; give width_px and height_px")


def _from_file(path: Path) -> Intrinsics | partial[Intrinsics]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = plain_reason(error) if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"intrinsics {path}: {reason}; give a calibration file or fx,fy,cx,cy") from error
    try:
        if path.suffix.lower() == ".txt":
            return _colmap(text)
        content = json.loads(text) if path.suffix.lower() == ".json" else _yaml(text)
        if not isinstance(content, dict):
            raise ValueError("not a mapping of names to values")
        if "fl_x" in content or "camera_angle_x" in content or "frames" in content:
            return _nerfstudio(content)
        return _matrix_file(content)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataFormatError(f"{path}: no intrinsics: {reason}") from error


def _yaml(text: str) -> Any:
    """OpenCV writes a directive and a tag that are not part of YAML 1.1."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    tag = "tag:yaml.org,2002:opencv-matrix"
    Loader.add_constructor(tag, lambda loader, node: loader.construct_mapping(cast("Any", node), deep=True))
    documents = re.sub(r"\A%YAML:[\d.]+", "", text)
    try:
        return next(yaml.load_all(documents, Loader), None)
    except yaml.YAMLError as error:
        line = getattr(error, "problem_mark", None)
        at = "" if line is None else f" in line {line.line + 1}"
        raise ValueError(f"{getattr(error, 'problem', None) or str(error).splitlines()[0]}{at}") from error


def _matrix_file(content: Mapping[str, Any]) -> Intrinsics | partial[Intrinsics]:
    """ROS and OpenCV: a camera matrix and coefficients, under the names that both use."""
    matrix = _numbers(_first(content, "camera_matrix", "k", "K", "cameraMatrix", "M1"))
    if len(matrix) != 9:
        raise ValueError(f"the camera matrix has {len(matrix)} values, not 9")
    if matrix[1] or matrix[3]:
        raise ValueError("the camera matrix has skew, which is not supported")
    camera = (matrix[0], matrix[4], matrix[2], matrix[5])
    names = ("distortion_coefficients", "d", "D", "distCoeffs", "dist_coeffs", "dist_coeff", "D1")
    coefficients = _numbers(_first(content, *names, default=()))
    distortion, values = _distortion(content.get("distortion_model"), coefficients)
    width, height = content.get("image_width", content.get("width")), content.get("image_height", content.get("height"))
    if "image_size" in content:
        width, height = _numbers(content["image_size"])
    if width is None or height is None:
        Intrinsics(*camera, 1, 1, distortion, values)
        return partial(_of_unstated_size, *camera, distortion=distortion, coefficients=values)
    return _within(*camera, _whole(width), _whole(height), distortion, values)


def _distortion(name: str | None, coefficients: Sequence[float]) -> tuple[Distortion, tuple[float, ...]]:
    if not any(coefficients):
        return Distortion.NONE, ()
    if name == "fisheye":
        name = Distortion.EQUIDISTANT
    if name is None:
        name = Distortion.PLUMB_BOB if len(coefficients) <= 5 else Distortion.RATIONAL_POLYNOMIAL
    if name not in _ORDER:
        raise ValueError(f"distortion model {name!r} is not supported; {_UNDISTORT}")
    values = tuple(coefficients)
    while len(values) > len(_ORDER[Distortion(name)]) and not values[-1]:
        values = values[:-1]
    return Distortion(name), values


def _colmap(text: str) -> Intrinsics:
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise ValueError("no camera in it")
    cameras = {tuple(line[1:]) for line in lines}
    if len(cameras) > 1:
        raise ValueError(f"{len(lines)} different cameras in it; keep the line of the one that made the images")
    if len(lines[0]) < 5:
        raise ValueError("not the lines of cameras.txt: CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS")
    _, model, width, height, *values = lines[0]
    if model not in _COLMAP:
        raise ValueError(f"camera model {model!r} is not supported; {_UNDISTORT}")
    distortion, names = _COLMAP[model]
    if len(values) != len(names):
        raise ValueError(f"camera model {model} has {len(names)} parameters, not {len(values)}")
    given = dict(zip(names, map(_number, values), strict=True))
    return _from_edge(given, _whole(width), _whole(height), distortion)


def _nerfstudio(content: Mapping[str, Any]) -> Intrinsics:
    frames = content.get("frames") or ()
    if not isinstance(frames, list | tuple) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError('"frames" is not a list of frames')
    own = [{name: frame[name] for name in frame if name in ("fl_x", "fl_y", "cx", "cy", "w", "h")} for frame in frames]
    if own and any(one != own[0] for one in own):
        raise ValueError("the frames have different intrinsics; give those of one camera")
    content = {**content, **(own[0] if own else {})}
    width, height = _whole(content["w"]), _whole(content["h"])
    model = content.get("camera_model", "OPENCV")
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "OPENCV_FISHEYE"):
        raise ValueError(f"camera model {model!r} is not supported; {_UNDISTORT}")
    fisheye = model == "OPENCV_FISHEYE"
    if not fisheye and content.get("k4"):
        raise ValueError(f"a fourth radial coefficient (k4) is not supported; {_UNDISTORT}")
    given = {name: _number(content.get(name) or 0) for name in ("k1", "k2", "k3", "k4", "p1", "p2")}
    if "fl_x" in content:
        given["fx"] = _number(content["fl_x"])
    else:
        given["fx"] = width / (2 * math.tan(_number(content["camera_angle_x"]) / 2))
    given["fy"] = _number(content.get("fl_y", given["fx"]))
    given["cx"], given["cy"] = _number(content.get("cx", width / 2)), _number(content.get("cy", height / 2))
    distortion = Distortion.EQUIDISTANT if fisheye else Distortion.PLUMB_BOB
    if not any(given[name] for name in _ORDER[distortion]):
        distortion = Distortion.NONE
    return _from_edge(given, width, height, distortion)


def _from_edge(given: Mapping[str, float], width: int, height: int, distortion: Distortion) -> Intrinsics:
    """COLMAP and nerfstudio count pixels from the image's edge, so their first pixel's centre is (0.5, 0.5)."""
    fx, fy = given.get("fx", given.get("f", 0)), given.get("fy", given.get("f", 0))
    coefficients = tuple(given.get(name, 0.0) for name in _ORDER[distortion])
    return _within(fx, fy, given["cx"] - 0.5, given["cy"] - 0.5, width, height, distortion, coefficients)


def _first(content: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    for name in names:
        if name in content:
            return content[name]
    if default is None:
        raise KeyError(names[0])
    return default


def _numbers(value: Any) -> list[float]:
    """The numbers of a flat list, a nested list, or a matrix with ``data``."""
    if isinstance(value, dict):
        value = value["data"]
    if not isinstance(value, list | tuple):
        raise ValueError(f"not a list of numbers: {value!r}")
    flat = [one for row in value for one in (row if isinstance(row, list) else [row])]
    return [_number(one) for one in flat]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"not a number: {value!r}") from None


def _whole(value: Any) -> int:
    number = _number(value)
    if not number.is_integer():
        raise ValueError(f"not a number of pixels: {value!r}")
    return int(number)

"""The families of models that people bring: graphs with their real names, shapes and layout, and random weights.

The reference of each is computed here with NumPy, Pillow and ONNX Runtime alone. ``pytest -s`` prints the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from streamdepth.core.errors import ModelError, UsageError
from streamdepth.core.frame import Sense
from streamdepth.geometry import Intrinsics
from streamdepth.image.estimator import DepthEstimator
from tests.support.families import (
    BF16,
    F16,
    F64,
    I64,
    da3,
    da3_metric,
    depth_pro,
    in_graph_resize,
    lite_mono,
    metric3d,
    moge,
    nameless,
    nhwc,
    odd_axes,
    plain,
    pooled,
    prompt_da,
    typed,
    unidepth,
    vggt,
    yolo,
)
from tests.support.models import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Array = Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (160, 120)


# References -----------------------------------------------------------------------------------------------------------


def scene() -> NDArray[np.uint8]:
    width, height = SIZE
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 / (width - 1), y * 255 / (height - 1), 127 + 120 * np.sin(x / 9 + y / 17)]
    return np.stack(planes, axis=-1).round().astype(np.uint8)


def resized(size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC) -> Array:
    return np.asarray(Image.fromarray(scene()).resize(size, resample)).astype(np.float32)


def normal(size: tuple[int, int], mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Array:
    """[3, H, W]: resized, 1/255, less the mean, over the standard deviation."""
    values = (resized(size) / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return values.astype(np.float32).transpose(2, 0, 1)


def unit(size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BILINEAR) -> Array:
    return (resized(size, resample) / np.float32(255)).transpose(2, 0, 1)


def run(path: Path, chw: Array, name: str, **more: Any) -> Array:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    shape = (1,) * (len(first.shape) - chw.ndim) + chw.shape
    found: Array = session.run([name], {first.name: chw.reshape(shape), **more})[0]
    return found


def letterboxed() -> tuple[Array, tuple[int, int]]:
    """0..255 on the mean colour, in 98x56, and the width and left edge of the image."""
    canvas = np.empty((56, 98, 3), np.float32)
    canvas[...] = np.array(MEAN, np.float32) * np.float32(255)
    width = round(160 * 56 / 120)
    left = (98 - width) // 2
    canvas[:, left : left + width] = resized((width, 56), Image.Resampling.BILINEAR)
    return canvas.transpose(2, 0, 1), (left, width)


@dataclass(frozen=True)
class Case:
    """A family: its graph, what it should be, and its depth at the network's size."""

    name: str
    make: Callable[[Path], Path]
    sense: Sense
    depth: Callable[[Path], Array]
    file: str = "model.onnx"
    config: dict[str, Any] | None = None
    preprocessor: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    size: tuple[int, int] | None = None
    valid: Callable[[Path], Array] | None = None
    bilinear: bool = False


INVERSE, FAR, METRES = Sense.RELATIVE_INVERSE, Sense.RELATIVE_DEPTH, Sense.METRIC_M


def _da3_metric(path: Path, factor: float = 1.0) -> Array:
    depth = run(path, normal((504, 280)), "depth")[0] * np.float32(factor)
    sky = run(path, normal((504, 280)), "sky")[0, 0] >= 0.3
    assert sky.any()
    depth[sky] = np.percentile(depth[~sky], 99)
    return depth


def _metric3d(path: Path, factor: float = 1.0) -> Array:
    chw, (left, width) = letterboxed()
    return run(path, chw, "predicted_depth")[0, 0][:, left : left + width] * np.float32(factor)


def _moge(path: Path) -> Array:
    points = run(path, unit((84, 56)), "points", num_tokens=np.array(1200))[0]
    return (points[..., 2] + np.float32(1.5)) * 2


def _da2(path: Path) -> Array:
    return run(path, normal((518, 392)), "predicted_depth")[0]


def _da3(path: Path) -> Array:
    return run(path, normal((504, 378))[None], "predicted_depth")[0, 0]


def _unidepth(path: Path) -> Array:
    bilinear = unit((98, 70)).transpose(1, 2, 0)
    chw = ((bilinear - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).astype(np.float32).transpose(2, 0, 1)
    return run(path, chw, "pts_3d")[0, 2]


def _depth_pro(path: Path) -> Array:
    import cv2

    values = (scene().astype(np.float32) - np.float32(127.5)) / np.float32(127.5)  # DepthPro resizes without antialias
    chw = cv2.resize(values, (96, 96), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
    return run(path, chw, "predicted_depth")[0]


def _bare(path: Path) -> Array:
    return run(path, normal((84, 56)), "depth")[0].astype(np.float32)


def _moge_mask(path: Path) -> Array:
    return run(path, unit((84, 56)), "mask", num_tokens=np.array(1200))[0] >= 0.5


def _sky(path: Path) -> Array:
    return run(path, normal((504, 280)), "sky")[0, 0] < 0.3


def _zoe(path: Path, net: tuple[int, int] = (480, 384)) -> Array:
    """Reflected border, aligned corners: ZoeDepthImageProcessor; the border is cut off at the image's size."""
    import cv2

    width, height = SIZE
    border_x, border_y = (int(math.sqrt(side / 2) * 3) for side in SIZE)
    padded = np.pad(scene() / 255.0, ((border_y, border_y), (border_x, border_x), (0, 0)), mode="reflect")
    for axis, count in ((1, net[0]), (0, net[1])):
        at = np.linspace(0, padded.shape[axis] - 1, count)
        low = np.minimum(at.astype(int), padded.shape[axis] - 2)
        part = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        padded = padded.take(low, axis) * (1 - part) + padded.take(low + 1, axis) * part
    chw = ((padded - 0.5) / 0.5).astype(np.float32).transpose(2, 0, 1)
    full = (width + 2 * border_x, height + 2 * border_y)
    depth = cv2.resize(run(path, chw, "predicted_depth")[0], full, interpolation=cv2.INTER_CUBIC)
    return depth[border_y : border_y + height, border_x : border_x + width]


def _dpt(path: Path, side: int = 384) -> Array:
    values = unit((side, side)) * 2 - 1
    return run(path, values.astype(np.float32), "predicted_depth")[0]


def _midas(path: Path, size: tuple[int, int]) -> Array:
    return run(path, normal(size), "predicted_depth")[0]


def _sapiens(path: Path) -> Array:
    mean, std = np.array([123.5, 116.5, 103.5]), np.array([58.5, 57.0, 57.5])
    values = (resized((768, 1024), Image.Resampling.BILINEAR) - mean) / std
    return run(path, values.astype(np.float32).transpose(2, 0, 1), "predicted_depth")[0]


FOCAL_60 = 504 / (2 * math.tan(math.radians(30)))
FOCAL_90 = 80 * round(160 * 56 / 120) / 160
DA3 = {"model_type": "depth_anything_v3"}
NC = "CC-BY-NC-4.0"
ZOE = (
    {"model_type": "zoedepth", "architectures": ["ZoeDepthForDepthEstimation"]},
    {
        "image_processor_type": "ZoeDepthImageProcessor",
        "keep_aspect_ratio": False,
        "size": {"height": 384, "width": 512},
    },
)
DPT = (
    {"model_type": "dpt", "architectures": ["DPTForDepthEstimation"]},
    {"image_processor_type": "DPTImageProcessor", "size": 256, "resample": 2, "keep_aspect_ratio": False},
)

CASES = (
    Case(
        "Depth Anything V2", plain, INVERSE, _da2, "depth_anything_v2_vits.onnx", licence="Apache-2.0", size=(518, 392)
    ),
    Case("Depth Anything V2 metric, indoor", plain, METRES, _da2, "depth_anything_v2_metric_hypersim_vits.onnx"),
    Case("Depth Anything V2 metric, outdoor", plain, METRES, _da2, "depth_anything_v2_vitl_vkitti.onnx", licence=NC),
    Case("Depth Anything 3", da3, FAR, _da3, config=DA3, size=(504, 378), licence="Apache-2.0"),
    Case("Depth Anything 3 large", da3, FAR, _da3, "da3-large.onnx", licence=NC),
    Case("Depth Anything 3 metric", da3_metric, FAR, _da3_metric, licence="Apache-2.0"),
    Case(
        "Depth Anything 3 metric, 60 degrees",
        da3_metric,
        METRES,
        lambda p: _da3_metric(p, FOCAL_60 / 300),
        options={"fov_degrees": 60},
        valid=_sky,
    ),
    Case("MoGe-2", moge, METRES, _moge, licence="MIT", valid=_moge_mask),
    Case("UniDepth v2", unidepth, METRES, _unidepth, licence=NC),
    Case("VGGT", vggt, FAR, lambda p: run(p, normal((70, 56))[None], "depth")[0, 0, :, :, 0]),
    Case("Metric3D", metric3d, FAR, _metric3d, licence="BSD-2-Clause"),
    Case(
        "Metric3D, 90 degrees", metric3d, METRES, lambda p: _metric3d(p, FOCAL_90 / 1000), options={"fov_degrees": 90}
    ),
    Case("Depth Pro", depth_pro, METRES, _depth_pro, licence="Apple-AMLR", bilinear=True),
    Case("YOLO depth", yolo, METRES, lambda p: run(p, unit((96, 64)), "output0")[0, 0], licence="AGPL-3.0 License"),
    Case("Lite-Mono", lite_mono, INVERSE, lambda p: run(p, unit((128, 64), Image.Resampling.LANCZOS), "disp_0")[0, 0]),
    Case("ZoeDepth", plain, METRES, _zoe, "zoedepth_nk.onnx", licence="MIT", size=(480, 384)),
    Case(
        "ZoeDepth by its configuration",
        plain,
        METRES,
        lambda p: _zoe(p, (512, 384)),
        config=ZOE[0],
        preprocessor=ZOE[1],
    ),
    Case(
        "GLPN", plain, METRES, lambda p: run(p, unit((160, 96)), "predicted_depth")[0], "glpn_nyu.onnx", size=(160, 96)
    ),
    Case("DPT", plain, INVERSE, _dpt, "dpt_large.onnx", licence="Apache-2.0", size=(384, 384)),
    Case("DPT by its configuration", plain, INVERSE, lambda p: _dpt(p, 256), config=DPT[0], preprocessor=DPT[1]),
    Case(
        "MiDaS 3.1",
        plain,
        INVERSE,
        lambda p: _dpt(p, 512),
        "dpt_beit_large_512.onnx",
        size=(512, 512),
        licence="MIT",
    ),
    Case("MiDaS 2.1", plain, INVERSE, lambda p: _midas(p, (384, 288)), "midas_v21_384.onnx", size=(384, 288)),
    Case("MiDaS 2.1 small", plain, INVERSE, lambda p: _midas(p, (256, 192)), "midas_v21_small_256.onnx", licence="MIT"),
    Case("Distill-Any-Depth", plain, INVERSE, _da2, "distill-any-depth-small.onnx", licence="Apache-2.0"),
    Case("Sapiens", plain, FAR, _sapiens, "sapiens_0.3b_depth.onnx", licence="CC-BY-NC-4.0", size=(768, 1024)),
    Case("NHWC", nhwc, INVERSE, lambda p: run(p, normal((96, 64)).transpose(1, 2, 0), "out")[0, :, :, 0]),
    Case(
        "resize in the graph",
        in_graph_resize,
        INVERSE,
        lambda p: run(p, resized((96, 64)).astype(np.uint8), "depth")[0],
    ),
    Case("float16 output", lambda p: typed(p, F16), INVERSE, _bare),
    Case("float64 output", lambda p: typed(p, F64), INVERSE, _bare),
    Case("half size", lambda p: pooled(p, 2), INVERSE, _bare),
    Case("quarter size", lambda p: pooled(p, 4), INVERSE, _bare),
    Case("odd axis names", odd_axes, INVERSE, lambda p: run(p, normal((518, 392)), "1234")[0]),
)


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, str, str, str]]]:
    rows: list[tuple[str, str, str, str]] = []
    yield rows
    for row in [("family", "result", "expected", "error"), *rows]:
        print("{:38} {:30} {:18} {}".format(*row))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_depth_of_a_family(case: Case, tmp_path: Path, table: list[tuple[str, str, str, str]]) -> None:
    import cv2

    folder = tmp_path / "folder"
    path = case.make(folder / case.file)
    if case.config is not None:
        write_json(folder / "config.json", case.config)
    if case.preprocessor is not None:
        write_json(folder / "preprocessor_config.json", case.preprocessor)
    with DepthEstimator(path, provider="cpu", **case.options) as estimator:
        result = estimator(scene())
        spec = estimator.spec
        if case.size is not None:
            engine = estimator.engine()
            assert engine.network_size(*SIZE) == case.size
            engine.close()
    expected = cv2.resize(case.depth(path), SIZE, interpolation=cv2.INTER_LINEAR if case.bilinear else cv2.INTER_CUBIC)
    error = float(np.abs(result.data - expected).max() / np.ptp(expected))
    table.append((case.name, f"{spec.depth_output.name}, {result.sense}", str(case.sense), f"{error:.1e} of the range"))
    assert result.sense is case.sense
    assert error < 2e-3
    if case.licence:
        assert spec.licence == case.licence
    if case.valid is not None:
        valid = cv2.resize(case.valid(path).view(np.uint8), SIZE, interpolation=cv2.INTER_NEAREST).view(np.bool_)
        assert result.valid is not None
        np.testing.assert_array_equal(result.valid, valid)


REFUSED: tuple[tuple[str, Callable[[Path], Path], str], ...] = (
    ("bfloat16 output", lambda p: typed(p, BF16), "depth is float32, float16, float64"),
    ("integer output", lambda p: typed(p, I64), "depth is float32, float16, float64"),
    ("matting", lambda p: nameless(p, "Sigmoid"), "it ends in Sigmoid, as masks and edges do; if it is depth"),
    ("thresholded mask", lambda p: nameless(p, "Not"), "it ends in Not, as masks do"),
    ("segmentation", lambda p: nameless(p, "ArgMax", axis=1), "it ends in ArgMax, as class numbers do"),
    (
        "super-resolution",
        lambda p: nameless(p, "Resize"),
        "larger than the input may not be depth; if",
    ),
    ("PromptDA", prompt_da, "needs depth of a sensor as input prompt_depth, which is not supported"),
)


@pytest.mark.parametrize(("name", "make", "message"), REFUSED, ids=lambda one: one if isinstance(one, str) else "")
def test_what_is_refused(
    name: str, make: Callable[[Path], Path], message: str, tmp_path: Path, table: list[tuple[str, str, str, str]]
) -> None:
    with (
        pytest.raises(ModelError, match=message),
        DepthEstimator(make(tmp_path / "model.onnx"), provider="cpu") as estimator,
    ):
        estimator(scene())
    table.append((name, "refused", "refused", ""))


@pytest.mark.parametrize("make", [da3_metric, metric3d])
def test_metres_need_intrinsics(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="needs intrinsics for metres; give --fov DEGREES"):
        DepthEstimator(path, sense="metric_m")
    with DepthEstimator(path, provider="cpu") as estimator:
        assert any(
            "depth without a unit; give --fov DEGREES or --intrinsics" in note for note in estimator(scene()).notes
        )
    camera = Intrinsics.from_fov(60, *SIZE)
    one = DepthEstimator(path, provider="cpu", intrinsics=camera)(scene())
    other = DepthEstimator(path, provider="cpu", fov_degrees=60)(scene())
    assert one.sense is Sense.METRIC_M
    np.testing.assert_allclose(one.data, other.data, rtol=1e-6)


def test_the_focal_length_that_a_model_estimates(tmp_path: Path) -> None:
    """Reported in image pixels; a known camera scales DepthPro's metres by the ratio of the focal lengths."""
    path = depth_pro(tmp_path / "model.onnx")
    with DepthEstimator(path, provider="cpu") as estimator:
        own = estimator(scene())
    assert own.camera is not None
    assert own.camera.fx == pytest.approx(120 * 160 / 96)
    with DepthEstimator(path, provider="cpu", intrinsics="400,400,79.5,59.5") as estimator:
        known = estimator(scene())
    np.testing.assert_allclose(known.data, own.data * 2, rtol=1e-5)
    with DepthEstimator(unidepth(tmp_path / "unidepth.onnx"), provider="cpu") as estimator:
        camera = estimator(scene()).camera
    assert camera is not None
    assert camera.fx == pytest.approx(90 * 160 / 98)
    with DepthEstimator(moge(tmp_path / "moge.onnx"), provider="cpu") as estimator:
        camera = estimator(scene()).camera
    assert camera is not None
    assert camera.fx == pytest.approx(70 * 160 / 84, rel=1e-3)

"""The families of models that people bring: graphs with their real names, shapes and layout, and random weights.

The reference of each is computed here with NumPy, Pillow and ONNX Runtime alone. ``pytest -s`` prints the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from streamdepth.core.errors import ModelError, UsageError
from streamdepth.core.frame import Sense
from streamdepth.geometry.intrinsics import Intrinsics
from streamdepth.image.estimator import DepthEstimator
from streamdepth.inference.heads import solve_focal_shift
from tests.support.models import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Array = Any

F, F16, F64, BF16, I64, U8 = (
    getattr(TensorProto, name) for name in ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16", "INT64", "UINT8")
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (160, 120)
AX1, AX4 = ("ax1", np.array([1], np.int64)), ("ax4", np.array([4], np.int64))
Shape = list["int | str"]


def node(op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs, outputs, **attributes)


def conv(source: str, target: str, seed: int = 0) -> tuple[Any, tuple[str, Array]]:
    """A 1x1 convolution of three channels to one with random weights, and the weights."""
    weights = np.random.default_rng(seed).uniform(0.2, 0.6, (1, 3, 1, 1)).astype(np.float32)
    return node("Conv", [source, f"w{seed}"], target, kernel_shape=[1, 1]), (f"w{seed}", weights)


def write(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Shape]],
    outputs: Sequence[tuple[str, int, Shape]],
    constants: Sequence[tuple[str, Any]] = (),
    metadata: dict[str, str] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "family",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def plain(path: Path, image: str = "pixel_values", depth: str = "predicted_depth", **options: Any) -> Path:
    shape: Shape = options.pop("shape", ["b", 3, "h", "w"])
    first, weights = conv(image, "c")
    nodes = [first, node("Exp", ["c"], "e"), node("Squeeze", ["e", "ax1"], depth)]
    return write(path, nodes, [(image, F, shape)], [(depth, F, [shape[0], *shape[2:]])], [weights, AX1], **options)


def da3_metric(path: Path) -> Path:
    first, weights = conv("image", "c")
    nodes = [
        first,
        node("Exp", ["c"], "e"),
        node("Squeeze", ["e", "ax1"], "depth"),
        node("Sub", ["c", "half"], "k"),
        node("Sigmoid", ["k"], "sky"),
    ]
    outputs: list[tuple[str, int, Shape]] = [("depth", F, [1, 280, 504]), ("sky", F, [1, 1, 280, 504])]
    return write(path, nodes, [("image", F, [1, 3, 280, 504])], outputs, [weights, AX1, ("half", np.float32(1.5))])


def da3(path: Path) -> Path:
    nodes = [
        node("ReduceMean", ["pixel_values"], "m", axes=[2], keepdims=0),
        node("Exp", ["m"], "predicted_depth"),
        node("Neg", ["m"], "confidence"),
    ]
    views: Shape = ["batch_size", "num_images", "height", "width"]
    return write(
        path,
        nodes,
        [("pixel_values", F, ["batch_size", "num_images", 3, "height", "width"])],
        [("confidence", F, views), ("predicted_depth", F, views)],
    )


def moge(path: Path) -> Path:
    """Points of a wavy plane seen with a focal length, less a shift; the image is used for the mask and for ripples."""
    nodes = [
        node("ReduceMean", ["image"], "grey", axes=[1], keepdims=1),
        node("Mul", ["grey", "zero"], "ripple"),
        node("Add", ["plane", "ripple"], "raw"),
        node("Transpose", ["raw"], "points", perm=[0, 2, 3, 1]),
        node("Identity", ["points"], "normal"),
        node("Squeeze", ["grey", "ax1"], "mask"),
        node("Cast", ["num_tokens"], "tokens", to=F),
        node("Div", ["tokens", "tokens"], "one"),
        node("Mul", ["one", "two"], "metric_scale"),
    ]
    height, width, focal = 56, 84, 70.0
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    z = 3 + np.sin(u / 9) + np.cos(v / 7)
    x, y = (u + 0.5 - width / 2) / focal * z, (v + 0.5 - height / 2) / focal * z
    plane = np.stack([x, y, z - 1.5])[None].astype(np.float32)
    return write(
        path,
        nodes,
        [("image", F, [1, 3, height, width]), ("num_tokens", I64, [])],
        [
            ("points", F, [1, height, width, 3]),
            ("normal", F, [1, height, width, 3]),
            ("mask", F, [1, height, width]),
            ("metric_scale", F, [1]),
        ],
        [("plane", plane), AX1, ("zero", np.float32(0)), ("two", np.array([2], np.float32))],
    )


def unidepth(path: Path) -> Path:
    first, weights = conv("rgbs", "c")
    nodes = [
        node("Exp", ["rgbs"], "pts_3d"),
        first,
        node("Sigmoid", ["c"], "confidence"),
        node("Identity", ["K"], "intrinsics"),
    ]
    camera = np.array([[[90, 0, 49], [0, 90, 35], [0, 0, 1]]], np.float32)
    outputs: list[tuple[str, int, Shape]] = [
        ("pts_3d", F, [1, 3, 70, 98]),
        ("confidence", F, [1, 1, 70, 98]),
        ("intrinsics", F, [1, 3, 3]),
    ]
    return write(path, nodes, [("rgbs", F, [1, 3, 70, 98])], outputs, [weights, ("K", camera)])


def vggt(path: Path) -> Path:
    nodes = [
        node("ReduceMean", ["images"], "m", axes=[2], keepdims=0),
        node("Exp", ["m"], "e"),
        node("Unsqueeze", ["e", "ax4"], "depth"),
        node("Neg", ["m"], "depth_conf"),
    ]
    outputs: list[tuple[str, int, Shape]] = [("depth", F, [1, 1, 56, 70, 1]), ("depth_conf", F, [1, 1, 56, 70])]
    return write(path, nodes, [("images", F, [1, 1, 3, 56, 70])], outputs, [AX4])


def metric3d(path: Path) -> Path:
    first, weights = conv("n", "c")
    nodes = [
        node("Sub", ["pixel_values", "mean"], "s"),
        node("Div", ["s", "std"], "n"),
        first,
        node("Exp", ["c"], "predicted_depth"),
        node("Identity", ["n"], "predicted_normal"),
        node("Sigmoid", ["c"], "normal_confidence"),
    ]
    side = (1, 3, 1, 1)
    constants = [
        weights,
        ("mean", np.array([123.675, 116.28, 103.53], np.float32).reshape(side)),
        ("std", np.array([58.395, 57.12, 57.375], np.float32).reshape(side)),
    ]
    outputs: list[tuple[str, int, Shape]] = [
        ("predicted_depth", F, [1, 1, 56, 98]),
        ("predicted_normal", F, [1, 3, 56, 98]),
        ("normal_confidence", F, [1, 1, 56, 98]),
    ]
    return write(path, nodes, [("pixel_values", F, [1, 3, 56, 98])], outputs, constants)


def depth_pro(path: Path) -> Path:
    first, weights = conv("pixel_values", "c")
    nodes = [
        first,
        node("Exp", ["c"], "e"),
        node("Squeeze", ["e", "ax1"], "predicted_depth"),
        node("Identity", ["f"], "focallength_px"),
    ]
    outputs: list[tuple[str, int, Shape]] = [("predicted_depth", F, [1, 96, 96]), ("focallength_px", F, [1])]
    constants = [weights, AX1, ("f", np.array([120], np.float32))]
    return write(path, nodes, [("pixel_values", F, [1, 3, 96, 96])], outputs, constants)


def yolo(path: Path) -> Path:
    first, weights = conv("images", "c")
    metadata = {"task": "depth", "stride": "32", "imgsz": "[64, 96]", "license": "AGPL-3.0 License (https://a.b)"}
    nodes = [first, node("Exp", ["c"], "output0")]
    shape: Shape = [1, 3, 64, 96]
    return write(path, nodes, [("images", F, shape)], [("output0", F, [1, 1, 64, 96])], [weights], metadata)


def lite_mono(path: Path) -> Path:
    first, weights = conv("input", "c")
    nodes = [first, node("Sigmoid", ["c"], "disp_0")]
    half = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes += [node("AveragePool", [f"disp_{n - 1}"], f"disp_{n}", **half) for n in (1, 2)]
    outputs: list[tuple[str, int, Shape]] = [(f"disp_{n}", F, [1, 1, 64 >> n, 128 >> n]) for n in (2, 1, 0)]
    return write(path, nodes, [("input", F, [1, 3, 64, 128])], outputs, [weights])


def nhwc(path: Path) -> Path:
    first, weights = conv("x", "c")
    nodes = [
        node("Transpose", ["input_1"], "x", perm=[0, 3, 1, 2]),
        first,
        node("Transpose", ["c"], "out", perm=[0, 2, 3, 1]),
    ]
    return write(path, nodes, [("input_1", F, ["n", 64, 96, 3])], [("out", F, ["n", 64, 96, 1])], [weights])


def in_graph_resize(path: Path) -> Path:
    first, weights = conv("y2", "c")
    nodes = [
        node("Cast", ["image"], "f", to=F),
        node("Transpose", ["f"], "x", perm=[0, 3, 1, 2]),
        node("Resize", ["x", "", "", "size"], "y", mode="linear", coordinate_transformation_mode="half_pixel"),
        node("Div", ["y", "k"], "y2"),
        first,
        node("Squeeze", ["c", "ax1"], "depth"),
    ]
    constants = [weights, AX1, ("k", np.float32(255)), ("size", np.array([1, 3, 64, 96], np.int64))]
    return write(path, nodes, [("image", U8, ["b", "h", "w", 3])], [("depth", F, ["b", 64, 96])], constants)


def typed(path: Path, kind: int) -> Path:
    first, weights = conv("image", "c")
    nodes = [first, node("Squeeze", ["c", "ax1"], "d"), node("Cast", ["d"], "depth", to=kind)]
    return write(path, nodes, [("image", F, [1, 3, 56, 84])], [("depth", kind, [1, 56, 84])], [weights, AX1])


def pooled(path: Path, step: int) -> Path:
    first, weights = conv("image", "c")
    nodes = [
        first,
        node("AveragePool", ["c"], "p", kernel_shape=[step, step], strides=[step, step]),
        node("Squeeze", ["p", "ax1"], "depth"),
    ]
    shape: Shape = [1, 56 // step, 84 // step]
    return write(path, nodes, [("image", F, [1, 3, 56, 84])], [("depth", F, shape)], [weights, AX1])


def prompt_da(path: Path) -> Path:
    first, weights = conv("image", "c")
    nodes = [first, node("Add", ["c", "prompt_depth"], "depth")]
    inputs = [("image", F, [1, 3, 56, 84]), ("prompt_depth", F, [1, 1, 56, 84])]
    return write(path, nodes, inputs, [("depth", F, [1, 1, 56, 84])], [weights])  # type: ignore[arg-type]


def odd_axes(path: Path) -> Path:
    first, weights = conv("x.1", "c")
    nodes = [first, node("Squeeze", ["c", "ax1"], "1234")]
    shape: Shape = ["unk__615", 3, "floor(H/1)", "2*s1 + 0"]
    return write(path, nodes, [("x.1", F, shape)], [("1234", F, ["", "", ""])], [weights, AX1])


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


FOCAL_60 = 504 / (2 * math.tan(math.radians(30)))
FOCAL_90 = 80 * round(160 * 56 / 120) / 160
DA3 = {"model_type": "depth_anything_v3"}
NC = "CC-BY-NC-4.0"

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


@pytest.mark.parametrize("shift", [-0.4, 0.0, 2.5])
def test_the_solver_finds_focal_length_and_shift(shift: float) -> None:
    height, width, focal = 90, 120, 150.0
    v, u = np.mgrid[0:height, 0:width]
    z = 2 + np.random.default_rng(3).uniform(0, 3, (height, width))
    points = np.stack([(u + 0.5 - width / 2) / focal * z, (v + 0.5 - height / 2) / focal * z, z - shift], axis=-1)
    solved, moved = solve_focal_shift(points.astype(np.float32))
    assert solved == pytest.approx(focal, rel=1e-4)
    assert moved == pytest.approx(shift, abs=1e-3)
    assert solve_focal_shift(points.astype(np.float32), None, focal)[1] == pytest.approx(shift, abs=1e-3)

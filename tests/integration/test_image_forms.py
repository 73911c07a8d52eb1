"""Forms of alpha, of tensor data and of images that flow editors and other libraries give."""

from __future__ import annotations

import io
from pathlib import PurePath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from streamdepth.core.errors import DataFormatError, UsageError
from streamdepth.geometry import Intrinsics
from streamdepth.image.estimator import DepthEstimator, Estimate
from streamdepth.media.scene import pattern
from tests.support.goldens import FOLDER, JS_ARCHITECTURES, load, load_js

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.mark.parametrize("alpha", ["[0.3, 0.8]", "0.3,0.8", [0.3, 0.8], (0.3, 0.8), np.array([0.3, 0.8])])
def test_forms_of_alpha(alpha: Any, dpt_estimator: DepthEstimator) -> None:
    expected = dpt_estimator(pattern(40, 30), style="hot", alpha=(0.3, 0.8)).image
    assert dpt_estimator(pattern(40, 30), style="hot", alpha=alpha).image == expected


@pytest.mark.parametrize("alpha", [1.5, -0.1, "[0.3, 1.2]", float("nan"), [0.1, 0.2, 0.3], "x"])
def test_an_alpha_out_of_range_is_refused(alpha: Any, dpt_estimator: DepthEstimator) -> None:
    with pytest.raises(UsageError, match=r"alpha is a number or a pair NEAR,FAR in 0\.\.1"):
        dpt_estimator(pattern(40, 30), style="hot", alpha=alpha)


def test_forms_of_tensor_data(dpt_estimator: DepthEstimator) -> None:
    values = np.random.default_rng(0).random((1, 3, 64, 64)).astype(np.float32)
    flat = values.reshape(-1)

    def depth(tensor: dict[str, Any]) -> NDArray[np.float32]:
        found = dpt_estimator(tensor)
        assert isinstance(found, Estimate)
        return found.data

    expected = depth({"data": values, "dims": values.shape})
    shuffled = dict(sorted(enumerate(flat.tolist()), key=lambda item: str(item[0])))
    forms = {
        "memoryview of floats": memoryview(flat),  # type: ignore[arg-type]
        "memoryview of bytes": memoryview(flat.tobytes()),
        "keys in any order": {str(key): value for key, value in shuffled.items()},
        "another library's array": Foreign(flat),
    }
    for name, data in forms.items():
        found = depth({"data": data, "type": "float32", "dims": list(values.shape)})
        np.testing.assert_allclose(found, expected, err_msg=name)
    half = values.astype(np.float16)
    bits = depth({"data": half.view(np.uint16), "type": "float16", "dims": values.shape})
    np.testing.assert_array_equal(bits, depth({"data": half, "type": "float16", "dims": values.shape}))


class Foreign:
    """An array of another library that gives NumPy its values."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._values, dtype)


@pytest.mark.parametrize(("value", "kind"), [(300, "uint8"), (-1, "uint8"), (0.5, "uint8"), (3e9, "int32")])
def test_tensor_values_outside_their_type_are_refused(value: float, kind: str, dpt_estimator: DepthEstimator) -> None:
    data = [value] * 12288
    with pytest.raises(DataFormatError, match=f"is outside {kind} or not whole"):
        dpt_estimator({"data": data, "type": kind, "dims": [1, 3, 64, 64]})


def test_forms_of_an_image_in_a_flow(dpt_estimator: DepthEstimator, tmp_path: Path) -> None:
    """What nodes and libraries hand over: Buffer, Jimp, paths, file objects, arrays of other libraries."""
    rgb = pattern(40, 30)
    png = io.BytesIO()
    Image.fromarray(rgb).save(png, "png")
    path = tmp_path / "an image.png"
    path.write_bytes(png.getvalue())
    rgba = np.dstack([rgb, np.full((30, 40), 255, np.uint8)])
    bitmap = {"width": 40, "height": 30, "data": {"type": "Buffer", "data": rgba.reshape(-1).tolist()}}
    png.seek(0)
    forms: dict[str, Any] = {
        "Buffer": {"type": "Buffer", "data": list(png.getvalue())},
        "Jimp as JSON": {"bitmap": bitmap},
        "Jimp": SimpleNamespace(bitmap=SimpleNamespace(width=40, height=30, data=rgba.tobytes())),
        "file object": png,
        "os.PathLike": PurePath(path),
        "file URL": path.as_uri(),
        "array of another library": Foreign(rgb),
        "memoryview of an array": memoryview(rgb),  # type: ignore[arg-type]
    }
    expected = dpt_estimator(rgb).data
    for name, value in forms.items():
        found = dpt_estimator(value)
        assert isinstance(found, Estimate)
        np.testing.assert_array_equal(found.data, expected, err_msg=name)
    with pytest.raises(DataFormatError, match="the bitmap has 4800 bytes, 40x31 RGBA needs 4960"):
        dpt_estimator({"bitmap": bitmap | {"height": 31}})
    with pytest.raises(UsageError, match="open it in binary mode"):
        dpt_estimator(io.StringIO("text"))  # type: ignore[call-overload]


@pytest.mark.parametrize("name", JS_ARCHITECTURES)
def test_depth_of_transformers_js(name: str) -> None:
    """Landscape, portrait, small and panoramic images, bicubic and bilinear, against the library itself."""
    images, path = load(name).images, FOLDER / name / "model.onnx"
    with (
        DepthEstimator(path, match="transformersjs") as estimator,
        DepthEstimator(path, provider="cpu") as other,
    ):
        assert estimator.provider == "cpu"  # not a provider that may compute in bf16
        for key, wanted in load_js(name).items():
            found = estimator(images[key]).data
            assert np.abs(found - wanted).max() <= 1e-4 * np.ptp(wanted)
            assert np.abs(other(images[key]).data - wanted).max() > 0.1 * np.ptp(wanted)


def test_match_needs_the_exact_path_and_a_model_of_both_libraries() -> None:
    with pytest.raises(UsageError, match="match transformersjs: needs the exact path"):
        DepthEstimator(match="transformersjs", exact=False)
    with pytest.raises(UsageError, match=r"transformers.js has no ZoeDepth; leave match out"):
        DepthEstimator(FOLDER / "zoedepth" / "model.onnx", match="transformersjs")
    with pytest.raises(UsageError, match="match is one of transformers, transformersjs, not 'js'"):
        DepthEstimator(match="js")  # type: ignore[arg-type]


def test_pixels_of_the_image_without_a_png(dpt_estimator: DepthEstimator) -> None:
    whole = dpt_estimator(pattern(40, 30), style="hot")
    (bare,) = dpt_estimator.each([pattern(40, 30)], style="hot", png=False)
    assert bare.image is None
    assert whole.image is not None
    assert bare.pixels is not None
    np.testing.assert_array_equal(bare.pixels, np.asarray(Image.open(io.BytesIO(whole.image))))


def test_intrinsics_of_another_shape_are_refused() -> None:
    camera = Intrinsics(500, 500, 320, 180, 640, 360)
    with DepthEstimator(FOLDER / "depth_pro" / "model.onnx", provider="cpu", intrinsics=camera) as estimator:
        assert estimator(pattern(128, 72)).camera is not None
        with pytest.raises(UsageError, match="intrinsics of 640x360 do not fit an image of 40x30"):
            estimator(pattern(40, 30))


def test_preprocessing_of_the_built_in_model_is_fixed() -> None:
    with pytest.raises(UsageError, match="built-in: its preprocessing is fixed"):
        DepthEstimator(preprocessing={"do_normalize": False})

"""Stills in every form people have them, and what is said about those that are none."""

from __future__ import annotations

import base64
import inspect
import io
import json
import threading
from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import streamdepth as sd
from streamdepth.core.errors import (
    InferenceError,
    ModelError,
    ModelNotFoundError,
    UsageError,
)
from streamdepth.core.frame import Frame, Sense
from streamdepth.image.estimator import DepthEstimator, Estimate
from streamdepth.inference.model import DepthModel, ModelOptions
from streamdepth.inference.preprocess import image_of
from streamdepth.media.scene import pattern
from tests.support.goldens import FOLDER, load
from tests.support.media import write_clip
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return pattern(60, 40)


@pytest.fixture(scope="module")
def depth(dpt_estimator: DepthEstimator, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return one(dpt_estimator(pixels)).data


def one(result: Estimate | list[Estimate]) -> Estimate:
    assert isinstance(result, Estimate)
    return result


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_a_result_prints_as_one_line() -> None:
    estimate = Estimate(np.zeros((48, 64), np.float32), b"x" * 10, 64, 48, Sense.METRIC_M, ("a note",))
    assert repr(estimate) == "<Estimate 64x48 metric_m, image of 10 bytes, notes: a note>"
    assert estimate.unit == "m"


def test_result(dpt_estimator: DepthEstimator, pixels: NDArray[np.uint8]) -> None:
    result = one(dpt_estimator(pixels))
    assert result.data.shape == (40, 60)
    assert result.data.dtype == np.float32
    assert (result.width, result.height) == (60, 40)
    assert result.image is None
    assert result.sense is Sense.RELATIVE_INVERSE
    with pytest.raises(FrozenInstanceError):
        result.width = 3  # type: ignore[misc]


def test_stills_are_exact_by_default() -> None:
    golden = load("depth_anything")
    with DepthEstimator(golden.spec.path, provider="cpu") as estimator:
        results = estimator(list(golden.images.values()))
    assert isinstance(results, list)
    for key, result in zip(golden.images, results, strict=True):
        wanted = golden.arrays[f"depth_{key}"]
        assert np.abs(result.data - wanted).max() <= 5e-4 * np.ptp(wanted)


def test_every_form_of_one_image_gives_the_same_depth(
    dpt_estimator: DepthEstimator, pixels: NDArray[np.uint8], depth: NDArray[np.float32], tmp_path: Path
) -> None:
    image = Image.fromarray(pixels)
    png = encoded(image)
    path = tmp_path / "a b.png"
    path.write_bytes(png)
    text = base64.b64encode(png).decode()
    frame = Frame("s", 0, 0, Fraction(1, 25), 0, image_of(pixels))
    alpha = np.dstack([pixels, np.full(pixels.shape[:2], 7, np.uint8)])
    forms: list[Any] = [
        path,
        str(path),
        png,
        bytearray(png),
        memoryview(png),
        text,
        text.rstrip("="),
        "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        text.replace("+", "-").replace("/", "_"),
        "data:image/png;base64," + text,
        image,
        image.convert("RGBA"),
        pixels,
        np.asfortranarray(pixels),
        alpha,
        pixels.astype(np.uint16) * 257,
        pixels.astype(np.float32) / 255,
        pixels.astype(np.float64) / 255,
        image_of(pixels),
        frame,
    ]
    results = dpt_estimator(forms)
    assert isinstance(results, list)
    assert len(results) == len(forms)
    for form, result in zip(forms, results, strict=True):
        np.testing.assert_array_equal(result.data, depth, err_msg=repr(type(form)))


def test_grey_forms(dpt_estimator: DepthEstimator, pixels: NDArray[np.uint8]) -> None:
    grey = pixels[:, :, 1]
    wide = grey.astype(np.uint16) * 257
    tiff = Image.fromarray(wide)
    forms = [
        np.repeat(grey[:, :, None], 3, axis=2),
        grey,
        grey[:, :, None],
        np.dstack([grey, grey]),
        Image.fromarray(grey),
        encoded(Image.fromarray(grey)),
        encoded(tiff),
        encoded(tiff, "TIFF"),
        encoded(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"),
        encoded(Image.fromarray(wide.astype(np.int32)), "TIFF"),
    ]
    results = dpt_estimator(forms)
    assert isinstance(results, list)
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result.data, results[0].data, err_msg=str(number))


def test_palette_and_bilevel_images(dpt_estimator: DepthEstimator) -> None:
    few = Image.fromarray(np.repeat(np.repeat(np.eye(6, dtype=np.uint8) * 255, 8, 0), 8, 1))
    rgb = few.convert("RGB")
    forms = [rgb, rgb.convert("P", palette=Image.Palette.ADAPTIVE), encoded(rgb, "GIF"), few.convert("1"), few]
    transparent = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    forms.append(encoded(transparent, transparency=b"\x00\x80"))
    forms.append(np.asarray(few) > 0)
    results = dpt_estimator(forms)
    assert isinstance(results, list)
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result.data, results[0].data, err_msg=str(number))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(dpt_estimator: DepthEstimator, pixels: NDArray[np.uint8], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # EXIF 2.3, tag 274: which side of the stored pixels is the top, which the left
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    got = one(dpt_estimator(encoded(Image.fromarray(pixels), exif=exif)))
    np.testing.assert_array_equal(got.data, one(dpt_estimator(np.ascontiguousarray(upright))).data)
    assert (got.height, got.width) == upright.shape[:2]


def test_animated_image_gives_its_first_frame_and_says_so(dpt_estimator: DepthEstimator) -> None:
    frames = [Image.fromarray(pattern(32, 24, n)) for n in range(3)]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    got = one(dpt_estimator(data))
    np.testing.assert_array_equal(got.data, one(dpt_estimator(frames[0])).data)
    assert "only the first of 3 images is used" in got.notes[0]


def test_a_list_may_mix_sizes_and_forms_and_keeps_its_order(dpt_estimator: DepthEstimator) -> None:
    sizes = [(60, 40), (33, 77), (60, 40), (1, 1), (200, 10)]
    images = [pattern(w, h, n) for n, (w, h) in enumerate(sizes)]
    results = dpt_estimator(tuple(images))
    assert isinstance(results, list)
    assert [(r.width, r.height) for r in results] == sizes
    for result, pixels in zip(results, images, strict=True):
        np.testing.assert_array_equal(result.data, one(dpt_estimator(pixels)).data)
    assert dpt_estimator([]) == []
    assert len(dpt_estimator([images[0]])) == 1


# Prepared tensors --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared() -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return np.asarray(rng.uniform(-1, 1, (1, 3, 64, 64)), dtype=np.float32)


def test_prepared_tensor_is_used_as_it_is(dpt_estimator: DepthEstimator, prepared: NDArray[np.float32]) -> None:
    import onnxruntime as ort

    session = ort.InferenceSession(str(dpt_estimator.spec.path), providers=["CPUExecutionProvider"])
    raw = session.run(None, {"pixel_values": prepared})[0][0]
    flat = prepared.reshape(-1)
    forms: list[Any] = [
        {"data": flat.tolist(), "type": "float32", "dims": [1, 3, 64, 64]},
        {"data": flat, "type": "float32", "dim": (1, 3, 64, 64)},
        {"data": prepared.tolist(), "type": "float32", "dims": [3, 64, 64]},
        {"data": flat.tobytes(), "dims": [1, 3, 64, 64]},
        {"data": base64.b64encode(flat.tobytes()).decode(), "type": "float32", "dims": [1, 3, 64, 64]},
        {"data": {str(i): v for i, v in enumerate(flat.tolist())}, "type": "float32", "dims": [1, 3, 64, 64]},
        {"data": flat.astype(np.float64), "type": "float64", "dims": [1, 3, 64, 64], "location": "cpu", "size": 12288},
    ]
    results = dpt_estimator(forms)
    assert isinstance(results, list)
    for result in results:
        assert (result.width, result.height) == (64, 64)
        assert np.abs(result.data - raw).max() <= 1e-4 * np.ptp(raw)


def test_a_tensor_of_several_images_counts_as_that_many(
    dpt_estimator: DepthEstimator, prepared: NDArray[np.float32]
) -> None:
    two = np.concatenate([prepared, -prepared])
    results = dpt_estimator({"data": two, "type": "float32", "dims": [2, 3, 64, 64]})
    assert isinstance(results, list)
    assert len(results) == 2


# Images of depth --------------------------------------------------------------------------------------------------


def test_image_is_a_png_with_alpha_at_the_images_size(dpt_estimator: DepthEstimator, pixels: NDArray[np.uint8]) -> None:
    result = one(dpt_estimator(pixels, style="viridis", alpha=(0.3, 0.8)))
    assert result.image is not None
    image = Image.open(io.BytesIO(result.image))
    assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (60, 40))
    alpha = np.asarray(image)[:, :, 3]
    # near = large for this model: opacity 0.3 at the largest value, 0.8 at the smallest
    assert abs(int(alpha.flat[result.data.argmax()]) - round(0.3 * 255)) <= 1
    assert abs(int(alpha.flat[result.data.argmin()]) - round(0.8 * 255)) <= 1


@pytest.mark.parametrize("style", ["grayscale", "greyscale"])
def test_grayscale_styles_have_one_channel(
    dpt_estimator: DepthEstimator, pixels: NDArray[np.uint8], style: str
) -> None:
    result = one(dpt_estimator(pixels, style=style))
    assert result.image is not None
    image = Image.open(io.BytesIO(result.image))
    assert image.mode == "L"
    wanted = (result.data - result.data.min()) / np.ptp(result.data) * 255
    assert np.abs(np.asarray(image) - wanted).max() <= 1.01
    flipped = one(dpt_estimator(pixels, style=style, reverse=True))
    assert flipped.image is not None
    assert np.abs(np.asarray(Image.open(io.BytesIO(flipped.image))) - (255 - wanted)).max() <= 1.01
    faded = one(dpt_estimator(pixels, style=style, alpha=0.5))
    assert faded.image is not None
    assert Image.open(io.BytesIO(faded.image)).mode == "LA"


def test_bad_looks_are_told_before_any_work(dpt_estimator: DepthEstimator) -> None:
    with pytest.raises(UsageError, match="nosuchstyle"):
        dpt_estimator("not read.png", style="nosuchstyle")
    with pytest.raises(UsageError, match="alpha"):
        dpt_estimator("not read.png", style="viridis", alpha="x")


def test_node_form_is_json(dpt_estimator: DepthEstimator, pixels: NDArray[np.uint8]) -> None:
    result = one(dpt_estimator(pixels, style="inferno"))
    node = json.loads(json.dumps(result.to_node(), allow_nan=False))
    assert sorted(node) == ["data", "height", "image", "width"]
    again = np.array(node["data"], dtype=np.float32).reshape(node["height"], node["width"])
    np.testing.assert_array_equal(again, result.data)
    # what goes out can come in again
    assert one(dpt_estimator(node["image"])).width == 60
    broken = Estimate(np.array([[1, np.nan]], np.float32), None, 2, 1, Sense.METRIC_M)
    assert broken.to_node() == {"data": [1.0, None], "image": None, "width": 2, "height": 1}


# The object itself --------------------------------------------------------------------------------------------------


def test_many_threads_may_call(
    dpt_estimator: DepthEstimator, pixels: NDArray[np.uint8], depth: NDArray[np.float32]
) -> None:
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(n for n in range(5) if not np.array_equal(one(dpt_estimator(pixels)).data, depth))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not wrong


@pytest.mark.slow
def test_engine_for_video_is_fast_unless_exact_is_asked_for() -> None:
    path = FOLDER / "dpt" / "model.onnx"
    for asked, stills, video in ((None, True, False), (True, True, True), (False, False, False)):
        with DepthEstimator(path, provider="cpu", exact=asked) as estimator:
            engine = estimator.engine(batch=2)
            assert engine.exact is video
            engine.close()
            fast = one(estimator(pattern(50, 40))).data
            estimator(pattern(50, 40))
            assert estimator.provider == "cpu"
        with DepthEstimator(path, provider="cpu", exact=True) as exact:
            assert np.array_equal(fast, one(exact(pattern(50, 40))).data) is stills


def test_closed_estimator_and_bad_arguments(tmp_path: Path) -> None:
    path = FOLDER / "dpt" / "model.onnx"
    estimator = DepthEstimator(path)
    estimator.close()
    estimator.close()
    with pytest.raises(InferenceError, match="closed"):
        estimator(pattern(8, 8))
    with pytest.raises(UsageError, match="threads"):
        DepthEstimator(path, threads=0)
    with pytest.raises(UsageError, match="model is built-in, a path or a Hub name"):
        DepthEstimator(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown provider 'cdua'"):
        DepthEstimator(provider="cdua")
    with pytest.raises(UsageError, match="exact is True, False or None"):
        DepthEstimator(exact="yes")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="intrinsics are an Intrinsics"):
        DepthEstimator(intrinsics=3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_pixels"):
        DepthEstimator(path, max_pixels=0)
    with pytest.raises(ModelNotFoundError):
        DepthEstimator(tmp_path / "none.onnx")
    with (
        pytest.raises(ModelError, match="flat"),
        DepthEstimator(write_depth_model(tmp_path / "flat.onnx", fault="flat"), sense="relative_depth") as flat,
    ):
        flat(pattern(8, 8))


def test_one_model_for_images_and_for_a_pipeline(tmp_path: Path) -> None:
    """The estimator takes a model, and a pipeline takes either, with the same depth."""
    clip = tmp_path / "clip.mkv"
    write_clip(clip, frames=2, width=64, height=48)
    model = DepthModel(FOLDER / "dpt" / "model.onnx", provider="cpu")
    with DepthEstimator(model) as estimator:
        assert estimator.model is model
        assert estimator.spec == model.spec
        runs = [[depth.values for _, depth in sd.stream(str(clip), of)] for of in (model, estimator)]
    assert len(runs[0]) == 2
    np.testing.assert_array_equal(runs[0], runs[1])


def test_options_beside_a_model_are_refused() -> None:
    model = DepthModel(FOLDER / "dpt" / "model.onnx")
    with pytest.raises(UsageError, match="dtype, size: options of a DepthModel; give them where it is made"):
        DepthEstimator(model, dtype="fp16", size=28)


def test_the_estimator_passes_on_every_option_of_a_model() -> None:
    parameters = inspect.signature(DepthModel).parameters.values()
    keywords = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    assert keywords == set(ModelOptions.__annotations__)


def test_what_is_assumed_and_missing_is_noted(tmp_path: Path) -> None:
    with DepthEstimator(write_depth_model(tmp_path / "m.onnx"), provider="cpu") as estimator:
        notes = estimator(pattern(40, 30)).notes
    assert any("Depth Anything's is assumed" in note for note in notes)
    assert any("near = large" in note for note in notes)

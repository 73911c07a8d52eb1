"""The model in the package: its file, what it says of itself, and what it makes of images."""

from __future__ import annotations

import hashlib
import json
import runpy
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnx
import pytest

import streamdepth as sd
from streamdepth.models.resolve import resolve
from tests.support import need
from tests.support.paths import ROOT

if TYPE_CHECKING:
    import onnxruntime as ort
    from numpy.typing import NDArray

FOLDER = Path(str(files("streamdepth.models.builtin")))
PLAIN_OPERATORS = {
    "Add", "Cast", "Clip", "Concat", "Conv", "Div", "ReduceMean", "Relu", "Resize", "Shape", "Slice", "Squeeze", "Sub",
}  # fmt: skip


def record() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
    return content


@cache
def session() -> ort.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(resolve("built-in").path), options, providers=["CPUExecutionProvider"])


@cache
def estimator() -> sd.DepthEstimator:
    return sd.DepthEstimator(provider="cpu")


def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB [N, H, W, 3] at the network's size -> [N, H/2, W/2]."""
    x = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / 255
    (depth,) = session().run(None, {"pixel_values": x})
    return np.asarray(depth)


def floor_and_sky(width: int, height: int, horizon: float = 0.45) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A tiled floor under a sky, and its inverse depth: linear below the horizon, 0 above."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    below = np.maximum(y / height - horizon, 0)
    near = np.maximum(below, 1e-3)
    tiles = (np.floor(0.35 / near) + np.floor((x / width - 0.5) * 1.2 / near)) % 2
    tiles = tiles * np.clip(near * 6, 0, 1) + 0.5 * (1 - np.clip(near * 6, 0, 1))
    floor = (80 + 70 * tiles)[:, :, None] * [1.0, 0.9, 0.75]
    sky = (235 - 90 * (1 - y / height))[:, :, None] * [0.75, 0.88, 1.0]
    return np.where((below > 0)[:, :, None], floor, sky).astype(np.uint8), below


def test_the_file_is_small_plain_and_says_what_it_is() -> None:
    about = record()
    path = FOLDER / about["file"]
    assert path.stat().st_size <= 8_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == about["sha256"]
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [o.version for o in model.opset_import] == [17]
    assert {n.op_type for n in model.graph.node} <= PLAIN_OPERATORS
    said = {p.key: p.value for p in model.metadata_props}
    assert (said["name"], said["version"], said["license"]) == (about["name"], about["version"], about["licence"])
    assert said["streamdepth.sense"] == about["sense"]
    assert len(said["weights_sha256"]) == 64
    assert said["training"]
    assert list(FOLDER.glob("*.onnx")) == [path]


def test_the_card_is_beside_it_with_the_same_numbers() -> None:
    about = record()
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"version {about['version']}" in card
    assert about["file"] in card
    for name, (absrel, delta1) in about["accuracy"].items():
        assert f"{absrel:.3f} / {delta1:.3f}" in card, name


def test_the_spec_keeps_the_aspect_and_takes_any_size() -> None:
    spec = resolve("built-in")
    assert spec.fixed_batch is None
    assert spec.preprocessing.keep_aspect
    assert spec.preprocessing.multiple_of == 32
    assert str(spec.sense) == "relative_inverse"


@pytest.mark.parametrize("size", [(352, 192), (192, 352), (256, 192), (640, 192), (32, 32), (512, 384)])
def test_any_size_gives_half_of_it(size: tuple[int, int]) -> None:
    width, height = size
    image = np.random.default_rng(1).integers(0, 256, (1, height, width, 3), np.uint8)
    depth = run(image)
    assert depth.shape == (1, height // 2, width // 2)
    assert np.isfinite(depth).all()


def test_a_batch_is_its_images_one_by_one() -> None:
    images = np.random.default_rng(2).integers(0, 256, (3, 192, 256, 3), np.uint8)
    together = run(images)
    alone = np.concatenate([run(p[None]) for p in images])
    np.testing.assert_allclose(together, alone, atol=1e-3 * np.ptp(alone))


@pytest.mark.parametrize(("width", "height"), [(352, 192), (256, 192), (192, 352)])
def test_ground_recedes_and_sky_is_far(width: int, height: int) -> None:
    image, truth = floor_and_sky(width, height)
    depth = run(image[None])[0]
    small = cv2.resize(truth, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(depth.ravel(), small.ravel())[0, 1] > 0.85
    assert depth[-8:].mean() - depth[:8].mean() > 2 * depth.std()


def test_something_standing_on_the_floor_is_nearer_than_what_is_behind_it() -> None:
    image, _ = floor_and_sky(352, 192)
    image[60:170, 150:200] = [150, 60, 50]
    image[60:170, 200:215] = [90, 35, 30]
    depth = run(image[None])[0]
    thing, beside = depth[35:45, 80:98].mean(), np.concatenate([depth[35:45, 40:60], depth[35:45, 125:145]], 1).mean()
    assert thing - beside > 0.25 * np.ptp(depth)


def test_the_sky_behind_a_mast_is_far_down_to_the_lower_edge() -> None:
    rows = np.linspace(0, 1, 192)[:, None, None]
    image = np.repeat(np.clip((60 + 110 * rows) * [0.5, 0.9, 1.4], 0, 255), 352, 1).astype(np.uint8)
    for k in range(6):
        for left, right in ((130, 210), (210, 130)):
            cv2.line(image, (left, 20 + 30 * k), (right, 50 + 30 * k), (60, 40, 90), 6)
    for x in (130, 210):
        cv2.line(image, (x, 10), (x, 191), (70, 50, 100), 11)
    depth = run(image[None])[0]
    mast = np.median(np.concatenate([depth[30:90, 64:67], depth[30:90, 104:107]], 1))
    sky = np.concatenate([depth[60:, 8:50], depth[60:, 120:168]], 1)
    assert mast - np.percentile(sky, 90) > 0.4 * np.ptp(depth)


def bad_images() -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    return {
        "black": np.zeros((120, 160, 3), np.uint8),
        "white": np.full((120, 160, 3), 255, np.uint8),
        "one colour": np.full((120, 160, 3), (200, 30, 90), np.uint8),
        "noise": rng.integers(0, 256, (120, 160, 3), np.uint8),
        "one pixel": np.full((1, 1, 3), 77, np.uint8),
        "very wide": rng.integers(0, 256, (8, 1000, 3), np.uint8),
        "very tall": rng.integers(0, 256, (1000, 8, 3), np.uint8),
    }


@pytest.mark.parametrize("name", sorted(bad_images()))
def test_images_of_nothing_give_finite_depth_of_their_size(name: str) -> None:
    image = bad_images()[name]
    result = estimator()(image)
    assert result.data.shape == image.shape[:2]
    assert np.isfinite(result.data).all()


@pytest.mark.parametrize("name", ["black", "white", "one colour"])
def test_flat_images_give_smooth_depth(name: str) -> None:
    flat = np.asarray(cv2.resize(bad_images()[name], (256, 192)), np.uint8)
    depth = run(flat[None])[0][8:-8, 8:-8]
    image, _ = floor_and_sky(256, 192)
    span = np.ptp(run(image[None]))
    assert np.abs(depth - cv2.blur(depth, (3, 3))).max() < 0.05 * span


def test_no_checkerboard() -> None:
    image, _ = floor_and_sky(352, 192)
    depth = run(image[None])[0].astype(np.float64)
    alternating = np.abs(depth[:-1, :-1] - depth[1:, :-1] - depth[:-1, 1:] + depth[1:, 1:]).mean()
    assert alternating < 0.01 * np.ptp(depth)


def test_neighbouring_frames_give_nearly_the_same_depth() -> None:
    image, _ = floor_and_sky(360, 192)
    image[60:170, 150:200] = [150, 60, 50]
    rng = np.random.default_rng(4)
    frames = [image[:, k : k + 352] for k in (0, 1, 2)]
    frames = [np.clip(f + rng.normal(0, 2, f.shape), 0, 255).astype(np.uint8) for f in frames]
    depth = run(np.stack(frames))
    change = np.abs(np.diff(depth, axis=0)).mean()
    assert change < 0.03 * np.ptp(depth)


def test_accuracy_on_photographs_is_what_the_card_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    accuracy = runpy.run_path(str(ROOT / "benchmarks" / "accuracy.py"))
    for name, every, cap in (("indoor_kitchen", 50, "INDOOR_CAP_M"), ("street_kitti", 1, "OUTDOOR_CAP_M")):
        photographs = accuracy["images"](need.shared(f"eval/{name}"), every)
        scores = [accuracy["score"](estimator()(rgb).data, depth, accuracy[cap]) for rgb, depth in photographs]
        absrel, delta1 = np.mean(scores, 0)
        said = record()["accuracy"][name]
        assert absrel < said[0] + 0.02
        assert delta1 > said[1] - 0.05

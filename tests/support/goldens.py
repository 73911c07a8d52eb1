"""Reads the goldens that ``tests/goldens/make_goldens.py`` made with the real ``transformers`` pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.models.resolve import resolve
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.models.spec import ModelSpec

FOLDER = ROOT / "tests" / "goldens"
ARCHITECTURES = ("depth_anything", "dpt", "dpt_padded", "glpn", "zoedepth", "depth_pro")
INPUT_STRIDE = 5
JS_ARCHITECTURES = ("depth_anything", "dpt")


@dataclass(frozen=True, slots=True)
class Golden:
    """One architecture: its model, and what the pipeline gave for each image."""

    spec: ModelSpec
    images: dict[str, NDArray[np.uint8]]
    arrays: dict[str, NDArray[Any]]


def load(architecture: str) -> Golden:
    spec = resolve(FOLDER / architecture / "model.onnx")
    with np.load(FOLDER / "images.npz") as images, np.load(FOLDER / architecture / "golden.npz") as arrays:
        return Golden(spec, dict(images), dict(arrays))


def load_js(architecture: str) -> dict[str, NDArray[np.float32]]:
    """Depth of each image by transformers.js in Node.js, which ``tests/goldens/make_goldens_js.mjs`` made."""
    values = np.fromfile(FOLDER / architecture / "golden_js.f32", "<f4")
    with np.load(FOLDER / "images.npz") as images:
        shapes = {key: images[key].shape[:2] for key in images}
    ends = np.cumsum([height * width for height, width in shapes.values()])
    parts = np.split(values, ends[:-1])
    return {key: part.reshape(shape) for (key, shape), part in zip(shapes.items(), parts, strict=True)}

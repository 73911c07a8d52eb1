"""Depth models as functions of an image: RGB uint8 [H, W, 3] -> float [h, w], near = large."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

Predict = Callable[[np.ndarray], np.ndarray]


def fastdepth(path: Path) -> Predict:
    """FastDepth as published: input 224x224, output in metres."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(rgb: np.ndarray) -> np.ndarray:
        x = cv2.resize(rgb, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        depth = session.run(None, {session.get_inputs()[0].name: x.transpose(2, 0, 1)[None]})[0].squeeze()
        return np.asarray(1 / np.maximum(depth, 0.1))

    return predict


def product(model: str, size: str | None) -> Predict:
    """A model run by streamdepth."""
    import streamdepth as sd

    estimator = sd.DepthEstimator(model, size=size, provider="cpu")
    return lambda rgb: np.asarray(estimator(rgb).data)

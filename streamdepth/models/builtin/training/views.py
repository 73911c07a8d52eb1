"""Views of a rendered image: crop, artefacts of camera and codec, and the next frame."""

from __future__ import annotations

import cv2
import numpy as np

# network sizes (width, height) by shape of the rendered image, all of about 50,000 pixels
WIDE = ((352, 192), (320, 192), (288, 160))
NORMAL = ((256, 192), (256, 192), (224, 224), (320, 192))
TALL = ((192, 256), (192, 320), (224, 224))
LONG = ((512, 160), (448, 160), (448, 128), (576, 192))
SHIFT, ZOOM = 0.06, 0.08
"""How far the second of two views is moved at most, in parts of the first one's sides, and how much it is zoomed."""
Box = tuple[int, int, int, int]


def sizes_for(width: int, height: int, coarse: bool) -> tuple[tuple[int, int], ...]:
    """Network sizes for a rendered image; coarse: two fifths of the pixels."""
    aspect = width / height
    sizes = LONG if aspect > 2 else WIDE if aspect > 1.5 else NORMAL if aspect > 1 else TALL
    return tuple((round(w / 51) * 32, round(h / 51) * 32) for w, h in sizes) if coarse else sizes


def wear(f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Camera and codec artefacts on float32 RGB in 0..1, as uint8: blur, cast, contrast, vignette, noise, JPEG.."""
    height, width = f.shape[:2]
    kind = rng.random()
    if kind < 0.15:
        f = cv2.GaussianBlur(f, (0, 0), rng.uniform(0.4, 2.0))
    elif kind < 0.27:
        s = rng.uniform(0.35, 0.85)
        f = cv2.resize(cv2.resize(f, None, fx=s, fy=s, interpolation=cv2.INTER_AREA), (width, height))
    elif kind < 0.36:
        n = int(rng.integers(3, 11))
        line = np.zeros((n, n), np.float32)
        line[n // 2] = 1 / n
        line = cv2.warpAffine(line, cv2.getRotationMatrix2D((n / 2 - 0.5, n / 2 - 0.5), rng.uniform(0, 180), 1), (n, n))
        f = cv2.filter2D(np.ascontiguousarray(f), -1, line / max(line.sum(), 1e-3))
    elif kind < 0.44:  # sharpening in the camera
        f = f + (f - cv2.GaussianBlur(f, (0, 0), 1.2)) * rng.uniform(0.3, 1.2)
    if rng.random() < 0.85:
        grey = f.mean(2, keepdims=True)
        f = grey + (f - grey) * rng.uniform(0.1, 1.2)
        f = f * (1 + rng.normal(0, 0.1, 3)).astype(np.float32)
        f = (f - 0.5) * rng.uniform(0.6, 1.4) + 0.5 + rng.uniform(-0.15, 0.15)
        f = np.clip(f, 0, 1) ** rng.uniform(0.6, 1.6)
    if rng.random() < 0.08:  # night: most of it black
        f = np.clip(f - rng.uniform(0.1, 0.5), 0, 1) * rng.uniform(0.6, 1.8)
    if rng.random() < 0.25:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        f = f * (1 - rng.uniform(0.1, 0.5) * (x * x + y * y) / 2)[:, :, None].astype(np.float32)
    if rng.random() < 0.12:  # veiling glare
        f = f * rng.uniform(0.5, 0.9) + rng.uniform(0.05, 0.4) * np.ones(3, np.float32)
    if rng.random() < 0.06:
        f = np.repeat(f.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.45:
        grain = rng.standard_normal((height, width, 1 if rng.random() < 0.5 else 3), np.float32)
        if rng.random() < 0.4:
            grain = cv2.GaussianBlur(grain, (0, 0), 0.8).reshape(grain.shape) * 2
        f = f + grain * rng.uniform(0, 0.06)
    out = (np.clip(f, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.35:
        out = cv2.imdecode(cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 85))])[1], 1)
    return out


def crop(rng: np.random.Generator, width: int, height: int, size: tuple[int, int]) -> Box:
    """x, y, w, h of a crop with approximately the aspect of `size`."""
    aspect = size[0] / size[1] * np.exp(rng.normal(0, 0.15))
    scale = rng.uniform(0.6, 1.0) ** 0.7
    w = min(width, height * aspect) * scale
    h = min(height, w / aspect)
    w, h = max(int(w), 16), max(int(h), 16)
    return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h


def beside(rng: np.random.Generator, width: int, height: int, box: Box) -> Box:
    """`box` moved and zoomed slightly, as in the next frame of a video."""
    x, y, w, h = box
    zoom = min(1 + rng.uniform(-ZOOM, ZOOM), width / w, height / h)
    new_w, new_h = int(w * zoom), int(h * zoom)
    x += round(rng.uniform(-SHIFT, SHIFT) * w + (w - new_w) / 2)
    y += round(rng.uniform(-SHIFT, SHIFT) * h + (h - new_h) / 2)
    return min(max(x, 0), width - new_w), min(max(y, 0), height - new_h), new_w, new_h


def way(first: Box, second: Box, mirrored: bool) -> np.ndarray:
    """float32 [2, 3]: from positions in the second view to positions in the first, both in -1..1, for `affine_grid`."""
    theta = np.zeros((2, 3), np.float32)
    for axis in range(2):
        start, size = second[axis] - first[axis], first[axis + 2]
        theta[axis, axis] = second[axis + 2] / size
        theta[axis, 2] = (2 * start + second[axis + 2]) / size - 1
    if mirrored:
        theta[0, 2] *= -1
    return theta

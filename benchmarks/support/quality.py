"""SSIM and PSNR of decoded frames against their originals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

    Plane = NDArray[np.float32]

_K1, _K2 = 0.01, 0.03  # of Wang et al. 2004


def planes(image: av.VideoFrame) -> list[Plane]:
    """Y, U, V of a 4:2:0 image as float32 [h, w], scaled to 0..255."""
    deep = image.format.components[0].bits > 8
    scale = 255.0 / ((1 << image.format.components[0].bits) - 1)
    found = []
    for plane in image.planes[:3]:
        words: NDArray[Any] = np.frombuffer(plane, np.uint16 if deep else np.uint8)
        rows = words.reshape(plane.height, -1)[:, : plane.width]
        found.append(rows.astype(np.float32) * np.float32(scale if deep else 1))
    return found


def ssim(a: Plane, b: Plane) -> float:
    """Mean structural similarity over 8x8 windows at a distance of 4, as FFmpeg's filter computes it."""
    size = a.shape[1] // 4 * 4, a.shape[0] // 4 * 4
    a, b = a[: size[1], : size[0]], b[: size[1], : size[0]]

    def windows(values: Plane) -> Plane:
        small = cv2.resize(values, (size[0] // 4, size[1] // 4), interpolation=cv2.INTER_AREA)
        return (small[:-1, :-1] + small[1:, :-1] + small[:-1, 1:] + small[1:, 1:]) / 4

    mean_a, mean_b = windows(a), windows(b)
    var_a, var_b, cov = windows(a * a) - mean_a**2, windows(b * b) - mean_b**2, windows(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    value = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(value.mean())


def compare(original: av.VideoFrame, decoded: av.VideoFrame) -> tuple[float, float]:
    """(SSIM, mean squared error) over all planes, weighted by their pixels."""
    pairs = list(zip(planes(original), planes(decoded), strict=True))
    pixels = [a.size for a, _ in pairs]
    similar = float(np.average([ssim(a, b) for a, b in pairs], weights=pixels))
    return similar, float(np.average([((a - b) ** 2).mean() for a, b in pairs], weights=pixels))

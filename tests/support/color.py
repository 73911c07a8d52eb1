"""An independent reference of the colour stage: float64, whole arrays, own formulas, no code of the kernels."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

from streamdepth.core.frame import ColorTags, DepthMap, DepthRange, Sense, StreamInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray


BITS = {"yuv420p10le": 10, "yuv422p10le": 10, "yuv444p10le": 10, "p010le": 10, "gray10le": 10}
CHROMA_STEP = {
    "yuv420p": (2, 2), "yuvj420p": (2, 2), "nv12": (2, 2), "yuv420p10le": (2, 2), "p010le": (2, 2),
    "yuv422p": (2, 1), "yuvj422p": (2, 1), "yuv422p10le": (2, 1),
    "yuv444p": (1, 1), "yuvj444p": (1, 1), "yuv444p10le": (1, 1),
    "gray": (2, 2), "gray10le": (2, 2),
}  # fmt: skip
PACKED = {"rgb24": "RGB", "bgr24": "BGR", "rgba": "RGBA"}
ALL_FORMATS = (*CHROMA_STEP, *PACKED)
# Luma weights from the chromaticities' published rounding (BT.709 3.2, BT.601 2.5.1, BT.2020 table 4, SMPTE 240M, FCC).
WEIGHTS = {
    1: (0.2126, 0.7152, 0.0722),
    4: (0.30, 0.59, 0.11),
    5: (0.299, 0.587, 0.114),
    6: (0.299, 0.587, 0.114),
    7: (0.212, 0.701, 0.087),
    9: (0.2627, 0.6780, 0.0593),
}


def stream_info(width: int, height: int, pix_fmt: str, color: ColorTags | None = None) -> StreamInfo:
    return StreamInfo("test", width, height, pix_fmt, Fraction(1, 25), color=color or ColorTags())


def random_image(width: int, height: int, pix_fmt: str, seed: int = 0) -> av.VideoFrame:
    """Noise in every plane, within the nominal range of 8 or 10 bits; alpha, where there is any, opaque."""
    rng = np.random.default_rng(seed)
    image = av.VideoFrame(width, height, pix_fmt)
    bits = BITS.get(pix_fmt, 8)
    for plane in image.planes:
        words = np.frombuffer(memoryview(plane), np.dtype(np.uint8 if bits == 8 else np.uint16))
        words[:] = rng.integers(0, 1 << bits, words.size) << (6 if pix_fmt == "p010le" else 0)
        if pix_fmt == "rgba":
            words[3::4] = 255
    image.pts = 7
    image.time_base = Fraction(1, 25)
    return image


def smooth_depth(width: int, height: int, seed: int = 0, sense: Sense = Sense.RELATIVE_INVERSE) -> DepthMap:
    """Waves with a few hard edges, in units of no meaning."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    values = np.zeros((height, width))
    for _ in range(4):
        fx, fy, phase = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), rng.uniform(0, 6)
        values += np.sin(fx * x + fy * y + phase)
    values[height // 3 : height // 2, width // 3 : width // 2] += 2
    return DepthMap(np.ascontiguousarray(values, dtype=np.float32), sense)


def span(depth: DepthMap, cut: float = 0.0) -> DepthRange:
    values = depth.values[np.isfinite(depth.values)]
    lo, hi = float(values.min()), float(values.max())
    return DepthRange(lo + cut * (hi - lo), hi - cut * (hi - lo))


def nearness(depth: DepthMap, depth_range: DepthRange, width: int, height: int) -> NDArray[np.float64]:
    """Normalised, clipped, then bilinear between pixel centres, edges held: float64 [height, width]."""
    values = depth.values.astype(np.float64)
    lo, hi = depth_range.lo, depth_range.hi
    if depth.sense is Sense.RELATIVE_INVERSE or hi <= 0:  # no inverse of values that are all below zero
        near = (values - lo) / (hi - lo)
        near = near if depth.sense is Sense.RELATIVE_INVERSE else 1 - near
    else:  # inverse depth, of what is nearer than a hundredth of the farthest no nearer
        nearest = max(lo, hi / 100)
        near = (1 / np.maximum(values, nearest) - 1 / hi) / (1 / nearest - 1 / hi)
    near = near.clip(0, 1)
    h, w = near.shape
    xs = (np.arange(width) + 0.5) / width
    ys = (np.arange(height) + 0.5) / height
    wide = np.stack([np.interp(xs, (np.arange(w) + 0.5) / w, row) for row in near])
    return np.stack([np.interp(ys, (np.arange(h) + 0.5) / h, column) for column in wide.T], axis=1)


def colour(
    near: NDArray[np.float64], entries: NDArray[np.uint8], alpha: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """R'G'B' 0..1 [..., 3] and opacity [...] at each nearness, by straight lines between the palette's entries."""
    position = near * (len(entries) - 1)
    knots = np.arange(len(entries))
    channels = [np.interp(position, knots, entries[:, c] / 255.0) for c in range(4)]
    opacity = channels[3] * (alpha[0] * near + alpha[1] * (1 - near))
    return np.stack(channels[:3], axis=-1), opacity


def to_yuv(rgb: NDArray[np.float64], matrix: int, full: bool, bits: int = 8) -> NDArray[np.float64]:
    """R'G'B' 0..1 [..., 3] to unrounded code values [..., 3]."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    wr, wg, wb = WEIGHTS[matrix]
    y = wr * red + wg * green + wb * blue
    u = (blue - y) / (1 - wb) / 2
    v = (red - y) / (1 - wr) / 2
    scale = 2.0 ** (bits - 8)
    top = 2.0**bits - 1
    if full:
        codes = [y * top, u * top + 128 * scale, v * top + 128 * scale]
    else:
        codes = [(219 * y + 16) * scale, (224 * u + 128) * scale, (224 * v + 128) * scale]
    return np.stack(codes, axis=-1).clip(0, top)


def box(values: NDArray[np.float64], step_x: int, step_y: int) -> NDArray[np.float64]:
    """Mean of each block; blocks at the edge hold what is there."""
    height, width = values.shape
    padded = np.pad(values, ((0, -height % step_y), (0, -width % step_x)), constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // step_y, step_y, padded.shape[1] // step_x, step_x)
    return np.asarray(np.nanmean(blocks, axis=(1, 3)))


def channels(image: av.VideoFrame) -> list[NDArray[np.float64]]:
    """Every component of an image as float64 [h, w] at its own resolution: Y, U, V or R, G, B (, A)."""
    name, width, height = image.format.name, image.width, image.height

    def words(index: int, count: int, rows: int) -> NDArray[np.float64]:
        plane = image.planes[index]
        kind = np.dtype(np.uint8 if BITS.get(name, 8) == 8 else np.uint16)
        table = np.frombuffer(memoryview(plane), kind).reshape(-1, plane.line_size // kind.itemsize)
        return np.asarray(table[:rows, :count] >> (6 if name == "p010le" else 0), dtype=np.float64)

    if name in PACKED:
        order = PACKED[name]
        table = words(0, width * len(order), height).reshape(height, width, len(order))
        return [table[:, :, order.index(letter)] for letter in "RGBA" if letter in order]
    luma = words(0, width, height)
    if name.startswith("gray"):
        return [luma]
    step_x, step_y = CHROMA_STEP[name]
    cw, ch = -(-width // step_x), -(-height // step_y)
    if name in ("nv12", "p010le"):
        pairs = words(1, 2 * cw, ch)
        return [luma, pairs[:, 0::2], pairs[:, 1::2]]
    return [luma, words(1, cw, ch), words(2, cw, ch)]


def overlay(
    image: av.VideoFrame,
    near: NDArray[np.float64],
    entries: NDArray[np.uint8],
    alpha: tuple[float, float],
    matrix: int,
    full: bool,
) -> list[NDArray[np.float64]]:
    """What an overlay's components should be, unrounded."""
    name = image.format.name
    bits = BITS.get(name, 8)
    source = channels(image)
    if name in PACKED:
        rgb, opacity = colour(near, entries, alpha)
        return [old * (1 - opacity) + opacity * 255 * rgb[:, :, i] for i, old in enumerate(source[:3])]
    step = CHROMA_STEP[name]
    if len(source) == 1:
        neutral = np.full(box(near, *step).shape, 128.0 * 2 ** (bits - 8))
        source = [source[0], neutral, neutral]
    mixed = []
    for index, old in enumerate(source):
        here = near if index == 0 else box(near, *step)
        rgb, opacity = colour(here, entries, alpha)
        mixed.append(old * (1 - opacity) + opacity * to_yuv(rgb, matrix, full, bits)[..., index])
    return mixed

"""Time of the colour stage against OpenCV, numpy and cmap: ``python benchmarks/colorize.py``.

All methods of a row run in turn, round by round. Milliseconds and ratios are those of the fastest run, which other work
on the machine disturbs least (--median for medians). Input is the decoder's yuv420p planes and depth at 252x252; output
is yuv420p planes unless stated otherwise.

    ours        Colorizer.render: a new frame with depth blended over it
    kernel      the same without a new frame, on one thread, written to existing planes
    opencv      cvtColor, resize, applyColorMap, addWeighted (ramp: blendLinear with per-pixel weights), cvtColor
    numpy       normalize, table lookup and blend on an RGB frame and resized depth; resize and colour conversion are
                not counted
    cmap        the cmap package's lookup alone, or matplotlib's with --matplotlib
    copy        a copy of the frame's planes
"""

from __future__ import annotations

import argparse
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from support.timing import Timing, machine, side_by_side

from streamdepth.colorize import kernels
from streamdepth.colorize.colorizer import Colorizer
from streamdepth.colorize.nearness import NearnessField
from streamdepth.colorize.palettes import Steps, blend_tables, palette
from streamdepth.core.frame import ColorTags, DepthMap, DepthRange, Sense, StreamInfo
from streamdepth.core.look import Look, Upsampling, View
from streamdepth.media import planes
from streamdepth.media.planes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = ((640, 360), (1280, 720), (1920, 1080), (3840, 2160))
DEPTH_PX = 252
LAYOUT = LAYOUTS["yuv420p"]


def scene(width: int, height: int, pix_fmt: str = "yuv420p") -> tuple[av.VideoFrame, DepthMap, DepthRange]:
    """A noisy frame, and depth with slopes, edges and a little noise."""
    rng = np.random.default_rng(1)
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane in frame.planes:
        words = np.frombuffer(plane, np.uint8)
        words[:] = rng.integers(16, 236, words.size)
    y, x = np.mgrid[0:DEPTH_PX, 0:DEPTH_PX] / DEPTH_PX
    depth = y + 0.5 * ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.06) + 0.3 * (x > 0.8) + rng.normal(0, 0.004, x.shape)
    depth = depth.astype(np.float32)
    return frame, DepthMap(depth, Sense.RELATIVE_INVERSE), DepthRange(float(depth.min()), float(depth.max()))


def methods(
    width: int, height: int, threads: int, alpha: tuple[float, float], colorizer: Colorizer, matplotlib: bool
) -> dict[str, Callable[[], object]]:
    frame, depth, span = scene(width, height)
    look = Look(view=View.OVERLAY, alpha=alpha)
    cv2.setNumThreads(threads)

    source = planes.read(frame, LAYOUT)
    target = [np.empty_like(plane) for plane in source]
    i420 = np.ascontiguousarray(frame.to_ndarray())
    entries = palette("inferno")[:, :3]
    rgb = frame.to_ndarray(format="rgb24")
    scale, offset = span.nearness_scale_offset(depth.sense)
    ready = cv2.resize(depth.values, (width, height))
    near_alpha, far_alpha = alpha

    def ours() -> object:
        return colorizer.render(frame, depth, span, look)

    bare = _bare_kernel(source, target, depth, span, look, (width, height))

    def opencv() -> object:
        bgr = cv2.cvtColor(i420, cv2.COLOR_YUV2BGR_I420)
        small = cv2.convertScaleAbs(depth.values, alpha=scale * 255, beta=offset * 255)
        large = cv2.resize(small, (width, height))
        coloured = cv2.applyColorMap(large, cv2.COLORMAP_INFERNO)
        if near_alpha == far_alpha:
            mixed = cv2.addWeighted(coloured, near_alpha, bgr, 1 - near_alpha, 0)
        else:
            weight = cv2.LUT(large, ramp)
            mixed = cv2.blendLinear(coloured, bgr, weight, 1 - weight)
        return cv2.cvtColor(mixed, cv2.COLOR_BGR2YUV_I420)

    ramp = np.linspace(far_alpha, near_alpha, 256, dtype=np.float32)

    def numpy_ramp() -> object:
        near = np.clip(ready * scale + offset, 0, 1)
        opacity = (far_alpha + (near_alpha - far_alpha) * near)[..., None]
        coloured = entries[(near * 255).astype(np.uint8)]
        return (coloured * opacity + rgb * (1 - opacity)).astype(np.uint8)

    near_ready = np.clip(ready * scale + offset, 0, 1)
    lookup = _matplotlib_lookup() if matplotlib else _cmap_lookup()

    def copy() -> object:
        for old, new in zip(source, target, strict=True):
            np.copyto(new, old)
        return None

    return {
        "ours": ours,
        "kernel, one thread": bare,
        "opencv": opencv,
        "numpy": numpy_ramp,
        "matplotlib" if matplotlib else "cmap": lambda: lookup(near_ready),
        "copy": copy,
    }


def _bare_kernel(
    source: Any, target: Any, depth: DepthMap, span: DepthRange, look: Look, size: tuple[int, int]
) -> Callable[[], object]:
    """Normalization and the pass over the frame, with tables and buffers prepared."""
    field = NearnessField(*size)
    tables = blend_tables(look, LAYOUT, ColorTags(matrix=1, range=1))
    steps = Steps.of(LAYOUT)
    words = field.words.view(np.uint8)
    scratch = field.scratch(0)
    rows = LAYOUT.chroma_height_px(size[1])

    def run() -> object:
        nearness = field.prepare(depth, span, look, lambda work, count: work(0, 0, count))
        return kernels.blend_yuv(
            tuple(source), tuple(target), False, size, 1, 1, nearness, (tables.luma, tables.chroma),
            (8, 8, 0, steps.shift, steps.count), False, scratch, words[0], 0, rows,
        )  # fmt: skip

    return run


def _cmap_lookup() -> Callable[[Any], object]:
    from cmap import Colormap

    colormap = Colormap("inferno")
    return lambda near: colormap(near, bytes=True)


def _matplotlib_lookup() -> Callable[[Any], object]:
    import matplotlib as mpl

    colormap = mpl.colormaps["inferno"]
    return lambda near: colormap(near, bytes=True)


def main_table(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    print("| size | threads | alpha | ours, ms | kernel alone (1 thread) | opencv | numpy | cmap lookup | plane copy |")
    print("|---|---|---|---|---|---|---|---|---|")
    for width, height in SIZES[:2] if args.quick else SIZES:
        for threads in (1, 2):
            info = StreamInfo("bench", width, height, "yuv420p", Fraction(1, 25))
            with Colorizer(info, threads=threads) as colorizer:
                for name, alpha in (("uniform", (0.6, 0.6)), ("ramp", (0.9, 0.3))):
                    runs = methods(width, height, threads, alpha, colorizer, args.matplotlib)
                    times = side_by_side(runs, rounds=args.rounds, seconds=args.seconds)
                    ours, *others = times.values()
                    base = _milliseconds(ours, args)
                    cells = " | ".join(f"{_milliseconds(other, args) / base:.2f}x" for other in others)
                    print(f"| {width}x{height} | {threads} | {name} | {base:.2f} | {cells} |", flush=True)
                    rows.append(
                        {"size": [width, height], "threads": threads, "alpha": name}
                        | {method: _milliseconds(timing, args) for method, timing in times.items()}
                    )
    return rows


def options_table(args: argparse.Namespace) -> None:
    """Other views, formats and options at 1080p on one thread, as multiples of the plain yuv420p overlay."""
    width, height = 1920, 1080
    looks = {
        "overlay": Look(view=View.OVERLAY, alpha=(0.9, 0.3)),
        "depth": Look(),
        "side by side": Look(view=View.SIDE),
        "transparent (rgba)": Look(transparent=True),
        "overlay, guided": Look(view=View.OVERLAY, alpha=(0.9, 0.3), upsampling=Upsampling.GUIDED),
        "overlay, 8 contours": Look(view=View.OVERLAY, alpha=(0.9, 0.3), contours=8),
        "overlay, bar": Look(view=View.OVERLAY, alpha=(0.9, 0.3), bar=True),
    }
    runs: dict[str, Callable[[], object]] = {}
    for pix_fmt in ("yuv420p", "nv12", "yuv444p", "yuv420p10le", "rgb24"):
        frame, depth, span = scene(width, height, pix_fmt)
        colorizer = Colorizer(StreamInfo("bench", width, height, pix_fmt, Fraction(1, 25)))
        for name, look in looks.items():
            if pix_fmt == "yuv420p" or name == "overlay":
                runs[f"{name}, {pix_fmt}"] = _bind(colorizer, frame, depth, span, look)
    times = side_by_side(runs, rounds=args.rounds, seconds=args.seconds * 2)
    base = _milliseconds(next(iter(times.values())), args)
    print("\n| 1920x1080, one thread | ms | x overlay |\n|---|---|---|\n", end="")
    for name, timing in times.items():
        taken = _milliseconds(timing, args)
        print(f"| {name} | {taken:.2f} | {taken / base:.2f} |")


def _bind(colorizer: Colorizer, frame: av.VideoFrame, depth: DepthMap, span: DepthRange, look: Look) -> Any:
    return lambda: colorizer.render(frame, depth, span, look)


def _milliseconds(timing: Timing, args: argparse.Namespace) -> float:
    return timing.median_ms if args.median else timing.fastest_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two small sizes only")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row")
    parser.add_argument("--median", action="store_true", help="medians instead of the fastest runs")
    parser.add_argument("--matplotlib", action="store_true", help="matplotlib's lookup instead of cmap's")
    parser.add_argument("--json", type=Path, help="write the milliseconds there")
    args = parser.parse_args()
    print(f"{machine()}\n")
    rows = main_table(args)
    options_table(args)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

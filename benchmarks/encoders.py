"""Rate, distortion and time of video encoders on what streamdepth writes: CPU ms, kB, SSIM and PSNR per frame.

    python benchmarks/encoders.py CLIP... [--views depth,overlay,side] [--frames N] [--bits 8|10] [--only TEXT]
        [--threads N] [--rounds N] [--json FILE]

Each clip is coloured once per view with the built-in model and `--range shot`; the images stay in memory. Every setting
then encodes all of them in turn, once per round. The CPU time is the least of the rounds and includes all threads of
the encoder. `test:?size=1280x720&frames=90,noise=6` is the synthetic scene with noise of standard deviation 6.

The row `mp4v` is FFmpeg's MPEG-4 encoder with the options that OpenCV's VideoWriter gives it, as in the loop of
whole_command.py (measured: the same size within 1 %; OpenCV's conversion from BGR is not included). `auto` is what
streamdepth chooses for the view. SSIM and PSNR are over all planes. A setting meets the rule if its files are at most
0.7 (overlay), 0.85 (side, stack) or 1.0 (depth) times as large as those of `mp4v` and its SSIM is at most 0.002 lower.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from support.quality import compare
from support.timing import machine

import streamdepth as sd
from streamdepth.core.contracts import BaseSink
from streamdepth.core.look import LookControl
from streamdepth.sinks.encoding import encoder_options, encoder_threads

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LOOP = "mp4v"
_RATE = 30
_LOOKS = {
    "depth": sd.Look(),
    "overlay": sd.Look(view=sd.View.OVERLAY, alpha=(0.6, 0.6)),
    "side": sd.Look(view=sd.View.SIDE),
    "stack": sd.Look(view=sd.View.STACK),
}
_MOST_SIZE = {"depth": 1.0, "side": 0.85, "stack": 0.85}
_MOST_SSIM_LOSS = 0.002


def x264(preset: str, crf: float, extra: str = "") -> tuple[str, dict[str, str]]:
    params = {"x264-params": extra} if extra else {}
    return "libx264", {"preset": preset, "crf": f"{crf:g}", **params}


_CABAC, _DEBLOCK, _8X8 = "cabac=1", "cabac=1:deblock=0,0", "cabac=1:deblock=0,0:8x8dct=1"
_X265, _VP9 = {"x265-params": "log-level=error"}, {"deadline": "realtime", "row-mt": "1", "b": "0"}
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    _LOOP: ("mpeg4", {"b": "100M", "g": "12", "qmin": "3"}),
    "x264 veryfast 20": x264("veryfast", 20),
    "x264 superfast 20": x264("superfast", 20),
    "x264 superfast 21": x264("superfast", 21),
    "x264 superfast 21, no B-frames, weightp, partitions": x264("superfast", 21, "bframes=0:weightp=0:partitions=none"),
    "x264 ultrafast 20": x264("ultrafast", 20),
    "x264 ultrafast 20, cabac": x264("ultrafast", 20, _CABAC),
    "x264 ultrafast 20, cabac, deblock": x264("ultrafast", 20, _DEBLOCK),
    "x264 ultrafast 20, cabac, deblock, 8x8dct": x264("ultrafast", 20, _8X8),
    "x264 ultrafast 22, cabac, deblock, 8x8dct": x264("ultrafast", 22, _8X8),
    "x264 ultrafast 21, cabac, deblock, 8x8dct, subme 1": x264("ultrafast", 21, f"{_8X8}:subme=1"),
    "the same, aq-strength 0.5": x264("ultrafast", 21, f"{_8X8}:subme=1:aq-mode=1:aq-strength=0.5"),
    "the same, mbtree, crf 19": x264("ultrafast", 19, f"{_8X8}:subme=1:mbtree=1:rc-lookahead=5"),
    "the same, subme 2, crf 20": x264("ultrafast", 20, f"{_8X8}:subme=2"),
    "x264 ultrafast 22, cabac, deblock, 8x8dct, subme 1, i8x8": x264(
        "ultrafast", 22, f"{_8X8}:subme=1:partitions=i8x8"
    ),
    "x265 ultrafast 18": ("libx265", {"preset": "ultrafast", "crf": "18", **_X265}),
    "x265 superfast 19": ("libx265", {"preset": "superfast", "crf": "19", **_X265}),
    "SVT-AV1 10 30": ("libsvtav1", {"preset": "10", "crf": "30", "svtav1-params": "fast-decode=1"}),
    "SVT-AV1 11 28": ("libsvtav1", {"preset": "11", "crf": "28", "svtav1-params": "fast-decode=1"}),
    "VP9 6 28": ("libvpx-vp9", {"cpu-used": "6", "crf": "28", **_VP9}),
    "VP9 8 28": ("libvpx-vp9", {"cpu-used": "8", "crf": "28", **_VP9}),
}
_AUTO_CODECS = {"H.264": "libx264", "H.265": "libx265", "AV1": "libsvtav1", "VP9": "libvpx-vp9"}


@dataclass
class Row:
    clip: str
    view: str
    setting: str
    cpu_ms: float
    kb: float
    ssim: float
    psnr: float
    meets_rule: bool = False


class Keep(BaseSink):
    """Keeps coloured images in memory."""

    def __init__(self, look: sd.Look) -> None:
        super().__init__("keep", LookControl(look))
        self.images: list[av.VideoFrame] = []

    def process(self, result: sd.Result) -> None:
        assert result.image is not None
        self.images.append(result.image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="+")
    parser.add_argument("--views", default="depth,overlay,side")
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--bits", type=int, choices=(8, 10), default=8)
    parser.add_argument("--threads", type=int, default=0, help="of each encoder; 0: by frame size, as in a run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="run only settings that contain one of these texts, separated by |")
    parser.add_argument("--setting", action="append", default=[], help="a further setting: CODEC:OPTION=VALUE,...")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    os.environ["SVT_LOG"] = "1"  # errors only
    kept = options.only.split("|")
    chosen = {name: value for name, value in SETTINGS.items() if name == _LOOP or any(text in name for text in kept)}
    chosen |= {text: _parsed(text) for text in options.setting}
    rows: list[Row] = []
    print(
        f"{machine()}; {options.frames} frames at most, {options.bits} bits, threads {options.threads or 'by size'}\n"
    )
    with sd.DepthEstimator() as estimator:
        for clip in options.clip:
            for view in options.views.split(","):
                images = coloured(clip, view, estimator, options.frames, options.bits)
                found = measure(Path(clip).stem, view, images, {**chosen, **auto(view)}, options)
                print_rows(found)
                rows += found
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def auto(view: str) -> dict[str, tuple[str, dict[str, str]]]:
    """The settings of `--preset auto` for each encoder."""
    look = _LOOKS[view].view
    return {
        f"auto, {name}": (codec, dict(encoder_options(codec, look, transparent=False)))
        for name, codec in _AUTO_CODECS.items()
    }


def _parsed(text: str) -> tuple[str, dict[str, str]]:
    codec, _, given = text.partition(":")
    return codec, dict(part.split("=", 1) for part in given.split(",") if part)


def coloured(clip: str, view: str, estimator: sd.DepthEstimator, frames: int, bits: int) -> list[av.VideoFrame]:
    """Images of the view, yuv420p or yuv420p10le, with pts 0, 1, 2, ..."""
    name, _, noise = clip.partition(",noise=")
    keep = Keep(_LOOKS[view])
    source = sd.source_for(name, max_frames=frames)
    with sd.Pipeline([_Noisy(source, float(noise)) if noise else source], estimator, [keep], range="shot") as pipeline:
        pipeline.run()
    pix_fmt = "yuv420p" if bits == 8 else "yuv420p10le"
    images = [image if image.format.name == pix_fmt else image.reformat(format=pix_fmt) for image in keep.images]
    for pts, image in enumerate(images):
        image.pts, image.time_base = pts, Fraction(1, _RATE)
    return images


class _Noisy:
    """A source with Gaussian noise on its luma, the same at every reading."""

    def __init__(self, source: sd.Source, deviation: float) -> None:
        self._source, self._deviation = source, deviation

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def frames(self) -> Iterable[sd.Frame]:
        from dataclasses import replace

        for frame in self._source.frames():
            image = frame.image.reformat(format="yuv420p")
            luma = np.frombuffer(image.planes[0], np.uint8)
            noise = np.random.default_rng(frame.index).normal(0, self._deviation, luma.size).astype(np.int16)
            luma[:] = np.clip(luma.astype(np.int16) + noise, 16, 235)
            yield replace(frame, image=image)

    def again(self) -> sd.Source | None:
        source = self._source.again()
        return None if source is None else _Noisy(source, self._deviation)


def measure(
    clip: str,
    view: str,
    images: Sequence[av.VideoFrame],
    settings: dict[str, tuple[str, dict[str, str]]],
    options: argparse.Namespace,
) -> list[Row]:
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoded.mkv"
        for _ in range(options.rounds):
            for name, (codec, given) in settings.items():
                if images[0].format.name not in {kind.name for kind in av.Codec(codec, "w").video_formats or ()}:
                    continue
                cpu_ms = encode(images, path, codec, given, options.threads) / len(images) * 1e3
                if name in rows:
                    rows[name].cpu_ms = min(rows[name].cpu_ms, cpu_ms)
                else:
                    kb = path.stat().st_size / len(images) / 1e3
                    rows[name] = Row(clip, view, name, cpu_ms, kb, *compared(images, path))
    if _LOOP in rows:
        most, least = _MOST_SIZE.get(view, 0.7) * rows[_LOOP].kb, rows[_LOOP].ssim - _MOST_SSIM_LOSS
        for row in rows.values():
            row.meets_rule = row.kb <= most and row.ssim >= least
    return list(rows.values())


def encode(images: Sequence[av.VideoFrame], path: Path, codec: str, options: dict[str, str], threads: int) -> float:
    """CPU seconds of all threads, for images in memory to packets in a file; opening the encoder is included."""
    started = time.process_time()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=_RATE)
        stream.width, stream.height, stream.pix_fmt = images[0].width, images[0].height, images[0].format.name
        stream.codec_context.thread_count = threads or encoder_threads(stream.width, stream.height)
        stream.codec_context.options = {"g": str(2 * _RATE), **options}
        for image in images:
            image.pict_type = av.video.frame.PictureType.NONE
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return time.process_time() - started


def compared(images: Sequence[av.VideoFrame], path: Path) -> tuple[float, float]:
    """(SSIM, PSNR in dB) of a file against its images, means over the frames."""
    with av.open(str(path)) as container:
        found = [compare(*pair) for pair in zip(images, container.decode(video=0), strict=True)]
    similar, error = np.mean(found, axis=0)
    return float(similar), float(10 * np.log10(255**2 / max(error, 1e-9)))


def print_rows(rows: list[Row]) -> None:
    print(f"| {rows[0].clip}, {rows[0].view} | CPU ms | kB | SSIM | PSNR | meets the rule |\n|---|---|---|---|---|---|")
    for row in rows:
        meets = "yes" if row.meets_rule else ""
        print(f"| {row.setting} | {row.cpu_ms:.1f} | {row.kb:.1f} | {row.ssim:.4f} | {row.psnr:.1f} | {meets} |")
    print(flush=True)


if __name__ == "__main__":
    main()

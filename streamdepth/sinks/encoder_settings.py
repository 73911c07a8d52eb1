"""Options of encoders: what ``--preset auto`` chooses, presets by name, hardware encoders, and encoder threads.

``auto`` takes the settings with the least CPU time whose files are at most 0.7 (overlay), 0.85 (side, stack) or 1.0
(depth) times as large as those of MPEG-4 as OpenCV's VideoWriter writes it, and whose SSIM is at most 0.002 lower. For
H.265, VP9 and AV1, which are chosen for small files, the SSIM decides and the files are smaller.
``benchmarks/encoders.py`` measures this; its tables are in ``benchmarks/README.md``. The choice is the same for 8 and
10 bits.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from streamdepth.core.errors import UsageError, nearest
from streamdepth.core.look import View

if TYPE_CHECKING:
    from collections.abc import Mapping

    Options = Mapping[str, str]

AUTO = "auto"
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")

# On top of x264's ultrafast. Without deblocking, SSIM is 0.002 to 0.005 lower at the same size. Depth alone is smooth:
# subpixel motion search (subme) and 8x8 intra blocks take time there and do not reduce the size.
_SMOOTH = "cabac=1:deblock=0,0:8x8dct=1"
_DETAILED = f"{_SMOOTH}:subme=1:partitions=i8x8"
# The saturated depth beside the frame loses its edges in chroma first.
_TWO_IMAGES = f"{_DETAILED}:chroma-qp-offset=-4:no-dct-decimate=1"

_X265 = {"preset": "ultrafast", "x265-params": "log-level=error"}
_SVT_AV1 = {"preset": "11", "svtav1-params": "fast-decode=1"}
_VP9 = {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "28", "b": "0"}

_DEPTH: Mapping[str, Options] = {
    "libx264": {"preset": "ultrafast", "crf": "20", "x264-params": _SMOOTH},
    "libx265": {**_X265, "crf": "20"},
    "libvpx-vp9": _VP9,
    "libsvtav1": {**_SVT_AV1, "crf": "30"},
}
_OVERLAY: Mapping[str, Options] = {
    "libx264": {"preset": "ultrafast", "crf": "22", "x264-params": _DETAILED},
    "libx265": {**_X265, "crf": "16"},
    "libvpx-vp9": _VP9,
    "libsvtav1": {**_SVT_AV1, "crf": "20"},
}
_SIDE: Mapping[str, Options] = {
    **_OVERLAY,
    "libx264": {"preset": "ultrafast", "crf": "22", "x264-params": _TWO_IMAGES},
    "libvpx-vp9": {**_VP9, "crf": "24"},
}
_AUTO: Mapping[View, Mapping[str, Options]] = {
    View.DEPTH: _DEPTH,
    View.OVERLAY: _OVERLAY,
    View.SIDE: _SIDE,
    View.STACK: _SIDE,
}

# Options beside a preset given by name.
_NAMED: Mapping[str, Options] = {
    "libx264": {"crf": "20"},
    "libx265": {"crf": "24", "x265-params": "log-level=error"},
    "libsvtav1": {"crf": "30", "svtav1-params": "fast-decode=1"},
}
_OTHERS: Mapping[str, Options] = {
    "ffv1": {"level": "3", "slices": "4", "slicecrc": "1", "g": "1"},
    "prores_ks": {},
    "mpeg4": {"b": "6M"},
}
SOFTWARE_ENCODERS = (*_DEPTH, *_OTHERS)
"""Encoders with options here, for messages."""

_NVENC: Options = {"preset": "p4", "tune": "hq", "rc": "vbr", "b": "0"}
# Not measured on hardware: the quantisers of x264's and x265's defaults, which have the same scale.
_HARDWARE: Mapping[str, Options] = {
    "h264_nvenc": {**_NVENC, "cq": "20"},
    "hevc_nvenc": {**_NVENC, "cq": "24"},
    "av1_nvenc": {**_NVENC, "cq": "30"},
    "h264_vaapi": {"rc_mode": "CQP", "qp": "20"},
    "hevc_vaapi": {"rc_mode": "CQP", "qp": "24"},
}

# These options override a bit rate.
_CONSTANT_QUALITY = ("crf", "cq", "qp", "rc", "rc_mode")

_MOST_CRF = 51
_PIXELS_PER_THREAD = 250_000
_MOST_THREADS = 12
"""Above 12, 1080p has too few rows for x264, and each thread delays the output by one frame."""


def encoder_options(codec: str, view: View, *, transparent: bool, options: Options | None = None) -> Options:
    """FFmpeg options of ``codec`` for images of ``view``; ``options`` take precedence.

    Args:
        options: a ``preset`` among them replaces the choice of ``auto``; a bit rate (``b``) replaces constant quality.
    """
    given = dict(options or {})
    if given.get("preset") == AUTO:
        del given["preset"]
    given = _translated(codec, given)
    named = _NAMED.get(codec) if "preset" in given else None
    chosen = dict(named or _AUTO[view].get(codec) or _OTHERS.get(codec) or _HARDWARE.get(codec, {}))
    if transparent and codec == "libvpx-vp9":
        chosen["auto-alt-ref"] = "0"  # libvpx refuses hidden frames in a stream with alpha
    if codec == "prores_ks":
        chosen |= {"profile": "4444", "alpha_bits": "16"} if transparent else {"profile": "hq"}
    if {"b", "b:v"} & given.keys():
        chosen = {name: value for name, value in chosen.items() if name not in _CONSTANT_QUALITY}
    return MappingProxyType(chosen | given)


def stream_options(preset: str, *, low_latency: bool) -> tuple[str, str]:
    """x264's preset and parameters for a published or served stream. Its zero-latency tune is added by the encoder.

    With ``auto`` at low latency there is no subpixel motion search: the time to encode a frame is part of the latency.
    """
    if preset != AUTO:
        return preset, ""
    return "ultrafast", _SMOOTH if low_latency else _DETAILED


def encoder_threads(width_px: int, height_px: int) -> int:
    """Threads of one encoder. The number depends on the size only: x264's output depends on the number of threads, and
    this makes a file the same on every machine."""
    return max(1, min(_MOST_THREADS, -(-width_px * height_px // _PIXELS_PER_THREAD)))


def check_preset(codec: str | None, preset: str) -> None:
    """
    Raises:
        UsageError: a preset that x264 or x265 refuses. They report it only when a file is opened, on standard error.
    """
    if codec in ("libx264", "libx265") and preset not in (*PRESETS, AUTO, "placebo", *"0123456789"):
        names = (AUTO, *PRESETS)
        raise UsageError(f"preset is one of {', '.join(names)} for {codec}, not {preset!r}{nearest(preset, names)}")


def check_crf(codec: str | None, crf: float) -> None:
    """
    Raises:
        UsageError: above the scale of x264 and x265, which use 51 instead and report nothing.
    """
    if codec in ("libx264", "libx265") and crf > _MOST_CRF:
        raise UsageError(f"crf is at most {_MOST_CRF} for {codec}, not {crf:g}")


def _translated(codec: str, options: dict[str, str]) -> dict[str, str]:
    """x264's ``crf`` and presets as options of the hardware encoder that replaces it."""
    kind = codec.rpartition("_")[2]
    if kind not in ("nvenc", "vaapi"):
        return options
    if "crf" in options:
        quality = options.pop("crf")
        options |= {"cq": quality} if kind == "nvenc" else {"qp": f"{float(quality):.0f}"}
    if options.get("preset") in PRESETS:
        # Nine presets of x264 to seven steps: p1..p7 from fast to slow, VAAPI levels from slow (1) to fast (7).
        step = 1 + PRESETS.index(options.pop("preset")) * 6 // (len(PRESETS) - 1)
        options |= {"preset": f"p{step}"} if kind == "nvenc" else {"compression_level": str(8 - step)}
    return options

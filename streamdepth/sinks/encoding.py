"""Tables of containers, and the encoder, pixel format and options for a kind of frame. Nothing is opened.

``--preset auto`` takes the settings with the least CPU time whose files are at most 0.7 (overlay), 0.85 (side, stack)
or 1.0 (depth) times as large as those of MPEG-4 as OpenCV's VideoWriter writes it, and whose SSIM is at most 0.002
lower. For H.265, VP9 and AV1, which are chosen for small files, the SSIM decides and the files are smaller.
``benchmarks/encoders.py`` measures this; its tables are in ``benchmarks/README.md``. The choice is the same for 8 and
10 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from streamdepth.core.errors import UsageError, nearest
from streamdepth.core.frame import ColorTags
from streamdepth.core.look import View
from streamdepth.media.filters import divides, has_alpha

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from fractions import Fraction

    from av.codec import Codec

    from streamdepth.core.frame import HdrMetadata, ImageInfo

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
    """Raises ``UsageError``: above the scale of x264 and x265, which use 51 instead and report nothing."""
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


@dataclass(frozen=True, slots=True)
class Container:
    """A file format: its FFmpeg muxer and default encoders.

    Attributes:
        codec: encoder of opaque frames.
        alpha_codec: encoder of transparent frames, None if the format cannot carry alpha.
        exact_time: True if the time base is chosen here, False if it is a millisecond (Matroska).
    """

    muxer: str
    codec: str
    alpha_codec: str | None
    exact_time: bool


CONTAINERS: Mapping[str, Container] = MappingProxyType(
    {
        ".mkv": Container("matroska", "libx264", "ffv1", exact_time=False),
        ".mp4": Container("mp4", "libx264", None, exact_time=True),
        ".m4v": Container("mp4", "libx264", None, exact_time=True),
        ".mov": Container("mov", "libx264", "prores_ks", exact_time=True),
        ".webm": Container("webm", "libvpx-vp9", "libvpx-vp9", exact_time=False),
    }
)

# A crash may lose one or two seconds of video. FFmpeg's defaults are 5 s (Matroska) and one key frame interval (MP4),
# and x264's default key frame interval is 250 frames.
_CRASH_SAFE: Mapping[str, Mapping[str, str]] = {
    "matroska": {"cluster_time_limit": "1000", "flush_packets": "1"},
    "webm": {"cluster_time_limit": "1000", "flush_packets": "1"},
    # hybrid_fragmented: fragments while writing, an ordinary indexed file once closed. delay_moov: edit lists, and
    # codecs whose header is known only after the first packet (AC-3). Fragments begin at key frames only: cut by
    # duration, the end of a subtitle shifted single audio packets by their length.
    "mp4": {
        "movflags": "+hybrid_fragmented+frag_keyframe+delay_moov+default_base_moof",
        "min_frag_duration": "1000000",
        "flush_packets": "1",
    },
}

_HDR_OPTIONS = {
    "libx264": ("x264-params", "mastering-display", "cll"),
    "libx265": ("x265-params", "master-display", "max-cll"),
}
"""By encoder: the option that holds the encoder's own ones, and their names."""
_KEY_SECONDS = 2
_INTRA_ONLY = ("ffv1", "prores", "png", "qtrle", "rawvideo", "mjpeg")

_WHOLE_CHROMA_ONLY = ("libx264", "libx265", "h264_", "hevc_")
_TAKES_RGB = ("ffv1", "png", "qtrle", "libx264rgb", "rawvideo")
_CARRIES_GRAY = ("ffv1", "png", "rawvideo")


@dataclass(frozen=True, slots=True)
class Encoding:
    """Encoder settings of a video stream."""

    codec: str
    pix_fmt: str
    color: ColorTags
    options: Mapping[str, str]


def container_of(suffix: str) -> Container:
    """The container of a file name's suffix (``".mkv"``).

    Raises:
        UsageError: unknown suffix; the message names the nearest.
    """
    found = CONTAINERS.get(suffix.lower())
    if found is None:
        raise UsageError(
            f"no video container has the suffix {suffix!r}{nearest(suffix.lower(), CONTAINERS)}; "
            f"use {', '.join(CONTAINERS)}"
        )
    return found


def container_options(container: Container, ticks_per_second: int) -> dict[str, str]:
    """Muxer options that keep a file playable at any moment, with exact time stamps if the container allows them."""
    options = dict(_CRASH_SAFE["mp4" if container.muxer in ("mp4", "mov") else container.muxer])
    options["max_interleave_delta"] = "1000000"
    if container.exact_time:
        # movie_timescale: edit lists are in its units, and at the default 1/1000 s a first pts that is not a whole
        # millisecond moves (measured: 127920/90000 s became 127890/90000 s).
        options["video_track_timescale"] = options["movie_timescale"] = str(ticks_per_second)
    return options


def encoding_for(
    image: ImageInfo,
    *,
    codec: str,
    transparent: bool,
    view: View = View.DEPTH,
    options: Mapping[str, str] | None = None,
) -> Encoding:
    """Encoder settings for frames like ``image``: the nearest pixel format of ``codec`` that most players support.

    Chroma resolution and bit depth are kept if the encoder has them. RGB and gray frames become 4:2:0, which all
    players support; H.264 and H.265 cannot subsample odd sizes, so those become 4:2:2 or 4:4:4 and keep every pixel.
    Frames in ``yuvj*`` keep full range as a tag.

    Raises:
        UsageError: no such encoder, or it cannot carry alpha and ``transparent`` is set.
    """
    from av.codec.codec import find_best_pix_fmt_of_list
    from av.video.format import VideoFormat

    offered = encoder_formats(codec)
    source = VideoFormat(image.pix_fmt)
    names = [name for name in offered if not name.startswith("yuvj")] or list(offered)
    if transparent:
        names = [name for name in names if has_alpha(name) and _opens_with_alpha(codec)]
        if not names:
            raise UsageError(f"the encoder {codec} cannot carry transparency; use libvpx-vp9, prores_ks, png or ffv1")
    else:
        names = [name for name in names if not has_alpha(name)] or names
    is_gray = len(source.components) == 1 and not source.has_palette
    is_rgb = source.is_rgb or source.has_palette
    target = source
    if not codec.startswith(_CARRIES_GRAY):
        names = [name for name in names if not name.startswith("gray")] or names
        if is_gray:
            target = VideoFormat("yuv420p10le" if source.components[0].bits > 8 else "yuv420p")
    if not codec.startswith(_TAKES_RGB):
        names = [name for name in names if not VideoFormat(name).is_rgb] or names
        if is_rgb:
            target = VideoFormat("yuva420p" if transparent else "yuv420p")
    if codec.startswith(_WHOLE_CHROMA_ONLY):
        whole = [name for name in names if divides(name, image.width_px, image.height_px)]
        names = whole or names
    chosen, _loss = find_best_pix_fmt_of_list(names, target, has_alpha=transparent)
    if chosen is None:
        raise UsageError(f"the encoder {codec} has no format for {image.pix_fmt} images; choose another --codec")
    return Encoding(
        codec,
        chosen.name,
        _tags(image, chosen.is_rgb),
        encoder_options(codec, view, transparent=transparent, options=options),
    )


def with_hdr(encoding: Encoding, hdr: HdrMetadata) -> Encoding:
    """The settings with HDR10 metadata; the same if the encoder cannot write it."""
    if encoding.codec not in _HDR_OPTIONS or not (hdr.mastering or hdr.light):
        return encoding
    option, mastering, light = _HDR_OPTIONS[encoding.codec]
    parts = [encoding.options[option]] if option in encoding.options else []
    parts += [f"{mastering}={hdr.mastering}"] if hdr.mastering else []
    parts += [f"{light}={hdr.light}"] if hdr.light else []
    return replace(encoding, options=MappingProxyType({**encoding.options, option: ":".join(parts)}))


def odd_chroma(image: ImageInfo, encoding: Encoding) -> str:
    """``"4:2:2"`` or ``"4:4:4"`` if H.264 or H.265 cannot use 4:2:0 because a side is odd, else empty."""
    if not encoding.codec.startswith(_WHOLE_CHROMA_ONLY):
        return ""
    if divides("yuv420p", image.width_px, image.height_px):
        return ""
    return "4:2:2" if image.width_px % 2 == 0 else "4:4:4"


def key_interval(codec: str, rate: Fraction | None) -> int | None:
    """Frames from one key frame to the next, None if every frame is one. Two seconds, for seeking and crashes."""
    return None if codec.startswith(_INTRA_ONLY) else max(1, round((rate or 25) * _KEY_SECONDS))


def encoder_formats(codec: str) -> Sequence[str]:
    """Names of the pixel formats of an encoder.

    Raises:
        UsageError: this build of FFmpeg has no such video encoder.
    """
    import av

    found = _video_encoder(codec)
    if found is None:
        known = [name for name in sorted(av.codecs_available) if _video_encoder(name) is not None]
        usual = ", ".join(name for name in SOFTWARE_ENCODERS if name in known)
        raise UsageError(f"no video encoder is called {codec!r}{nearest(codec, known)}; use {usual}")
    names = [pixel.name for pixel in found.video_formats or ()]
    if names == ["vaapi"]:
        # the formats that can be uploaded, see hwaccel.upload_device
        return ["nv12"] if codec == "h264_vaapi" else ["nv12", "p010le"]
    return names or ["yuv420p"]


def _video_encoder(name: str) -> Codec | None:
    import av

    try:
        found = av.Codec(name, "w")
    except (ValueError, av.FFmpegError):
        return None
    return found if found.type == "video" else None


def _opens_with_alpha(codec: str) -> bool:
    # libx265 lists yuva formats but does not open with them unless built for alpha layers.
    return codec != "libx265"


def _tags(image: ImageInfo, chosen_is_rgb: bool) -> ColorTags:
    from av.video.format import VideoFormat

    source, color = VideoFormat(image.pix_fmt), image.color
    if chosen_is_rgb:
        return ColorTags(0, 2, color.primaries, color.transfer)
    if source.is_rgb or source.has_palette:
        # RGB has no matrix; players assume BT.709 limited range.
        return ColorTags(1, 1, color.primaries, color.transfer)
    full = image.pix_fmt.startswith("yuvj")
    return ColorTags(color.matrix, 2 if full else color.range, color.primaries, color.transfer)

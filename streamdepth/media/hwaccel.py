"""Hardware decoders and encoders: selection and fallback."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from av.codec.hwaccel import HWAccel
    from av.video.codeccontext import VideoCodecContext


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of hardware.

    Attributes:
        device: FFmpeg's device type for decoding, empty if it only encodes.
        encoders: software encoder -> hardware encoder.
        systems: values of ``sys.platform`` on which ``auto`` tries it.
        check: what to do if it cannot be opened.
    """

    device: str
    encoders: Mapping[str, str]
    systems: tuple[str, ...]
    check: str


HARDWARE: Mapping[str, Hardware] = {
    "cuda": Hardware("cuda", {"libx264": "h264_nvenc"}, ("linux", "win32"), "check the NVIDIA driver"),
    "videotoolbox": Hardware("videotoolbox", {"libx264": "h264_videotoolbox"}, ("darwin",), "it is part of macOS"),
    "vaapi": Hardware(
        "vaapi", {"libx264": "h264_vaapi"}, ("linux",), "check that /dev/dri/renderD* exists and may be opened"
    ),
    "qsv": Hardware("qsv", {"libx264": "h264_qsv"}, ("linux", "win32"), "check Intel's graphics driver and oneVPL"),
    "amf": Hardware("amf", {"libx264": "h264_amf"}, ("win32",), "check AMD's graphics driver"),
    "d3d11va": Hardware("d3d11va", {}, ("win32",), "it is part of Windows"),
    "v4l2m2m": Hardware("", {"libx264": "h264_v4l2m2m"}, (), "check that the board has an encoder in /dev/video*"),
}
"""Kind -> what it decodes and encodes with, in the order that ``auto`` tries."""
# All hardware supports these. 10 bits, 4:4:4 and alpha are each supported by some hardware only.
_COMMON_FORMATS = ("yuv420p", "nv12")
_NV12_ONLY = ("_vaapi", "_qsv")

_BUILD = "pip install --no-binary av av builds it with the system FFmpeg"


class HwAccel(StrEnum):
    """``--hwaccel``."""

    AUTO = "auto"
    """Any available hardware; no note if there is none."""
    CUDA = "cuda"
    VIDEOTOOLBOX = "videotoolbox"
    VAAPI = "vaapi"
    QSV = "qsv"
    AMF = "amf"
    D3D11VA = "d3d11va"
    V4L2M2M = "v4l2m2m"
    NONE = "none"

    @classmethod
    def parse(cls, text: str) -> HwAccel:
        """Raises ``UsageError``: no such value."""
        try:
            return cls(text)
        except ValueError:
            raise UsageError(f"hwaccel is one of {', '.join(cls)}, not {text!r}") from None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The selected decoder device or encoder.

    Attributes:
        value: for decoding an ``av.codec.hwaccel.HWAccel`` or None; for encoding the name of an encoder.
        note: one line about a fallback from hardware that was requested by name, else empty.
    """

    value: Any
    note: str = ""


def decoder(requested: HwAccel) -> Chosen:
    """The argument for ``av.open(hwaccel=)``. Decoded images are copied to main memory; FFmpeg itself falls back to
    software for codecs and profiles that the hardware does not support."""
    from av.codec.hwaccel import HWAccel

    reasons: list[str] = []
    for kind in _kinds(requested):
        reason = cannot_decode(kind)
        if not reason:
            return Chosen(HWAccel(device_type=HARDWARE[kind].device, allow_software_fallback=True))
        reasons.append(reason)
    return Chosen(None, _note(requested, reasons, "decoding"))


def encoder(requested: HwAccel, software: str, pix_fmt: str, width_px: int, height_px: int) -> Chosen:
    """The hardware encoder that replaces a software encoder, if it opens with this size.

    Args:
        software, pix_fmt: the software encoder and its pixel format. Only 4:2:0 with 8 bits is encoded in hardware:
            other formats would lose bits or colour resolution.
    """
    reasons: list[str] = []
    for kind in _kinds(requested):
        name = HARDWARE[kind].encoders.get(software)
        if name is None:
            reasons.append(f"{kind} has no encoder that replaces {software}")
        elif pix_fmt not in _COMMON_FORMATS:
            reasons.append(f"{name} does not support {pix_fmt}")
        elif reason := cannot_encode(name, width_px, height_px):
            reasons.append(reason)
        else:
            return Chosen(name)
    return Chosen(software, _note(requested, reasons, "encoding"))


def upload_device(encoder: str) -> HWAccel | None:
    """The ``hwaccel=`` of an encoder. VAAPI encoders take images in device memory, to which PyAV copies them; NVENC
    takes images in main memory."""
    if not encoder.endswith("_vaapi"):
        return None
    from av.codec.hwaccel import HWAccel

    return HWAccel(device_type="vaapi")


def cannot_decode(kind: str) -> str:
    """The reason why a kind of hardware cannot decode here, empty if it can. Opens and closes the device."""
    from av import Codec
    from av.codec.hwaccel import HWAccel, hwdevices_available

    device = HARDWARE[kind].device
    if not device:
        return f"{kind} only encodes; omit --hwaccel to decode in software"
    if device not in hwdevices_available():
        return f"this PyAV was built without {kind}; {_BUILD}"
    try:
        HWAccel(device_type=device, allow_software_fallback=False).create(Codec("h264", "r"))
    except Exception:  # PyAV raises various errors of the driver layer
        return f"no {kind} device can be opened; {HARDWARE[kind].check}"
    return ""


def cannot_encode(name: str, width_px: int = 256, height_px: int = 256) -> str:
    """The reason why an encoder cannot encode 4:2:0 images of this size, empty if it can. Opens and closes it."""
    import av

    try:
        context = cast("VideoCodecContext", av.CodecContext.create(name, "w", hwaccel=upload_device(name)))
        context.width, context.height = width_px, height_px
        context.pix_fmt = "nv12" if name.endswith(_NV12_ONLY) else "yuv420p"
        context.time_base = Fraction(1, 25)
        context.open()
    except Exception as error:  # as above
        if type(error).__name__ == "UnknownCodecError":
            return f"this PyAV was built without {name}; {_BUILD}"
        return f"{name} cannot be opened for {width_px}x{height_px}; check that the hardware has a free encoder"
    return ""


def _kinds(requested: HwAccel) -> tuple[str, ...]:
    if requested is HwAccel.NONE:
        return ()
    return kinds() if requested is HwAccel.AUTO else (requested.value,)


def kinds(system: str = sys.platform) -> tuple[str, ...]:
    """Kinds of hardware that ``auto`` tries on a system, in order."""
    return tuple(name for name, hardware in HARDWARE.items() if system in hardware.systems)


def _note(requested: HwAccel, reasons: list[str], what: str) -> str:
    # With auto no particular hardware was requested.
    if requested in (HwAccel.AUTO, HwAccel.NONE) or not reasons:
        return ""
    return f"{what} in software: {'; '.join(reasons)}"

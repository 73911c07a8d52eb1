"""Hardware decoders and encoders: selection and fallback."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from av.codec.hwaccel import HWAccel
    from av.video.codeccontext import VideoCodecContext

KINDS = ("cuda", "vaapi")
"""Kinds that ``auto`` tries, in order."""
ENCODERS: Mapping[str, Mapping[str, str]] = {
    "cuda": {"libx264": "h264_nvenc"},
    "vaapi": {"libx264": "h264_vaapi"},
}
"""Kind -> software encoder -> hardware encoder."""
# All hardware supports these. 10 bits, 4:4:4 and alpha are each supported by some hardware only.
_COMMON_FORMATS = ("yuv420p", "nv12")
_CHECKS = {"cuda": "check the NVIDIA driver", "vaapi": "check that /dev/dri/renderD* exists and may be opened"}

_BUILD = "pip install --no-binary av av builds it with the system FFmpeg"


class HwAccel(StrEnum):
    """``--hwaccel``."""

    AUTO = "auto"
    """Any available hardware; no note if there is none."""
    CUDA = "cuda"
    VAAPI = "vaapi"
    NONE = "none"

    @classmethod
    def parse(cls, text: str) -> HwAccel:
        """
        Raises:
            UsageError: no such value.
        """
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
            return Chosen(HWAccel(device_type=kind, allow_software_fallback=True))
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
        name = ENCODERS[kind].get(software)
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
    """The reason why ``cuda`` or ``vaapi`` cannot decode here, empty if it can. Opens and closes the device."""
    from av import Codec
    from av.codec.hwaccel import HWAccel, hwdevices_available

    if kind not in hwdevices_available():
        return f"this PyAV was built without {kind}; {_BUILD}"
    try:
        HWAccel(device_type=kind, allow_software_fallback=False).create(Codec("h264", "r"))
    except Exception:  # PyAV raises various errors of the driver layer
        return f"no {kind} device can be opened; {_CHECKS[kind]}"
    return ""


def cannot_encode(name: str, width_px: int = 256, height_px: int = 256) -> str:
    """The reason why an encoder cannot encode 4:2:0 images of this size, empty if it can. Opens and closes it."""
    import av

    try:
        context = cast("VideoCodecContext", av.CodecContext.create(name, "w", hwaccel=upload_device(name)))
        context.width, context.height = width_px, height_px
        context.pix_fmt = "nv12" if name.endswith("_vaapi") else "yuv420p"
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
    return KINDS if requested is HwAccel.AUTO else (requested.value,)


def _note(requested: HwAccel, reasons: list[str], what: str) -> str:
    # With auto no particular hardware was requested.
    if requested in (HwAccel.AUTO, HwAccel.NONE) or not reasons:
        return ""
    return f"{what} in software: {'; '.join(reasons)}"

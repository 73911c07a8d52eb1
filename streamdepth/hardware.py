"""Decoding and encoding on hardware, where there is some: what is asked for, what is there, what to fall back to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from streamdepth.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from av.video.codeccontext import VideoCodecContext

_ENCODERS: Mapping[str, Mapping[str, str]] = {
    "cuda": {"libx264": "h264_nvenc", "libx265": "hevc_nvenc", "libsvtav1": "av1_nvenc"},
    "vaapi": {"libx264": "h264_vaapi", "libx265": "hevc_vaapi"},
}
_AUTO = ("cuda", "vaapi")


class HwAccel(StrEnum):
    """``--hwaccel``."""

    AUTO = "auto"
    """Whatever is there; silent where nothing is."""
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
            raise UsageError(f"hwaccel {text!r} is none of {', '.join(cls)}") from None


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is used instead of what was asked for.

    Attributes:
        value: an ``av.codec.hwaccel.HWAccel`` for decoding, an encoder's name for encoding; None or the software
            encoder where there is no hardware.
        note: one line about a fallback from hardware that was asked for by name, else empty.
    """

    value: Any
    note: str = ""


def decoder(wanted: HwAccel) -> Chosen:
    """What ``av.open(hwaccel=)`` takes. Decoded pictures are brought back to memory; a codec or profile that the
    hardware does not decode is decoded in software by FFmpeg itself."""
    from av.codec.hwaccel import HWAccel

    missed: list[str] = []
    for kind in _kinds(wanted):
        reason = _no_device(kind)
        if not reason:
            return Chosen(HWAccel(device_type=kind, allow_software_fallback=True))
        missed.append(reason)
    return Chosen(None, _note(wanted, missed, "decoding"))


def encoder(wanted: HwAccel, software: str) -> Chosen:
    """The hardware's counterpart of a software encoder, tried on a picture of 256x256.

    Args:
        software: the encoder that would be used otherwise, e.g. ``libx264``.
    """
    missed: list[str] = []
    for kind in _kinds(wanted):
        name = _ENCODERS[kind].get(software)
        if name is None:
            missed.append(f"{kind} has no counterpart of {software}")
            continue
        reason = _cannot_encode(name)
        if not reason:
            return Chosen(name)
        missed.append(reason)
    return Chosen(software, _note(wanted, missed, "encoding"))


def _kinds(wanted: HwAccel) -> tuple[str, ...]:
    if wanted is HwAccel.NONE:
        return ()
    return _AUTO if wanted is HwAccel.AUTO else (wanted.value,)


def _note(wanted: HwAccel, missed: list[str], what: str) -> str:
    # auto found nothing: nobody asked for anything in particular
    if wanted in (HwAccel.AUTO, HwAccel.NONE) or not missed:
        return ""
    return f"{what} in software: {'; '.join(missed)}"


def _no_device(kind: str) -> str:
    from av import Codec
    from av.codec.hwaccel import HWAccel, hwdevices_available

    if kind not in hwdevices_available():
        return f"this PyAV was built without {kind}"
    try:
        HWAccel(device_type=kind, allow_software_fallback=False).create(Codec("h264", "r"))
    except Exception as error:  # PyAV raises what FFmpeg's driver layer happens to return
        return f"no {kind} device can be opened ({type(error).__name__})"
    return ""


def _cannot_encode(name: str) -> str:
    import av

    try:
        context = cast("VideoCodecContext", av.CodecContext.create(name, "w"))
        context.width = context.height = 256
        context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
        context.open()
    except Exception as error:  # as above
        missing = type(error).__name__ == "UnknownCodecError"
        return f"this PyAV was built without {name}" if missing else f"{name} cannot be opened ({type(error).__name__})"
    return ""

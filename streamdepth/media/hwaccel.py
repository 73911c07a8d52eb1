"""Decoding and encoding on hardware, where there is some: what is asked for, what is there, what to fall back to."""

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
"""What ``auto`` tries, in this order."""
ENCODERS: Mapping[str, Mapping[str, str]] = {
    "cuda": {"libx264": "h264_nvenc"},
    "vaapi": {"libx264": "h264_vaapi"},
}
"""Kind -> software encoder -> what stands in for it."""
# All hardware has these; of ten bits, 4:4:4 and alpha some have one and none has all.
_COMMON_FORMATS = ("yuv420p", "nv12")
_QUESTIONS = {"cuda": "is the NVIDIA driver there?", "vaapi": "is there a /dev/dri/renderD* that you may open?"}

_BUILD = "pip install --no-binary av av builds one with what your own FFmpeg has"


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
    """What ``av.open(hwaccel=)`` takes. Decoded images are brought back to memory; a codec or profile that the
    hardware does not decode is decoded in software by FFmpeg itself."""
    from av.codec.hwaccel import HWAccel

    missed: list[str] = []
    for kind in _kinds(wanted):
        reason = cannot_decode(kind)
        if not reason:
            return Chosen(HWAccel(device_type=kind, allow_software_fallback=True))
        missed.append(reason)
    return Chosen(None, _note(wanted, missed, "decoding"))


def encoder(wanted: HwAccel, software: str, pix_fmt: str, width_px: int, height_px: int) -> Chosen:
    """The hardware's counterpart of a software encoder, tried in the size it is wanted for.

    Args:
        software, pix_fmt: the encoder and pixel format that would be used otherwise. Hardware takes over only what it
            encodes without loss of bits or colour: 4:2:0 of 8 bits.
    """
    missed: list[str] = []
    for kind in _kinds(wanted):
        name = ENCODERS[kind].get(software)
        if name is None:
            missed.append(f"nothing of {kind} stands in for {software}")
        elif pix_fmt not in _COMMON_FORMATS:
            missed.append(f"{name} would not keep {pix_fmt}")
        elif reason := cannot_encode(name, width_px, height_px):
            missed.append(reason)
        else:
            return Chosen(name)
    return Chosen(software, _note(wanted, missed, "encoding"))


def upload_device(encoder: str) -> HWAccel | None:
    """What an encoder's ``hwaccel=`` has to be: VAAPI's take images in device memory only, where PyAV then brings
    them; NVENC takes them as they are."""
    if not encoder.endswith("_vaapi"):
        return None
    from av.codec.hwaccel import HWAccel

    return HWAccel(device_type="vaapi")


def cannot_decode(kind: str) -> str:
    """Why nothing can be decoded on ``cuda`` or ``vaapi``, empty where it can. Opens the device for a moment."""
    from av import Codec
    from av.codec.hwaccel import HWAccel, hwdevices_available

    if kind not in hwdevices_available():
        return f"this PyAV was built without {kind}; {_BUILD}"
    try:
        HWAccel(device_type=kind, allow_software_fallback=False).create(Codec("h264", "r"))
    except Exception:  # PyAV raises what FFmpeg's driver layer happens to return
        return f"no {kind} device can be opened; {_QUESTIONS[kind]}"
    return ""


def cannot_encode(name: str, width_px: int = 256, height_px: int = 256) -> str:
    """Why an encoder does not take 4:2:0 images of this size, empty where it does. Opens it for a moment."""
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
        return f"{name} cannot be opened for {width_px}x{height_px}; has this machine such an encoder, and is one free?"
    return ""


def _kinds(wanted: HwAccel) -> tuple[str, ...]:
    if wanted is HwAccel.NONE:
        return ()
    return KINDS if wanted is HwAccel.AUTO else (wanted.value,)


def _note(wanted: HwAccel, missed: list[str], what: str) -> str:
    # auto found nothing: nobody asked for anything in particular
    if wanted in (HwAccel.AUTO, HwAccel.NONE) or not missed:
        return ""
    return f"{what} in software: {'; '.join(missed)}"

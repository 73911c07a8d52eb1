"""HDR10 metadata of decoded frames: the mastering display and the content light level."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING

from streamdepth.core.frame import HdrMetadata
from streamdepth.media.orientation import side_data_of

if TYPE_CHECKING:
    import av

# AVMasteringDisplayMetadata: ten rationals (three primaries and the white point with x and y, lowest and highest
# luminance), then two flags. AVContentLightMetadata: two unsigned integers.
_MASTERING = struct.Struct("=20i2i")
_LIGHT = struct.Struct("=2I")
_CHROMATICITY_STEPS = 50_000
_LUMINANCE_STEPS = 10_000
"""Units of SMPTE ST 2086 in H.265: 0.00002, and 0.0001 cd/m2."""


def hdr_of(image: av.VideoFrame) -> HdrMetadata | None:
    """The HDR metadata of a decoded frame, None if it has none."""
    mastering = light = ""
    dolby_vision = False
    for side in side_data_of(image):
        name, content = side.type.name, bytes(side)
        if name == "MASTERING_DISPLAY_METADATA" and len(content) >= _MASTERING.size:
            mastering = _mastering(content)
        elif name == "CONTENT_LIGHT_LEVEL" and len(content) >= _LIGHT.size:
            light = "{},{}".format(*_LIGHT.unpack_from(content))
        elif name.startswith("DOVI"):
            dolby_vision = True
    return HdrMetadata(mastering, light, dolby_vision) if mastering or light or dolby_vision else None


def _mastering(content: bytes) -> str:
    *values, has_primaries, has_luminance = _MASTERING.unpack_from(content)
    if not (has_primaries and has_luminance) or 0 in values[1::2]:
        return ""
    numbers = [Fraction(top, bottom) for top, bottom in zip(values[::2], values[1::2], strict=True)]
    x_y = [round(value * _CHROMATICITY_STEPS) for value in numbers[:8]]
    low, high = (round(value * _LUMINANCE_STEPS) for value in numbers[8:])
    red, green, blue, white = (f"({x_y[at]},{x_y[at + 1]})" for at in (0, 2, 4, 6))
    return f"G{green}B{blue}R{red}WP{white}L({high},{low})"

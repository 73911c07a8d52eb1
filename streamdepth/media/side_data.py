"""Side data of decoded frames: crop and display matrix, which are applied, and metadata."""

from __future__ import annotations

import struct
import sys
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamdepth.core.frame import ColorTags, HdrMetadata
from streamdepth.media.filters import Letterbox

if TYPE_CHECKING:
    import av
    from av.filter import Graph

    from streamdepth.media.boxes import Crop


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight orientations of an image: an optional transposition, then optional flips.

    Attributes:
        transposed: exchange rows and columns.
        flip_x, flip_y: flip horizontally, vertically, after the transposition.
        exact: False if the file specifies a rotation that is not a multiple of 90 degrees; the nearest is used.
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False
    exact: bool = True

    @property
    def upright(self) -> bool:
        return not (self.transposed or self.flip_x or self.flip_y)

    @property
    def filters(self) -> tuple[tuple[str, str], ...]:
        """Filters of libavfilter and their arguments, in as few passes as possible."""
        if self.transposed:
            direction = {
                (False, False): "cclock_flip",
                (True, False): "clock",
                (False, True): "cclock",
                (True, True): "clock_flip",
            }[self.flip_x, self.flip_y]
            return (("transpose", direction),)
        return (*((("hflip", ""),) if self.flip_x else ()), *((("vflip", ""),) if self.flip_y else ()))


UPRIGHT = Orientation()
_SIDE_DATA_TYPES = 64
"""More than FFmpeg has."""


def orientation_of(image: av.VideoFrame) -> Orientation:
    """The orientation in the display matrix of a decoded image.

    The matrix is nine int32 as in ISO/IEC 14496-12 (16.16 fixed point, last column 2.30). It maps a point (x, y), y
    down, to (a x + c y, b x + d y).
    """
    for side in side_data_of(image):
        if side.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(side), np.int32)
            if matrix.size != 9:
                return UPRIGHT
            a, b, c, d = (int(matrix[at]) for at in (0, 1, 3, 4))
            return orientation_from(a, b, c, d)
    return UPRIGHT


def side_data_of(image: av.VideoFrame) -> list[Any]:
    """The side data of a frame, of the types that PyAV has. ``image.side_data`` raises on any other type."""
    from av.filter import Graph
    from av.sidedata.sidedata import Type

    sides: Any
    try:
        sides = image.side_data
    except ValueError:
        types: Any = Type
        known = {kind.value for kind in types}
        graph = Graph()
        nodes = [
            graph.add_buffer(width=image.width, height=image.height, format=image.format, time_base=image.time_base)
        ]
        nodes += [
            graph.add("sidedata", f"mode=delete:type={kind}") for kind in range(_SIDE_DATA_TYPES) if kind not in known
        ]
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        graph.vpush(image)
        sides = graph.vpull().side_data
    return list(sides)


def orientation_from(a: int, b: int, c: int, d: int) -> Orientation:
    """The orientation nearest to the matrix ((a, b), (c, d)); upright for a matrix of zeros."""
    straight, crossed = abs(a) + abs(d), abs(b) + abs(c)
    if not straight and not crossed:
        return UPRIGHT
    exact = min(straight, crossed) <= max(straight, crossed) // 64
    if crossed > straight:
        return Orientation(transposed=True, flip_x=c < 0, flip_y=b < 0, exact=exact)
    return Orientation(flip_x=a < 0, flip_y=d < 0, exact=exact)


class FrameNormalizer:
    """Applies crop and display matrix, and converts frames that differ from the first one to its size and format.

    A frame of another size or pixel aspect is letterboxed. Other frames are returned unchanged, without a copy. Not
    thread-safe.

    Args:
        crop: pixels to remove from every frame.

    Attributes:
        converted: number of converted frames by what differed (``size``, ``pix_fmt``, ``color``).
        orientation: orientation of the first frame.
    """

    def __init__(self, crop: Crop | None = None) -> None:
        self._crop = crop
        self._aspect = Fraction(1)
        self._letterbox: Letterbox | None = None
        self._fitted_aspect = Fraction(1)
        self.converted: Counter[str] = Counter()
        self.orientation = UPRIGHT
        self._last_form: tuple[int, int, str, int] | None = None
        self._orientation = UPRIGHT
        self._shape: tuple[int, int, str] | None = None
        self._color = ColorTags()
        self._graph_key: tuple[int, int, str, Orientation] | None = None
        self._graph: Graph | None = None

    def normalize(self, image: av.VideoFrame, pixel_aspect: Fraction = Fraction(1)) -> av.VideoFrame:
        """
        Args:
            pixel_aspect: width : height of a pixel of ``image`` as decoded.
        """
        # Reading side_data creates a reference cycle, so only the cycle collector frees the image (200 MB after ten
        # videos of 480x270). The matrix belongs to the stream, so it is read only after another property has changed.
        form = (image.width, image.height, image.format.name, image.rotation)
        if form != self._last_form:
            self._last_form = form
            self._orientation = orientation_of(image)
        orientation = self._orientation
        if orientation.transposed:
            pixel_aspect = 1 / pixel_aspect
        if self._crop is not None or not orientation.upright:
            image = self._rotate(image, orientation)
        if self._shape is None:
            self.orientation = orientation
            self._shape = (image.width, image.height, image.format.name)
            self._color = ColorTags.of(image)
            self._aspect = pixel_aspect
            return image
        return self._convert_to_first(image, pixel_aspect / self._aspect)

    def _rotate(self, image: av.VideoFrame, orientation: Orientation) -> av.VideoFrame:
        key = (image.width, image.height, image.format.name, orientation)
        if self._graph is None or key != self._graph_key:
            self._graph = _build_graph(image, orientation, self._crop)
            self._graph_key = key
        pts, time_base = image.pts, image.time_base
        # libavfilter requires the time base of the graph; the original times are restored below.
        self._graph.vpush(image)
        rotated = self._graph.vpull()
        rotated.pts, rotated.time_base = pts, time_base
        return rotated

    def _convert_to_first(self, image: av.VideoFrame, aspect: Fraction) -> av.VideoFrame:
        if self._shape is None:
            return image
        width, height, pix_fmt = self._shape
        color = ColorTags.of(image)
        other_size = (image.width, image.height) != (width, height) or aspect != 1
        other_format = image.format.name != pix_fmt
        other_color = _differ(color.matrix, self._color.matrix, 2) or _differ(color.range, self._color.range, 0)
        if not (other_size or other_format or other_color):
            return image
        for differs, cause in ((other_size, "size"), (other_format, "pix_fmt"), (other_color, "color")):
            self.converted[cause] += differs
        if other_size:
            if self._letterbox is None or aspect != self._fitted_aspect:
                self._letterbox = Letterbox(width, height, pix_fmt, self._color, aspect)
                self._fitted_aspect = aspect
            converted = self._letterbox(image)
        else:
            converted = self._convert(image, color if other_color else None)
        converted.pts, converted.time_base = image.pts, image.time_base
        self._color.apply(converted)
        return converted

    def _convert(self, image: av.VideoFrame, color: ColorTags | None) -> av.VideoFrame:
        import av.error

        width, height, pix_fmt = self._shape or (image.width, image.height, image.format.name)
        if color is not None:
            try:
                return image.reformat(
                    width=width,
                    height=height,
                    format=pix_fmt,
                    src_colorspace=color.matrix,
                    dst_colorspace=self._color.matrix,
                    src_color_range=color.range,
                    dst_color_range=self._color.range,
                )
            except (av.error.FFmpegError, ValueError):
                # libswscale supports few matrices; unsupported tags are often damaged data.
                pass
        return image.reformat(width=width, height=height, format=pix_fmt)


def _differ(one: int, other: int, unspecified: int) -> bool:
    return one != other and unspecified not in (one, other)


def _even_subsampling(image: av.VideoFrame) -> str | None:
    """The 4:4:4 format to convert to before a transposition, None if none is needed.

    Transposed 4:2:2 is 4:4:0, which few encoders support; by default libavfilter selects packed formats that the colour
    stage does not support.
    """
    name = image.format.name
    chroma = next((part for part in image.format.components if part.is_chroma), None)
    if chroma is None:
        return None
    wide, high = image.format.chroma_width(64), image.format.chroma_height(64)
    if wide == high:
        return None
    bits = image.format.components[0].bits
    alpha = "a" if name.startswith("yuva") else ""
    family = "yuvj" if name.startswith("yuvj") else f"yuv{alpha}"
    return f"{family}444p" + (f"{bits}le" if bits > 8 else "")


def _build_graph(image: av.VideoFrame, orientation: Orientation, crop: Crop | None) -> Graph:
    from av.filter import Graph

    graph = Graph()
    nodes = [graph.add_buffer(width=image.width, height=image.height, format=image.format, time_base=image.time_base)]
    if crop is not None:
        width, height = image.width - crop.left - crop.right, image.height - crop.top - crop.bottom
        if width > 0 and height > 0:
            nodes.append(graph.add("crop", f"{width}:{height}:{crop.left}:{crop.top}"))
    if orientation.transposed and (even := _even_subsampling(image)) is not None:
        nodes.append(graph.add("format", f"pix_fmts={even}"))
    nodes += [graph.add(name, args or None) for name, args in orientation.filters]
    # Otherwise an encoder would write the matrix and a player would rotate the image again.
    nodes.append(graph.add("sidedata", "mode=delete:type=DISPLAYMATRIX"))
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph


# AVMasteringDisplayMetadata: ten rationals (three primaries and the white point with x and y, lowest and highest
# luminance), then two flags. AVContentLightMetadata: two unsigned integers.
_MASTERING = struct.Struct("=20i2i")
_LIGHT = struct.Struct("=2I")
DOLBY_VISION = "Dolby Vision metadata"
_CHROMATICITY_STEPS = 50_000
_LUMINANCE_STEPS = 10_000
"""Units of SMPTE ST 2086 in H.265: 0.00002, and 0.0001 cd/m2."""


_OMITTED = {
    "A53_CC": "closed captions",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DOVI_METADATA": DOLBY_VISION,
    "DOVI_RPU_BUFFER": DOLBY_VISION,
    "STEREO3D": "stereo 3D metadata",
    "SPHERICAL": "360-degree metadata",
}
"""What no output has, by type of side data."""
_PLAIN, _SEVERAL_VIEWS = 0, 8
"""AV_STEREO3D_2D and AV_STEREO3D_UNSPEC: the stream has views of two eyes, and a frame is one of them."""
_RECTILINEAR = 4


class Metadata(NamedTuple):
    """What the side data of a frame say of its stream.

    Attributes:
        omitted: names of metadata that no output has.
        spatial: the stream has two views, of which the decoder gives the base view.
    """

    hdr: HdrMetadata | None
    omitted: tuple[str, ...]
    spatial: bool


def metadata_of(image: av.VideoFrame) -> Metadata:
    """The metadata of a decoded frame."""
    mastering = light = ""
    spatial, omitted = False, []
    for side in side_data_of(image):
        name, content = side.type.name, bytes(side)
        kind = int.from_bytes(content[:4], sys.byteorder)
        if name == "MASTERING_DISPLAY_METADATA" and len(content) >= _MASTERING.size:
            mastering = _mastering(content)
        elif name == "CONTENT_LIGHT_LEVEL" and len(content) >= _LIGHT.size:
            light = "{},{}".format(*_LIGHT.unpack_from(content))
        elif name == "STEREO3D" and kind in (_PLAIN, _SEVERAL_VIEWS):
            spatial = kind == _SEVERAL_VIEWS
        elif name in _OMITTED and (name, kind) != ("SPHERICAL", _RECTILINEAR):
            omitted.append(_OMITTED[name])
    hdr = HdrMetadata(mastering, light) if mastering or light else None
    return Metadata(hdr, tuple(dict.fromkeys(omitted)), spatial)


def _mastering(content: bytes) -> str:
    *values, has_primaries, has_luminance = _MASTERING.unpack_from(content)
    if not (has_primaries and has_luminance) or 0 in values[1::2]:
        return ""
    numbers = [Fraction(top, bottom) for top, bottom in zip(values[::2], values[1::2], strict=True)]
    x_y = [round(value * _CHROMATICITY_STEPS) for value in numbers[:8]]
    low, high = (round(value * _LUMINANCE_STEPS) for value in numbers[8:])
    red, green, blue, white = (f"({x_y[at]},{x_y[at + 1]})" for at in (0, 2, 4, 6))
    return f"G{green}B{blue}R{red}WP{white}L({high},{low})"

"""``test:``: a short synthetic clip with real depth cues, to try everything without a file."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from streamdepth.core import limits
from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import SourceError, UsageError
from streamdepth.core.frame import ColorTags, Frame, StreamInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    import av
    import numpy as np
    from numpy.typing import NDArray

    from streamdepth.core.clock import Clock

_BITS = 32
_CELLS_ACROSS = 16
_CELLS_PER_WIDTH = 40
_MAX_SIDE_PX = 16_384
_COLOR = ColorTags(matrix=1, range=1, primaries=1, transfer=1)
_OPTIONS = ("size", "rate", "frames", "seed", "counter")


class PatternSource(BaseSource):
    """A walk along a colonnade, drawn as it is read: the same frames for the same arguments, any number of times.

    Frames are yuv420p, BT.709, limited range, as those of cameras and files.

    Args:
        width_px, height_px: 1..16384 each.
        rate: frames per second, positive.
        frames: number of frames, 0 = endless.
        seed: seed of the random scene.
        counter: write the index into the top left corner for :func:`read_counter`; needs at least 120x9 pixels.
        clock: stamps ``captured_ns``.
        source_id: short name.
    Raises:
        UsageError: an argument out of its range.
    """

    def __init__(
        self,
        *,
        width_px: int = 640,
        height_px: int = 360,
        rate: Fraction = Fraction(30),
        frames: int = 90,
        seed: int = 0,
        counter: bool = False,
        clock: Clock | None = None,
        source_id: str = "test:",
    ) -> None:
        if not (1 <= width_px <= _MAX_SIDE_PX and 1 <= height_px <= _MAX_SIDE_PX):
            raise UsageError(f"test: size must be 1x1 to {_MAX_SIDE_PX}x{_MAX_SIDE_PX}, not {width_px}x{height_px}")
        limits.SOURCE_RATE.check("test: rate", rate)
        if frames < 0:
            raise UsageError(f"test: frames must be 0 (endless) or more, not {frames}")
        if seed < 0:
            raise UsageError(f"test: seed must be 0 or more, not {seed}")
        if counter and (width_px < 3 * _CELLS_PER_WIDTH or height_px < 9 or height_px * 20 < width_px):
            raise UsageError(
                f"test: a counter needs 120x9 pixels or more, no wider than 20:1, not {width_px}x{height_px}"
            )
        self._width_px, self._height_px = width_px, height_px
        self._rate, self._frames, self._seed, self._counter = Fraction(rate), frames, seed, counter
        super().__init__(source_id, clock=clock)
        self._opened = False

    @classmethod
    def from_text(cls, text: str, *, clock: Clock | None = None, source_id: str = "test:") -> PatternSource:
        """From ``test:?size=640x360&rate=30&frames=90&seed=1&counter=1``, all options optional.

        Raises:
            UsageError: an unknown option, or a value out of its range.
        """
        scheme, _, query = text.partition("?")
        if scheme.lower() not in ("test:", "test://", "test:/"):
            raise UsageError(f"{text!r} is not a test pattern; use test: or test:?size=640x360&rate=30&seed=1")
        options: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in _OPTIONS:
                raise UsageError(f"test: has no option {name!r}; it has {', '.join(_OPTIONS)}")
            options[name] = value
        size = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", options.get("size", "640x360"))
        if size is None:
            raise UsageError(f"test: size must be WIDTHxHEIGHT such as 640x360, not {options['size']!r}")
        return cls(
            width_px=int(size[1]),
            height_px=int(size[2]),
            rate=_number("rate", options.get("rate", "30")),
            frames=_whole("frames", options.get("frames", "90")),
            seed=_whole("seed", options.get("seed", "0")),
            counter=bool(_whole("counter", options.get("counter", "0"), most=1)),
            clock=clock,
            source_id=source_id,
        )

    def open(self) -> StreamInfo:
        self._opened = True
        return StreamInfo(
            source_id=self.id,
            width_px=self._width_px,
            height_px=self._height_px,
            pix_fmt="yuv420p",
            time_base=1 / self._rate,
            rate=self._rate,
            frame_count=self._frames or None,
            duration_seconds=float(self._frames / self._rate) if self._frames else None,
            color=_COLOR,
        )

    @property
    def endless(self) -> bool:
        """True if only an interrupt ends it."""
        return not self._frames

    def frames(self) -> Iterator[Frame]:
        if not self._opened:
            raise SourceError("test: call open() before frames()", source=self.id)
        from streamdepth.media.scene import Scene

        scene = Scene(self._width_px, self._height_px, self._seed)
        index = 0
        while not self._stop.is_set() and (not self._frames or index < self._frames):
            rgb = scene.draw(float(index / self._rate))
            if self._counter:
                draw_counter(rgb, index)
            image = _to_image(rgb)
            image.pts, image.time_base = index, 1 / self._rate
            if self._stop.is_set():
                return
            yield Frame(self.id, index, index, 1 / self._rate, self._clock.monotonic_ns(), image, key=True)
            index += 1

    def again(self) -> PatternSource:
        return PatternSource(
            width_px=self._width_px,
            height_px=self._height_px,
            rate=self._rate,
            frames=self._frames,
            seed=self._seed,
            counter=self._counter,
            clock=self._clock,
            source_id=self._id,
        )


def draw_counter(rgb: NDArray[np.uint8], value: int) -> None:
    """Write the low 24 bits of ``value`` and 8 check bits as 2 x 16 black and white cells into the top left corner.

    A cell is 1/40 of the width, so the number survives scaling and lossy coding. ``rgb``: uint8 [H, W, 3], H >= W / 20.
    """
    number = value & 0xFFFFFF
    word = number | _check(number) << 24
    for bit in range(_BITS):
        left, top, right, bottom = _cell(rgb.shape[1], bit)
        rgb[round(top) : round(bottom), round(left) : round(right)] = 255 * (word >> bit & 1)


def read_counter(rgb: NDArray[np.uint8]) -> int:
    """The number :func:`draw_counter` wrote, 0..2**24 - 1; ``rgb``: uint8 [H, W, 3] or [H, W], scaled or not.

    Raises:
        ValueError: there is no such number in the image, or it cannot be read without doubt.
    """
    word = 0
    for bit in range(_BITS):
        left, top, right, bottom = _cell(rgb.shape[1], bit)
        inset = (right - left) / 4
        core = rgb[round(top + inset) : round(bottom - inset), round(left + inset) : round(right - inset)]
        if core.size == 0:
            raise ValueError(f"an image of {rgb.shape[1]}x{rgb.shape[0]} is too small to hold a frame counter")
        level = float(core.mean())
        if 96 < level < 160:
            raise ValueError("the frame counter cannot be read: a cell is neither black nor white")
        word |= int(level >= 160) << bit
    number = word & 0xFFFFFF
    if word >> 24 != _check(number):
        raise ValueError("there is no frame counter in the image, or it is damaged")
    return number


def _cell(width_px: int, bit: int) -> tuple[float, float, float, float]:
    side = width_px / _CELLS_PER_WIDTH
    row, column = divmod(bit, _CELLS_ACROSS)
    return column * side, row * side, (column + 1) * side, (row + 1) * side


def _check(number: int) -> int:
    # Not zero for zero: a black corner must not read as frame 0.
    return (number ^ number >> 8 ^ number >> 16) & 0xFF ^ 0xA5


def _to_image(rgb: NDArray[np.uint8]) -> av.VideoFrame:
    import av

    image = av.VideoFrame.from_numpy_buffer(rgb, format="rgb24").reformat(
        format="yuv420p", src_color_range=2, dst_colorspace=_COLOR.matrix, dst_color_range=_COLOR.range
    )
    _COLOR.apply(image)
    return image


def _number(name: str, text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"test: {name} must be a number or a fraction such as 30000/1001, not {text!r}") from None


def _whole(name: str, text: str, *, most: int = 2**31) -> int:
    if not text.isdecimal() or int(text) > most:
        raise UsageError(f"test: {name} must be a whole number from 0 to {most}, not {text!r}")
    return int(text)

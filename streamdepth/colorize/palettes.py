"""Palettes, and lookup tables from nearness to colour for one look and one set of colour tags.

Palettes: the 44 of the npm package ``colormap``, the ``cmap`` catalogue, and user-defined colour stops. Names ignore
case, ``-``, ``_`` and spaces. A name in both sources (``jet``, ``viridis``) means the npm palette, so that still images
equal those of ``transformers.js``; the other one is available with its namespace (``matlab:jet``). A trailing ``_r``
reverses a palette of the catalogue, as in matplotlib.

A table has one entry per step of nearness. The finest step is 1/64 of a palette entry (``UNITS_PER_ENTRY``), so
nearness 1 is 255 * 64 = 16320: entry 64 k is exactly palette entry k, and twice the difference of two nearness values
fits int16. 8-bit images use every fourth step (4081 entries, 16 KiB for luma, which fits the L1 cache); 10-bit images
use all. A blend entry is ``(a, k)``: the new value of a plane is ``v * (1 - a) + k`` with ``k = a * colour``, in 16-bit
fixed point.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from streamdepth.core.frame import ColorTags
    from streamdepth.core.look import Look, Stop, Style
    from streamdepth.media.planes import PixelLayout

GRAYSCALE_NAMES = ("grayscale", "greyscale", "gray", "grey")
"""Near = white. Still images in one of these have one channel."""

_STOP_FILE_SUFFIXES = (".json", ".yaml", ".yml")
_GRAYSCALE_STOPS = ((0.0, (0, 0, 0)), (1.0, (255, 255, 255)))
_FORM = "[position 0..1, red, green, blue 0..255 (, alpha 0..255)] increasing from 0 to 1"


def palette(style: Style | Sequence[Any], n: int = 256, *, reverse: bool = False) -> NDArray[np.uint8]:
    """The colours of a style, from farthest to nearest.

    Args:
        style: a name, the path of a ``.json``/``.yaml`` file with stops, or stops (see ``parse_stops``).
        n: number of colours, 2 or more.
        reverse: nearest to farthest instead.

    Returns:
        uint8 [n, 4], red, green, blue, alpha; a new array.

    Raises:
        UsageError: an unknown name (similar ones are listed), malformed stops, or ``n`` below 2.
    """
    if n < 2:
        raise UsageError(f"a palette has at least 2 colours, not {n}")
    table = _named(style, n) if isinstance(style, str) else shades(parse_stops(style), n)
    return np.ascontiguousarray(table[::-1]) if reverse else table.copy()


def checked_style(style: Style) -> Style:
    """Return ``style`` unchanged.

    Raises:
        UsageError: as :func:`palette`.
    """
    palette(style, 2)
    return style


_OFTEN_USED = ("batlow", "cividis", "coolwarm", "mako", "rocket", "spectral", "spectral_r", "turbo", "twilight")


def palette_names() -> list[str]:
    """The names defined by this package: the 44 of npm ``colormap`` and ``grayscale``, sorted."""
    return sorted([*_npm(), GRAYSCALE_NAMES[0]])


def listed_names() -> list[str]:
    """The names that lists and menus offer: :func:`palette_names`, and often used ones of the catalogue, sorted."""
    return sorted([*palette_names(), *_OFTEN_USED])


def catalogue_names() -> list[str]:
    """Every name of the ``cmap`` catalogue with its namespace (``cmocean:thermal``), sorted."""
    return sorted(set(_catalogue().values()))


def is_grayscale(style: Style) -> bool:
    """True if still images in this style have one channel."""
    return isinstance(style, str) and _plain(style) in GRAYSCALE_NAMES


def nearest_names(name: str, count: int = 5) -> list[str]:
    """Known names similar to ``name``, best first; may be empty."""
    known = {_plain(own): own for own in (*palette_names(), *GRAYSCALE_NAMES)}
    known = {**{plain: plain for plain in _catalogue() if ":" not in plain}, **known}
    plain = _plain(name).rpartition(":")[2]
    inside = sorted((own for key, own in known.items() if len(plain) >= 3 and plain in key), key=len)
    close = [known[match] for match in get_close_matches(plain, known, n=count, cutoff=0.7)]
    return list(dict.fromkeys([*close, *inside]))[:count]


def parse_stops(raw: Any, *, what: str = "stops") -> tuple[Stop, ...]:
    """Validate user-defined colour stops.

    Args:
        raw: a sequence of stops, each ``[position, red, green, blue]``, ``[position, red, green, blue, alpha]``,
            ``[position, [red, green, blue(, alpha)]]``, ``[position, "#rrggbb(aa)"]`` or the npm package's
            ``{"index": position, "rgb": [red, green, blue(, alpha 0..1)]}``. Positions increase from 0 to 1; colours
            and alpha are 0..255.
        what: name of the stops in error messages.

    Raises:
        UsageError: anything else.
    """
    if isinstance(raw, (str, bytes)) or not hasattr(raw, "__iter__"):
        raise UsageError(f"{what}: expected a list of {_FORM}, not {raw!r}")
    stops = tuple(_stop(entry, f"{what}, stop {index}") for index, entry in enumerate(raw))
    if not 2 <= len(stops) <= 4096:
        raise UsageError(f"{what}: expected 2 to 4096 stops, not {len(stops)}")
    positions = [position for position, _ in stops]
    if positions[0] != 0 or positions[-1] != 1 or any(b < a for a, b in pairwise(positions)):
        raise UsageError(f"{what}: positions must increase from 0 to 1, not {positions[:8]}")
    return stops


def load_stops(path: str | Path) -> tuple[Stop, ...]:
    """Stops from a JSON or YAML file, which contains a list, or a mapping with a list under ``stops``.

    Raises:
        UsageError: the file cannot be read or contains no valid stops.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
        if path.suffix.lower() == ".json":
            raw = json.loads(text)
        else:
            import yaml

            try:
                raw = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(str(error).splitlines()[0]) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"palette file {path}: {reason}; expected JSON or YAML with a list of {_FORM}") from error
    return parse_stops(raw.get("stops") if isinstance(raw, dict) else raw, what=f"palette file {path}")


def shades(stops: Sequence[Stop], n: int) -> NDArray[np.uint8]:
    """``n`` colours interpolated between stops exactly as in npm ``colormap`` 2.3.2.

    Each stop is at a whole entry (position times n - 1, rounded half up); entries between two stops are interpolated
    linearly, and channels are rounded half up. With fewer entries than stops, which that package refuses, the stops are
    sampled evenly.

    Returns:
        uint8 [n, 4].
    """
    entries = [math.floor(position * (n - 1) + 0.5) for position, _ in stops]
    colours = np.array([(*colour, 255)[:4] for _, colour in stops], dtype=np.float64)
    table = np.empty((n, 4))
    if n < len(stops):
        positions = [position for position, _ in stops]
        for channel in range(4):
            table[:, channel] = np.interp(np.linspace(0, 1, n), positions, colours[:, channel])
        return np.floor(table + 0.5).astype(np.uint8)
    for first, last, low, high in zip(entries, entries[1:], colours, colours[1:], strict=False):
        if last > first:
            part = (np.arange(last - first) / (last - first))[:, None]
            table[first:last] = low * (1 - part) + high * part
    table[entries[-1] :] = colours[-1]
    return np.floor(table + 0.5).astype(np.uint8)


def _stop(entry: Any, what: str) -> Stop:
    wrong = UsageError(f"{what}: expected {_FORM}, not {entry!r}")
    alpha_unit = 1.0
    if isinstance(entry, dict):
        position, colour = entry.get("index"), entry.get("rgb")
        alpha_unit = 255.0
    elif isinstance(entry, (list, tuple)) and len(entry) == 2:
        position, colour = entry
    elif isinstance(entry, (list, tuple)) and len(entry) in (4, 5):
        position, colour = entry[0], entry[1:]
    else:
        raise wrong
    if isinstance(colour, str):
        try:
            colour = list(bytes.fromhex(colour.removeprefix("#")))
        except ValueError:
            raise wrong from None
    if not isinstance(colour, (list, tuple)) or len(colour) not in (3, 4):
        raise wrong
    numbers = [position, *colour]
    if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers):
        raise wrong
    if len(colour) == 4:
        numbers[4] = numbers[4] * alpha_unit
    if not 0 <= numbers[0] <= 1 or not all(0 <= number <= 255 for number in numbers[1:]):
        raise wrong
    red, green, blue, *alpha = (math.floor(number + 0.5) for number in numbers[1:])
    return float(numbers[0]), (red, green, blue, alpha[0]) if alpha else (red, green, blue)


def _named(name: str, n: int) -> NDArray[np.uint8]:
    plain = _plain(name)
    if plain in GRAYSCALE_NAMES:
        return shades(_GRAYSCALE_STOPS, n)
    for own, raw in _npm().items():
        if _plain(own) == plain:
            stops = parse_stops([{"index": stop[0], "rgb": stop[1:]} for stop in raw], what=own)
            return shades(stops, n)
    if name.lower().endswith(_STOP_FILE_SUFFIXES):
        return shades(load_stops(name), n)
    catalogue = _catalogue()
    reverse = plain not in catalogue and plain.endswith("r") and name.lower().endswith("_r")
    known = catalogue.get(plain[:-1] if reverse else plain)
    if known is None:
        nearest = nearest_names(name)
        hint = f"nearest: {', '.join(nearest)}; " if nearest else ""
        raise UsageError(f"unknown style {name!r}; {hint}run `streamdepth styles` for a list")
    from cmap import Colormap

    lut = np.asarray(Colormap(known).lut(n))
    if len(lut) != n:  # a qualitative palette with fewer colours than n
        lut = lut[np.arange(n) * len(lut) // n]
    table = np.floor(lut * 255 + 0.5).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(table[::-1]) if reverse else table


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "").replace(" ", "")


@lru_cache(maxsize=1)
def _npm() -> Mapping[str, Any]:
    """Not parsed: parsing all palettes takes 25 ms."""
    raw: Mapping[str, Any] = json.loads(files("streamdepth.colorize").joinpath("palettes.json").read_text("utf-8"))
    palettes: Mapping[str, Any] = raw["palettes"]
    return palettes


@lru_cache(maxsize=1)
def _catalogue() -> dict[str, str]:
    """Normalised name -> full name. Names without a namespace resolve as in the catalogue."""
    from cmap import Catalog

    catalog = Catalog()
    names: dict[str, str] = {}
    for name in catalog:
        names.setdefault(_plain(name), catalog.resolve(name))
    return names


UNITS_PER_ENTRY = 64
NEARNESS_ONE = 255 * UNITS_PER_ENTRY
"""Nearness 1 in units of the kernels."""
INVALID = 0x7FFF
"""Nearness of a pixel without valid depth."""
LINE = 0x8000
"""Bit of a nearness value that marks a contour."""

_CONTOUR_ALPHA = 0.85
_CONTOUR_SHIFT = 0.7


@dataclass(frozen=True, slots=True)
class Steps:
    """Number of steps of a table.

    Attributes:
        shift: right shift from nearness units to table entry.
        count: entries from nearness 0 to 1. Entry ``count`` is "invalid"; with contours, the colours of the contour
            line follow from ``count + 1``, one per step.
    """

    shift: int
    count: int

    @classmethod
    def of(cls, layout: PixelLayout) -> Steps:
        shift = 2 if layout.bits == 8 else 0
        return cls(shift, (NEARNESS_ONE >> shift) + 1)


def colours(look: Look, count: int) -> NDArray[np.float64]:
    """Straight R, G, B, A of every entry, 0..1: the steps, "invalid", and the contour line.

    Returns:
        float64 [count + 1, 4], or [2 * count + 1, 4] with contours.
    """
    entries = palette(look.style, 256, reverse=look.reverse).astype(np.float64) / 255
    nearness = np.linspace(0.0, 1.0, count)
    steps = np.stack([np.interp(nearness * 255, np.arange(256), entries[:, channel]) for channel in range(4)], axis=1)
    near, far = look.alpha_ends
    steps[:, 3] *= far + (near - far) * nearness
    parts = [steps, np.zeros((1, 4))]
    if look.contours:
        # The line keeps the hue and moves towards black or white, whichever is farther, to be visible on any palette.
        luma = steps[:, :3] @ np.array([0.2126, 0.7152, 0.0722])
        towards = np.where(luma < 0.5, 1.0, 0.0)[:, None]
        line = np.empty_like(steps)
        line[:, :3] = steps[:, :3] + (towards - steps[:, :3]) * _CONTOUR_SHIFT
        line[:, 3] = np.maximum(steps[:, 3], _CONTOUR_ALPHA)
        parts.append(line)
    return np.concatenate(parts)


def blend_terms(
    values: NDArray[np.float64], alpha: NDArray[np.float64], layout: PixelLayout
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """``a`` [n] and ``k`` [n, planes] in fixed point: a in 1/65536, k in units of 2**-(16 - bits)."""
    a = np.minimum(np.rint(alpha * 65536), 65535).astype(np.uint64)
    k = np.rint(values * alpha[:, None] * (1 << (16 - layout.bits))).astype(np.uint64)
    return a, k


@dataclass(frozen=True, slots=True)
class BlendTables:
    """For compositing over an image.

    Attributes:
        luma: uint32 [n], ``a << 16 | k`` of the Y plane.
        chroma: uint64 [n]. Planar: ``kv << 32 | ku << 16 | a``. Packed: ``a << 48 | k2 << 32 | k1 << 16 | k0`` in
            memory order of the channels.
    """

    luma: NDArray[np.uint32]
    chroma: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class PaintTables:
    """For images of depth alone: plane values.

    Attributes:
        luma: uint8 or uint16 [n], the Y plane's words.
        chroma: uint16 or uint32 [n], U in the lower half, V in the upper. Packed: uint32 [n], the bytes of a pixel.
    """

    luma: NDArray[np.uint8] | NDArray[np.uint16]
    chroma: NDArray[np.uint16] | NDArray[np.uint32]


def blend_tables(look: Look, layout: PixelLayout, tags: ColorTags) -> BlendTables:
    from streamdepth.media.planes import plane_values, to_signal  # which loads PyAV; a palette's name does not need it

    rgba = colours(look, Steps.of(layout).count)
    values = plane_values(to_signal(rgba[:, :3], tags), tags, layout)
    if layout.family == "packed" and layout.red == 2:
        values = values[:, ::-1]
    a, k = blend_terms(values, rgba[:, 3], layout)
    one, two, three = np.uint64(16), np.uint64(32), np.uint64(48)
    luma = (a << one | k[:, 0]).astype(np.uint32)
    if layout.family == "packed":
        return BlendTables(luma, a << three | k[:, 2] << two | k[:, 1] << one | k[:, 0])
    return BlendTables(luma, k[:, 2] << two | k[:, 1] << one | a)


def paint_tables(look: Look, layout: PixelLayout, tags: ColorTags) -> PaintTables:
    """Colours over black; for a packed format with alpha, straight colours with their alpha."""
    from streamdepth.media.planes import plane_values, to_signal

    rgba = colours(look, Steps.of(layout).count)
    rgb, alpha = rgba[:, :3], rgba[:, 3:]
    if not layout.alpha:
        black = plane_values(np.zeros((1, 3)), tags, layout)
        values = plane_values(to_signal(rgb, tags), tags, layout)
        values = black + (values - black) * alpha
    else:
        values = np.concatenate([rgb, alpha], axis=1) * 255
    words = np.floor(values + 0.5).astype(np.uint32) << np.uint32(layout.shift)
    if layout.family == "packed":
        order = [2, 1, 0] if layout.red == 2 else [0, 1, 2]
        pixel = np.zeros(len(words), np.uint32)
        for place, channel in enumerate([*order, 3][: layout.channels]):
            pixel |= words[:, channel] << np.uint32(8 * place)
        return PaintTables(np.zeros(0, np.uint8), pixel)
    if layout.word_bytes == 1:
        return PaintTables(words[:, 0].astype(np.uint8), (words[:, 1] | words[:, 2] << np.uint32(8)).astype(np.uint16))
    return PaintTables(words[:, 0].astype(np.uint16), words[:, 1] | words[:, 2] << np.uint32(16))

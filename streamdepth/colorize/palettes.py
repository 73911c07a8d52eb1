"""Palettes: the 44 of the npm package ``colormap``, the ``cmap`` catalogue, and user-defined colour stops.

Names ignore case, ``-``, ``_`` and spaces. A name in both sources (``jet``, ``viridis``) means the npm palette, so that
still images equal those of ``transformers.js``; the other one is available with its namespace (``matlab:jet``). A
trailing ``_r`` reverses a palette of the catalogue, as in matplotlib.
"""

from __future__ import annotations

import json
import math
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

    from streamdepth.core.look import Stop, Style

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

"""Looks as clients name them, checked as a whole before anything changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import UsageError
from streamdepth.core.look import Look, Upsampling, View, parse_alpha
from streamdepth.serve.replies import ApiError

if TYPE_CHECKING:
    from streamdepth.core.look import Style

LOOK_KEYS = ("style", "alpha", "reverse", "view", "contours", "bar", "edges")


def plain_style(value: Any) -> Style:
    """A palette's name or stops; never a file, which is the server's own.

    Raises:
        ApiError: anything else (400).
    """
    from streamdepth.colorize.palettes import palette, parse_stops

    if isinstance(value, str) and (value.lower().endswith((".json", ".yaml", ".yml")) or "/" in value or "\\" in value):
        raise ApiError(400, "a style is a palette's name or a list of stops, not a file")
    try:
        style: Style = value if isinstance(value, str) else parse_stops(value, what="style")
        palette(style)
    except UsageError as error:
        raise ApiError(400, str(error)) from None
    return style


def look_changes(content: dict[str, Any]) -> dict[str, Any]:
    """Fields of :class:`Look` out of a client's JSON object or query.

    Raises:
        ApiError: a value that cannot mean anything (400).
    """
    changes: dict[str, Any] = {}
    try:
        for key in LOOK_KEYS:
            if key not in content:
                continue
            value = content[key]
            if key == "style":
                changes["style"] = plain_style(value)
            elif key == "alpha":
                changes["alpha"] = parse_alpha(value)
            elif key == "view":
                changes["view"] = View(value)
            elif key == "edges":
                changes["upsampling"] = Upsampling(value)
            elif key == "contours":
                changes["contours"] = _whole(value)
            else:
                changes[key] = _flag(key, value)
        Look(**changes)
    except (ValueError, TypeError) as error:
        raise ApiError(400, " ".join(str(error).split())) from None
    return changes


def look_state(look: Look) -> dict[str, Any]:
    """A look as JSON can hold it, with the names clients use."""
    return {
        "style": look.style if isinstance(look.style, str) else [list(stop) for stop in look.style],
        "alpha": list(look.alpha_ends),
        "alpha_set": look.alpha is not None,
        "reverse": look.reverse,
        "view": str(look.view),
        "contours": look.contours,
        "bar": look.bar,
        "edges": str(look.upsampling),
    }


def palettes_css() -> dict[str, list[str]]:
    """Every palette's name with nine colours from far to near, for swatches."""
    from streamdepth.colorize.palettes import palette, palette_names

    return {
        name: [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette(name, 9)[:, :3].tolist()]
        for name in palette_names()
    }


def _whole(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"contours is a whole number 0..64, not {value!r}")
    return value


def _flag(name: str, value: Any) -> bool:
    found = value if isinstance(value, bool) else {"true": True, "1": True, "false": False, "0": False}.get(str(value))
    if found is None:
        raise ValueError(f"{name} is true or false, not {value!r}")
    return found

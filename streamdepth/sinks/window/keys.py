"""What keys in the window do to the look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamdepth.core.look import Look, Upsampling, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamdepth.core.look import LookControl

HELP = (
    ("space", "pause"),
    ("s  S", "next, previous style"),
    ("v", "view"),
    ("a  A", "next, previous opacity"),
    ("[  ]", "near opacity - +"),
    ("{  }", "far opacity - +"),
    ("r", "reverse"),
    ("c", "contours"),
    ("b", "bar"),
    ("g", "follow edges"),
    ("i", "figures"),
    ("p", "save image"),
    ("f", "full screen"),
    ("h", "this help"),
    ("q", "quit"),
)

_VIEWS = tuple(View)
_CONTOURS = (0, 8, 16, 32)
_ALPHAS: tuple[tuple[float, float] | None, ...] = (None, (0.3, 0.3), (0.6, 0.6), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
_STEP = 0.05


def change_look(key: str, control: LookControl, styles: Sequence[str]) -> str | None:
    """Apply a key to the look. Returns what to tell the user, None where the key has nothing to do with the look."""
    look = control.look
    if key in "sS":
        name = _after(styles, look.style, -1 if key == "S" else 1)
        return f"style {control.update(style=name).style}"
    if key == "v":
        return f"view {control.update(view=_after(_VIEWS, look.view, 1)).view}"
    if key in "aA":
        control.update(alpha=_after(_ALPHAS, look.alpha, -1 if key == "A" else 1))
        return _alpha_words(control.look)
    if key in "[]{}":
        near, far = look.alpha_ends
        step = _STEP if key in "]}" else -_STEP
        changed = (_clamped(near + step), far) if key in "[]" else (near, _clamped(far + step))
        control.update(alpha=changed)
        return _alpha_words(control.look)
    if key == "r":
        return "near is bright" if not control.update(reverse=not look.reverse).reverse else "far is bright"
    if key == "c":
        count = control.update(contours=_after(_CONTOURS, look.contours, 1)).contours
        return f"{count} contours" if count else "no contours"
    if key == "b":
        return "bar" if control.update(bar=not look.bar).bar else "no bar"
    if key == "g":
        guided = look.upsampling is Upsampling.GUIDED
        control.update(upsampling=Upsampling.BILINEAR if guided else Upsampling.GUIDED)
        return "smooth borders" if guided else "borders follow the image's edges"
    return None


def _after(choices: Sequence[object], current: object, step: int) -> object:
    """The choice ``step`` after the current one, going round; the first (last) where the current is none of them."""
    if current not in choices:
        return choices[0 if step > 0 else -1]
    return choices[(list(choices).index(current) + step) % len(choices)]


def _clamped(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 2)


def _alpha_words(look: Look) -> str:
    near, far = look.alpha_ends
    return f"opacity {near:.2f}" if near == far else f"opacity near {near:.2f}, far {far:.2f}"

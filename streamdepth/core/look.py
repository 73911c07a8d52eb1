"""How depth is shown: a frozen value, and a mutable holder for changes during a run."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from streamdepth.core import limits
from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_Kind = TypeVar("_Kind", bound=StrEnum)
Stop = tuple[float, tuple[int, int, int] | tuple[int, int, int, int]]
Style = str | tuple[Stop, ...]


class View(StrEnum):
    """Content of the output image."""

    DEPTH = "depth"
    OVERLAY = "overlay"
    SIDE = "side"
    """Frame on the left, depth on the right."""
    STACK = "stack"
    """Frame on top, depth below."""


class Upsampling(StrEnum):
    """How depth is scaled from model resolution to frame resolution."""

    BILINEAR = "bilinear"
    GUIDED = "guided"
    """Depth edges follow the edges of the frame."""


class Nearness(StrEnum):
    """What colour is proportional to."""

    AUTO = "auto"
    """Inverse depth, for all models alike: near things keep their contrast."""
    LINEAR = "linear"
    """The values of the model."""
    INVERSE = "inverse"
    """Inverse depth, also where values grow with distance."""


_DEFAULT_ALPHA = {View.DEPTH: 1.0, View.OVERLAY: 0.6, View.SIDE: 1.0, View.STACK: 1.0}


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that determines how depth is coloured.

    Attributes:
        style: palette name, or colour stops as ``((position 0..1, (r, g, b[, a])), ...)``.
        alpha: opacity at the nearest and at the farthest point, 0..1; None = default of the view (overlay 0.6, else 1).
        reverse: map far instead of near to the high end of the palette.
        view: content of the image. Except in ``overlay``, alpha blends towards black, unless ``transparent``.
        transparent: keep alpha as a channel instead of compositing (still images, containers that support alpha).
        upsampling: bilinear, or guided by the edges of the frame.
        nearness: inverse depth, or linear in the values of models whose values grow with distance.
        contours: number of nearness levels outlined, 0 = none.
        bar: draw a colour bar, labelled in metres for metric models.

    Raises:
        UsageError: an unknown view or upsampling, or alpha or contours outside their range. Style names are checked
            where palettes are defined (``streamdepth.colorize.palettes.checked_style``), not here.
    """

    style: Style = "inferno"
    alpha: tuple[float, float] | None = None
    reverse: bool = False
    view: View = View.DEPTH
    transparent: bool = False
    upsampling: Upsampling = Upsampling.BILINEAR
    nearness: Nearness = Nearness.AUTO
    contours: int = 0
    bar: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "view", member(View, "view", self.view))
        object.__setattr__(self, "upsampling", member(Upsampling, "upsampling", self.upsampling))
        object.__setattr__(self, "nearness", member(Nearness, "nearness", self.nearness))
        if self.alpha is not None and not _are_ends(self.alpha):
            raise UsageError(f"alpha lies in 0..1, at the nearest and at the farthest point, not {self.alpha!r}")
        limits.CONTOURS.check("contours", self.contours)

    @property
    def inverse(self) -> bool:
        """Whether nearness is linear in inverse depth."""
        return self.nearness is not Nearness.LINEAR

    @property
    def reads_pixels(self) -> bool:
        """Whether the image depends on the pixels of the frame, not only on its size."""
        return self.view is not View.DEPTH or self.upsampling is not Upsampling.BILINEAR

    @property
    def alpha_ends(self) -> tuple[float, float]:
        """Opacity at the nearest and the farthest point, with the default of the view applied."""
        default = _DEFAULT_ALPHA[self.view]
        return (default, default) if self.alpha is None else self.alpha


def member(kind: type[_Kind], name: str, value: str) -> _Kind:
    """The member of an enumeration.

    Raises:
        UsageError: there is no such member; ``name`` names the value in the message.
    """
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{name} is one of {', '.join(kind)}, not {value!r}") from None


def _are_ends(alpha: Any) -> bool:
    try:
        near, far = alpha
        return bool(0.0 <= near <= 1.0 and 0.0 <= far <= 1.0)
    except (TypeError, ValueError):
        return False


def parse_alpha(value: float | str | Sequence[float] | None) -> tuple[float, float] | None:
    """Parse a number, a pair (sequence or array), or text ``"A"``, ``"A,B"`` or ``"[A, B]"`` to (nearest, farthest).

    None gives None.

    Raises:
        ValueError: not one or two numbers in 0..1.
    """
    if value is None:
        return None
    parts: list[Any]
    if isinstance(value, str):
        text = value.strip()
        parts = (text[1:-1] if text.startswith("[") and text.endswith("]") else text).split(",")
    else:
        parts = list(value) if isinstance(value, Iterable) and getattr(value, "ndim", None) != 0 else [value]
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"alpha is a number or a pair NEAR,FAR in 0..1, not {value!r}")
    return numbers[0], numbers[-1]


class LookControl:
    """Holds the current :class:`Look` of one or more sinks. Thread-safe; reading does not lock."""

    def __init__(self, look: Look) -> None:
        self._lock = threading.Lock()
        self._look = look
        self._check: Callable[[Look], object] | None = None

    @property
    def look(self) -> Look:
        return self._look

    def validate_with(self, check: Callable[[Look], object]) -> None:
        """Call ``check`` with the current look and with every later one before it takes effect.

        The pipeline passes a check of the style here, which raises ``UsageError`` for an unknown palette.
        """
        with self._lock:
            check(self._look)
            self._check = check

    def update(self, **changes: Any) -> Look:
        """Replace fields of the look. Raises ``UsageError`` and changes nothing where a value is invalid."""
        with self._lock:
            look = replace(self._look, **changes)
            if self._check is not None:
                self._check(look)
            self._look = look
            return look

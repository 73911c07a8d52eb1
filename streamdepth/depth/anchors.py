"""Points of known distance, as people type them. Imports nothing heavy: options are parsed with it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from streamdepth.core.errors import UsageError
from streamdepth.core.limits import are_fractions

_ANCHOR = re.compile(r"\s*([^,=]+),([^,=]+)=([^,=]+)")


@dataclass(frozen=True, slots=True)
class Anchor:
    """A point of the image whose depth is known.

    Attributes:
        x, y: in pixels of the image (the centre of the first pixel is 0, 0), or as fractions of its size.
        metres: depth along the optical axis.
        fraction: x and y are fractions, 0 = left or upper edge, 1 = right or lower edge.
    """

    x: float
    y: float
    metres: float
    fraction: bool = False

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.x, self.y, self.metres))) or self.metres <= 0:
            raise ValueError(f"an anchor needs a position and more than 0 metres, not {self}")
        if self.fraction and not (0 <= self.x <= 1 and 0 <= self.y <= 1):
            raise ValueError(f"fractions lie between 0 and 1, not {self.x:g}, {self.y:g}")

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """``"320,240=1.5"`` in pixels, or ``"0.5,0.9=2.0"`` in fractions
        (:func:`~streamdepth.core.limits.are_fractions`).

        Raises:
            UsageError: anything else.
        """
        found = _ANCHOR.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            x, y, metres = map(float, found.groups())
            return cls(x, y, metres, fraction=are_fractions(x, y))
        except ValueError:
            raise UsageError(f"anchor {text!r}: not X,Y=METRES; give e.g. 320,240=1.5 or 0.5,0.9=2.0") from None

    @classmethod
    def parse_all(cls, value: Any) -> tuple[Anchor, ...]:
        """The anchors of an option: one or several, as text or parsed.

        Raises:
            ValueError: only one.
            UsageError: as :meth:`parse`.
        """
        many = value if isinstance(value, list | tuple) else [value]
        anchors = tuple(cls.parse(one) if isinstance(one, str) else one for one in many)
        if len(anchors) == 1:
            raise ValueError("one anchor cannot fix scale and shift; give two or more")
        return anchors

    def __str__(self) -> str:
        return f"{self.x:g},{self.y:g}={self.metres:g}"

"""``--size N`` and ``--size WxH``: what the network gets instead of the model's own size."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamdepth.core.errors import UsageError
from streamdepth.models.spec import Family, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SIDE_PX = 8192


@dataclass(frozen=True, slots=True)
class Size:
    """A network size: exactly ``width_px`` x ``height_px``, or (height None) a target for the resize rule."""

    width_px: int
    height_px: int | None = None

    def __post_init__(self) -> None:
        for side in (self.width_px, self.height_px):
            if side is not None and not 1 <= side <= MAX_SIDE_PX:
                raise UsageError(f"size {self}: a side is 1 to {MAX_SIDE_PX} pixels")

    def __str__(self) -> str:
        return str(self.width_px) if self.height_px is None else f"{self.width_px}x{self.height_px}"


def parse_size(value: str | int | Sequence[int] | Size) -> Size:
    """``518``, ``"518"``, ``"640x384"`` or ``(640, 384)`` (width, height) -> a size.

    Raises:
        UsageError: anything else.
    """
    if isinstance(value, Size):
        return value
    if isinstance(value, bool):
        raise UsageError(f"size {value!r}: give N or WxH in pixels, e.g. 518 or 640x384")
    if isinstance(value, int):
        return Size(value)
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d{1,6})(?:\s*[xX×]\s*(\d{1,6}))?\s*", value)  # noqa: RUF001 - as people paste it
        if found:
            return Size(int(found[1]), int(found[2]) if found[2] else None)
    elif len(value) == 2 and all(isinstance(side, int) for side in value):
        return Size(value[0], value[1])
    raise UsageError(f"size {value!r}: give N or WxH in pixels, e.g. 518 or 640x384")


def fit_to_graph(pre: Preprocessing, fixed: tuple[int | None, int | None]) -> Preprocessing:
    """Rules that give what a graph of fixed (width, height) insists on; None = that side is free."""
    width, height = fixed
    if width is None and height is None:
        return pre
    target = (width or pre.width_px, height or pre.height_px)
    if pre.family is Family.GLPN:
        # flooring to a multiple cannot reach a given size; the same filter and scaling under the sized rule can
        pre = replace(pre, family=Family.DPT)
    # An image of any shape has to become exactly this, so that neither aspect nor rounding may have a say.
    return replace(
        pre,
        width_px=target[0],
        height_px=target[1],
        do_resize=True,
        do_pad=_pads_first(pre),
        keep_aspect=False,
        multiple_of=1,
    )


def apply_size(pre: Preprocessing, size: Size, fixed: tuple[int | None, int | None], name: str) -> Preprocessing:
    """Put the user's size into the rules.

    ``N`` is a target for the model's resize rule: keeping aspect where the family does, else the shorter side of the
    model's own shape. ``WxH`` is exact.

    Raises:
        UsageError: the graph, or the model's patch size, cannot take it; the message says what it can take.
    """
    multiple = pre.multiple_of
    if size.height_px is None:
        target = size.width_px
        if pre.keep_aspect or pre.family is Family.GLPN:
            width = height = target
        else:
            scale = target / min(pre.width_px, pre.height_px)
            width = max(multiple, round(pre.width_px * scale / multiple) * multiple)
            height = max(multiple, round(pre.height_px * scale / multiple) * multiple)
    else:
        width, height = size.width_px, size.height_px
    wanted = (width, height)
    if any(side is not None and side != want for side, want in zip(fixed, wanted, strict=True)):
        only = "x".join("any" if side is None else str(side) for side in fixed)
        raise UsageError(f"size {size}: the graph of {name} takes only {only} (width x height)")
    if size.height_px is None:
        if target < multiple:
            raise UsageError(f"size {size}: {name} needs at least {multiple} pixels a side")
        family = Family.DPT if pre.family is Family.GLPN else pre.family
        keep = pre.keep_aspect or pre.family is Family.GLPN
        return replace(pre, family=family, width_px=width, height_px=height, do_resize=True, keep_aspect=keep)
    if width % multiple or height % multiple:
        near = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in wanted)
        raise UsageError(f"size {size}: {name} takes multiples of {multiple}, the nearest is {near}")
    family = Family.DPT if pre.family is Family.GLPN else pre.family
    return replace(
        pre,
        family=family,
        width_px=width,
        height_px=height,
        do_resize=True,
        do_pad=_pads_first(pre),
        keep_aspect=False,
    )


def _pads_first(pre: Preprocessing) -> bool:
    """ZoeDepth pads the image before its resize, so that its network gets the size asked for all the same."""
    return pre.do_pad and pre.family is Family.ZOEDEPTH

"""Everything known of a model before it runs, as one frozen value; and network sizes given by the user."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from math import isfinite
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from streamdepth.core.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from streamdepth.core.frame import Sense


class Family(StrEnum):
    """Image processor whose rules a model follows (names as in ``transformers``)."""

    DPT = "dpt"
    """Depth Anything, DPT, MiDaS: resize (keeping aspect or not, to a multiple), rescale, normalise, optional pad."""
    GLPN = "glpn"
    """Floor to a multiple, bilinear, rescale."""
    ZOEDEPTH = "zoedepth"
    """Rescale, reflect pad, resize with aligned corners, normalise."""
    DEPTH_PRO = "depth_pro"
    """Rescale, normalise, bilinear without antialias to a square."""


MAX_SIDE_PX = 8192
Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]
RESAMPLES: tuple[Resample, ...] = ("nearest", "bilinear", "bicubic", "lanczos")
TensorDtype = Literal["float32", "float16", "float64", "uint8", "int64", "int32", "bool"]
Match = Literal["transformers", "transformersjs"]
MATCHES: tuple[Match, ...] = ("transformers", "transformersjs")
Origin = Literal["graph", "config", "table", "name", "user", "default"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image is converted to the network's input. The defaults are Depth Anything's.

    Attributes:
        family: order of operations.
        width_px, height_px: target size of the resize rule (not always the network's size).
        do_resize, do_rescale, do_normalize, do_pad: steps, as in ``preprocessor_config.json``.
        keep_aspect: keep the aspect ratio, with the scale nearer to 1.
        longest_side: with ``keep_aspect``, the size bounds the longest side instead.
        letterbox: fit the image into the size (or the graph's), centred, with a border of the mean colour.
        multiple_of: each side is rounded to a multiple of this.
        resample: filter of the resize.
        rescale_factor: multiplies 8-bit values.
        mean, std: per channel R, G, B, after rescaling.
        bgr: the network takes blue, green, red.
        match: library whose resizing the exact path reproduces, before and after the network.
    """

    family: Family = Family.DPT
    width_px: int = 518
    height_px: int = 518
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    do_pad: bool = False
    keep_aspect: bool = True
    longest_side: bool = False
    letterbox: bool = False
    multiple_of: float = 14
    resample: Resample = "bicubic"
    rescale_factor: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    bgr: bool = False
    match: Match = "transformers"

    def __post_init__(self) -> None:
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f"a network input has at least 1x1 pixels, not {self.width_px}x{self.height_px}")
        if not (isfinite(self.multiple_of) and self.multiple_of > 0):
            raise ValueError(f"multiple_of is a positive number, not {self.multiple_of}")
        if self.resample not in RESAMPLES:
            raise ValueError(f"resample is one of {', '.join(RESAMPLES)}, not {self.resample!r}")
        if len(self.mean) != 3 or not all(map(isfinite, self.mean)):
            raise ValueError(f"mean is three finite numbers (R, G, B), not {self.mean}")
        if len(self.std) != 3 or not all(isfinite(x) and x > 0 for x in self.std):
            raise ValueError(f"std is three positive numbers (R, G, B), not {self.std}")
        if self.match not in MATCHES:
            raise ValueError(f"match is one of {', '.join(MATCHES)}, not {self.match!r}")
        if self.match == "transformersjs" and self.family is Family.ZOEDEPTH:
            raise ValueError("transformers.js has no ZoeDepth; leave match out")
        if not (isfinite(self.rescale_factor) and self.rescale_factor > 0):
            raise ValueError(f"rescale_factor is a positive number, not {self.rescale_factor}")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a graph. A dimension is an int, or a name where it is dynamic ('' if unnamed)."""

    name: str
    dtype: TensorDtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class StateTensor:
    """An input that takes an output of the previous run; zero for the first frame of a shot.

    Attributes:
        output: name of that output, which has the same dtype and shape.
    """

    input: TensorSpec
    output: str


@dataclass(frozen=True, slots=True)
class Head:
    """How depth is read from the outputs.

    Attributes:
        kind: ``map``: the depth output is the map. ``points``: it has points [3, h, w] or [h, w, 3], depth is z.
            ``affine_points``: points [h, w, 3] up to a shift along z, which is solved with the focal length (MoGe).
        focal_divisor: metres = value * focal length in network pixels / this; 0 = unused.
        sky: output whose values from 0.3 on mark sky, empty = none.
        mask: output whose values from 0.5 on mark valid depth.
        metric_scale: output with the factor from points to metres.
        focal_px: output with the focal length in network pixels.
        field_of_view: output with the horizontal field of view in degrees.
        intrinsics: output with camera matrices [3, 3] in network pixels.
    """

    kind: Literal["map", "points", "affine_points"] = "map"
    focal_divisor: float = 0.0
    sky: str = ""
    mask: str = ""
    metric_scale: str = ""
    focal_px: str = ""
    field_of_view: str = ""
    intrinsics: str = ""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The further outputs, in the order of the fields."""
        names = (self.sky, self.mask, self.metric_scale, self.focal_px, self.field_of_view, self.intrinsics)
        return tuple(name for name in names if name)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model: its files, its inputs and outputs, and the meaning of its output.

    Each field comes from, in rising priority: the graph, the configuration files beside it, the table of known
    models, the user. One exception: the model author's preprocessor file outranks the table's rules. ``origins`` has
    the source of the important fields.

    Attributes:
        name: as the user wrote it, credentials redacted.
        path: local ONNX file, in its snapshot folder if it is from the Hub.
        source: ``"built-in"``, ``"file"`` or ``"hub"``.
        revision: commit or version, empty if unknown.
        dtype: dtype of the chosen file (``"fp32"``, ``"q8"``, ...).
        sense: meaning of the output.
        preprocessing: how images are converted to input.
        image_input: the input that takes images, rank 3 to 5.
        image_layout: layout of that input, without its batch axis: ``"chw"``, ``"hwc"`` or ``"nchw"`` (rank 5).
        depth_output: the output that depth is read from, see ``head``.
        other_inputs: further inputs of the graph.
        states: inputs that take outputs of the previous run: the model sees the frames of a video in order.
        window: frames of one run, for an image input [1, window, 3, H, W]; 0 = the model takes single images.
        licence: SPDX id or name, empty if unknown.
        metres_per_unit: factor from a metric output to metres.
        origins: field name -> "graph" | "config" | "table" | "user" | "default"; read only.
        notes: one line for each assumption, conversion or fallback.
        external_data: local files of the graph's external weights.
        head: how depth is read from the outputs.
    """

    name: str
    path: Path
    source: Literal["built-in", "file", "hub"]
    sense: Sense
    preprocessing: Preprocessing
    image_input: TensorSpec
    image_layout: Literal["chw", "hwc", "nchw"]
    depth_output: TensorSpec
    dtype: str = "fp32"
    revision: str = ""
    other_inputs: tuple[TensorSpec, ...] = ()
    licence: str = ""
    metres_per_unit: float = 1.0
    origins: Mapping[str, Origin] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    external_data: tuple[Path, ...] = ()
    head: Head = Head()
    states: tuple[StateTensor, ...] = ()
    window: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "origins", MappingProxyType(dict(self.origins)))

    def __reduce__(self) -> tuple[Any, ...]:
        # a mapping proxy can be neither pickled nor deep-copied
        values = [dict(self.origins) if f.name == "origins" else getattr(self, f.name) for f in fields(self)]
        return ModelSpec, tuple(values)

    def to_dict(self) -> dict[str, Any]:
        """Everything as values that JSON can hold."""
        return {name: _plain(getattr(self, name)) for name in _IN_ORDER}

    @property
    def fixed_batch(self) -> int | None:
        """The fixed batch size of the graph, None where it is dynamic; of a window, its frames."""
        if self.window:
            return self.window
        first = self.image_input.shape[0]
        if len(self.image_input.shape) == 3:
            return 1
        return first if isinstance(first, int) else None

    @property
    def video_only(self) -> str:
        """Why the model takes videos and no single images; empty where it takes images."""
        if self.states:
            return f"{self.name} keeps a state from frame to frame ({', '.join(one.input.name for one in self.states)})"
        return f"{self.name} takes windows of {self.window} frames" if self.window else ""

    def check_takes_images(self) -> None:
        """Raises ``ModelError`` for a model that takes videos only."""
        if self.video_only:
            raise ModelError(
                f"{self.video_only}, and a single image has no history; run it on a video, or choose a model for images"
            )


_IN_ORDER = (
    *("name", "path", "source", "revision", "dtype", "sense", "metres_per_unit", "licence", "image_layout"),
    *("image_input", "depth_output", "other_inputs", "preprocessing", "external_data", "states", "window", "head"),
    *("origins", "notes"),
)
"""The fields of a model in the order in which they are shown."""


def _plain(value: Any) -> Any:
    if isinstance(value, StateTensor):
        return {**_plain(value.input), "output": value.output}
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, MappingProxyType):
        return dict(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, StrEnum | PurePath) else value


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
    """Rules that resize to the fixed (width, height) of a graph; None = a dynamic side."""
    width, height = fixed
    if width is None and height is None:
        return pre
    target = (width or pre.width_px, height or pre.height_px)
    if pre.family is Family.GLPN:
        # GLPN's floor to a multiple cannot reach a given size; DPT's rule with the same filter can
        pre = replace(pre, family=Family.DPT)
    # exactly this size for any image: no aspect ratio, no rounding
    return replace(
        pre,
        width_px=target[0],
        height_px=target[1],
        do_resize=True,
        do_pad=_pads_first(pre),
        keep_aspect=False,
        multiple_of=1,
    )


def apply_size(
    pre: Preprocessing, size: Size, fixed: tuple[int | None, int | None], name: str, *, assumed: bool = False
) -> Preprocessing:
    """Apply the user's size to the rules.

    ``N`` is a target for the model's resize rule: with the aspect ratio if the family keeps it, else the shorter side
    of the model's own shape. ``WxH`` is exact.

    Args:
        assumed: the rules are an assumption: their multiple does not restrict ``WxH``.

    Raises:
        UsageError: the graph or the model's patch size does not allow it; says which sizes are allowed.
    """
    multiple = pre.multiple_of
    if size.height_px is None:
        target = size.width_px
        if pre.keep_aspect or pre.family is Family.GLPN:
            width = height = target
        else:
            scale = target / min(pre.width_px, pre.height_px)
            width = nearest_multiple(pre.width_px * scale, multiple)
            height = nearest_multiple(pre.height_px * scale, multiple)
    else:
        width, height = size.width_px, size.height_px
    target_px = (width, height)
    if any(side not in (None, given) for side, given in zip(fixed, target_px, strict=True)):
        only = "x".join("any" if side is None else str(side) for side in fixed)
        raise UsageError(f"size {size}: the graph of {name} takes only {only} (width x height)")
    if size.height_px is None:
        if target < multiple:
            raise UsageError(f"size {size}: {name} needs sides of at least {multiple:g} pixels")
        family = Family.DPT if pre.family is Family.GLPN else pre.family
        keep = pre.keep_aspect or pre.family is Family.GLPN
        return replace(pre, family=family, width_px=width, height_px=height, do_resize=True, keep_aspect=keep)
    if not assumed and (width % multiple or height % multiple):
        near = "x".join(str(nearest_multiple(side, multiple)) for side in target_px)
        raise UsageError(f"size {size}: {name} takes multiples of {multiple:g}, the nearest is {near}")
    family = Family.DPT if pre.family is Family.GLPN else pre.family
    return replace(
        pre,
        family=family,
        width_px=width,
        height_px=height,
        do_resize=True,
        do_pad=_pads_first(pre),
        keep_aspect=False,
        multiple_of=1 if assumed else multiple,
    )


def nearest_multiple(side: float, multiple: float) -> int:
    """The multiple nearest to a side, at least one; ties to even as in ``transformers``, fractions rounded off."""
    return max(int(round(side / multiple) * multiple), math.ceil(multiple))


def _pads_first(pre: Preprocessing) -> bool:
    """Whether padding comes before the resize (ZoeDepth), so that the network still gets the given size."""
    return pre.do_pad and pre.family is Family.ZOEDEPTH

"""What is known of a model before it runs: one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from math import isfinite
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from streamdepth.core.frame import Sense


class Family(StrEnum):
    """Which image processor's rules a model follows (names as in ``transformers``)."""

    DPT = "dpt"
    """Depth Anything, DPT, MiDaS: resize (keeping aspect or not, to a multiple), rescale, normalise, optional pad."""
    GLPN = "glpn"
    """Floor to a multiple, bilinear, rescale."""
    ZOEDEPTH = "zoedepth"
    """Rescale, reflect pad, resize with aligned corners, normalise."""
    DEPTH_PRO = "depth_pro"
    """Rescale, normalise, bilinear without antialias to a square."""


Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]
RESAMPLES: tuple[Resample, ...] = ("nearest", "bilinear", "bicubic", "lanczos")
TensorDtype = Literal["float32", "float16", "uint8", "int64", "int32", "bool"]
Origin = Literal["graph", "config", "table", "user", "default"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the network's input. Defaults are Depth Anything's.

    Attributes:
        family: whose order of operations applies.
        width_px, height_px: target size of the resize rule (not always the network's size).
        do_resize, do_rescale, do_normalize, do_pad: steps, as in ``preprocessor_config.json``.
        keep_aspect: keep the aspect ratio, taking the scale nearer to 1.
        multiple_of: each side becomes a multiple of this.
        resample: filter of the resize.
        rescale_factor: multiplies 8-bit values.
        mean, std: per channel R, G, B, after rescaling.
    """

    family: Family = Family.DPT
    width_px: int = 518
    height_px: int = 518
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    do_pad: bool = False
    keep_aspect: bool = True
    multiple_of: int = 14
    resample: Resample = "bicubic"
    rescale_factor: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f"a network input has at least 1x1 pixels, not {self.width_px}x{self.height_px}")
        if self.multiple_of < 1:
            raise ValueError(f"multiple_of is at least 1, not {self.multiple_of}")
        if self.resample not in RESAMPLES:
            raise ValueError(f"resample is one of {', '.join(RESAMPLES)}, not {self.resample!r}")
        if len(self.mean) != 3 or not all(map(isfinite, self.mean)):
            raise ValueError(f"mean is three finite numbers (R, G, B), not {self.mean}")
        if len(self.std) != 3 or not all(isfinite(x) and x > 0 for x in self.std):
            raise ValueError(f"std is three positive numbers (R, G, B), not {self.std}")
        if not (isfinite(self.rescale_factor) and self.rescale_factor > 0):
            raise ValueError(f"rescale_factor is a positive number, not {self.rescale_factor}")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a graph. A dimension is an int, or a name where it is dynamic ('' if unnamed)."""

    name: str
    dtype: TensorDtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model: where it is, what it takes, what its numbers mean.

    Each field comes from, in rising priority: the graph, the configuration files beside it, the table of known
    models, the user. One exception: a preprocessor file is the model author's own word on preprocessing, so that the
    table's rules serve only where there is none. ``origins`` says for the fields that matter where they came from.

    Attributes:
        name: what the user called it, credentials redacted.
        path: local ONNX file, inside its snapshot folder where it came from the Hub.
        source: ``"built-in"``, ``"file"`` or ``"hub"``.
        revision: commit or version, empty if unknown.
        dtype: dtype of the file chosen (``"fp32"``, ``"q8"``, ...).
        sense: what the output means.
        preprocessing: how images become input.
        image_input: the input that takes images, rank 3 to 5.
        image_layout: layout of that input, without its batch axis: ``"chw"``, ``"hwc"`` or ``"nchw"`` (rank 5).
        depth_output: the output that holds depth.
        other_inputs: further inputs the graph wants, with how they are fed known to the engine.
        licence: SPDX id or name, empty if unknown.
        metres_per_unit: what to multiply a metric output by.
        origins: field name -> "graph" | "config" | "table" | "user" | "default"; read only.
        notes: one line each for people about what was assumed, converted or fallen back to.
        external_data: files with weights that the graph refers to, local.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "origins", MappingProxyType(dict(self.origins)))

    def __reduce__(self) -> tuple[Any, ...]:
        # a mapping proxy can be neither pickled nor deep-copied
        values = [dict(self.origins) if f.name == "origins" else getattr(self, f.name) for f in fields(self)]
        return ModelSpec, tuple(values)

    def to_dict(self) -> dict[str, Any]:
        """Everything as values that JSON can hold."""
        pre = {f.name: getattr(self.preprocessing, f.name) for f in fields(self.preprocessing)}
        tensors = {
            "image_input": self.image_input,
            "depth_output": self.depth_output,
        }
        return {
            "name": self.name,
            "path": str(self.path),
            "source": self.source,
            "revision": self.revision,
            "dtype": self.dtype,
            "sense": str(self.sense),
            "metres_per_unit": self.metres_per_unit,
            "licence": self.licence,
            "image_layout": self.image_layout,
            **{key: _tensor_dict(tensor) for key, tensor in tensors.items()},
            "other_inputs": [_tensor_dict(tensor) for tensor in self.other_inputs],
            "preprocessing": {k: _plain(v) for k, v in pre.items()},
            "external_data": [str(path) for path in self.external_data],
            "origins": dict(self.origins),
            "notes": list(self.notes),
        }

    @property
    def fixed_batch(self) -> int | None:
        """The batch size the graph insists on, None where it takes any."""
        first = self.image_input.shape[0]
        if len(self.image_input.shape) == 3:
            return 1
        return first if isinstance(first, int) else None

    @property
    def fixed_size_px(self) -> tuple[int, int] | None:
        """(width, height) the graph insists on, None where it takes any."""
        height, width = self.image_input.shape[-3:-1] if self.image_layout == "hwc" else self.image_input.shape[-2:]
        return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _tensor_dict(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}

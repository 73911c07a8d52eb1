"""The configuration of a run: one frozen value, read once at the edge, the command line over the file."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from streamdepth.core.errors import UsageError
from streamdepth.core.frame import Sense
from streamdepth.core.look import Look, Upsampling, View, parse_alpha
from streamdepth.core.queues import Policy
from streamdepth.depth.range import RangeSpec
from streamdepth.media.hwaccel import HwAccel

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")


def parse_seconds(value: float | str) -> float:
    """``12.5``, ``"12.5"``, ``"1:02"`` or ``"1:02:03.5"`` -> seconds.

    Raises:
        ValueError: anything else, or negative.
    """
    if isinstance(value, str):
        found = _CLOCK.fullmatch(value.strip())
        if found is None:
            raise ValueError(f"{value!r} is not a time; give seconds or [HH:]MM:SS")
        hours, minutes, seconds = (float(part or 0) for part in found.groups())
        return hours * 3600 + minutes * 60 + seconds
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a time; give seconds, 0 or more")
    return float(value)


def _texts(value: Any) -> Any:
    if value is None:
        return ()
    many = value if isinstance(value, (list, tuple)) else [value]
    return tuple(str(one) if isinstance(one, int) else one for one in many)


NORMALIZATIONS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "do_normalize": True,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "half": {"do_normalize": True, "mean": [0.5] * 3, "std": [0.5] * 3},
    "none": {"do_normalize": False},
}
"""What follows the scaling to 0..1, as fields of :class:`~streamdepth.models.spec.Preprocessing`."""

_WANTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "dict_type": "a mapping of names to values",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than_equal": "{le:g} or less",
    "enum": "{expected}",
    "literal_error": "{expected}",
}
"""Pydantic's kinds of errors, in the words of who reads them."""

Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]


class RunConfig(BaseModel):
    """Everything ``streamdepth run`` can be told. Keys of a configuration file are these names, with ``-`` or ``_``."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    sources: Texts = ()
    output: Texts = ()
    data: Texts = ()
    serve: Texts = ()
    show: bool = False
    overwrite: bool = False

    model: str = "built-in"
    dtype: str = "auto"
    revision: str | None = None
    size: str | int | None = None
    sense: Sense | None = None
    normalize: Literal["imagenet", "half", "none"] | None = None
    preprocessing: dict[str, Any] | None = None
    input_name: str | None = None
    output_name: str | None = None
    metres_per_unit: float | None = Field(default=None, gt=0)
    provider: str = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024)
    decoder_threads: int | None = Field(default=None, ge=1, le=64)
    encoder_threads: int | None = Field(default=None, ge=1, le=64)
    color_threads: int | None = Field(default=None, ge=1, le=64)
    hwaccel: HwAccel = HwAccel.NONE
    batch: int | Literal["auto"] = 1
    model_every: int = Field(default=1, ge=1, le=16)
    exact: bool = False

    policy: Policy | None = None
    range: str | None = None
    style: str = "inferno"
    alpha: Any = None
    reverse: bool = False
    view: View | None = None
    transparent: bool = False
    edges: Upsampling = Upsampling.BILINEAR
    contours: int = Field(default=0, ge=0, le=64)
    bar: bool = False

    start: Seconds = 0.0
    duration: Seconds | None = None
    max_frames: int | None = Field(default=None, ge=1)
    timeout: float = Field(default=3.0, gt=0, le=3600)
    retries: int | None = Field(default=None, ge=0)
    transport: Literal["tcp", "udp", "auto"] = "tcp"
    tls_ca: str | None = None
    latency: Literal["low", "normal"] = "low"
    camera_mode: str | None = None
    image_rate: float = Field(default=25.0, gt=0, le=1000)

    codec: str | None = None
    crf: float | None = Field(default=None, ge=0, le=63)
    preset: str | None = None
    bitrate: int | None = Field(default=None, ge=1)
    stream_rate: float | None = Field(default=None, gt=0, le=1000)
    gop: float | None = Field(default=None, gt=0, le=60)
    max_clients: int = Field(default=64, ge=1, le=1000)
    credentials: Path | None = None
    token_file: Path | None = None
    data_size: Literal["source", "model"] = "source"

    stats: Path | None = None
    quiet: bool = False

    @field_validator("batch", mode="before")
    @classmethod
    def _batch(cls, value: Any) -> int | str:
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if number != "auto" and (type(number) is not int or not 1 <= number <= 256):
            raise ValueError(f"batch is 1 to 256, or auto, not {value!r}")
        return cast("int | str", number)

    @field_validator("range")
    @classmethod
    def _range(cls, value: str | None) -> str | None:
        return None if value is None else str(RangeSpec.parse(value))

    @field_validator("alpha")
    @classmethod
    def _alpha(cls, value: Any) -> tuple[float, float] | None:
        return parse_alpha(value)

    @field_validator("credentials", "token_file", "tls_ca")
    @classmethod
    def _there(cls, value: Path | str | None, info: ValidationInfo) -> Path | str | None:
        from streamdepth.net.tls import NO_CHECK

        unchecked = info.field_name == "tls_ca" and value == NO_CHECK
        if value is not None and not unchecked and not Path(value).exists():
            raise ValueError(f"there is no file {value}; check the path")
        return value

    @field_validator("camera_mode")
    @classmethod
    def _camera_mode(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d+x\d+(@\d+(\.\d+)?)?", value):
            raise ValueError(f"{value!r} is no camera mode; give WxH or WxH@FPS, e.g. 1280x720@30")
        return value

    @property
    def rules(self) -> dict[str, Any] | None:
        """What to change in the model's preprocessing, None where nothing is."""
        changes = {**(NORMALIZATIONS[self.normalize] if self.normalize else {}), **(self.preprocessing or {})}
        return changes or None

    @property
    def look(self) -> Look:
        """An alpha without a view means an overlay: that is what alpha is for."""
        from streamdepth.colorize.palettes import checked_style

        view = self.view or (View.OVERLAY if self.alpha is not None else View.DEPTH)
        return Look(
            style=checked_style(self.style),
            alpha=self.alpha,
            reverse=self.reverse,
            view=view,
            transparent=self.transparent,
            upsampling=self.edges,
            contours=self.contours,
            bar=self.bar,
        )


def load_config(path: Path | None, options: Mapping[str, Any]) -> RunConfig:
    """Read a YAML file, lay the options that were given (not None) over it, and validate.

    Raises:
        UsageError: an unreadable file, an unknown key (with the nearest name), a value of the wrong kind.
    """
    values = {} if path is None else _read(path)
    values.update({name: value for name, value in options.items() if value is not None and value != []})
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        # A union reports every member that did not fit: the first says enough.
        first = {detail["loc"][:1]: detail for detail in reversed(error.errors())}
        raise UsageError("; ".join(_explain(detail, path) for detail in reversed(first.values()))) from None


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"configuration {path} is not UTF-8 text; is it a YAML file?") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"configuration {path}{where}: not valid YAML; {getattr(error, 'problem', error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"configuration {path}: expected 'name: value' lines, found a {type(content).__name__}")
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name in values:
            raise UsageError(f"configuration {path}: {key} stands there twice")
        values[name] = value
    return values


def _explain(detail: Any, path: Path | None) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else ""
    shown = name.replace("_", "-")
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, RunConfig.model_fields, n=1)
        hint = f"did you mean {near[0].replace('_', '-')}?" if near else "see streamdepth run --help"
        return f"configuration {path}: unknown key {shown}; {hint}"
    given = repr(detail["input"])
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
        return message if shown in message else f"{shown}: {message}"
    wanted = _WANTED.get(detail["type"])
    if wanted is None:
        return f"{shown}: {detail['msg']}, not {given}"
    return f"{shown} is {wanted.format_map(detail.get('ctx', {}))}, not {given}"

"""Declaration of options: one annotated field each, from which command line, validation and reference are derived."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from streamdepth.core import limits
from streamdepth.core.errors import UsageError, nearest, plain_reason
from streamdepth.core.limits import Bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "dict": "a mapping of names to values",
}
"""First word of pydantic's error type -> what the value must be."""
_METAVARS: Mapping[Any, str] = {int: "N", float: "NUMBER", Path: "PATH", str: "TEXT"}


@dataclass(frozen=True, slots=True)
class Option:
    """What a field's type and default do not say about an option.

    Attributes:
        help: effect, value and unit, one or two short sentences; empty = the text below the field.
        panel: heading in ``--help`` and the reference.
        commands: commands that have the option; empty = the one whose configuration declares it.
        short: one-letter flag such as ``-m``.
        flag: long flag, empty = derived from the field's name.
        metavar: placeholder of the value, empty = derived from the type.
        default: the default in words, where it depends on something.
        choices: every allowed value, where the type does not list them.
        suggest: values for the shell to complete where others are allowed too; called on completion only.
        argument: positional.
        cli: the command line has it.
        file: a configuration file has it.
        alone: what the flag means without a value, empty = it needs one. The next word is its value if it is a choice.
        needs: what a run must have for the option to have an effect, a key of
            :data:`~streamdepth.config.commands.NEEDS`; empty = nothing.
    """

    help: str = ""
    panel: str = ""
    commands: tuple[str, ...] = ()
    short: str = ""
    flag: str = ""
    metavar: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()
    suggest: Callable[[], Iterable[str]] | None = None
    argument: bool = False
    cli: bool = True
    file: bool = True
    alone: str = ""
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Declared:
    """One option with everything that is known of it."""

    key: str
    field: FieldInfo
    option: Option

    @property
    def flag(self) -> str:
        return self.option.flag or f"--{self.key.replace('_', '-')}"

    @property
    def bounds(self) -> Bounds | None:
        return next((item for item in self.field.metadata if isinstance(item, Bounds)), None)

    @property
    def choices(self) -> tuple[str, ...]:
        """Every allowed value; empty where others are allowed."""
        return self.option.choices or _listed(_value_type(self.field.annotation))

    @property
    def switch(self) -> bool:
        """True for a flag without a value."""
        return self.field.annotation is bool

    @property
    def repeatable(self) -> bool:
        return get_origin(self.field.annotation) is tuple and Ellipsis in get_args(self.field.annotation)

    @property
    def metavar(self) -> str:
        kind = _value_type(self.field.annotation)
        kind = get_args(kind)[0] if self.repeatable else kind
        choices = "|".join(self.choices)
        return self.option.metavar or (f"[{choices}]" if self.option.alone else choices) or _METAVARS.get(kind, "VALUE")

    @property
    def default(self) -> str:
        """The default as text, empty where leaving the option out means that nothing is done."""
        value = self.field.default
        if self.option.default or self.field.is_required() or value is None or value is False or value == ():
            return self.option.default
        values = value if isinstance(value, tuple) else (value,)
        return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)

    @property
    def description(self) -> str:
        """Help, range and default."""
        notes = [str(self.bounds)] if self.bounds else []
        notes += [f"default: {self.default}"] if self.default else []
        return " ".join([self.option.help, *(f"[{note}]" for note in notes)])


class Options(BaseModel):
    """Base of the configurations: frozen, every field annotated with an :class:`Option`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, defer_build=True)

    @classmethod
    def declared(cls, command: str) -> list[Declared]:
        """The options of a command: arguments first, then in the order of their declaration."""
        texts = {key: text for kind in reversed(cls.__mro__) for key, text in _texts_below_fields(kind).items()}
        every = (cls._declaration(key) for key in cls.model_fields)
        own = [
            replace(one, option=replace(one.option, help=one.option.help or texts[one.key]))
            for one in every
            if command in one.option.commands or not one.option.commands
        ]
        return sorted(own, key=lambda one: not one.option.argument)

    @classmethod
    def load(cls, given: Mapping[str, Any], path: Path | None = None, *, command: str) -> Self:
        """Validate the options that were given (not None) over those of a YAML file.

        Args:
            given: by field name; values may be text.
            path: may contain the options of ``command``, with ``-`` or ``_`` in their names.

        Raises:
            UsageError: an unreadable file, an unknown key (with the nearest name), or a wrong value.
        """
        values = (
            {} if path is None else _read(path, command, [one.key for one in cls.declared(command) if one.option.file])
        )
        values.update({name: value for name, value in given.items() if value is not None and value != []})
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UsageError(explain(error)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _check_choice(cls, value: Any, info: ValidationInfo) -> Any:
        one = cls._declaration(info.field_name or "")
        if isinstance(value, bool) and "on" in one.choices:
            value = "on" if value else "off"  # YAML reads a bare on and off as booleans.
        if isinstance(value, bool) and one.option.alone:
            value = one.option.alone if value else None
        values = value if one.repeatable and isinstance(value, list | tuple) else [value]
        for item in values:
            if one.choices and item is not None and item not in one.choices:
                raise ValueError(f"{item!r} is not one of {', '.join(one.choices)}{nearest(str(item), one.choices)}")
        return value

    @field_validator("*")
    @classmethod
    def _check_bounds(cls, value: Any, info: ValidationInfo) -> Any:
        one = cls._declaration(info.field_name or "")
        for item in value if one.repeatable else [value]:
            if one.bounds is not None and item is not None:
                one.bounds.check(one.key.replace("_", "-"), item)
        return value

    @classmethod
    def _declaration(cls, key: str) -> Declared:
        field = cls.model_fields[key]
        return Declared(key, field, next(item for item in field.metadata if isinstance(item, Option)))


@cache
def _texts_below_fields(kind: type) -> Mapping[str, str]:
    """Name of each field of a configuration class -> the text below it, on one line; its base classes left out."""
    if not issubclass(kind, Options):
        return {}
    module = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    bodies = (node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in pairwise(next(bodies, []))
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def yaml_mapping(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file, empty for an empty file.

    Raises:
        UsageError: it cannot be read, is no mapping, or gives a key twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a mapping with one key twice, where PyYAML keeps the last value."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise UsageError(f"configuration {path}: {key.value} is given twice")
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise UsageError(f"configuration {path}: {plain_reason(error)}; check the path") from None
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
    return content


def _read(path: Path, command: str, known: list[str]) -> dict[str, Any]:
    content = yaml_mapping(path)
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            hint = nearest(str(key).replace("_", "-"), [one.replace("_", "-") for one in known])
            raise UsageError(f"configuration {path}: unknown key {key}{hint}; see streamdepth {command} --help")
        if name in values:
            raise UsageError(f"configuration {path}: {key} is given twice")
        values[name] = value
    return values


def explain(error: ValidationError) -> str:
    """One line for all values that are wrong: the option, what it must be, what it is."""
    # A union reports every member that does not fit; the first of them says enough.
    first = {detail["loc"][:1]: detail for detail in reversed(error.errors())}
    return "; ".join(_explain_one(detail) for detail in reversed(first.values()))


def _explain_one(detail: ErrorDetails) -> str:
    name = str(detail["loc"][0]).replace("_", "-") if detail["loc"] else ""
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
        return message if message.startswith(name) else f"{name}: {message}"
    expected = _EXPECTED.get(detail["type"].partition("_")[0])
    return f"{name} must be {expected}, not {detail['input']!r}" if expected else f"{name}: {detail['msg']}"


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
        if (found[1] and minutes >= 60) or (found[2] and seconds >= 60):
            raise ValueError(f"{value!r} is not a time; minutes and seconds after a colon must be below 60")
        return hours * 3600 + minutes * 60 + seconds
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a time; give seconds, 0 or more")
    return float(value)


def _texts(value: Any) -> Any:
    if value is None:
        return ()
    many = value if isinstance(value, (list, tuple)) else [value]
    return tuple(str(one) if isinstance(one, int) else one for one in many)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"there is no file {path}; check the path")
    return path


def _range(value: str) -> str:
    from streamdepth.depth.range import RangeSpec

    return str(RangeSpec.parse(value))


def _camera_mode(value: str) -> str:
    if not re.fullmatch(r"\d+x\d+(@\d+(\.\d+)?)?", value):
        raise ValueError(f"{value!r} is not a camera mode; give WxH or WxH@FPS, e.g. 1280x720@30")
    return value


def _tls_ca(value: str) -> str:
    from streamdepth.net.url import NO_CHECK

    if value != NO_CHECK and not Path(value).exists():
        raise ValueError(f"there is no file {value}; check the path")
    return value


def _batch(value: Any) -> int | str:
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if number != "auto" and (type(number) is not int or number not in limits.BATCH):
        raise ValueError(f"batch must be {limits.BATCH}, or auto, not {value!r}")
    return cast("int | str", number)


def _shard(value: str) -> str:
    number, _, count = value.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"shard must be I/N with I from 0 to N - 1, e.g. 0/4, not {value!r}")
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
"""Any number of texts; a single text or number becomes a tuple of one."""
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
ExistingFile = Annotated[Path, AfterValidator(_existing)]
DepthRange = Annotated[str, AfterValidator(_range)]
CameraMode = Annotated[str, AfterValidator(_camera_mode)]
TlsCa = Annotated[str, AfterValidator(_tls_ca)]
Batch = Annotated[int | Literal["auto"], BeforeValidator(_batch)]
Shard = Annotated[str, AfterValidator(_shard)]


def _value_type(kind: Any) -> Any:
    """The type of a value, without ``None`` and annotations."""
    if get_origin(kind) is Annotated:
        return _value_type(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        members = [member for member in get_args(kind) if member is not NoneType]
        return _value_type(members[0]) if len(members) == 1 else kind
    return kind


def _listed(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(str(one.value) for one in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ()

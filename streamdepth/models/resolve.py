"""From what a person calls a model to one frozen :class:`~streamdepth.models.spec.ModelSpec`.

Where values come from, later ones winning: the graph, the configuration files beside it, the table of known models, the
user. A preprocessor file outranks the table's rules; sizes a graph insists on outrank everything, because it runs with
nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import ModelError, UsageError
from streamdepth.core.frame import Sense
from streamdepth.models.dtypes import DEFAULT_DTYPE
from streamdepth.models.graph import depth_output, image_input, other_inputs
from streamdepth.models.hub import HubAccess
from streamdepth.models.hub_config import preprocessing_of, says_metres_or_not, sense_of
from streamdepth.models.layout import check_dtype
from streamdepth.models.locate import find_target, locate
from streamdepth.models.size import apply_size, fit_to_graph, parse_size
from streamdepth.models.spec import ModelSpec, Preprocessing, TensorSpec
from streamdepth.models.table import preprocessing_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamdepth.models.hub import Progress
    from streamdepth.models.locate import Located
    from streamdepth.models.size import Size
    from streamdepth.models.spec import Origin

# Keys a graph's own metadata may carry, in rising priority; ONNX names none for this.
_META_SENSE = "streamdepth.sense"
_META_LICENCE = ("license", "licence", "streamdepth.licence")


def resolve(
    model: str | Path,
    *,
    dtype: str = DEFAULT_DTYPE,
    revision: str | None = None,
    size: str | int | Sequence[int] | Size | None = None,
    sense: str | Sense | None = None,
    provider: str = "cpu",
    input_name: str | None = None,
    output_name: str | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    metres_per_unit: float | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    access: HubAccess | None = None,
    force: bool = False,
) -> ModelSpec:
    """Find a model, download it if need be, and learn everything about it without running it.

    Args:
        model: ``"built-in"``, a path of an ``.onnx`` file or of a folder in the transformers.js layout, or a Hub name
            (see :func:`~streamdepth.models.target.target_of` for how the three are told apart).
        dtype: ``auto`` takes what the repository's author or else the provider prefers; a named one is taken or
            missing, never replaced. Why ``auto`` is the default: :mod:`streamdepth.models.dtypes`.
        revision: branch, tag or commit of a Hub repository.
        size: network size, ``N`` or ``WxH``; see :func:`~streamdepth.models.size.apply_size`.
        sense: what the output means, if the model does not say it. Where it does, only which way relative depth
            goes can be told otherwise, and not whether it is metres.
        provider: short name of the execution provider ``auto`` chooses for.
        input_name, output_name: of the image and the depth, where the graph has several.
        preprocessing: whole rules, or a mapping of the fields to change.
        metres_per_unit: what to multiply a metric output by.
        cache_dir: the Hub cache to use; shorthand for the same field of ``access``.
        progress: told about downloads.
        access: how to reach the Hub.
        force: download again what is cached already.
    Raises:
        UsageError: an argument that cannot mean anything, or that the model cannot take.
        ModelNotFoundError: no such model, revision, file or dtype.
        ModelError: not a depth model, damaged, or the Hub refuses it or cannot be reached.
        DeadlineError: the Hub did not answer in time, and the cache has nothing.

    Thread-safe; two processes may fetch the same model at once.
    """
    check_dtype(dtype)
    asked = _sense(sense)
    if metres_per_unit is not None and not (isfinite(metres_per_unit) and metres_per_unit > 0):
        raise UsageError(f"metres_per_unit {metres_per_unit}: a positive number of metres")
    target_size = None if size is None else parse_size(size)
    access = access or HubAccess()
    if cache_dir is not None:
        access = replace(access, cache_dir=Path(cache_dir))
    found = locate(
        find_target(model, access),
        dtype=dtype,
        revision=revision,
        provider=provider,
        access=access,
        progress=progress,
        force=force,
    )
    return build_spec(
        found,
        size=target_size,
        sense=asked,
        input_name=input_name,
        output_name=output_name,
        preprocessing=preprocessing,
        metres_per_unit=metres_per_unit,
    )


def build_spec(
    found: Located,
    *,
    size: Size | None = None,
    sense: Sense | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    metres_per_unit: float | None = None,
) -> ModelSpec:
    """The spec of a model whose files are at hand; arguments and errors as in :func:`resolve`."""
    notes = list(found.notes)
    origins: dict[str, Origin] = {"dtype": found.dtype_origin}
    called = found.path if found.source == "file" else found.name
    raw_image, layout = image_input(called, found.graph, input_name)
    image = _fix(raw_image, found)
    depth = _fix(depth_output(called, found.graph, output_name), found)
    others = tuple(_fix(t, found) for t in other_inputs(called, found.graph, image.name))
    origins["image_input"] = "user" if input_name else "graph"
    origins["depth_output"] = "user" if output_name else "graph"

    rules, origins["preprocessing"] = _preprocessing(found, preprocessing, notes)
    if image.dtype == "uint8":
        # such a graph normalises by itself: its input has no room for anything but the image's own bytes
        rules = replace(rules, do_rescale=False, do_normalize=False)
    fixed = _fixed_size(image, layout)
    fitted = fit_to_graph(rules, fixed)
    origins["size"] = "graph" if fixed != (None, None) else origins["preprocessing"]
    if size is not None:
        fitted = apply_size(fitted, size, fixed, found.name)
        origins["size"] = "user"

    meaning, origins["sense"] = _meaning(found, sense, notes)
    licence, origins["licence"] = _licence(found)
    unit = metres_per_unit
    if unit is None:
        unit = float(found.builtin.get("metres_per_unit", 1.0))
    elif meaning is not Sense.METRIC_M:
        hint = "choose a metric model" if _is_settled(found) else f"say sense {Sense.METRIC_M} too"
        raise UsageError(f"metres_per_unit: {found.name} gives {meaning}, not metres; {hint}")
    origins["metres_per_unit"] = "user" if metres_per_unit is not None else "default"
    if found.known is not None:
        notes += found.known.notes
    return ModelSpec(
        name=found.name,
        path=found.path,
        source=found.source,
        sense=meaning,
        preprocessing=fitted,
        image_input=image,
        image_layout=layout,
        depth_output=depth,
        dtype=found.dtype,
        revision=found.revision,
        other_inputs=others,
        licence=licence,
        metres_per_unit=unit,
        origins=origins,
        notes=tuple(notes),
        external_data=found.external_data,
    )


def _sense(value: str | Sense | None) -> Sense | None:
    if value is None:
        return None
    try:
        return Sense(value)
    except ValueError as exc:
        raise UsageError(f"sense {value!r}: choose one of {', '.join(Sense)}") from exc


def _fix(tensor: TensorSpec, found: Located) -> TensorSpec:
    """Dimensions the model's author fixed by name (``free_dimension_overrides``) put in."""
    sizes = dict(found.js.free_dimensions)
    return replace(tensor, shape=tuple(sizes.get(d, d) if isinstance(d, str) else d for d in tensor.shape))


def _fixed_size(image: TensorSpec, layout: str) -> tuple[int | None, int | None]:
    """(width, height) the graph insists on, None for a side that is free."""
    height, width = image.shape[-3:-1] if layout == "hwc" else image.shape[-2:]
    return width if isinstance(width, int) else None, height if isinstance(height, int) else None


def _preprocessing(
    found: Located, wanted: Preprocessing | Mapping[str, Any] | None, notes: list[str]
) -> tuple[Preprocessing, Origin]:
    if isinstance(wanted, Preprocessing):
        return wanted, "user"
    rules, origin = _own_preprocessing(found)
    if wanted is not None:
        try:
            changed = preprocessing_from(wanted, rules)
        except ValueError as exc:
            raise UsageError(f"preprocessing: {exc}") from exc
        if origin != "default" and changed != rules:
            notes.append(f"{found.name}: how images become input is known, and changed by you: {', '.join(wanted)}")
        return changed, "user"
    if origin == "default":
        notes.append(
            f"{found.name}: nothing says how images become input; Depth Anything's rules are assumed"
            " (RGB, 1/255, ImageNet mean and standard deviation)"
        )
    return rules, origin


def _own_preprocessing(found: Located) -> tuple[Preprocessing, Origin]:
    if found.builtin:
        return preprocessing_from(found.builtin["preprocessing"]), "config"
    if found.preprocessor is not None:
        rules = preprocessing_of(found.preprocessor, found.preprocessor_where)
        if rules is not None:
            return rules, "config"
    if found.known is not None:
        return found.known.preprocessing, "table"
    if found.preprocessor is not None:
        kind = found.preprocessor.get("image_processor_type") or found.preprocessor.get("feature_extractor_type")
        raise ModelError(
            f"{found.preprocessor_where}: {kind} is not an image processor of depth models that is known here;"
            " give the preprocessing yourself"
        )
    return Preprocessing(), "default"


def _meaning(found: Located, asked: Sense | None, notes: list[str]) -> tuple[Sense, Origin]:
    own, origin = _own_meaning(found)
    if asked is not None:
        if _is_settled(found) and (asked is Sense.METRIC_M) != (own is Sense.METRIC_M):
            raise UsageError(f"sense {asked}: {found.name} gives {own}; leave sense out, or choose another model")
        return asked, "user"
    if own is not None:
        return own, origin
    notes.append(
        f"{found.name}: nothing says what its numbers mean; near = large is assumed"
        f" (sense {Sense.RELATIVE_INVERSE}). If far comes out bright, say {Sense.RELATIVE_DEPTH} or {Sense.METRIC_M}"
    )
    return Sense.RELATIVE_INVERSE, "default"


def _is_settled(found: Located) -> bool:
    """Whether it is known, and not for the user to say, if the model gives metres."""
    own, origin = _own_meaning(found)
    return own is not None and (origin != "config" or bool(found.builtin) or says_metres_or_not(found.config))


def _own_meaning(found: Located) -> tuple[Sense | None, Origin]:
    if found.known is not None:
        return found.known.sense, "table"
    if found.builtin:
        return Sense(found.builtin["sense"]), "config"
    said = sense_of(found.config)
    if said is not None:
        return said, "config"
    declared = found.graph.metadata.get(_META_SENSE)
    if declared is None:
        return None, "default"
    try:
        return Sense(declared), "graph"
    except ValueError as exc:
        raise ModelError(f"{found.path}: its {_META_SENSE} is {declared!r}, none of {', '.join(Sense)}") from exc


def _licence(found: Located) -> tuple[str, Origin]:
    if found.known is not None and found.known.licence:
        return found.known.licence, "table"
    if found.licence:
        return found.licence, "config"
    for key in reversed(_META_LICENCE):
        if found.graph.metadata.get(key):
            return found.graph.metadata[key], "graph"
    return "", "default"

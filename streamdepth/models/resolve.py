"""From the name of a model to one frozen :class:`~streamdepth.models.spec.ModelSpec`.

Sources of values, later ones first: the user, the table of known models, the configuration files beside the graph, the
graph. A preprocessor file outranks the table's rules; the fixed sizes of a graph outrank everything, because it runs
with no others.
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import ModelError, UsageError
from streamdepth.core.frame import Sense
from streamdepth.models.config import preprocessing_of, sense_is_certain, sense_of
from streamdepth.models.graph import shown
from streamdepth.models.hub import HubAccess
from streamdepth.models.known import (
    KnownFamily,
    find_family,
    licence_note,
    preprocessing_from,
    says_depth,
    says_inverse,
    sense_of_output,
)
from streamdepth.models.locate import Request, find_target, locate, refuse_other_task
from streamdepth.models.selection import AUTO, check_dtype
from streamdepth.models.signature import (
    META_OUTPUT,
    depth_output,
    fixed_size,
    image_input,
    other_inputs,
    output_named,
    state_inputs,
    window_frames,
)
from streamdepth.models.spec import (
    Head,
    Match,
    ModelSpec,
    Preprocessing,
    TensorSpec,
    apply_size,
    fit_to_graph,
    parse_size,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamdepth.models.hub import Progress
    from streamdepth.models.locate import Located
    from streamdepth.models.spec import Origin, Size

# keys of a graph's metadata, in rising priority; ONNX has no standard for them
_META_SENSE = "streamdepth.sense"
_METRIC_NAME = r"(?<![a-z])metric|hypersim|vkitti|indoor|outdoor"
_DEPTH_NAME = r"depth(?!wise)|disparity|(?<![a-z])disp(?![a-z])|midas"
_META_LICENCE = ("license", "licence", "streamdepth.licence")


def resolve(
    model: str | Path,
    *,
    dtype: str = AUTO,
    revision: str | None = None,
    size: str | int | Sequence[int] | Size | None = None,
    sense: str | Sense | None = None,
    provider: str = "cpu",
    input_name: str | None = None,
    output_name: str | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    match: Match = "transformers",
    metres_per_unit: float | None = None,
    camera: bool = False,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    access: HubAccess | None = None,
    force: bool = False,
) -> ModelSpec:
    """Find a model, download it if necessary, and read everything about it without running it.

    Args as of :class:`~streamdepth.inference.model.DepthModel`, and:
        provider: execution provider that ``auto`` chooses the dtype for.
        camera: the intrinsics of the images are known, so models that need them give metres.
        cache_dir: the Hub cache to use; shorthand for the same field of ``access``.
        access: how to reach the Hub.
        force: download cached files again.
    Raises:
        UsageError: an invalid argument, or one that the model does not allow.
        ModelNotFoundError: no such model, revision, file or dtype.
        ModelError: not a depth model, damaged, or refused by the Hub, or the Hub cannot be reached.
        DeadlineError: the Hub did not answer in time, and nothing is cached.

    Thread-safe; two processes may fetch the same model at once.
    """
    check_dtype(dtype)
    given_sense = _sense(sense)
    if metres_per_unit is not None and not (isfinite(metres_per_unit) and metres_per_unit > 0):
        raise UsageError(f"metres per unit: {metres_per_unit} is not a positive number of metres; correct it")
    target_size = None if size is None else parse_size(size)
    access = access or HubAccess()
    if cache_dir is not None:
        access = replace(access, cache_dir=Path(cache_dir))
    found = locate(find_target(model, access), Request(access, dtype, revision, provider, progress, force))
    return build_spec(
        found,
        size=target_size,
        sense=given_sense,
        input_name=input_name,
        output_name=output_name,
        preprocessing=preprocessing,
        match=match,
        metres_per_unit=metres_per_unit,
        camera=camera,
    )


def build_spec(
    found: Located,
    *,
    size: Size | None = None,
    sense: Sense | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    match: Match = "transformers",
    metres_per_unit: float | None = None,
    camera: bool = False,
) -> ModelSpec:
    """The specification of a model with local files; arguments and errors as in :func:`resolve`."""
    notes = list(found.notes)
    origins: dict[str, Origin] = {"dtype": found.dtype_origin}
    called = found.path if found.source == "file" else found.name
    refuse_other_task(found, called, sure=sense is not None or output_name is not None)
    model_type = str(found.config.get("model_type", ""))
    family = None if found.builtin else find_family(found.graph, found.names, model_type)
    # the views of a known model of several views are no frames of a video
    windows = family is None or family.by_name
    raw_image, layout = image_input(called, found.graph, input_name, windows=windows)
    image = _fix(raw_image, found)
    window = window_frames(image.shape) if windows else 0
    states = state_inputs(called, found.graph, image.name)
    head = Head() if family is None or output_name else family.head
    if head.kind != "map" and family is not None:
        depth = output_named(called, found.graph, family.points)
    else:
        sides = image.shape[-3:-1] if layout == "hwc" else image.shape[-2:]
        looped = {one.output for one in states}
        graph = replace(found.graph, outputs=tuple(t for t in found.graph.outputs if t.name not in looped))
        sure = sense is not None or _estimates_depth(found, family)
        depth = depth_output(called, graph, output_name, (sides[0], sides[1]), window=window, sure=sure)
        depth = _fix(depth, found)
        if not (sure or output_name or says_depth(depth.name) or META_OUTPUT in graph.metadata):
            origins["depth_output"] = "default"
            notes.append(
                f"{found.name}: output {shown(depth.name)} is assumed to be depth; nothing in its name says so"
            )
    known = {image.name, *(one.input.name for one in states)}
    others = tuple(_fix(t, found) for t in other_inputs(called, found.graph, known))
    states = tuple(replace(one, input=_fix(one.input, found)) for one in states)
    origins["image_input"] = "user" if input_name else "graph"
    origins.setdefault("depth_output", "user" if output_name else "graph")

    rules, origins["preprocessing"] = _preprocessing(found, family, image, preprocessing, notes)
    if match != "transformers":
        try:
            rules = replace(rules, match=match)
        except ValueError as exc:
            raise UsageError(f"{found.name}: {exc}") from exc
    if image.dtype == "uint8":
        # the type holds image bytes only, so the graph normalises
        rules = replace(rules, do_rescale=False, do_normalize=False)
    fixed = fixed_size(image, depth, layout)
    fitted = fit_to_graph(rules, fixed)
    origins["size"] = "graph" if fixed != (None, None) else origins["preprocessing"]
    if size is not None:
        fitted = apply_size(fitted, size, fixed, found.name, assumed=origins["preprocessing"] in ("default", "name"))
        origins["size"] = "user"

    meaning, origins["sense"] = _meaning(found, family, depth.name, sense, notes)
    licence, origins["licence"] = _licence(found, family)
    unit = metres_per_unit
    if head.focal_divisor and meaning is not Sense.RELATIVE_INVERSE:
        if camera:
            meaning = Sense.METRIC_M
        elif meaning is Sense.METRIC_M and unit is None:
            raise UsageError(f"sense {meaning}: {found.name} needs intrinsics for metres; give --fov DEGREES")
        elif sense is None:
            notes.append(f"{found.name}: depth without a unit; give --fov DEGREES or --intrinsics for metres")
    if unit is None:
        unit = float(found.builtin.get("metres_per_unit", 1.0))
    elif meaning is not Sense.METRIC_M:
        hint = "choose a metric model" if _unit_is_certain(found, family) else f"give sense {Sense.METRIC_M} too"
        raise UsageError(f"{found.name}: gives {meaning}, not metres, so metres per unit have no meaning; {hint}")
    origins["metres_per_unit"] = "user" if metres_per_unit is not None else "default"
    if found.known is not None:
        notes += found.known.notes
    rows = image.shape[0]
    if states and isinstance(rows, int) and rows != 1 and len(image.shape) > 3:
        raise ModelError(f"{called}: keeps a state, and takes {rows} frames at once; export it with a batch of 1")
    restriction = licence_note(licence)
    if restriction:
        notes.append(f"{found.name}: {restriction}")
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
        head=head,
        states=states,
        window=window,
    )


def _sense(value: str | Sense | None) -> Sense | None:
    if value is None:
        return None
    try:
        return Sense(value)
    except ValueError as exc:
        raise UsageError(f"sense {value!r}: choose one of {', '.join(Sense)}") from exc


def _fix(tensor: TensorSpec, found: Located) -> TensorSpec:
    """The tensor with the dimensions that the author fixed by name (``free_dimension_overrides``)."""
    sizes = dict(found.js.free_dimensions)
    return replace(tensor, shape=tuple(sizes.get(d, d) if isinstance(d, str) else d for d in tensor.shape))


def _estimates_depth(found: Located, family: KnownFamily | None) -> bool:
    """Whether its configuration, metadata or name says that the model estimates depth."""
    named = re.search(_DEPTH_NAME, " ".join(found.names).lower())
    return bool(named) or _own_meaning(found, family)[0] is not None or found.graph.metadata.get("task") == "depth"


def _preprocessing(
    found: Located,
    family: KnownFamily | None,
    image: TensorSpec,
    given: Preprocessing | Mapping[str, Any] | None,
    notes: list[str],
) -> tuple[Preprocessing, Origin]:
    if isinstance(given, Preprocessing):
        return given, "user"
    rules, origin = _own_preprocessing(found, family)
    scale = found.graph.input_scale.get(image.name)
    if scale is not None and origin in ("default", "name", "table"):
        rules = replace(rules, do_rescale=scale == 1, rescale_factor=1 / 255, do_normalize=False)
        if origin != "table":
            notes.append(f"{found.name}: the graph normalises images itself; RGB values of 0..{scale} are assumed")
    if given is not None:
        if found.builtin:
            raise UsageError(f"{found.name}: its preprocessing is fixed; leave preprocessing (--normalize) out")
        try:
            changed = preprocessing_from(given, rules)
        except ValueError as exc:
            raise UsageError(f"preprocessing: {exc}") from exc
        if origin != "default" and changed != rules:
            notes.append(f"{found.name}: known preprocessing changed by the user: {', '.join(given)}")
        return changed, "user"
    if origin == "default" and scale is None:
        usual = "Depth Anything's is assumed (RGB, 1/255, ImageNet mean and standard deviation)"
        assumed = "8-bit RGB is assumed" if image.dtype == "uint8" else usual
        notes.append(f"{found.name}: preprocessing unknown; {assumed}")
    return rules, origin


def _own_preprocessing(found: Located, family: KnownFamily | None) -> tuple[Preprocessing, Origin]:
    if found.builtin:
        return preprocessing_from(found.builtin["preprocessing"]), "config"
    if found.preprocessor is not None:
        rules = preprocessing_of(found.preprocessor, found.preprocessor_where)
        if rules is not None:
            return rules, "config"
    if found.known is not None:
        return found.known.preprocessing, "table"
    if family is not None:
        return family.preprocessing, "name" if family.by_name else "table"
    if found.preprocessor is not None:
        kind = found.preprocessor.get("image_processor_type") or found.preprocessor.get("feature_extractor_type")
        raise ModelError(
            f"{found.preprocessor_where}: unknown image processor {kind}; delete the file or choose a depth model"
        )
    return Preprocessing(), "default"


def _meaning(
    found: Located, family: KnownFamily | None, output: str, given: Sense | None, notes: list[str]
) -> tuple[Sense, Origin]:
    own, origin = _own_meaning(found, family)
    if own is None:
        own = sense_of_output(output)
        origin = "graph" if own is Sense.RELATIVE_INVERSE else "name"
    if own is None and re.search(_METRIC_NAME, " ".join(found.names).lower()):
        own, origin = Sense.METRIC_M, "name"
    if own is None and says_depth(output) and any(says_inverse(t.name) for t in found.graph.outputs):
        own, origin = Sense.RELATIVE_DEPTH, "graph"  # its inverse is another output
    if given is not None:
        if (
            _unit_is_certain(found, family)
            and not (family is not None and family.head.focal_divisor)  # metres for known intrinsics
            and (given is Sense.METRIC_M) != (own is Sense.METRIC_M)
        ):
            raise UsageError(f"sense {given}: {found.name} gives {own}; leave sense out, or choose another model")
        return given, "user"
    if own is not None:
        if origin == "name":
            notes.append(f"{found.name}: sense {own} is assumed from the name; if it is wrong, give --sense")
        return own, origin
    notes.append(
        f"{found.name}: sense unknown; near = large ({Sense.RELATIVE_INVERSE}) is assumed. If far things come out"
        f" bright, use --sense {Sense.RELATIVE_DEPTH} or {Sense.METRIC_M}"
    )
    return Sense.RELATIVE_INVERSE, "default"


def _unit_is_certain(found: Located, family: KnownFamily | None) -> bool:
    """Whether it is certain if the model gives metres, so that the user cannot change it."""
    own, origin = _own_meaning(found, family)
    return (
        own is not None
        and origin != "name"
        and (origin != "config" or bool(found.builtin) or sense_is_certain(found.config))
    )


def _own_meaning(found: Located, family: KnownFamily | None) -> tuple[Sense | None, Origin]:
    if found.known is not None:
        return found.known.sense, "table"
    if found.builtin:
        return Sense(found.builtin["sense"]), "config"
    configured = sense_of(found.config)
    if configured is not None:
        return configured, "config"
    declared = found.graph.metadata.get(_META_SENSE)
    if declared is None and family is not None:
        return family.sense, "name" if family.by_name else "table"
    if declared is None:
        return None, "default"
    try:
        return Sense(declared), "graph"
    except ValueError as exc:
        raise ModelError(f"{found.path}: its {_META_SENSE} is {declared!r}, not one of {', '.join(Sense)}") from exc


def _licence(found: Located, family: KnownFamily | None) -> tuple[str, Origin]:
    if found.known is not None and found.known.licence:
        return found.known.licence, "table"
    if found.licence:
        return found.licence, "config"
    for key in reversed(_META_LICENCE):
        if found.graph.metadata.get(key):
            return found.graph.metadata[key].partition(" (")[0], "graph"
    if family is not None and family.licence:
        return family.licence, "table"
    return "", "default"

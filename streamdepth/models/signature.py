"""Which input of a graph takes images, which output is depth, and which are states, by names and shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from streamdepth.core.errors import ModelError
from streamdepth.models.graph import DTYPES, GraphInfo, RawTensor, names_of, tensor_spec
from streamdepth.models.known import other_name, rank_of_name, says_depth
from streamdepth.models.spec import StateTensor

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from streamdepth.models.spec import TensorSpec

ImageLayout = Literal["chw", "hwc", "nchw"]
_IMAGE_DTYPES = ("float32", "float16", "uint8")
_IMAGE_NAMES = ("pixel_values", "image", "images", "input_image", "input", "x")
_CHANNEL_NAMES = ("c", "ch", "channel", "channels", "num_channels")
_DEPTH_DTYPES = ("float32", "float16", "float64")
_NO_DEPTH_ENDS: Mapping[str, str] = MappingProxyType(
    {
        "Sigmoid": "masks and edges",
        "HardSigmoid": "masks and edges",
        "Softmax": "class probabilities",
        "ArgMax": "class numbers",
        "ArgMin": "class numbers",
        **dict.fromkeys(("Greater", "Less", "Equal", "Not", "And", "Or"), "masks"),
    }
)
"""Last operator of an output -> what such outputs usually are."""
_STATE_WORDS = frozenset(
    {
        *("past", "prev", "previous", "last", "old", "new", "next", "updated", "present"),
        *("in", "input", "out", "output", "i", "o"),
    }
)
"""Words of the names of a state's input and output in which the two differ."""
_RESULT_WORDS = frozenset({"depth", "depths", "disparity", "disp", "predicted", "map"})
_STATE_DTYPES = ("float32", "float16")
_MIN_WINDOW = 4
META_OUTPUT = "streamdepth.output"
_PATCH_PX = 16


def image_input(
    model: str | Path, graph: GraphInfo, name: str | None = None, *, windows: bool = False
) -> tuple[TensorSpec, ImageLayout]:
    """The image input, and its layout without the batch axis.

    Args:
        model: its name in messages.
        name: the user's choice; None = found by shape, then by name.
        windows: an input [1, T, 3, H, W] may take T frames of a video, see :func:`window_frames`.
    Raises:
        ModelError: none, several without a known name, or not the shape of an image.
    """
    if name is not None:
        chosen = next((t for t in graph.inputs if t.name == name), None)
        if chosen is None:
            raise ModelError(f"{model}: has no input {name!r}; its inputs are {names_of(graph.inputs)}")
        layout = _image_layout(chosen, windows=windows)
        if isinstance(layout, str):
            return tensor_spec(chosen), layout
        raise ModelError(f"{model}: input {chosen.describe()} does not take images: {layout.reason}")
    layouts = [(t, _image_layout(t, windows=windows)) for t in graph.inputs]
    fits = [(t, found) for t, found in layouts if isinstance(found, str)]
    if not fits:
        reasons = "; ".join(f"{t.describe()}: {found.reason}" for t, found in layouts if not isinstance(found, str))
        raise ModelError(
            f"{model}: has no image input ({reasons or 'no inputs at all'}); a depth model takes RGB images,"
            " [batch, 3, height, width] or [batch, height, width, 3]"
        )
    if len(fits) > 1:
        known = [n for n in _IMAGE_NAMES if n in {t.name for t, _ in fits}]
        if not known:
            raise ModelError(
                f"{model}: needs {len(fits)} images at once ({names_of(t for t, _ in fits)}), as stereo models do;"
                " choose a model that takes one image"
            )
        fits = [fit for fit in fits if fit[0].name == known[0]]
    tensor, layout = fits[0]
    return tensor_spec(tensor), layout


@dataclass(frozen=True, slots=True)
class _NoImage:
    reason: str


def window_frames(shape: tuple[int | str, ...]) -> int:
    """Frames of an image input [1, T, 3, H, W] that takes windows of a video; 0 = single images.

    Fewer than four may be views of a scene (a stereo pair).
    """
    frames = shape[1] if len(shape) == 5 else 0
    return frames if isinstance(frames, int) and frames >= _MIN_WINDOW and _may_be(shape[0], 1) else 0


def _image_layout(tensor: RawTensor, *, windows: bool) -> ImageLayout | _NoImage:
    if tensor.dtype not in _IMAGE_DTYPES:
        return _NoImage(f"images are {', '.join(_IMAGE_DTYPES)}")
    shape = tensor.shape
    if shape is None:
        return _NoImage("its shape is not declared")
    if len(shape) not in (3, 4, 5):
        return _NoImage(f"rank {len(shape)}, images have rank 3 to 5")
    if len(shape) == 5:
        if windows and window_frames(shape):
            return "chw" if _may_be(shape[2], 3) else _NoImage(_channels(shape[2]))
        if isinstance(shape[1], int) and shape[1] != 1:
            return _NoImage(f"takes clips of {shape[1]} images, streamdepth gives single images")
        return "nchw" if _may_be(shape[2], 3) else _NoImage(_channels(shape[2]))
    first, last = shape[-3], shape[-1]
    if first == 3:
        return "chw"
    if last == 3:
        return "hwc"
    if isinstance(first, int):
        return _NoImage(_channels(first))
    if last in _CHANNEL_NAMES and first not in _CHANNEL_NAMES:
        return "hwc"
    if last in (1, 4):
        return _NoImage(_channels(last))
    # an undeclared channel axis is the first one, as in exporters that name it "num_channels"
    return "chw"


def _may_be(dimension: int | str, value: int) -> bool:
    return not isinstance(dimension, int) or dimension == value


def _channels(dimension: int | str) -> str:
    return f"{dimension} channels, images have 3 (RGB)"


def other_inputs(model: str | Path, graph: GraphInfo, known: Collection[str]) -> tuple[TensorSpec, ...]:
    """Inputs besides the image and the states, whose names are ``known``.

    Raises:
        ModelError: one has a dtype nothing here can feed.
    """
    others = tuple(t for t in graph.inputs if t.name not in known)
    for tensor in others:
        if tensor.elem_type not in DTYPES:
            raise ModelError(f"{model}: cannot feed its input {tensor.describe()}; export the model without it")
    return tuple(tensor_spec(t) for t in others)


def depth_output(
    model: str | Path,
    graph: GraphInfo,
    name: str | None = None,
    size: tuple[int | str, int | str] = ("", ""),
    *,
    window: int = 0,
    sure: bool = True,
) -> TensorSpec:
    """The output that has depth.

    The named one; else the one that the graph's metadata names; else one with a depth word in its name, of several the
    largest; else the only one without a name of something else.

    Args:
        name: the user's choice.
        size: declared (height, width) of the image input: a map has the same aspect ratio.
        window: frames of one run, each of which has a map; 0 = single images.
        sure: it is known that the model estimates depth. Otherwise an output without a depth word in its name is
            refused if it is larger than the input, or ends in an operator of masks and classes.
    Raises:
        ModelError: none that could be depth, or several of equal rank.
    """
    name = name or graph.metadata.get(META_OUTPUT)
    if name is not None:
        chosen = _output(model, graph, name)
        reason = _no_map(chosen, size, window)
        if reason:
            raise ModelError(f"{model}: output {chosen.describe()} is not a depth map: {reason}")
        return tensor_spec(chosen)
    reasons = {t.name: _no_map(t, size, window) or other_name(t.name) for t in graph.outputs}
    fits = [t for t in graph.outputs if not reasons[t.name]]
    ranks = {t.name: (-_area(t), *rank_of_name(t.name)) for t in fits if says_depth(t.name)}
    if ranks:
        fits = [t for t in fits if ranks.get(t.name) == min(ranks.values())]
    elif not sure and len(fits) == 1:
        doubt = _doubt(fits[0], size, graph.last_operators.get(fits[0].name, ""))
        if doubt:
            raise ModelError(
                f"{model}: output {fits[0].describe()} may not be depth: {doubt}; if it is depth, give "
                f"--output-name {fits[0].shown_name}"
            )
    if len(fits) == 1:
        return tensor_spec(fits[0])
    if fits:
        raise ModelError(
            f"{model}: has {len(fits)} outputs that could be depth ({', '.join(t.describe() for t in fits)}); choose "
            "one with --output-name"
        )
    listed = "; ".join(f"{t.describe()}: {reasons[t.name]}" for t in graph.outputs)
    raise ModelError(f"{model}: has no depth output ({listed}); a depth model gives [batch, height, width]")


def _doubt(tensor: RawTensor, size: tuple[int | str, int | str], last_operator: str) -> str:
    """Why a map whose name says nothing is probably not depth, empty where nothing speaks against it."""
    if last_operator in _NO_DEPTH_ENDS:
        return f"it ends in {last_operator}, as {_NO_DEPTH_ENDS[last_operator]} do"
    sides = map_sides(tensor.shape or ())
    known = [side for side in (*sides, *size) if isinstance(side, int)]
    if len(known) == 4 and exceeds(known[0], known[1], known[2], known[3]):
        return f"{sides[1]}x{sides[0]} is larger than the input's {size[1]}x{size[0]}"
    return ""


def state_inputs(model: str | Path, graph: GraphInfo, image: str) -> tuple[StateTensor, ...]:
    """The inputs that take outputs of the previous run: pairs of equal name but for words such as ``new`` and ``past``
    (``cache_0`` and ``new_cache_0``), of one dtype and shape.

    Raises:
        ModelError: a pair by its names has different shapes or dtypes.
    """
    found = []
    for tensor in graph.inputs:
        words = _state_words(tensor.name)
        outputs = [t for t in graph.outputs if _state_words(t.name) == words]
        # "depth_in" beside "depth" may be the depth of a sensor
        if tensor.name == image or set(words) <= _RESULT_WORDS or len(outputs) != 1:
            continue
        output = outputs[0]
        if tensor.dtype not in _STATE_DTYPES or tensor.dtype != output.dtype or not _same_shape(tensor, output):
            raise ModelError(
                f"{model}: input {tensor.describe()} looks like a state, but output {output.describe()} has "
                "another shape or type; export the model with equal shapes"
            )
        found.append(StateTensor(tensor_spec(tensor), output.name))
    return tuple(found)


def _split(name: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower())


def _state_words(name: str) -> tuple[str, ...]:
    return tuple(word for word in _split(name) if word not in _STATE_WORDS)


def _same_shape(one: RawTensor, other: RawTensor) -> bool:
    a, b = one.shape, other.shape
    if a is None or b is None or len(a) != len(b):
        return False
    return all(isinstance(x, str) or isinstance(y, str) or x == y for x, y in zip(a, b, strict=True))


def output_named(model: str | Path, graph: GraphInfo, name: str) -> TensorSpec:
    """The output of a name, of any shape.

    Raises:
        ModelError: there is none, or it has a dtype that cannot hold depth.
    """
    chosen = _output(model, graph, name)
    if chosen.dtype not in _DEPTH_DTYPES:
        raise ModelError(f"{model}: output {chosen.describe()} is not depth: depth is {', '.join(_DEPTH_DTYPES)}")
    return tensor_spec(chosen)


def _output(model: str | Path, graph: GraphInfo, name: str) -> RawTensor:
    chosen = next((t for t in graph.outputs if t.name == name), None)
    if chosen is None:
        raise ModelError(f"{model}: has no output {name!r}; its outputs are {names_of(graph.outputs)}")
    return chosen


def covers(height: int, width: int, input_height: int, input_width: int) -> bool:
    """Whether a map of (height, width) has the aspect ratio of the network's input.

    The network may have rounded each side of its input by a patch of 16 pixels.
    """
    ratio = (height * input_width) / (width * input_height)
    least_y, least_x = max(1 - _PATCH_PX / input_height, 0.01), max(1 - _PATCH_PX / input_width, 0.01)
    return least_y / (1 + _PATCH_PX / input_width) <= ratio <= (1 + _PATCH_PX / input_height) / least_x


def exceeds(height: int, width: int, input_height: int, input_width: int) -> bool:
    """Whether a map is larger than the network's input by more than a patch."""
    return height > input_height + _PATCH_PX and width > input_width + _PATCH_PX


def map_sides(shape: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Dimensions of a map without the batch and axes of 1; more or fewer than two where it is not a map."""
    sides = list(shape)
    while len(sides) > 2 and sides[-1] == 1:
        sides.pop()
    if len(sides) > 2:
        sides.pop(0)
    # an axis with a name may be views; not where the last axis looks like channels
    while len(sides) > 2 and (sides[0] == 1 or (not isinstance(sides[0], int) and sides[-1] not in (2, 3, 4))):
        sides.pop(0)
    return tuple(sides)


def fixed_size(image: TensorSpec, depth: TensorSpec, layout: str) -> tuple[int | None, int | None]:
    """The graph's fixed (width, height), None for a dynamic side.

    A graph of dynamic input and fixed output resizes by itself: the size of its output is the size it needs.
    """
    height, width = image.shape[-3:-1] if layout == "hwc" else image.shape[-2:]
    if not isinstance(height, int) and not isinstance(width, int):
        sides = map_sides(depth.shape)
        if len(sides) == 2 and all(isinstance(side, int) for side in sides):
            height, width = sides
    return width if isinstance(width, int) else None, height if isinstance(height, int) else None


def _area(tensor: RawTensor) -> int:
    sides = [side for side in map_sides(tensor.shape or ()) if isinstance(side, int)]
    return sides[0] * sides[1] if len(sides) == 2 else 0


def one_frame(shape: tuple[Any, ...], window: int) -> tuple[Any, ...]:
    """The shape of one of the ``window`` frames of an output [.., window, .., h, w]; empty where it has none."""
    rest = list(shape)
    while len(rest) > 3 and rest[0] == 1:
        rest.pop(0)
    return (1, *rest[1:]) if len(rest) > 2 and rest[0] == window else ()


def _no_map(tensor: RawTensor, size: tuple[int | str, int | str], window: int) -> str:
    """Why an output cannot be a map of the input, empty where it can."""
    if tensor.dtype not in _DEPTH_DTYPES:
        return f"depth is {', '.join(_DEPTH_DTYPES)}"
    if tensor.shape is None:
        return ""
    if len(tensor.shape) not in (2, 3, 4, 5):
        return f"rank {len(tensor.shape)}, depth has rank 2 to 5"
    shape = one_frame(tensor.shape, window) if window else tensor.shape
    if not shape:
        return f"not one map for each of {window} frames"
    sides = map_sides(shape)
    if len(sides) != 2:
        channels = next((side for side in sides if isinstance(side, int) and side > 1), "several")
        return f"{sides[-1] if sides[-1] in (2, 3, 4) else channels} channels, depth has 1"
    if 1 in sides:
        return "one pixel wide"
    height, width = sides
    known = [isinstance(side, int) for side in (height, width, *size)]
    if all(known) and not covers(height, width, *size):  # type: ignore[arg-type]
        return f"{width}x{height} does not have the aspect ratio of the input's {size[1]}x{size[0]}"
    return ""

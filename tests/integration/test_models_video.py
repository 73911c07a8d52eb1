"""Models that see the frames of a video in order: states looped from outputs to inputs, and windows of frames.

The graphs have the real names and shapes of exports of Video Depth Anything small, and random weights. The reference is
a loop of plain runs of ONNX Runtime with NumPy arrays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

import streamdepth as sd
from streamdepth.cli import main
from streamdepth.core.errors import ModelError, UsageError
from streamdepth.image.verify import verify
from streamdepth.inference.memory import ModelState
from streamdepth.pipeline import Pipeline
from tests.support.families import Shape, node, write
from tests.support.media import write_clip
from tests.support.stages import RecordingSink, ScriptedSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from streamdepth.core.frame import Frame

    Array = np.ndarray[Any, Any]

HEIGHT, WIDTH, KEPT = 154, 266, 31
CACHES = ((209, 14, 192), (209, 14, 192), (60, 28, 384), (60, 28, 384), (209, 14, 64), (209, 14, 64), (836, 7, 64))
"""Tokens, patch size and channels of the caches of the motion modules at 154x266."""


def write_stream(path: Path, *, kind: int = TensorProto.FLOAT16) -> Path:
    """[1,3,154,266] and caches [tokens, 31, channels]: each frame's tokens are appended, the oldest are removed, and
    depth is read from all of them."""
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    rng = np.random.default_rng(5)
    nodes: list[Any] = []
    inputs: list[tuple[str, int, Shape]] = [("image", kind, [1, 3, HEIGHT, WIDTH])]
    outputs: list[tuple[str, int, Shape]] = [("depth", kind, [1, HEIGHT, WIDTH])]
    constants: list[tuple[str, Array]] = []
    constants += [("one", np.array([1], np.int64)), ("end", np.array([KEPT], np.int64))]
    constants += [("size", np.array([1, 1, HEIGHT, WIDTH], np.int64)), ("axes", np.array([1, 2], np.int64))]
    for i, (tokens, patch, channels) in enumerate(CACHES):
        pad = [0, 0, 14, 14] if patch == 28 else [0, 0, 0, 0]
        rows, columns = (HEIGHT + pad[2]) // patch, (WIDTH + pad[3]) // patch
        constants += [
            (f"w{i}", rng.normal(0, 0.02, (channels, 3, patch, patch)).astype(dtype)),
            (f"grid{i}", np.array([1, 1, rows, columns], np.int64)),
            (f"flat{i}", np.array([channels, 1, tokens], np.int64)),
        ]
        nodes += [
            node("Conv", ["image", f"w{i}"], f"f{i}", kernel_shape=[patch] * 2, strides=[patch] * 2, pads=pad),
            node("Tanh", [f"f{i}"], f"t{i}"),
            node("Reshape", [f"t{i}", f"flat{i}"], f"r{i}"),
            node("Transpose", [f"r{i}"], f"token{i}", perm=[2, 1, 0]),
            node("Slice", [f"cache_{i}", "one", "end", "one"], f"kept{i}"),
            node("Concat", [f"kept{i}", f"token{i}"], f"new_cache_{i}", axis=1),
            node("ReduceMean", [f"new_cache_{i}"], f"m{i}", axes=[1, 2], keepdims=0),
            node("Reshape", [f"m{i}", f"grid{i}"], f"g{i}"),
            node("Resize", [f"g{i}", "", "", "size"], f"map{i}", mode="linear"),
        ]
        shape: Shape = [tokens, KEPT, channels]
        inputs.append((f"cache_{i}", kind, shape))
        outputs.append((f"new_cache_{i}", kind, shape))
    nodes.append(node("Sum", [f"map{i}" for i in range(len(CACHES))], "sum"))
    nodes.append(node("Squeeze", ["sum", "one"], "depth"))
    return write(path, nodes, inputs, outputs, constants)


def write_counter(path: Path, new: str = "new_memory", shape: Sequence[int | str] = (1, 1, 56, 56)) -> Path:
    """depth = mean of the channels + memory / 2, which becomes the new memory."""
    nodes = [
        node("ReduceMean", ["image"], "m", axes=[1], keepdims=1),
        node("Mul", ["memory", "half"], "old"),
        node("Add", ["m", "old"], new),
        node("Squeeze", [new, "one"], "depth"),
    ]
    constants = [("half", np.array(0.5, np.float32)), ("one", np.array([1], np.int64))]
    f = TensorProto.FLOAT
    inputs: list[Any] = [("image", f, [1, 3, 56, 56]), ("memory", f, list(shape))]
    return write(path, nodes, inputs, [("depth", f, [1, 56, 56]), (new, f, [1, 1, 56, 56])], constants)


def write_window(path: Path, frames: int = 32) -> Path:
    """[1,T,3,56,70] -> [1,T,56,70]: the mean of the channels with another scale and shift in every window."""
    nodes = [
        node("ReduceMean", ["images"], "m", axes=[2], keepdims=0),
        node("ReduceMean", ["images"], "level", axes=[0, 1, 2, 3, 4], keepdims=0),
        node("Exp", ["level"], "scale"),
        node("Mul", ["m", "scale"], "scaled"),
        node("Sub", ["scaled", "level"], "depth"),
    ]
    f = TensorProto.FLOAT
    shapes: list[Any] = [("images", f, [1, frames, 3, 56, 70]), ("depth", f, [1, frames, 56, 70])]
    return write(path, nodes, shapes[:1], shapes[1:])


def picture(index: int, width: int = 56, height: int = 56, *, cut: int = 20) -> av.VideoFrame:
    """Smooth texture that moves; dark from frame ``cut`` on."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wave = np.stack([np.sin(x / 9 + index / 5 + c) + np.cos(y / 7 - index / 9 + c) for c in range(3)], -1)
    rgb = (170 + 30 * wave) if index < cut else (40 + 15 * wave)
    return av.VideoFrame.from_ndarray(rgb.round().astype(np.uint8), format="rgb24")


def looped(path: Path, images: Sequence[av.VideoFrame]) -> list[Array]:
    """Depth of the images in order, from a loop with NumPy arrays."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    first, *states = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    fed = {one.name: np.zeros(one.shape, kinds[one.type]) for one in states}
    found = []
    engine = sd.DepthModel(path, provider="cpu").engine()
    for image in images:
        slot = engine.acquire(engine.network_size(image.width, image.height))
        slot.write(0, image)
        depth, *new = session.run(names, {first.name: slot.host_input(0).copy(), **fed})
        fed = dict(zip(fed, new, strict=True))
        found.append(depth[0].astype(np.float32))
    engine.close()
    return found


def depths(path: Path, sources: Sequence[ScriptedSource], **options: Any) -> list[list[Array]]:
    sinks = [RecordingSink() for _ in sources]
    made = iter(sinks)
    model = sd.DepthModel(path, provider="cpu")
    with Pipeline(sources, model, lambda _: [next(made)], range="frame", **options) as run:
        stats = run.run()
    assert stats.processed == stats.captured
    return [[result.depth.values.copy() for result in sink.results] for sink in sinks]


def test_a_streaming_export_of_real_shape_equals_a_loop_with_numpy(tmp_path: Path) -> None:
    path = write_stream(tmp_path / "vda_stream.onnx")
    spec = sd.DepthModel(path, provider="cpu").spec
    assert [one.output for one in spec.states] == [f"new_cache_{i}" for i in range(len(CACHES))]
    assert spec.depth_output.name == "depth"
    assert spec.other_inputs == ()
    got = depths(path, [ScriptedSource(4, image=lambda index: picture(index, 532, 308))])[0]
    expected = looped(path, [picture(index, 532, 308) for index in range(4)])
    assert np.abs(expected[3] - expected[0]).max() > 1e-3  # the history counts
    np.testing.assert_array_equal(np.stack(got), np.stack(expected))


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counter(tmp_path_factory.mktemp("counter") / "counter.onnx")


def test_the_state_restarts_at_a_cut_and_each_source_has_its_own(counter: Path) -> None:
    one = ScriptedSource(24, name="one", image=picture)
    other = ScriptedSource(9, name="other", image=lambda index: picture(index + 3))
    got = depths(counter, [one, other], batch=4)  # a state needs runs of one frame
    shots = looped(counter, [picture(i) for i in range(20)]) + looped(counter, [picture(i) for i in range(20, 24)])
    np.testing.assert_array_equal(np.stack(got[0]), np.stack(shots))
    np.testing.assert_array_equal(np.stack(got[1]), np.stack(looped(counter, [picture(i + 3) for i in range(9)])))


class _Reconnecting(ScriptedSource):
    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            yield replace(frame, connection=frame.index // 3)


def test_a_new_connection_restarts_the_state(counter: Path) -> None:
    got = depths(counter, [_Reconnecting(5, image=picture)])[0]
    expected = looped(counter, [picture(i) for i in range(3)]) + looped(counter, [picture(i) for i in (3, 4)])
    np.testing.assert_array_equal(np.stack(got), np.stack(expected))


def test_key_frames_only_go_through_the_state_and_a_cut_still_restarts_it(counter: Path) -> None:
    got = depths(counter, [ScriptedSource(24, image=picture)], model_every=3)[0]
    expected = looped(counter, [picture(i) for i in range(0, 20, 3)])
    np.testing.assert_array_equal(np.stack(got[:20:3]), np.stack(expected))
    np.testing.assert_array_equal(got[20], looped(counter, [picture(20)])[0])


def test_dropped_frames_do_not_reach_the_state(counter: Path) -> None:
    sink = RecordingSink()
    source = ScriptedSource(18, image=picture, live=True)
    with Pipeline([source], sd.DepthModel(counter, provider="cpu"), [sink], range="frame") as run:
        stats = run.run()
    assert stats.processed + sum(stats.dropped.values()) == 18
    expected = looped(counter, [picture(index) for index in sink.indices])
    np.testing.assert_array_equal(np.stack([r.depth.values for r in sink.results]), np.stack(expected))


def test_a_state_on_a_device_changes_places_without_copies(counter: Path) -> None:
    """ONNX Runtime's own values, as on a GPU; here they are in host memory."""
    session = ort.InferenceSession(str(counter), providers=["CPUExecutionProvider"])
    state = ModelState([("memory", "new_memory", (1, 1, 56, 56), np.dtype(np.float32))], "cpu")
    image, out = np.ones((1, 3, 56, 56), np.float32), np.empty((1, 56, 56), np.float32)
    found = []
    for number in range(4):
        if number == 3:
            state.restart()
        binding = session.io_binding()
        binding.bind_input("image", "cpu", 0, np.float32, list(image.shape), image.ctypes.data)
        binding.bind_output("depth", "cpu", 0, np.float32, list(out.shape), out.ctypes.data)
        state.bind(binding)
        session.run_with_iobinding(binding)
        state.advance()
        found.append(float(out[0, 0, 0]))
    assert found == [1.0, 1.5, 1.75, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: write_counter(path, shape=(1, 2, 56, 56)), "looks like a state, but output new_memory"),
        (lambda path: write_counter(path, shape=(1, 1, "rows", 56)), "is not known from the image"),
        (lambda path: write_counter(path, new="other"), "that cannot be computed from an image"),
    ],
)
def test_a_state_that_cannot_be_looped_is_refused(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        sd.DepthModel(make(tmp_path / "model.onnx"), provider="cpu").engine()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_window(tmp_path_factory.mktemp("window") / "video_depth_anything.onnx")


def test_windows_are_joined_to_one_scale_and_do_not_cross_cuts(window: Path) -> None:
    def image(index: int) -> av.VideoFrame:
        return picture(index, 70, 56, cut=75)

    got = np.stack(depths(window, [ScriptedSource(83, image=image)])[0])
    assert got.shape == (83, 56, 70)
    shot = np.stack([image(i).to_ndarray(format="rgb24") / 255.0 for i in range(75)])
    mean = ((shot - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).mean(-1)
    gain, offset = np.polyfit(mean[:22].ravel(), got[:22].ravel(), 1)
    assert gain > 0
    error = np.abs(gain * mean + offset - got[:75]) / np.ptp(got[:75])
    assert error.max() < 2e-3
    alone = np.stack(depths(window, [ScriptedSource(8, image=lambda index: image(75 + index))])[0])
    np.testing.assert_array_equal(got[75:], alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"policy": "latest"}, "a live run cannot wait"), ({"model_every": 2}, "remove --model-every")],
)
def test_what_a_window_cannot_do_is_refused_in_one_line(window: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        depths(window, [ScriptedSource(40, image=picture)], **options)
    assert "takes windows of 32 frames" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["counter", "window"])
def test_images_and_segments_are_refused(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    path = request.getfixturevalue(name)
    with pytest.raises(ModelError, match="a single image has no history"):
        sd.DepthEstimator(path, provider="cpu")(np.zeros((56, 56, 3), np.uint8))
    clip = tmp_path / "clip.mp4"
    write_clip(clip, frames=3, width=64, height=48)
    out = str(tmp_path / "out.mp4")
    assert main(["run", str(clip), "-o", out, "--model", str(path), "--provider", "cpu", "--workers", "2"]) == 2
    assert "not possible with" in capsys.readouterr().err


@pytest.mark.slow
def test_verify_compares_looping_with_a_loop_in_numpy(counter: Path, window: Path) -> None:
    for path, frames in ((counter, 6), (window, 32)):
        report = verify(path, provider="cpu")
        assert report.ok
        assert len(report.images) == frames
        assert report.max_error == 0
        assert "NumPy" in report.reference
    with pytest.raises(UsageError, match="built-in frames only"):
        verify(counter, images=[np.zeros((56, 56, 3), np.uint8)])

"""The colour pass of ``--range shot``: images kept from the depth pass, or found again in the source."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamdepth.core.errors import SourceError
from streamdepth.core.look import Look, Upsampling, View
from streamdepth.core.queues import Aborted
from streamdepth.depth.shots import Stamp
from streamdepth.pipeline import Pipeline
from streamdepth.pipeline.second_pass import SecondPass
from streamdepth.sources.file import FileSource
from tests.support.media import decode_rgb, draw_index, read_index, write_clip
from tests.support.stages import RecordingSink, ScriptedSource, fake_estimator, flat_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.core.frame import Result, StreamInfo

_FRAME_BYTES = sum(plane.buffer_size for plane in flat_image(0).planes)


class CountingSource(ScriptedSource):
    """Counts the images its further readings give."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.read_again = 0

    def again(self) -> ScriptedSource:
        return ScriptedSource(self.count, before=self._count)

    def _count(self, index: int) -> None:  # noqa: ARG002
        self.read_again += 1


def stamp(index: int, pts: int | None = None) -> Stamp:
    return Stamp(index, index if pts is None else pts, 7)


@pytest.mark.parametrize(("kept", "read_again"), [(100, 0), (10, 20), (0, 30)])
def test_only_what_was_not_kept_is_read_again(kept: int, read_again: int) -> None:
    source, sink = CountingSource(30), RecordingSink()
    with Pipeline([source], fake_estimator(), [sink], range="shot", frame_cache_bytes=kept * _FRAME_BYTES) as pipeline:
        pipeline.run()
    assert sink.indices == list(range(30))
    assert [round(float(r.frame.to_rgb().mean())) for r in sink.results] == list(range(30))
    assert source.read_again == read_again
    captured = [result.frame.captured_ns for result in sink.results]
    assert captured == sorted(captured)
    assert len({result.range for result in sink.results}) == 1


class DrawingSink(RecordingSink):
    """Takes images; uses no pixels of the frames itself."""

    reads_pixels = False

    def drawn(self) -> list[NDArray[np.uint8]]:
        images = [result.image for result in self.results if result.image is not None]
        return [np.asarray(image.to_ndarray(format="rgb24"), np.uint8) for image in images]


def drawn(sink: DrawingSink) -> tuple[list[NDArray[np.uint8]], int]:
    """The images of 30 frames, none of which fits in memory, and how many frames were read again."""
    source = CountingSource(30)
    with Pipeline([source], fake_estimator(), [sink], range="shot", frame_cache_bytes=0) as pipeline:
        pipeline.run()
    assert [result.frame.pts for result in sink.results] == list(range(30))
    assert {(result.frame.width_px, result.frame.height_px) for result in sink.results} == {(32, 16)}
    return sink.drawn(), source.read_again


def test_no_frame_is_read_again_where_only_depth_is_drawn() -> None:
    class Reading(DrawingSink):
        reads_pixels = True

    with_pixels, read_again = drawn(Reading(look=Look()))
    assert read_again == 30
    without, read_again = drawn(DrawingSink(look=Look()))
    assert read_again == 0
    assert all(np.array_equal(*pair) for pair in zip(with_pixels, without, strict=True))


@pytest.mark.parametrize("look", [Look(view=View.SIDE), Look(upsampling=Upsampling.GUIDED)])
def test_frames_whose_pixels_are_drawn_are_read_again(look: Look) -> None:
    assert drawn(DrawingSink(look=look))[1] == 30


def test_a_view_with_pixels_chosen_during_the_run_shows_them() -> None:
    def choose(result: Result) -> None:
        if result.frame.index == 12:
            assert sink.control is not None
            sink.control.update(view=View.OVERLAY)

    depth, overlay = (drawn(DrawingSink(look=Look(view=view)))[0] for view in (View.DEPTH, View.OVERLAY))
    sink = DrawingSink(look=Look(), before=choose)
    images, read_again = drawn(sink)
    shown = [np.array_equal(image, expected) for image, expected in zip(images, overlay, strict=True)]
    assert sorted(shown) == shown
    assert 0 < sum(shown) < 30
    assert read_again == 30  # from the start: this source cannot seek
    first = shown.index(True)
    assert all(np.array_equal(*pair) for pair in zip(images[:first], depth[:first], strict=True))


def test_aborting_while_images_are_kept_gives_them_up() -> None:
    """The abort comes with half a shot kept; nothing waits for its end."""
    pipeline: Pipeline

    def abort_at(index: int) -> None:
        if index == 20:
            pipeline.abort()

    sink = RecordingSink()
    pipeline = Pipeline([ScriptedSource(40, before=abort_at)], fake_estimator(), [sink], range="shot")
    stats = pipeline.run()
    assert stats.dropped.keys() == {"stopped"}
    assert stats.captured == stats.processed + stats.dropped["stopped"]
    assert sink.results == []


def _scenes(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A new background every 80 frames: a cut."""
    rgb = draw_index(index, width, height)
    rgb[: height // 2] = np.random.default_rng(index // 80).integers(0, 256, 3, np.uint8)
    return rgb


class Noting(FileSource):
    """Notes where it is resumed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.resumed: list[int] = []

    def resume(self, pts: int) -> FileSource | None:
        self.resumed.append(pts)
        return super().resume(pts)


def test_a_file_is_resumed_where_images_were_not_kept(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "shots.mp4", frames=240, draw=_scenes, gop=80)
    direct = decode_rgb(clip)
    source, sink = Noting(clip), RecordingSink()
    room = 60 * 160 * 120 * 3 // 2
    with Pipeline([source], fake_estimator(), [sink], range="shot", frame_cache_bytes=room) as pipeline:
        pipeline.run()
    assert source.resumed[0] == 0
    assert sink.indices == list(range(240))
    for result, rgb in zip(sink.results, direct, strict=True):
        np.testing.assert_array_equal(result.frame.to_rgb(), rgb)


@pytest.mark.parametrize("wanted", [0, 1, 79, 80, 133, 239])
def test_a_resumed_file_gives_the_same_frames_from_there(tmp_path: Path, wanted: int) -> None:
    clip = write_clip(tmp_path / "shots.mp4", frames=240, draw=draw_index, gop=80)
    source = FileSource(clip)
    source.open()
    frame = list(source.frames())[wanted]
    resumed = source.resume(frame.pts)
    assert resumed is not None
    resumed.open()
    again = next(resumed.frames())
    assert again.pts == frame.pts
    np.testing.assert_array_equal(again.to_rgb(), frame.to_rgb())
    resumed.close()
    source.close()


def test_a_file_with_repaired_times_is_read_from_its_start(tmp_path: Path) -> None:
    """Two recordings joined: the clock of the second begins anew, so its times say nothing about where it lies."""
    parts = [write_clip(tmp_path / f"{name}.ts", frames=60, draw=draw_index).read_bytes() for name in "ab"]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(parts))
    direct = [read_index(rgb) for rgb in decode_rgb(joined)]
    source, sink = Noting(joined), RecordingSink()
    with Pipeline([source], fake_estimator(), [sink], range="shot", frame_cache_bytes=0) as pipeline:
        pipeline.run()
    assert source.repaired["time_jump"] == 1
    assert [read_index(result.frame.to_rgb()) for result in sink.results] == direct


class TestRereading:
    def test_goes_on_over_short_gaps_and_seeks_over_long_ones(self, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "a.mp4", frames=200, draw=draw_index, time_base=Fraction(1, 90_000))
        source = Noting(clip)
        source.open()
        frames = list(source.frames())
        second_pass = SecondPass(source)
        for index in (3, 4, 40, 150, 151, 199):
            found = second_pass.find(Stamp(index, frames[index].pts, 7))
            assert (found.index, found.pts, found.captured_ns) == (index, frames[index].pts, 7)
            assert read_index(found.to_rgb()) == index
        assert source.resumed == [frames[index].pts for index in (3, 150)]
        second_pass.close()
        source.close()

    def test_starts_over_where_a_seek_lands_elsewhere(self) -> None:
        class Astray(ScriptedSource):
            def resume(self, pts: int) -> ScriptedSource:  # noqa: ARG002
                return ScriptedSource(3)

        second_pass = SecondPass(Astray(100))
        assert [second_pass.find(stamp(index)).pts for index in (60, 61)] == [60, 61]
        second_pass.close()

    def test_closes_each_reading(self) -> None:
        readers: list[ScriptedSource] = []

        class Astray(ScriptedSource):
            def resume(self, pts: int) -> ScriptedSource:  # noqa: ARG002
                readers.append(ScriptedSource(3))
                return readers[-1]

        second_pass = SecondPass(Astray(100))
        second_pass.find(stamp(60))
        assert readers[0].closed
        second_pass.close()

    @pytest.mark.parametrize("wanted", [stamp(20), stamp(5, 1000)])
    def test_what_is_not_there_any_more_is_named(self, wanted: Stamp) -> None:
        with pytest.raises(SourceError, match=r"in the second pass \(was it modified\?\)"):
            SecondPass(ScriptedSource(10)).find(wanted)

    def test_a_source_that_can_be_read_once_is_refused(self) -> None:
        with pytest.raises(SourceError, match="cannot be read twice"):
            SecondPass(ScriptedSource(repeatable=False))

    def test_an_interrupt_ends_a_wait_for_a_frame(self) -> None:
        waiting, go_on = threading.Event(), threading.Event()

        def wait(index: int) -> None:
            if index == 2:
                waiting.set()
                assert go_on.wait(5)

        class Slow(ScriptedSource):
            def again(self) -> ScriptedSource:
                reader = ScriptedSource(10, before=wait)
                reader.on_interrupt = go_on.set
                return reader

        second_pass = SecondPass(Slow(10))
        with ThreadPoolExecutor(1) as pool:
            finding = pool.submit(second_pass.find, stamp(5))
            assert waiting.wait(5)
            second_pass.interrupt()
            with pytest.raises(Aborted):
                finding.result(5)

    def test_interrupted_before_it_begins(self) -> None:
        second_pass = SecondPass(ScriptedSource(10))
        second_pass.interrupt()
        with pytest.raises(Aborted):
            second_pass.find(stamp(0))

    def test_an_interrupt_while_a_file_is_opened_is_no_error_of_the_source(self, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "a.mp4", frames=5)

        class Interrupting(FileSource):
            def resume(self, pts: int) -> FileSource | None:  # noqa: ARG002
                return Opening(clip)

        class Opening(FileSource):
            def open(self) -> StreamInfo:
                second_pass.interrupt()
                return super().open()

        second_pass = SecondPass(Interrupting(clip))
        with pytest.raises(Aborted):
            second_pass.find(stamp(0))


def test_images_seen_in_rgb_keep_no_threads() -> None:
    """A callback may look at every frame of a long shot, all of which are kept."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("threads are counted in /proc, which is Linux's")
    frames = list(ScriptedSource(20).frames())
    before = len(list(tasks.iterdir()))
    seen = [frame.to_rgb().mean() for frame in frames]
    assert seen == list(range(20))
    assert len(list(tasks.iterdir())) <= before + 2

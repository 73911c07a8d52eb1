"""The window on a fake: keys, looks, pacing, and what keeps one from opening."""

from __future__ import annotations

import os
import threading
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from streamdepth.core.errors import DisplayError, StopPipeline, UsageError
from streamdepth.core.frame import ColorTags
from streamdepth.core.look import Look, LookControl, Upsampling, View
from streamdepth.sinks.window.backend import Cv2Backend, check_display
from streamdepth.sinks.window.controls import HELP, change_look, draw_lines
from streamdepth.sinks.window.sink import WindowSink, to_bgr
from tests.support.clock import ManualClock
from tests.support.screen import FakeWindow
from tests.support.sinks import control, image_info, paint, result, stream_info

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from streamdepth.core.frame import Result

INFO = stream_info(width=320, height=180, pix_fmt="rgb24")


def fake(**more: Any) -> tuple[WindowSink, FakeWindow, ManualClock]:
    clock = ManualClock()
    window = FakeWindow(clock)
    sink = WindowSink(control=more.pop("control", control()), clock=clock, backend=window, **more)
    sink.open(INFO, image_info(INFO))
    return sink, window, clock


def image_at(index: int, *, rate: int = 25) -> Result:
    return result(paint(320, 180, index, "rgb24"), index, index=index, time_base=Fraction(1, rate))


def test_keys_change_the_look() -> None:
    look = LookControl(Look())
    styles = ["inferno", "jet", "hot"]

    def press(*keys: str) -> Look:
        for key in keys:
            assert change_look(key, look, styles)
        return look.look

    assert press("s").style == "jet"
    assert press("s", "s").style == "inferno"
    assert press("S").style == "hot"
    assert [press("v").view for _ in View] == [View.OVERLAY, View.SIDE, View.STACK, View.DEPTH]
    assert press("a").alpha == (0.3, 0.3)
    assert press("A").alpha is None
    assert press("A").alpha == (0.0, 1.0)
    assert press("]").alpha == (0.05, 1.0)
    assert press("{", "{").alpha == (0.05, 0.9)
    assert press("[", "[", "}").alpha == (0.0, 0.95)
    assert press("r").reverse
    assert [press("c").contours for _ in range(4)] == [8, 16, 32, 0]
    assert press("b").bar
    assert press("g").upsampling is Upsampling.GUIDED
    assert press("g").upsampling is Upsampling.BILINEAR
    assert change_look("x", look, styles) is None
    look.update(style=((0.0, (0, 0, 0)), (1.0, (255, 255, 255))))
    assert press("s").style == "inferno"


def test_every_key_of_the_help_does_something(tmp_path: Path) -> None:
    for keys, _ in HELP:
        for key in (" ",) if keys == "space" else keys.split():
            look = control()
            sink, window, _ = fake(control=look, snapshot_folder=tmp_path)
            sink.process(image_at(0))
            before = (look.look, len(window.shown), window.fullscreen)
            window.keys = [key]
            if key == "q":
                with pytest.raises(StopPipeline):
                    sink.idle()
            else:
                sink.idle()
                assert (look.look, len(window.shown), window.fullscreen) != before, key
    assert [path.name for path in tmp_path.iterdir()] == ["streamdepth-000000.png"]


def test_escape_and_closing_end_the_run() -> None:
    sink, window, _ = fake()
    sink.process(image_at(0))
    window.keys = ["\x1b"]
    with pytest.raises(StopPipeline):
        sink.idle()
    window.visible = False
    with pytest.raises(StopPipeline):
        sink.process(image_at(1))
    sink.close()
    sink.close()
    sink.idle()
    assert window.destroyed == 1


def test_a_live_window_shows_at_once_and_pause_holds_the_image() -> None:
    sink, window, _ = fake()
    assert sink.live
    assert sink.on_caller_thread
    assert window.size == (480, 270)
    for index in range(3):
        sink.process(image_at(index))
    window.keys = [" "]
    sink.idle()
    count = len(window.shown)
    for index in range(3, 6):
        sink.process(image_at(index))
    assert sink.counts == {"paused": 3}
    assert len(window.shown) == count
    window.keys = [" "]
    sink.idle()
    sink.process(image_at(6))
    expected = paint(320, 180, 6, "rgb24").to_ndarray()[:60, ..., ::-1]
    assert np.array_equal(window.shown[-1][1][:60], expected)


def test_a_paced_window_keeps_the_films_time() -> None:
    sink, window, clock = fake(paced=True)
    assert not sink.live
    started = clock.now_ns
    stamps = [0, 1, 2, 5, 6]
    for index in stamps:
        sink.process(image_at(index))
    at = [round((now - started) / 1e6) for now, _ in window.shown]
    assert at[: len(stamps)] == pytest.approx([40 * stamp for stamp in stamps], abs=3)
    assert sink.counts == {}


def test_late_images_are_left_out_here_and_counted() -> None:
    sink, window, clock = fake(paced=True)
    for index in range(3):
        sink.process(image_at(index))
    clock.advance(0.3)  # a hiccup
    shown = len(window.shown)
    for index in range(3, 20):
        sink.process(image_at(index))
    assert 1 <= sink.counts["late"] <= 10
    assert len(window.shown) - shown == 17 - sink.counts["late"]


def test_a_run_that_cannot_keep_up_shows_all_it_has() -> None:
    sink, window, clock = fake(paced=True)
    for index in range(20):
        clock.advance(0.25)  # the model's time, at 25 images a second of film
        sink.process(image_at(index))
    assert sink.counts == {}
    assert len(window.shown) >= 20


def test_pause_holds_up_a_paced_run_and_its_clock() -> None:
    sink, window, clock = fake(paced=True)
    sink.process(image_at(0))
    window.keys = [" "]
    sink.idle()
    polls = 0

    def unpause() -> None:
        nonlocal polls
        polls += 1
        if polls == 50:
            window.keys = [" "]

    window.on_poll = unpause
    before = clock.now_ns
    sink.process(image_at(1))
    assert polls >= 50
    resumed = clock.now_ns
    assert resumed - before > 400_000_000
    sink.process(image_at(2))
    assert clock.now_ns - resumed == pytest.approx(40_000_000, abs=4_000_000)
    assert sink.counts == {}


def test_interrupt_ends_a_pause_and_a_wait() -> None:
    sink, window, _ = fake(paced=True)
    sink.process(image_at(0))
    window.keys = [" "]
    sink.idle()
    entered, left = threading.Event(), threading.Event()
    window.on_poll = entered.set

    def show() -> None:
        sink.process(image_at(10**6))
        left.set()

    threading.Thread(target=show, daemon=True).start()
    assert entered.wait(5)
    sink.interrupt()
    assert left.wait(1)


def test_a_look_acts_at_once_on_a_paused_image() -> None:
    for paced in (False, True):
        sink, window, _ = fake(paced=paced)
        sink.process(image_at(0))
        window.keys = [" "]
        sink.idle()
        shapes = []
        for key in ("s", "v", "v", "v", "v"):
            before = window.shown[-1][1]
            window.keys = [key]
            sink.idle()
            assert not np.array_equal(window.shown[-1][1], before)
            shapes.append((window.shown[-1][1].shape[:2], window.size))
        assert shapes == [
            ((180, 320), (480, 270)),
            ((180, 320), (480, 270)),
            ((180, 640), (640, 180)),
            ((360, 320), (480, 540)),
            ((180, 320), (480, 270)),
        ]


def test_images_coloured_before_a_look_changed_are_shown_in_the_new_one() -> None:
    look = control()
    sink, window, clock = fake(control=look)

    def first_rows(index: int, captured_ns: int) -> NDArray[np.uint8]:
        image = paint(320, 180, index, "rgb24")
        sink.process(result(image, index, index=index, time_base=Fraction(1, 25), captured_ns=captured_ns))
        return window.shown[-1][1][:60]

    def as_painted(index: int) -> NDArray[np.uint8]:
        return np.asarray(paint(320, 180, index, "rgb24").to_ndarray()[:60, ..., ::-1], np.uint8)

    assert np.array_equal(first_rows(0, clock.now_ns), as_painted(0))
    captured_ns = clock.now_ns
    clock.advance(0.1)
    look.update(reverse=True)
    assert not np.array_equal(first_rows(1, captured_ns), as_painted(1))
    clock.advance(0.1)
    assert np.array_equal(first_rows(2, clock.now_ns), as_painted(2))


def test_an_interrupt_closes_the_window_and_the_next_image_ends_the_run() -> None:
    sink, window, _ = fake(paced=True)
    sink.process(image_at(0))
    window.keys = [" "]
    sink.idle()

    def press_ctrl_c() -> None:
        raise KeyboardInterrupt

    window.on_poll = press_ctrl_c
    with pytest.raises(KeyboardInterrupt):
        sink.process(image_at(1))
    with pytest.raises(StopPipeline):
        sink.process(image_at(2))
    with pytest.raises(StopPipeline):
        sink.idle()
    assert window.destroyed >= 1


def test_figures_help_and_messages_come_and_go() -> None:
    sink, window, clock = fake(figures=False)
    clock.advance(10)
    sink.process(image_at(0))
    plain = window.shown[-1][1]
    for keys in ("i", "h"):
        window.keys = [keys]
        sink.idle()
        assert not np.array_equal(window.shown[-1][1], plain)
        window.keys = [keys]
        sink.idle()
        assert np.array_equal(window.shown[-1][1], plain)
    window.keys = [" "]
    sink.idle()
    assert not np.array_equal(window.shown[-1][1], plain)
    clock.advance(3)
    sink.idle()
    assert np.array_equal(window.shown[-1][1], plain)


def test_a_snapshot_that_cannot_be_saved_does_not_end_the_run(tmp_path: Path) -> None:
    sink, window, _ = fake(snapshot_folder=tmp_path / "missing")
    sink.process(image_at(0))
    window.keys = ["p"]
    sink.idle()
    assert len(window.shown) == 2


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (64, 48)])
def test_text_fits_any_image(size: tuple[int, int]) -> None:
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    draw_lines(image, HELP)
    draw_lines(image, [("a message longer than the image is wide",)], bottom=True)
    assert image.shape == (size[1], size[0], 3)


def test_images_of_every_kind_can_be_shown() -> None:
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:, 16:] = (250, 0, 0, 255)
    shown = to_bgr(av.VideoFrame.from_ndarray(rgba, format="rgba"))
    assert shown[0, 0].tolist() == [102, 102, 102]
    assert shown[0, 31].tolist() == [0, 0, 250]
    red = av.VideoFrame.from_ndarray(np.full((32, 32, 3), (200, 30, 30), np.uint8), format="rgb24")
    for pix_fmt, full in (("yuv420p", False), ("yuv420p", True), ("yuv444p10le", False), ("gray", True)):
        tags = ColorTags(matrix=1, range=2 if full else 1)
        image = red.reformat(format=pix_fmt, dst_colorspace=1, src_color_range=2, dst_color_range=2 if full else 1)
        tags.apply(image)
        pixel = to_bgr(image)[16, 16].astype(int)
        expected = [81, 81, 81] if pix_fmt == "gray" else [30, 30, 200]
        assert np.abs(pixel - expected).max() <= 3, (pix_fmt, full, pixel)


def test_arguments_are_checked() -> None:
    with pytest.raises(UsageError, match="at least one style"):
        WindowSink(control=control(), styles=[])


def test_no_display_is_one_clear_line() -> None:
    with pytest.raises(DisplayError, match=r"DISPLAY is not set\); omit --show and use -o or --serve") as caught:
        check_display({}, "linux")
    assert "\n" not in str(caught.value)
    check_display({}, "darwin")


def test_a_display_that_refuses_does_not_abort_the_process() -> None:
    environ = {name: text for name, text in os.environ.items() if name != "WAYLAND_DISPLAY"}
    window = Cv2Backend(environ | {"DISPLAY": ":987"})
    with pytest.raises(DisplayError, match="the display :987 cannot be used; check DISPLAY") as caught:
        window.create("x", 64, 48)
    assert "\n" not in str(caught.value)


def test_an_opencv_without_windows_is_named(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text(
        "class error(Exception): pass\nWINDOW_NORMAL = WINDOW_KEEPRATIO = WINDOW_GUI_NORMAL = WND_PROP_VISIBLE = 0\n"
        "def namedWindow(*_):\n    raise error('The function is not implemented. Rebuild the library')\n"
        "def getWindowProperty(*_):\n    raise error('none')\n"
    )
    window = Cv2Backend(dict(os.environ) | {"PYTHONPATH": str(tmp_path), "DISPLAY": ":987"})
    with pytest.raises(DisplayError, match="this OpenCV is built without windows; pip uninstall") as caught:
        window.create("x", 64, 48)
    assert "\n" not in str(caught.value)
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1 is missing')")
    with pytest.raises(DisplayError, match="OpenCV cannot be loaded"):
        window.create("x", 64, 48)

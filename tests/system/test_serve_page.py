"""The page in a real Chromium, as a person uses it."""

from __future__ import annotations

import io
import threading
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from streamdepth.core.frame import Sense
from streamdepth.core.look import Upsampling, View
from streamdepth.depth.range import RangeMode
from streamdepth.pipeline import Pipeline
from streamdepth.serve.site import WebSink, WebSite
from streamdepth.sources.pattern import PatternSource
from tests.integration.test_serve_jobs import clip, drawn
from tests.support.models import write_depth_model
from tests.support.stages import ScriptedSource, fake_estimator
from tests.support.web import TOKEN, Browser, Running, bright, eventually, running, slide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamdepth.image.estimator import DepthEstimator

pytestmark = pytest.mark.browser

SHOWN = "!document.getElementById('transport').hidden"
ELEMENT = "document.querySelector('#stage > video:not([hidden]), #stage > img:not([hidden])')"
BOX = "document.getElementById('stage').getBoundingClientRect()"
WIDTH = f"(({ELEMENT} || {{}}).videoWidth || ({ELEMENT} || {{}}).naturalWidth)"
"""Of the image, whichever way it comes: on a starved machine WebRTC may have given way."""


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DepthEstimator]:
    from streamdepth.image.estimator import DepthEstimator

    model = write_depth_model(
        tmp_path_factory.mktemp("model") / "model.onnx", height=28, width=42, inverse=False, gain=0
    )
    with DepthEstimator(model, sense="metric_m") as made:
        yield made


@pytest.fixture(scope="module")
def run(estimator: DepthEstimator) -> Iterator[Running]:
    camera = PatternSource(width_px=320, height_px=180, rate=Fraction(20), frames=0)
    with running(source=camera, estimator=estimator, stills=estimator) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture
def page(run: Running, browser: Browser) -> Iterator[Browser]:
    """The page with a live image on it; nothing may complain in its console."""
    browser.messages.clear()
    if browser.run("location.href") != f"{run.url}/":
        browser.open(run.url)
    browser.wait(SHOWN, 15)
    yield browser
    assert browser.messages == []


def test_webrtc_shows_the_image_and_its_depth(page: Browser, run: Running) -> None:
    assert page.text("#transport") == "WebRTC"
    assert page.text("#source-text") == "test: · 320\u00d7180"
    page.wait("document.getElementById('video').videoWidth === 640")
    left, right = bright(page, "video")
    assert left > 60  # the scene, mostly light
    assert abs(left - right) > 5
    began = page.run("document.getElementById('video').currentTime")
    page.wait(f"document.getElementById('video').currentTime > {began} + 0.5")
    assert run.site.view.sampler.history[-1]["viewers"]["webrtc"] >= 1
    post = "{method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{}'}"
    answer = page.run(f"fetch('/v1/live/offer', {post}).then((answer) => answer.status)")
    assert answer == 400
    page.messages.clear()


def test_media_stays_on_the_address_of_the_page(page: Browser) -> None:
    candidates = page.run(
        """(async () => {
            const peer = new RTCPeerConnection();
            peer.addTransceiver('video', {direction: 'recvonly'});
            await peer.setLocalDescription();
            const answer = await fetch('/v1/live/offer', {method: 'POST', headers: {'Content-Type': 'application/json'},
                body: JSON.stringify(peer.localDescription)}).then((answer) => answer.json());
            peer.close();
            return answer.sdp.split('\\n').filter((line) => line.startsWith('a=candidate')).map((l) => l.split(' ')[4]);
        })()"""
    )
    assert set(candidates) == {"127.0.0.1"}


def test_motion_jpeg_takes_over_without_webrtc(run: Running, browser: Browser) -> None:
    browser.open(f"{run.url}/?transport=mjpeg")
    browser.wait(SHOWN, 15)
    assert browser.text("#transport") == "MJPEG"
    browser.wait("document.getElementById('mjpeg').naturalWidth === 640")
    assert bright(browser, "mjpeg")[0] > 60


def test_every_control_acts(page: Browser, run: Running) -> None:
    control = run.site.view.control
    for view in (View.STACK, View.OVERLAY, View.DEPTH, View.SIDE):
        page.click(f"#view [data-value={view}]")
        page.wait(f"document.querySelector('#view [data-value={view}]').getAttribute('aria-pressed') === 'true'")
        eventually(lambda view=view: control.look.view is view, f"view {view}")  # type: ignore[misc]
    page.wait(f"{WIDTH} === 640", 20)

    page.click("#palette-now")
    assert page.run("document.querySelectorAll('.palette').length") == 54
    page.run("(() => {const find = document.getElementById('palette-filter'); find.value = 'plas';"
             "find.dispatchEvent(new Event('input'))})()")  # fmt: skip
    assert page.run("[...document.querySelectorAll('.palette:not([hidden])')].map((row) => row.dataset.name)") == [
        "plasma"
    ]
    page.click(".palette:not([hidden])")
    eventually(lambda: control.look.style == "plasma", "the palette")
    page.wait("document.getElementById('palette-name').textContent === 'plasma'")

    slide(page, "alpha-near", 0.25)
    slide(page, "alpha-far", 0.75)
    slide(page, "contours", 6)
    eventually(lambda: control.look.alpha == (0.25, 0.75) and control.look.contours == 6, "the sliders")
    for name in ("reverse", "bar", "edges"):
        page.click(f"#{name}")
    eventually(lambda: control.look.reverse and control.look.bar, "the switches")
    eventually(lambda: control.look.upsampling is Upsampling.GUIDED, "edges")

    switch = run.site.view.range_switch
    assert switch is not None
    page.click("#range [data-value=frame]")
    eventually(lambda: switch.mode is RangeMode.FRAME, "a range a frame")
    page.click("#range [data-value=fixed]")
    eventually(lambda: switch.mode is RangeMode.FIXED, "a fixed range")
    page.wait("!document.getElementById('ends').hidden")
    page.run("(() => {for (const [id, value] of [['range-lo', 0.5], ['range-hi', 9]]) {const end ="
             "document.getElementById(id); end.value = value; end.dispatchEvent(new Event('change'))}})()")  # fmt: skip
    eventually(lambda: str(switch) == "fixed:0.5,9", "ends of one's own")
    page.click("#range [data-value=ema]")
    eventually(lambda: switch.mode is RangeMode.EMA, "a smooth range")

    stabilize = run.site.view.stabilize_switch
    assert stabilize is not None
    page.click("#stabilize")
    eventually(lambda: stabilize.on, "stabilization")

    page.click("#pause")
    eventually(lambda: run.site.view.feed.paused, "a pause")
    page.wait("document.getElementById('pause-text').textContent === 'Resume'")
    page.call("Input.dispatchKeyEvent", type="keyDown", key=" ", code="Space", text=" ")
    page.run("document.activeElement.blur()")
    page.call("Input.dispatchKeyEvent", type="keyUp", key=" ", code="Space")
    if run.site.view.feed.paused:
        page.click("#pause")
    eventually(lambda: not run.site.view.feed.paused, "it goes on")
    for name in ("reverse", "bar", "edges"):
        page.click(f"#{name}")
    control.update(style="inferno", alpha=None, contours=0)


def test_two_pages_agree(page: Browser, run: Running) -> None:
    run.site.view.control.update(style="viridis")
    page.wait("document.getElementById('palette-name').textContent === 'viridis'")
    run.site.view.control.update(style="inferno")
    page.wait("document.getElementById('palette-name').textContent === 'inferno'")


def test_depth_under_the_pointer_in_metres(page: Browser, run: Running) -> None:
    assert run.site.view.feed.latest is not None
    assert run.site.view.feed.latest.depth.sense is Sense.METRIC_M
    page.wait(f"{WIDTH} === 640", 20)
    left, top, width, height = page.run(
        f"(() => {{const box = {ELEMENT}.getBoundingClientRect();return [box.left, box.top, box.width, box.height]}})()"
    )
    page.point(left + width * 0.25, top + height * 0.9)
    page.wait("!document.getElementById('readout').hidden && !document.getElementById('mark-b').hidden")
    # The model's depth is 2 m at the top and 1 m at the bottom; 28 rows.
    page.wait("document.getElementById('readout-value').textContent === '1.09 m'")
    page.point(left + width * 0.75, top + height * 0.05)
    page.wait("document.getElementById('readout-value').textContent === '1.95 m'")
    page.point(2, 2)


def test_numbers_and_graphs_live(page: Browser) -> None:
    page.wait("parseFloat(document.getElementById('fps').textContent) > 5")
    page.wait("document.getElementById('latency').textContent.endsWith(' ms')")
    assert page.run("[...document.querySelectorAll('.queue')].map((row) => row.firstChild.textContent)") == [
        "captured",
        "batches",
        "depth",
        "outputs",
    ]
    for name in ("fps", "latency", "drops"):
        painted = page.run(
            f"(() => {{const canvas = document.getElementById('graph-{name}'); const pen = canvas.getContext('2d');"
            "return pen.getImageData(0, 0, canvas.width, canvas.height).data.some((v) => v > 150)})()"
        )
        assert painted, name


def test_snapshot_saves_image_and_depth(page: Browser) -> None:
    page.click("#snapshot")
    eventually(
        lambda: len(list(page.downloads.glob("*.np[gy]")) + list(page.downloads.glob("*.png"))) >= 2, "two files"
    )
    (depth_file,) = page.downloads.glob("*.npy")
    (image_file,) = page.downloads.glob("*.png")
    assert depth_file.stem.removeprefix("streamdepth-depth") == image_file.stem.removeprefix("streamdepth-image")
    assert np.load(depth_file).dtype == np.float32
    with Image.open(image_file) as image:
        assert image.size == (640, 180)


def test_a_dropped_video_comes_back(page: Browser, tmp_path: Path) -> None:
    clip(tmp_path, 30)
    page.drop_file("#file", tmp_path / "clip.mp4")
    page.wait("document.querySelector('.job progress') || document.querySelector('.job video')")
    page.wait("document.querySelector('.job video') && document.querySelector('.job video').videoWidth === 128", 30)
    assert page.text(".job p").startswith("30 frames")
    data = page.run("fetch(document.querySelector('.job a').href).then((a) => a.blob()).then((b) => b.size)")
    assert data > 500
    page.click(".job .actions button")
    page.wait("!document.querySelector('.job')")


def test_a_dropped_video_of_an_odd_size_plays(page: Browser, tmp_path: Path) -> None:
    drawn(tmp_path / "odd.gif", "gif", (63, 47), "rgb8")
    page.drop_file("#file", tmp_path / "odd.gif")
    page.wait("document.querySelector('.job video') && document.querySelector('.job video').videoHeight === 47", 30)
    assert "written as VP9" in page.text(".job p")
    page.click(".job .actions button")
    page.wait("!document.querySelector('.job')")


def test_a_dropped_image_comes_back_at_once(page: Browser, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)).save(out, "PNG")
    path.write_bytes(out.getvalue())
    page.drop_file("#file", path)
    page.wait("document.querySelector('.job img') && document.querySelector('.job img').naturalWidth === 60")
    page.click(".job .actions button")


def test_a_file_that_is_no_video_says_so(page: Browser, tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("no video " * 50)
    page.drop_file("#file", path)
    page.wait("document.querySelector('.job.failed')", 20)
    assert "not a video file" in page.text(".job p")
    page.click(".job .actions button")


def test_nothing_is_wider_than_a_phone(page: Browser) -> None:
    page.viewport(390, 844, mobile=True)
    assert page.run("document.documentElement.scrollWidth") <= 390
    small = page.run(
        "[...document.querySelectorAll('button, .switch')].filter((one) => one.offsetParent && one.offsetHeight < 36)"
        ".map((one) => one.id || one.textContent)"
    )
    assert small == []
    page.viewport(1440, 900)


def test_the_page_comes_back_when_the_server_does(browser: Browser) -> None:
    with running() as run:
        port = run.site.port
        browser.open(run.url)
        browser.wait(SHOWN, 15)
    browser.wait("document.getElementById('source-text').textContent === 'server not reachable'")
    with running(url=f"http://127.0.0.1:{port}"):
        browser.wait(SHOWN, 20)
    browser.messages.clear()


def test_a_closed_page_harms_nobody(run: Running) -> None:
    with Browser() as other:
        other.open(run.url)
        other.wait(SHOWN, 15)
        assert run.site.view.sampler.history
    # The first page may still be open; the second's connection does not linger until ICE gives up.
    eventually(
        lambda: max(run.site.view.sampler.history[-1]["viewers"].values()) <= 1, "the socket and its peer are gone"
    )
    count = run.site.view.feed.count
    eventually(lambda: run.site.view.feed.count > count + 3, "images go on")


def test_the_token_is_asked_for_once_and_hidden(browser: Browser) -> None:
    with running(token=TOKEN) as run:
        browser.open(run.url)
        assert browser.run("!!document.getElementById('login')")
        assert TOKEN in run.site.entry_url
        browser.call("Page.navigate", url=run.site.entry_url)
        browser.wait("document.getElementById('stage')", 15)
        assert TOKEN not in browser.run("location.href")
        browser.wait(SHOWN, 15)
        browser.open(run.url)
        browser.wait(SHOWN, 15)
        browser.run("fetch('/v1/state').then((a) => a.text())")
    browser.messages.clear()


def test_a_camera_that_is_away_is_shown_as_such(browser: Browser) -> None:
    class Camera(ScriptedSource):
        @property
        def status(self) -> dict[str, str | int]:
            return {"state": "waiting", "last_error": "no route to the camera"}

    stop = threading.Event()
    camera = Camera(1000, live=True, before=lambda index: void(index > 2 and stop.wait(20)))
    with running(source=camera, estimator=fake_estimator()) as run:
        browser.open(run.url)
        browser.wait("document.getElementById('source-text').textContent === 'scripted · reconnecting'")
        assert "no route" in browser.run("document.getElementById('source').title")
        browser.wait("document.getElementById('toasts').textContent.includes('no route to the camera; next attempt')")
        stop.set()
    browser.messages.clear()


def test_several_sources_are_chosen_by_their_frames(browser: Browser) -> None:
    site = WebSite("http://127.0.0.1:0", environ={})
    pause = threading.Event()
    cameras = [
        ScriptedSource(100_000, name=name, live=True, before=lambda _: void(pause.wait(0.02))) for name in ("a", "b")
    ]
    sinks = {one.id: WebSink(site=site, view=site.add_view(one.id), source=one) for one in cameras}
    with Pipeline(cameras, fake_estimator(), lambda source: [sinks[source.id]]) as pipeline:
        for sink in sinks.values():
            sink.watch(pipeline)
        runner = threading.Thread(target=pipeline.run)
        runner.start()
        try:
            eventually(lambda: all(view.feed.latest for view in site.views), "both views have frames")
            browser.open(site.address)
            browser.wait("document.querySelectorAll('#sources .source img').length === 2")
            browser.wait("[...document.querySelectorAll('.source img')].every((image) => image.naturalWidth > 0)")
            browser.wait("document.getElementById('source-text').textContent.startsWith('a')")
            browser.click(".source[data-name='b']")
            browser.wait("document.getElementById('source-text').textContent.startsWith('b')")
            browser.wait(SHOWN)
            browser.click("#view button[data-value='depth']")
            eventually(lambda: site.views[1].control.look.view is View.DEPTH, "the control of b")
            assert site.views[0].control.look.view is View.SIDE
        finally:
            pipeline.abort()
            runner.join(20)
            browser.messages.clear()


def test_on_a_phone_the_frame_stays_visible_while_controls_move(browser: Browser, run: Running) -> None:
    browser.viewport(390, 844, mobile=True)
    try:
        browser.open(run.url)
        browser.wait(SHOWN)
        browser.run("document.getElementById('contours').scrollIntoView({block: 'end'})")
        box = browser.run(
            "(({top, bottom}) => [top, bottom])(document.getElementById('stage').getBoundingClientRect())"
        )
        assert 0 <= box[0] < box[1] <= 844 * 0.6
        assert browser.run("document.documentElement.scrollWidth") <= 390
    finally:
        browser.viewport(1440, 900)


def test_without_a_live_source_it_says_what_can_be_done(browser: Browser, estimator: DepthEstimator) -> None:
    site = WebSite("http://127.0.0.1:0", estimator=estimator, environ={})
    site.start()
    try:
        browser.open(site.address)
        browser.wait("document.getElementById('empty-text').textContent.includes('Drop a video')")
        browser.wait("!document.getElementById('drop').hidden")
    finally:
        site.stop()
        browser.messages.clear()


def void(_: object) -> None:
    return None

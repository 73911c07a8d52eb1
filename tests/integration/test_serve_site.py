"""The site as programs see it: live images, controls, numbers."""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
import urllib.request
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from streamdepth.core.errors import SinkError
from streamdepth.core.frame import DepthMap, DepthRange, Frame, Result, Sense
from streamdepth.serve.site import WebSink, WebSite
from streamdepth.serve.view import Metrics
from tests.support.stages import ScriptedSource, flat_image
from tests.support.web import Running, eventually, http, read_parts, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdepth.serve.view import LiveView


@pytest.fixture(scope="module")
def run() -> Iterator[Running]:
    with running() as started:
        yield started


# Live images ------------------------------------------------------------------------------------------------------


def test_motion_jpeg_shows_new_images(run: Running) -> None:
    with urllib.request.urlopen(f"{run.url}/v1/live.mjpg", timeout=10) as answer:
        assert answer.headers.get_content_type() == "multipart/x-mixed-replace"
        images = read_parts(answer, 3)
    assert len(set(images)) == 3
    assert {Image.open(io.BytesIO(one)).size for one in images} == {(640, 180)}  # side by side
    eventually(lambda: http(f"{run.url}/v1/state").json["stats"]["viewers"]["mjpeg"] == 0, "the viewer is let go")


def test_one_image(run: Running) -> None:
    answer = http(f"{run.url}/v1/live.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "no-store"
    assert Image.open(io.BytesIO(answer.body)).size == (640, 180)


def test_snapshot_holds_one_moment(run: Running) -> None:
    held = http(f"{run.url}/v1/live/snapshot", method="POST").json
    shown = run.site.view.feed.held(int(re.findall(r"\d+", held["image"])[-1]))
    assert shown is not None
    assert shown.index == held["frame"]
    image = Image.open(io.BytesIO(http(run.url + held["image"]).body))
    assert np.array_equal(np.asarray(image), shown.image.to_ndarray(format="rgb24"))
    depth = np.load(io.BytesIO(http(run.url + held["depth"]).body))
    assert depth.dtype == np.float32
    assert np.array_equal(depth, shown.depth.values)
    for _ in range(4):
        next_image(run)
        http(f"{run.url}/v1/live/snapshot", method="POST")
    assert http(run.url + held["depth"]).status == 404


def next_image(run: Running) -> None:
    count = run.site.view.feed.count
    eventually(lambda: run.site.view.feed.count > count, "another image")


def test_depth_at_a_point(run: Running) -> None:
    control(run, range="frame")
    next_image(run)
    next_image(run)
    found = http(f"{run.url}/v1/live/probe?x=0.99&y=0.99").json
    control(run, range="ema")
    assert found["sense"] == "relative_inverse"
    assert found["unit"] is None
    assert found["nearness"] == pytest.approx(1)  # the stub's depth rises to its last pixel
    assert http(f"{run.url}/v1/live/probe?x=left").status == 400


# Controls -----------------------------------------------------------------------------------------------------------


def control(run: Running, **content: Any) -> Any:
    return http(f"{run.url}/v1/control", body=content)


def image_size(run: Running) -> tuple[int, int]:
    return Image.open(io.BytesIO(http(f"{run.url}/v1/live.jpg").body)).size


@pytest.mark.slow
def test_controls_act_on_the_next_image(run: Running) -> None:
    try:
        for view, size in (("stack", (320, 360)), ("overlay", (320, 180)), ("depth", (320, 180)), ("side", (640, 180))):
            answer = control(run, view=view)
            assert answer.json["look"]["view"] == view
            while image_size(run) != size:
                next_image(run)
        state = control(run, style="turbo", alpha=[0.2, 0.9], reverse=True, contours=5, bar=True, edges="guided").json
        assert state["look"] == {
            "style": "turbo",
            "alpha": [0.2, 0.9],
            "alpha_set": True,
            "reverse": True,
            "view": "side",
            "contours": 5,
            "bar": True,
            "edges": "guided",
        }
        count = run.site.view.feed.count
        eventually(lambda: run.site.view.feed.count > count + 1, "images in that look")
    finally:
        control(run, style="inferno", alpha=None, reverse=False, contours=0, bar=False, edges="bilinear")


def shown_range(run: Running) -> DepthRange | None:
    latest = run.site.view.feed.latest
    return latest.range if latest is not None else None


def test_range_changes_while_it_runs(run: Running) -> None:
    assert control(run, range="fixed:-100,100").json["range"]["mode"] == "fixed:-100,100"
    eventually(lambda: shown_range(run) == DepthRange(-100, 100), "the new range")
    assert control(run, range="frame").json["range"]["mode"] == "frame"
    eventually(lambda: shown_range(run) != DepthRange(-100, 100), "its own range")
    assert "shot" in control(run, range="shot").error
    control(run, range="ema")


def test_stabilization_changes_while_it_runs(run: Running) -> None:
    assert http(f"{run.url}/v1/state").json["stabilize"] == {"on": False, "switchable": True}
    for on in (True, False):
        assert control(run, stabilize=on).json["stabilize"]["on"] is on
        eventually(lambda on=on: shown_depth(run).stabilized is on, "stabilized depth")  # type: ignore[misc]


def shown_depth(run: Running) -> DepthMap:
    latest = run.site.view.feed.latest
    assert latest is not None
    return latest.depth


def test_pause_holds_the_image_and_counts_what_it_hides(run: Running) -> None:
    before = run.site.view.feed.dropped.get("paused", 0)
    control(run, paused=True)
    held = run.site.view.feed.count
    eventually(lambda: run.site.view.feed.dropped.get("paused", 0) > before + 3, "images go by unseen")
    assert run.site.view.feed.count - held <= 1
    shown = run.site.view.feed.latest
    assert shown is not None
    control(run, view="depth", range="fixed:-5,5")  # the image that stands takes the new look
    assert image_size(run) == (320, 180)
    assert shown_range(run) == DepthRange(-5, 5)
    assert run.site.view.feed.latest is not None
    assert run.site.view.feed.latest.index == shown.index
    held = run.site.view.feed.count
    control(run, paused=False, view="side", range="ema")
    eventually(lambda: run.site.view.feed.count > held + 1, "images again")


@pytest.mark.parametrize(
    "content",
    [
        {"style": "nosuch"},
        {"style": "/etc/passwd"},
        {"style": "stops.yaml"},
        {"style": [[0, "#000000"]]},
        {"alpha": "much"},
        {"alpha": [0.1, 0.2, 0.3]},
        {"view": "top"},
        {"contours": 1.5},
        {"contours": 65},
        {"reverse": "maybe"},
        {"paused": "yes"},
        {"range": "fixed:2,1"},
        {"range": 7},
        {"stabilize": "on"},
        {"colour": "red"},
        {"view": "depth", "bar": None},
    ],
)
def test_what_a_control_cannot_be(run: Running, content: dict[str, Any]) -> None:
    before = http(f"{run.url}/v1/state").json["look"]
    answer = control(run, **content)
    assert answer.status == 400
    assert answer.error
    assert http(f"{run.url}/v1/state").json["look"] == before


@settings(max_examples=40)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=8), st.lists, max_leaves=4))
@pytest.mark.slow
def test_no_control_breaks_the_server(run: Running, value: Any) -> None:
    for key in ("style", "alpha", "view", "contours", "edges"):
        body = json.dumps({key: value}).encode()
        answer = http(f"{run.url}/v1/control", body=body, kind="application/json")
        assert answer.status in (200, 400), answer.body
    control(run, style="inferno", alpha=None, view="side", contours=0, edges="bilinear")


def test_what_was_fixed_for_the_run_cannot_change() -> None:
    site = WebSite("http://127.0.0.1:0", environ={})
    site.start()
    try:
        for change in ({"range": "ema"}, {"stabilize": True}):
            answer = http(f"{site.address}/v1/control", body=change)
            assert answer.status == 400
            assert "cannot change" in answer.error
    finally:
        site.stop()


# Numbers ------------------------------------------------------------------------------------------------------------


def test_the_socket_pushes_state_and_numbers_and_answers_points(run: Running) -> None:
    import aiohttp

    async def talk() -> dict[str, Any]:
        found: dict[str, Any] = {}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{run.url}/v1/live/socket") as socket,
            asyncio.timeout(10),
        ):
            await socket.send_str("garbage")
            await socket.send_json({"type": "probe", "x": 0.5, "y": 0.5})
            while not {"history", "state", "stats", "depth", "error"} <= found.keys():
                message = await socket.receive_json()
                found[message["type"]] = message
        return found

    found = asyncio.run(talk())
    assert found["state"]["source"]["id"] == "test:"
    assert found["depth"]["value"] is not None
    stats = found["stats"]
    assert stats["captured"] >= stats["processed"] > 0
    assert stats["queues"].keys() >= {"frame_queue", "batches", "depths", "sinks"}
    eventually(lambda: run.site.view.sampler.history[-1]["fps"] > 5, "frames a second")


def test_metrics_are_prometheus_text(run: Running) -> None:
    eventually(lambda: any(one["processed"] for one in run.site.view.sampler.history), "a sample with frames")
    answer = http(f"{run.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    sample = re.compile(r'[a-z_]+(\{([a-z_]+="([^"\\]|\\.)*",?)+\})? -?[0-9.e+-]+')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['streamdepth_frames_processed_total{source="test:"}']) > 0
    assert 'streamdepth_latency_seconds{quantile="0.95",source="test:"}' in values


@given(st.text(max_size=30))
def test_metric_labels_are_escaped(value: str) -> None:
    out = Metrics(version=value, views=(), sinks=(), images={}, jobs={}).text().decode()
    # Split as the format does, on line feeds only.
    (line,) = [line for line in out.split("\n") if line and not line.startswith("#")]
    inside = line.removeprefix('streamdepth_info{version="').removesuffix('"} 1.0')
    assert re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], inside, flags=re.S) == value


# Its sink and its source --------------------------------------------------------------------------------------------


def test_a_sink_of_its_own_opens_and_closes_its_site() -> None:
    from streamdepth.pipeline import Pipeline
    from tests.support.stages import fake_estimator

    seen: list[int] = []
    sink = WebSink("http://127.0.0.1:0")

    def look(index: int) -> None:
        if index == 5:
            seen.append(http(f"{sink.site.address}/healthz").status)

    with Pipeline([ScriptedSource(8, before=look)], fake_estimator(), [sink]) as pipeline:
        sink.watch(pipeline)
        stats = pipeline.run()
    assert seen == [200]
    (books,) = stats.sinks
    assert books.written + sum(books.dropped.values()) == stats.processed == 8
    with pytest.raises(SinkError, match="not open"):
        sink.process(Result(Frame("s", 0, 0, Fraction(1), 0, flat_image(0)), *_depth(), flat_image(0)))


def _depth() -> tuple[DepthMap, DepthRange]:
    return DepthMap(np.zeros((2, 2), np.float32), Sense.METRIC_M), DepthRange(0, 1)


def test_one_site_shows_one_source(run: Running) -> None:
    sink = WebSink(site=run.site)
    stream = run.site.view.stream
    assert stream is not None
    from streamdepth.core.frame import ImageInfo

    with pytest.raises(SinkError, match="already"):
        sink.open(stream, ImageInfo(2, 2, "rgb24"))
    with pytest.raises(SinkError, match="look"):
        sink.open(stream, None)


def test_the_state_of_a_live_source_is_shown() -> None:
    class Camera(ScriptedSource):
        @property
        def status(self) -> dict[str, str | int]:
            return {"state": "waiting", "reconnects": 3, "last_error": "no route to rtsp://***@cam/"}

    release = threading.Event()
    camera = Camera(1000, live=True, before=lambda index: void(index and release.wait(0.02)))
    with running(source=camera) as run:
        status = http(f"{run.url}/v1/state").json["source"]["status"]
        assert status == camera.status
        metrics = http(f"{run.url}/metrics").body.decode()
        assert 'streamdepth_source_state{source="scripted",state="waiting"} 1.0' in metrics
        assert 'streamdepth_source_events_total{event="reconnects",source="scripted"} 3.0' in metrics
        release.set()


def void(_: object) -> None:
    return None


def test_a_site_shows_several_sources() -> None:
    from streamdepth.core.look import Look, LookControl
    from streamdepth.pipeline import Pipeline
    from tests.support.stages import fake_estimator

    site = WebSite("http://127.0.0.1:0", environ={})
    cameras = [ScriptedSource(100_000, name=name, live=True, before=lambda _: pause()) for name in ("a", "b")]
    views = [site.add_view(camera.id, control=LookControl(Look())) for camera in cameras]
    sinks = {
        camera.id: WebSink(site=site, view=view, source=camera) for camera, view in zip(cameras, views, strict=True)
    }
    with Pipeline(cameras, fake_estimator(), lambda source: [sinks[source.id]]) as pipeline:
        for sink in sinks.values():
            sink.watch(pipeline)
        runner = threading.Thread(target=pipeline.run)
        runner.start()
        try:
            for view in views:
                eventually(partial(is_running, view), "frames")
            url = site.address
            assert http(f"{url}/v1/state").json["sources"] == [{"id": name, "shown": True} for name in ("a", "b")]
            assert http(f"{url}/v1/state").json["source"]["id"] == "a"
            assert http(f"{url}/v1/state?source=b").json["source"]["id"] == "b"
            assert http(f"{url}/v1/live.jpg?source=b").headers["content-type"] == "image/jpeg"
            assert "there are a, b" in http(f"{url}/v1/live.jpg?source=c").error
            assert http(f"{url}/v1/control?source=b", body={"style": "viridis"}).json["look"]["style"] == "viridis"
            assert http(f"{url}/v1/state").json["look"]["style"] == "inferno"
            held = http(f"{url}/v1/live/snapshot?source=b", method="POST").json
            assert http(url + held["image"]).status == 200
            assert http(url + held["image"].partition("?")[0]).status in (200, 404)  # of source a, if it has the number
            metrics = http(f"{url}/metrics").body.decode()
            assert 'frames_processed_total{source="a"}' in metrics
            assert 'frames_processed_total{source="b"}' in metrics
        finally:
            pipeline.abort()
            runner.join(20)
    with pytest.raises(OSError, match="refused"):
        http(f"{url}/healthz")


def pause() -> None:
    threading.Event().wait(0.02)


def is_running(view: LiveView) -> bool:
    return view.feed.count > 2 and bool(view.sampler.history) and view.sampler.history[-1]["processed"] > 1

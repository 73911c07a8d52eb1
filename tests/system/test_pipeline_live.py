"""A whole run, camera to viewers, through faults: every frame is in the books."""

from __future__ import annotations

import threading
from random import Random
from typing import TYPE_CHECKING

import pytest

from streamdepth.core.look import Look, LookControl
from streamdepth.pipeline import Pipeline
from streamdepth.sinks.rtsp.publish import RtspPublishSink
from streamdepth.sinks.rtsp.server import RtspServerSink
from streamdepth.sources.live.source import LiveSource, LiveState
from tests.support.rtsp import GstServer, wait_until, watch
from tests.support.stages import fake_estimator

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.pipeline import RunStats


def restart(server: GstServer, source: LiveSource) -> None:
    server.kill()
    assert wait_until(lambda: source.state is not LiveState.LIVE)
    server.start(size="320x240")


def freeze(server: GstServer, source: LiveSource) -> None:
    server.freeze()
    assert wait_until(lambda: source.last_error != "")
    server.thaw()


@pytest.mark.parametrize("fault", [restart, freeze])
def test_camera_to_viewers(fault: Callable[[GstServer, LiveSource], None]) -> None:
    with GstServer() as camera, GstServer() as relay:
        source = LiveSource(camera.url("/cam"), timeout_seconds=1.5, retries=50, random=Random(1), environ={})
        served = RtspServerSink("rtsp://127.0.0.1:0/depth", control=LookControl(Look()), environ={})
        published = RtspPublishSink(relay.url("/in"), control=LookControl(Look()), timeout_seconds=1.5, environ={})
        done: list[RunStats] = []
        with Pipeline([source], fake_estimator(), [served, published]) as pipeline:
            run = threading.Thread(target=lambda: done.append(pipeline.run()))
            run.start()
            assert wait_until(lambda: served.state == "serving" and source.state is LiveState.LIVE)
            assert len(watch(f"rtsp://127.0.0.1:{served.port}/depth", 5)) == 5
            fault(camera, source)
            assert wait_until(lambda: source.state is LiveState.LIVE and source.last_error == "", 20)
            images = watch(f"rtsp://127.0.0.1:{served.port}/depth", 5)
            assert {(image.width, image.height) for image in images} == {(160, 96)}
            assert len(watch(relay.url("/relay"), 5)) == 5
            pipeline.stop()
            run.join(10)
            assert not run.is_alive()
        (stats,) = done
        assert stats.captured == stats.processed + sum(stats.dropped.values())
        assert stats.processed > 10
        assert source.reconnects >= 1
        assert source.state is LiveState.CLOSED
        assert published.state == served.state == "closed"

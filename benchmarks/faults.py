"""Faults of live video, provoked with real servers and players: result, time to detection, time to recovery.

    python benchmarks/faults.py [--only WORD] [--json FILE]

Each row is one run with the default timeouts (3 s without data is a fault). Detection time counts from the fault,
recovery time from the moment the other side works again to the next frame. Every run must satisfy captured =
processed + dropped. Requires GStreamer's RTSP server for Debian's Python, as the tests do; takes 2 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.peers import Player, RtspServer, frames, listener, send_garbage, send_nothing
from support.timing import machine

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, SourceError
from streamdepth.core.look import Look, LookControl, View
from streamdepth.image.estimator import DepthEstimator
from streamdepth.pipeline import Pipeline, RunStats
from streamdepth.sinks.rtsp.publish import RtspPublishSink
from streamdepth.sinks.rtsp.server import RtspServerSink
from streamdepth.sources.live.source import LiveSource, LiveState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamdepth.core.contracts import Sink
    from streamdepth.core.frame import Result

_WARM_FRAMES = 25
_DOWN_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Row:
    fault: str
    seen: str
    noticed_seconds: float | None = None
    recovered_seconds: float | None = None
    counts: str = "nothing captured"


class Ticker(BaseSink):
    """Counts frames that leave the pipeline."""

    def __init__(self) -> None:
        super().__init__("ticker", LookControl(Look()))
        self.count = 0

    @property
    def live(self) -> bool:
        return True

    def process(self, result: Result) -> None:  # noqa: ARG002 - only the count matters
        self.count += 1


class Run:
    """A pipeline from a camera to sinks, on a separate thread."""

    def __init__(self, estimator: DepthEstimator, url: str, *sinks: Sink) -> None:
        self.source = LiveSource(url, retries=100)
        self._ticker = Ticker()
        self._pipeline = Pipeline([self.source], estimator, [self._ticker, *sinks])
        self._stats: list[RunStats] = []
        self._thread = threading.Thread(target=lambda: self._stats.append(self._pipeline.run()))

    def __enter__(self) -> Run:
        self._thread.start()
        self.frames(_WARM_FRAMES)
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline.stop()
        self._thread.join(_PATIENCE_SECONDS)

    def frames(self, count: int) -> float:
        """Seconds until ``count`` more frames have left the pipeline."""
        wanted = self._ticker.count + count
        return seconds_until(lambda: self._ticker.count >= wanted)

    @property
    def counts(self) -> str:
        """Frame counts, after the end of the run."""
        (stats,) = self._stats
        dropped = sum(stats.dropped.values())
        if stats.captured != stats.processed + dropped:
            raise SystemExit(f"{stats.captured} captured, but {stats.processed} processed and {dropped} dropped")
        return f"{stats.captured} = {stats.processed} + {dropped}"


def seconds_until(condition: Callable[[], bool]) -> float:
    started, pause = time.monotonic(), threading.Event()
    while not condition():
        if time.monotonic() - started > _PATIENCE_SECONDS:
            raise SystemExit(f"the expected state did not occur within {_PATIENCE_SECONDS:g} s")
        pause.wait(0.005)
    return time.monotonic() - started


def stay_down() -> None:
    threading.Event().wait(_DOWN_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run only faults whose name contains this")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows = []
    with DepthEstimator("built-in") as estimator:
        for name, provoke in FAULTS.items():
            if options.only in name:
                rows.append(Row(name, **provoke(estimator)))
                print(f"{name}: {rows[-1].seen}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print(f"\n{machine()}\n")
    print("| fault | result | detected after | recovered after | captured = processed + dropped |")
    print("|---|---|---|---|---|")
    for row in rows:
        noticed, recovered = _seconds(row.noticed_seconds), _seconds(row.recovered_seconds)
        print(f"| {row.fault} | {row.seen} | {noticed} | {recovered} | {row.counts} |")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def camera_killed(estimator: DepthEstimator) -> dict[str, Any]:
    return _restarted(estimator)


def camera_changed(estimator: DepthEstimator) -> dict[str, Any]:
    found = _restarted(estimator, codec="jpeg", size="320x240")
    return {**found, "seen": f"{found['seen']}; then 160x96 as before, letterboxed"}


def _restarted(estimator: DepthEstimator, **after: str) -> dict[str, Any]:
    with RtspServer() as camera, Run(estimator, camera.url("/cam")) as run:
        camera.kill()
        noticed = seconds_until(lambda: run.source.state is not LiveState.LIVE)
        seen = run.source.last_error
        stay_down()
        camera.start(**after)
        recovered = run.frames(1)
        run.frames(_WARM_FRAMES)
    return _result(seen, noticed, recovered, run)


def camera_stopped(estimator: DepthEstimator) -> dict[str, Any]:
    with RtspServer() as camera, Run(estimator, camera.url("/cam")) as run:
        camera.signal(signal.SIGSTOP)
        noticed = seconds_until(lambda: run.source.last_error != "")
        seen = run.source.last_error
        stay_down()
        camera.signal(signal.SIGCONT)
        recovered = run.frames(1)
        run.frames(_WARM_FRAMES)
    return _result(seen, noticed, recovered, run)


def _result(seen: str, noticed: float | None, recovered: float | None, run: Run) -> dict[str, Any]:
    return {"seen": seen, "noticed_seconds": noticed, "recovered_seconds": recovered, "counts": run.counts}


def camera_wants_a_password(_: DepthEstimator) -> dict[str, Any]:
    with RtspServer(auth="user:right") as camera:
        return _refused(camera.url("/cam", "user:wrong@"))


def camera_has_no_such_path(_: DepthEstimator) -> dict[str, Any]:
    with RtspServer() as camera:
        return _refused(camera.url("/elsewhere"))


def listener_is_silent(_: DepthEstimator) -> dict[str, Any]:
    with listener(send_nothing) as port:
        return _refused(f"rtsp://127.0.0.1:{port}/x")


def listener_sends_garbage(_: DepthEstimator) -> dict[str, Any]:
    with listener(send_garbage) as port:
        return _refused(f"rtsp://127.0.0.1:{port}/x")


def _refused(url: str) -> dict[str, Any]:
    source, started = LiveSource(url), time.monotonic()
    try:
        source.open()
    except SourceError as exc:
        noticed = time.monotonic() - started
        source.close()
        return {"seen": exc.message.removeprefix(f"{source.id}: "), "noticed_seconds": noticed}
    raise SystemExit(f"{source.id} opened")


def relay_killed(estimator: DepthEstimator) -> dict[str, Any]:
    return _published(estimator, RtspServer.kill, RtspServer.start)


def relay_stopped(estimator: DepthEstimator) -> dict[str, Any]:
    return _published(estimator, lambda relay: relay.signal(signal.SIGSTOP), lambda relay: relay.signal(signal.SIGCONT))


def _published(
    estimator: DepthEstimator, fault: Callable[[RtspServer], None], mend: Callable[[RtspServer], None]
) -> dict[str, Any]:
    with RtspServer() as camera, RtspServer() as relay:
        sink = RtspPublishSink(relay.url("/in"), control=LookControl(Look()))
        with Run(estimator, camera.url("/cam"), sink) as run:
            seconds_until(lambda: sink.state == "live")
            run.frames(_WARM_FRAMES)
            fault(relay)
            noticed = seconds_until(lambda: sink.last_error != "")
            seen = sink.last_error
            stay_down()
            mend(relay)
            recovered = seconds_until(lambda: sink.state == "live")
            slowest = run.frames(_WARM_FRAMES)
            seen = f"{seen}; the model continued at {_WARM_FRAMES / slowest:.0f} fps"
    return _result(seen, noticed, recovered, run)


def viewer_killed(estimator: DepthEstimator) -> dict[str, Any]:
    with _serving(estimator) as (run, sink, url), Player(url) as player:
        seconds_until(lambda: len(player.seen_at) > 5)
        player.signal(signal.SIGKILL)
        noticed = seconds_until(lambda: sink.viewers == 0)
    return _result("the viewer is removed", noticed, None, run)


def viewer_frozen(estimator: DepthEstimator) -> dict[str, Any]:
    # Noise in the source too: frames that compress well would fit into the system's buffers for minutes.
    noise = {"pattern": "snow", "size": "640x360"}
    with (
        _serving(estimator, View.SIDE, **noise) as (run, sink, url),
        Player(url) as player,
        Player(url) as other,
    ):
        seconds_until(lambda: min(len(player.seen_at), len(other.seen_at)) > 5)
        player.signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        noticed = seconds_until(lambda: "slow_viewer" in str(sink.status["skipped_by_viewers"]))
        stay_down()
        continued_at = time.monotonic()
        player.signal(signal.SIGCONT)
        recovered = seconds_until(lambda: player.seen_at[-1] > continued_at)
        times = [at for at in other.seen_at if stopped_at < at < continued_at]
        gap_ms = max(after - before for before, after in pairwise(times)) * 1000
    seen = f"it skips to a key frame; the other viewer's longest gap was {gap_ms:.0f} ms"
    return _result(seen, noticed, recovered, run)


def viewer_late(estimator: DepthEstimator) -> dict[str, Any]:
    with _serving(estimator) as (run, _, url):
        waits = []
        for _attempt in range(5):
            started = time.monotonic()
            next(frames(url))
            waits.append(time.monotonic() - started)
    return _result(f"first frame after {min(waits):.2f} to {max(waits):.2f} s, 5 attempts", None, sorted(waits)[2], run)


def fifty_viewers(estimator: DepthEstimator) -> dict[str, Any]:
    seen: list[int] = []

    def watch(url: str) -> None:
        count = 0
        for count, _ in enumerate(frames(url), 1):
            if count == _WARM_FRAMES:
                break
        seen.append(count)

    with _serving(estimator) as (run, sink, url):
        threads = [threading.Thread(target=watch, args=(url,)) for _ in range(50)]
        for thread in threads:
            thread.start()
        most = 0
        while any(thread.is_alive() for thread in threads):
            most = max(most, sink.viewers)
            threads[0].join(0.01)
    if sorted(seen) != [_WARM_FRAMES] * 50:
        raise SystemExit(f"some of 50 viewers received too few frames: {sorted(seen)}")
    return _result(f"all 50 received {_WARM_FRAMES} frames, {most} at once", None, None, run)


def page_closed(estimator: DepthEstimator) -> dict[str, Any]:
    from streamdepth.serve.site import WebSink

    with RtspServer() as camera:
        sink = WebSink("http://127.0.0.1:0", control=LookControl(Look()))
        with Run(estimator, camera.url("/cam"), sink) as run:

            def viewers() -> int:
                with urllib.request.urlopen(f"{sink.site.address}/v1/state", timeout=10) as answer:
                    return int(json.load(answer)["stats"]["viewers"]["mjpeg"])

            with urllib.request.urlopen(f"{sink.site.address}/v1/live.mjpg", timeout=10) as answer:
                answer.read(20_000)
                seconds_until(lambda: viewers() == 1)
            noticed = seconds_until(lambda: viewers() == 0)
            run.frames(_WARM_FRAMES)
    return _result("the viewer is removed, the run continues", noticed, None, run)


def port_in_use(estimator: DepthEstimator) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as taken, RtspServer() as camera:
        url = f"rtsp://127.0.0.1:{taken.getsockname()[1]}/depth"
        sink = RtspServerSink(url, control=LookControl(Look()))
        started = time.monotonic()
        try:
            with Pipeline([LiveSource(camera.url("/cam"))], estimator, [sink]) as pipeline:
                pipeline.run()
        except SinkError as exc:
            return {"seen": exc.message.removeprefix(f"{url}: "), "noticed_seconds": time.monotonic() - started}
    raise SystemExit(f"{url} was served twice")


@contextlib.contextmanager
def _serving(
    estimator: DepthEstimator, view: View = View.DEPTH, **camera: str
) -> Iterator[tuple[Run, RtspServerSink, str]]:
    """A run that serves viewers, its sink, and the address to play."""
    sink = RtspServerSink("rtsp://127.0.0.1:0/depth", control=LookControl(Look(view=view)))
    with RtspServer(**camera) as server, Run(estimator, server.url("/cam"), sink) as run:
        yield run, sink, f"rtsp://127.0.0.1:{sink.port}/depth"


FAULTS: dict[str, Callable[[DepthEstimator], dict[str, Any]]] = {
    "camera's server killed, started again": camera_killed,
    "camera's server stopped (SIGSTOP) beyond the timeout": camera_stopped,
    "camera comes back as 320x240 Motion JPEG": camera_changed,
    "camera answers 401": camera_wants_a_password,
    "camera answers 404": camera_has_no_such_path,
    "listener that sends nothing": listener_is_silent,
    "listener that sends random bytes": listener_sends_garbage,
    "publishing server killed, started again": relay_killed,
    "publishing server stopped (SIGSTOP)": relay_stopped,
    "viewer killed": viewer_killed,
    "viewer stopped (SIGSTOP) and continued": viewer_frozen,
    "viewer joins late": viewer_late,
    "50 viewers": fifty_viewers,
    "page closed during the stream": page_closed,
    "port in use": port_in_use,
}

if __name__ == "__main__":
    main()
